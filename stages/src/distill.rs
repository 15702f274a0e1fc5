//! Distillation as DeepSeek-R1 does it: the teacher answers, rules keep, the student learns the answers.

use anyhow::{Context as _, Result};
use engine::{Arity, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, rows},
    device::Compute,
    footprint::{self, Learned, Work},
    other_names::OTHER_NAMES,
    rejection::Rejection,
    sft::Sft,
    text::complete::Policy,
    train::{best::Keep, packing::Packing},
};

/// Fine-tunes a student on what its teacher says and a script keeps (DeepSeek-R1, section 2.4: SFT only, no RL).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// How the teacher answers, and what is kept.
    pub teach: Rejection,
    /// How the student learns; parameters as of the stage `sft`.
    #[serde(default)]
    pub learn: Sft,
}

/// The kept answers, in scratch: a resumed run does not ask the teacher again.
const LESSONS: &str = "lessons";

impl Stage for Distill {
    const NAME: &'static str = "distill";
    // 2: as `sft`.
    // 3: as `reject`.
    // 4: as `sft`: a conversation that the chat template would mangle is an error.
    const VERSION: u32 = 4;
    const INPUTS: &'static [Input] = &[
        Input { name: "teacher", kinds: &["checkpoint"], arity: Arity::One, about: "Who answers." },
        Input { name: "student", kinds: &["checkpoint"], arity: Arity::One, about: "Who learns." },
        Input { name: "prompts", kinds: &["rows"], arity: Arity::Many, about: "What the teacher is asked." },
    ];
    const OUTPUT: &'static str = "checkpoint";
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn resolve(&mut self) {
        self.learn.resolve();
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        self.teach.findings("teach.", "teacher", inputs).into_iter().chain(compute.finding(inputs)).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "student")
    }

    /// Teacher and student are never there at once.
    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        let work = Work { inputs, compute };
        let answers = match self.learn.packing {
            Packing::None => Learned::Completions("prompts", self.teach.sampling.max_new_tokens),
            // How full they become is known when the teacher has answered.
            Packing::BestFit => Learned::Blocks(self.learn.max_tokens),
        };
        let asking = work.answering("teacher", self.teach.samples, &self.teach.sampling);
        let phases = [asking, work.training(self.learn.learner("student"), answers)];
        phases.into_iter().flatten().max_by_key(Footprint::bytes)
    }

    fn check(&self) -> Vec<Problem> {
        let taught = self.teach.template.check().into_iter().map(|problem| problem.below("teach"));
        let learned = self.learn.check().into_iter().map(|problem| problem.below("learn"));
        let mut problems: Vec<Problem> = taught.chain(learned).collect();
        if self.learn.patience.is_some() || self.learn.keep == Keep::Best {
            let parameter = if self.learn.patience.is_some() { "learn.patience" } else { "learn.keep" };
            problems.push(Problem {
                parameter: parameter.into(),
                message: "a validation loss decides this, and `distill` has no rows to measure it on".into(),
                hint: Some(
                    "sample, filter and tune in nodes of their own: `reject`, then `sft` with `validation`".into(),
                ),
            });
        }
        problems
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let lessons = ctx.scratch().join(LESSONS);
        if !lessons.exists() {
            let teacher = Policy::open(&ctx.input("teacher")?.path, compute).context("opening the teacher")?;
            let teacher = teacher.writing(&self.teach.template, ctx)?;
            let prompts = rows::read_all(ctx.inputs("prompts"))?;
            let kept = self.teach.rows(&teacher, prompts, compute, ctx)?;
            let writing = lessons.with_extension("writing");
            std::fs::create_dir_all(&writing)?;
            rows::write(&writing, kept)?;
            std::fs::rename(&writing, &lessons)?;
        }
        let path = &ctx.input("student")?.path;
        let student = Checkpoint::open(path).context("opening the student")?;
        self.learn.learn(student, &rows::read(&lessons)?, &[], compute, ctx)?.save_trained(path, ctx.output())
    }
}
