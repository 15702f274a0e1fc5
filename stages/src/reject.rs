//! Rejection sampling as a node: what a policy says and a script keeps becomes training data.

use anyhow::Result;
use engine::{Arity, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows, device::Compute, footprint::Work, other_names::OTHER_NAMES, rejection::Rejection, sample,
    text::complete::Policy,
};

/// Samples every prompt several times and keeps what a script accepts (DeepSeek-R1, section 2.3.3).
///
/// Metrics count every reason for which a completion was dropped.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Reject(pub Rejection);

impl Stage for Reject {
    const NAME: &'static str = "reject";
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
        Work { inputs, compute }.answering("policy", self.0.samples, &self.0.sampling)
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        self.0.findings("", "policy", inputs).into_iter().chain(compute.finding(inputs)).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        sample::outline(inputs)
    }

    fn check(&self) -> Vec<Problem> {
        self.0.template.check()
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = Policy::open(&ctx.input("policy")?.path, compute)?.writing(&self.0.template, ctx)?;
        let prompts = rows::read_all(ctx.inputs("prompts"))?;
        rows::write(ctx.output(), self.0.rows(&policy, prompts, compute, ctx)?)?;
        Ok(())
    }
}
