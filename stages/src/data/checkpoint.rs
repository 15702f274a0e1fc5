//! A model with its tokenizer, as the folder that Hugging Face's transformers reads.
//! Knows nothing of how it was trained.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{
    nn::{
        config::Config,
        weights::{self, Dtype, Weights},
    },
    text::tokenizer::Tokenizer,
};

/// A policy at rest.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub config: Config,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
}

impl Checkpoint {
    /// Opens a folder with `config.json`, safetensors files and `tokenizer.json`.
    ///
    /// # Errors
    /// Names the file, key or tensor that is missing or wrong.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let config = Config::from_hf(&text).with_context(|| format!("reading {}", path.display()))?;
        let tokenizer = Tokenizer::open(folder)?;
        ensure_in_vocabulary(&config, &tokenizer).with_context(|| format!("opening {}", folder.display()))?;
        let weights = weights::read(folder, &config)?;
        Ok(Self { config, weights, tokenizer })
    }

    /// Writes the folder, weights in f32.
    ///
    /// # Errors
    /// When a file cannot be written, or the tokenizer does not belong to the model.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// Writes the folder, weights in `dtype`: `config.json`, `generation_config.json`, `model.safetensors`,
    /// `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::save`].
    pub fn save_as(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        ensure_in_vocabulary(&self.config, &self.tokenizer)?;
        let ids = self.special_ids();
        let mut config = self.config.to_hf();
        config.extend(ids.clone());
        config.insert("torch_dtype".into(), dtype.torch().into());
        config.sort_keys();
        write_json(&folder.join("config.json"), config)?;
        write_json(&folder.join("generation_config.json"), ids)?;
        weights::write(folder, &self.weights, dtype)?;
        self.tokenizer.save(folder)
    }

    fn special_ids(&self) -> Map<String, Value> {
        let eos = match self.tokenizer.eos_ids() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let all = [("bos_token_id", json!(self.tokenizer.bos())), ("eos_token_id", eos), ("pad_token_id", json!(self.tokenizer.pad()))];
        all.into_iter().filter(|(_, id)| !id.is_null()).map(|(name, id)| (name.to_owned(), id)).collect()
    }
}

fn ensure_in_vocabulary(config: &Config, tokenizer: &Tokenizer) -> Result<()> {
    let needed = tokenizer.vocab_size();
    ensure!(
        needed <= config.vocab_size,
        "the tokenizer has ids up to {}, but the model's vocabulary ends at {} (`vocab_size` is {})",
        needed.saturating_sub(1),
        config.vocab_size - 1,
        config.vocab_size
    );
    let eos = tokenizer.eos_ids().iter().find(|id| **id as usize >= config.vocab_size);
    ensure!(
        eos.is_none(),
        "`eos_token_id` is {}, but the model's vocabulary ends at {}",
        eos.copied().unwrap_or_default(),
        config.vocab_size - 1
    );
    Ok(())
}

fn write_json(path: &Path, value: Map<String, Value>) -> Result<()> {
    let text = format!("{:#}\n", Value::Object(value));
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
