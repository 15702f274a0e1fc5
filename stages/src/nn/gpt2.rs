//! GPT-2's tensors as its files hold them: query, key and value in one, every matrix `[in, out]`.
//! Knows nothing of files; the decoder's own names and layouts are those of [`super::weights::expected`].

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{
    config::Config,
    weights::{self, Weight, Weights},
};

/// Before every name but the head's. Older files leave it out.
pub const PREFIX: &str = "transformer.";

/// What a layer calls its tensors, and what the decoder calls the parts of each.
const LAYER: [(&str, &[&str]); 6] = [
    ("ln_1", &["input_layernorm"]),
    ("attn.c_attn", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("attn.c_proj", &["self_attn.o_proj"]),
    ("ln_2", &["post_attention_layernorm"]),
    ("mlp.c_fc", &["mlp.up_proj"]),
    ("mlp.c_proj", &["mlp.down_proj"]),
];

/// A tensor of a file, made of the decoder's: one under the other, then turned.
struct Tensor {
    name: String,
    parts: Vec<String>,
    is_turned: bool,
}

fn tensors(config: &Config) -> Vec<Tensor> {
    let whole = |name: &str, part: &str| Tensor { name: name.into(), parts: vec![part.into()], is_turned: false };
    let mut all = vec![
        whole("transformer.wte.weight", "model.embed_tokens.weight"),
        whole("transformer.wpe.weight", "model.embed_positions.weight"),
        whole("transformer.ln_f.weight", "model.norm.weight"),
        whole("transformer.ln_f.bias", "model.norm.bias"),
    ];
    if !config.tie_word_embeddings {
        all.push(whole("lm_head.weight", "lm_head.weight"));
    }
    for layer in 0..config.num_hidden_layers {
        for (name, parts) in LAYER {
            for kind in ["weight", "bias"] {
                let of = |part: &&str| format!("model.layers.{layer}.{part}.{kind}");
                all.push(Tensor {
                    name: format!("{PREFIX}h.{layer}.{name}.{kind}"),
                    parts: parts.iter().map(of).collect(),
                    is_turned: name.contains(".c_") && kind == "weight",
                });
            }
        }
    }
    all
}

/// The names and shapes that a file has.
#[must_use]
pub fn stored(config: &Config) -> Vec<(String, Vec<usize>)> {
    let expected: BTreeMap<_, _> = weights::expected(config).into_iter().collect();
    let shape = |tensor: &Tensor| {
        let mut shape = expected[&tensor.parts[0]].clone();
        shape[0] = tensor.parts.iter().map(|part| expected[part][0]).sum();
        if tensor.is_turned {
            shape.reverse();
        }
        shape
    };
    tensors(config).into_iter().map(|tensor| (tensor.name.clone(), shape(&tensor))).collect()
}

/// From the decoder's weights to those of a file.
///
/// # Errors
/// When a weight is missing.
pub fn join(config: &Config, weights: &Weights) -> Result<Weights> {
    let joined = |tensor: Tensor| -> Result<(String, Weight)> {
        let mut joined = Weight { shape: Vec::new(), values: Vec::new() };
        for name in &tensor.parts {
            let part = weights.get(name).with_context(|| format!("no weight `{name}`"))?;
            match joined.shape.first_mut() {
                Some(rows) => *rows += part.shape[0],
                None => joined.shape.clone_from(&part.shape),
            }
            joined.values.extend_from_slice(&part.values);
        }
        Ok((tensor.name, if tensor.is_turned { turned(&joined) } else { joined }))
    };
    tensors(config).into_iter().map(joined).collect()
}

/// From the weights of a file, all of them there with their shapes, to the decoder's.
#[must_use]
pub fn split(config: &Config, mut stored: Weights) -> Weights {
    let expected: BTreeMap<_, _> = weights::expected(config).into_iter().collect();
    let mut weights = Weights::new();
    for tensor in tensors(config) {
        let whole = stored.remove(&tensor.name).expect("reading found every tensor");
        let whole = if tensor.is_turned { turned(&whole) } else { whole };
        let mut rest = &whole.values[..];
        for part in tensor.parts {
            let shape = expected[&part].clone();
            let (values, more) = rest.split_at(shape.iter().product());
            weights.insert(part, Weight { shape, values: values.to_vec() });
            rest = more;
        }
    }
    weights
}

fn turned(matrix: &Weight) -> Weight {
    let [rows, columns] = matrix.shape[..] else { unreachable!("only matrices are turned") };
    let values = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    Weight { shape: vec![columns, rows], values: values.map(|at| matrix.values[at]).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{config::Family, shape::Shape};

    #[test]
    fn query_key_and_value_stand_side_by_side_and_turned() {
        let shape = Shape { family: Family::Gpt2, layers: 1, hidden: 2, heads: 1, ..Shape::default() };
        let config = shape.config(3).unwrap();
        let mut weights = weights::init(&config, 1, 0.02);
        for (name, first) in [("q", 0.0), ("k", 10.0), ("v", 20.0)] {
            let values = vec![first + 1.0, first + 2.0, first + 3.0, first + 4.0];
            weights.get_mut(&format!("model.layers.0.self_attn.{name}_proj.weight")).unwrap().values = values;
        }
        let joined = join(&config, &weights).unwrap();
        let fused = &joined["transformer.h.0.attn.c_attn.weight"];
        assert_eq!(fused.shape, [2, 6]);
        assert_eq!(fused.values, [1.0, 3.0, 11.0, 13.0, 21.0, 23.0, 2.0, 4.0, 12.0, 14.0, 22.0, 24.0]);
        let shapes: Vec<(String, Vec<usize>)> =
            joined.iter().map(|(name, weight)| (name.clone(), weight.shape.clone())).collect();
        let mut expected = stored(&config);
        expected.sort();
        assert_eq!(shapes, expected);
        assert_eq!(split(&config, joined), weights);
    }
}
