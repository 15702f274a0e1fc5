//! From a device's name in YAML to Burn's. The only file that names backends.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use engine::{Finding, Problem, Prospects};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::{precision::Precision, recompute::Activations};

/// The `run:` block of a stage that computes with a model: where, in what portions and in which numbers, never what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compute {
    /// Where tensors live: `cpu`; `wgpu` for a GPU through Vulkan, Metal or DirectX; `cuda` for one of NVIDIA's. The
    /// second of several is `cuda:1`. A binary has the devices that it was built with, `cpu` always.
    pub device: Name,
    /// The numbers of weights and activations: `f32`, or `bf16` beside which what learns is kept in f32. Absent: `bf16`
    /// on `cuda` where the GPU computes with it, `f32` elsewhere. Unlike everything else here, it moves results by more
    /// than rounding of the last digit; as everything here, it makes no result anew that is there already.
    pub precision: Option<Precision>,
    /// Tokens of one forward and backward pass; a step accumulates gradients over as many passes as it needs. Neither
    /// loss nor update depends on it beyond rounding.
    #[schemars(range(min = 1))]
    pub micro_batch_tokens: usize,
    /// What a forward pass keeps for its backward pass. Neither loss nor update depends on it: on `cpu` in f32 to the last
    /// bit, elsewhere beyond rounding.
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
            device: Name::default(),
            precision: None,
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
    /// When this binary or this machine has no such device, or the device does not compute in these numbers.
    pub fn place(&self) -> Result<Place> {
        let device = self.device.find()?;
        let can_bf16 = device.supports_dtype(Precision::Bf16.dtype());
        let precision = match (self.precision, self.device.backend) {
            (Some(Precision::Bf16), _) if !can_bf16 => {
                bail!("`{}` does not compute in bf16 here: leave `precision` out, or set it to f32", self.device)
            }
            (Some(precision), _) => precision,
            (None, Backend::Cuda) if can_bf16 => Precision::Bf16,
            (None, _) => Precision::F32,
        };
        Ok(Place { device, precision })
    }

    /// That this binary or this machine has no such device.
    #[must_use]
    pub fn finding(&self, inputs: &Prospects) -> Option<Finding> {
        let missing = inputs.once(&self.device.to_string(), || self.device.find().err().map(|error| error.to_string()));
        missing.as_ref().as_ref().map(|message| Finding::Setting(Problem::new("device", message)))
    }

    /// On the CPU in f32, where operations are fused and what they hold is known.
    #[must_use]
    pub fn is_fused(&self) -> bool {
        self.device.backend == Backend::Cpu && self.precision != Some(Precision::Bf16)
    }

    #[must_use]
    pub fn save_every(&self) -> Duration {
        Duration::from_secs_f64(self.save_every_s)
    }
}

/// Where a policy is, and the numbers it is computed in there.
#[derive(Debug, Clone)]
pub struct Place {
    pub device: Device,
    pub precision: Precision,
}

impl Place {
    /// The CPU, in f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self { device: Device::flex(), precision: Precision::F32 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Cpu,
    Wgpu,
    Cuda,
}

/// A device as it is written: a backend, and which of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name {
    backend: Backend,
    /// Counted from zero; `None` leaves the choice to the backend.
    index: Option<usize>,
}

