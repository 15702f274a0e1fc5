//! The fused operations on the CPU: vectorised by the instruction set found at run time, spread over
//! threads by fixed chunks, so that a sum's order never depends on how many threads there are.

use std::sync::Arc;

use burn::{
    backend::{Flex, TensorMetadata, backend_extension, flex::FlexTensor, tensor::FloatTensor},
    tensor::{DType, Shape},
};
use pulp::Arch;
use rayon::prelude::*;

use super::{AdamStep, Rotary, Sequences};

/// Elements that one task of an element-wise operation takes.
const CHUNK: usize = 16 * 1024;
/// Rows that one task of a row-wise operation takes.
const ROWS: usize = 128;
/// Query rows whose scores are held at once.
const QUERY_BLOCK: usize = 64;

/// Fused operations with hand-written gradients; [`super`] documents each shape.
#[backend_extension(Autodiff, Flex)]
pub trait Fused: burn::backend::Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_back_x(gradient: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_back_weight(gradient: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn rows(table: FloatTensor<Self>, index: Arc<Vec<usize>>) -> FloatTensor<Self>;
    fn rows_back(gradient: FloatTensor<Self>, index: Arc<Vec<usize>>, count: usize) -> FloatTensor<Self>;
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    fn rms_norm_back(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
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
    fn attention_cached(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        cached_keys: FloatTensor<Self>,
        cached_values: FloatTensor<Self>,
        lengths: Arc<Vec<usize>>,
        head_dim: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn swiglu_back(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn logprobs(logits: FloatTensor<Self>, targets: Arc<Vec<usize>>, temperature: f32) -> FloatTensor<Self>;
    fn logprobs_back(
        logits: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<Vec<usize>>,
        temperature: f32,
    ) -> FloatTensor<Self>;
    fn entropy(logits: FloatTensor<Self>, temperature: f32) -> FloatTensor<Self>;
    fn adamw(
        weight: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn empty(shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::empty(shape.into(), DType::F32)
}

/// The same tensor in row-major order. Consumed, so that nobody else holds a dense one and writing happens in place.
fn owned(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The tensor's elements in row-major order, and its last dimension.
struct Dense(FlexTensor);

impl Dense {
    fn new(tensor: &FlexTensor) -> Self {
        Self(tensor.to_contiguous())
    }

    fn slice(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("to_contiguous made it dense")
    }

    fn width(&self) -> usize {
        let shape = self.0.shape();
        shape[shape.num_dims() - 1]
    }

    fn height(&self) -> usize {
        self.slice().len() / self.width().max(1)
    }
}

/// A pointer that tasks share while each writes its own, disjoint part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every user below hands each task a range that no other task touches.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    fn of(tensor: &mut FlexTensor) -> Self {
        Self(tensor.storage_mut::<f32>().as_mut_ptr())
    }

    /// # Safety
    /// `offset` lies inside the tensor, and nobody else uses the part that the caller will write.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        unsafe { self.0.add(offset) }
    }
}

/// A matrix operand by its first element and the distance between rows and between columns.
#[derive(Clone, Copy)]
struct Operand(*const f32, usize, usize);

/// Where a product goes: first element, distance between rows, and whether it is added to what is there.
#[derive(Clone, Copy)]
struct Target(*mut f32, usize, bool);

/// `target[m, n] (+)= left[m, k] right[k, n]`.
///
/// # Safety
/// The pointers cover the matrices that the sizes and distances describe.
unsafe fn product(
    [m, n, k]: [usize; 3],
    target: Target,
    left: Operand,
    right: Operand,
    parallelism: gemm::Parallelism,
) {
    let Target(to, to_row, add) = target;
    let Operand(left, left_row, left_column) = left;
    let Operand(right, right_row, right_column) = right;
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            to_row.cast_signed(),
            add,
            left,
            left_column.cast_signed(),
            left_row.cast_signed(),
            right,
            right_column.cast_signed(),
            right_row.cast_signed(),
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn threads() -> gemm::Parallelism {
    gemm::Parallelism::Rayon(0)
}

/// `e^x` to 2 ulp (Cephes' expf: Cody-Waite reduction, degree-5 polynomial); vectorises, unlike libm's.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(2.121_944_4e-4, whole.mul_add(-0.693_359_4, x));
    let poly = 1.987_569_1e-4_f32
        .mul_add(rest, 1.398_199_9e-3)
        .mul_add(rest, 8.333_452e-3)
        .mul_add(rest, 4.166_579_6e-2)
        .mul_add(rest, 1.666_666_5e-1)
        .mul_add(rest, 0.5);
    let value = poly.mul_add(rest * rest, rest) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    f32::from_bits(value.to_bits().wrapping_add(exponent << 23))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sums in 32 lanes, so that the order is fixed and the loop vectorises. `term` has to be inlined: a closure of its
/// own is compiled for the oldest processor, and calls a library for every fused multiplication.
#[inline(always)]
fn lanes(length: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut partial = [0.0_f32; 32];
    let whole = length / 32 * 32;
    for start in (0..whole).step_by(32) {
        for (lane, sum) in partial.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let mut total = 0.0;
    for sum in partial {
        total += sum;
    }
    for i in whole..length {
        total += term(i);
    }
    total
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    lanes(
        length,
        #[inline(always)]
        |i| a[i] * b[i],
    )
}

#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; 32];
    let chunks = values.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, value) in partial.iter_mut().zip(chunk) {
            *most = most.max(*value);
        }
    }
    partial.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| most.max(*value))
}

/// Softmax of the first `seen` scores times `scale`, zero beyond.
#[inline(always)]
fn softmax(scores: &mut [f32], seen: usize, scale: f32) {
    let (visible, hidden) = scores.split_at_mut(seen);
    let most = maximum(visible);
    for score in visible.iter_mut() {
        *score = exp((*score - most) * scale);
    }
    let share = 1.0
        / lanes(
            seen,
            #[inline(always)]
            |i| visible[i],
        );
    for score in visible.iter_mut() {
        *score *= share;
    }
    hidden.fill(0.0);
}

/// `log(sum(exp(row / temperature)))`.
#[inline(always)]
fn log_sum_exp(row: &[f32], temperature: f32) -> f32 {
    let most = maximum(row) / temperature;
    let total = lanes(
        row.len(),
        #[inline(always)]
        |i| exp(row[i] / temperature - most),
    );
    most + total.ln()
}

impl Fused for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (Dense::new(&x), Dense::new(&weight));
        let (m, n, k) = (x.height(), weight.height(), x.width());
        // Below this the library takes another summation order; padding with zero rows keeps a
        // token's result independent of how many others are in the batch.
        let least = 256 / n + 2;
        let weight_columns = Operand(weight.slice().as_ptr(), 1, k);
        let mut output = empty([m, n]);
        let to = Shared::of(&mut output).0;
        // SAFETY: sizes are those of the three dense tensors, or of the padded copies.
        unsafe {
            if m >= least {
                let from = Operand(x.slice().as_ptr(), k, 1);
                product([m, n, k], Target(to, n, false), from, weight_columns, threads());
            } else {
                let mut padded = vec![0.0; least * k];
                padded[..m * k].copy_from_slice(x.slice());
                let mut product_padded = vec![0.0; least * n];
                let target = Target(product_padded.as_mut_ptr(), n, false);
                product([least, n, k], target, Operand(padded.as_ptr(), k, 1), weight_columns, threads());
                output.storage_mut::<f32>().copy_from_slice(&product_padded[..m * n]);
            }
        }
        output
    }

    fn linear_back_x(gradient: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (gradient, weight) = (Dense::new(&gradient), Dense::new(&weight));
        let (m, n, k) = (gradient.height(), weight.width(), weight.height());
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
        let mut output = empty([m, n]);
        let target = Target(Shared::of(&mut output).0, n, false);
        let (left, right) = (Operand(gradient.slice().as_ptr(), 1, m), Operand(x.slice().as_ptr(), n, 1));
        // SAFETY: sizes are those of the three dense tensors.
        unsafe { product([m, n, k], target, left, right, threads()) };
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

    fn rotate(x: FlexTensor, rotary: Arc<Rotary>, positions: Arc<Vec<usize>>, backwards: bool) -> FlexTensor {
        let x = Dense::new(&x);
        let (width, head_dim) = (x.width(), rotary.head_dim);
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
        let (queries, keys, values) = (Dense::new(&queries), Dense::new(&keys), Dense::new(&values));
        let heads = Heads::new(&queries, &keys, head_dim);
        let mut output = empty(queries.0.shape());
        let to = Shared::of(&mut output);
        (0..sequences.count() * heads.queries).into_par_iter().for_each_init(Vec::new, |scores, task| {
            let (sequence, head) = (task / heads.queries, task % heads.queries);
            let (start, end) = (sequences.offsets[sequence], sequences.offsets[sequence + 1]);
            let from = heads.query(start, head);
            let at = heads.key(start, head / heads.group);
            for first in (0..end - start).step_by(QUERY_BLOCK) {
                let rows = QUERY_BLOCK.min(end - start - first);
                let seen = first + rows;
                let row = from + first * heads.query_width;
                heads.weights(&queries, &keys, [row, at], [rows, seen], scores);
                // SAFETY: this task alone writes these rows of this head.
                unsafe {
                    let target = Target(to.at(row), heads.query_width, false);
                    let right = Operand(values.slice().as_ptr().add(at), heads.key_width, 1);
                    product(
                        [rows, head_dim, seen],
                        target,
                        Operand(scores.as_ptr(), seen, 1),
                        right,
                        gemm::Parallelism::None,
                    );
                }
            }
        });
        output
    }

    fn attention_back(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        gradient: FlexTensor,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (queries, keys, values) = (Dense::new(&queries), Dense::new(&keys), Dense::new(&values));
        let gradient = Dense::new(&gradient);
        let heads = Heads::new(&queries, &keys, head_dim);
        let mut outputs = (empty(queries.0.shape()), empty(keys.0.shape()), empty(values.0.shape()));
        let (to_queries, to_keys, to_values) =
            (Shared::of(&mut outputs.0), Shared::of(&mut outputs.1), Shared::of(&mut outputs.2));
        let key_heads = heads.queries / heads.group;
        // A task owns one key head of one sequence, and with it all query heads that share it.
        (0..sequences.count() * key_heads).into_par_iter().for_each_init(Default::default, |scratch, task| {
            let (weights, slopes): &mut (Vec<f32>, Vec<f32>) = scratch;
            let (sequence, key_head) = (task / key_heads, task % key_heads);
            let (start, end) = (sequences.offsets[sequence], sequences.offsets[sequence + 1]);
            let at = heads.key(start, key_head);
            for head in key_head * heads.group..(key_head + 1) * heads.group {
                for first in (0..end - start).step_by(QUERY_BLOCK) {
                    let rows = QUERY_BLOCK.min(end - start - first);
                    let seen = first + rows;
                    let row = heads.query(start + first, head);
                    heads.weights(&queries, &keys, [row, at], [rows, seen], weights);
                    slopes.clear();
                    slopes.resize(rows * seen, 0.0);
                    let (query_width, key_width) = (heads.query_width, heads.key_width);
                    let serial = gemm::Parallelism::None;
                    // SAFETY: this task alone writes these query rows of this head, and this key
                    // head of this sequence; every offset lies inside its tensor.
                    unsafe {
                        let gradient = gradient.slice().as_ptr().add(row);
                        let (query, key, value) = (
                            queries.slice().as_ptr().add(row),
                            keys.slice().as_ptr().add(at),
                            values.slice().as_ptr().add(at),
                        );
                        // d weights = gradient values^T
                        let target = Target(slopes.as_mut_ptr(), seen, false);
                        let (left, right) = (Operand(gradient, query_width, 1), Operand(value, 1, key_width));
                        product([rows, seen, head_dim], target, left, right, serial);
                        // d values += weights^T gradient
                        let target = Target(to_values.at(at), key_width, true);
                        let (left, right) = (Operand(weights.as_ptr(), 1, seen), Operand(gradient, query_width, 1));
                        product([seen, head_dim, rows], target, left, right, serial);
                        softmax_back(weights, slopes, seen, heads.scale);
                        // d queries = slopes keys
                        let target = Target(to_queries.at(row), query_width, false);
                        let (left, right) = (Operand(slopes.as_ptr(), seen, 1), Operand(key, key_width, 1));
                        product([rows, head_dim, seen], target, left, right, serial);
                        // d keys += slopes^T queries
                        let target = Target(to_keys.at(at), key_width, true);
                        let (left, right) = (Operand(slopes.as_ptr(), 1, seen), Operand(query, query_width, 1));
                        product([seen, head_dim, rows], target, left, right, serial);
                    }
                }
            }
        });
        outputs
    }

    fn attention_cached(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        mut cached_keys: FlexTensor,
        mut cached_values: FlexTensor,
        lengths: Arc<Vec<usize>>,
        head_dim: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (queries, keys, values) = (Dense::new(&queries), Dense::new(&keys), Dense::new(&values));
        let heads = Heads::new(&queries, &keys, head_dim);
        let (slots, key_width) = (lengths.len(), heads.key_width);
        let capacity = cached_keys.shape()[0] / slots;
        let mut output = empty(queries.0.shape());
        let tasks = output
            .storage_mut::<f32>()
            .par_chunks_mut(heads.query_width)
            .zip(cached_keys.storage_mut::<f32>().par_chunks_mut(capacity * key_width))
            .zip(cached_values.storage_mut::<f32>().par_chunks_mut(capacity * key_width));
        tasks.enumerate().for_each_init(Vec::new, |weights, (slot, ((output, slot_keys), slot_values))| {
            let at = lengths[slot];
            slot_keys[at * key_width..][..key_width].copy_from_slice(&keys.slice()[slot * key_width..][..key_width]);
            slot_values[at * key_width..][..key_width]
                .copy_from_slice(&values.slice()[slot * key_width..][..key_width]);
            weights.clear();
            weights.resize(at + 1, 0.0);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    output.fill(0.0);
                    for head in 0..heads.queries {
                        let query = &queries.slice()[heads.query(slot, head)..][..head_dim];
                        let channel = head / heads.group * head_dim;
                        for (position, weight) in weights.iter_mut().enumerate() {
                            *weight = dot(query, &slot_keys[position * key_width + channel..][..head_dim]);
                        }
                        softmax(weights, at + 1, heads.scale);
                        let output = &mut output[head * head_dim..][..head_dim];
                        for (position, weight) in weights.iter().enumerate() {
                            let value = &slot_values[position * key_width + channel..][..head_dim];
                            for (output, value) in output.iter_mut().zip(value) {
                                *output = weight.mul_add(*value, *output);
                            }
                        }
                    }
                },
            );
        });
        (output, cached_keys, cached_values)
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (Dense::new(&gate), Dense::new(&up));
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
                    for ((to_gate, to_up), ((gate, up), gradient)) in to_gate.iter_mut().zip(to_up).zip(inputs) {
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

    fn logprobs(logits: FlexTensor, targets: Arc<Vec<usize>>, temperature: f32) -> FlexTensor {
        let logits = Dense::new(&logits);
        let width = logits.width();
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
                    let all = weight.iter_mut().zip(first).zip(second).zip(gradient);
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

/// How heads lie in rows of queries and of keys.
#[derive(Clone, Copy)]
struct Heads {
    queries: usize,
    /// Query heads that share one key head.
    group: usize,
    head_dim: usize,
    query_width: usize,
    key_width: usize,
    scale: f32,
}

impl Heads {
    fn new(queries: &Dense, keys: &Dense, head_dim: usize) -> Self {
        let (query_width, key_width) = (queries.width(), keys.width());
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            queries: query_width / head_dim,
            group: query_width / key_width,
            head_dim,
            query_width,
            key_width,
            scale,
        }
    }

    /// Offset of a query head in a token's row.
    fn query(&self, token: usize, head: usize) -> usize {
        token * self.query_width + head * self.head_dim
    }

    /// Offset of a key head in a token's row.
    fn key(&self, token: usize, head: usize) -> usize {
        token * self.key_width + head * self.head_dim
    }

    /// Attention weights `[rows, seen]` of the last `rows` of `seen` tokens, from the offsets of the
    /// first query row and of the first key.
    fn weights(&self, queries: &Dense, keys: &Dense, at: [usize; 2], [rows, seen]: [usize; 2], to: &mut Vec<f32>) {
        to.clear();
        to.resize(rows * seen, 0.0);
        // SAFETY: the offsets are those of rows of these tensors, `to` has just been sized.
        unsafe {
            let left = Operand(queries.slice().as_ptr().add(at[0]), self.query_width, 1);
            let right = Operand(keys.slice().as_ptr().add(at[1]), 1, self.key_width);
            let target = Target(to.as_mut_ptr(), seen, false);
            product([rows, seen, self.head_dim], target, left, right, gemm::Parallelism::None);
        }
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (row, scores) in to.chunks_mut(seen).enumerate() {
                    softmax(scores, seen - rows + row + 1, self.scale);
                }
            },
        );
    }
}

/// From `slopes = d loss / d weights` to `d loss / d scores`, in place.
fn softmax_back(weights: &[f32], slopes: &mut [f32], seen: usize, scale: f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (weights, slopes) in weights.chunks(seen).zip(slopes.chunks_mut(seen)) {
                let mean = dot(weights, slopes);
                for (slope, weight) in slopes.iter_mut().zip(weights) {
                    *slope = weight * (*slope - mean) * scale;
                }
            }
        },
    );
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
