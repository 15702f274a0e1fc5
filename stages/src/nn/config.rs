//! The shape of a model, read from and written to a Hugging Face `config.json`.
//! Knows nothing of weights or tokens.

use anyhow::{Context as _, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rope::{self, RopeScaling};

/// A family of decoder-only transformers; all but GPT-2 have `RMSNorm`, half-split `RoPE`, grouped queries and `SwiGLU`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// No query and key norm; biases only where its config asks for them. SmolLM2 is one.
    #[default]
    Llama,
    /// As Llama, without biases; attention may be limited to a window.
    Mistral,
    /// As Llama, with biases on the query, key and value projections.
    Qwen2,
    /// As Llama, with an `RMSNorm` on each head's query and key.
    Qwen3,
    /// As Llama, with layers whose queries and keys carry no position (Yang et al., arXiv 2501.18795).
    SmolLm3,
    /// Layer norm, learned positions, GELU, and biases on all projections.
    Gpt2,
}

impl Family {
    pub const ALL: [Self; 6] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::SmolLm3, Self::Gpt2];

    /// `model_type` in `config.json`.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::SmolLm3 => "smollm3",
            Self::Gpt2 => "gpt2",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
        }
    }

    /// What transformers takes keys for that a `config.json` leaves out. GPT-2's are apart, as its keys are.
    fn absent(self) -> Absent {
        let plain = Absent { kv_heads: None, positions: 32_768, theta: 10_000.0, is_tied: false };
        match self {
            Self::Llama | Self::Gpt2 => Absent { positions: 2048, ..plain },
            Self::Mistral => Absent { kv_heads: Some(8), positions: 131_072, ..plain },
            Self::Qwen2 | Self::Qwen3 => Absent { kv_heads: Some(32), ..plain },
            Self::SmolLm3 => Absent { kv_heads: Some(4), theta: 2_000_000.0, is_tied: true, ..plain },
        }
    }

    /// Which layers of a new model carry no position.
    pub(super) fn unrotated(self, layers: usize) -> Vec<usize> {
        if self == Self::SmolLm3 { every_last_of(SMOLLM3_INTERVAL, layers) } else { Vec::new() }
    }
}

struct Absent {
    /// As many as `num_attention_heads` where the family has no number of its own.
    kv_heads: Option<usize>,
    positions: usize,
    theta: f32,
    is_tied: bool,
}

/// `no_rope_layer_interval` where it is not given.
const SMOLLM3_INTERVAL: usize = 4;

/// The window of a Mistral model that says nothing of it.
const MISTRAL_WINDOW: usize = 4096;

fn every_last_of(interval: usize, layers: usize) -> Vec<usize> {
    (0..layers).filter(|layer| (layer + 1).is_multiple_of(interval)).collect()
}

/// All that decides which weights a model has and how they compute. Names are those of Llama's `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that the families combine as they like")]
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
    pub rope_scaling: RopeScaling,
    /// Layers, counted from zero and in order, whose queries and keys carry no position.
    pub unrotated: Vec<usize>,
    pub max_position_embeddings: usize,
    /// How far back a token looks. Longer sequences are refused: inside of it, attention is full attention.
    pub sliding_window: Option<usize>,
    pub tie_word_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub attention_bias: bool,
    /// A bias on the attention's output projection.
    pub output_bias: bool,
    /// Biases on the projections of the feed-forward layer.
    pub mlp_bias: bool,
    /// `RMSNorm` on each head's query and key.
    pub qk_norm: bool,
}

/// Longest context for which rotary angles are kept; a model that states more can still be used up to here.
const LONGEST_CONTEXT: usize = 32 * 1024;

