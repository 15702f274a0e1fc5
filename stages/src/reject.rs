//! Rejection sampling as a node: what a policy says and a script keeps becomes training data.

use anyhow::Result;
use engine::{Arity, Context, Input, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::{checkpoint::Checkpoint, rows},
    device::Compute,
    nn::decoder::Decoder,
    rejection::Rejection,
    text::complete::Speaker,
};

/// Samples every prompt several times and keeps what a script accepts (DeepSeek-R1, section 2.3.3).
///
/// Metrics count every reason for which a completion was dropped.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Reject(pub Rejection);

impl Stage for Reject {
    const NAME: &'static str = "reject";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Who answers." },
        Input { name: "prompts", kinds: &["rows"], arity: Arity::Many, about: "What is asked." },
    ];
    const OUTPUT: &'static str = "rows";
    type Settings = Compute;

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let checkpoint = Checkpoint::open(&ctx.input("policy")?.path)?;
        let decoder = Decoder::new(&checkpoint.config, &checkpoint.weights, &compute.device()?)?;
        let prompts = rows::read_all(ctx.inputs("prompts"))?;
        let speaker = Speaker {
            decoder: &decoder,
            tokenizer: &checkpoint.tokenizer,
            sampling: &self.0.sampling,
            stop: &[],
            slots: compute.slots,
        };
        rows::write(ctx.output(), self.0.rows(speaker, &prompts, ctx)?)?;
        Ok(())
    }
}
