//! What work with a model holds in memory at its peak, counted from its sizes as the kernels hold it on the CPU in f32.
//! Knows nothing of how the work is done; where lengths of rows decide, it reads some of them.

mod lengths;
mod moments;

use std::path::Path;

use engine::{Footprint, Prospect, Prospects};
use serde_json::Value;

use crate::{
    data::{adapter, regular},
    decode::{self, Sampling},
    device::Compute,
    kernels,
    nn::{cache, config::Config, lora::Lora, recompute::Activations},
    text::{encode::LossOn, tokenizer::Tokenizer},
    train::{optimiser::Optimiser, packing::Packing},
};

use lengths::{Asked, Lengths, lengths};
pub use moments::Reference;
use moments::{F32, Grown, Learning, Model, Parts, Pass, sampling, scoring, total, training};

/// What does not go with any size: 25 MB of the program with its libraries and threads, and some 50 MB of pages that the
/// allocator has for every size of buffer and every thread. Held by one step of one short row of a model of 4 MB.
const PROGRAM: u64 = 75_000_000;
/// Bytes of memory for each byte of `tokenizer.json`: its entries are held by text and by number, its merges by pair.
const TOKENIZER: u64 = 12;
/// Bytes of memory for each byte of `rows.jsonl`: keys, texts and tokens.
const ROWS: u64 = 5;

/// The order in which parts are told.
const ORDER: [&str; 8] =
    ["weights", "reference", "optimiser", "gradients", "activations", "logits", "KV cache", "text and program"];

/// What a checkpoint says of itself before it is made: its `config.json`.
#[must_use]
pub fn outline(inputs: &Prospects, policy: &str) -> Option<Value> {
    match inputs.of(policy) {
        // Of a model that is not made yet it may be less than that.
        [(_, Prospect::Outlined(outline))] => Some(outline.clone()),
        [(_, prospect)] => config(prospect).map(|config| Value::Object(config.to_hf())),
        _ => None,
    }
}

/// What is known of a model whose vocabulary is not: how many tokens it takes.
#[must_use]
pub fn outline_of_context(context: usize) -> Value {
    serde_json::json!({ "context": context })
}

/// The most tokens that a model takes, where that is known.
#[must_use]
pub fn context(prospect: &Prospect) -> Option<usize> {
    let outlined = match prospect {
        Prospect::Outlined(outline) => outline["context"].as_u64(),
        Prospect::There(_) | Prospect::Unknown => None,
    };
    config(prospect).map(|config| config.context()).or(outlined.and_then(|context| usize::try_from(context).ok()))
}

fn config(prospect: &Prospect) -> Option<Config> {
    let text = match prospect {
        Prospect::There(folder) => regular::text(&folder.join("config.json"), regular::CONFIG_BYTES).ok()?,
        Prospect::Outlined(outline) => outline.to_string(),
        Prospect::Unknown => return None,
    };
    Config::from_hf(&text).ok()
}

/// A node's work, to be counted.
pub struct Work<'a> {
    pub inputs: &'a Prospects,
    pub compute: &'a Compute,
}

/// Who learns: the input, and how.
#[derive(Debug, Clone, Copy)]
pub struct Learner<'a> {
    pub policy: &'static str,
    /// A new adapter of it; absent: the one that it carries, or all its weights.
    pub lora: Option<&'a Lora>,
    pub optimiser: &'a Optimiser,
    /// Sequences a step.
    pub batch: usize,
}

/// How the sequences that a step learns from come about.
#[derive(Debug, Clone, Copy)]
pub enum Learned {
    Rows(Examples),
    /// As many tokens each; absent: as many as the model takes.
    Blocks(Option<usize>),
    /// Prompts of an input with completions of up to so many tokens.
    Completions(&'static str, usize),
}

/// Rows as training takes them.
#[derive(Debug, Clone, Copy)]
pub struct Examples {
    /// The input.
    pub rows: &'static str,
    pub loss: LossOn,
    /// The most tokens of a row; absent: as many as the model takes. Of a block of rows too, where they are packed.
    pub most: Option<usize>,
    pub too_long: TooLong,
    pub packing: Packing,
}

/// What becomes of rows with more tokens than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// Nothing longer is learned.
    Cut,
    /// They become as many as they need.
    Split,
}

/// How a policy is asked.
#[derive(Debug, Clone, Copy)]
pub struct Questions {
    pub policy: &'static str,
    pub prompts: &'static str,
    /// Completions of each prompt, and at most so many in all.
    pub samples: usize,
    pub most: usize,
    pub max_new_tokens: usize,
}

