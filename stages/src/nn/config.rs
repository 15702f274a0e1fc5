//! The shape of a model, read from and written to a Hugging Face `config.json`.
//! Knows nothing of weights or tokens.

use anyhow::{Context as _, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A family of decoder-only transformers; all but GPT-2 have `RMSNorm`, half-split `RoPE`, grouped queries and `SwiGLU`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// No biases, no query and key norm.
    #[default]
    Llama,
    /// As Llama, with biases on the query, key and value projections.
    Qwen2,
    /// As Llama, with an `RMSNorm` on each head's query and key.
    Qwen3,
    /// Layer norm, learned positions, GELU, and biases on all projections.
    Gpt2,
}

impl Family {
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gpt2];

    /// `model_type` in `config.json`.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gpt2 => "gpt2",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
        }
    }
}

/// All that decides which weights a model has and how they compute. Names are those of Llama's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Of GPT-2's layer norms too.
    pub rms_norm_eps: f32,
    /// GPT-2 has none and does not look at it.
    pub rope_theta: f32,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub attention_bias: bool,
    /// `RMSNorm` on each head's query and key.
    pub qk_norm: bool,
}

/// Longest context for which rotary angles are kept; a model that states more can still be used up to here.
const LONGEST_CONTEXT: usize = 32 * 1024;

impl Config {
    /// Most tokens that a sequence may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.max_position_embeddings.min(LONGEST_CONTEXT)
    }

    /// # Errors
    /// When a sequence of `tokens` does not fit the context.
    pub fn check_length(&self, tokens: usize, what: &str) -> Result<()> {
        let most = self.context();
        ensure!(tokens <= most, "{what} has {tokens} tokens, more than the model's context of {most}");
        Ok(())
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// When a key is missing or malformed, or asks for something that the decoder does not compute.
    pub fn from_hf(text: &str) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_str(text).context("not a JSON object")?;
        let keys = Keys(&map);
        let family = family(&keys)?;
        if family == Family::Gpt2 {
            return gpt2(&keys);
        }
        refuse_unsupported(&keys)?;

        let hidden_size = keys.count("hidden_size")?;
        let num_attention_heads = keys.count("num_attention_heads")?;
        let default_head_dim = match family {
            // transformers fixes it for Qwen3, whose heads may be wider than the hidden size.
            Family::Qwen3 => 128,
            Family::Llama | Family::Qwen2 | Family::Gpt2 => hidden_size / num_attention_heads,
        };
        let config = Self {
            family,
            vocab_size: keys.count("vocab_size")?,
            hidden_size,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers: keys.count("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys.count_or("num_key_value_heads", num_attention_heads)?,
            head_dim: keys.count_or("head_dim", default_head_dim)?,
            rms_norm_eps: keys.number_or("rms_norm_eps", 1e-6)?,
            rope_theta: rope_theta(&keys)?,
            max_position_embeddings: keys.count_or("max_position_embeddings", 2048)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
        };
        config.check()?;
        Ok(config)
    }

    /// The keys of a `config.json` that transformers loads, without the ids of special tokens.
    #[must_use]
    pub fn to_hf(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| map.insert(key.into(), value);
        set("architectures", json!([self.family.architecture()]));
        set("initializer_range", json!(0.02));
        set("model_type", json!(self.family.model_type()));
        set("tie_word_embeddings", json!(self.tie_word_embeddings));
        set("use_cache", json!(true));
        set("vocab_size", json!(self.vocab_size));
        if self.family == Family::Gpt2 {
            set("activation_function", json!("gelu_new"));
            for dropout in ["attn_pdrop", "embd_pdrop", "resid_pdrop"] {
                set(dropout, json!(0.0));
            }
            set("layer_norm_epsilon", decimal(self.rms_norm_eps));
            set("n_embd", json!(self.hidden_size));
            set("n_head", json!(self.num_attention_heads));
            set("n_inner", json!(self.intermediate_size));
            set("n_layer", json!(self.num_hidden_layers));
            set("n_positions", json!(self.max_position_embeddings));
            return map;
        }
        if self.family != Family::Qwen2 {
            // Qwen2 has its biases always, and no key for them.
            set("attention_bias", json!(false));
        }
        set("attention_dropout", json!(0.0));
        set("head_dim", json!(self.head_dim));
        set("hidden_act", json!("silu"));
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("max_position_embeddings", json!(self.max_position_embeddings));
        if self.family == Family::Llama {
            set("mlp_bias", json!(false));
        }
        set("num_attention_heads", json!(self.num_attention_heads));
        set("num_hidden_layers", json!(self.num_hidden_layers));
        set("num_key_value_heads", json!(self.num_key_value_heads));
        set("rms_norm_eps", decimal(self.rms_norm_eps));
        set("rope_scaling", Value::Null);
        set("rope_theta", decimal(self.rope_theta));
        map
    }

    /// Sizes that cannot go together.
    ///
    /// # Errors
    /// Names the first such pair.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
            "`num_attention_heads` ({}) must be a multiple of `num_key_value_heads` ({})",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(
            self.family == Family::Gpt2 || (self.head_dim > 0 && self.head_dim.is_multiple_of(2)),
            "`head_dim` is {}: rotary positions turn halves of a head, so it must be even",
            self.head_dim
        );
        Ok(())
    }
}

