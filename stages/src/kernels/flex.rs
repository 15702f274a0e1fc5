//! The fused operations on the CPU: vectorised by the instruction set found at run time, spread over
//! threads by fixed chunks, so that a sum's order never depends on how many threads there are.

mod attention;
pub(super) mod head;
mod layer;
mod matrix;
mod paged;
mod vector;

use std::sync::Arc;

use burn::backend::{Flex, TensorMetadata, backend_extension, flex::FlexTensor, tensor::FloatTensor};
use rayon::prelude::*;

use matrix::{Dense, Operand, Shared, Target, empty, owned, product, project, threads};
use vector::{Arch, dot, exp, lanes, log_sum_exp, sigmoid};

use super::{AdamStep, Omission, Rotary, Seen, Sequences, Wanted};

/// Elements that one task of an element-wise operation takes.
const CHUNK: usize = 16 * 1024;
/// Rows that one task of a row-wise operation takes.
const ROWS: usize = 128;

/// Fused operations with hand-written gradients; [`super`] documents each shape.
#[backend_extension(Autodiff, Flex)]
pub trait Fused: burn::backend::Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_back_x(gradient: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_back_weight(gradient: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_with_dropout(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        omission: Arc<Omission>,
    ) -> FloatTensor<Self>;
    fn omit(x: FloatTensor<Self>, omission: Arc<Omission>) -> FloatTensor<Self>;
    fn rows(table: FloatTensor<Self>, index: Arc<Vec<usize>>) -> FloatTensor<Self>;
    fn rows_back(gradient: FloatTensor<Self>, index: Arc<Vec<usize>>, count: usize) -> FloatTensor<Self>;
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    fn rms_norm_back(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn layer_norm_back(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn rotate(
        x: FloatTensor<Self>,
        rotary: Arc<Rotary>,
        positions: Arc<Vec<usize>>,
        backwards: bool,
    ) -> FloatTensor<Self>;
    fn causal_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> FloatTensor<Self>;
    fn attention_back(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn paged_write(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        cached_keys: FloatTensor<Self>,
        cached_values: FloatTensor<Self>,
        places: Arc<Vec<usize>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn paged_copy(pages: FloatTensor<Self>, from: Arc<Vec<usize>>, to: Arc<Vec<usize>>) -> FloatTensor<Self>;
    fn paged_attention(
        queries: FloatTensor<Self>,
        cached_keys: FloatTensor<Self>,
        cached_values: FloatTensor<Self>,
        seen: Arc<Seen>,
        head_dim: usize,
    ) -> FloatTensor<Self>;
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn swiglu_back(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn gelu_back(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    fn logprobs(logits: FloatTensor<Self>, targets: Arc<Vec<usize>>, temperature: f32) -> FloatTensor<Self>;
    fn logprobs_back(
        logits: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<Vec<usize>>,
        temperature: f32,
    ) -> FloatTensor<Self>;
    fn entropy(logits: FloatTensor<Self>, temperature: f32) -> FloatTensor<Self>;
    fn head(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<Vec<usize>>,
        temperature: f32,
    ) -> FloatTensor<Self>;
    fn head_back(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        told: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<Vec<usize>>,
        temperature: f32,
        wanted: Wanted,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn adamw(
        weight: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl Fused for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (Dense::new(&x), Dense::new(&weight));
        assert_eq!(x.width(), weight.width(), "rows of `x` and of `weight` are of one width");
        let mut output = empty([x.height(), weight.height()]);
        project(x.slice(), weight.slice(), x.width(), output.storage_mut::<f32>());
        output
    }

    fn linear_back_x(gradient: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (gradient, weight) = (Dense::new(&gradient), Dense::new(&weight));
        let (m, n, k) = (gradient.height(), weight.width(), weight.height());
        assert_eq!(gradient.width(), k, "`gradient` has a column for each row of `weight`");
        let mut output = empty([m, n]);
        let target = Target(Shared::of(&mut output).0, n, false);
        let (left, right) = (Operand(gradient.slice().as_ptr(), k, 1), Operand(weight.slice().as_ptr(), n, 1));
        // SAFETY: sizes are those of the three dense tensors.
        unsafe { product([m, n, k], target, left, right, threads()) };
        output
    }

    fn linear_back_weight(gradient: FlexTensor, x: FlexTensor) -> FlexTensor {
        let (gradient, x) = (Dense::new(&gradient), Dense::new(&x));
        let (m, n, k) = (gradient.width(), x.width(), x.height());
        assert_eq!(gradient.height(), k, "`gradient` has a row for each row of `x`");
        let mut output = empty([m, n]);
        let target = Target(Shared::of(&mut output).0, n, false);
        let (left, right) = (Operand(gradient.slice().as_ptr(), 1, m), Operand(x.slice().as_ptr(), n, 1));
        // SAFETY: sizes are those of the three dense tensors.
        unsafe { product([m, n, k], target, left, right, threads()) };
        output
    }

    fn linear_with_dropout(x: FlexTensor, weight: FlexTensor, omission: Arc<Omission>) -> FlexTensor {
        <Self as Fused>::linear(Self::omit(x, omission), weight)
    }

    fn omit(x: FlexTensor, omission: Arc<Omission>) -> FlexTensor {
        let x = Dense::new(&x);
        let width = x.width();
        let mut output = empty(x.0.shape());
        let rows = output.storage_mut::<f32>().par_chunks_mut(width).zip(x.slice().par_chunks(width));
        rows.enumerate().for_each(|(row, (output, x))| {
            for ((output, x), factor) in output.iter_mut().zip(x).zip(omission.factors(row)) {
                *output = x * factor;
            }
        });
        output
    }

    fn rows(table: FlexTensor, index: Arc<Vec<usize>>) -> FlexTensor {
        let table = Dense::new(&table);
        let width = table.width();
        let mut output = empty([index.len(), width]);
        let from = table.slice();
        let rows = output.storage_mut::<f32>().par_chunks_mut(ROWS * width).zip(index.par_chunks(ROWS));
        rows.for_each(|(output, index)| {
            for (output, row) in output.chunks_mut(width).zip(index) {
                output.copy_from_slice(&from[row * width..(row + 1) * width]);
            }
        });
        output
    }

    fn rows_back(gradient: FlexTensor, index: Arc<Vec<usize>>, count: usize) -> FlexTensor {
        let gradient = Dense::new(&gradient);
        let width = gradient.width();
        let mut output = empty([count, width]);
        let sums = output.storage_mut::<f32>();
        for (row, gradient) in index.iter().zip(gradient.slice().chunks(width)) {
            for (sum, value) in sums[row * width..(row + 1) * width].iter_mut().zip(gradient) {
                *sum += value;
            }
        }
        output
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, epsilon: f32) -> FlexTensor {
        let (x, weight) = (Dense::new(&x), Dense::new(&weight));
        let (weight, channels) = (weight.slice(), weight.width());
        assert!(x.width().is_multiple_of(channels), "rows of `x` are whole times as wide as `weight`");
        let mut output = empty(x.0.shape());
        let span = ROWS * channels;
        output.storage_mut::<f32>().par_chunks_mut(span).zip(x.slice().par_chunks(span)).for_each(|(output, x)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (output, x) in output.chunks_mut(channels).zip(x.chunks(channels)) {
                        let scale = 1.0 / (dot(x, x) / channels as f32 + epsilon).sqrt();
                        for ((output, x), weight) in output.iter_mut().zip(x).zip(weight) {
                            *output = x * scale * weight;
                        }
                    }
                },
            );
        });
        output
    }

    fn rms_norm_back(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        epsilon: f32,
    ) -> (FlexTensor, FlexTensor) {
        let (x, weight, gradient) = (Dense::new(&x), Dense::new(&weight), Dense::new(&gradient));
        let (scales, channels) = (weight.slice(), weight.width());
        assert!(x.width().is_multiple_of(channels), "rows of `x` are whole times as wide as `weight`");
        assert_eq!(x.size(), gradient.size(), "`x` and `gradient` are of one size");
        let mut x_gradient = empty(x.0.shape());
        let span = ROWS * channels;
        let parts: Vec<Vec<f32>> = x_gradient
            .storage_mut::<f32>()
            .par_chunks_mut(span)
            .zip(x.slice().par_chunks(span))
            .zip(gradient.slice().par_chunks(span))
            .map(|((to, x), gradient)| {
                let mut weight_gradient = vec![0.0; channels];
                Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        let rows = to.chunks_mut(channels).zip(x.chunks(channels)).zip(gradient.chunks(channels));
                        for ((to, x), gradient) in rows {
                            rms_norm_row_back(x, scales, gradient, epsilon, to, &mut weight_gradient);
                        }
                    },
                );
                weight_gradient
            })
            .collect();
        let mut weight_gradient = empty(weight.0.shape());
        let sums = weight_gradient.storage_mut::<f32>();
        for part in parts {
            for (sum, value) in sums.iter_mut().zip(part) {
                *sum += value;
            }
        }
        (x_gradient, weight_gradient)
    }

    fn layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f32) -> FlexTensor {
        layer::norm(x, weight, bias, epsilon)
    }

    fn layer_norm_back(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        epsilon: f32,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        layer::back(x, weight, gradient, epsilon)
    }

    fn rotate(x: FlexTensor, rotary: Arc<Rotary>, positions: Arc<Vec<usize>>, backwards: bool) -> FlexTensor {
        let x = Dense::new(&x);
        let (width, head_dim) = (x.width(), rotary.head_dim);
        assert!(
            width.is_multiple_of(head_dim) && x.height() == positions.len(),
            "whole heads, a position for each row"
        );
        let half = head_dim / 2;
        let sign = if backwards { -1.0 } else { 1.0 };
        let mut output = empty(x.0.shape());
        let tasks = output
            .storage_mut::<f32>()
            .par_chunks_mut(ROWS * width)
            .zip(x.slice().par_chunks(ROWS * width))
            .zip(positions.par_chunks(ROWS));
        tasks.for_each(|((output, x), positions)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = output.chunks_mut(width).zip(x.chunks(width)).zip(positions);
                    for ((output, x), position) in rows {
                        let (cos, sin) =
                            (&rotary.cos[position * half..][..half], &rotary.sin[position * half..][..half]);
                        for (output, x) in output.chunks_mut(head_dim).zip(x.chunks(head_dim)) {
                            let (low, high) = output.split_at_mut(half);
                            let (a, b) = x.split_at(half);
                            for i in 0..half {
                                let sine = sin[i] * sign;
                                low[i] = a[i] * cos[i] - b[i] * sine;
                                high[i] = b[i] * cos[i] + a[i] * sine;
                            }
                        }
                    }
                },
            );
        });
        output
    }

    fn causal_attention(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> FlexTensor {
        attention::causal(queries, keys, values, sequences, head_dim)
    }

    fn attention_back(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        gradient: FlexTensor,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        attention::back(queries, keys, values, gradient, sequences, head_dim)
    }

    fn paged_write(
        keys: FlexTensor,
        values: FlexTensor,
        cached_keys: FlexTensor,
        cached_values: FlexTensor,
        places: Arc<Vec<usize>>,
    ) -> (FlexTensor, FlexTensor) {
        paged::write(keys, values, cached_keys, cached_values, places)
    }

    fn paged_copy(pages: FlexTensor, from: Arc<Vec<usize>>, to: Arc<Vec<usize>>) -> FlexTensor {
        paged::copy(pages, from, to)
    }

    fn paged_attention(
        queries: FlexTensor,
        cached_keys: FlexTensor,
        cached_values: FlexTensor,
        seen: Arc<Seen>,
        head_dim: usize,
    ) -> FlexTensor {
        paged::attention(queries, cached_keys, cached_values, seen, head_dim)
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (Dense::new(&gate), Dense::new(&up));
        assert_eq!(gate.size(), up.size(), "`gate` and `up` are of one size");
        let mut output = empty(gate.0.shape());
        let inputs = gate.slice().par_chunks(CHUNK).zip(up.slice().par_chunks(CHUNK));
        output.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(inputs).for_each(|(output, (gate, up))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
                        *output = gate * sigmoid(*gate) * up;
                    }
                },
            );
        });
        output
    }

    fn swiglu_back(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let (gate, up, gradient) = (Dense::new(&gate), Dense::new(&up), Dense::new(&gradient));
        let (mut to_gate, mut to_up) = (empty(gate.0.shape()), empty(gate.0.shape()));
        let inputs =
            gate.slice().par_chunks(CHUNK).zip(up.slice().par_chunks(CHUNK)).zip(gradient.slice().par_chunks(CHUNK));
        let outputs =
            to_gate.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(to_up.storage_mut::<f32>().par_chunks_mut(CHUNK));
        outputs.zip(inputs).for_each(|((to_gate, to_up), ((gate, up), gradient))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(up).zip(gradient);
                    for ((to_gate, to_up), ((gate, up), gradient)) in
                        to_gate.iter_mut().zip(to_up.iter_mut()).zip(inputs)
                    {
                        let open = sigmoid(*gate);
                        let silu = gate * open;
                        *to_up = gradient * silu;
                        *to_gate = gradient * up * (open + silu * (1.0 - open));
                    }
                },
            );
        });
        (to_gate, to_up)
    }

    fn gelu(x: FlexTensor) -> FlexTensor {
        let x = Dense::new(&x);
        let mut output = empty(x.0.shape());
        output.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(x.slice().par_chunks(CHUNK)).for_each(|(output, x)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (output, x) in output.iter_mut().zip(x) {
                        *output = x * gelu_gate(*x).0;
                    }
                },
            );
        });
        output
    }

    fn gelu_back(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (x, gradient) = (Dense::new(&x), Dense::new(&gradient));
        let mut output = empty(x.0.shape());
        let inputs = x.slice().par_chunks(CHUNK).zip(gradient.slice().par_chunks(CHUNK));
        output.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(inputs).for_each(|(output, (x, gradient))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for ((output, x), gradient) in output.iter_mut().zip(x).zip(gradient) {
                        let (gate, slope) = gelu_gate(*x);
                        *output = gradient * (gate + x * slope);
                    }
                },
            );
        });
        output
    }

    fn logprobs(logits: FlexTensor, targets: Arc<Vec<usize>>, temperature: f32) -> FlexTensor {
        let logits = Dense::new(&logits);
        let width = logits.width();
        assert_eq!(logits.height(), targets.len(), "a target for each row of `logits`");
        let mut output = empty([targets.len()]);
        let tasks = logits.slice().par_chunks(ROWS * width).zip(targets.par_chunks(ROWS));
        output.storage_mut::<f32>().par_chunks_mut(ROWS).zip(tasks).for_each(|(output, (logits, targets))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for ((output, row), target) in output.iter_mut().zip(logits.chunks(width)).zip(targets) {
                        *output = row[*target] / temperature - log_sum_exp(row, temperature);
                    }
                },
            );
        });
        output
    }

    fn logprobs_back(
        logits: FlexTensor,
        gradient: FlexTensor,
        targets: Arc<Vec<usize>>,
        temperature: f32,
    ) -> FlexTensor {
        let (logits, gradient) = (Dense::new(&logits), Dense::new(&gradient));
        let width = logits.width();
        assert_eq!(logits.height(), targets.len(), "a target for each row of `logits`");
        let mut output = empty(logits.0.shape());
        let tasks = logits.slice().par_chunks(ROWS * width).zip(targets.par_chunks(ROWS));
        let tasks = tasks.zip(gradient.slice().par_chunks(ROWS));
        output.storage_mut::<f32>().par_chunks_mut(ROWS * width).zip(tasks).for_each(|(output, tasks)| {
            let ((logits, targets), gradient) = tasks;
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = output.chunks_mut(width).zip(logits.chunks(width)).zip(targets).zip(gradient);
                    for (((output, row), target), gradient) in rows {
                        // d logprob / d logits = (onehot - softmax) / temperature
                        let total = log_sum_exp(row, temperature);
                        let slope = gradient / temperature;
                        for (output, logit) in output.iter_mut().zip(row) {
                            *output = -slope * exp(logit / temperature - total);
                        }
                        output[*target] += slope;
                    }
                },
            );
        });
        output
    }

    fn entropy(logits: FlexTensor, temperature: f32) -> FlexTensor {
        let logits = Dense::new(&logits);
        let width = logits.width();
        let mut output = empty([logits.height()]);
        let tasks = logits.slice().par_chunks(ROWS * width);
        output.storage_mut::<f32>().par_chunks_mut(ROWS).zip(tasks).for_each(|(output, logits)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (output, row) in output.iter_mut().zip(logits.chunks(width)) {
                        let total = log_sum_exp(row, temperature);
                        *output = -lanes(
                            width,
                            #[inline(always)]
                            |i| {
                                let logprob = row[i] / temperature - total;
                                exp(logprob) * logprob
                            },
                        );
                    }
                },
            );
        });
        output
    }

    fn head(hidden: FlexTensor, weight: FlexTensor, targets: Arc<Vec<usize>>, temperature: f32) -> FlexTensor {
        head::forward(hidden, weight, &targets, temperature)
    }

    fn head_back(
        hidden: FlexTensor,
        weight: FlexTensor,
        told: FlexTensor,
        gradient: FlexTensor,
        targets: Arc<Vec<usize>>,
        temperature: f32,
        wanted: Wanted,
    ) -> (FlexTensor, FlexTensor) {
        head::back([hidden, weight, told, gradient], &targets, temperature, wanted)
    }

    fn sum_of_squares(x: FlexTensor) -> FlexTensor {
        let x = Dense::new(&x);
        let squares = |part: &[f32]| {
            let mut sum = 0.0;
            Arch::new().dispatch(
                #[inline(always)]
                || sum = dot(part, part),
            );
            f64::from(sum)
        };
        let parts: Vec<f64> = x.slice().par_chunks(CHUNK).map(squares).collect();
        let mut output = empty([1]);
        output.storage_mut::<f32>()[0] = parts.iter().sum::<f64>() as f32;
        output
    }

    fn adamw(
        weight: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        gradient: FlexTensor,
        settings: AdamStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, step } = settings;
        let gradient = Dense::new(&gradient);
        let (mut weight, mut first, mut second) = (owned(weight), owned(first), owned(second));
        let shape = gradient.0.shape();
        let is_one_shape = [&weight, &first, &second].into_iter().all(|tensor| tensor.shape() == shape);
        assert!(is_one_shape, "weight, moments and gradient are of one shape");
        let rate = learning_rate / (1.0 - beta1.powi(step));
        let correction = 1.0 / (1.0 - beta2.powi(step)).sqrt();
        let decay = 1.0 - learning_rate * weight_decay;
        let tasks = weight
            .storage_mut::<f32>()
            .par_chunks_mut(CHUNK)
            .zip(first.storage_mut::<f32>().par_chunks_mut(CHUNK))
            .zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK))
            .zip(gradient.slice().par_chunks(CHUNK));
        tasks.for_each(|(((weight, first), second), gradient)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let all = weight.iter_mut().zip(first.iter_mut()).zip(second.iter_mut()).zip(gradient);
                    for (((weight, first), second), gradient) in all {
                        let gradient = gradient * gradient_scale;
                        *first = beta1 * *first + (1.0 - beta1) * gradient;
                        *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                        *weight = *weight * decay - rate * *first / (second.sqrt() * correction + epsilon);
                    }
                },
            );
        });
        (weight, first, second)
    }
}

/// What GELU multiplies `x` by, and its slope: `(1 + tanh u) / 2 = sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu_gate(x: f32) -> (f32, f32) {
    const TWICE: f32 = 1.595_769_2; // 2 * sqrt(2 / pi)
    const CUBE: f32 = 0.044_715;
    let gate = sigmoid(TWICE * x * (1.0 + CUBE * x * x));
    (gate, gate * (1.0 - gate) * TWICE * (1.0 + 3.0 * CUBE * x * x))
}

#[inline(always)]
fn rms_norm_row_back(
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    epsilon: f32,
    to: &mut [f32],
    weight_gradient: &mut [f32],
) {
    let channels = weight.len();
    let scale = 1.0 / (dot(x, x) / channels as f32 + epsilon).sqrt();
    for i in 0..channels {
        weight_gradient[i] += gradient[i] * x[i] * scale;
        to[i] = gradient[i] * weight[i];
    }
    let pull = dot(to, x) * scale * scale * scale / channels as f32;
    for i in 0..channels {
        to[i] = to[i] * scale - x[i] * pull;
    }
}
