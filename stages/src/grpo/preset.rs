//! The values that the DeepSeek-R1 paper gives, by the name of the stage that it gives them for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Grpo, Settings};
use crate::{decode::Sampling, rl::objective::Coefficients};

/// Whose values hold where a parameter is not given (arXiv 2501.12948v2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// R1-Zero, section 2.1: 10,400 steps at temperature 1 (its clip is not stated; that of `r1` is taken).
    R1Zero,
    /// The first reasoning RL of R1, section 2.3: clip 10, temperature 1 (its steps are not stated; R1-Zero's are taken).
    #[default]
    R1,
    /// The last RL of R1, over all scenarios: temperature 0.7, 1,700 steps.
    R1Final,
}

impl Grpo {
    /// Puts the preset's values where none was given.
    pub(super) fn fill(&mut self) {
        let (steps, temperature) = match self.preset {
            Preset::R1Zero | Preset::R1 => (10_400, 1.0),
            Preset::R1Final => (1_700, 0.7),
        };
        self.steps.get_or_insert(steps);
        self.temperature.get_or_insert(temperature);
        // "each training step consists of 32 unique questions [..] 16 outputs", "8,192 outputs [..] 16 mini-batches".
        self.prompts_per_step.get_or_insert(32);
        self.group_size.get_or_insert(16);
        self.steps_per_rollout.get_or_insert(16);
        self.learning_rate.get_or_insert(3e-6);
        self.kl_coef.get_or_insert(0.001);
        self.reference_refresh.get_or_insert(400);
        self.clip_low.get_or_insert(10.0);
        self.clip_high.get_or_insert(10.0);
        self.max_new_tokens.get_or_insert(32_768);
    }

    pub(super) fn in_force(&self) -> Settings {
        let mut filled = self.clone();
        filled.fill();
        let given = "fill leaves nothing open";
        Settings {
            steps: filled.steps.expect(given),
            prompts_per_step: filled.prompts_per_step.expect(given),
            group_size: filled.group_size.expect(given),
            steps_per_rollout: filled.steps_per_rollout.expect(given),
            learning_rate: filled.learning_rate.expect(given),
            reference_refresh: filled.reference_refresh.expect(given),
            coefficients: Coefficients {
                clip_low: filled.clip_low.expect(given),
                clip_high: filled.clip_high.expect(given),
                kl_coef: filled.kl_coef.expect(given),
            },
            sampling: Sampling {
                temperature: filled.temperature.expect(given),
                max_new_tokens: filled.max_new_tokens.expect(given),
                // No top-k, no top-p: the ratio is between the policies' own probabilities.
                ..Sampling::default()
            },
        }
    }
}
