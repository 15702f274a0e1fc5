//! From rows with prompts to completions with text: what every stage that samples shares.
//! Knows nothing of rewards.

use std::path::Path;

use anyhow::{Context as _, Result};
use engine::{Cancelled, Context};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, rows::Row},
    decode::{self, Arrangement, Completion, Finish, Request, Sampling, Stop},
    device::Compute,
    nn::decoder::Decoder,
    text::{
        chat::Chat,
        encode,
        room::{self, LongPrompts},
        tokenizer::Tokenizer,
    },
};

/// A completion as it was sampled, and as it reads.
#[derive(Debug, Clone)]
pub struct Completed {
    pub tokens: Vec<u32>,
    /// Log-probability of each token at the sampling temperature.
    pub logprobs: Vec<f32>,
    /// Decoded without the end-of-sequence token.
    pub text: String,
    pub finish: Finish,
}

impl Completed {
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.finish == Finish::Length
    }
}

/// A policy on its device: read, not trained.
pub struct Policy {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

impl Policy {
    /// # Errors
    /// As [`Checkpoint::open`]; when this binary has no such device.
    pub fn open(folder: &Path, compute: &Compute) -> Result<Self> {
        let mut checkpoint = Checkpoint::open(folder)?;
        Ok(Self { decoder: checkpoint.settle_on(&compute.place()?)?, tokenizer: checkpoint.tokenizer })
    }

    /// The policy that writes conversations so.
    ///
    /// # Errors
    /// As [`Chat::apply`].
    pub fn writing(self, chat: &Chat, ctx: &Context) -> Result<Self> {
        Ok(Self { tokenizer: chat.apply(self.tokenizer, ctx)?, ..self })
    }

    #[must_use]
    pub fn speaker<'a>(&'a self, sampling: &'a Sampling, stop: &'a [String], compute: &Compute) -> Speaker<'a> {
        Speaker { decoder: &self.decoder, tokenizer: &self.tokenizer, sampling, stop, slots: compute.slots }
    }
}

/// A policy that is asked in one way.
#[derive(Clone, Copy)]
pub struct Speaker<'a> {
    pub decoder: &'a Decoder,
    pub tokenizer: &'a Tokenizer,
    pub sampling: &'a Sampling,
    /// A completion ends where its text comes to hold one of these.
    pub stop: &'a [String],
    /// Completions that grow at once.
    pub slots: usize,
}

impl Speaker<'_> {
    /// Continues every encoded prompt `samples` times. `keys` name the prompts in the key of randomness,
    /// `said` is what progress shows before the count.
    ///
    /// # Errors
    /// [`Cancelled`]; a prompt too long for the context; bytes that do not decode.
    pub fn complete(
        &self,
        prompts: &[(u64, &[u32])],
        samples: usize,
        seed: &[u64],
        mut watch: impl FnMut(usize) -> bool,
    ) -> Result<Vec<Vec<Completed>>> {
        let requests: Vec<Request> =
            prompts.iter().map(|(key, prompt)| Request { prompt: prompt.to_vec(), samples, key: *key }).collect();
        let stops = |tokens: &[u32]| {
            let text = self.tokenizer.decode(self.newest(tokens)).unwrap_or_default();
            self.stop.iter().any(|stop| text.contains(stop.as_str()))
        };
        let stop = Stop { ids: self.tokenizer.eos_ids(), when: if self.stop.is_empty() { None } else { Some(&stops) } };
        let arrangement = Arrangement { slots: self.slots, watch: &mut watch };
        let groups = decode::generate(self.decoder, &requests, self.sampling, &stop, seed, arrangement)?;
        let groups = groups.ok_or(Cancelled)?;
        requests
            .iter()
            .zip(groups)
            .map(|(request, group)| {
                group.into_iter().map(|completion| self.read(&request.prompt, completion)).collect()
            })
            .collect()
    }

    /// The tokens in whose text a stop can end with the last one: to decode all of them for every one would take time
    /// by the square of their number.
    fn newest<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        // A token is a byte at least; the first ones may read otherwise than behind others.
        const MARGIN: usize = 8;
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut start = tokens.len().saturating_sub(longest + MARGIN);
        // A run of tokens that are bytes is one text or none.
        while start > 0 && self.tokenizer.is_byte(tokens[start]) {
            start -= 1;
        }
        &tokens[start..]
    }

    fn read(&self, prompt: &[u32], completion: Completion) -> Result<Completed> {
        let Completion { tokens, logprobs, finish } = completion;
        let said = if finish == Finish::Eos { &tokens[..tokens.len() - 1] } else { &tokens[..] };
        let text = self.tokenizer.decode_after(prompt, said).context("decoding a completion")?;
        Ok(Completed { tokens, logprobs, text, finish })
    }
}

/// Rows to continue, with their prompts encoded: all of them leave room for a completion.
pub struct Prompts {
    pub rows: Vec<Row>,
    encoded: Vec<Vec<u32>>,
    /// How many rows were left out because they leave none.
    pub dropped: usize,
}

