//! Batched sampling with a cache of keys and values. Knows tokens, no text.
//!
//! A completion is a function of its prompt, the policy, the sampling parameters and its own key of
//! randomness. It does not depend on what else is in the batch: attention and norms work token by
//! token, the matrix products keep one summation order, and random numbers are looked up by
//! (seed, prompt, sample, token) instead of being drawn in turn.

mod choose;

use std::collections::VecDeque;

use anyhow::Result;
use burn::tensor::Tensor;
use rayon::prelude::*;

pub use choose::Sampling;

use crate::{
    kernels::{self, Sequences},
    nn::decoder::{Attend, Cache, Decoder},
};

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
    /// By an end-of-sequence token.
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
    /// Log-probability of each token under the policy at the sampling temperature, before top-k and top-p.
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

/// A completion that is growing in a slot.
struct Growing {
    request: usize,
    sample: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

/// Samples every request; the result holds `samples` completions for each, in order. `None` when the watcher gave up.
///
/// # Errors
/// When a prompt with its completion does not fit the model's context.
pub fn generate(
    decoder: &Decoder,
    requests: &[Request],
    sampling: &Sampling,
    stop: &Stop,
    seed: &[u64],
    arrangement: Arrangement,
) -> Result<Option<Vec<Vec<Completion>>>> {
    for (i, request) in requests.iter().enumerate() {
        anyhow::ensure!(!request.prompt.is_empty(), "prompt {} is empty: there is nothing to continue", i + 1);
        decoder.config.check_length(
            request.prompt.len() + sampling.max_new_tokens,
            &format!("prompt {} with its completion", i + 1),
        )?;
    }
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
    let batch = Batch { decoder, requests, sampling, stop, seed, capacity: longest + sampling.max_new_tokens };
    let mut waiting: VecDeque<(usize, usize)> = requests
        .iter()
        .enumerate()
        .flat_map(|(i, request)| (0..request.samples).map(move |sample| (i, sample)))
        .collect();
    let mut finished: Vec<Vec<Option<Completion>>> =
        requests.iter().map(|request| vec![None; request.samples]).collect();
    let mut done = 0;
    let mut growing: Vec<Growing> = Vec::new();
    let mut cache: Option<Cache> = None;
    loop {
        let live = growing.iter().filter(|growing| growing.finish.is_none()).count();
        // Leaving and entering copies the cache, so it waits until a quarter of the slots would change.
        if live == 0 || (live * 4 < growing.len() * 3) || (!waiting.is_empty() && live * 4 < arrangement.slots * 3) {
            let kept: Vec<usize> = (0..growing.len()).filter(|slot| growing[*slot].finish.is_none()).collect();
            if let Some(cache) = &mut cache
                && kept.len() < growing.len()
                && !kept.is_empty()
            {
                cache.keep(&kept);
            }
            let (ended, rest): (Vec<_>, Vec<_>) = growing.into_iter().partition(|growing| growing.finish.is_some());
            growing = rest;
            if growing.is_empty() {
                cache = None;
            }
            for Growing { request, sample, tokens, logprobs, finish } in ended {
                let finish = finish.expect("partitioned by it");
                finished[request][sample] = Some(Completion { tokens, logprobs, finish });
                done += 1;
            }
            let admitted: Vec<_> =
                waiting.drain(..waiting.len().min(arrangement.slots.max(1) - growing.len())).collect();
            if !admitted.is_empty() {
                let (begun, fresh) = batch.prefill(&admitted);
                growing.extend(begun);
                match &mut cache {
                    Some(cache) => cache.append(fresh),
                    None => cache = Some(fresh),
                }
            }
            if !(arrangement.watch)(done) {
                return Ok(None);
            }
        }
        let Some(cache) = &mut cache else { break };
        if growing.iter().any(|growing| growing.finish.is_none()) {
            batch.step(&mut growing, cache);
        }
    }
    let complete = |completions: Vec<Option<Completion>>| {
        completions.into_iter().map(|one| one.expect("none is waiting or growing")).collect()
    };
    Ok(Some(finished.into_iter().map(complete).collect()))
}

struct Batch<'a> {
    decoder: &'a Decoder,
    requests: &'a [Request],
    sampling: &'a Sampling,
    stop: &'a Stop<'a>,
    seed: &'a [u64],
    capacity: usize,
}

