//! The learning rate of every step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate falls after warming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    Constant,
    Linear,
    #[default]
    Cosine,
}

/// A learning rate by step: linear warm-up to `peak`, then `decay` to `peak * floor`.
///
/// As transformers' `get_scheduler` one step later: no step is spent on a learning rate of zero.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub peak: f32,
    pub warmup: u64,
    pub steps: u64,
    pub decay: Decay,
    /// What is left of the peak at the end.
    pub floor: f32,
}

impl Schedule {
    /// For `step` counted from zero.
    #[must_use]
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.peak * (step + 1) as f32 / (self.warmup + 1) as f32;
        }
        let length = self.steps.saturating_sub(self.warmup).max(1);
        let done = ((step - self.warmup) as f32 / length as f32).min(1.0);
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f32::consts::PI * done).cos()),
        };
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Linear | Decay::Cosine => self.peak * (self.floor + (1.0 - self.floor) * left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{fixture, json_of};

    /// Against `tests/reference/optimisers.py`. Theirs begin a warm-up with a step at zero, which teaches nothing; ours
    /// is the same line one step later.
    #[test]
    fn learning_rates_are_those_of_transformers_without_the_step_at_zero() {
        for case in json_of(&fixture("training/optimisers.json"))["schedules"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            let schedule = Schedule {
                peak: number("peak") as f32,
                warmup: number("warmup") as u64,
                steps: number("steps") as u64,
                decay: serde_json::from_value(case["decay"].clone()).unwrap(),
                floor: number("floor") as f32,
            };
            for (step, theirs) in (0..).zip(case["rates"].as_array().unwrap()) {
                let (ours, theirs) = (schedule.at(step), theirs.as_f64().unwrap());
                assert!((f64::from(ours) - theirs).abs() <= 1e-6 * number("peak"), "{schedule:?} at {step}: {ours}");
            }
        }
    }

    #[test]
    fn warm_up_rises_and_cosine_falls_to_its_floor() {
        let schedule = Schedule { peak: 1.0, warmup: 3, steps: 103, decay: Decay::Cosine, floor: 0.1 };
        assert_eq!([schedule.at(0), schedule.at(1), schedule.at(2), schedule.at(3)], [0.25, 0.5, 0.75, 1.0]);
        assert!((schedule.at(53) - 0.55).abs() < 1e-6);
        assert!((schedule.at(103) - 0.1).abs() < 1e-6);
        assert!((schedule.at(1000) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn linear_is_half_way_in_the_middle() {
        let schedule = Schedule { peak: 2.0, warmup: 0, steps: 10, decay: Decay::Linear, floor: 0.0 };
        assert_eq!([schedule.at(0), schedule.at(5), schedule.at(10)], [2.0, 1.0, 0.0]);
    }
}
