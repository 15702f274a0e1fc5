//! From the rewards of a group to the advantages of its rollouts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a reward is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// `(R - mean) / std` of the group (DeepSeekMath, arXiv 2402.03300, section 4.1.2; DeepSeek-R1, eq. 3).
    #[default]
    Standardised,
    /// `R - mean` of the group (Dr. GRPO, arXiv 2503.20783).
    Centred,
}

/// Added to the deviation, so that a group of almost equal rewards does not explode (as in TRL).
const EPSILON: f32 = 1e-4;

impl Advantage {
    /// The advantage of each rollout of one group. A group of equal rewards teaches nothing: all zero.
    #[must_use]
    pub fn of_group(self, rewards: &[f32]) -> Vec<f32> {
        if is_dead(rewards) {
            return vec![0.0; rewards.len()];
        }
        let count = rewards.len() as f32;
        let mean = rewards.iter().sum::<f32>() / count;
        let centred = rewards.iter().map(|reward| reward - mean);
        match self {
            Self::Centred => centred.collect(),
            Self::Standardised => {
                // Bessel's correction, as torch.std has it and TRL uses it.
                let variance = centred.clone().map(|x| x * x).sum::<f32>() / (count - 1.0);
                centred.map(|x| x / (variance.sqrt() + EPSILON)).collect()
            }
        }
    }
}

/// Does the group hold no signal, because all its rewards are equal?
#[must_use]
pub fn is_dead(rewards: &[f32]) -> bool {
    rewards.iter().all(|reward| (reward - rewards[0]).abs() < 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(left: &[f32], right: &[f32]) {
        assert!(left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-5), "{left:?} is not {right:?}");
    }

    #[test]
    fn one_success_in_four_is_worth_what_paper_and_pencil_give() {
        // mean 1/4, squares (9 + 1 + 1 + 1) / 16 = 3/4, variance 1/4, deviation 1/2 (+ 1e-4)
        let of = |x: f32| x / 0.5001;
        assert_close(
            &Advantage::Standardised.of_group(&[1.0, 0.0, 0.0, 0.0]),
            &[of(0.75), of(-0.25), of(-0.25), of(-0.25)],
        );
        assert_close(&Advantage::Centred.of_group(&[1.0, 0.0, 0.0, 0.0]), &[0.75, -0.25, -0.25, -0.25]);
    }

    #[test]
    fn equal_rewards_teach_nothing() {
        assert_eq!(Advantage::Standardised.of_group(&[0.3; 5]), [0.0; 5]);
        assert!(is_dead(&[0.3; 5]));
        assert!(!is_dead(&[0.3, 0.3, 0.4]));
    }
}