impl Speaker<'_> {
    /// Encodes the prompts of rows.
    ///
    /// # Errors
    /// Names the row whose prompt cannot be encoded; as [`LongPrompts::fitting`].
    pub fn prompts(&self, mut rows: Vec<Row>, too_long: LongPrompts) -> Result<Prompts> {
        let mut encoded = encode::prompts(self.tokenizer, &rows)?;
        let fits = too_long.fitting(&encoded, &rows, self.sampling.max_new_tokens, &self.decoder.config)?;
        room::retain(&mut rows, &fits);
        room::retain(&mut encoded, &fits);
        Ok(Prompts { dropped: fits.len() - rows.len(), rows, encoded })
    }

    /// Warns of completions that say little because hardly any came to its end. `who`: whose they are, where several
    /// policies answer.
    ///
    /// # Errors
    /// When the warning cannot be recorded.
    pub fn warn_of_cut_off(&self, groups: &[Vec<Completed>], who: &str, ctx: &Context) -> Result<()> {
        let count = groups.iter().flatten().count();
        let cut = groups.iter().flatten().filter(|completed| completed.truncated()).count();
        let max_new_tokens = self.sampling.max_new_tokens;
        if let Some(warning) = endless(self.tokenizer, self.stop, &self.sampling.stop_ids) {
            return ctx.warn(0, &format!("{who}{warning}"));
        }
        if cut as f64 > MOST_TRUNCATED * count as f64 {
            let share = percent(cut, count);
            ctx.warn(
                0,
                &format!("{who}{share} of {count} completions were cut off at `max_new_tokens: {max_new_tokens}`"),
            )?;
        }
        Ok(())
    }
}

/// The share of completions that may be cut off before somebody is told: axolotl's training stability guide calls more
/// than this bad.
pub const MOST_TRUNCATED: f64 = 0.8;

/// That nothing can end a completion but its length, if so.
#[must_use]
pub fn endless(tokenizer: &Tokenizer, stop: &[String], stop_ids: &[u32]) -> Option<String> {
    let is_endless = tokenizer.eos_ids().is_empty() && stop.is_empty() && stop_ids.is_empty();
    is_endless.then(|| {
        "the tokenizer has no end-of-sequence token and `stop` is empty: every completion runs to `max_new_tokens`"
            .to_owned()
    })
}

/// `3 of 4` as `75 %`: 100 only where it is all, 0 only where it is none.
#[must_use]
pub fn percent(part: usize, of: usize) -> String {
    let share = 100.0 * part as f64 / of.max(1) as f64;
    let rounded = if part == of { 100.0 } else { share.round().clamp(f64::from(u8::from(part > 0)), 99.0) };
    format!("{rounded} %")
}

/// Continues prompts, with progress and cancellation as a stage wants them.
///
/// # Errors
/// As [`Speaker::complete`].
pub fn complete_rows(
    speaker: Speaker,
    prompts: &Prompts,
    samples: usize,
    seed: u64,
    said: &str,
    ctx: &Context,
) -> Result<Vec<Vec<Completed>>> {
    let total = (prompts.rows.len() * samples) as u64;
    let prompts: Vec<(u64, &[u32])> = (0..).zip(&prompts.encoded).map(|(i, prompt)| (i, prompt.as_slice())).collect();
    speaker.complete(&prompts, samples, &[seed], |done| {
        ctx.progress(done as u64, total, said);
        !ctx.cancelled()
    })
}

/// The prompt of a row as text, for plugins and for reading.
#[must_use]
pub fn prompt_text(row: &Row) -> String {
    match (row.get("prompt"), row.get("messages")) {
        (Some(Value::String(prompt)), _) => prompt.clone(),
        (_, Some(messages)) | (Some(messages @ Value::Array(_)), None) => messages.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{fixture, shared},
        random::Stream,
    };

    /// After how many tokens a stop is found: by their newest alone, and by all of them.
    fn found(policy: &Policy, stop: &[String], tokens: &[u32]) -> [Option<usize>; 2] {
        let (sampling, compute) = (Sampling::default(), Compute::default());
        let speaker = policy.speaker(&sampling, stop, &compute);
        let holds = |tokens: &[u32]| {
            let text = policy.tokenizer.decode(tokens).unwrap();
            stop.iter().any(|stop| text.contains(stop.as_str()))
        };
        let first = |holds: &dyn Fn(&[u32]) -> bool| (1..=tokens.len()).find(|end| holds(&tokens[..*end]));
        [first(&|tokens| holds(speaker.newest(tokens))), first(&holds)]
    }

    #[test]
    fn a_stop_is_found_in_the_newest_tokens_where_it_is_found_in_all() {
        let real = shared("models/stories260K").map(|folder| folder.join("hf"));
        for folder in [fixture("llama"), fixture("gpt2")].into_iter().chain(real) {
            let policy = Policy::open(&folder, &Compute::default()).unwrap();
            let mut dice = Stream::new(&[3]);
            let mut ends = 0;
            for _ in 0..60 {
                let count = policy.tokenizer.vocab_size();
                let mut tokens: Vec<u32> = (0..60).map(|_| dice.below(count) as u32).collect();
                if let Ok(more) = policy.tokenizer.encode("the end 猫猫猫 of it") {
                    tokens.extend(more);
                }
                let text: Vec<char> = policy.tokenizer.decode(&tokens).unwrap().chars().collect();
                let from = dice.below(text.len() - 12);
                let stop: String = text[from..from + 1 + dice.below(12)].iter().collect();
                let [newest, all] = found(&policy, &[stop.clone(), "猫猫".into()], &tokens);
                assert_eq!(newest, all, "{stop:?} in {tokens:?}");
                ends += usize::from(all.is_some());
            }
            assert!(ends > 30, "only {ends} of 60 hold their stop");
        }
    }
}
