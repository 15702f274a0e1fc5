//! Writes a policy as a Hugging Face folder in the number type that its users want.
//! Knows nothing of where it goes from there.

use anyhow::Result;
use engine::{Arity, Context, Input, NoSettings, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{data::checkpoint::Checkpoint, nn::weights::Dtype};

/// Writes a policy as a Hugging Face model folder, which `transformers` loads.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// The type of the weights in the file.
    pub dtype: Dtype,
}

impl Stage for Export {
    const NAME: &'static str = "export";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "What to write." }];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        Checkpoint::open(&ctx.input("policy")?.path)?.save_as(ctx.output(), self.dtype)
    }
}
