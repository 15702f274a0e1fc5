//! The clipped objective of GRPO with its KL term, token by token, and how tokens are averaged.

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the tokens of a minibatch are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Every completion counts the same, its tokens share it: `1/G sum_i 1/|o_i| sum_t` (DeepSeekMath, eq. 3).
    #[default]
    Grpo,
    /// Every token counts the same: `1/sum_i |o_i| sum_i sum_t` (DAPO, arXiv 2503.14476, eq. 8).
    Dapo,
    /// Every token counts one over the longest length allowed: no length bias (Dr. GRPO, arXiv 2503.20783).
    DrGrpo,
}

impl Objective {
    /// The weight of every token of each completion of a minibatch, known before any gradient is:
    /// the sum over micro-batches is the same however they are cut.
    #[must_use]
    pub fn token_weights(self, lengths: &[usize], max_new_tokens: usize) -> Vec<f32> {
        let count = lengths.len() as f32;
        let total: usize = lengths.iter().sum();
        let weight = |length: usize| match self {
            Self::Grpo => 1.0 / (count * length as f32),
            Self::Dapo => 1.0 / total as f32,
            Self::DrGrpo => 1.0 / (count * max_new_tokens as f32),
        };
        lengths.iter().map(|length| weight(*length)).collect()
    }
}

/// Bounds of the importance ratio and the weight of the KL term.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    /// The ratio counts from `1 - clip_low`.
    pub clip_low: f32,
    /// The ratio counts up to `1 + clip_high`.
    pub clip_high: f32,
    /// Weight of the KL term (paper: beta).
    pub kl_coef: f32,
}

/// What each token of a minibatch brings along, all `[tokens]`.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// Log-probabilities under the old policy: those the sampler returned.
    pub old: Vec<f32>,
    /// Under the reference policy; empty where `kl_coef` is zero.
    pub reference: Vec<f32>,
    pub advantages: Vec<f32>,
    /// See [`Objective::token_weights`].
    pub weights: Vec<f32>,
}

/// The loss and what a watcher wants to know of it, all sums over the tokens.
pub struct Evaluated {
    /// `[1]`, differentiable: the weighted sum of the tokens' losses.
    pub loss: Tensor<1>,
    /// The log-probabilities themselves, `[tokens]`.
    pub logprobs: Vec<f32>,
    /// Sum of the k3 estimates.
    pub kl: f64,
    /// Tokens whose gradient the clip took away.
    pub clipped: usize,
}

/// `-sum_t w_t (min(r_t A_t, clip(r_t) A_t) - beta KL_t)` with `r_t = exp(logprob - old)` and
/// `KL_t = exp(d) - d - 1`, `d = reference - logprob` (k3; DeepSeek-R1, eq. 1 and 2).
///
/// `logprobs` `[tokens]` under the policy, tracked.
#[must_use]
pub fn evaluate(logprobs: Tensor<1>, tokens: &Tokens, coefficients: Coefficients) -> Evaluated {
    let device = logprobs.device();
    let constant =
        |values: &[f32]| -> Tensor<1> { Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device) };
    let Coefficients { clip_low, clip_high, kl_coef } = coefficients;

    let now: Vec<f32> =
        logprobs.clone().without_autodiff().into_data().try_to_vec().expect("log-probabilities are f32");
    let clipped = (0..now.len())
        .filter(|t| {
            let (ratio, advantage) = ((now[*t] - tokens.old[*t]).exp(), tokens.advantages[*t]);
            (advantage > 0.0 && ratio > 1.0 + clip_high) || (advantage < 0.0 && ratio < 1.0 - clip_low)
        })
        .count();

    let ratio = (logprobs.clone() - constant(&tokens.old)).exp();
    let advantages = constant(&tokens.advantages);
    let surrogate =
        (ratio.clone() * advantages.clone()).min_pair(ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages);
    let mut per_token = surrogate;
    let mut kl = 0.0;
    if kl_coef > 0.0 {
        kl = now.iter().zip(&tokens.reference).map(|(now, reference)| k3(*now, *reference)).sum();
        let difference = constant(&tokens.reference) - logprobs;
        per_token = per_token - (difference.clone().exp() - difference - 1.0) * kl_coef;
    }
    let loss = (per_token * constant(&tokens.weights)).sum() * -1.0;
    Evaluated { loss, logprobs: now, kl, clipped }
}

