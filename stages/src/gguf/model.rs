//! A model as llama.cpp names it: its architecture's metadata and its tensors.
//! Knows nothing of tokens or files.

use std::borrow::Cow;

use anyhow::{Context as _, Result, bail, ensure};
use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{
    block::{BLOCK, Type},
    file::{Tensor, Value},
};
use crate::nn::{
    config::Config,
    weights::{Weight, Weights},
};

/// llama.cpp's name of the architecture.
///
/// # Errors
/// Lists what is supported where the family is not.
pub fn architecture(config: &Config) -> Result<&'static str> {
    Ok(match config.family.model_type() {
        // To llama.cpp a Mistral is a Llama.
        "llama" | "mistral" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        "smollm3" => {
            // Not in the file: llama.cpp leaves the position out of every fourth layer.
            let expected: Vec<u8> = (1..=config.num_hidden_layers).map(|layer| (layer % 4 != 0).into()).collect();
            let rotated = config.to_hf().get("no_rope_layers").cloned().unwrap_or_default();
            ensure!(
                rotated == json!(expected),
                "llama.cpp has positions in the layers {expected:?}, this model in {rotated}"
            );
            "smollm3"
        }
        other => bail!(
            "GGUF files of `{other}` are not supported; supported: `llama`, `mistral`, `qwen2`, `qwen3`, `smollm3`"
        ),
    })
}

/// The keys that llama.cpp reads a model's shape from.
///
/// # Errors
/// When llama.cpp would compute something else.
pub fn metadata(config: &Config) -> Result<Vec<(String, Value)>> {
    let architecture = architecture(config)?;
    let mut all = Vec::new();
    let mut set = |key: &str, value: Value| all.push((format!("{architecture}.{key}"), value));
    let count = |count: usize| Value::U32(count as u32);
    set("block_count", count(config.num_hidden_layers));
    set("context_length", count(config.max_position_embeddings));
    set("embedding_length", count(config.hidden_size));
    set("feed_forward_length", count(config.intermediate_size));
    set("attention.head_count", count(config.num_attention_heads));
    set("attention.head_count_kv", count(config.num_key_value_heads));
    set("attention.key_length", count(config.head_dim));
    set("attention.value_length", count(config.head_dim));
    set("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
    set("rope.dimension_count", count(config.head_dim));
    set("rope.freq_base", Value::F32(config.rope_theta));
    set("vocab_size", count(config.vocab_size));
    if let Some(scaling) = scaling(config)? {
        match scaling.kind {
            "linear" => {
                set("rope.scaling.type", Value::Text("linear".into()));
                set("rope.scaling.factor", Value::F32(scaling.number("factor")?));
            }
            // Its factors are a tensor.
            _ => ensure!(architecture == "llama", "llama.cpp has `llama3` positions for `llama` alone"),
        }
    }
    Ok(all)
}

/// The tensors under llama.cpp's names. Norms and biases stay f32; so does nothing else but with `Type::F32`.
///
/// # Errors
/// When a weight has no counterpart, or a value is too large for f16.
pub fn tensors<'a>(config: &Config, weights: &'a Weights, kind: Type) -> Result<Vec<Tensor<'a>>> {
    let is_permuted = matches!(architecture(config)?, "llama" | "smollm3");
    let mut tensors = Vec::new();
    if let Some(factors) = rope_factors(config)? {
        let shape = vec![factors.len()];
        tensors.push(Tensor { name: "rope_freqs.weight".into(), shape, kind: Type::F32, values: Cow::Owned(factors) });
    }
    for (name, weight) in weights {
        let renamed = renamed(name).with_context(|| format!("tensor `{name}` has no name in llama.cpp"))?;
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") if is_permuted => Some(config.num_attention_heads),
            Some("k_proj") if is_permuted => Some(config.num_key_value_heads),
            _ => None,
        };
        let values = match heads {
            Some(heads) => Cow::Owned(interleaved(weight, heads)),
            None => Cow::Borrowed(&weight.values[..]),
        };
        let width = weight.shape.last().copied().unwrap_or(1);
        let kind = match kind {
            _ if weight.shape.len() < 2 => Type::F32,
            // A row must be whole blocks.
            Type::Q8_0 if !width.is_multiple_of(BLOCK) => Type::F16,
            other => other,
        };
        // The scale of a block is at most a 127th of its values.
        let most = if kind == Type::Q8_0 { 127.0 } else { 1.0 };
        let overflows = |value: &&f32| kind != Type::F32 && f16::from_f32(**value / most).is_infinite();
        if let Some(value) = values.par_iter().find_first(overflows) {
            bail!("tensor `{name}` holds {value}, which does not fit into f16");
        }
        tensors.push(Tensor { name: renamed, shape: weight.shape.clone(), kind, values });
    }
    Ok(tensors)
}

