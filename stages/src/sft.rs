//! Supervised fine-tuning: learns completions by heart, so far as they generalise.
//! Knows nothing of how the completions came about.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::Result;
use engine::{Arity, Context, Footprint, Input, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, rows, rows::Row},
    device::Compute,
    footprint::{self, Learned, Work},
    nn::{config::Config, lora::Lora},
    text::{
        chat::Chat,
        encode::{self, Example, LossOn},
    },
    train::{
        fit::{self, Lesson},
        optimiser::AdamW,
        schedule::{Decay, Schedule},
    },
};

/// Fine-tunes a policy on rows with completions, conversations or text.
///
/// The defaults are DeepSeek-R1's schedule (arXiv 2501.12948v2: two to three epochs, cosine to a tenth);
/// its learning rate of 5e-5 is for 671B parameters, a model of a few million wants 1e-4 to 3e-3.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sft {
    /// Passes over the rows.
    #[schemars(range(min = 0.0))]
    pub epochs: f64,
    /// Rows a step.
    #[schemars(range(min = 1))]
    pub batch: usize,
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
    /// Which tokens are learned.
    pub loss: LossOn,
    /// What happens to a row longer than the model's context.
    pub too_long: TooLong,
    /// The optimiser, AdamW.
    pub optimiser: AdamW,
    /// Learns a low-rank adapter and leaves the policy's weights as they are; without it all weights learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    pub template: Chat,
}

/// What happens to a row longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// The node stops and names the row.
    #[default]
    Error,
    /// The row is left out; the count is recorded as `dropped_too_long`.
    Drop,
    /// The row loses its end, and with it the end-of-sequence token; recorded as `truncated`. A row whose prompt
    /// alone fills the context is left out, and recorded as `dropped_without_target` too.
    Truncate,
}

impl Default for Sft {
    fn default() -> Self {
        Self {
            epochs: 2.0,
            batch: 64,
            learning_rate: 1e-4,
            warmup: 0,
            decay: Decay::Cosine,
            floor: 0.1,
            loss: LossOn::default(),
            too_long: TooLong::default(),
            optimiser: AdamW { beta2: 0.99, ..AdamW::default() },
            lora: None,
            template: Chat::default(),
        }
    }
}

impl Stage for Sft {
    const NAME: &'static str = "sft";
    // 2: a row that was cut down to its prompt is no longer learned from.
    // 3: a conversation that the chat template would mangle is an error.
    const VERSION: u32 = 3;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Where training starts from." },
        Input { name: "rows", kinds: &["rows"], arity: Arity::Many, about: "What to learn." },
        Input { name: "validation", kinds: &["rows"], arity: Arity::Optional, about: "Rows to measure the loss on." },
    ];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = Compute;

    fn resolve(&mut self) {
        self.lora.iter_mut().for_each(Lora::resolve);
    }

    fn check(&self) -> Vec<Problem> {
        let problem = |(parameter, message): (&str, String)| Problem {
            parameter: format!("lora.{parameter}"),
            message,
            hint: None,
        };
        self.lora.iter().flat_map(Lora::problems).map(problem).chain(self.template.check()).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "policy")
    }

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        Work { inputs, compute }.training("policy", self.lora.as_ref(), Learned::Rows("rows", self.loss), self.batch)
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = &ctx.input("policy")?.path;
        let checkpoint = Checkpoint::open(policy)?;
        let rows = rows::read_all(ctx.inputs("rows"))?;
        let held_out = rows::read_all(ctx.inputs("validation"))?;
        self.learn(checkpoint, &rows, &held_out, compute, ctx)?.save_trained(policy, ctx.output())
    }
}

