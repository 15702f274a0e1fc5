//! The same operations composed of Burn's own: what runs on a device without fused kernels or in
//! numbers that they do not know, and what the fused ones are checked against. Burn differentiates them.
//!
//! Results are in the numbers of the input. Where those are narrower than f32, products of matrices alone are computed
//! with them, summed up in f32.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, activation};

use super::{AdamStep, KeyValue, Moments, Omission, PAGE, Rotary, Seen, Sequences};

fn ints(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.map(|value| i32::try_from(value).expect("indices fit 31 bits")).collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

fn floats<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(FloatDType::F32)
}

/// A weight as `x` meets it, in f32: rounded to the numbers of `x`.
fn met_by(x: &Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    wide(weight.cast(x.dtype()))
}

pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = weight.cast(x.dtype());
    x.matmul(weight.transpose())
}

pub fn linear_with_dropout(x: Tensor<2>, weight: Tensor<2>, omission: &Omission) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let factors = (0..tokens).flat_map(|row| omission.factors(row).take(width)).collect();
    let factors = floats(factors, [tokens, width], &x.device().without_autodiff());
    let dtype = x.dtype();
    linear((wide(x) * factors).cast(dtype), weight)
}

pub fn rows(table: Tensor<2>, index: &[usize]) -> Tensor<2> {
    let index = ints(index.iter().copied(), &table.device());
    table.select(0, index)
}

pub fn rms_norm(x: Tensor<2>, weight: Tensor<2>, epsilon: f32) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let channels = weight.dims()[1];
    let (dtype, weight) = (x.dtype(), met_by(&x, weight));
    let x = wide(x).reshape([tokens * width / channels, channels]);
    let mean_square = x.clone().powi_scalar(2).mean_dim(1);
    (x / (mean_square + epsilon).sqrt() * weight).reshape([tokens, width]).cast(dtype)
}

pub fn layer_norm(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<2>, epsilon: f32) -> Tensor<2> {
    let (dtype, weight, bias) = (x.dtype(), met_by(&x, weight), met_by(&x, bias));
    let x = wide(x);
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().powi_scalar(2).mean_dim(1);
    (centred / (variance + epsilon).sqrt() * weight + bias).cast(dtype)
}

pub fn rotate(x: Tensor<2>, rotary: &Rotary, positions: &[usize]) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let (half, heads) = (rotary.head_dim / 2, width / rotary.head_dim);
    let table = |values: &[f32]| {
        let picked = positions.iter().flat_map(|at| &values[at * half..(at + 1) * half]).copied().collect();
        floats(picked, [tokens, 1, half], &x.device())
    };
    let (cos, sin) = (table(&rotary.cos), table(&rotary.sin));
    let dtype = x.dtype();
    let x = wide(x).reshape([tokens, heads, rotary.head_dim]);
    let (a, b) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
    let turned = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    Tensor::cat(turned, 2).reshape([tokens, width]).cast(dtype)
}

/// Softmax of scaled scores where `allowed` is one, times the values: all `[batch, heads, ..]`.
fn attend(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, allowed: Tensor<4>) -> Tensor<4> {
    let [batch, heads, _, head_dim] = queries.dims();
    let [_, kv_heads, length, _] = keys.dims();
    let repeat = |x: Tensor<4>| {
        x.reshape([batch, kv_heads, 1, length * head_dim])
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, length, head_dim])
    };
    let dtype = queries.dtype();
    let scores = wide(queries.matmul(repeat(keys).swap_dims(2, 3))) / (head_dim as f32).sqrt();
    // -1e30 and not infinity: a row that may see nothing stays a number.
    activation::softmax(scores + (allowed - 1.0) * 1e30, 3).cast(dtype).matmul(repeat(values))
}

pub fn attention(
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    sequences: &Arc<Sequences>,
    head_dim: usize,
) -> Tensor<2> {
    let device = queries.device();
    let (count, tokens) = (sequences.count(), sequences.tokens());
    let longest = sequences.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    // Padding repeats the sequence's first token; causality hides it from every real one.
    let padded: Arc<Vec<usize>> = Arc::new(
        sequences
            .offsets
            .windows(2)
            .flat_map(|pair| (0..longest).map(move |at| if pair[0] + at < pair[1] { pair[0] + at } else { pair[0] }))
            .map(|token| token.min(tokens.saturating_sub(1)))
            .collect(),
    );
    let split = |x: Tensor<2>| {
        let heads = x.dims()[1] / head_dim;
        rows(x, &padded).reshape([count, longest, heads, head_dim]).swap_dims(1, 2)
    };
    let causal = (0..longest * longest).map(|at| if at % longest <= at / longest { 1.0 } else { 0.0 }).collect();
    let width = queries.dims()[1];
    let output = attend(split(queries), split(keys), split(values), floats(causal, [1, 1, longest, longest], &device));
    let flat: Vec<usize> = sequences
        .offsets
        .windows(2)
        .enumerate()
        .flat_map(|(i, pair)| (0..pair[1] - pair[0]).map(move |at| i * longest + at))
        .collect();
    rows(output.swap_dims(1, 2).reshape([count * longest, width]), &flat)
}

