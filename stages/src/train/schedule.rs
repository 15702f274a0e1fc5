//! The learning rate of every step.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// How the learning rate falls after warming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    Constant,
    Linear,
    #[default]
    Cosine,
}

/// How long the learning rate rises. In YAML one number, as in transformers: steps, or below one a share of all steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    Steps(u64),
    /// Of all steps, rounded up.
    Share(f64),
}

impl Default for Warmup {
    fn default() -> Self {
        Self::Steps(0)
    }
}

impl Warmup {
    /// Of a training of so many steps.
    #[must_use]
    pub fn of(self, steps: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (share * steps as f64).ceil() as u64,
        }
    }
}

impl Serialize for Warmup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => serializer.serialize_u64(*steps),
            Self::Share(share) => serializer.serialize_f64(*share),
        }
    }
}

impl<'de> Deserialize<'de> for Warmup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Warmup;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a number of steps, or below one a share of all steps")
            }

            fn visit_u64<E: Error>(self, steps: u64) -> Result<Warmup, E> {
                Ok(Warmup::Steps(steps))
            }

            fn visit_i64<E: Error>(self, steps: i64) -> Result<Warmup, E> {
                u64::try_from(steps).map(Warmup::Steps).map_err(|_| E::custom(format!("a warm-up of {steps} steps")))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Warmup, E> {
                if number > 0.0 && number < 1.0 {
                    return Ok(Warmup::Share(number));
                }
                if number >= 0.0 && number.fract() == 0.0 {
                    return Ok(Warmup::Steps(number as u64));
                }
                Err(E::custom(format!("a warm-up of {number} is neither whole steps nor a share below one")))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl JsonSchema for Warmup {
    fn schema_name() -> Cow<'static, str> {
        "Warmup".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }
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
    use serde_json::json;

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

    /// Against `tests/reference/optimisers.py`.
    #[test]
    fn a_warm_up_is_as_long_as_in_transformers() {
        for case in json_of(&fixture("training/optimisers.json"))["warmups"].as_array().unwrap() {
            let warmup: Warmup = serde_json::from_value(case["warmup"].clone()).unwrap();
            let steps = case["steps"].as_u64().unwrap();
            assert_eq!(warmup.of(steps), case["taken"].as_u64().unwrap(), "{case}");
            assert_eq!(serde_json::to_value(warmup).unwrap(), case["warmup"], "facts keep what was written");
        }
    }

    #[test]
    fn a_warm_up_that_is_neither_steps_nor_a_share_is_refused() {
        let read = |value| serde_json::from_value::<Warmup>(value).map_err(|error| error.to_string());
        let refused = "a warm-up of 2.5 is neither whole steps nor a share below one";
        assert_eq!(read(json!(2.5)), Err(refused.to_owned()));
        assert_eq!(read(json!(-1)), Err("a warm-up of -1 steps".to_owned()));
        assert_eq!(read(json!(3.0)), Ok(Warmup::Steps(3)));
        assert_eq!(read(json!(0.0)), Ok(Warmup::Steps(0)));
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
