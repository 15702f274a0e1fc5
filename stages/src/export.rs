//! Writes a policy as a Hugging Face folder in the number type that its users want.
//! Knows nothing of where it goes from there.

use anyhow::Result;
use engine::{Arity, Context, Input, NoSettings, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::checkpoint::Checkpoint,
    nn::weights::{Dtype, Packing},
};

/// Writes a policy as a Hugging Face model folder, which `transformers` loads.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// The type of the weights in the file.
    pub dtype: Dtype,
    /// The most megabytes (10^6 bytes) of weights in a file: what is larger is cut into shards, with an index.
    #[schemars(range(min = 0.001))]
    pub max_shard_mb: f64,
}

impl Default for Export {
    fn default() -> Self {
        Self { dtype: Dtype::default(), max_shard_mb: 5000.0 }
    }
}

impl Stage for Export {
    const NAME: &'static str = "export";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "What to write." }];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let packing = Packing { dtype: self.dtype, max_shard_bytes: (self.max_shard_mb * 1e6) as usize };
        Checkpoint::open(&ctx.input("policy")?.path)?.save_as(ctx.output(), packing)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, families, fixture, json_of, shared},
        import::Import,
        init::Init,
    };

    #[test]
    fn an_imported_model_is_exported_as_it_was() {
        for family in families() {
            let bench = Bench::new();
            let imported = bench.run::<Import>(json!({ "path": fixture(&family) }), &[]).unwrap();
            let kept = bench.path("imported");
            std::fs::rename(imported, &kept).unwrap();
            let exported = bench.run::<Export>(json!({}), &[("policy", &kept)]).unwrap();
            let (before, after) = (Checkpoint::open(&fixture(&family)).unwrap(), Checkpoint::open(&exported).unwrap());
            assert_eq!((before.config, before.weights), (after.config, after.weights));
            let exported = bench.run::<Export>(json!({ "dtype": "bf16" }), &[("policy", &kept)]).unwrap();
            assert_eq!(json_of(&exported.join("config.json"))["torch_dtype"], "bfloat16");
        }
    }

    #[test]
    fn a_model_above_the_size_of_a_shard_is_cut() {
        let bench = Bench::new();
        let kept = bench.path("imported");
        std::fs::rename(bench.run::<Import>(json!({ "path": fixture("gpt2") }), &[]).unwrap(), &kept).unwrap();
        let exported = bench.run::<Export>(json!({ "max_shard_mb": 0.03 }), &[("policy", &kept)]).unwrap();
        let index = json_of(&exported.join("model.safetensors.index.json"));
        // By name: a layer takes 30,016 bytes, so its last matrix goes into the next file, and the embedding into the fourth.
        assert_eq!(index["weight_map"]["transformer.h.0.mlp.c_proj.weight"], "model-00002-of-00004.safetensors");
        assert_eq!(index["weight_map"]["transformer.wte.weight"], "model-00004-of-00004.safetensors");
        let (before, after) = (Checkpoint::open(&fixture("gpt2")).unwrap(), Checkpoint::open(&exported).unwrap());
        assert_eq!((before.config, before.weights), (after.config, after.weights));
    }

    #[test]
    fn a_new_model_is_as_large_as_its_sizes_say() {
        let bench = Bench::new();
        let with =
            json!({ "layers": 2, "hidden": 8, "heads": 2, "kv_heads": 1, "ffn": 10, "tied": false, "family": "qwen2" });
        let made = bench.run::<Init>(with, &[("tokenizer", &fixture("llama"))]).unwrap();
        let checkpoint = Checkpoint::open(&made).unwrap();
        let count: usize = checkpoint.weights.values().map(|weight| weight.values.len()).sum();
        // Embedding and head 2 * 64 * 8; a layer: q 8*8 + 8, k and v (8*4 + 4) each, o 8*8, ffn 3 * 80, two norms of 8.
        assert_eq!(count, 2 * 64 * 8 + 2 * (72 + 2 * 36 + 64 + 240 + 16) + 8);
        assert_eq!(
            bench.complaint::<Init>(json!({ "hidden": 10, "heads": 4 }), &[("tokenizer", &fixture("llama"))]),
            "hidden: `hidden` (10) must be a multiple of twice `heads`, as rotary positions turn halves of a head (4)"
        );
    }

    #[test]
    fn the_stories_model_is_imported() {
        let Some(path) = shared("models/stories260K/hf") else { return };
        let bench = Bench::new();
        let made = bench.run::<Import>(json!({ "path": path }), &[]).unwrap();
        let generation = json_of(&made.join("generation_config.json"));
        assert_eq!(generation, json!({ "bos_token_id": 1, "eos_token_id": [1, 2] }));
    }
}
