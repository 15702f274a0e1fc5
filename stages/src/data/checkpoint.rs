//! A model with its tokenizer, as the folder that Hugging Face's transformers reads.
//! Knows nothing of how it was trained.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{
    data::{adapter, regular},
    device::Place,
    nn::{
        config::Config,
        decoder::Decoder,
        lora::{Adapter, Lora},
        weights::{self, Dtype, Packing, Weights},
    },
    text::tokenizer::Tokenizer,
};

/// The files that say how a policy's text is written and where it ends.
const OF_TOKENIZER: [&str; 4] =
    ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// A policy at rest: a model, or a model with an adapter beside it.
///
/// With an adapter, its files lie in the same folder as the model's, where PEFT and transformers look for them. Then
/// the adapter is what learns, and the model stays as it is.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub config: Config,
    /// Without what the adapter adds.
    pub weights: Weights,
    pub tokenizer: Tokenizer,
    pub adapter: Option<Adapter>,
}

impl Checkpoint {
    /// Opens a folder with `config.json`, safetensors files and `tokenizer.json`; and those of an adapter, if there.
    ///
    /// # Errors
    /// Names the file, key or tensor that is missing or wrong.
    pub fn open(folder: &Path) -> Result<Self> {
        let (config, tokenizer) = Self::open_without_weights(folder)?;
        let weights = weights::read(folder, &config)?;
        let has_adapter = folder.join(adapter::CONFIG).exists();
        let adapter = if has_adapter { Some(adapter::read(folder, &config)?) } else { None };
        Ok(Self { config, weights, tokenizer, adapter })
    }

