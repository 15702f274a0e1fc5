//! Training with less memory (Chen et al., arXiv 1604.06174): the forward pass keeps only what enters each layer, and
//! the backward pass computes a layer anew when it comes to it. The same operations on the same numbers in the same
//! order, so the gradients are the same to the last bit. Knows nothing of losses or of what is done with gradients.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Gradients, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    decoder::{Attend, Decoder},
    dropout::Drawn,
};
use crate::kernels::Sequences;

/// What a forward pass keeps for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// All that it needs.
    #[default]
    Keep,
    /// What enters each layer; the rest is computed anew, layer by layer: a forward pass more a step, and the memory of
    /// one layer instead of all.
    Recompute,
}

/// What tracked forward passes have left for their backward pass.
#[derive(Debug)]
pub struct Tape {
    /// The same weights, untracked.
    plain: Decoder,
    passes: Mutex<Vec<Pass>>,
}

/// One forward pass through the layers.
#[derive(Debug)]
struct Pass {
    tokens: Vec<u32>,
    positions: Arc<Vec<usize>>,
    sequences: Arc<Sequences>,
    /// What an adapter leaves out: the same again.
    dropped: Option<Drawn>,
    /// What enters each layer, `[tokens, hidden]`, untracked.
    inputs: Vec<Tensor<2>>,
    /// What leaves the last, as a leaf of the loss's graph.
    output: Tensor<2>,
}

impl Tape {
    #[must_use]
    pub fn new(plain: Decoder) -> Arc<Self> {
        Arc::new(Self { plain, passes: Mutex::default() })
    }

    /// What leaves the last layer, `[tokens, hidden]`.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        positions: Arc<Vec<usize>>,
        sequences: &Arc<Sequences>,
        dropped: Option<Drawn>,
    ) -> Tensor<2> {
        let layers = self.plain.config.num_hidden_layers;
        let mut inputs = Vec::with_capacity(layers);
        let mut x = self.plain.embed(tokens, &positions);
        for layer in 0..layers {
            inputs.push(x.clone());
            x = self.plain.layer(layer, x, &positions, dropped.as_ref(), &mut Attend::Within(sequences));
        }
        let output = x.autodiff().require_grad();
        let (tokens, sequences) = (tokens.to_vec(), sequences.clone());
        let pass = Pass { tokens, positions, sequences, dropped, inputs, output: output.clone() };
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(pass);
        output
    }

    fn take(&self) -> Vec<Pass> {
        std::mem::take(&mut self.passes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pass {
    /// Walks back from the gradient of what left the last layer.
    fn back(self, tracked: &Decoder, mut gradient: Tensor<2>, take: &mut dyn FnMut(&mut Gradients)) {
        let Self { tokens, positions, sequences, dropped, inputs, output: _ } = self;
        // The gradient of this sum is the gradient that arrives: each factor is its own, and one times it is it.
        let back = |output: Tensor<2>, gradient: Tensor<2>| (output * gradient.autodiff()).sum().backward();
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            let input = input.autodiff().require_grad();
            let mut attend = Attend::Within(&sequences);
            let output = tracked.layer(layer, input.clone(), &positions, dropped.as_ref(), &mut attend);
            let mut gradients = back(output, gradient);
            gradient = input.grad_remove(&mut gradients).expect("a layer's output depends on its input");
            take(&mut gradients);
        }
        // Beside an adapter the embedding does not learn.
        if tracked.lora().is_none() {
            take(&mut back(tracked.embed(&tokens, &positions), gradient));
        }
    }
}

impl Decoder {
    /// The gradients of a loss that was computed with this tracked decoder: `take` is called once with all of them, or
    /// with those of one stretch after the other, and adds up what a weight gets.
    pub fn backward(&self, loss: &Tensor<1>, take: &mut dyn FnMut(&mut Gradients)) {
        let passes = self.tape.as_ref().map(|tape| tape.take()).unwrap_or_default();
        let mut gradients = loss.backward();
        let arrived: Vec<_> = passes.iter().map(|pass| pass.output.grad_remove(&mut gradients)).collect();
        take(&mut gradients);
        drop(gradients);
        for (pass, gradient) in passes.into_iter().zip(arrived) {
            // A pass that the loss does not come from has none.
            if let Some(gradient) = gradient {
                pass.back(self, gradient, take);
            }
        }
    }
}
