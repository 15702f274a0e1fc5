//! Writes a policy as a GGUF file for llama.cpp and the programs built on it.
//! Knows nothing of what they do with it.

mod block;
mod file;
mod model;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::path::Path;

use anyhow::{Context as _, Result};
use engine::{Arity, Context, Input, NoSettings, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::data::{checkpoint::Checkpoint, regular};
use file::Value;

/// Writes a policy of the Llama, Mistral, Qwen2, Qwen3 or `SmolLM3` family as a GGUF file, with its tokenizer and chat
/// template; an adapter is folded into it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gguf {
    /// How the matrices are stored; norms and biases are f32 always.
    pub dtype: Dtype,
    /// `general.name`, by which programs show the model; absent: none.
    pub name: Option<String>,
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with a small range and 11 bits of precision.
    #[default]
    F16,
    /// 8 bits, with a scale for 32 numbers each. A matrix whose rows are not a multiple of 32 is stored in f16.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl Stage for Gguf {
    const NAME: &'static str = "gguf";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "What to write." }];
    const OUTPUT: &'static str = "gguf";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let folder = &ctx.input("policy")?.path;
        let mut checkpoint = Checkpoint::open(folder)?;
        checkpoint.merge()?;
        // `llama_ftype`.
        let (kind, file_type) = match self.dtype {
            Dtype::F32 => (block::Type::F32, 0),
            Dtype::F16 => (block::Type::F16, 1),
            Dtype::Q8_0 => (block::Type::Q8_0, 7),
        };
        let architecture = model::architecture(&checkpoint.config)?;
        let mut metadata = vec![("general.architecture".to_owned(), Value::Text(architecture.into()))];
        let mut set = |key: &str, value: Value| metadata.push((key.to_owned(), value));
        set("general.type", Value::Text("model".into()));
        if let Some(name) = &self.name {
            set("general.name", Value::Text(name.clone()));
        }
        set("general.file_type", Value::U32(file_type));
        // Of the layout of blocks.
        set("general.quantization_version", Value::U32(2));
        metadata.extend(model::metadata(&checkpoint.config)?);
        metadata.extend(tokenizer(folder, &checkpoint)?);
        let tensors = model::tensors(&checkpoint.config, &checkpoint.weights, kind)?;
        let path = ctx.output().join("model.gguf");
        file::write(&path, &metadata, &tensors)?;
        let bytes = std::fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len();
        ctx.record(0, &[("tensors", tensors.len() as f64), ("bytes", bytes as f64)])
    }
}

/// All of `tokenizer.*`.
fn tokenizer(folder: &Path, checkpoint: &Checkpoint) -> Result<Vec<(String, Value)>> {
    let tokenizer = &checkpoint.tokenizer;
    let json: Json = serde_json::from_str(&text(&folder.join("tokenizer.json"))?).context("reading tokenizer.json")?;
    let mut all = vocabulary::metadata(&json, checkpoint.config.vocab_size)?;
    let mut set = |key: &str, value: Value| all.push((format!("tokenizer.{key}"), value));
    let named = |key: &str| tokenizer.special_tokens().get(key).and_then(|token| tokenizer.token_to_id(token));
    if let Some(id) = named("bos_token").or(tokenizer.bos()) {
        set("ggml.bos_token_id", Value::U32(id));
    }
    if let Some(id) = tokenizer.eos() {
        set("ggml.eos_token_id", Value::U32(id));
    }
    // llama.cpp has places for an end of text and an end of turn, and ends a generation at both.
    if let Some(id) = tokenizer.eos_ids().iter().find(|id| Some(**id) != tokenizer.eos()) {
        set("ggml.eot_token_id", Value::U32(*id));
    }
    if let Some(id) = tokenizer.pad() {
        set("ggml.padding_token_id", Value::U32(id));
    }
    set("ggml.add_bos_token", Value::Bool(tokenizer.bos().is_some()));
    set("ggml.add_eos_token", Value::Bool(false));
    if let Some(template) = template(folder)? {
        set("chat_template", Value::Text(template));
    }
    Ok(all)
}

/// The chat template's text, from where transformers has it.
fn template(folder: &Path) -> Result<Option<String>> {
    let own = folder.join("chat_template.jinja");
    if own.exists() {
        return text(&own).map(Some);
    }
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config: Json = serde_json::from_str(&text(&path)?).with_context(|| format!("reading {}", path.display()))?;
    let default = |templates: &Vec<Json>| templates.iter().find(|one| one["name"] == "default").cloned();
    Ok(match &config["chat_template"] {
        Json::String(template) => Some(template.clone()),
        Json::Array(templates) => default(templates).and_then(|one| Some(one["template"].as_str()?.to_owned())),
        _ => None,
    })
}

fn text(path: &Path) -> Result<String> {
    regular::text(path, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", path.display()))
}
