//! The operations that a transformer spends its time in, each with its gradient: fused on the CPU in f32
//! (flex.rs), composed of plain tensor operations on every other device and in other numbers (plain.rs).
//!
//! Tokens lie flat, `[tokens, width]`, one sequence after another and never padded: what a token
//! yields cannot depend on how long its neighbours are. [`Sequences`] says where each one begins.

mod flex;
mod gradient;
mod plain;

use std::sync::Arc;

use burn::{
    backend::{Dispatch, DispatchDevice},
    tensor::{DType, Device, Tensor},
};

use crate::random::Stream;

/// Where the sequences of a flat batch lie, and the position of every token in its own sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// Sequence `i` holds the tokens `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<usize>,
    /// `[tokens]`, counted from zero in each sequence.
    pub positions: Vec<usize>,
}

impl Sequences {
    #[must_use]
    pub fn of_lengths(lengths: &[usize]) -> Arc<Self> {
        let mut offsets = vec![0];
        let mut positions = Vec::new();
        for length in lengths {
            positions.extend(0..*length);
            offsets.push(positions.len());
        }
        Arc::new(Self { offsets, positions })
    }

    #[must_use]
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// Cosines and sines of rotary position embedding (Su et al., arXiv 2104.09864), half-split as in
/// Hugging Face weights: entry `[position, i]` turns the pair of channels `(i, i + head_dim / 2)`.
#[derive(Debug)]
pub struct Rotary {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub head_dim: usize,
}

impl Rotary {
    /// `frequencies` `[head_dim / 2]`: by how much a pair turns from one position to the next, in radians.
    #[must_use]
    pub fn new(frequencies: &[f32], positions: usize) -> Arc<Self> {
        let count = positions * frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for position in 0..positions {
            for frequency in frequencies {
                // As transformers computes it: the frequency in f32, then the angle in f32.
                let angle = position as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        Arc::new(Self { cos, sin, head_dim: 2 * frequencies.len() })
    }
}

/// Positions of a sequence whose keys and values lie together.
pub const PAGE: usize = 16;

/// Keys and values of one layer, in pages that growing sequences hold: `[pages, PAGE * kv_width]` each.
///
/// A page of keys is `[kv_width, PAGE]`, so that one query is scored against all its positions at once; a page of
/// values is `[PAGE, kv_width]`. A place is `page * PAGE + position in the page`.
#[derive(Debug, Clone)]
pub struct KeyValue {
    pub keys: Tensor<2>,
    pub values: Tensor<2>,
}

/// What the newest tokens of growing sequences attend to: the pages of each sequence, and how many positions of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pages: Vec<usize>,
    ends: Vec<usize>,
    /// `[sequences]`: positions seen, the newest token's own among them.
    pub lengths: Vec<usize>,
}

impl Seen {
    pub fn push(&mut self, pages: &[usize], length: usize) {
        assert!(length > 0 && length <= pages.len() * PAGE, "the newest token has its place");
        self.pages.extend(pages);
        self.ends.push(self.pages.len());
        self.lengths.push(length);
    }

    #[must_use]
    pub fn pages(&self, sequence: usize) -> &[usize] {
        let start = if sequence == 0 { 0 } else { self.ends[sequence - 1] };
        &self.pages[start..self.ends[sequence]]
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.lengths.len()
    }
}

/// Which numbers of a matrix are left out (dropout; Srivastava et al., JMLR 15, 2014): a function of a key for each row,
/// so that a gradient finds them again and nothing has to keep them.
#[derive(Debug)]
pub struct Omission {
    /// The share that is left out, below 1. What stays is divided by the rest of it, so that the mean stays too.
    pub share: f32,
    /// `[rows]`
    pub keys: Arc<Vec<u64>>,
    /// One more word of every key, such as one that stands for who reads the matrix.
    pub place: u64,
}

impl Omission {
    /// What each number of a row is multiplied by, without end.
    pub(crate) fn factors(&self, row: usize) -> impl Iterator<Item = f32> {
        let kept = 1.0 / (1.0 - self.share);
        // Of 32 bits: two channels take one draw.
        let least = (f64::from(self.share) * f64::from(u32::MAX)) as u32;
        let mut stream = Stream::new(&[self.keys[row], self.place]);
        let halves = std::iter::repeat_with(move || stream.bits()).flat_map(|bits| [bits as u32, (bits >> 32) as u32]);
        halves.map(move |bits| if bits < least { 0.0 } else { kept })
    }
}

fn is_flex(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(_) => is_flex(&device.clone().without_autodiff()),
        #[allow(unreachable_patterns, reason = "reachable only with a second backend compiled in")]
        _ => false,
    }
}

fn is_fused(x: &Tensor<2>) -> bool {
    x.dtype() == DType::F32 && is_flex(&x.device())
}

/// `x W^T`: `x` `[tokens, in]`, `weight` `[out, in]` as Hugging Face stores it, result `[tokens, out]`.
#[must_use]
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::linear(x, weight);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::linear(x.into_dispatch(), weight.into_dispatch()))
}