impl Default for Name {
    fn default() -> Self {
        Self { backend: Backend::Cpu, index: None }
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match self.backend {
            Backend::Cpu => "cpu",
            Backend::Wgpu => "wgpu",
            Backend::Cuda => "cuda",
        };
        match self.index {
            None => f.write_str(backend),
            Some(index) => write!(f, "{backend}:{index}"),
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for Name {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let (backend, index) = match text.split_once(':') {
            None => (text.as_str(), None),
            Some((backend, index)) => {
                let index = index.parse().ok().with_context(|| {
                    format!("no device `{text}`: behind the colon stands which one, counted from zero, as in `cuda:1`")
                })?;
                (backend, Some(index))
            }
        };
        let backend = match (backend, index) {
            ("cpu", None) => Backend::Cpu,
            ("wgpu", _) => Backend::Wgpu,
            ("cuda", _) => Backend::Cuda,
            _ => {
                bail!("no device `{text}`: there are `cpu`, `wgpu` and `cuda`, and `cuda:1` for the second of several")
            }
        };
        Ok(Self { backend, index })
    }
}

impl Name {
    fn find(self) -> Result<Device> {
        match self.backend {
            Backend::Cpu => Ok(Device::flex()),
            Backend::Wgpu => self.among(found::wgpu(), "no GPU that Vulkan, Metal or DirectX reach"),
            Backend::Cuda => self.among(found::cuda(), "no GPU of NVIDIA's, or no driver for it"),
        }
    }

    /// `found`: of its backend; `None` where it was not built.
    fn among(self, found: Option<Found>, nothing: &str) -> Result<Device> {
        let backend = Self { index: None, ..self };
        let Some(Found { devices, preferred }) = found else {
            bail!(
                "no device `{self}`: this binary was built without it; `cargo build --release --features {backend}` builds it \
                 in"
            )
        };
        match (devices.len(), self.index) {
            (0, _) => bail!("no device `{self}`: there is {nothing} on this machine"),
            (_, None) => Ok(preferred),
            (count, Some(index)) => devices
                .into_iter()
                .nth(index)
                .with_context(|| format!("no device `{self}`: this machine has {count}, counted from `{backend}:0`")),
        }
    }
}

/// What a backend finds on this machine.
struct Found {
    devices: Vec<Device>,
    /// What it takes where nobody says which. Opened when it is first used.
    preferred: Device,
}

/// `None` where the backend was not built.
mod found {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    use burn::tensor::{Device, DeviceType};

    use super::Found;

    pub fn wgpu() -> Option<Found> {
        #[cfg(feature = "wgpu")]
        return Some(Found {
            devices: Device::enumerate(DeviceType::Wgpu).into_iter().collect(),
            preferred: Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        });
        #[cfg(not(feature = "wgpu"))]
        None
    }

    pub fn cuda() -> Option<Found> {
        #[cfg(feature = "cuda")]
        return Some(Found {
            devices: Device::enumerate(DeviceType::Cuda).into_iter().collect(),
            preferred: Device::cuda(0),
        });
        #[cfg(not(feature = "cuda"))]
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(device: &str) -> Result<Compute, String> {
        serde_json::from_value(json!({ "device": device })).map_err(|error| error.to_string())
    }

    #[test]
    fn a_device_is_a_backend_and_which_of_its_devices() {
        for name in ["cpu", "wgpu", "wgpu:0", "cuda", "cuda:1"] {
            assert_eq!(serde_json::to_value(named(name).unwrap().device).unwrap(), name);
        }
        assert_eq!(
            named("gpu").unwrap_err(),
            "no device `gpu`: there are `cpu`, `wgpu` and `cuda`, and `cuda:1` for the second of several"
        );
        assert!(named("cpu:1").is_err(), "there is one");
        assert_eq!(
            named("cuda:first").unwrap_err(),
            "no device `cuda:first`: behind the colon stands which one, counted from zero, as in `cuda:1`"
        );
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_mends_it() {
        let refused = named("cuda:99").unwrap().place().unwrap_err().to_string();
        assert!(refused.starts_with("no device `cuda:99`: "), "{refused}");
        #[cfg(not(feature = "cuda"))]
        assert!(refused.ends_with("`cargo build --release --features cuda` builds it in"), "{refused}");
    }

    #[test]
    fn the_cpu_computes_in_f32_unless_it_is_asked_for_bf16() {
        assert_eq!(named("cpu").unwrap().place().unwrap().precision, Precision::F32);
        let asked: Compute = serde_json::from_value(json!({ "precision": "bf16" })).unwrap();
        assert_eq!(asked.place().unwrap().precision, Precision::Bf16);
    }
}
