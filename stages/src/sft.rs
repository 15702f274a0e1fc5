//! Supervised fine-tuning: learns completions by heart, so far as they generalise.
//! Knows nothing of how the completions came about.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::{Result, bail, ensure};
use engine::{Arity, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    data::{checkpoint::Checkpoint, rows, rows::Row},
    device::Compute,
    footprint::{self, Examples, Learned, Learner, Work},
    nn::{config::Config, lora::Lora},
    other_names::OTHER_NAMES,
    text::{
        chat::Chat,
        encode::{self, Example, LossOn},
        room::excerpt,
    },
    train::{
        best::{Keep, Patience},
        fit::{self, Lesson, Validation},
        optimiser::Optimiser,
        packing::Packing,
        schedule::{Decay, Schedule, Warmup},
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
    /// Rows a step; with `packing`, blocks a step.
    #[schemars(range(min = 1))]
    pub batch: usize,
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
    /// Which tokens are learned.
    pub loss: LossOn,
    /// The longest row in tokens, its end-of-sequence token counted; absent: what the model's context holds.
    #[schemars(range(min = 2))]
    pub max_tokens: Option<usize>,
    /// What happens to a row longer than that, or than the model's context.
    pub too_long: TooLong,
    /// Which rows share a step.
    pub packing: Packing,
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
    /// Learns a low-rank adapter and leaves the policy's weights as they are; without it all weights learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub lora: Option<Lora>,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

/// What happens to a row that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// The node stops and names the row.
    #[default]
    Error,
    /// The row is left out; the count is recorded as `dropped_too_long`.
    Drop,
    /// The row loses its end, and with it the end-of-sequence token; recorded as `truncated`. A row whose prompt
    /// alone fills the room is left out, and recorded as `dropped_without_target` too.
    Truncate,
    /// The row becomes as many as it needs, each beginning with the last token of the one before, so that every token
    /// but the first is learned once; recorded as `split`. Only for rows that are learned whole, such as plain text: a
    /// part of an answer without its prompt is an error.
    Split,
}

impl Default for Sft {
    fn default() -> Self {
        Self {
            epochs: 2.0,
            batch: 64,
            learning_rate: 1e-4,
            warmup: Warmup::Steps(0),
            decay: Decay::Cosine,
            floor: 0.1,
            loss: LossOn::default(),
            max_tokens: None,
            too_long: TooLong::default(),
            packing: Packing::default(),
            optimiser: Optimiser { beta2: 0.99, ..Optimiser::default() },
            validate_every: 0,
            patience: None,
            min_delta: 0.0,
            keep: Keep::default(),
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
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn resolve(&mut self) {
        self.lora.iter_mut().for_each(Lora::resolve);
    }

    fn check(&self) -> Vec<Problem> {
        fit::adapter_problems(self.lora.as_ref())
            .chain(fit::patience_problem(self.patience, self.min_delta, self.validate_every))
            .chain(self.template.check())
            .collect()
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        compute.finding(inputs).into_iter().collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "policy")
    }

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        Work { inputs, compute }.training(self.learner("policy"), Learned::Rows(self.examples("rows")))
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
    /// Who learns, for the count of its memory.
    pub(crate) fn learner(&self, policy: &'static str) -> Learner<'_> {
        Learner { policy, lora: self.lora.as_ref(), optimiser: &self.optimiser, batch: self.batch }
    }

    /// As rows of an input are learned, for the count of memory.
    fn examples(&self, rows: &'static str) -> Examples {
        let too_long = match self.too_long {
            TooLong::Error | TooLong::Drop | TooLong::Truncate => footprint::TooLong::Cut,
            TooLong::Split => footprint::TooLong::Split,
        };
        Examples { rows, loss: self.loss, most: self.max_tokens, too_long, packing: self.packing }
    }

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
            self.fitting(examples, rows, &checkpoint.config, name)
        };
        let (Fitting { examples, counted }, held_out) =
            (examples(rows, "rows")?, examples(held_out, "validation")?.examples);
        ensure!(!examples.is_empty(), "there are no rows to learn from");
        let patience = self.patience.map(|looks| Patience { looks, min_delta: self.min_delta });
        let validation = Validation::new(&held_out, self.validate_every, patience, self.keep)?;
        let mut about: Vec<(&str, f64)> = counted.into_iter().collect();
        // A block may hold more than the context: each row in it begins at position zero.
        let block = self.max_tokens.unwrap_or(checkpoint.config.context() + 1);
        let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        let (places, of_blocks) = self.packing.blocks(&lengths, block);
        about.extend(of_blocks);
        let seed = ctx.seed("order");
        let batch = |step: u64| -> Vec<Cow<Example>> {
            let picked = fit::epoch_batch(seed, places.len(), self.batch, step);
            picked.into_iter().flat_map(|place| &places[place]).map(|i| Cow::Borrowed(&examples[*i])).collect()
        };
        let steps = (self.epochs * places.len() as f64 / self.batch as f64).ceil() as u64;
        let lesson = Lesson {
            schedule: Schedule {
                peak: self.learning_rate,
                warmup: self.warmup.of(steps),
                steps,
                decay: self.decay,
                floor: self.floor,
            },
            optimiser: self.optimiser,
            batch: &batch,
            validation,
            about,
        };
        fit::fit(checkpoint, &lesson, compute, ctx)
    }

    /// The most tokens of a row. The last is only predicted, never read, so the context holds one more.
    fn longest(&self, config: &Config) -> usize {
        self.max_tokens.unwrap_or(usize::MAX).min(config.context() + 1)
    }

    /// The examples as they fit.
    fn fitting(&self, examples: Vec<Example>, rows: &[Row], config: &Config, name: &str) -> Result<Fitting> {
        let most = self.longest(config);
        let count = examples.iter().filter(|example| example.ids.len() > most).count();
        let shown = |i: usize| rows.get(i).map(|row| excerpt(&json!(row).to_string())).unwrap_or_default();
        let mut fitting = Fitting::default();
        for (i, mut example) in examples.into_iter().enumerate() {
            if example.ids.len() <= most {
                fitting.examples.push(example);
                continue;
            }
            match self.too_long {
                TooLong::Error => {
                    let row = format!("row {} of `{name}`", i + 1);
                    let error = match config.check_length(example.ids.len() - 1, &row) {
                        Err(error) => error.to_string(),
                        Ok(()) => format!("{row} has {} tokens, more than `max_tokens: {most}`", example.ids.len()),
                    };
                    bail!(
                        "{error}; {count} of {} rows are too long\nrow: {}\nhint: `too_long` says what becomes of such \
                         rows: `drop`, `truncate` or `split`",
                        rows.len(),
                        shown(i)
                    );
                }
                TooLong::Drop => fitting.count("dropped_too_long"),
                TooLong::Truncate => {
                    fitting.count("truncated");
                    example.ids.truncate(most);
                    example.trained.truncate(most);
                    // Its prompt alone may fill the room.
                    if example.trained.contains(&true) {
                        fitting.examples.push(example);
                    } else {
                        fitting.count("dropped_without_target");
                    }
                }
                TooLong::Split => {
                    ensure!(
                        !example.trained.contains(&false),
                        "row {} of `{name}` has {} tokens and {most} fit, but it is not learned whole, and a part without \
                         its prompt would be answers to nothing: choose another `too_long`, or `loss: all`\nrow: {}",
                        i + 1,
                        example.ids.len(),
                        shown(i)
                    );
                    fitting.count("split");
                    fitting.examples.extend(example.windows(most - 1));
                }
            }
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
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        bench::{Bench, toy_checkpoint},
        nn::shape::Shape,
    };

    fn example(prompt: usize, completion: usize) -> Example {
        let trained = [vec![false; prompt], vec![true; completion]].concat();
        Example { ids: (0..).take(prompt + completion).collect(), trained }
    }

    /// A context of four: five tokens fit, for the last is never read.
    fn fitting(sft: Sft, examples: Vec<Example>) -> Result<Fitting> {
        let shape = Shape { layers: 1, hidden: 16, heads: 2, context: 4, ffn: Some(32), ..Shape::default() };
        let rows = vec![json!({ "text": "1+1" }).as_object().unwrap().clone(); examples.len()];
        sft.fitting(examples, &rows, &shape.config(10).unwrap(), "rows")
    }

    #[test]
    fn a_row_too_long_is_refused_dropped_or_cut_and_never_kept_without_a_target() {
        let fitting =
            |too_long| fitting(Sft { too_long, ..Sft::default() }, vec![example(2, 3), example(2, 4), example(5, 1)]);
        let refused = fitting(TooLong::Error).err().unwrap().to_string();
        assert_eq!(
            refused,
            "row 2 of `rows` has 5 tokens, more than the model's context of 4; 2 of 3 rows are too long\n\
             row: {\"text\":\"1+1\"}\n\
             hint: `too_long` says what becomes of such rows: `drop`, `truncate` or `split`"
        );

        let dropped = fitting(TooLong::Drop).unwrap();
        assert_eq!(dropped.examples, [example(2, 3)]);
        assert_eq!(dropped.counted, BTreeMap::from([("dropped_too_long", 2.0)]));

        let cut = fitting(TooLong::Truncate).unwrap();
        assert_eq!(cut.examples, [example(2, 3), example(2, 3)]);
        assert_eq!(cut.counted, BTreeMap::from([("truncated", 2.0), ("dropped_without_target", 1.0)]));
    }

    #[test]
    fn a_text_too_long_is_split_and_each_of_its_tokens_is_learned_once() {
        let split = |examples| fitting(Sft { too_long: TooLong::Split, ..Sft::default() }, examples);
        let made = split(vec![example(2, 3), example(0, 11)]).unwrap();
        let ids: Vec<Vec<u32>> = made.examples.iter().map(|example| example.ids.clone()).collect();
        assert_eq!(ids, [vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4], vec![4, 5, 6, 7, 8], vec![8, 9, 10]]);
        assert_eq!(made.counted, BTreeMap::from([("split", 1.0)]));
        assert_eq!(
            split(vec![example(2, 4)]).err().unwrap().to_string(),
            "row 1 of `rows` has 6 tokens and 5 fit, but it is not learned whole, and a part without its prompt would \
             be answers to nothing: choose another `too_long`, or `loss: all`\nrow: {\"text\":\"1+1\"}"
        );
    }

    #[test]
    fn max_tokens_is_a_limit_below_the_context_and_never_above() {
        let limited = |max_tokens| Sft { max_tokens: Some(max_tokens), ..Sft::default() };
        let refused = fitting(limited(3), vec![example(1, 2), example(1, 3)]).err().unwrap();
        let said = refused.to_string();
        assert!(said.starts_with("row 2 of `rows` has 4 tokens, more than `max_tokens: 3`; 1 of 2 rows"), "{said}");
        let refused = fitting(limited(100), vec![example(1, 5)]).err().unwrap();
        let said = refused.to_string();
        assert!(said.starts_with("row 1 of `rows` has 5 tokens, more than the model's context of 4; 1 of 1"), "{said}");
    }

    /// Rows of sums, a policy that knows their characters, and what a run of the stage records.
    fn tuned(with: Value) -> Result<Vec<Value>> {
        let bench = Bench::new();
        toy_checkpoint(&bench.path("policy"));
        let sum =
            |i: usize| json!({ "prompt": format!("{}+{}=", i % 7, i % 5), "completion": format!("{}", i % 7 + i % 5) });
        let rows = bench.rows("rows", &(0..24).map(sum).collect::<Vec<_>>());
        // Wrong answers: the better the rows are learned, the worse these are told.
        let wrong = |i: usize| json!({ "prompt": format!("{}+{}=", i % 7, i % 5), "completion": "=" });
        let held_out = bench.rows("held_out", &(0..6).map(wrong).collect::<Vec<_>>());
        let (policy, validated) = (bench.path("policy"), with.get("validate_every").is_some());
        let mut inputs = vec![("policy", policy.as_path()), ("rows", rows.as_path())];
        if validated {
            inputs.push(("validation", &held_out));
        }
        bench.run::<Sft>(with, &inputs)?;
        let text = std::fs::read_to_string(bench.path("records/metrics.jsonl"))?;
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn blocks_are_filled_and_counted_and_a_step_takes_as_many_as_batch_says() {
        // Every row has five or six tokens, so three rows fill a block of eighteen at most.
        let told = tuned(json!({ "epochs": 2, "batch": 2, "packing": "best_fit", "max_tokens": 18 })).unwrap();
        let blocks = told[0]["blocks"].as_f64().unwrap();
        assert_eq!(blocks, 8.0);
        assert!(told[0]["block_fill"].as_f64().unwrap() > 0.8, "{}", told[0]);
        assert_eq!(told.len() - 1, (2.0 * blocks / 2.0) as usize);
    }

    #[test]
    fn training_stops_when_patience_is_out_and_says_so() {
        let with = json!({ "epochs": 30, "batch": 8, "learning_rate": 0.01, "validate_every": 3, "patience": 2 });
        let told = tuned(with).unwrap();
        let looks: Vec<f64> = told.iter().filter_map(|line| line["validation_loss"].as_f64()).collect();
        let best = (0..looks.len()).min_by(|a, b| looks[*a].total_cmp(&looks[*b])).unwrap();
        assert_eq!(looks.len() - 1 - best, 2, "{looks:?}");
        assert!(told.len() < 90, "{} steps", told.len() - 1);
        assert_eq!(told.last().unwrap()["stopped_early"], 1.0);
    }

    #[test]
    fn small_gains_exhaust_patience_where_min_delta_says_so() {
        let with = json!({ "epochs": 30, "batch": 8, "learning_rate": 1e-4, "decay": "constant", "validate_every": 1,
                           "patience": 2, "min_delta": 1.0 });
        let told = tuned(with).unwrap();
        // No look gains a whole nat: the one before the first step, and two more.
        assert_eq!((told.len() - 1, &told.last().unwrap()["stopped_early"]), (2, &json!(1.0)));
    }

    #[test]
    fn what_a_validation_loss_decides_needs_one() {
        let complaint = |with| tuned(with).unwrap_err().to_string();
        assert_eq!(
            complaint(json!({ "keep": "best" })),
            "`keep: best` is decided by the validation loss: give the node rows in `validation`"
        );
        assert_eq!(
            complaint(json!({ "min_delta": 0.1 })),
            "min_delta: `min_delta` says which looks exhaust `patience`, and there is none"
        );
        assert_eq!(
            complaint(json!({ "patience": 3 })),
            "patience: `patience` counts looks at `validation`, and there are none between steps"
        );
    }

    #[test]
    fn the_best_weights_are_kept_and_are_those_of_the_step_that_is_named() {
        let bench = Bench::new();
        toy_checkpoint(&bench.path("policy"));
        let sum =
            |i: usize| json!({ "prompt": format!("{}+{}=", i % 7, i % 5), "completion": format!("{}", i % 7 + i % 5) });
        let (rows, policy) = (bench.rows("rows", &(0..24).map(sum).collect::<Vec<_>>()), bench.path("policy"));
        let wrong =
            |i: usize| json!({ "prompt": format!("{}+{}=", i % 7, i % 5), "completion": format!("{}=", i % 9) });
        let held_out = bench.rows("held_out", &(0..6).map(wrong).collect::<Vec<_>>());
        let inputs = [("policy", policy.as_path()), ("rows", &rows), ("validation", &held_out)];
        let mut with = json!({ "epochs": 10, "batch": 8, "learning_rate": 0.01, "decay": "constant", "validate_every": 1, "keep": "best" });
        let weights = |folder: std::path::PathBuf| Checkpoint::open(&folder).unwrap().weights;
        let kept = weights(bench.run::<Sft>(with.clone(), &inputs).unwrap());
        let text = std::fs::read_to_string(bench.path("records/metrics.jsonl")).unwrap();
        let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let loss = |line: &Value| line["validation_loss"].as_f64().unwrap();
        let best = told.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()["step"].clone();
        assert_eq!(told.last().unwrap()["kept_step"].as_f64(), best.as_f64());
        let best = best.as_f64().unwrap();
        assert!(best > 0.0 && best < 30.0, "the test wants a best step in the middle, not {best}");

        // The learning rate is constant, so a training of so many steps ends there.
        with["keep"] = json!("last");
        with["epochs"] = json!(best * 8.0 / 24.0 - 0.001);
        std::fs::remove_dir_all(bench.path("scratch")).unwrap();
        assert_eq!(kept, weights(bench.run::<Sft>(with, &inputs).unwrap()));
    }
}
