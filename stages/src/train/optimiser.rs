//! AdamW over the weights of a decoder that learn, or Muon over their hidden matrices and AdamW over the rest, with
//! clipping by the global norm. Knows nothing of losses.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kernels::{self, AdamStep, Moments},
    nn::{decoder::Decoder, lora, recompute::Activations},
    train::muon::Muon,
};

/// Settings of AdamW, defaults as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimiser {
    /// Decay of the first moment.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta1: f32,
    /// Decay of the second moment.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta2: f32,
    /// Keeps the division finite.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub epsilon: f32,
    /// Decoupled decay of matrices; norms and biases are never decayed.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f32,
    /// The gradient's global norm is scaled down to this; 0 leaves it alone.
    #[schemars(range(min = 0.0))]
    pub max_norm: f32,
    /// Muon in AdamW's place for the matrices inside the layers; `{}` takes its defaults, absent: AdamW for all.
    pub muon: Option<Muon>,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_norm: 1.0, muon: None }
    }
}

impl Optimiser {
    /// Muon, where it is this weight's.
    fn muon_of(&self, name: &str, [rows, width]: [usize; 2]) -> Option<Muon> {
        // Vectors (norms and biases) are stored as one row.
        self.muon.filter(|_| name.contains(".layers.") && rows > 1 && width > 1)
    }
}

/// What the optimiser remembers of a weight, each tensor of the weight's shape.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "handles to tensors, one a weight")]
pub enum Memory {
    Adam { first: Tensor<2>, second: Tensor<2> },
    Muon { momentum: Tensor<2> },
}

impl Memory {
    fn new(weight: &Tensor<2>, muon: Option<Muon>) -> Self {
        let zeros = || Tensor::zeros(weight.dims(), &weight.device());
        match muon {
            Some(_) => Self::Muon { momentum: zeros() },
            None => Self::Adam { first: zeros(), second: zeros() },
        }
    }

    /// Calls `visit` with every tensor and the name it is saved under.
    pub fn each(&mut self, visit: &mut dyn FnMut(&str, &mut Tensor<2>)) {
        match self {
            Self::Adam { first, second } => {
                visit("first", first);
                visit("second", second);
            }
            Self::Muon { momentum } => visit("momentum", momentum),
        }
    }
}

/// A decoder in training: its weights, what the optimiser remembers of those that learn, and how many steps it took.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub decoder: Decoder,
    /// In the order of [`Decoder::each_trained`].
    pub memory: Vec<Memory>,
    pub steps: u64,
    /// What the dropout of an adapter is drawn by, with the step; without it nothing is left out.
    pub dropout: Option<u64>,
    settings: Optimiser,
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub struct Stepped {
    /// Of the whole gradient, before clipping.
    pub gradient_norm: f64,
}

impl Trainer {
    #[must_use]
    pub fn new(mut decoder: Decoder, settings: Optimiser) -> Self {
        let mut memory = Vec::new();
        decoder.each_trained(&mut |name, weight| {
            memory.push(Memory::new(weight, settings.muon_of(name, weight.dims())));
        });
        Self { decoder, memory, steps: 0, dropout: None, settings }
    }

    /// Starts a step: gradients of several backward passes add up in what it returns.
    #[must_use]
    pub fn begin(&self, activations: Activations) -> Accumulated {
        let mut tracked = self.decoder.tracked(activations);
        if let Some(seed) = self.dropout {
            tracked = tracked.dropping([seed, self.steps]);
        }
        Accumulated { tracked, gradients: Vec::new() }
    }