impl Sft {
    /// Trains a checkpoint on rows.
    ///
    /// # Errors
    /// When a row cannot become an example, or training stops.
    pub(crate) fn learn(
        &self,
        mut checkpoint: Checkpoint,
        rows: &[Row],
        held_out: &[Row],
        compute: &Compute,
        ctx: &Context,
    ) -> Result<Checkpoint> {
        checkpoint.tokenizer = self.template.apply(checkpoint.tokenizer, ctx)?;
        checkpoint.adopt(self.lora.as_ref(), ctx.seed("adapter"))?;
        let examples = |rows: &[Row], name: &str| -> Result<Fitting> {
            let examples = encode::examples(&checkpoint.tokenizer, rows, self.loss)?;
            self.fitting(examples, &checkpoint.config, name)
        };
        let (Fitting { examples, counted }, held_out) =
            (examples(rows, "rows")?, examples(held_out, "validation")?.examples);
        anyhow::ensure!(!examples.is_empty(), "there are no rows to learn from");
        let seed = ctx.seed("order");
        let batch = |step: u64| -> Vec<Cow<Example>> {
            let picked = fit::epoch_batch(seed, examples.len(), self.batch, step);
            picked.into_iter().map(|i| Cow::Borrowed(&examples[i])).collect()
        };
        let steps = (self.epochs * examples.len() as f64 / self.batch as f64).ceil() as u64;
        let lesson = Lesson {
            schedule: Schedule {
                peak: self.learning_rate,
                warmup: self.warmup,
                steps,
                decay: self.decay,
                floor: self.floor,
            },
            optimiser: self.optimiser,
            batch: &batch,
            validation: (!held_out.is_empty()).then_some((&held_out, 0)),
            about: counted.into_iter().collect(),
        };
        fit::fit(checkpoint, &lesson, compute, ctx)
    }

    /// The examples as they fit the model's context.
    fn fitting(&self, examples: Vec<Example>, config: &Config, name: &str) -> Result<Fitting> {
        // The last token is only predicted, never read.
        let most = config.context() + 1;
        let mut fitting = Fitting::default();
        for (i, mut example) in examples.into_iter().enumerate() {
            if example.ids.len() > most {
                match self.too_long {
                    TooLong::Error => {
                        config.check_length(example.ids.len() - 1, &format!("row {} of `{name}`", i + 1))?;
                    }
                    TooLong::Drop => {
                        fitting.count("dropped_too_long");
                        continue;
                    }
                    TooLong::Truncate => {
                        fitting.count("truncated");
                        example.ids.truncate(most);
                        example.trained.truncate(most);
                    }
                }
                // Its prompt alone fills the context.
                if !example.trained.contains(&true) {
                    fitting.count("dropped_without_target");
                    continue;
                }
            }
            fitting.examples.push(example);
        }
        Ok(fitting)
    }
}

/// Examples that fit, and how many rows did not, by the names they are recorded under.
#[derive(Default)]
struct Fitting {
    examples: Vec<Example>,
    counted: BTreeMap<&'static str, f64>,
}

impl Fitting {
    fn count(&mut self, name: &'static str) {
        *self.counted.entry(name).or_default() += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::shape::Shape;

    fn example(prompt: usize, completion: usize) -> Example {
        let trained = [vec![false; prompt], vec![true; completion]].concat();
        Example { ids: vec![0; prompt + completion], trained }
    }

    /// A context of four: five tokens fit, for the last is never read.
    #[test]
    fn a_row_too_long_is_refused_dropped_or_cut_and_never_kept_without_a_target() {
        let shape = Shape { layers: 1, hidden: 16, heads: 2, context: 4, ffn: Some(32), ..Shape::default() };
        let config = shape.config(10).unwrap();
        let fitting = |too_long| {
            let rows = vec![example(2, 3), example(2, 4), example(5, 1)];
            Sft { too_long, ..Sft::default() }.fitting(rows, &config, "rows")
        };
        let refused = fitting(TooLong::Error).err().unwrap().to_string();
        assert_eq!(refused, "row 2 of `rows` has 5 tokens, more than the model's context of 4");

        let dropped = fitting(TooLong::Drop).unwrap();
        assert_eq!(dropped.examples, [example(2, 3)]);
        assert_eq!(dropped.counted, BTreeMap::from([("dropped_too_long", 2.0)]));

        let cut = fitting(TooLong::Truncate).unwrap();
        assert_eq!(cut.examples, [example(2, 3), example(2, 3)]);
        assert_eq!(cut.counted, BTreeMap::from([("truncated", 2.0), ("dropped_without_target", 1.0)]));
    }
}
