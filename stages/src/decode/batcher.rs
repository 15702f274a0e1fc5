//! Continuous batching: jobs come and go while others grow, one token each a step.
//! Knows nothing of text, of streams, or of who asks.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use anyhow::{Result, bail, ensure};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Finish, Logprobs, Sampler, choose::Choice};
use crate::{
    kernels::{self, Seen, Sequences},
    nn::{
        cache::{Cache, Held},
        decoder::{Attend, Decoder, Onward},
    },
};

/// Tokens of new prompts that one step takes in at most (one prompt alone may be longer): those behind wait for the
/// next step, so that a crowd of newcomers costs bounded memory and holds up the others for a bounded time.
pub(crate) const PROMPT_TOKENS: usize = 4096;
/// Logits that are on the host at once at most: 64 MB, whatever the vocabulary and the number of sequences.
pub(crate) const LOGITS: usize = 1 << 24;

/// A prompt, how often to continue it, and how.
#[derive(Debug, Clone)]
pub struct Job {
    pub prompt: Vec<u32>,
    /// Completions wanted. The prompt is computed once for all of them.
    pub samples: usize,
    pub sampler: Sampler,
    /// Tokens after which a completion is cut off; those of `sampler` are for prompts of one length.
    pub max_new_tokens: usize,
    /// Any of these ends a completion, beside those of `sampler`; the token stays part of it.
    pub stop_ids: Vec<u32>,
    /// Names the job in the key of randomness: token `t` of sample `s` is drawn by `[key.., s, t]`.
    pub key: Vec<u64>,
    /// `Some(n)` tells the log-probability of every token and the `n` likeliest at its place. `None` tells none, which
    /// spares greedy sampling a pass over the vocabulary.
    pub logprobs: Option<usize>,
}

/// Names a job of one batcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// One token of one completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub id: Id,
    /// Which of the job's completions, counted from zero.
    pub sample: usize,
    pub token: u32,
    /// As the job asked.
    pub logprobs: Option<Logprobs>,
    /// `Some` where this token is the completion's last.
    pub finish: Option<Finish>,
}

/// Completions that grow together, and jobs that wait for a place.
///
/// A completion depends on its own job alone: neither on what grows beside it, nor on when it was admitted.
pub struct Batcher<'a> {
    decoder: &'a Decoder,
    slots: usize,
    cache: Cache,
    waiting: VecDeque<Waiting>,
    growing: Vec<Growing>,
    admitted: u64,
}

/// A job of which samples have yet to begin.
struct Waiting {
    id: Id,
    job: Arc<Job>,
    begun: usize,
    /// Once the prompt is computed.
    prompt: Option<Prompt>,
}

/// A prompt's keys and values, and the logits behind its last token.
struct Prompt {
    held: Held,
    logits: Vec<f32>,
}

/// A completion in its slot.
struct Growing {
    id: Id,
    sample: usize,
    job: Arc<Job>,
    /// The prompt and what was said; keys and values of all but the last are held.
    ids: Vec<u32>,
    held: Held,
    is_finished: bool,
}

impl<'a> Batcher<'a> {
    /// `slots`: completions that grow at once, at least one.
    #[must_use]
    pub fn new(decoder: &'a Decoder, slots: usize) -> Self {
        let cache = Cache::new(&decoder.config, decoder.device(), decoder.precision());
        Self { decoder, slots: slots.max(1), cache, waiting: VecDeque::new(), growing: Vec::new(), admitted: 0 }
    }

