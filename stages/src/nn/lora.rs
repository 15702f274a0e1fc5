//! Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685): a frozen matrix `W` and beside it a product of two narrow
//! ones that learns, `W x + scale B A x`.
//! Knows nothing of files or of training.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result, bail, ensure};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    config::{Config, Family},
    weights::{self, Weight, Weights},
};
use crate::random::Stream;

/// A low-rank adapter that learns while the policy's own weights stay as they are (LoRA, arXiv 2106.09685).
///
/// It wants about ten times the learning rate of full fine-tuning. A policy that carries an adapter already goes on
/// with it, where this block is left out too; where it is given, it must describe that adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank of the learned product (paper: r).
    #[schemars(range(min = 1, max = 65_536))]
    pub rank: usize,
    /// The product is multiplied by `alpha / rank`; absent: twice the rank (Biderman et al., arXiv 2405.09673).
    #[schemars(range(min = 0.0, max = 1e6))]
    pub alpha: Option<f32>,
    /// The share of an adapter's inputs that a training step leaves out, drawn anew for every step, example, token,
    /// matrix and channel. `grpo` takes 0 alone: its samples are the whole policy's.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f32,
    /// The matrices that get an adapter. All of them learn more than queries and values alone (arXiv 2405.09673).
    pub targets: BTreeSet<Target>,
    /// Multiplies by `alpha / sqrt(rank)` instead, which keeps high ranks learning (rsLoRA, arXiv 2312.03732).
    pub rslora: bool,
}

/// A matrix of every layer, by its Hugging Face name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// Its name inside a layer, such as `self_attn.q_proj`.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// The last part of its name, as `target_modules` has it: `q_proj`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.module().split_once('.').expect("a module has a block before it").1
    }
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 16, alpha: None, dropout: 0.0, targets: Target::ALL.into(), rslora: false }
    }
}

impl Lora {
    /// Puts the values that follow from others in their place.
    pub fn resolve(&mut self) {
        self.alpha.get_or_insert(2.0 * self.rank as f32);
    }

    /// What cannot be: the parameter at fault and why.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.targets.is_empty() {
            found.push(("targets", "an adapter of no matrix learns nothing: name one, or leave `targets` out".into()));
        }
        found
    }

    #[must_use]
    pub fn alpha(&self) -> f32 {
        self.alpha.unwrap_or(2.0 * self.rank as f32)
    }

    /// The factor on the learned product.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha() / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Names and shapes of the adapter of such a model: for every target in every layer `lora_A.weight` `[rank, in]`
    /// and `lora_B.weight` `[out, rank]`, as PEFT names them.
    ///
    /// # Errors
    /// When the model has no such matrices.
    pub fn expected(&self, config: &Config) -> Result<Vec<(String, Vec<usize>)>> {
        // PEFT adapts GPT-2's own matrices, where query, key and value are one: other adapters than these.
        ensure!(
            config.family != Family::Gpt2,
            "a `gpt2` model takes no adapter: its query, key and value are one matrix in the files that others read"
        );
        let shapes: BTreeMap<_, _> = weights::expected(config).into_iter().collect();
        let mut all = Vec::new();
        for layer in 0..config.num_hidden_layers {
            for target in &self.targets {
                let module = format!("model.layers.{layer}.{}", target.module());
                let shape = shapes
                    .get(&format!("{module}.weight"))
                    .with_context(|| format!("the model has no `{}` for an adapter", target.name()))?;
                all.push((format!("{module}.{A}"), vec![self.rank, shape[1]]));
                all.push((format!("{module}.{B}"), vec![shape[0], self.rank]));
            }
        }
        Ok(all)
    }
}

/// `rank 16, alpha 32, targets q_proj v_proj`: what decides an adapter's shape and meaning.
impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "rank {}, alpha {}, {}targets", self.rank, self.alpha(), if self.rslora { "rslora, " } else { "" })?;
        self.targets.iter().try_for_each(|target| write!(f, " {}", target.name()))
    }
}

pub const A: &str = "lora_A.weight";
pub const B: &str = "lora_B.weight";

/// An adapter at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub lora: Lora,
    /// By the names of [`Lora::expected`].
    pub weights: Weights,
}

impl Adapter {
    /// An adapter that changes nothing yet: `A` uniform within `1 / sqrt(in)`, `B` zero, as in PEFT (its
    /// `kaiming_uniform_(a=sqrt(5))`). Each matrix depends on the seed and its own name alone.
    ///
    /// # Errors
    /// As [`Lora::expected`].
    pub fn init(config: &Config, lora: &Lora, seed: u64) -> Result<Self> {
        let draw = |(name, shape): (String, Vec<usize>)| {
            let count = shape.iter().product();
            let values = if name.ends_with(A) {
                let bound = 1.0 / (shape[1] as f32).sqrt();
                let mut stream = Stream::new(&[seed, weights::name_key(&name)]);
                (0..count).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect()
            } else {
                vec![0.0; count]
            };
            (name, Weight { shape, values })
        };
        let weights = lora.expected(config)?.into_par_iter().map(draw).collect();
        Ok(Self { lora: lora.clone(), weights })
    }