impl Config {
    /// Most tokens that a sequence may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sliding_window.unwrap_or(usize::MAX).min(self.max_position_embeddings).min(LONGEST_CONTEXT)
    }

    /// # Errors
    /// When a sequence of `tokens` does not fit the context.
    pub fn check_length(&self, tokens: usize, what: &str) -> Result<()> {
        let most = self.context();
        let of_window = if self.sliding_window == Some(most) {
            " (its `sliding_window`: attention that slides is not supported)"
        } else {
            ""
        };
        ensure!(tokens <= most, "{what} has {tokens} tokens, more than the model's context of {most}{of_window}");
        Ok(())
    }

    /// By how much each pair of channels turns from one position to the next: `[head_dim / 2]`, in radians.
    #[must_use]
    pub fn rope_frequencies(&self) -> Vec<f32> {
        self.rope_scaling.frequencies(self.head_dim, self.rope_theta)
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
        let num_hidden_layers = keys.count("num_hidden_layers")?;
        let default_head_dim = match family {
            // transformers fixes it for Qwen3, whose heads may be wider than the hidden size.
            Family::Qwen3 => 128,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::SmolLm3 | Family::Gpt2 => {
                hidden_size / num_attention_heads
            }
        };
        let absent = family.absent();
        let kv_heads = if keys.is_null("num_key_value_heads") { None } else { absent.kv_heads };
        let (rope_theta, rope_scaling) = rope::read(&keys, absent.theta)?;
        let (attention_bias, output_bias, mlp_bias) = biases(family, &keys)?;
        let config = Self {
            family,
            vocab_size: keys.count("vocab_size")?,
            hidden_size,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: keys.count_or("num_key_value_heads", kv_heads.unwrap_or(num_attention_heads))?,
            head_dim: keys.count_or("head_dim", default_head_dim)?,
            rms_norm_eps: keys.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            unrotated: if family == Family::SmolLm3 { unrotated(&keys, num_hidden_layers)? } else { Vec::new() },
            max_position_embeddings: keys.count_or("max_position_embeddings", absent.positions)?,
            sliding_window: match family {
                Family::Mistral if keys.is_null("sliding_window") => None,
                Family::Mistral => Some(keys.count_or("sliding_window", MISTRAL_WINDOW)?),
                // Theirs has a switch, which is refused where it is on.
                Family::Llama | Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 | Family::Gpt2 => None,
            },
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", absent.is_tied)?,
            attention_bias,
            output_bias,
            mlp_bias,
            qk_norm: family == Family::Qwen3,
        };
        config.check()?;
        Ok(config)
    }

    /// The keys of a `config.json` that transformers loads, without the ids of special tokens, or with none for them.
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
        if !matches!(self.family, Family::Qwen2 | Family::Mistral) {
            // Qwen2 has its biases always, Mistral never, and neither a key for them.
            set("attention_bias", json!(self.attention_bias));
        }
        set("attention_dropout", json!(0.0));
        set("head_dim", json!(self.head_dim));
        set("hidden_act", json!("silu"));
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("max_position_embeddings", json!(self.max_position_embeddings));
        if matches!(self.family, Family::Llama | Family::SmolLm3) {
            set("mlp_bias", json!(self.mlp_bias));
        }
        if self.family == Family::SmolLm3 {
            let rotated = |layer: usize| u8::from(self.rotates(layer));
            set("no_rope_layers", (0..self.num_hidden_layers).map(rotated).collect());
        }
        if matches!(self.family, Family::Mistral | Family::SmolLm3) {
            // Left out, transformers would take them for those of the published models; for SmolLM3 that is a padding
            // beyond small vocabularies, which does not load.
            for id in ["bos_token_id", "eos_token_id", "pad_token_id"] {
                set(id, Value::Null);
            }
        }
        if self.family == Family::Mistral {
            // Said even where there is none: left out it would be 4096.
            set("sliding_window", json!(self.sliding_window));
        }
        set("num_attention_heads", json!(self.num_attention_heads));
        set("num_hidden_layers", json!(self.num_hidden_layers));
        set("num_key_value_heads", json!(self.num_key_value_heads));
        set("rms_norm_eps", decimal(self.rms_norm_eps));
        map.extend(rope::written(self.rope_theta, self.rope_scaling));
        map
    }

    /// Do this layer's queries and keys carry a position?
    #[must_use]
    pub fn rotates(&self, layer: usize) -> bool {
        !self.unrotated.contains(&layer)
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
        let (head_dim, most) = (self.head_dim, most("head_dim"));
        ensure!(head_dim <= most, "heads of {head_dim} channels; at most {most} are supported");
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
        keys.refuse_flag(key)?;
    }
    let is_scaled = keys.flag_or("scale_attn_weights", true)?;
    ensure!(is_scaled, "`scale_attn_weights` is false, which is not supported; supported: true");
    let (hidden_size, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
    ensure!(hidden_size.is_multiple_of(heads), "`n_embd` ({hidden_size}) must be a multiple of `n_head` ({heads})");
    let config = Config {
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
        rope_scaling: RopeScaling::Default,
        unrotated: Vec::new(),
        max_position_embeddings: keys.count_or("n_positions", 1024)?,
        sliding_window: None,
        tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
        attention_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: false,
    };
    config.check()?;
    Ok(config)
}

