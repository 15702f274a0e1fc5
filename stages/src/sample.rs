//! Lets a policy answer prompts, and writes down what it said. Judges nothing.

use anyhow::Result;
use engine::{Arity, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    data::{rows, rows::Row},
    decode::{Finish, Sampling},
    device::Compute,
    footprint::Work,
    inspection,
    other_names::OTHER_NAMES,
    text::{
        chat::Chat,
        complete::{Completed, Policy, complete_rows},
        room::LongPrompts,
    },
};

/// Samples completions: one row each, with `completion`, `completion_ids`, `truncated`, `index` and all the prompt's fields.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// Completions of each prompt.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Texts that end a completion, beside the end-of-sequence tokens.
    pub stop: Vec<String>,
    /// Also writes `logprobs`, one a token.
    pub logprobs: bool,
    /// What happens to a prompt that leaves no room for `max_new_tokens` in the model's context.
    #[serde(skip_serializing_if = "LongPrompts::is_error")]
    #[schemars(!skip_serializing_if)]
    pub too_long: LongPrompts,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            samples: 1,
            sampling: Sampling::default(),
            stop: Vec::new(),
            logprobs: false,
            too_long: LongPrompts::default(),
            template: Chat::default(),
        }
    }
}

impl Stage for Sample {
    const NAME: &'static str = "sample";
    // 2: all tokens as likely as the last of top-k count in top-p, as they do in transformers
    const VERSION: u32 = 2;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Who answers." },
        Input { name: "prompts", kinds: &["rows"], arity: Arity::Many, about: "What is asked." },
    ];
    const OUTPUT: &'static str = "rows";
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        Work { inputs, compute }.answering("policy", self.samples, &self.sampling)
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        let room = inspection::room("sampling.max_new_tokens", self.sampling.max_new_tokens, "policy", inputs);
        room.into_iter().chain(compute.finding(inputs)).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        outline(inputs)
    }

    fn check(&self) -> Vec<Problem> {
        self.template.check()
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = Policy::open(&ctx.input("policy")?.path, compute)?.writing(&self.template, ctx)?;
        let prompts = rows::read_all(ctx.inputs("prompts"))?;
        let speaker = policy.speaker(&self.sampling, &self.stop, compute);
        let prompts = speaker.prompts(prompts, self.too_long)?;
        let groups = complete_rows(speaker, &prompts, self.samples, ctx.seed("sampling"), "sampling", ctx)?;
        let all: Vec<&Completed> = groups.iter().flatten().collect();
        let share = |test: &dyn Fn(&Completed) -> f64| all.iter().map(|one| test(one)).sum::<f64>() / all.len() as f64;
        if !all.is_empty() {
            let mut figures = vec![
                ("truncated", share(&|one| if one.truncated() { 1.0 } else { 0.0 })),
                ("tokens", share(&|one| one.tokens.len() as f64)),
            ];
            if prompts.dropped > 0 {
                figures.push(("dropped_too_long", prompts.dropped as f64));
            }
            ctx.record(0, &figures)?;
        }
        let answered = prompts.rows.iter().zip(&groups).flat_map(|(prompt, group)| {
            group.iter().enumerate().map(|(i, completed)| self.answered(prompt, completed, i))
        });
        rows::write(ctx.output(), answered)?;
        Ok(())
    }
}

impl Sample {
    fn answered(&self, prompt: &Row, completed: &Completed, index: usize) -> Row {
        let mut row = answered(prompt, completed, index);
        if self.logprobs {
            row.insert("logprobs".into(), json!(completed.logprobs));
        }
        row
    }
}

/// Rows as `sample` and `reject` make them, of the prompts that are known: their fields are sure, what is said is not.
pub(crate) fn outline(inputs: &Prospects) -> Option<Value> {
    let completed = Completed { text: "2".into(), tokens: vec![0], logprobs: vec![0.0], finish: Finish::Eos };
    let prompts = inspection::rows_of(inputs, "prompts");
    inspection::outline(prompts.iter().map(|prompt| answered(prompt, &completed, 0)).collect())
}

/// A prompt's row with a completion: text to read and the very tokens that were sampled.
pub(crate) fn answered(prompt: &Row, completed: &Completed, index: usize) -> Row {
    let mut row = prompt.clone();
    row.insert("completion".into(), json!(completed.text));
    row.insert("completion_ids".into(), json!(completed.tokens));
    row.insert("truncated".into(), json!(completed.truncated()));
    row.insert("index".into(), json!(index));
    row
}
