//! Muon: momentum whose matrix is made orthogonal (Jordan et al., "Muon: An optimizer for hidden layers in neural
//! networks", kellerjordan.github.io/posts/muon). Knows nothing of which weights it is for.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernels;

/// Muon for the hidden matrices, as PyTorch's `torch.optim.Muon` but all in f32; they are decayed by the optimiser's
/// `weight_decay`. Embeddings, head, norms and biases stay with AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Muon {
    /// Share of the momentum that a step keeps.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub momentum: f32,
    /// Does a step look ahead along its momentum?
    pub nesterov: bool,
    /// How a step's size follows from the learning rate.
    pub scale: Scale,
    /// The hidden matrices' learning rate, as a multiple of the stage's.
    #[schemars(range(min = 0.0))]
    pub learning_rate_factor: f32,
}

/// The size of an orthogonal step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As large as AdamW's usual step, `0.2 sqrt(max(rows, columns))`: AdamW's learning rate and decay serve unchanged
    /// (Liu et al., arXiv 2502.16982).
    #[default]
    MatchAdamw,
    /// `sqrt(max(1, rows / columns))`, as first published; its learning rates are near 0.02.
    Original,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95, nesterov: true, scale: Scale::MatchAdamw, learning_rate_factor: 1.0 }
    }
}

impl Scale {
    fn factor(self, [rows, columns]: [usize; 2]) -> f32 {
        match self {
            Self::MatchAdamw => 0.2 * (rows.max(columns) as f32).sqrt(),
            Self::Original => (rows as f32 / columns as f32).max(1.0).sqrt(),
        }
    }
}

impl Muon {
    /// One update of `weight` `[rows, columns]`: the weight and the momentum afterwards.
    ///
    /// `learning_rate` is the stage's.
    #[must_use]
    pub fn update(
        &self,
        weight: Tensor<2>,
        momentum: Tensor<2>,
        gradient: Tensor<2>,
        learning_rate: f32,
        weight_decay: f32,
    ) -> (Tensor<2>, Tensor<2>) {
        let Self { momentum: kept, nesterov, scale, learning_rate_factor } = *self;
        let momentum = momentum * kept + gradient.clone() * (1.0 - kept);
        let direction = if nesterov { gradient * (1.0 - kept) + momentum.clone() * kept } else { momentum.clone() };
        let learning_rate = learning_rate * learning_rate_factor;
        let step = orthogonal(direction) * (learning_rate * scale.factor(weight.dims()));
        (weight * (1.0 - learning_rate * weight_decay) - step, momentum)
    }
}

/// The quintic of Newton and Schulz, its coefficients chosen for the steepest slope at zero: singular values end
/// between 0.7 and 1.2, not at one, which training does not mind.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// Nearly `U V^T` of the singular value decomposition `U S V^T`.
fn orthogonal(matrix: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    // The products are of the shorter side.
    if rows > columns {
        return orthogonal(matrix.transpose()).transpose();
    }
    let norm = matrix.clone().powi_scalar(2).sum().into_scalar::<f32>().sqrt();
    let mut x = matrix / norm.max(1e-7);
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        // `linear` turns its second factor: x x^T, and for a symmetric matrix its square.
        let gram = kernels::linear(x.clone(), x.clone());
        let inner = gram.clone() * b + kernels::linear(gram.clone(), gram) * c;
        x = x.clone() * a + kernels::linear(inner, x.transpose());
    }
    x
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use serde_json::Value;

    use super::*;
    use crate::bench::{fixture, json_of};

    fn numbers(value: &Value) -> Vec<f32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn matrix(value: &Value, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(numbers(value), shape), &Device::flex())
    }

    fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
        left.iter().zip(right).fold(0.0, |most, (left, right)| (left - right).abs().max(most))
    }

    /// Against `tests/reference/optimisers.py`: PyTorch's own steps in f32, and as it ships, iterating in bfloat16.
    #[test]
    fn its_steps_are_those_of_pytorch() {
        for case in json_of(&fixture("training/optimisers.json"))["muon"].as_array().unwrap() {
            let shape: [usize; 2] = serde_json::from_value(case["shape"].clone()).unwrap();
            let settings = &case["settings"];
            let number = |name: &str| settings[name].as_f64().unwrap() as f32;
            let muon = Muon {
                momentum: number("momentum"),
                nesterov: settings["nesterov"].as_bool().unwrap(),
                scale: if settings["adjust_lr_fn"] == "original" { Scale::Original } else { Scale::MatchAdamw },
                learning_rate_factor: 1.0,
            };
            let first = matrix(&case["first"], shape);
            let (mut weight, mut momentum) = (first.clone(), first.zeros_like());
            let mut before = numbers(&case["first"]);
            let steps = case["gradients"].as_array().unwrap().iter();
            let after = case["weights"].as_array().unwrap().iter().zip(case["as_shipped"].as_array().unwrap());
            for (gradient, (exact, shipped)) in steps.zip(after) {
                let gradient = matrix(gradient, shape);
                (weight, momentum) = muon.update(weight, momentum, gradient, number("lr"), number("weight_decay"));
                let ours = weight.clone().into_data().try_to_vec::<f32>().unwrap();
                let (exact, shipped) = (numbers(exact), numbers(shipped));
                let moved = largest_difference(&exact, &before);
                let error = largest_difference(&ours, &exact);
                assert!(error <= 1e-4 * moved, "{settings} {shape:?}: {error} of a step of {moved}");
                // bfloat16 keeps eight bits, and its errors add up over the steps.
                let error = largest_difference(&ours, &shipped);
                assert!(error <= 0.1 * moved, "{settings} {shape:?}: {error} of a step of {moved}");
                before = exact;
            }
        }
    }
}