fn family(keys: &Keys) -> Result<Family> {
    let known = || Family::ALL.map(|family| format!("`{}`", family.model_type())).join(", ");
    let Some(value) = keys.get("model_type") else {
        bail!("no `model_type`; it must be one of {}", known());
    };
    let named = |family: &Family| value.as_str() == Some(family.model_type());
    Family::ALL
        .into_iter()
        .find(named)
        .with_context(|| format!("`model_type` is {value}, which is not supported; supported: {}", known()))
}

/// GPT-2's keys; absent ones mean what transformers takes them for.
fn gpt2(keys: &Keys) -> Result<Config> {
    match keys.get("activation_function").and_then(Value::as_str) {
        None | Some("gelu_new") => {}
        Some(other) => bail!("`activation_function` is `{other}`, which is not supported; supported: `gelu_new`"),
    }
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
        ensure!(!keys.flag(key)?, "`{key}` is true, which is not supported; supported: false");
    }
    let is_set = |key: &str| if keys.get(key).is_some() { keys.flag(key) } else { Ok(true) };
    ensure!(is_set("scale_attn_weights")?, "`scale_attn_weights` is false, which is not supported; supported: true");
    let (hidden_size, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
    ensure!(hidden_size.is_multiple_of(heads), "`n_embd` ({hidden_size}) must be a multiple of `n_head` ({heads})");
    Ok(Config {
        family: Family::Gpt2,
        vocab_size: keys.count("vocab_size")?,
        hidden_size,
        intermediate_size: keys.count_or("n_inner", 4 * hidden_size)?,
        num_hidden_layers: keys.count("n_layer")?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden_size / heads,
        rms_norm_eps: keys.number_or("layer_norm_epsilon", 1e-5)?,
        rope_theta: 10_000.0,
        max_position_embeddings: keys.count_or("n_positions", 1024)?,
        tie_word_embeddings: is_set("tie_word_embeddings")?,
        attention_bias: true,
        qk_norm: false,
    })
}

/// Refuses every key whose value would change what the model computes in a way the decoder does not follow.
fn refuse_unsupported(keys: &Keys) -> Result<()> {
    match keys.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu") => {}
        Some(other) => bail!("`hidden_act` is `{other}`, which is not supported; supported: `silu`"),
    }
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        // In transformers `attention_bias` also gives the output projection a bias; Qwen2's own biases have no key.
        ensure!(!keys.flag(key)?, "`{key}` is true, which is not supported; supported: false");
    }
    for layer in keys.get("layer_types").and_then(Value::as_array).into_iter().flatten() {
        ensure!(
            layer.as_str() == Some("full_attention"),
            "`layer_types` holds {layer}, which is not supported; supported: \"full_attention\""
        );
    }
    for block in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = keys.get(block).and_then(Value::as_object) else { continue };
        for key in ["rope_type", "type"] {
            match rope.get(key).and_then(Value::as_str) {
                None | Some("default") => {}
                Some(other) => bail!("`{block}.{key}` is `{other}`, which is not supported; supported: `default`"),
            }
        }
    }
    let partial = keys.number_or("partial_rotary_factor", 1.0)?;
    ensure!(
        (partial - 1.0).abs() < f32::EPSILON,
        "`partial_rotary_factor` is {partial}, which is not supported; supported: 1.0"
    );
    Ok(())
}

