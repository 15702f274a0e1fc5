//! Causal attention, forwards and backwards: one task a sequence and head.
//! [`super::super`] documents each shape.

use std::sync::Arc;

use burn::backend::{TensorMetadata, flex::FlexTensor};
use rayon::prelude::*;

use super::{
    matrix::{Dense, Operand, Shared, Target, empty, product},
    vector::{Arch, dot, softmax},
};
use crate::kernels::Sequences;

/// Query rows whose scores are held at once.
const QUERY_BLOCK: usize = 64;

pub(super) fn causal(
    queries: FlexTensor,
    keys: FlexTensor,
    values: FlexTensor,
    sequences: Arc<Sequences>,
    head_dim: usize,
) -> FlexTensor {
    let (queries, keys, values) = (Dense::new(&queries), Dense::new(&keys), Dense::new(&values));
    let heads = Heads::new([&queries, &keys, &values], &sequences, head_dim);
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

pub(super) fn back(
    queries: FlexTensor,
    keys: FlexTensor,
    values: FlexTensor,
    gradient: FlexTensor,
    sequences: Arc<Sequences>,
    head_dim: usize,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (queries, keys, values) = (Dense::new(&queries), Dense::new(&keys), Dense::new(&values));
    let gradient = Dense::new(&gradient);
    let heads = Heads::new([&queries, &keys, &values], &sequences, head_dim);
    assert_eq!(gradient.size(), queries.size(), "`gradient` is of the size of `queries`");
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
    /// Every place that is computed from them lies inside the tensors.
    fn new([queries, keys, values]: [&Dense; 3], sequences: &Sequences, head_dim: usize) -> Self {
        let (query_width, key_width) = (queries.width(), keys.width());
        assert!(
            key_width > 0 && key_width.is_multiple_of(head_dim),
            "keys of {key_width} are whole heads of {head_dim}"
        );
        assert!(query_width.is_multiple_of(key_width), "queries of {query_width} are whole times as wide as keys");
        assert_eq!(keys.size(), values.size(), "keys and values are of one size");
        assert_eq!(queries.height(), keys.height(), "a key for each query");
        // Sequences that overlapped would be written by two tasks at once.
        let offsets = &sequences.offsets;
        assert!(offsets.is_sorted() && offsets.last() <= Some(&queries.height()), "sequences lie one behind another");
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