impl Work<'_> {
    /// Training a model, or an adapter of it. Where there are rows in `validation`, their loss is looked at in between.
    #[must_use]
    pub fn training(&self, learner: Learner, learned: Learned) -> Option<Footprint> {
        self.of(learner.policy, |model, tokenizer, after| {
            let steps = self.steps(model, tokenizer, learner, learned, Reference::None, after);
            match self.looks(model, tokenizer, learned, after) {
                Some(looks) => steps.or(looks),
                None => steps.0,
            }
        })
    }

    /// As [`Work::training`], on completions that the policy gives and held against what it was.
    #[must_use]
    pub fn reinforcing(&self, learner: Learner, questions: Questions, reference: Reference) -> Option<Footprint> {
        self.of(learner.policy, |model, tokenizer, after| {
            let learned = Learned::Completions(questions.prompts, questions.max_new_tokens);
            let steps = self.steps(model, tokenizer, learner, learned, reference, after);
            steps.or(self.asking(model, tokenizer, questions, after))
        })
    }

    /// Asking a policy, or each of several in turn.
    #[must_use]
    pub fn sampling(&self, questions: Questions) -> Option<Footprint> {
        self.of(questions.policy, |model, tokenizer, after| self.asking(model, tokenizer, questions, after))
    }

    /// Asking for so many completions of every one of `prompts`.
    #[must_use]
    pub fn answering(&self, policy: &'static str, samples: usize, sampling: &Sampling) -> Option<Footprint> {
        let (most, max_new_tokens) = (usize::MAX, sampling.max_new_tokens);
        self.sampling(Questions { policy, prompts: "prompts", samples, most, max_new_tokens })
    }

    /// Scoring rows one by one.
    #[must_use]
    pub fn scoring(&self, policy: &str, rows: &'static str, loss: LossOn) -> Option<Footprint> {
        self.of(policy, |model, tokenizer, after| {
            let lengths = self.lengths(rows, tokenizer, Asked::Examples(loss), after);
            let tokens = lengths.map_or(model.config.context(), |lengths| lengths.longest());
            scoring(model, Pass { tokens, targets: tokens, is_one_of_many: false, ..Pass::default() })
        })
    }

    /// Of the largest of the models that an input names, as `count` says; the nodes that have to be there before more
    /// is known are added to what it is given.
    fn of(
        &self,
        policy: &str,
        count: impl Fn(&Model, Option<&Tokenizer>, &mut Vec<String>) -> Parts,
    ) -> Option<Footprint> {
        if !self.compute.is_fused() {
            return None;
        }
        let (mut most, mut after) = (Parts::new(), Vec::new());
        for (node, prospect) in self.inputs.of(policy) {
            let Some(config) = config(prospect) else {
                match prospect {
                    // Whatever is wrong with it, the work says it better.
                    Prospect::There(_) => return None,
                    Prospect::Outlined(_) | Prospect::Unknown => after.push(node.clone()),
                }
                continue;
            };
            let (tokenizer, size, adapter) = match prospect {
                Prospect::There(folder) => {
                    let adapter = adapter::read(folder, &config).ok().map(|adapter| adapter.lora);
                    (Tokenizer::open(folder).ok(), size(&folder.join("tokenizer.json")), adapter)
                }
                Prospect::Outlined(_) | Prospect::Unknown => (None, 0, None),
            };
            if tokenizer.is_none() {
                after.push(node.clone());
            }
            let parts = count(&Model::new(&config, adapter), tokenizer.as_ref(), &mut after);
            let mut parts: Parts = parts.into_iter().map(|(name, elements)| (name, elements * F32)).collect();
            parts.insert("text and program", usize::try_from(PROGRAM + TOKENIZER * size + self.rows_bytes()).ok()?);
            if total(&parts) > total(&most) {
                most = parts;
            }
        }
        after.sort_unstable();
        after.dedup();
        let advice = self.advice(&most);
        let parts =
            ORDER.iter().filter_map(|name| Some((*name, *most.get(name)? as u64))).filter(|(_, bytes)| *bytes > 0);
        Some(Footprint { parts: parts.collect(), after, advice })
    }

    fn rows_bytes(&self) -> u64 {
        let folders = ["rows", "prompts", "validation"].iter().flat_map(|input| self.inputs.of(input));
        let sizes = folders.map(|(_, prospect)| match prospect {
            Prospect::There(folder) => size(&folder.join("rows.jsonl")),
            Prospect::Outlined(_) | Prospect::Unknown => 0,
        });
        ROWS * sizes.sum::<u64>()
    }

    fn lengths(
        &self,
        input: &str,
        tokenizer: Option<&Tokenizer>,
        asked: Asked,
        after: &mut Vec<String>,
    ) -> Option<Lengths> {
        let nodes = self.inputs.of(input);
        let missing = nodes.iter().filter(|(_, prospect)| !matches!(prospect, Prospect::There(_)));
        after.extend(missing.map(|(node, _)| node.clone()));
        lengths(nodes, tokenizer?, asked)
    }

    fn steps(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learner: Learner,
        learned: Learned,
        reference: Reference,
        after: &mut Vec<String>,
    ) -> Steps {
        let Learner { lora, optimiser, batch, .. } = learner;
        let pass = self.pass(model, tokenizer, learned, batch, after);
        Steps(training(model, pass, Learning { adapter: lora.or(model.adapter.as_ref()), optimiser, reference }))
    }

    /// Where lengths are not known, the longest that the model takes.
    fn pass(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learned: Learned,
        batch: usize,
        after: &mut Vec<String>,
    ) -> Pass {
        let context = model.config.context();
        let (lengths, sequences) = match learned {
            Learned::Rows(examples) => {
                let Examples { rows, loss, most, too_long, packing } = examples;
                // The last token of a row is not read.
                let fits = most.unwrap_or(context + 1).min(context + 1);
                let lengths = self.lengths(rows, tokenizer, Asked::Examples(loss), after);
                let lengths = lengths.map_or(Lengths::exactly(fits, batch), |lengths| lengths.fitted(fits, too_long));
                let sequences = match packing {
                    Packing::None => lengths.spread(|each| each.tokens),
                    Packing::BestFit => lengths.packed(most.unwrap_or(context + 1)),
                };
                (lengths, sequences)
            }
            Learned::Blocks(block) => {
                let lengths = Lengths::exactly(block.unwrap_or(context) + 1, batch);
                let sequences = lengths.spread(|each| each.tokens);
                (lengths, sequences)
            }
            Learned::Completions(prompts, new) => {
                let prompts = self.lengths(prompts, tokenizer, Asked::Prompts, after);
                let prompts = prompts.unwrap_or_else(|| Lengths::exactly(context.saturating_sub(new), batch));
                let lengths = prompts.continued(new);
                let sequences = lengths.spread(|each| each.tokens);
                (lengths, sequences)
            }
        };
        let whole = sequences.most(batch);
        let longest = lengths.longest().min(context + 1);
        let tokens = whole.min(self.compute.micro_batch_tokens.max(longest));
        let targets = (tokens as f64 * lengths.trained()).ceil() as usize;
        Pass { tokens, targets, is_one_of_many: tokens < whole, activations: self.compute.activations }
    }

    /// The loss of rows in `validation`, a micro-batch at a time. None where there are none.
    fn looks(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learned: Learned,
        after: &mut Vec<String>,
    ) -> Option<Parts> {
        const INPUT: &str = "validation";
        if self.inputs.of(INPUT).is_empty() {
            return None;
        }
        let (learned, batch) = match learned {
            Learned::Rows(examples) => {
                let rows = self.lengths(INPUT, tokenizer, Asked::Examples(examples.loss), after);
                let examples = Examples { rows: INPUT, packing: Packing::None, ..examples };
                (Learned::Rows(examples), rows.map_or(usize::MAX, |rows| rows.count()))
            }
            Learned::Blocks(_) | Learned::Completions(..) => (learned, usize::MAX),
        };
        Some(scoring(model, self.pass(model, tokenizer, learned, batch, after)))
    }

    /// As if every completion took all the tokens that it may: where they end is not known before.
    fn asking(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        questions: Questions,
        after: &mut Vec<String>,
    ) -> Parts {
        let Questions { prompts, samples, most, max_new_tokens, .. } = questions;
        let slots = self.compute.slots.min(most);
        let prompts = self.lengths(prompts, tokenizer, Asked::Prompts, after);
        let prompts =
            prompts.unwrap_or_else(|| Lengths::exactly(model.config.context().saturating_sub(max_new_tokens), slots));
        let slots = slots.min(prompts.count() * samples);
        let groups = slots.div_ceil(samples);
        // Completions of a prompt share its full pages.
        let shared = prompts.spread(|prompt| prompt.tokens / kernels::PAGE);
        let own = prompts.spread(|prompt| (prompt.tokens % kernels::PAGE + max_new_tokens).div_ceil(kernels::PAGE));
        // A page more may make half as many again: where that is in doubt, the middle.
        let least = cache::grown(shared.least(groups) + own.least(slots));
        let most = cache::grown(shared.most(groups) + own.most(slots));
        let pages = usize::midpoint(least, most);
        let at_once = decode::PROMPT_TOKENS.max(prompts.longest());
        let fresh = prompts.spread(|prompt| prompt.tokens).most(groups).min(at_once);
        sampling(model, Grown { slots, pages, fresh })
    }

    fn advice(&self, parts: &Parts) -> String {
        let part = |name: &str| parts.get(name).copied().unwrap_or(0);
        let Compute { micro_batch_tokens, activations, slots, .. } = self.compute;
        let of_passes = part("activations") + part("logits");
        if part("KV cache") > 0 {
            format!("lower `slots` (it is {slots}) or the tokens that a completion may have")
        } else if part("optimiser") > 0 && of_passes < part("weights") {
            "train a smaller model".to_owned()
        } else {
            let or_recompute = match activations {
                Activations::Keep if part("optimiser") > 0 => ", or keep less by `activations: recompute`",
                Activations::Keep | Activations::Recompute => "",
            };
            format!("lower `micro_batch_tokens` (it is {micro_batch_tokens}){or_recompute}")
        }
    }
}

/// What the steps of a training hold.
struct Steps(Parts);

impl Steps {
    /// The larger of this and of other work that goes on between two steps, beside what stays.
    fn or(self, mut between: Parts) -> Parts {
        between.extend(["weights", "reference", "optimiser"].map(|name| (name, self.0[name])));
        if total(&self.0) >= total(&between) { self.0 } else { between }
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

#[cfg(test)]
mod tests;
