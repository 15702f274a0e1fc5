//! In which numbers a policy is computed. Knows nothing of devices.

use burn::tensor::{FloatDType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers of weights, activations and cached keys and values.
///
/// In `bf16` the operands and results of matrix products and the residual stream have 8 bits of precision, as a model
/// of transformers that was loaded in bfloat16; products are summed up in f32, and norms, rotations, softmax,
/// activation functions, log-probabilities and losses are computed in f32. What learns is kept in f32 beside it, the
/// master weights (Micikevicius et al., arXiv 1710.03740): a pass rounds them as it reads them, their gradients and the
/// optimiser's moments are f32, and so are the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 24 bits of precision.
    #[default]
    F32,
    /// 8 bits of precision in half the memory, with the range of f32.
    Bf16,
}

impl Precision {
    #[must_use]
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Can these numbers be written with its bits alone?
    #[must_use]
    pub fn holds(self, x: &Tensor<2>) -> bool {
        let rounded = x.clone().cast(self.dtype()).cast(FloatDType::F32);
        let farthest = (rounded - x.clone().cast(FloatDType::F32)).abs().max();
        farthest.into_scalar::<f32>() == 0.0
    }
}