/// llama.cpp's name: `model.layers.0.self_attn.q_proj.weight` is `blk.0.attn_q.weight`.
fn renamed(name: &str) -> Option<String> {
    let (module, end) = name.rsplit_once('.')?;
    let plain = match module {
        "model.embed_tokens" => "token_embd",
        "model.norm" => "output_norm",
        "lm_head" => "output",
        _ => {
            let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
            let module = match module {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                _ => return None,
            };
            return Some(format!("blk.{layer}.{module}.{end}"));
        }
    };
    Some(format!("{plain}.{end}"))
}

/// The rows of each head, of which rotary positions turn the first half with the second, in the order in which
/// llama.cpp's Llama turns neighbours: 0, n, 1, n + 1, ... for a half of n rows.
fn interleaved(weight: &Weight, heads: usize) -> Vec<f32> {
    let rows = weight.shape[0];
    let width = weight.values.len() / rows;
    let (head, half) = (rows / heads, rows / heads / 2);
    let from = |row: usize| (row / head) * head + (row % head % 2) * half + row % head / 2;
    (0..rows).flat_map(|row| &weight.values[from(row) * width..][..width]).copied().collect()
}

/// `rope_scaling` of `config.json`.
struct Scaling {
    kind: &'static str,
    keys: Map<String, Json>,
}

impl Scaling {
    fn number(&self, key: &str) -> Result<f32> {
        let number = self.keys.get(key).and_then(Json::as_f64);
        Ok(number.with_context(|| format!("`rope_scaling` has no number `{key}`"))? as f32)
    }
}

fn scaling(config: &Config) -> Result<Option<Scaling>> {
    let map = config.to_hf();
    let block = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| map.get(key)?.as_object());
    let Some(keys) = block else { return Ok(None) };
    let kind = match keys.get("rope_type").or_else(|| keys.get("type")).and_then(Json::as_str) {
        None | Some("default") => return Ok(None),
        Some("linear") => "linear",
        Some("llama3") => "llama3",
        Some(other) => bail!("GGUF files with `rope_type` `{other}` are not supported; supported: `linear`, `llama3`"),
    };
    Ok(Some(Scaling { kind, keys: keys.clone() }))
}

/// What `llama3` divides each frequency by, as llama.cpp's converter works it out.
fn rope_factors(config: &Config) -> Result<Option<Vec<f32>>> {
    let Some(scaling) = scaling(config)?.filter(|scaling| scaling.kind == "llama3") else { return Ok(None) };
    let [factor, low, high, context] =
        ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
    let [factor, low, high, context] =
        [scaling.number(factor)?, scaling.number(low)?, scaling.number(high)?, scaling.number(context)?];
    let of = |pair: usize| {
        let frequency = 1.0 / config.rope_theta.powf(2.0 * pair as f32 / config.head_dim as f32);
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok(Some((0..config.head_dim / 2).map(of).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_head_become_neighbours() {
        // Two heads of four rows, one number each.
        let weight = Weight { shape: vec![8, 1], values: (0..8_u8).map(f32::from).collect() };
        assert_eq!(interleaved(&weight, 2), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