    /// Adds the learned products to a model's weights: `W + scale B A`.
    ///
    /// # Errors
    /// When the weights are not those of the adapter's model, or what comes out is not finite.
    pub fn merge_into(&self, model: &mut Weights) -> Result<()> {
        let scale = self.lora.scale();
        for (name, a) in self.weights.iter().filter(|(name, _)| name.ends_with(A)) {
            let module = name.strip_suffix(A).expect("filtered by it");
            let b = self.weights.get(&format!("{module}{B}")).with_context(|| format!("no weight `{module}{B}`"))?;
            let name = format!("{module}weight");
            let weight = model.get_mut(&name).with_context(|| format!("no weight `{name}` for its adapter"))?;
            let (&[rank, width], &[out, _]) = (&a.shape[..], &b.shape[..]) else { unreachable!("both are matrices") };
            ensure!(
                weight.shape == [out, width],
                "weight `{name}` is of shape {:?}, its adapter of [{out}, {width}]",
                weight.shape
            );
            weight.values.par_chunks_mut(width).zip(b.values.par_chunks(rank)).for_each(|(row, b)| {
                let mut product = vec![0.0; width];
                for (b, a) in b.iter().zip(a.values.chunks(width)) {
                    product.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
                }
                row.iter_mut().zip(product).for_each(|(weight, product)| *weight += scale * product);
            });
            if let Some(at) = weight.values.par_iter().position_first(|value| !value.is_finite()) {
                bail!(
                    "weight `{name}` becomes {} at position {at} with what the adapter adds to it: the adapter's numbers \
                     are too large",
                    weight.values[at]
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::shape::Shape;

    fn config() -> Config {
        Shape { layers: 2, hidden: 8, heads: 2, ffn: Some(12), ..Shape::default() }.config(10).unwrap()
    }

    #[test]
    fn the_factor_is_that_of_each_paper() {
        let lora = Lora { rank: 16, alpha: Some(32.0), ..Lora::default() };
        assert!((lora.scale() - 2.0).abs() < 1e-7);
        // 32 / sqrt(16)
        assert!((Lora { rslora: true, ..lora }.scale() - 8.0).abs() < 1e-6);
        assert!((Lora { rank: 4, ..Lora::default() }.scale() - 2.0).abs() < 1e-7);
    }

    #[test]
    fn a_new_adapter_adds_nothing_and_its_inputs_are_spread_as_in_peft() {
        let config = Shape { layers: 2, hidden: 64, heads: 2, ..Shape::default() }.config(10).unwrap();
        let lora = Lora { rank: 32, ..Lora::default() };
        let adapter = Adapter::init(&config, &lora, 5).unwrap();
        let base = weights::init(&config, 1, 0.02);
        let mut merged = base.clone();
        adapter.merge_into(&mut merged).unwrap();
        assert_eq!(merged, base);
        let a = &adapter.weights["model.layers.1.self_attn.q_proj.lora_A.weight"];
        assert_eq!(a.shape, [32, 64]);
        // Uniform within 1/8: a deviation of 1/8 / sqrt(3).
        let deviation = (a.values.iter().map(|value| value * value).sum::<f32>() / 2048.0).sqrt();
        assert!((deviation - 0.0722).abs() < 0.002, "{deviation}");
        assert!(a.values.iter().all(|value| value.abs() <= 0.125));
        assert_ne!(a, &adapter.weights["model.layers.0.self_attn.q_proj.lora_A.weight"]);
        assert_eq!(adapter, Adapter::init(&config, &lora, 5).unwrap());
    }

    #[test]
    fn merging_adds_the_scaled_product_of_the_targets_alone() {
        let config = config();
        let lora = Lora { rank: 2, alpha: Some(6.0), targets: [Target::DownProj].into(), ..Lora::default() };
        let mut adapter = Adapter::init(&config, &lora, 5).unwrap();
        let module = "model.layers.1.mlp.down_proj";
        adapter.weights.get_mut(&format!("{module}.{A}")).unwrap().values =
            [vec![1.0; 12], (0..12).map(|i| i as f32).collect()].concat();
        adapter.weights.get_mut(&format!("{module}.{B}")).unwrap().values[2..4].copy_from_slice(&[10.0, 0.5]);
        let base = weights::init(&config, 1, 0.0);
        let mut merged = base.clone();
        adapter.merge_into(&mut merged).unwrap();
        let name = format!("{module}.weight");
        // 6/2 (10 + i/2), in the second row alone.
        let expected: Vec<f32> = (0..12).map(|i| 3.0 * (10.0 + i as f32 / 2.0)).collect();
        assert_eq!(merged[&name].values[12..24], expected[..]);
        assert!(merged[&name].values[..12].iter().chain(&merged[&name].values[24..]).all(|value| *value == 0.0));
        merged.insert(name.clone(), base[&name].clone());
        assert_eq!(merged, base);
    }

    #[test]
    fn an_adapter_whose_product_has_no_number_is_refused_by_the_weight() {
        let config = config();
        let lora = Lora { rank: 2, targets: [Target::DownProj].into(), ..Lora::default() };
        let mut adapter = Adapter::init(&config, &lora, 5).unwrap();
        for weight in adapter.weights.values_mut() {
            weight.values.fill(3e38);
        }
        let message = adapter.merge_into(&mut weights::init(&config, 1, 0.02)).unwrap_err().to_string();
        assert_eq!(
            message,
            "weight `model.layers.0.mlp.down_proj.weight` becomes inf at position 0 with what the adapter adds to it: the \
             adapter's numbers are too large"
        );
    }

    #[test]
    fn what_a_model_has_no_matrix_for_is_refused() {
        let gpt2 = Shape { family: Family::Gpt2, ..Shape::default() }.config(10).unwrap();
        let message = Adapter::init(&gpt2, &Lora::default(), 1).unwrap_err().to_string();
        assert!(message.starts_with("a `gpt2` model takes no adapter"), "{message}");
    }
}
