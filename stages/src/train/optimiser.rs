//! AdamW over the weights of a decoder that learn, with clipping by the global norm.

use anyhow::{Result, ensure};
use burn::tensor::{Gradients, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kernels::{self, AdamStep, Moments},
    nn::{decoder::Decoder, lora},
};

/// Settings of AdamW, defaults as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
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
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_norm: 1.0 }
    }
}

/// A decoder in training: its weights, both moments of those that learn, and how many steps it took.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub decoder: Decoder,
    /// First and second moment, in the order of [`Decoder::each_trained`].
    pub moments: Vec<(Tensor<2>, Tensor<2>)>,
    pub steps: u64,
    /// What the dropout of an adapter is drawn by, with the step; without it nothing is left out.
    pub dropout: Option<u64>,
    settings: AdamW,
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub struct Stepped {
    /// Of the whole gradient, before clipping.
    pub gradient_norm: f64,
}

impl Trainer {
    #[must_use]
    pub fn new(mut decoder: Decoder, settings: AdamW) -> Self {
        let mut moments = Vec::new();
        decoder.each_trained(&mut |_, weight| {
            let zeros = || Tensor::zeros(weight.dims(), &weight.device());
            moments.push((zeros(), zeros()));
        });
        Self { decoder, moments, steps: 0, dropout: None, settings }
    }

    /// Starts a step: gradients of several backward passes add up in what it returns.
    #[must_use]
    pub fn begin(&self) -> Accumulated {
        let mut tracked = self.decoder.tracked();
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
        let AdamW { beta1, beta2, epsilon, weight_decay, max_norm } = self.settings;
        let max_norm = f64::from(max_norm);
        let scale = if max_norm > 0.0 && gradient_norm > max_norm { max_norm / gradient_norm } else { 1.0 };
        let mut all = self.moments.iter_mut().zip(gradients);
        let step = i32::try_from(self.steps).unwrap_or(i32::MAX);
        self.decoder.each_trained(&mut |name, weight| {
            let (moments, gradient) = all.next().expect("one gradient a weight");
            // Vectors (norms and biases) are stored as one row, as is an adapter's matrix of rank one.
            let is_matrix = weight.dims()[0] > 1 || name.ends_with(lora::A) || name.ends_with(lora::B);
            let weight_decay = if is_matrix { weight_decay } else { 0.0 };
            let nothing = || Tensor::zeros([1, 1], &gradient.device());
            let old = Moments {
                weight: std::mem::replace(weight, nothing()),
                first: std::mem::replace(&mut moments.0, nothing()),
                second: std::mem::replace(&mut moments.1, nothing()),
            };
            let settings =
                AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale: scale as f32, step };
            let new = kernels::adamw(old, gradient, settings);
            *weight = new.weight;
            *moments = (new.first, new.second);
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
        let mut gradients: Gradients = loss.backward();
        let mut fresh = Vec::new();
        self.tracked.each_trained(&mut |_, weight| {
            let zeros = || Tensor::zeros(weight.dims(), &weight.device().without_autodiff());
            fresh.push(weight.grad_remove(&mut gradients).unwrap_or_else(zeros));
        });
        if self.gradients.is_empty() {
            self.gradients = fresh;
        } else {
            let sums = std::mem::take(&mut self.gradients);
            self.gradients = sums.into_iter().zip(fresh).map(|(sum, more)| sum + more).collect();
        }
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