/// Refuses every key whose value would change what the model computes in a way the decoder does not follow.
fn refuse_unsupported(keys: &Keys) -> Result<()> {
    match keys.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu") => {}
        Some(other) => bail!("`hidden_act` is `{other}`, which is not supported; supported: `silu`"),
    }
    if let Some(quantised) = keys.get("quantization_config") {
        let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        bail!(
            "`quantization_config` is there (`{method}`), which is not supported; supported: f32, f16 and bf16 weights"
        );
    }
    keys.refuse_flag("use_sliding_window")?;
    for layer in keys.get("layer_types").and_then(Value::as_array).into_iter().flatten() {
        ensure!(
            layer.as_str() == Some("full_attention"),
            "`layer_types` holds {layer}, which is not supported; supported: \"full_attention\""
        );
    }
    keys.whole_rotation()
}

/// On query, key and value; on the attention's output; in the feed-forward layer.
fn biases(family: Family, keys: &Keys) -> Result<(bool, bool, bool)> {
    // In transformers `attention_bias` gives the output projection one too; Qwen2's own three have no key.
    let attention = |key: &str| keys.flag(key).map(|is_set| (is_set, is_set));
    let ((inputs, output), mlp) = match family {
        Family::Llama | Family::SmolLm3 => (attention("attention_bias")?, keys.flag("mlp_bias")?),
        Family::Qwen3 => (attention("attention_bias")?, false),
        Family::Qwen2 => ((true, false), false),
        Family::Mistral => ((false, false), false),
        Family::Gpt2 => ((true, true), true),
    };
    Ok((inputs, output, mlp))
}

/// SmolLM3's layers without positions: zeros of `no_rope_layers`, or the last of every `no_rope_layer_interval`.
fn unrotated(keys: &Keys, layers: usize) -> Result<Vec<usize>> {
    let Some(value) = keys.get("no_rope_layers") else {
        return Ok(every_last_of(keys.count_or("no_rope_layer_interval", SMOLLM3_INTERVAL)?, layers));
    };
    let marks =
        value.as_array().filter(|marks| marks.len() >= layers && marks.iter().all(|one| *one == 0 || *one == 1));
    let marks = marks.with_context(|| {
        format!("`no_rope_layers` is {value}; it must be a list of 0 and 1, at least one for each of {layers} layers")
    })?;
    Ok((0..layers).filter(|layer| marks[*layer] == 0).collect())
}

/// The shortest decimal that reads back as the same f32: 1e-5 and not 9.999999747378752e-6.
pub(super) fn decimal(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().expect("a printed f32 is a number");
    json!(shortest)
}

/// The largest count that a key may have. Tensors are listed by these numbers and tables made by them before a file of
/// weights is looked at; and no product of them leaves 64 bits. Published models stay below a tenth of each.
fn most(key: &str) -> usize {
    match key {
        "num_hidden_layers" | "n_layer" => 10_000,
        "head_dim" => 4096,
        "hidden_size" | "n_embd" | "num_attention_heads" | "n_head" | "num_key_value_heads" => 1_000_000,
        "intermediate_size" | "n_inner" => 10_000_000,
        "vocab_size" => 100_000_000,
        // Positions, of which at most as many are used as a model is asked for.
        _ => 1 << 40,
    }
}

