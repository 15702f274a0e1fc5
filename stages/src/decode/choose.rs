//! From logits and a key of randomness to a token.
//! Knows nothing of models or batches.

use std::{borrow::Cow, collections::BTreeMap, ops::Deref, sync::Arc};

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random;

/// How tokens are drawn.
///
/// In the order of transformers: `logit_bias` and `repetition_penalty` change the logits, the temperature divides them,
/// then `top_k`, `top_p` and `min_p` keep the likeliest, whose probabilities are drawn from. Tokens that are as likely
/// as the last one kept are kept too.
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
    /// Keeps the tokens at least this likely, measured against the likeliest (arXiv 2407.01082); 0 keeps all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: f32,
    /// Divides the positive logits of tokens that the prompt or the completion holds already, and multiplies the
    /// negative ones (CTRL, arXiv 1909.05858); 1 changes nothing.
    #[schemars(range(min = 0.01, max = 100.0))]
    pub repetition_penalty: f32,
    /// Added to the logits of tokens, by token id.
    #[schemars(with = "BTreeMap<String, f32>")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Token ids that end a completion, beside the tokenizer's end-of-sequence tokens.
    pub stop_ids: Vec<u32>,
    /// Tokens after which a completion is cut off.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            stop_ids: Vec::new(),
            max_new_tokens: 64,
        }
    }
}

/// Sampling parameters that were checked against a vocabulary. A clone shares them, however many biases there are.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Arc<Sampling>,
    pub(super) vocabulary: usize,
}

impl Sampler {
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Self> {
        sampling.check(vocabulary)?;
        Ok(Self { sampling: Arc::new(sampling), vocabulary })
    }
}

impl Deref for Sampler {
    type Target = Sampling;

    fn deref(&self) -> &Sampling {
        &self.sampling
    }
}

/// What a policy gave a token that was drawn from it, and what it would rather have said.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Log-probability of the token under the policy at the temperature, before anything else reshapes it.
    pub token: f32,
    /// The likeliest tokens and their log-probabilities, in the same terms, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A token that was drawn.
pub(super) struct Choice {
    pub token: u32,
    pub logprobs: Option<Logprobs>,
}

/// A softmax before it is divided by its sum; the likeliest token weighs 1.
struct Weights {
    each: Vec<f32>,
    total: f32,
}

impl Weights {
    fn new(logits: &[f32], most: f32, temperature: f32) -> Self {
        let mut total = 0.0;
        let weigh = |logit: &f32| {
            let weight = ((logit - most) / temperature).exp();
            total += weight;
            weight
        };
        Self { each: logits.iter().map(weigh).collect(), total }
    }
}