/// Schulman's k3 estimate of KL(policy || reference) from one token.
fn k3(logprob: f32, reference: f32) -> f64 {
    let difference = f64::from(reference) - f64::from(logprob);
    difference.exp() - difference - 1.0
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Loss and gradient for tokens given by (logprob, old, reference, advantage), each of weight one.
    fn evaluated(rows: &[[f32; 4]], coefficients: Coefficients) -> (f32, Vec<f32>, f64, usize) {
        let column = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<_>>();
        let logprobs =
            Tensor::<1>::from_data(TensorData::new(column(0), [rows.len()]), &Device::flex()).autodiff().require_grad();
        let tokens =
            Tokens { old: column(1), reference: column(2), advantages: column(3), weights: vec![1.0; rows.len()] };
        let result = evaluate(logprobs.clone(), &tokens, coefficients);
        let gradients = result.loss.backward();
        let gradient = logprobs.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        (result.loss.into_scalar::<f32>(), gradient, result.kl, result.clipped)
    }

    fn assert_close(left: &[f32], right: &[f32]) {
        assert!(left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-5), "{left:?} is not {right:?}");
    }

    const PLAIN: Coefficients = Coefficients { clip_low: 0.2, clip_high: 0.2, kl_coef: 0.0 };

    #[test]
    fn on_policy_the_gradient_is_minus_the_advantage() {
        let (loss, gradient, _, clipped) = evaluated(&[[-1.0, -1.0, 0.0, 2.0], [-0.5, -0.5, 0.0, -3.0]], PLAIN);
        assert_close(&[loss], &[1.0]);
        assert_close(&gradient, &[-2.0, 3.0]);
        assert_eq!(clipped, 0);
    }

    #[test]
    fn the_clip_stops_the_side_that_went_far_enough_and_only_that() {
        let far = 2.0_f32.ln();
        let rows = [[far, 0.0, 0.0, 1.0], [-far, 0.0, 0.0, 1.0], [far, 0.0, 0.0, -1.0], [-far, 0.0, 0.0, -1.0]];
        let (loss, gradient, _, clipped) = evaluated(&rows, PLAIN);
        // min(2, 1.2) + min(0.5, 0.8) + min(-2, -1.2) + min(-0.5, -0.8)
        assert_close(&[loss], &[-(1.2 + 0.5 - 2.0 - 0.8)]);
        assert_close(&gradient, &[0.0, -0.5, 2.0, 0.0]);
        assert_eq!(clipped, 2);
    }

    #[test]
    fn the_kl_term_pulls_towards_the_reference() {
        // d = ln 2 - 0: exp(d) - d - 1 = 1 - ln 2, and its slope in the log-probability is 1 - exp(d) = -1.
        let rows = [[0.0, 0.0, 2.0_f32.ln(), 0.0]];
        let (loss, gradient, kl, _) = evaluated(&rows, Coefficients { kl_coef: 0.1, ..PLAIN });
        assert_close(&[loss], &[0.1 * (1.0 - 2.0_f32.ln())]);
        assert_close(&gradient, &[-0.1]);
        assert!((kl - (1.0 - std::f64::consts::LN_2)).abs() < 1e-6);
    }

    #[test]
    fn token_weights_are_those_of_the_papers() {
        assert_eq!(Objective::Grpo.token_weights(&[1, 4], 8), [0.5, 0.125]);
        assert_eq!(Objective::Dapo.token_weights(&[1, 4], 8), [0.2, 0.2]);
        assert_eq!(Objective::DrGrpo.token_weights(&[1, 4], 8), [0.0625, 0.0625]);
    }
}
