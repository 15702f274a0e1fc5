//! Attention of newest tokens over pages of keys and values, and writing those pages.
//! [`super::super`] documents each shape.

use std::sync::Arc;

use burn::backend::{TensorMetadata, flex::FlexTensor};
use rayon::prelude::*;

use super::{
    matrix::{Dense, empty, owned},
    vector::{Arch, softmax},
};
use crate::kernels::{PAGE, Seen};

pub(super) fn write(
    keys: FlexTensor,
    values: FlexTensor,
    cached_keys: FlexTensor,
    cached_values: FlexTensor,
    places: Arc<Vec<usize>>,
) -> (FlexTensor, FlexTensor) {
    let (keys, values) = (Dense::new(&keys), Dense::new(&values));
    let (mut cached_keys, mut cached_values) = (owned(cached_keys), owned(cached_values));
    let width = keys.width();
    assert_eq!(keys.size(), values.size(), "keys and values are of one size");
    assert_eq!(keys.height(), places.len(), "a place for each key");
    let (key_pages, value_pages) = (cached_keys.storage_mut::<f32>(), cached_values.storage_mut::<f32>());
    let rows = keys.slice().chunks(width).zip(values.slice().chunks(width));
    for (place, (key, value)) in places.iter().zip(rows) {
        let (page, at) = (place / PAGE * PAGE * width, place % PAGE);
        for (channel, key) in key_pages[page..][..PAGE * width].chunks_mut(PAGE).zip(key) {
            channel[at] = *key;
        }
        value_pages[page + at * width..][..width].copy_from_slice(value);
    }
    (cached_keys, cached_values)
}

pub(super) fn copy(pages: FlexTensor, from: Arc<Vec<usize>>, to: Arc<Vec<usize>>) -> FlexTensor {
    let mut pages = owned(pages);
    let span = pages.shape()[1];
    let storage = pages.storage_mut::<f32>();
    for (from, to) in from.iter().zip(&*to) {
        storage.copy_within(from * span..(from + 1) * span, to * span);
    }
    pages
}

pub(super) fn attention(
    queries: FlexTensor,
    cached_keys: FlexTensor,
    cached_values: FlexTensor,
    seen: Arc<Seen>,
    head_dim: usize,
) -> FlexTensor {
    let (queries, keys, values) = (Dense::new(&queries), Dense::new(&cached_keys), Dense::new(&cached_values));
    let width = keys.width() / PAGE;
    assert_eq!(keys.size(), values.size(), "pages of keys and of values are of one size");
    assert!(width > 0 && width.is_multiple_of(head_dim), "keys of {width} are whole heads of {head_dim}");
    assert!(queries.width().is_multiple_of(width), "queries are whole times as wide as keys");
    assert_eq!(queries.height(), seen.count(), "a query for each sequence");
    let key_heads = width / head_dim;
    // The query heads that share one key head lie side by side: a task takes them all.
    let span = queries.width() / key_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut output = empty(queries.0.shape());
    let tasks = output.storage_mut::<f32>().par_chunks_mut(span).zip(queries.slice().par_chunks(span));
    tasks.enumerate().for_each_init(Vec::new, |weights, (task, (output, queries))| {
        let (sequence, key_head) = (task / key_heads, task % key_heads);
        let (pages, length) = (seen.pages(sequence), seen.lengths[sequence]);
        let channel = key_head * head_dim;
        let reach = pages.len() * PAGE;
        weights.clear();
        weights.resize(span / head_dim * reach, 0.0);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, page) in pages.iter().enumerate() {
                    let keys = &keys.slice()[(page * width + channel) * PAGE..][..head_dim * PAGE];
                    for (query, weights) in queries.chunks(head_dim).zip(weights.chunks_mut(reach)) {
                        score(query, keys, &mut weights[i * PAGE..][..PAGE]);
                    }
                }
                for (output, weights) in output.chunks_mut(head_dim).zip(weights.chunks_mut(reach)) {
                    softmax(weights, length, scale);
                    let (weights, values) = (&weights[..length], values.slice());
                    let mut at = 0;
                    while at + 64 <= head_dim {
                        mix::<64>(weights, pages, values, [width, channel + at], &mut output[at..]);
                        at += 64;
                    }
                    while at + 16 <= head_dim {
                        mix::<16>(weights, pages, values, [width, channel + at], &mut output[at..]);
                        at += 16;
                    }
                    while at < head_dim {
                        mix::<1>(weights, pages, values, [width, channel + at], &mut output[at..]);
                        at += 1;
                    }
                }
            },
        );
    });
    output
}

/// Scores of one page's positions, side by side in a vector. Each is summed in the order of `dot`: 32 lanes over the
/// channels, then the lanes, then the channels that are left.
#[inline(always)]
fn score(query: &[f32], keys: &[f32], to: &mut [f32]) {
    let whole = query.len() / 32 * 32;
    let mut total = [0.0_f32; PAGE];
    for first in 0..whole.min(32) {
        let mut lane = [0.0_f32; PAGE];
        for channel in (first..whole).step_by(32) {
            add_product(&mut lane, query[channel], &keys[channel * PAGE..][..PAGE]);
        }
        for (total, lane) in total.iter_mut().zip(lane) {
            *total += lane;
        }
    }
    for channel in whole..query.len() {
        add_product(&mut total, query[channel], &keys[channel * PAGE..][..PAGE]);
    }
    to.copy_from_slice(&total);
}

#[inline(always)]
fn add_product(sums: &mut [f32; PAGE], factor: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// The weighted sum of `N` channels over all positions, held in registers: positions are added in their order.
#[inline(always)]
fn mix<const N: usize>(weights: &[f32], pages: &[usize], values: &[f32], [width, channel]: [usize; 2], to: &mut [f32]) {
    let mut sums = [0.0_f32; N];
    for (page, weights) in pages.iter().zip(weights.chunks(PAGE)) {
        for (at, weight) in weights.iter().enumerate() {
            let value = &values[(page * PAGE + at) * width + channel..][..N];
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
    }
    to[..N].copy_from_slice(&sums);
}
