//! The shape of a new model, in the few words that a pipeline uses for it.
//! Knows nothing of weights or tokens; the vocabulary comes from the tokenizer.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::{
    config::{Config, Family},
    rope::RopeScaling,
};

/// Sizes of a model to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Whose architecture: `llama`, `mistral` (the same under another name), `qwen2` (biases on query, key and value),
    /// `qwen3` (norms on query and key), `smollm3` (no positions in every fourth layer) or `gpt2` (layer norm, learned
    /// positions, GELU, biases).
    pub family: Family,
    /// Transformer layers.
    #[schemars(range(min = 1, max = 1000))]
    pub layers: usize,
    /// Width of the residual stream; a multiple of `heads`.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub hidden: usize,
    /// Attention heads.
    #[schemars(range(min = 1, max = 10_000))]
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`; absent: as many as `heads`.
    #[schemars(range(min = 1, max = 10_000))]
    pub kv_heads: Option<usize>,
    /// Width inside the feed-forward layer; absent: 8/3 of `hidden`, rounded up to a multiple of 32; for `gpt2` 4 times
    /// `hidden`.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub ffn: Option<usize>,
    /// The most tokens that the model will see at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context: usize,
    /// Do the input and output embeddings share their weights?
    pub tied: bool,
    /// Base of the rotary positions' wavelengths; `gpt2` has none.
    #[schemars(range(min = 1.0, max = 1e12))]
    pub rope_theta: f32,
    /// Standard deviation of the first weights. Narrow models trained for minutes learn faster from 0.06.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub initializer_range: f32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            family: Family::Llama,
            layers: 4,
            hidden: 128,
            heads: 4,
            kv_heads: None,
            ffn: None,
            context: 256,
            tied: true,
            rope_theta: 10_000.0,
            initializer_range: 0.02,
        }
    }
}

impl Shape {
    /// Puts the values that follow from others in their place.
    pub fn resolve(&mut self) {
        self.kv_heads.get_or_insert(self.heads);
        self.ffn.get_or_insert(match self.family {
            Family::Gpt2 => 4 * self.hidden,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => {
                (8 * self.hidden).div_ceil(3).next_multiple_of(32)
            }
        });
    }

    /// Sizes that cannot go together: the parameter at fault and why.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if self.heads == 0 || kv_heads == 0 {
            return found;
        }
        if self.family == Family::Gpt2 {
            if !self.hidden.is_multiple_of(self.heads) {
                found.push((
                    "hidden",
                    format!("`hidden` ({}) must be a multiple of `heads` ({})", self.hidden, self.heads),
                ));
            }
            if kv_heads != self.heads {
                let rule = "every head of `gpt2` has its own key and value";
                found.push(("kv_heads", format!("`kv_heads` ({kv_heads}) must be `heads` ({}): {rule}", self.heads)));
            }
            if self.rope_theta.to_bits() != Self::default().rope_theta.to_bits() {
                found.push(("rope_theta", "`gpt2` has no rotary positions: leave `rope_theta` out".to_owned()));
            }
            return found;
        }
        if !self.hidden.is_multiple_of(2 * self.heads) {
            let rule = "must be a multiple of twice `heads`, as rotary positions turn halves of a head";
            found.push(("hidden", format!("`hidden` ({}) {rule} ({})", self.hidden, self.heads)));
        }
        if !self.heads.is_multiple_of(kv_heads) {
            found.push(("kv_heads", format!("`kv_heads` ({kv_heads}) must divide `heads` ({})", self.heads)));
        }
        found
    }

    /// The model's config for a vocabulary.
    ///
    /// # Errors
    /// When [`Shape::problems`] has any.
    pub fn config(&self, vocab_size: usize) -> Result<Config> {
        if let Some((_, problem)) = self.problems().into_iter().next() {
            anyhow::bail!(problem);
        }
        let mut shape = self.clone();
        shape.resolve();
        let is_gpt2 = shape.family == Family::Gpt2;
        Ok(Config {
            family: shape.family,
            vocab_size,
            hidden_size: shape.hidden,
            intermediate_size: shape.ffn.expect("resolved above"),
            num_hidden_layers: shape.layers,
            num_attention_heads: shape.heads,
            num_key_value_heads: shape.kv_heads.expect("resolved above"),
            head_dim: shape.hidden / shape.heads,
            rms_norm_eps: 1e-5,
            rope_theta: shape.rope_theta,
            rope_scaling: RopeScaling::Default,
            unrotated: shape.family.unrotated(shape.layers),
            max_position_embeddings: shape.context,
            sliding_window: None,
            tie_word_embeddings: shape.tied,
            attention_bias: shape.family == Family::Qwen2 || is_gpt2,
            output_bias: is_gpt2,
            mlp_bias: is_gpt2,
            qk_norm: shape.family == Family::Qwen3,
        })
    }
}
