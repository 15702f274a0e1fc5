//! From a device's name in YAML to Burn's. The only file that names backends.

use std::time::Duration;

use anyhow::{Result, bail};
use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::recompute::Activations;

/// The `run:` block of a stage that computes with a model: where and in what portions, never what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compute {
    /// Where tensors live: `cpu`.
    pub device: String,
    /// Tokens of one forward and backward pass; a step accumulates gradients over as many passes as it needs. Neither
    /// loss nor update depends on it beyond rounding.
    #[schemars(range(min = 1))]
    pub micro_batch_tokens: usize,
    /// What a forward pass keeps for its backward pass. Neither loss nor update depends on it, to the last bit.
    pub activations: Activations,
    /// Completions that grow at once while sampling. The completions do not depend on it.
    #[schemars(range(min = 1))]
    pub slots: usize,
    /// Seconds between two savings of a training run into its scratch folder.
    #[schemars(range(min = 0.0))]
    pub save_every_s: f64,
    /// Gigabytes of memory that the node may take. It starts where what `mashbill plan` foresees is no more, whatever is
    /// free, and other nodes leave it that room; absent: what is free when it starts decides.
    #[schemars(range(min = 0.0))]
    pub memory_gb: Option<f64>,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            device: "cpu".into(),
            micro_batch_tokens: 4096,
            activations: Activations::Keep,
            slots: 256,
            save_every_s: 30.0,
            memory_gb: None,
        }
    }
}

impl Compute {
    /// # Errors
    /// When this binary has no such device.
    pub fn device(&self) -> Result<Device> {
        match self.device.as_str() {
            "cpu" => Ok(Device::flex()),
            other => bail!("no device `{other}`: this binary computes on `cpu`"),
        }
    }

    #[must_use]
    pub fn save_every(&self) -> Duration {
        Duration::from_secs_f64(self.save_every_s)
    }
}