/// transformers 5 keeps it in `rope_parameters`, earlier versions at the top.
fn rope_theta(keys: &Keys) -> Result<f32> {
    for block in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = keys.get(block)
            && rope.get("rope_theta").is_some_and(|theta| !theta.is_null())
        {
            return Keys(rope).number_or("rope_theta", 0.0).with_context(|| format!("in `{block}`"));
        }
    }
    keys.number_or("rope_theta", 10_000.0)
}

/// The shortest decimal that reads back as the same f32: 1e-5 and not 9.999999747378752e-6.
fn decimal(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().expect("a printed f32 is a number");
    json!(shortest)
}

/// Typed access to the keys of a `config.json`; null counts as absent, as in transformers.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn count(&self, key: &str) -> Result<usize> {
        let value = self.get(key).with_context(|| format!("no `{key}`"))?;
        let count = value.as_u64().filter(|count| *count > 0).and_then(|count| usize::try_from(count).ok());
        count.with_context(|| format!("`{key}` is {value}; it must be a whole number above zero"))
    }

    fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    fn number_or(&self, key: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| *number > 0.0);
        Ok(number.with_context(|| format!("`{key}` is {value}; it must be a number above zero"))? as f32)
    }

    fn flag(&self, key: &str) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().with_context(|| format!("`{key}` is {value}; it must be true or false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{fixture, shared};

    fn tiny() -> Value {
        json!({ "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
                "num_hidden_layers": 1, "num_attention_heads": 2 })
    }

    fn refusal(key: &str, value: Value) -> String {
        let mut config = tiny();
        config[key] = value;
        format!("{:#}", Config::from_hf(&config.to_string()).unwrap_err())
    }

    #[test]
    fn the_configs_that_transformers_writes_are_read() {
        let read =
            |name: &str| Config::from_hf(&std::fs::read_to_string(fixture(name).join("config.json")).unwrap()).unwrap();
        // The numbers stand in tests/reference/make_fixtures.py.
        let qwen3 = Config {
            family: Family::Qwen3,
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            max_position_embeddings: 128,
            tie_word_embeddings: true,
            attention_bias: false,
            qk_norm: true,
        };
        assert_eq!(read("qwen3"), qwen3);
        let qwen2 = Config {
            family: Family::Qwen2,
            head_dim: 8,
            tie_word_embeddings: false,
            attention_bias: true,
            qk_norm: false,
            ..qwen3.clone()
        };
        assert_eq!(read("qwen2"), qwen2);
        let llama = Config { family: Family::Llama, head_dim: 8, rope_theta: 1e4, qk_norm: false, ..qwen3 };
        assert_eq!(read("llama"), llama);
        let gpt2 = Config {
            family: Family::Gpt2,
            intermediate_size: 48,
            num_key_value_heads: 4,
            attention_bias: true,
            ..llama
        };
        assert_eq!(read("gpt2"), gpt2);
    }

    #[test]
    fn rope_theta_is_read_in_the_old_place_too() {
        let Some(path) = shared("models/stories260K/hf/config.json") else { return };
        let config = Config::from_hf(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((config.rope_theta, config.head_dim, config.num_key_value_heads), (10_000.0, 8, 4));
    }

    #[test]
    fn a_written_config_reads_back_the_same() {
        for family in Family::ALL {
            let rope_theta = if family == Family::Gpt2 { 10_000.0 } else { 500_000.0 };
            let shape = crate::nn::shape::Shape { family, rope_theta, ..Default::default() };
            let config = shape.config(71).unwrap();
            let text = Value::Object(config.to_hf()).to_string();
            assert_eq!(Config::from_hf(&text).unwrap(), config, "{text}");
            let epsilon = if family == Family::Gpt2 { "layer_norm_epsilon" } else { "rms_norm_eps" };
            let written = ["0.00001", "1e-5"].map(|value| format!("\"{epsilon}\":{value}"));
            assert!(written.iter().any(|written| text.contains(written)), "{text}");
        }
    }

    #[test]
    fn what_the_decoder_does_not_compute_is_refused_by_the_deciding_key() {
        assert_eq!(
            refusal("model_type", json!("gemma2")),
            "`model_type` is \"gemma2\", which is not supported; supported: `llama`, `qwen2`, `qwen3`, `gpt2`"
        );
        assert_eq!(
            refusal("model_type", Value::Null),
            "no `model_type`; it must be one of `llama`, `qwen2`, `qwen3`, `gpt2`"
        );
        assert_eq!(
            refusal("rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 })),
            "`rope_scaling.rope_type` is `llama3`, which is not supported; supported: `default`"
        );
        assert_eq!(
            refusal("rope_parameters", json!({ "rope_type": "yarn", "rope_theta": 1e6 })),
            "`rope_parameters.rope_type` is `yarn`, which is not supported; supported: `default`"
        );
        assert_eq!(
            refusal("hidden_act", json!("gelu")),
            "`hidden_act` is `gelu`, which is not supported; supported: `silu`"
        );
        assert_eq!(refusal("mlp_bias", json!(true)), "`mlp_bias` is true, which is not supported; supported: false");
        assert_eq!(
            refusal("attention_bias", json!(true)),
            "`attention_bias` is true, which is not supported; supported: false"
        );
        assert_eq!(
            refusal("use_sliding_window", json!(true)),
            "`use_sliding_window` is true, which is not supported; supported: false"
        );
        assert_eq!(
            refusal("layer_types", json!(["full_attention", "sliding_attention"])),
            "`layer_types` holds \"sliding_attention\", which is not supported; supported: \"full_attention\""
        );
    }

    #[test]
    fn what_the_decoder_does_not_compute_of_gpt2_is_refused_by_the_deciding_key() {
        let refusal = |key: &str, value: Value| {
            let mut config = json!({ "model_type": "gpt2", "vocab_size": 8, "n_embd": 4, "n_layer": 1, "n_head": 2 });
            config[key] = value;
            format!("{:#}", Config::from_hf(&config.to_string()).unwrap_err())
        };
        assert_eq!(
            refusal("activation_function", json!("relu")),
            "`activation_function` is `relu`, which is not supported; supported: `gelu_new`"
        );
        for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
            let expected = format!("`{key}` is true, which is not supported; supported: false");
            assert_eq!(refusal(key, json!(true)), expected);
        }
        assert_eq!(
            refusal("scale_attn_weights", json!(false)),
            "`scale_attn_weights` is false, which is not supported; supported: true"
        );
        assert_eq!(refusal("n_head", json!(3)), "`n_embd` (4) must be a multiple of `n_head` (3)");
        assert_eq!(refusal("n_layer", Value::Null), "no `n_layer`");
    }

    #[test]
    fn the_keys_that_the_published_gpt2_leaves_out_mean_what_transformers_takes_them_for() {
        let published = json!({ "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
                                "n_ctx": 1024, "n_positions": 1024, "activation_function": "gelu_new" });
        let config = Config::from_hf(&published.to_string()).unwrap();
        assert_eq!((config.intermediate_size, config.context(), config.tie_word_embeddings), (3072, 1024, true));
    }

    #[test]
    fn missing_and_impossible_sizes_are_named() {
        assert_eq!(refusal("hidden_size", Value::Null), "no `hidden_size`");
        assert_eq!(refusal("vocab_size", json!(0)), "`vocab_size` is 0; it must be a whole number above zero");
        assert_eq!(
            refusal("num_key_value_heads", json!(3)),
            "`num_attention_heads` (2) must be a multiple of `num_key_value_heads` (3)"
        );
        assert_eq!(
            refusal("head_dim", json!(3)),
            "`head_dim` is 3: rotary positions turn halves of a head, so it must be even"
        );
        assert_eq!(refusal("rms_norm_eps", json!("x")), "`rms_norm_eps` is \"x\"; it must be a number above zero");
    }
}
