//! Batched sampling with a cache of keys and values. Knows tokens, no text.
//!
//! A completion is a function of its prompt, the policy, the sampling parameters and its own key of
//! randomness. It does not depend on what else is in the batch: attention and norms work token by
//! token, the matrix products keep one summation order, and random numbers are looked up by
//! (seed, prompt, sample, token) instead of being drawn in turn.
//!
//! [`generate`] samples many prompts to their ends; [`Batcher`] below it goes step by step, for who wants tokens as
//! they come or has more to ask meanwhile.

mod batcher;
mod choose;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rayon::prelude::*;

pub use batcher::{Batcher, Id, Job, Said};
pub(crate) use batcher::{LOGITS, PROMPT_TOKENS};
pub use choose::{Logprobs, Sampler, Sampling};

use crate::nn::decoder::Decoder;

/// A prompt and how often to continue it.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Completions wanted: the group of GRPO.
    pub samples: usize,
    /// Names the prompt in the key of randomness.
    pub key: u64,
}

/// Does a completion end here? Asked after every token, with the completion so far.
pub type StopRule<'a> = dyn Fn(&[u32]) -> bool + Sync + 'a;

/// What ends a completion, beside its length.
pub struct Stop<'a> {
    /// Any of these ends it; the token stays part of the completion.
    pub ids: &'a [u32],
    pub when: Option<&'a StopRule<'a>>,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// By an end-of-sequence token, or another that was named.
    Eos,
    /// By the caller's own rule.
    Stop,
    /// At `max_new_tokens`: it was cut off.
    Length,
}

/// One continuation of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub tokens: Vec<u32>,
    /// Log-probability of each token under the policy at the sampling temperature, before anything else reshapes it.
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}

/// How the work is arranged; the completions do not depend on it.
pub struct Arrangement<'a> {
    /// Completions that grow at once.
    pub slots: usize,
    /// Told after every step how many completions are finished; returns false to give up.
    pub watch: &'a mut dyn FnMut(usize) -> bool,
}

/// Samples every request; the result holds `samples` completions for each, in order. `None` when the watcher gave up.
///
/// # Errors
/// When a prompt with its completion does not fit the model's context; as [`Batcher::admit`] and [`Batcher::step`].
pub fn generate(
    decoder: &Decoder,
    requests: &[Request],
    sampling: &Sampling,
    stop: &Stop,
    seed: &[u64],
    arrangement: Arrangement,
) -> Result<Option<Vec<Vec<Completion>>>> {
    let mut batcher = Batcher::new(decoder, arrangement.slots);
    let sampler = Sampler::new(sampling.clone(), decoder.config.vocab_size)?;
    let mut completions: Vec<Vec<Completion>> = Vec::new();
    let mut requested: BTreeMap<Id, usize> = BTreeMap::new();
    for (i, Request { prompt, samples, key }) in requests.iter().enumerate() {
        let blank = Completion { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
        completions.push(vec![blank; *samples]);
        anyhow::ensure!(!prompt.is_empty(), "prompt {} is empty: there is nothing to continue", i + 1);
        let what = format!("prompt {} with its completion", i + 1);
        decoder.config.check_length(prompt.len() + sampling.max_new_tokens, &what)?;
        if *samples > 0 {
            let job = Job {
                prompt: prompt.clone(),
                samples: *samples,
                sampler: sampler.clone(),
                max_new_tokens: sampling.max_new_tokens,
                stop_ids: stop.ids.to_vec(),
                key: [seed, &[*key]].concat(),
                logprobs: Some(0),
            };
            let id = batcher.admit(job).with_context(|| format!("prompt {}", i + 1))?;
            requested.insert(id, i);
        }
    }
    let mut done = 0;
    while !batcher.is_idle() {
        let said = batcher.step()?;
        for Said { id, sample, token, logprobs, finish } in &said {
            let completion = &mut completions[requested[id]][*sample];
            completion.tokens.push(*token);
            completion.logprobs.push(logprobs.as_ref().expect("they were asked for").token);
            if let Some(finish) = finish {
                completion.finish = *finish;
                done += 1;
            }
        }
        if let Some(stops) = stop.when {
            let is_stopped = |said: &Said| {
                said.finish != Some(Finish::Eos) && stops(&completions[requested[&said.id]][said.sample].tokens)
            };
            let stopped: Vec<&Said> = said.par_iter().filter(|said| is_stopped(said)).collect();
            for Said { id, sample, finish, .. } in stopped {
                completions[requested[id]][*sample].finish = Finish::Stop;
                if finish.is_none() {
                    batcher.end(*id, *sample);
                    done += 1;
                }
            }
        }
        if !(arrangement.watch)(done) {
            return Ok(None);
        }
    }
    Ok(Some(completions))
}

#[cfg(test)]
mod tests;