impl Sampling {
    /// The temperature under which log-probabilities are told: greedy sampling tells those of the policy itself.
    #[must_use]
    pub fn scoring_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 1.0 } else { self.temperature }
    }

    /// # Errors
    /// When a parameter lies outside of its range, or names a token that a vocabulary of this size does not have.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = self;
        ensure!((0.0..=10.0).contains(temperature), "`temperature` is {temperature}, outside of 0 to 10");
        ensure!((0.0..=1.0).contains(top_p), "`top_p` is {top_p}, outside of 0 to 1");
        ensure!((0.0..=1.0).contains(min_p), "`min_p` is {min_p}, outside of 0 to 1");
        ensure!(
            (0.01..=100.0).contains(repetition_penalty),
            "`repetition_penalty` is {repetition_penalty}, outside of 0.01 to 100"
        );
        ensure!(self.max_new_tokens > 0, "`max_new_tokens` is 0: there is nothing to sample");
        for (id, bias) in &self.logit_bias {
            ensure!(bias.is_finite(), "`logit_bias` of token {id} is {bias}; -100 is as good as never");
            ensure!(
                (*id as usize) < vocabulary,
                "`logit_bias` names token {id}, but the vocabulary of the model ends at {vocabulary}"
            );
        }
        Ok(())
    }

    /// Draws a token behind `before`, the prompt with what was said.
    ///
    /// # Errors
    /// When the logits are not numbers.
    pub(super) fn choose(
        &self,
        logits: &[f32],
        before: &[u32],
        key: &[u64],
        logprobs: Option<usize>,
    ) -> Result<Choice> {
        let most = greatest(logits)?;
        let temperature = self.scoring_temperature();
        let scores = self.reshaped(logits, before);
        let is_reshaped = matches!(scores, Cow::Owned(_));
        let peak = if is_reshaped { greatest(&scores)? } else { most };
        // Greedy sampling weighs the vocabulary only to tell a log-probability.
        let weights = if self.temperature == 0.0 { None } else { Some(Weights::new(&scores, peak, temperature)) };
        let token = match &weights {
            None => scores.iter().position(|score| *score == peak).expect("the greatest is one of them"),
            Some(Weights { each, .. }) => self.draw(each, random::uniform(key)),
        };
        let logprobs = logprobs.map(|count| {
            let total = match weights {
                Some(Weights { total, .. }) if !is_reshaped => total,
                _ => Weights::new(logits, most, temperature).total,
            };
            let logprob = |token: usize| (logits[token] - most) / temperature - total.ln();
            let top = likeliest(logits, count).into_iter().map(|token| (token as u32, logprob(token))).collect();
            Logprobs { token: logprob(token), top }
        });
        Ok(Choice { token: u32::try_from(token).expect("vocabularies fit 32 bits"), logprobs })
    }

    /// The distribution that a token behind `before` is drawn from: `[vocab]`, zero where a filter drops it.
    ///
    /// # Errors
    /// When the logits are not numbers.
    pub fn probabilities(&self, logits: &[f32], before: &[u32]) -> Result<Vec<f64>> {
        let scores = self.reshaped(logits, before);
        let peak = greatest(&scores)?;
        if self.temperature == 0.0 {
            let token = scores.iter().position(|score| *score == peak);
            return Ok((0..scores.len()).map(|i| if Some(i) == token { 1.0 } else { 0.0 }).collect());
        }
        let Weights { each, .. } = Weights::new(&scores, peak, self.temperature);
        let mut probabilities = vec![0.0; each.len()];
        let total: f64 = self.kept(&each).map(|(_, weight)| weight).sum();
        for (token, weight) in self.kept(&each) {
            probabilities[token] = weight / total;
        }
        Ok(probabilities)
    }

    /// The logits with bias and penalty.
    fn reshaped<'a>(&self, logits: &'a [f32], before: &[u32]) -> Cow<'a, [f32]> {
        if self.logit_bias.is_empty() && self.repetition_penalty == 1.0 {
            return Cow::Borrowed(logits);
        }
        let mut scores = logits.to_vec();
        for (id, bias) in &self.logit_bias {
            scores[*id as usize] += bias;
        }
        if self.repetition_penalty != 1.0 {
            // Once a token, however often it was said.
            let mut said = before.to_vec();
            said.sort_unstable();
            said.dedup();
            for id in said {
                let score = &mut scores[id as usize];
                *score = if *score < 0.0 { *score * self.repetition_penalty } else { *score / self.repetition_penalty };
            }
        }
        Cow::Owned(scores)
    }

    /// The token at which the kept weights, added up in order of ids, pass a share `at` of their sum.
    fn draw(&self, weights: &[f32], at: f32) -> usize {
        let total: f64 = self.kept(weights).map(|(_, weight)| weight).sum();
        let mut passed = 0.0;
        let mut last = 0;
        for (token, weight) in self.kept(weights) {
            passed += weight;
            last = token;
            if passed > f64::from(at) * total {
                break;
            }
        }
        last
    }

    /// What survives the filters, in order of ids.
    fn kept(&self, weights: &[f32]) -> impl Iterator<Item = (usize, f64)> {
        // Of no weight at all is never drawn.
        let least = self.least_kept(weights).max(f32::from_bits(1));
        let each = weights.iter().enumerate();
        each.filter(move |(_, weight)| **weight >= least).map(|(token, weight)| (token, f64::from(*weight)))
    }

    /// The smallest weight that survives top-k, then top-p of what is left, then min-p.
    fn least_kept(&self, weights: &[f32]) -> f32 {
        // Less than this does not change a sum of one or more, such as that of all weights.
        const LOST: f32 = 1.0 / (1 << 24) as f32;
        let keeps_all = self.top_k == 0 || self.top_k >= weights.len();
        if keeps_all && self.top_p >= 1.0 {
            return self.min_p;
        }
        // Weights are not negative, so their bits are in their own order.
        let mut sorted: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
        let mut least = 0;
        if !keeps_all {
            let at = sorted.len() - self.top_k;
            least = *sorted.select_nth_unstable(at).1;
        }
        let lost = LOST.to_bits();
        sorted.retain(|weight| *weight >= least && *weight >= lost);
        sorted.sort_unstable();
        let total = sorted.iter().rev().fold(0.0, |total: f32, weight| total + f32::from_bits(*weight));
        let mut passed = 0.0;
        for weight in sorted.iter().rev() {
            let weight = f32::from_bits(*weight);
            passed += weight;
            if passed >= self.top_p * total {
                return weight.max(self.min_p);
            }
        }
        unreachable!("a sum reaches a share of itself")
    }
}

/// The greatest of all logits.
fn greatest(logits: &[f32]) -> Result<f32> {
    let mut most = [f32::NEG_INFINITY; 16];
    let mut is_odd = [false; 16];
    for chunk in logits.chunks(16) {
        for ((most, is_odd), logit) in most.iter_mut().zip(&mut is_odd).zip(chunk) {
            *most = most.max(*logit);
            *is_odd |= logit.is_nan();
        }
    }
    let most = most.iter().fold(f32::NEG_INFINITY, |most, one| most.max(*one));
    ensure!(
        most.is_finite() && !is_odd.contains(&true),
        "the logits of the model are not all numbers: its weights are damaged, or its training has diverged"
    );
    Ok(most)
}