/// The pages of keys, channel by channel, as rows of positions.
fn by_position(keys: Tensor<2>) -> Tensor<2> {
    let [pages, span] = keys.dims();
    let width = span / PAGE;
    keys.reshape([pages, width, PAGE]).swap_dims(1, 2).reshape([pages * PAGE, width])
}

pub fn paged_write(keys: Tensor<2>, values: Tensor<2>, cache: KeyValue, places: &[usize]) -> KeyValue {
    let device = keys.device();
    let ([rows, width], [pages, span]) = (keys.dims(), cache.keys.dims());
    // The channels of a key lie a page's positions apart.
    let channels = |place: usize| (0..width).map(move |channel| place / PAGE * span + channel * PAGE + place % PAGE);
    let of_keys = ints(places.iter().copied().flat_map(channels), &device);
    let of_values = ints(places.iter().copied(), &device);
    let write = IndexingUpdateOp::Assign;
    let keys = cache.keys.reshape([pages * span]).select_assign(0, of_keys, keys.reshape([rows * width]), write);
    let values = cache.values.reshape([pages * PAGE, width]).select_assign(0, of_values, values, write);
    KeyValue { keys: keys.reshape([pages, span]), values: values.reshape([pages, span]) }
}

pub fn paged_copy(pages: Tensor<2>, from: &[usize], to: &[usize]) -> Tensor<2> {
    let copied = rows(pages.clone(), from);
    let to = ints(to.iter().copied(), &pages.device());
    pages.select_assign(0, to, copied, IndexingUpdateOp::Assign)
}

pub fn paged_attention(queries: Tensor<2>, cache: &KeyValue, seen: &Seen, head_dim: usize) -> Tensor<2> {
    let device = queries.device();
    let [count, width] = queries.dims();
    let key_width = cache.keys.dims()[1] / PAGE;
    let longest = (0..count).map(|i| seen.pages(i).len()).max().unwrap_or(0);
    // Padding repeats a sequence's first page; the mask hides it.
    let padded = |i: usize| seen.pages(i).iter().chain(std::iter::repeat(&seen.pages(i)[0])).take(longest).copied();
    let table: Vec<usize> = (0..count).flat_map(padded).collect();
    let reach = longest * PAGE;
    let split = |x: Tensor<2>| x.reshape([count, reach, key_width / head_dim, head_dim]).swap_dims(1, 2);
    let (keys, values) = (rows(cache.keys.clone(), &table), rows(cache.values.clone(), &table));
    let allowed = (0..count * reach).map(|i| if i % reach < seen.lengths[i / reach] { 1.0 } else { 0.0 }).collect();
    let queries = queries.reshape([count, 1, width / head_dim, head_dim]).swap_dims(1, 2);
    let output = attend(
        queries,
        split(by_position(keys)),
        split(values.reshape([count * reach, key_width])),
        floats(allowed, [count, 1, 1, reach], &device),
    );
    output.reshape([count, width])
}

pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let dtype = gate.dtype();
    (activation::silu(wide(gate)) * wide(up)).cast(dtype)
}

pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    let dtype = x.dtype();
    let x = wide(x);
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * std::f32::consts::FRAC_2_PI.sqrt();
    (x * (inner.tanh() + 1.0) * 0.5).cast(dtype)
}

pub fn logprobs(logits: Tensor<2>, targets: &[usize], temperature: f32) -> Tensor<1> {
    let device = logits.device();
    let count = targets.len();
    let index = ints(targets.iter().copied(), &device).reshape([count, 1]);
    activation::log_softmax(wide(logits) / temperature, 1).gather(1, index).reshape([count])
}

pub fn entropy(logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    let count = logits.dims()[0];
    let logprobs = activation::log_softmax(wide(logits) / temperature, 1);
    (logprobs.clone().exp() * logprobs).sum_dim(1).reshape([count]) * -1.0
}

/// Rows whose logits are computed at once.
const HEAD_ROWS: usize = 64;

pub fn head(hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[usize], temperature: f32) -> (Tensor<1>, Tensor<1>) {
    let (told, entropies) = targets
        .chunks(HEAD_ROWS)
        .enumerate()
        .map(|(piece, targets)| {
            let logits = linear(hidden.clone().narrow(0, piece * HEAD_ROWS, targets.len()), weight.clone());
            let entropies = entropy(logits.clone().without_autodiff(), temperature);
            (logprobs(logits, targets, temperature), entropies)
        })
        .unzip();
    (Tensor::cat(told, 0), Tensor::cat(entropies, 0))
}

pub fn adamw(moments: Moments, gradient: Tensor<2>, settings: AdamStep) -> Moments {
    let AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, step } = settings;
    let gradient = gradient * gradient_scale;
    let first = moments.first * beta1 + gradient.clone() * (1.0 - beta1);
    let second = moments.second * beta2 + gradient.powi_scalar(2) * (1.0 - beta2);
    let rate = learning_rate / (1.0 - beta1.powi(step));
    let denominator = second.clone().sqrt() / (1.0 - beta2.powi(step)).sqrt() + epsilon;
    let weight = moments.weight * (1.0 - learning_rate * weight_decay) - first.clone() / denominator * rate;
    Moments { weight, first, second }
}