    /// Lets a job wait for its turn, first come first served.
    ///
    /// # Errors
    /// When there is nothing to continue, when the prompt with its completion does not fit the model's context, or
    /// when the sampling parameters were checked against another vocabulary.
    pub fn admit(&mut self, job: Job) -> Result<Id> {
        ensure!(!job.prompt.is_empty(), "the prompt is empty: there is nothing to continue");
        ensure!(job.samples > 0, "no completion is asked for: `samples` is at least 1");
        let vocabulary = self.vocabulary();
        if let Some(beyond) = job.prompt.iter().find(|id| **id as usize >= vocabulary) {
            bail!("the prompt holds token {beyond}, but the vocabulary of the model ends at {vocabulary}");
        }
        ensure!(
            job.sampler.vocabulary == vocabulary,
            "the sampling parameters are for a vocabulary of {}, and the model's has {vocabulary}",
            job.sampler.vocabulary
        );
        ensure!(job.max_new_tokens > 0, "`max_new_tokens` is 0: there is nothing to sample");
        let length = job.prompt.len().saturating_add(job.max_new_tokens);
        self.decoder.config.check_length(length, "the prompt with its completion")?;
        self.admitted += 1;
        let id = Id(self.admitted);
        self.waiting.push_back(Waiting { id, job: Arc::new(job), begun: 0, prompt: None });
        Ok(id)
    }

    /// Ends a whole job: nothing more is said of it.
    pub fn cancel(&mut self, id: Id) {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id) {
            let waiting = self.waiting.remove(at).expect("it was found there");
            if let Some(prompt) = waiting.prompt {
                self.cache.release(prompt.held);
            }
        }
        self.leave(|growing| growing.id == id);
    }

    /// Ends one completion, where the caller sees a reason that no token tells.
    pub fn end(&mut self, id: Id, sample: usize) {
        self.leave(|growing| growing.id == id && growing.sample == sample);
    }

    /// Nothing grows and nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.growing.is_empty() && self.waiting.is_empty()
    }

    /// Completions that grow.
    #[must_use]
    pub fn growing(&self) -> usize {
        self.growing.len()
    }

    /// Completions that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.job.samples - waiting.begun).sum()
    }

    /// Fills the free slots and says one token of everything that grows: one forward pass.
    ///
    /// # Errors
    /// When the model's logits are not numbers; the batcher is then of no further use.
    pub fn step(&mut self) -> Result<Vec<Said>> {
        let (vocabulary, rows_at_once) = (self.vocabulary(), self.rows_at_once());
        let fresh = self.fresh();
        let mut said = Vec::new();
        if let Some(hidden) = self.forward(fresh.clone()) {
            let lengths: Vec<usize> =
                self.waiting.range(fresh.clone()).map(|waiting| waiting.job.prompt.len()).collect();
            let prompts = Sequences::of_lengths(&lengths);
            if !fresh.is_empty() {
                let last: Vec<usize> = prompts.offsets[1..].iter().map(|end| end - 1).collect();
                let logits = self.decoder.logits(kernels::rows(hidden.clone(), &last.into())).into_data();
                for (waiting, logits) in self.waiting.range_mut(fresh).zip(host(&logits).chunks(vocabulary)) {
                    waiting.prompt.as_mut().expect("forward computed it").logits = logits.to_vec();
                }
            }
            for (i, growing) in self.growing.chunks_mut(rows_at_once).enumerate() {
                let rows = hidden.clone().narrow(0, prompts.tokens() + i * rows_at_once, growing.len());
                let logits = self.decoder.logits(rows).into_data();
                let logits = host(&logits);
                said.extend(say(growing, |at| &logits[at * vocabulary..(at + 1) * vocabulary])?);
            }
        }
        self.begin(&mut said)?;
        self.leave(|growing| growing.is_finished);
        Ok(said)
    }

    /// Waiting jobs whose prompts the next step computes, because one of their samples finds a slot.
    fn fresh(&self) -> Range<usize> {
        let computed = self.waiting.iter().take_while(|waiting| waiting.prompt.is_some()).count();
        let mut free = self.slots - self.growing.len();
        let (mut tokens, mut end) = (0, computed);
        for (i, waiting) in self.waiting.iter().enumerate() {
            if free == 0 {
                break;
            }
            if i >= computed {
                tokens += waiting.job.prompt.len();
                if i > computed && (tokens > PROMPT_TOKENS || i - computed == self.rows_at_once()) {
                    break;
                }
                end = i + 1;
            }
            free -= free.min(waiting.job.samples - waiting.begun);
        }
        computed..end
    }

    /// Computes fresh prompts, whole, and the newest token of everything that grows: the last hidden states
    /// `[tokens, hidden]`, in this order. `None` where there is nothing to compute.
    fn forward(&mut self, fresh: Range<usize>) -> Option<Tensor<2>> {
        if fresh.is_empty() && self.growing.is_empty() {
            return None;
        }
        let (mut tokens, mut lengths, mut places, mut seen) = (Vec::new(), Vec::new(), Vec::new(), Seen::default());
        for waiting in self.waiting.range_mut(fresh) {
            let prompt = &waiting.job.prompt;
            let mut held = Held::default();
            self.cache.extend(&mut held, prompt.len(), &mut places);
            waiting.prompt = Some(Prompt { held, logits: Vec::new() });
            tokens.extend(prompt);
            lengths.push(prompt.len());
        }
        for growing in &mut self.growing {
            self.cache.extend(&mut growing.held, 1, &mut places);
            self.cache.see(&growing.held, &mut seen);
            tokens.push(*growing.ids.last().expect("a prompt is not empty"));
        }
        let prompts = Sequences::of_lengths(&lengths);
        let onward = Onward { cache: &mut self.cache, prompts, places: places.into(), seen: seen.into() };
        Some(self.decoder.hidden(&tokens, Attend::Onward(onward)))
    }

    /// Gives free slots to samples whose prompt is computed, and says their first tokens.
    fn begin(&mut self, said: &mut Vec<Said>) -> Result<()> {
        while self.growing.len() < self.slots
            && let Some(waiting) = self.waiting.front_mut()
            && let Some(prompt) = &mut waiting.prompt
        {
            let first = waiting.begun;
            let count = (self.slots - self.growing.len()).min(waiting.job.samples - first);
            waiting.begun += count;
            let is_last = waiting.begun == waiting.job.samples;
            // The last of all takes over what was kept for the others.
            let mut held = self.cache.fork(&prompt.held, count - usize::from(is_last));
            if is_last {
                held.push(std::mem::take(&mut prompt.held));
            }
            let newcomers = held.into_iter().zip(first..).map(|(held, sample)| Growing {
                id: waiting.id,
                sample,
                job: waiting.job.clone(),
                ids: waiting.job.prompt.clone(),
                held,
                is_finished: false,
            });
            let at = self.growing.len();
            self.growing.extend(newcomers);
            said.extend(say(&mut self.growing[at..], |_| &prompt.logits)?);
            if is_last {
                self.waiting.pop_front();
            }
        }
        Ok(())
    }

    fn leave(&mut self, is_leaving: impl Fn(&Growing) -> bool) {
        for growing in self.growing.extract_if(.., |growing| is_leaving(growing)) {
            self.cache.release(growing.held);
        }
    }

    fn vocabulary(&self) -> usize {
        self.decoder.config.vocab_size
    }

    /// Rows of logits that are on the host at once.
    fn rows_at_once(&self) -> usize {
        (LOGITS / self.vocabulary()).max(1)
    }
}