/// The places of the greatest `count` logits, the greatest first; of equal ones the first. For a few: each is inserted.
fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    for (place, logit) in logits.iter().enumerate() {
        if best.len() < count || *logit > logits[best[count - 1]] {
            best.insert(best.partition_point(|other| logits[*other] >= *logit), place);
            best.truncate(count);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{fixture, json_of};

    #[test]
    fn every_distribution_is_that_of_transformers() {
        let reference = json_of(&fixture("sampling.json"));
        let before: Vec<u32> = serde_json::from_value(reference["before"].clone()).unwrap();
        let mut compared = 0;
        for row in reference["rows"].as_array().unwrap() {
            let logits: Vec<f32> = serde_json::from_value(row["logits"].clone()).unwrap();
            for case in row["cases"].as_array().unwrap() {
                let sampling: Sampling = serde_json::from_value(case["sampling"].clone()).unwrap();
                let expected: Vec<f64> = serde_json::from_value(case["probabilities"].clone()).unwrap();
                let found = sampling.probabilities(&logits, &before).unwrap();
                assert_eq!(found.len(), expected.len());
                for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let is_kept_alike = (*found > 0.0) == (*expected > 0.0) || found.max(*expected) < 1e-6;
                    assert!(
                        is_kept_alike && (found - expected).abs() < 1e-6,
                        "{}, {}: token {token} has {found} for {expected}",
                        row["name"],
                        case["sampling"]
                    );
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 4 * 48);
    }

    #[test]
    fn what_is_drawn_follows_what_is_told_of_the_distribution() {
        let sampling = Sampling {
            temperature: 0.8,
            top_k: 3,
            min_p: 0.2,
            repetition_penalty: 1.5,
            logit_bias: [(2, 1.0)].into(),
            ..Sampling::default()
        };
        let told = sampling.probabilities(&logits(), &[0, 0]).unwrap();
        let mut counts = [0.0; 4];
        for i in 0..20_000 {
            let choice = sampling.choose(&logits(), &[0, 0], &[7, i], None).unwrap();
            counts[choice.token as usize] += 1.0 / 20_000.0;
        }
        assert_near(counts, told.try_into().unwrap());
    }

    #[test]
    fn the_logprob_told_is_the_policys_own_whatever_reshapes_the_draw() {
        let plain = Sampling { temperature: 0.5, ..Sampling::default() };
        let reshaped = Sampling {
            top_k: 2,
            top_p: 0.9,
            min_p: 0.1,
            repetition_penalty: 3.0,
            logit_bias: [(3, 9.0)].into(),
            ..plain.clone()
        };
        let told = |sampling: &Sampling, i| sampling.choose(&logits(), &[0], &[i], Some(4)).unwrap();
        let top = told(&plain, 0).logprobs.unwrap().top;
        for i in 0..50 {
            let Choice { token, logprobs } = told(&reshaped, i);
            let logprobs = logprobs.unwrap();
            assert_eq!(logprobs.top, top);
            assert_eq!(top.iter().find(|(id, _)| *id == token).unwrap().1, logprobs.token);
        }
        // 25 : 9 : 2.25 : 0.25 of 36.5
        for ((_, logprob), share) in top.iter().zip([0.6849_f32, 0.2466, 0.0616, 0.0068]) {
            assert!((logprob.exp() - share).abs() < 1e-4);
        }
    }

    #[test]
    fn tokens_too_unlikely_for_a_sum_to_notice_change_no_filter() {
        let likely: Vec<f32> = (0..40).map(|i| -0.2 * i as f32).collect();
        let unlikely = (0..5000).map(|i| -17.5 - 1e-3 * i as f32);
        let all: Vec<f32> = likely.iter().copied().chain(unlikely).collect();
        for (top_k, top_p) in [(0, 0.5), (0, 0.99), (10, 0.9), (30, 1.0)] {
            let sampling = Sampling { top_k, top_p, ..Sampling::default() };
            let few = sampling.probabilities(&likely, &[]).unwrap();
            let many = sampling.probabilities(&all, &[]).unwrap();
            assert_eq!(few[..], many[..40]);
        }
    }

    /// Logits whose softmax is 0.5, 0.3, 0.15, 0.05.
    fn logits() -> Vec<f32> {
        [0.5_f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln() + 2.0).collect()
    }

    fn shares(sampling: &Sampling) -> [f64; 4] {
        let mut counts = [0.0; 4];
        for i in 0..20_000 {
            counts[sampling.choose(&logits(), &[], &[7, i], None).unwrap().token as usize] += 1.0 / 20_000.0;
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
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let Choice { token, logprobs } = sampling.choose(&logits(), &[], &[1], Some(2)).unwrap();
        let Logprobs { token: logprob, top } = logprobs.unwrap();
        assert_eq!(token, 0);
        assert!((logprob - 0.5_f32.ln()).abs() < 1e-6);
        assert_eq!(top[0], (0, logprob));
        assert_eq!(top[1].0, 1);
        assert!((top[1].1 - 0.3_f32.ln()).abs() < 1e-6);
    }
}