/// As [`linear`], of what is left of `x`.
#[must_use]
pub fn linear_with_dropout(x: Tensor<2>, weight: Tensor<2>, omission: &Arc<Omission>) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::linear_with_dropout(x, weight, omission);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as flex::Fused>::linear_with_dropout(x, weight, omission.clone()))
}

/// The rows `index` of `table`: `[rows, width]` to `[index.len(), width]`. An embedding, or a choice of tokens.
#[must_use]
pub fn rows(table: Tensor<2>, index: &Arc<Vec<usize>>) -> Tensor<2> {
    if !is_fused(&table) {
        return plain::rows(table, index);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::rows(table.into_dispatch(), index.clone()))
}

/// Root-mean-square norm over the last `weight.len()` channels (Zhang & Sennrich, arXiv 1910.07467).
///
/// `x` `[tokens, width]`, `weight` `[1, channels]` where `channels` divides `width`: narrower than
/// the width it norms each head by itself, as Qwen3 does with queries and keys.
#[must_use]
pub fn rms_norm(x: Tensor<2>, weight: Tensor<2>, epsilon: f32) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::rms_norm(x, weight, epsilon);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon))
}

/// Layer norm over all channels (Ba et al., arXiv 1607.06450): `x` `[tokens, width]`, `weight` and `bias` `[1, width]`.
#[must_use]
pub fn layer_norm(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<2>, epsilon: f32) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::layer_norm(x, weight, bias, epsilon);
    }
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as flex::Fused>::layer_norm(x, weight, bias, epsilon))
}

/// Turns every head of `x` `[tokens, heads * head_dim]` by its token's position (`positions` `[tokens]`).
#[must_use]
pub fn rotate(x: Tensor<2>, rotary: &Arc<Rotary>, positions: &Arc<Vec<usize>>) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::rotate(x, rotary, positions);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::rotate(
        x.into_dispatch(),
        rotary.clone(),
        positions.clone(),
        false,
    ))
}

/// Causal attention inside each sequence, with grouped queries (Ainslie et al., arXiv 2305.13245).
///
/// `queries` `[tokens, heads * head_dim]`, `keys` and `values` `[tokens, kv_heads * head_dim]`.
#[must_use]
pub fn attention(
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    sequences: &Arc<Sequences>,
    head_dim: usize,
) -> Tensor<2> {
    if !is_fused(&queries) {
        return plain::attention(queries, keys, values, sequences, head_dim);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::causal_attention(
        queries.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        sequences.clone(),
        head_dim,
    ))
}

/// Puts row `i` of `keys` and `values` `[tokens, kv_width]` at `places[i]` of the cache: in place when nobody else
/// holds it.
#[must_use]
pub fn paged_write(keys: Tensor<2>, values: Tensor<2>, cache: KeyValue, places: &Arc<Vec<usize>>) -> KeyValue {
    if !is_fused(&keys) {
        return plain::paged_write(keys, values, cache, places);
    }
    let (keys, values) = <Dispatch as flex::Fused>::paged_write(
        keys.into_dispatch(),
        values.into_dispatch(),
        cache.keys.into_dispatch(),
        cache.values.into_dispatch(),
        places.clone(),
    );
    KeyValue { keys: Tensor::from_dispatch(keys), values: Tensor::from_dispatch(values) }
}

/// Copies whole pages, `from[i]` to `to[i]`: in place when nobody else holds the cache.
#[must_use]
pub fn paged_copy(cache: KeyValue, from: &Arc<Vec<usize>>, to: &Arc<Vec<usize>>) -> KeyValue {
    let copy = |pages: Tensor<2>| {
        if !is_fused(&pages) {
            return plain::paged_copy(pages, from, to);
        }
        Tensor::from_dispatch(<Dispatch as flex::Fused>::paged_copy(pages.into_dispatch(), from.clone(), to.clone()))
    };
    KeyValue { keys: copy(cache.keys), values: copy(cache.values) }
}

/// Attention of one newest token a sequence over what it has seen, its own key and value written before.
///
/// `queries` `[sequences, heads * head_dim]`, the result alike. Kwon et al., arXiv 2309.06180.
#[must_use]
pub fn paged_attention(queries: Tensor<2>, cache: &KeyValue, seen: &Arc<Seen>, head_dim: usize) -> Tensor<2> {
    if !is_fused(&queries) {
        return plain::paged_attention(queries, cache, seen, head_dim);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::paged_attention(
        queries.into_dispatch(),
        cache.keys.clone().into_dispatch(),
        cache.values.clone().into_dispatch(),
        seen.clone(),
        head_dim,
    ))
}

