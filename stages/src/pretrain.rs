//! Learns to continue text: the base of everything after. Knows nothing of formats or rewards.

use std::borrow::Cow;

use anyhow::{Result, ensure};
use engine::{Arity, Context, Footprint, Input, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, rows},
    device::Compute,
    footprint::{self, Examples, Learned, Learner, TooLong, Work},
    random::Stream,
    text::{
        chat::Chat,
        encode::{self, Example, LossOn},
    },
    train::{
        best::Keep,
        fit::{self, Lesson, Validation},
        optimiser::Optimiser,
        packing::Packing,
        schedule::{Decay, Schedule},
    },
};

/// Trains a policy to continue rows' text, every token counting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pretrain {
    /// Optimiser steps.
    #[schemars(range(min = 0))]
    pub steps: u64,
    /// Sequences a step.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// How text becomes sequences.
    pub windows: Windows,
    /// Tokens predicted in a sequence, with `windows: random`.
    #[schemars(range(min = 1))]
    pub block: usize,
    /// The learning rate after warming up.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f32,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// How the learning rate falls after that.
    pub decay: Decay,
    /// What is left of the learning rate at the end, as a share.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub floor: f32,
    /// The optimiser: AdamW, or Muon with AdamW.
    pub optimiser: Optimiser,
    /// Steps between two looks at `validation`; 0 looks only before the first step and after the last.
    pub validate_every: u64,
    /// Training stops after so many looks in a row without a lower validation loss; absent: never.
    #[schemars(range(min = 1))]
    pub patience: Option<u64>,
    /// Which weights are the result.
    pub keep: Keep,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    pub template: Chat,
}

/// How text becomes sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// Every row is a sequence of its own; epochs are shuffled.
    Documents,
    /// All rows in one stream, cut at random places into `block` tokens and the one behind (nanoGPT).
    Random,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 64,
            windows: Windows::Documents,
            block: 64,
            learning_rate: 1e-3,
            warmup: 50,
            decay: Decay::Cosine,
            floor: 0.1,
            optimiser: Optimiser { beta2: 0.99, weight_decay: 0.1, ..Optimiser::default() },
            validate_every: 0,
            patience: None,
            keep: Keep::default(),
            template: Chat::default(),
        }
    }
}

impl Stage for Pretrain {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Where training starts from." },
        Input { name: "rows", kinds: &["rows"], arity: Arity::Many, about: "Text to learn." },
        Input { name: "validation", kinds: &["rows"], arity: Arity::Optional, about: "Text to measure the loss on." },
    ];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = Compute;

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "policy")
    }

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        let learned = match self.windows {
            Windows::Documents => Learned::Rows(Examples {
                rows: "rows",
                loss: LossOn::All,
                most: None,
                too_long: TooLong::Cut,
                packing: Packing::None,
            }),
            Windows::Random => Learned::Blocks(self.block),
        };
        let learner = Learner { policy: "policy", lora: None, optimiser: &self.optimiser, batch: self.batch };
        Work { inputs, compute }.training(learner, learned)
    }

    fn check(&self) -> Vec<Problem> {
        self.template.check().into_iter().chain(fit::patience_problem(self.patience, self.validate_every)).collect()
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = &ctx.input("policy")?.path;
        let mut checkpoint = Checkpoint::open(policy)?;
        checkpoint.tokenizer = self.template.apply(checkpoint.tokenizer, ctx)?;
        let examples = |input: &str| -> Result<Vec<Example>> {
            let rows = rows::read_all(ctx.inputs(input))?;
            encode::examples(&checkpoint.tokenizer, &rows, LossOn::All)
        };
        let (mut corpus, mut held_out) = (examples("rows")?, examples("validation")?);
        let seed = ctx.seed("order");
        if self.windows == Windows::Random {
            // One stream: a window is cut out of it when its step comes.
            corpus = vec![join(corpus)];
            let ids = corpus[0].ids.len();
            ensure!(ids > self.block, "the text has {ids} tokens, too few for one `block` of {}", self.block);
            held_out = if held_out.is_empty() { held_out } else { join(held_out).windows(self.block) };
        }
        let batch = |step: u64| -> Vec<Cow<Example>> {
            match self.windows {
                Windows::Documents => {
                    let picked = fit::epoch_batch(seed, corpus.len(), self.batch, step);
                    picked.into_iter().map(|i| Cow::Borrowed(&corpus[i])).collect()
                }
                Windows::Random => {
                    let mut stream = Stream::new(&[seed, step]);
                    let starts = (0..self.batch).map(|_| stream.below(corpus[0].ids.len() - self.block));
                    starts.map(|start| Cow::Owned(corpus[0].window(start, self.block))).collect()
                }
            }
        };
        let lesson = Lesson {
            schedule: Schedule {
                peak: self.learning_rate,
                warmup: self.warmup,
                steps: self.steps,
                decay: self.decay,
                floor: self.floor,
            },
            optimiser: self.optimiser,
            batch: &batch,
            validation: Validation::new(&held_out, self.validate_every, self.patience, self.keep)?,
            about: Vec::new(),
        };
        fit::fit(checkpoint, &lesson, compute, ctx)?.save_trained(policy, ctx.output())
    }
}

fn join(examples: Vec<Example>) -> Example {
    let mut all = Example::default();
    for example in examples {
        all.ids.extend(example.ids);
        all.trained.extend(example.trained);
    }
    all
}
