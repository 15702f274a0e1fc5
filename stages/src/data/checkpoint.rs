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
        weights::write(folder, &self.config, &self.weights, dtype)?;
        self.tokenizer.save(folder)
    }

    fn special_ids(&self) -> Map<String, Value> {
        let eos = match self.tokenizer.eos_ids() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let all = [
            ("bos_token_id", json!(self.tokenizer.bos())),
            ("eos_token_id", eos),
            ("pad_token_id", json!(self.tokenizer.pad())),
        ];
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, fixture, json_of, shared},
        text::train::{self, Special},
    };

    #[test]
    fn a_checkpoint_survives_saving() {
        for family in ["llama", "qwen2", "qwen3", "gpt2"] {
            let bench = Bench::new();
            bench.file("c/.keep", "");
            let first = Checkpoint::open(&fixture(family)).unwrap();
            first.save(&bench.path("c")).unwrap();
            let second = Checkpoint::open(&bench.path("c")).unwrap();
            assert_eq!((&first.config, &first.weights), (&second.config, &second.weights));
            let tokenizer = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).unwrap();
            assert_eq!(tokenizer(&fixture(family)), tokenizer(&bench.path("c")));
            let generation = json_of(&bench.path("c/generation_config.json"));
            assert_eq!(generation, json!({ "eos_token_id": 1, "pad_token_id": 0 }));
        }
    }

    #[test]
    fn a_policy_whose_texts_have_no_end_survives_saving() {
        let bench = Bench::new();
        bench.file("c/.keep", "");
        let first = Checkpoint::open(&fixture("llama")).unwrap();
        let endless = Special { pad: None, eos: None, whole: Vec::new() };
        let tokenizer = train::characters(&["to be or not".into()], &endless).unwrap();
        Checkpoint { tokenizer, ..first }.save(&bench.path("c")).unwrap();
        let tokenizer = Checkpoint::open(&bench.path("c")).unwrap().tokenizer;
        assert_eq!((tokenizer.eos(), tokenizer.eos_ids()), (None, &[][..]));
    }

    #[test]
    fn an_out_of_vocabulary_checkpoint_is_refused() {
        let bench = Bench::new();
        bench.file("c/.keep", "");
        Checkpoint::open(&fixture("llama")).unwrap().save(&bench.path("c")).unwrap();
        let mut config = json_of(&bench.path("c/config.json"));
        config["vocab_size"] = json!(60);
        bench.file("c/config.json", config.to_string());
        assert_eq!(
            bench.message(&Checkpoint::open(&bench.path("c")).unwrap_err()),
            "opening c: the tokenizer has ids up to 63, but the model's vocabulary ends at 59 (`vocab_size` is 60)"
        );
    }

    #[test]
    fn a_bf16_checkpoint_of_another_trainer_opens() {
        let Some(folder) = shared("models/verl-digit-llama") else { return };
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let tokenizer = &checkpoint.tokenizer;
        assert_eq!((tokenizer.vocab_size(), tokenizer.eos_ids(), tokenizer.bos()), (16, &[1][..], None));
        // reference.json, first case: prompt `7,8:20,0`.
        assert_eq!(tokenizer.encode("7,8:20,0").unwrap(), [11, 14, 12, 15, 6, 4, 14, 4]);
        assert_eq!(
            tokenizer.encode("7,8;2").unwrap_err().to_string(),
            "the tokenizer has no token for ';' (U+003B), character 4 of the text, in \"7,8;2\""
        );
    }
}