/// Says one token of each, from the logits of each.
fn say<'l>(growing: &mut [Growing], logits: impl Fn(usize) -> &'l [f32] + Sync) -> Result<Vec<Said>> {
    growing.par_iter_mut().enumerate().map(|(at, growing)| growing.say(logits(at))).collect()
}

impl Growing {
    fn say(&mut self, logits: &[f32]) -> Result<Said> {
        let Job { prompt, sampler, max_new_tokens, stop_ids, key, logprobs, .. } = &*self.job;
        let at = self.ids.len() - prompt.len();
        let key = [key.as_slice(), &[self.sample as u64, at as u64]].concat();
        let Choice { token, logprobs } = sampler.choose(logits, &self.ids, &key, *logprobs)?;
        self.ids.push(token);
        let finish = if stop_ids.contains(&token) || sampler.stop_ids.contains(&token) {
            Some(Finish::Eos)
        } else if at + 1 == *max_new_tokens {
            Some(Finish::Length)
        } else {
            None
        };
        self.is_finished = finish.is_some();
        Ok(Said { id: self.id, sample: self.sample, token, logprobs, finish })
    }
}

/// Read where they are: with a large vocabulary a copy takes as long as a layer.
fn host(logits: &TensorData) -> &[f32] {
    logits.as_slice().expect("logits are f32")
}