impl Batch<'_> {
    /// Computes each prompt once and takes the first token of every sample that begins.
    fn prefill(&self, admitted: &[(usize, usize)]) -> (Vec<Growing>, Cache) {
        let mut prompts: Vec<usize> = admitted.iter().map(|(request, _)| *request).collect();
        prompts.dedup();
        let lengths: Vec<usize> = prompts.iter().map(|request| self.requests[*request].prompt.len()).collect();
        let tokens: Vec<u32> = prompts.iter().flat_map(|request| &self.requests[*request].prompt).copied().collect();
        let sequences = Sequences::of_lengths(&lengths);
        let mut kept = Vec::new();
        let hidden = self.decoder.hidden(&tokens, Attend::Within { sequences: &sequences, keep: Some(&mut kept) });
        let last = sequences.offsets[1..].iter().map(|end| end - 1).collect::<Vec<_>>().into();
        let logits = host(self.decoder.logits(kernels::rows(hidden, &last)));
        let owners: Vec<usize> = admitted
            .iter()
            .map(|(request, _)| prompts.binary_search(request).expect("prompts holds every admitted request, in order"))
            .collect();
        let mut growing: Vec<Growing> = admitted
            .iter()
            .map(|(request, sample)| Growing {
                request: *request,
                sample: *sample,
                tokens: Vec::with_capacity(self.sampling.max_new_tokens),
                logprobs: Vec::with_capacity(self.sampling.max_new_tokens),
                finish: None,
            })
            .collect();
        let width = logits.len() / prompts.len();
        growing.par_iter_mut().zip(&owners).for_each(|(growing, prompt)| {
            self.take(growing, &logits[prompt * width..(prompt + 1) * width]);
        });
        (growing, Cache::new(kept, &sequences, &owners, self.capacity))
    }

    /// One more token for everything that grows.
    fn step(&self, growing: &mut [Growing], cache: &mut Cache) {
        let newest: Vec<u32> =
            growing.iter().map(|growing| *growing.tokens.last().expect("prefill took one")).collect();
        let hidden = self.decoder.hidden(&newest, Attend::Cached(cache));
        for (slot, growing) in growing.iter().enumerate() {
            if growing.finish.is_some() {
                // It waits to be cleared away; its place is written over and over.
                cache.hold_back(slot);
            }
        }
        let logits = host(self.decoder.logits(hidden));
        let width = logits.len() / growing.len();
        growing.par_iter_mut().zip(logits.par_chunks(width)).for_each(|(growing, logits)| {
            if growing.finish.is_none() {
                self.take(growing, logits);
            }
        });
    }

    fn take(&self, growing: &mut Growing, logits: &[f32]) {
        let at = growing.tokens.len();
        let mut key = self.seed.to_vec();
        key.extend([self.requests[growing.request].key, growing.sample as u64, at as u64]);
        let (token, logprob) = self.sampling.choose(logits, &key);
        growing.tokens.push(token);
        growing.logprobs.push(logprob);
        growing.finish = if self.stop.ids.contains(&token) {
            Some(Finish::Eos)
        } else if self.stop.when.is_some_and(|stops| stops(&growing.tokens)) {
            Some(Finish::Stop)
        } else if at + 1 == self.sampling.max_new_tokens {
            Some(Finish::Length)
        } else {
            None
        };
    }
}

fn host(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().try_to_vec().expect("logits are f32")
}

#[cfg(test)]
mod tests;
