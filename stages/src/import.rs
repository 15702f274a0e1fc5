//! Brings a Hugging Face model folder into a pipeline.
//! Knows nothing of what the model is for.

use anyhow::Result;
use engine::{Context, Input, NoSettings, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{adapter, checkpoint::Checkpoint};

/// Reads a Hugging Face model folder of the Llama, Mistral, Qwen2, Qwen3, SmolLM3 or GPT-2 family and checks all of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The folder, with `config.json`, safetensors weights (f32, f16 or bf16, in one file or several) and
    /// `tokenizer.json`.
    pub path: Source,
    /// A folder in the format of PEFT, with `adapter_config.json` and `adapter_model.safetensors`: the policy carries
    /// that adapter then. One that lies in `path` is found there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Source>,
}

impl Stage for Import {
    const NAME: &'static str = "import";
    // 2: what `generation_config.json` says of how to sample is kept.
    const VERSION: u32 = 2;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let mut checkpoint = Checkpoint::open(&ctx.source(&self.path))?;
        if let Some(source) = &self.adapter {
            checkpoint.adapter = Some(adapter::read(&ctx.source(source), &checkpoint.config)?);
        }
        let parameters: usize = checkpoint.weights.values().map(|weight| weight.values.len()).sum();
        ctx.record(0, &[("parameters", parameters as f64)])?;
        checkpoint.save(ctx.output())
    }
}