    /// What a prompt must fit, without reading the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_without_weights(folder: &Path) -> Result<(Config, Tokenizer)> {
        let path = folder.join("config.json");
        let text =
            regular::text(&path, regular::CONFIG_BYTES).with_context(|| format!("reading {}", path.display()))?;
        let config = Config::from_hf(&text).with_context(|| format!("reading {}", path.display()))?;
        let tokenizer = Tokenizer::open(folder)?;
        ensure_in_vocabulary(&config, &tokenizer).with_context(|| format!("opening {}", folder.display()))?;
        Ok((config, tokenizer))
    }

    /// Moves the policy to a device. Its weights are no longer here: a copy on the host would be held all through a
    /// training. [`Checkpoint::take`] brings them back.
    ///
    /// # Errors
    /// As [`Decoder::taking`] and [`Decoder::adapt`].
    pub fn to_device(&mut self, place: &Place) -> Result<Decoder> {
        let decoder = Decoder::taking(&self.config, std::mem::take(&mut self.weights), &place.device)?;
        self.beside_adapter(decoder.computing_in(place.precision))
    }

    /// As [`Checkpoint::to_device`], for a policy that learns no more ([`Decoder::settled`]).
    ///
    /// # Errors
    /// As [`Checkpoint::to_device`].
    pub fn settle_on(&mut self, Place { device, precision }: &Place) -> Result<Decoder> {
        let decoder = Decoder::settling(&self.config, std::mem::take(&mut self.weights), device, *precision)?;
        Ok(self.beside_adapter(decoder)?.settled())
    }

    fn beside_adapter(&self, mut decoder: Decoder) -> Result<Decoder> {
        if let Some(adapter) = &self.adapter {
            decoder.adapt(adapter)?;
        }
        Ok(decoder)
    }

    /// Gives the policy the adapter that a stage asks for, new and without effect, or lets it go on with its own.
    ///
    /// # Errors
    /// When the policy carries one that is not as asked for, or its family takes none.
    pub fn adopt(&mut self, lora: Option<&Lora>, seed: u64) -> Result<()> {
        let Some(lora) = lora else { return Ok(()) };
        let Some(Adapter { lora: own, .. }) = &mut self.adapter else {
            self.adapter = Some(Adapter::init(&self.config, lora, seed)?);
            return Ok(());
        };
        ensure!(
            own.to_string() == lora.to_string(),
            "the policy carries an adapter of {own}, and `lora` asks for {lora}: leave `lora` out or make it the same to \
             go on with that adapter, or put a `merge_adapter` node before this one to begin another"
        );
        own.dropout = lora.dropout;
        Ok(())
    }

    /// Brings the policy back from its device, with what it has learned.
    ///
    /// # Errors
    /// When the device fails to hand a weight over.
    pub fn take(&mut self, decoder: Decoder) -> Result<()> {
        self.adapter = decoder.adapter()?;
        self.weights = decoder.into_weights()?;
        Ok(())
    }

    /// Adds what the adapter has learned to the weights; without one it changes nothing.
    ///
    /// # Errors
    /// When the adapter is not the model's.
    pub fn merge(&mut self) -> Result<()> {
        match self.adapter.take() {
            Some(adapter) => adapter.merge_into(&mut self.weights),
            None => Ok(()),
        }
    }

    /// Writes the folder, weights in f32.
    ///
    /// # Errors
    /// When a file cannot be written, or the tokenizer does not belong to the model.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// Writes the folder, weights in a type and in files of a size: `config.json`, `generation_config.json`,
    /// `model.safetensors` or its shards, `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::save`].
    pub fn save_as(&self, folder: &Path, packing: impl Into<Packing>) -> Result<()> {
        let packing = packing.into();
        ensure_in_vocabulary(&self.config, &self.tokenizer)?;
        let ids = self.special_ids();
        let mut config = self.config.to_hf();
        config.extend(ids.clone());
        config.insert("torch_dtype".into(), packing.dtype.torch().into());
        config.sort_keys();
        write_json(&folder.join("config.json"), config)?;
        let mut generation = self.tokenizer.generation().clone();
        generation.extend(ids);
        generation.sort_keys();
        write_json(&folder.join("generation_config.json"), generation)?;
        weights::write(folder, &self.config, &self.weights, packing)?;
        self.tokenizer.save(folder)?;
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter::write(folder, adapter))
    }

    /// Writes the folder of a policy that learned from the one in `from`. Where only an adapter did, the model's own
    /// files are those of `from`, by another name where the disk allows it.
    ///
    /// # Errors
    /// As [`Checkpoint::save`].
    pub fn save_trained(&self, from: &Path, folder: &Path) -> Result<()> {
        let Some(adapter) = &self.adapter else { return self.save(folder) };
        let reading = || format!("reading {}", from.display());
        for entry in std::fs::read_dir(from).with_context(reading)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).with_context(reading)?;
            let is_rewritten = self.tokenizer.is_edited() && OF_TOKENIZER.iter().any(|file| name == *file);
            if !path.is_file() || name == adapter::CONFIG || name == adapter::WEIGHTS || is_rewritten {
                continue;
            }
            let to = folder.join(name);
            if std::fs::hard_link(&path, &to).is_err() {
                std::fs::copy(&path, &to).with_context(|| format!("copying {}", path.display()))?;
            }
        }
        if self.tokenizer.is_edited() {
            write_json(&folder.join("generation_config.json"), self.special_ids())?;
            self.tokenizer.save(folder)?;
        }
        adapter::write(folder, adapter)
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
        bench::{Bench, families, fixture, json_of, shared},
        text::train::{self, Special},
    };

    #[test]
    fn a_checkpoint_survives_saving() {
        for family in families() {
            let bench = Bench::new();
            bench.file("c/.keep", "");
            let first = Checkpoint::open(&fixture(&family)).unwrap();
            first.save(&bench.path("c")).unwrap();
            let second = Checkpoint::open(&bench.path("c")).unwrap();
            assert_eq!((&first.config, &first.weights), (&second.config, &second.weights));
            let tokenizer = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).unwrap();
            assert_eq!(tokenizer(&fixture(&family)), tokenizer(&bench.path("c")));
            assert_eq!(first.tokenizer.eos_ids(), second.tokenizer.eos_ids());
        }
    }

    #[test]
    fn how_to_sample_survives_saving_and_what_transformers_notes_of_itself_does_not() {
        let bench = Bench::new();
        bench.file("c/.keep", "");
        let first = Checkpoint::open(&fixture("qwen2.5")).unwrap();
        assert_eq!(first.tokenizer.eos_ids(), [1, 3]);
        first.save(&bench.path("c")).unwrap();
        let expected = json!({ "do_sample": true, "eos_token_id": [1, 3], "pad_token_id": 0, "repetition_penalty": 1.05,
                               "temperature": 0.7, "top_k": 20, "top_p": 0.8 });
        assert_eq!(json_of(&bench.path("c/generation_config.json")), expected);
        assert_eq!(Checkpoint::open(&bench.path("c")).unwrap().tokenizer.eos_ids(), [1, 3]);
        Checkpoint::open(&fixture("llama")).unwrap().save(&bench.path("c")).unwrap();
        let expected = json!({ "eos_token_id": 1, "pad_token_id": 0 });
        assert_eq!(json_of(&bench.path("c/generation_config.json")), expected);
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

    /// transformers' class would put the ids of the published model, 128000 to 128004, in the place of missing ones.
    #[test]
    fn tokens_that_a_small_smollm3_does_not_have_are_written_as_none() {
        let bench = Bench::new();
        bench.file("c/.keep", "");
        let first = Checkpoint::open(&fixture("smollm3")).unwrap();
        let endless = Special { pad: None, eos: None, whole: Vec::new() };
        let tokenizer = train::characters(&["to be or not".into()], &endless).unwrap();
        Checkpoint { tokenizer, ..first }.save(&bench.path("c")).unwrap();
        let config = json_of(&bench.path("c/config.json"));
        for id in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            assert_eq!(config.get(id), Some(&Value::Null), "{id}");
        }
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