/// Typed access to the keys of a `config.json`; null counts as absent, as in transformers.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl Keys<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Is it there, and null? The few keys whose absence means something else are asked for it.
    fn is_null(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(Value::is_null)
    }

    pub(super) fn count(&self, key: &str) -> Result<usize> {
        let value = self.get(key).with_context(|| format!("no `{key}`"))?;
        let count = value.as_u64().filter(|count| *count > 0).and_then(|count| usize::try_from(count).ok());
        let count = count.with_context(|| format!("`{key}` is {value}; it must be a whole number above zero"))?;
        let most = most(key);
        ensure!(count <= most, "`{key}` is {count}; at most {most} are supported");
        Ok(count)
    }

    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    pub(super) fn number(&self, key: &str) -> Result<f32> {
        let value = self.get(key).with_context(|| format!("no `{key}`"))?;
        let number = value.as_f64().map(|number| number as f32).filter(|number| *number > 0.0);
        let number = number.with_context(|| format!("`{key}` is {value}; it must be a number above zero"))?;
        ensure!(number.is_finite(), "`{key}` is {value}, which does not fit into 32 bits");
        Ok(number)
    }

    fn number_or(&self, key: &str, default: f32) -> Result<f32> {
        if self.get(key).is_some() { self.number(key) } else { Ok(default) }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().with_context(|| format!("`{key}` is {value}; it must be true or false"))
    }

    fn refuse_flag(&self, key: &str) -> Result<()> {
        ensure!(!self.flag(key)?, "`{key}` is true, which is not supported; supported: false");
        Ok(())
    }

    /// Refuses heads of which only a part is turned.
    pub(super) fn whole_rotation(&self) -> Result<()> {
        let partial = self.number_or("partial_rotary_factor", 1.0)?;
        ensure!(partial == 1.0, "`partial_rotary_factor` is {partial}, which is not supported; supported: 1.0");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{families, fixture, shared};

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
            rope_scaling: RopeScaling::Default,
            unrotated: Vec::new(),
            max_position_embeddings: 128,
            sliding_window: None,
            tie_word_embeddings: true,
            attention_bias: false,
            output_bias: false,
            mlp_bias: false,
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
            output_bias: true,
            mlp_bias: true,
            ..llama.clone()
        };
        assert_eq!(read("gpt2"), gpt2);

        let plain = Config { max_position_embeddings: 256, tie_word_embeddings: false, ..llama };
        let llama3 = Config {
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 16,
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 32,
            },
            ..plain.clone()
        };
        assert_eq!(read("llama3"), llama3);
        // As transformers 4 writes it.
        let linear = Config {
            num_key_value_heads: 4,
            rope_scaling: RopeScaling::Linear { factor: 4.0 },
            attention_bias: true,
            output_bias: true,
            mlp_bias: true,
            ..plain.clone()
        };
        assert_eq!(read("llama-linear"), linear);
        let mistral = Config { family: Family::Mistral, head_dim: 16, sliding_window: Some(128), ..plain.clone() };
        assert_eq!(read("mistral"), mistral);
        let three_heads = Config {
            hidden_size: 24,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            tie_word_embeddings: true,
            ..plain.clone()
        };
        assert_eq!(read("smollm2"), Config { rope_theta: 1e5, ..three_heads.clone() });
        let smollm3 = Config {
            family: Family::SmolLm3,
            num_hidden_layers: 4,
            rope_theta: 5e6,
            unrotated: vec![3],
            ..three_heads
        };
        assert_eq!(read("smollm3"), smollm3);
    }

    #[test]
    fn rope_theta_is_read_in_the_old_place_too() {
        let Some(path) = shared("models/stories260K/hf/config.json") else { return };
        let config = Config::from_hf(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((config.rope_theta, config.head_dim, config.num_key_value_heads), (10_000.0, 8, 4));
    }

    #[test]
    fn a_written_config_reads_back_the_same() {
        let reads_back = |config: &Config| {
            let text = Value::Object(config.to_hf()).to_string();
            assert_eq!(Config::from_hf(&text).unwrap(), *config, "{text}");
            text
        };
        for family in Family::ALL {
            let rope_theta = if family == Family::Gpt2 { 10_000.0 } else { 500_000.0 };
            let shape = crate::nn::shape::Shape { family, rope_theta, ..Default::default() };
            let text = reads_back(&shape.config(71).unwrap());
            let epsilon = if family == Family::Gpt2 { "layer_norm_epsilon" } else { "rms_norm_eps" };
            let written = ["0.00001", "1e-5"].map(|value| format!("\"{epsilon}\":{value}"));
            assert!(written.iter().any(|written| text.contains(written)), "{text}");
        }
        for name in families() {
            let text = std::fs::read_to_string(fixture(&name).join("config.json")).unwrap();
            reads_back(&Config::from_hf(&text).unwrap());
        }
    }

    /// By the defaults in transformers' configuration classes.
    #[test]
    fn keys_that_a_config_leaves_out_mean_what_transformers_takes_them_for() {
        let of = |family: &str, more: Value| {
            let mut config = tiny();
            config["model_type"] = json!(family);
            config["num_attention_heads"] = json!(64);
            config["hidden_size"] = json!(512);
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Config::from_hf(&config.to_string()).unwrap()
        };
        let facts = |family: &str| {
            let config = of(family, json!({}));
            let Config { num_key_value_heads: kv, max_position_embeddings: positions, head_dim, rope_theta, .. } =
                config;
            (kv, positions, head_dim, rope_theta, config.tie_word_embeddings, config.sliding_window)
        };
        assert_eq!(facts("llama"), (64, 2048, 8, 1e4, false, None));
        assert_eq!(facts("mistral"), (8, 131_072, 8, 1e4, false, Some(4096)));
        assert_eq!(facts("qwen2"), (32, 32_768, 8, 1e4, false, None));
        assert_eq!(facts("qwen3"), (32, 32_768, 128, 1e4, false, None));
        assert_eq!(facts("smollm3"), (4, 32_768, 8, 2e6, true, None));
        let nulls = of("mistral", json!({ "num_key_value_heads": null, "sliding_window": null }));
        assert_eq!((nulls.num_key_value_heads, nulls.sliding_window), (64, None));
    }

    #[test]
    fn biases_are_where_transformers_has_them_for_the_key() {
        let of = |family: &str, key: &str| {
            let mut config = tiny();
            config["model_type"] = json!(family);
            config["num_key_value_heads"] = json!(1);
            config[key] = json!(true);
            let config = Config::from_hf(&config.to_string()).unwrap();
            assert_eq!(Config::from_hf(&Value::Object(config.to_hf()).to_string()).unwrap(), config);
            (config.attention_bias, config.output_bias, config.mlp_bias)
        };
        for family in ["llama", "smollm3"] {
            assert_eq!(of(family, "attention_bias"), (true, true, false));
            assert_eq!(of(family, "mlp_bias"), (false, false, true));
        }
        assert_eq!(of("qwen3", "attention_bias"), (true, true, false));
        // Keys that these two do not have.
        assert_eq!(of("qwen2", "attention_bias"), (true, false, false));
        assert_eq!(of("mistral", "attention_bias"), (false, false, false));
    }

    #[test]
    fn layers_without_positions_are_listed_or_counted() {
        let of = |more: Value| {
            let mut config = json!({ "model_type": "smollm3", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
                                     "num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1 });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Config::from_hf(&config.to_string()).map(|config| config.unrotated)
        };
        assert_eq!(of(json!({})).unwrap(), [3]);
        assert_eq!(of(json!({ "no_rope_layer_interval": 2 })).unwrap(), [1, 3, 5]);
        let listed = json!({ "no_rope_layers": [0, 1, 1, 1, 1, 0, 0], "no_rope_layer_interval": 2 });
        assert_eq!(of(listed).unwrap(), [0, 5]);
        assert_eq!(
            of(json!({ "no_rope_layers": [1, 1] })).unwrap_err().to_string(),
            "`no_rope_layers` is [1,1]; it must be a list of 0 and 1, at least one for each of 6 layers"
        );
    }

    #[test]
    fn a_sequence_longer_than_the_window_is_refused_by_the_window() {
        let mut config = tiny();
        config["model_type"] = json!("mistral");
        config["num_key_value_heads"] = json!(1);
        config["sliding_window"] = json!(16);
        let config = Config::from_hf(&config.to_string()).unwrap();
        config.check_length(16, "row 1").unwrap();
        assert_eq!(
            config.check_length(17, "row 1").unwrap_err().to_string(),
            "row 1 has 17 tokens, more than the model's context of 16 (its `sliding_window`: attention that slides is \
             not supported)"
        );
        let whole = Config { sliding_window: Some(1_000_000), max_position_embeddings: 8, ..config };
        assert_eq!(
            whole.check_length(9, "row 1").unwrap_err().to_string(),
            "row 1 has 9 tokens, more than the model's context of 8"
        );
    }

    #[test]
    fn what_the_decoder_does_not_compute_is_refused_by_the_deciding_key() {
        assert_eq!(
            refusal("model_type", json!("gemma2")),
            "`model_type` is \"gemma2\", which is not supported; supported: `llama`, `mistral`, `qwen2`, `qwen3`, `smollm3`, \
             `gpt2`"
        );
        assert_eq!(
            refusal("model_type", Value::Null),
            "no `model_type`; it must be one of `llama`, `mistral`, `qwen2`, `qwen3`, `smollm3`, `gpt2`"
        );
        assert_eq!(
            refusal("hidden_act", json!("gelu")),
            "`hidden_act` is `gelu`, which is not supported; supported: `silu`"
        );
        assert_eq!(
            refusal("use_sliding_window", json!(true)),
            "`use_sliding_window` is true, which is not supported; supported: false"
        );
        assert_eq!(
            refusal("layer_types", json!(["full_attention", "sliding_attention"])),
            "`layer_types` holds \"sliding_attention\", which is not supported; supported: \"full_attention\""
        );
        assert_eq!(
            refusal("partial_rotary_factor", json!(0.5)),
            "`partial_rotary_factor` is 0.5, which is not supported; supported: 1.0"
        );
        assert_eq!(
            refusal("quantization_config", json!({ "quant_method": "awq" })),
            "`quantization_config` is there (`awq`), which is not supported; supported: f32, f16 and bf16 weights"
        );
        assert_eq!(
            refusal("rope_scaling", json!({ "rope_type": "yarn", "factor": 8.0 })),
            "`rope_scaling.rope_type` is \"yarn\", which is not supported; supported: `default`, `linear`, `llama3`"
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

    #[test]
    fn numbers_that_no_model_has_are_refused_at_their_key() {
        for layers in [1_000_000_000_u64, 1 << 40] {
            let expected = format!("`num_hidden_layers` is {layers}; at most 10000 are supported");
            assert_eq!(refusal("num_hidden_layers", json!(layers)), expected);
        }
        let counts = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
        let others = ["num_key_value_heads", "head_dim", "max_position_embeddings"];
        for key in counts.into_iter().chain(others) {
            for value in [json!(-1), json!(0), json!(1.5), json!(1e300), json!(true), json!([1]), json!("1")] {
                let message = refusal(key, value.clone());
                assert_eq!(message, format!("`{key}` is {value}; it must be a whole number above zero"));
            }
            let message = refusal(key, json!(u64::MAX));
            assert!(message.starts_with(&format!("`{key}` is 18446744073709551615; at most ")), "{message}");
        }
        for key in ["rms_norm_eps", "rope_theta"] {
            for value in [json!(-1.0), json!(0), json!(1e-300), json!("x")] {
                let message = refusal(key, value.clone());
                assert_eq!(message, format!("`{key}` is {value}; it must be a number above zero"));
            }
            assert_eq!(refusal(key, json!(1e308)), format!("`{key}` is 1e+308, which does not fit into 32 bits"));
        }
        let gpt2 = json!({ "model_type": "gpt2", "vocab_size": 8, "n_embd": 8192, "n_layer": 1, "n_head": 1 });
        let message = Config::from_hf(&gpt2.to_string()).unwrap_err().to_string();
        assert_eq!(message, "heads of 8192 channels; at most 4096 are supported");
        let gpt2 = json!({ "model_type": "gpt2", "vocab_size": 8, "n_embd": u64::MAX, "n_layer": 1, "n_head": 1 });
        assert!(Config::from_hf(&gpt2.to_string()).is_err());
    }
}
