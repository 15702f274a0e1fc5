//! From logits and a key of randomness to a token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token every time (greedy).
    #[schemars(range(min = 0.0, max = 10.0))]
    pub temperature: f32,
    /// Keeps only the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together reach this probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f32,
    /// Tokens after which a completion is cut off.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, max_new_tokens: 64 }
    }
}

impl Sampling {
    /// The temperature under which log-probabilities are told: greedy sampling tells those of the policy itself.
    #[must_use]
    pub fn scoring_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 1.0 } else { self.temperature }
    }

    /// Draws a token, and tells its log-probability at the temperature, before top-k and top-p.
    #[must_use]
    pub fn choose(&self, logits: &[f32], key: &[u64]) -> (u32, f32) {
        let temperature = self.scoring_temperature();
        let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
        let scaled: Vec<f32> = logits.iter().map(|logit| ((logit - most) / temperature).exp()).collect();
        let total: f32 = scaled.iter().sum();
        let token = if self.temperature == 0.0 {
            logits.iter().position(|logit| *logit == most).unwrap_or(0)
        } else {
            self.draw(&scaled, random::uniform(key))
        };
        (u32::try_from(token).expect("vocabularies fit 32 bits"), (logits[token] - most) / temperature - total.ln())
    }

    /// The token at which the kept weights, added up in order of ids, pass a share `at` of their sum.
    fn draw(&self, weights: &[f32], at: f32) -> usize {
        let least = self.least_kept(weights);
        let kept = |weight: &f32| if *weight >= least { f64::from(*weight) } else { 0.0 };
        let total: f64 = weights.iter().map(kept).sum();
        let mut passed = 0.0;
        let mut last = 0;
        for (token, weight) in weights.iter().enumerate() {
            let weight = kept(weight);
            if weight > 0.0 {
                passed += weight;
                last = token;
                if passed > f64::from(at) * total {
                    break;
                }
            }
        }
        last
    }

    /// The smallest weight that survives top-k, then top-p of what is left (the order of transformers).
    fn least_kept(&self, weights: &[f32]) -> f32 {
        if (self.top_k == 0 || self.top_k >= weights.len()) && self.top_p >= 1.0 {
            return 0.0;
        }
        let mut sorted = weights.to_vec();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        if self.top_k > 0 {
            sorted.truncate(self.top_k);
        }
        let total: f32 = sorted.iter().sum();
        let mut passed = 0.0;
        for weight in &sorted {
            passed += weight;
            if passed >= self.top_p * total {
                return *weight;
            }
        }
        sorted.last().copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose softmax is 0.5, 0.3, 0.15, 0.05.
    fn logits() -> Vec<f32> {
        [0.5_f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln() + 2.0).collect()
    }

    fn shares(sampling: &Sampling) -> [f64; 4] {
        let mut counts = [0.0; 4];
        for i in 0..20_000 {
            counts[sampling.choose(&logits(), &[7, i]).0 as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_near(shares: [f64; 4], expected: [f64; 4]) {
        // Four standard errors of a share of 20,000 draws.
        assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.0142), "{shares:?} is not {expected:?}");
    }

    #[test]
    fn draws_follow_the_distribution() {
        assert_near(shares(&Sampling::default()), [0.5, 0.3, 0.15, 0.05]);
    }

    #[test]
    fn temperature_one_half_squares_the_odds() {
        // 25 : 9 : 2.25 : 0.25 of 36.5
        let sampling = Sampling { temperature: 0.5, ..Sampling::default() };
        assert_near(shares(&sampling), [0.6849, 0.2466, 0.0616, 0.0068]);
    }

    #[test]
    fn top_k_and_top_p_renormalise_what_they_keep() {
        assert_near(shares(&Sampling { top_k: 2, ..Sampling::default() }), [0.625, 0.375, 0.0, 0.0]);
        assert_near(shares(&Sampling { top_p: 0.79, ..Sampling::default() }), [0.625, 0.375, 0.0, 0.0]);
        assert_near(shares(&Sampling { top_p: 0.3, ..Sampling::default() }), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn greedy_takes_the_likeliest_and_tells_its_logprob_under_the_policy() {
        let (token, logprob) = Sampling { temperature: 0.0, ..Sampling::default() }.choose(&logits(), &[1]);
        assert_eq!(token, 0);
        assert!((logprob - 0.5_f32.ln()).abs() < 1e-6);
    }
}