/// `silu(gate) * up` (Shazeer, arXiv 2002.05202), element by element.
#[must_use]
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !is_fused(&gate) {
        return plain::swiglu(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The Gaussian error linear unit by its hyperbolic tangent (Hendrycks & Gimpel, arXiv 1606.08415), as GPT-2 has it.
#[must_use]
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    if !is_fused(&x) {
        return plain::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::gelu(x.into_dispatch()))
}

/// Log-probability of `targets[i]` under `softmax(logits[i] / temperature)`: `[rows, vocab]` to `[rows]`, in f32.
#[must_use]
pub fn logprobs(logits: Tensor<2>, targets: &Arc<Vec<usize>>, temperature: f32) -> Tensor<1> {
    if !is_fused(&logits) {
        return plain::logprobs(logits, targets, temperature);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::logprobs(logits.into_dispatch(), targets.clone(), temperature))
}

/// Entropy of `softmax(logits[i] / temperature)` in nats, `[rows, vocab]` to `[rows]`, in f32. Carries no gradient.
#[must_use]
pub fn entropy(logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    let logits = logits.without_autodiff();
    if !is_fused(&logits) {
        return plain::entropy(logits, temperature);
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::entropy(logits.into_dispatch(), temperature))
}

/// From this many entries on, a vocabulary's logits are computed piece by piece and never held; below, holding them
/// costs little and saves computing them twice.
pub const LARGE_VOCABULARY: usize = 8192;

/// Bytes that [`head`] holds while it computes, whatever the numbers of rows and entries, at most.
pub const HEAD_BYTES: usize = flex::head::BLOCK * flex::head::ENTRIES * size_of::<f32>();

/// Whose gradients a head is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Both,
    /// The weight is not trained.
    Hidden,
}

/// [`logprobs`] and [`entropy`] of `linear(hidden, weight)`, without holding its result `[rows, vocab]`.
///
/// `hidden` `[rows, hidden]`, `weight` `[vocab, hidden]`; both results `[rows]`. On the CPU the gradient computes the
/// logits once more; elsewhere autodiff keeps them.
#[must_use]
pub fn head(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: &Arc<Vec<usize>>,
    temperature: f32,
) -> (Tensor<1>, Tensor<1>) {
    if !is_fused(&hidden) {
        return plain::head(&hidden, &weight, targets, temperature);
    }
    let (hidden, weight) = (hidden.into_dispatch(), weight.into_dispatch());
    let told: Tensor<2> =
        Tensor::from_dispatch(<Dispatch as flex::Fused>::head(hidden, weight, targets.clone(), temperature));
    let row = |told: Tensor<2>, at: usize| told.narrow(0, at, 1).reshape([targets.len()]);
    (row(told.clone(), 0), row(told.without_autodiff(), 1))
}

/// The sum of the squares of all elements, `[1]`, in fixed chunks and without holding them. Carries no gradient.
#[must_use]
pub fn sum_of_squares(x: Tensor<2>) -> Tensor<1> {
    if !is_fused(&x) {
        return x.powi_scalar(2).sum();
    }
    Tensor::from_dispatch(<Dispatch as flex::Fused>::sum_of_squares(x.into_dispatch()))
}

/// What one AdamW step needs beside the tensors (Loshchilov & Hutter, arXiv 1711.05101; names as in PyTorch).
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
    /// Factor on the gradient: what clipping by the global norm left of it.
    pub gradient_scale: f32,
    /// Counted from one.
    pub step: i32,
}

/// One weight with its first and second moment, all of one shape.
#[derive(Debug, Clone)]
pub struct Moments {
    pub weight: Tensor<2>,
    pub first: Tensor<2>,
    pub second: Tensor<2>,
}

/// One AdamW update, in place where nobody else holds the tensors.
#[must_use]
pub fn adamw(moments: Moments, gradient: Tensor<2>, settings: AdamStep) -> Moments {
    if !is_fused(&gradient) {
        return plain::adamw(moments, gradient, settings);
    }
    let (weight, first, second) = <Dispatch as flex::Fused>::adamw(
        moments.weight.into_dispatch(),
        moments.first.into_dispatch(),
        moments.second.into_dispatch(),
        gradient.into_dispatch(),
        settings,
    );
    Moments {
        weight: Tensor::from_dispatch(weight),
        first: Tensor::from_dispatch(first),
        second: Tensor::from_dispatch(second),
    }
}

/// Where the numbers of a tensor on the CPU lie, recorded or not, to tell whether two share them.
#[cfg(test)]
pub(crate) fn address(tensor: &Tensor<2>) -> usize {
    let tensor = tensor.clone().without_autodiff().try_into_primitive::<burn::backend::Flex>().expect("on the CPU");
    tensor.bytes().as_ptr() as usize
}

#[cfg(test)]
mod tests;