    /// Ends a step.
    ///
    /// # Errors
    /// When the gradient is not finite: nothing is updated.
    pub fn step(&mut self, accumulated: Accumulated, learning_rate: f32) -> Result<Stepped> {
        let Accumulated { tracked, gradients } = accumulated;
        // The tracked copies hold the weights' buffers; dropped, the update happens in place.
        drop(tracked);
        let squares: f64 = gradients.iter().map(sum_of_squares).sum();
        let gradient_norm = squares.sqrt();
        ensure!(
            gradient_norm.is_finite(),
            "the gradient of step {} is not finite (its norm is {gradient_norm}); the weights were left as they were: \
             a lower learning rate is the usual mend",
            self.steps + 1
        );
        self.steps += 1;
        let Optimiser { beta1, beta2, epsilon, weight_decay, max_norm, .. } = self.settings;
        let max_norm = f64::from(max_norm);
        let scale = if max_norm > 0.0 && gradient_norm > max_norm { max_norm / gradient_norm } else { 1.0 };
        let gradient_scale = scale as f32;
        let mut all = self.memory.iter_mut().zip(gradients);
        let step = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let settings = self.settings;
        self.decoder.each_trained(&mut |name, weight| {
            let (memory, gradient) = all.next().expect("one gradient a weight");
            // Vectors (norms and biases) are stored as one row, as is an adapter's matrix of rank one.
            let is_matrix = weight.dims()[0] > 1 || name.ends_with(lora::A) || name.ends_with(lora::B);
            let weight_decay = if is_matrix { weight_decay } else { 0.0 };
            // Taken out while they are written: a second holder would turn the write into a copy.
            let nothing = Tensor::zeros([1, 1], &gradient.device());
            let take = |tensor: &mut Tensor<2>| std::mem::replace(tensor, nothing.clone());
            match memory {
                Memory::Adam { first, second } => {
                    let old = Moments { weight: take(weight), first: take(first), second: take(second) };
                    let settings =
                        AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, step };
                    let new = kernels::adamw(old, gradient, settings);
                    (*weight, *first, *second) = (new.weight, new.first, new.second);
                }
                Memory::Muon { momentum } => {
                    let muon = settings.muon_of(name, weight.dims()).expect("the memory was made for it");
                    let (old, gradient) = ((take(weight), take(momentum)), gradient * gradient_scale);
                    (*weight, *momentum) = muon.update(old.0, old.1, gradient, learning_rate, weight_decay);
                }
            }
        });
        Ok(Stepped { gradient_norm })
    }
}

/// The gradients of one step, while they add up.
pub struct Accumulated {
    /// Compute losses with this one.
    pub tracked: Decoder,
    gradients: Vec<Tensor<2>>,
}

impl Accumulated {
    /// Adds the gradient of a loss computed with `tracked`.
    pub fn backward(&mut self, loss: &Tensor<1>) {
        let mut fresh: Vec<Option<Tensor<2>>> = Vec::new();
        let mut weights = self.tracked.clone();
        weights.each_trained(&mut |_, _| fresh.push(None));
        self.tracked.backward(loss, &mut |gradients| {
            let mut sums = fresh.iter_mut();
            weights.each_trained(&mut |_, weight| {
                let sum = sums.next().expect("one a weight");
                if let Some(gradient) = weight.grad_remove(gradients) {
                    *sum = Some(match sum.take() {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    });
                }
            });
        });
        let mut sums = std::mem::take(&mut self.gradients).into_iter();
        let mut fresh = fresh.into_iter();
        weights.each_trained(&mut |_, weight| {
            let zeros = || Tensor::zeros(weight.dims(), &weight.device().without_autodiff());
            let more = fresh.next().expect("one a weight").unwrap_or_else(zeros);
            self.gradients.push(match sums.next() {
                Some(sum) => sum + more,
                None => more,
            });
        });
    }
}

/// Elements from which on the squares of a gradient are added up without being held.
const LARGE: usize = 1 << 24;

fn sum_of_squares(gradient: &Tensor<2>) -> f64 {
    let [out, width] = gradient.dims();
    let sum = if out * width < LARGE {
        (gradient.clone() * gradient.clone()).sum()
    } else {
        kernels::sum_of_squares(gradient.clone())
    };
    f64::from(sum.into_scalar::<f32>())
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

    /// Against `tests/reference/optimisers.py`: gradients from 1 down to 1e-5, so that epsilon counts in the last steps.
    #[test]
    fn adamw_takes_the_steps_of_pytorch() {
        for case in json_of(&fixture("training/optimisers.json"))["adamw"].as_array().unwrap() {
            let shape: [usize; 2] = serde_json::from_value(case["shape"].clone()).unwrap();
            let matrix = |value: &Value| Tensor::from_data(TensorData::new(numbers(value), shape), &Device::flex());
            let settings = &case["settings"];
            let number = |value: &Value| value.as_f64().unwrap() as f32;
            let mut settings = AdamStep {
                learning_rate: number(&settings["lr"]),
                beta1: number(&settings["betas"][0]),
                beta2: number(&settings["betas"][1]),
                epsilon: number(&settings["eps"]),
                weight_decay: number(&settings["weight_decay"]),
                gradient_scale: 1.0,
                step: 0,
            };
            let weight: Tensor<2> = matrix(&case["first"]);
            let mut moments = Moments { first: weight.zeros_like(), second: weight.zeros_like(), weight };
            let steps = case["gradients"].as_array().unwrap().iter().zip(case["weights"].as_array().unwrap());
            for (gradient, expected) in steps {
                settings.step += 1;
                moments = kernels::adamw(moments, matrix(gradient), settings);
                let ours: Vec<f32> = moments.weight.clone().into_data().try_to_vec().unwrap();
                for (ours, theirs) in ours.iter().zip(numbers(expected)) {
                    assert!(
                        (ours - theirs).abs() <= 1e-4 * settings.learning_rate,
                        "{settings:?}: {ours} for {theirs}"
                    );
                }
            }
        }
    }
}
