//! Learns to continue text: the base of everything after. Knows nothing of formats or rewards.

use std::borrow::Cow;

use anyhow::{Result, ensure};
use engine::{Arity, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, rows},
    device::Compute,
    footprint::{self, Examples, Learned, Learner, TooLong, Work},
    other_names::OTHER_NAMES,
    random::Stream,
    text::{
        chat::Chat,
        encode::{self, Example, LossOn},
    },
    train::{
        best::{Keep, Patience},
        fit::{self, Lesson, Validation},
        optimiser::Optimiser,
        packing::Packing,
        schedule::{Decay, Schedule, Warmup},
    },
};

/// Trains a policy to continue rows' text, every token counting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pretrain {
    /// Optimiser steps.
    #[schemars(range(min = 0))]
    pub steps: u64,
    /// Sequences a step; with `packing`, blocks.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// How text becomes sequences.
    pub windows: Windows,
    /// Tokens predicted in a sequence, with `windows: random`; in a block of them, with `packing`.
    #[schemars(range(min = 1))]
    pub block: usize,
    /// Which documents share a step: with `best_fit`, `batch` counts blocks, and a document longer than a block, or than
    /// the model's context, becomes as many as it needs.
    #[serde(skip_serializing_if = "Packing::is_none")]
    #[schemars(!skip_serializing_if)]
    pub packing: Packing,
    /// The learning rate after warming up.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f32,
    /// Steps of linear warm-up; below one, a share of all steps.
    pub warmup: Warmup,
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
    /// By how much a look must be lower than the best before it to renew `patience`.
    #[serde(skip_serializing_if = "fit::is_any")]
    #[schemars(!skip_serializing_if)]
    #[schemars(range(min = 0.0))]
    pub min_delta: f64,
    /// Which weights are the result.
    pub keep: Keep,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
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
            packing: Packing::None,
            learning_rate: 1e-3,
            warmup: Warmup::Steps(50),
            decay: Decay::Cosine,
            floor: 0.1,
            optimiser: Optimiser { beta2: 0.99, weight_decay: 0.1, ..Optimiser::default() },
            validate_every: 0,
            patience: None,
            min_delta: 0.0,
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
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        let mut found: Vec<Finding> = compute.finding(inputs).into_iter().collect();
        if self.windows == Windows::Random && self.steps > 0 {
            let of_policy =
                inputs.of("policy").iter().filter_map(|(node, policy)| Some((node, footprint::context(policy)?)));
            found.extend(of_policy.filter(|(_, context)| self.block > *context).map(|(node, context)| {
                let message = format!("`block` is {}, and the context of `{node}` holds {context} tokens", self.block);
                Finding::Parameter(Problem::new("block", message))
            }));
        }
        found
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "policy")
    }

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        let learned = match self.windows {
            Windows::Documents => {
                let (most, too_long) = match self.packing {
                    Packing::None => (None, TooLong::Cut),
                    Packing::BestFit => (Some(self.block + 1), TooLong::Split),
                };
                Learned::Rows(Examples { rows: "rows", loss: LossOn::All, most, too_long, packing: self.packing })
            }
            Windows::Random => Learned::Blocks(Some(self.block)),
        };
        let learner = Learner { policy: "policy", lora: None, optimiser: &self.optimiser, batch: self.batch };
        Work { inputs, compute }.training(learner, learned)
    }

    fn check(&self) -> Vec<Problem> {
        let windows = (self.windows == Windows::Random && !self.packing.is_none()).then(|| Problem {
            parameter: "packing".into(),
            message: "`packing` is of whole documents, and `windows: random` cuts them out of one stream".into(),
            hint: Some("leave out one of them".into()),
        });
        let patience = fit::patience_problem(self.patience, self.min_delta, self.validate_every);
        self.template.check().into_iter().chain(windows).chain(patience).collect()
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
        if !self.packing.is_none() {
            let most = self.block.min(checkpoint.config.context());
            for documents in [&mut corpus, &mut held_out] {
                *documents = documents.iter().flat_map(|document| document.windows(most)).collect();
            }
        }
        // The last token of a sequence is only predicted, never read.
        let lengths: Vec<usize> = corpus.iter().map(|example| example.ids.len().saturating_sub(1)).collect();
        let (places, about) = self.packing.blocks(&lengths, self.block);
        let batch = |step: u64| -> Vec<Cow<Example>> {
            match self.windows {
                Windows::Documents => {
                    let picked = fit::epoch_batch(seed, places.len(), self.batch, step);
                    picked.into_iter().flat_map(|place| &places[place]).map(|i| Cow::Borrowed(&corpus[*i])).collect()
                }
                Windows::Random => {
                    let mut stream = Stream::new(&[seed, step]);
                    let starts = (0..self.batch).map(|_| stream.below(corpus[0].ids.len() - self.block));
                    starts.map(|start| Cow::Owned(corpus[0].window(start, self.block))).collect()
                }
            }
        };
        let patience = self.patience.map(|looks| Patience { looks, min_delta: self.min_delta });
        let lesson = Lesson {
            schedule: Schedule {
                peak: self.learning_rate,
                warmup: self.warmup.of(self.steps),
                steps: self.steps,
                decay: self.decay,
                floor: self.floor,
            },
            optimiser: self.optimiser,
            batch: &batch,
            validation: Validation::new(&held_out, self.validate_every, patience, self.keep)?,
            about,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{Bench, toy_checkpoint};

    /// Documents of so many digits each, which a context of 64 tokens reads; what a run of the stage records.
    fn trained(lengths: &[usize], with: Value) -> Result<Vec<Value>> {
        let bench = Bench::new();
        toy_checkpoint(&bench.path("policy"));
        let text = |length: &usize| json!({ "text": (0..*length).map(|i| (i % 10).to_string()).collect::<String>() });
        let rows = bench.rows("rows", &lengths.iter().map(text).collect::<Vec<_>>());
        bench.run::<Pretrain>(with, &[("policy", &bench.path("policy")), ("rows", &rows)])?;
        let told = std::fs::read_to_string(bench.path("records/metrics.jsonl"))?;
        Ok(told.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn one_block_of_all_documents_is_a_step_of_all_of_them() {
        let lengths = [3, 9, 5, 7, 2, 8];
        let losses = |with| -> Vec<f64> {
            let told = trained(&lengths, with).unwrap();
            told.iter().filter_map(|line| line["loss"].as_f64()).collect()
        };
        let packed = losses(json!({ "steps": 3, "batch": 1, "warmup": 0, "packing": "best_fit", "block": 100 }));
        let whole = losses(json!({ "steps": 3, "batch": lengths.len(), "warmup": 0 }));
        assert_eq!((packed.len(), whole.len()), (3, 3));
        assert!(packed.iter().zip(&whole).all(|(packed, whole)| (packed - whole).abs() < 1e-5), "{packed:?} {whole:?}");
    }

    #[test]
    fn documents_that_no_block_holds_become_as_many_as_they_need() {
        // With its end 19 digits are twenty tokens, of which 19 are predicted: ten and nine.
        let told = trained(&[19, 9, 9], json!({ "steps": 1, "packing": "best_fit", "block": 10 })).unwrap();
        assert_eq!((told[0]["blocks"].as_f64(), told[0]["block_fill"].as_f64()), (Some(4.0), Some(37.0 / 40.0)));
        // A block may hold more than the context; a document in it may not: 64 and 36 of a hundred.
        let told = trained(&[100], json!({ "steps": 1, "packing": "best_fit", "block": 200 })).unwrap();
        assert_eq!((told[0]["blocks"].as_f64(), told[0]["block_fill"].as_f64()), (Some(1.0), Some(0.5)));
        let unpacked = trained(&[100], json!({ "steps": 1 })).unwrap_err().to_string();
        assert!(
            unpacked.contains(
                "tokens, more than the model's context of 64\nhint: `packing: best_fit` splits longer documents"
            ),
            "{unpacked}"
        );
    }

    #[test]
    fn windows_out_of_one_stream_are_not_packed() {
        let complaint = trained(&[9], json!({ "windows": "random", "packing": "best_fit" })).unwrap_err().to_string();
        assert_eq!(
            complaint,
            "packing: `packing` is of whole documents, and `windows: random` cuts them out of one stream"
        );
    }

    #[test]
    fn a_warm_up_below_one_is_a_share_of_the_steps() {
        let rates = |warmup: f64| -> Vec<f64> {
            let told = trained(&[9], json!({ "steps": 8, "batch": 1, "warmup": warmup, "decay": "constant" })).unwrap();
            told.iter().filter_map(|line| line["learning_rate"].as_f64()).collect()
        };
        assert_eq!(rates(0.5), rates(4.0));
        assert!(rates(0.5)[3] < rates(0.5)[4]);
    }
}
