//! Brings a Hugging Face model into a pipeline, from a folder or from the Hub.
//! Knows nothing of what the model is for.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use engine::{Context, Input, NoSettings, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{adapter, checkpoint::Checkpoint, regular},
    hub::{self, Kind, Place, Reference, Repository},
};

/// Reads a Hugging Face model folder of the Llama, Mistral, Qwen2, Qwen3, SmolLM3 or GPT-2 family and checks all of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The folder, with `config.json`, safetensors weights (f32, f16 or bf16, in one file or several) and
    /// `tokenizer.json`. `hf:org/name` is a model on the Hugging Face Hub, with `@revision` behind it where it is not
    /// `main`; its files are kept in the cache of Python's `huggingface_hub` (`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`,
    /// `HF_HUB_OFFLINE`). A branch or a tag is looked up when the node is made, and the commit recorded; the result
    /// then stays. A commit of 40 digits as the revision names one state for good.
    pub path: Place,
    /// A folder in the format of PEFT, with `adapter_config.json` and `adapter_model.safetensors`, or one on the Hub as
    /// above: the policy carries that adapter then. One that lies in `path` is found there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub adapter: Option<Place>,
}

impl Stage for Import {
    const NAME: &'static str = "import";
    // 2: what `generation_config.json` says of how to sample is kept.
    const VERSION: u32 = 2;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn check(&self) -> Vec<Problem> {
        let adapter = self.adapter.iter().filter_map(|place| place.check("adapter", Kind::Model));
        self.path.check("path", Kind::Model).into_iter().chain(adapter).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        // Of a model on the Hub nothing is known before it was fetched.
        let Place::Here(source) = &self.path else { return None };
        let text = regular::text(&inputs.source(source).join("config.json"), regular::CONFIG_BYTES).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let mut checkpoint = Checkpoint::open(&located(&self.path, ctx, fetch)?)?;
        if let Some(place) = &self.adapter {
            checkpoint.adapter = Some(adapter::read(&located(place, ctx, fetch_adapter)?, &checkpoint.config)?);
        }
        let parameters: usize = checkpoint.weights.values().map(|weight| weight.values.len()).sum();
        ctx.record(0, &[("parameters", parameters as f64)])?;
        checkpoint.save(ctx.output())
    }
}

/// The folder of a place; of one on the Hub, what `fetch` brings of it.
fn located(place: &Place, ctx: &Context, fetch: fn(&Repository, &Context) -> Result<()>) -> Result<PathBuf> {
    let text = match place {
        Place::Here(source) => return Ok(ctx.source(source)),
        Place::Hub(text) => text,
    };
    let repository = Repository::open(&Reference::parse(text, Kind::Model)?, &hub::Settings::from_env())?;
    fetch(&repository, ctx)?;
    repository.record(0, ctx)?;
    Ok(repository.folder())
}

pub(crate) fn fetch_adapter(repository: &Repository, ctx: &Context) -> Result<()> {
    repository.fetch(&[adapter::CONFIG, adapter::WEIGHTS].map(str::to_owned), ctx)?;
    Ok(())
}

/// Fetches what a checkpoint is read from and nothing else: other formats of the same weights can be as large.
pub(crate) fn fetch(repository: &Repository, ctx: &Context) -> Result<()> {
    const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
    const OTHERS: [&str; 5] =
        ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", adapter::CONFIG, adapter::WEIGHTS];
    let others = OTHERS.into_iter().filter(|name| repository.has(name));
    let small: Vec<String> = NEEDED.into_iter().chain(others).map(str::to_owned).collect();
    repository.fetch(&small, ctx)?;
    let (single, index) = ("model.safetensors".to_owned(), "model.safetensors.index.json".to_owned());
    if repository.has(&single) {
        repository.fetch(&[single], ctx)?;
        return Ok(());
    }
    if !repository.has(&index) {
        let names: Vec<&str> = repository.names().collect();
        bail!("{repository} has neither `{single}` nor `{index}`; it has {}", names.join(", "));
    }
    let place = repository.fetch(&[index], ctx)?.remove(0);
    let text =
        regular::text(&place, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", place.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", place.display()))?;
    let map = value["weight_map"].as_object().with_context(|| format!("{}: no `weight_map`", place.display()))?;
    let mut shards: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    shards.sort_unstable();
    shards.dedup();
    repository.fetch(&shards, ctx)?;
    Ok(())
}
