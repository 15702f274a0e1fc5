//! Folds a low-rank adapter into the weights beside it. Trains nothing.

use anyhow::{Result, bail};
use engine::{Arity, Context, Input, NoSettings, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{adapter, checkpoint::Checkpoint};

/// Makes one model of a policy and its adapter: `W + scale B A` (LoRA, arXiv 2106.09685, section 4.1).
///
/// The result carries no adapter: all of it learns again, every program loads it, and it computes as fast as any.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MergeAdapter {
    /// A folder in the format of PEFT, with `adapter_config.json` and `adapter_model.safetensors`, for a policy that
    /// carries no adapter of its own.
    pub adapter: Option<Source>,
}

impl Stage for MergeAdapter {
    const NAME: &'static str = "merge_adapter";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "The model, with its adapter." }];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let mut checkpoint = Checkpoint::open(&ctx.input("policy")?.path)?;
        match (&checkpoint.adapter, &self.adapter) {
            (None, Some(source)) => checkpoint.adapter = Some(adapter::read(&ctx.source(source), &checkpoint.config)?),
            (Some(_), None) => {}
            (Some(own), Some(_)) => bail!(
                "the policy carries an adapter of {} already: leave `adapter` out to merge that one, and put another \
                 `merge_adapter` node behind this one for the second",
                own.lora
            ),
            (None, None) => bail!(
                "the policy carries no adapter: there is nothing to merge; `adapter` names the folder of one from \
                 elsewhere"
            ),
        }
        checkpoint.merge()?;
        checkpoint.save(ctx.output())
    }
}
