//! The head and its softmax, a piece of the vocabulary at a time: logits `[rows, vocab]` are never whole in memory.
//! [`super::super`] documents each shape.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{
    matrix::{Dense, Operand, Shared, Target, empty, product, project, threads},
    vector::{Arch, exp, lanes_of_two, maximum},
};
use crate::kernels::Wanted;

/// Entries of the vocabulary whose logits are held at once.
pub(in crate::kernels) const ENTRIES: usize = 2048;
/// Rows whose logits are held at once.
pub(in crate::kernels) const BLOCK: usize = 1024;
/// Rows of a block that one task takes.
const TASK: usize = 16;

/// The softmax of a row so far: sums over the entries seen, of `exp(logit / temperature - most)`.
#[derive(Clone, Copy, Default)]
struct Running {
    most: f32,
    sum: f32,
    /// Each summand times its exponent, for the entropy.
    weighted: f32,
    /// The target's logit over the temperature.
    target: f32,
}

impl Running {
    /// Takes in the next entries (Milakov & Gimelshein, arXiv 1805.02867: sums move with the maximum).
    #[inline(always)]
    fn see(&mut self, logits: &[f32], temperature: f32) {
        let here = maximum(logits) / temperature;
        let before = if self.sum > 0.0 { self.most } else { here };
        let most = here.max(before);
        let (sum, weighted) = lanes_of_two(
            logits.len(),
            #[inline(always)]
            |i| {
                let below = logits[i] / temperature - most;
                let share = exp(below);
                (share, share * below)
            },
        );
        let shift = before - most;
        let scale = exp(shift);
        self.weighted = (self.weighted + shift * self.sum) * scale + weighted;
        self.sum = self.sum * scale + sum;
        self.most = most;
    }
}

/// `[3, rows]`: log-probability of each target, entropy, and the logarithm of the softmax's sum, which the gradient needs.
pub(super) fn forward(hidden: FlexTensor, weight: FlexTensor, targets: &[usize], temperature: f32) -> FlexTensor {
    let (hidden, weight) = (Dense::new(&hidden), Dense::new(&weight));
    let (rows, width) = (hidden.height(), hidden.width());
    assert_eq!(width, weight.width(), "rows of `hidden` and of `weight` are of one width");
    assert_eq!(rows, targets.len(), "a target for each row of `hidden`");
    let mut states = vec![Running::default(); rows];
    let mut logits = vec![0.0; BLOCK.min(rows) * ENTRIES.min(weight.height())];
    for (piece, weight) in weight.slice().chunks(ENTRIES * width).enumerate() {
        let (first, entries) = (piece * ENTRIES, weight.len() / width);
        let blocks = states.chunks_mut(BLOCK).zip(hidden.slice().chunks(BLOCK * width)).zip(targets.chunks(BLOCK));
        for ((states, hidden), targets) in blocks {
            let logits = &mut logits[..states.len() * entries];
            project(hidden, weight, width, logits);
            let tasks = states.par_chunks_mut(TASK).zip(logits.par_chunks(TASK * entries));
            tasks.zip(targets.par_chunks(TASK)).for_each(|((states, logits), targets)| {
                Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        for ((state, row), target) in states.iter_mut().zip(logits.chunks(entries)).zip(targets) {
                            state.see(row, temperature);
                            if (first..first + entries).contains(target) {
                                state.target = row[target - first] / temperature;
                            }
                        }
                    },
                );
            });
        }
    }
    let mut output = empty([3, rows]);
    let (logprobs, rest) = output.storage_mut::<f32>().split_at_mut(rows);
    let (entropies, totals) = rest.split_at_mut(rows);
    for (i, state) in states.iter().enumerate() {
        totals[i] = state.most + state.sum.ln();
        logprobs[i] = state.target - totals[i];
        // With p = exp(below) / sum: -sum(p ln p) = ln(sum) - sum(p below).
        entropies[i] = state.sum.ln() - state.weighted / state.sum;
    }
    output
}

/// The gradients of `hidden` and `weight` from the gradient `[3, rows]` of [`forward`], whose result is `told`;
/// only log-probabilities carry one. The logits are computed anew.
pub(super) fn back(
    [hidden, weight, told, gradient]: [FlexTensor; 4],
    targets: &Arc<Vec<usize>>,
    temperature: f32,
    wanted: Wanted,
) -> (FlexTensor, FlexTensor) {
    let (hidden, weight) = (Dense::new(&hidden), Dense::new(&weight));
    let (told, gradient) = (Dense::new(&told), Dense::new(&gradient));
    let (rows, width) = (hidden.height(), hidden.width());
    assert_eq!(width, weight.width(), "rows of `hidden` and of `weight` are of one width");
    assert_eq!(rows, targets.len(), "a target for each row of `hidden`");
    let lengths = [told.slice().len(), gradient.slice().len()];
    assert_eq!(lengths, [3 * rows; 2], "what was told, and its gradient, are `[3, rows]`");
    let (totals, slopes) = (&told.slice()[2 * rows..], &gradient.slice()[..rows]);
    let mut to_hidden = empty([rows, width]);
    let mut to_weight = match wanted {
        Wanted::Both => empty([weight.height(), width]),
        Wanted::Hidden => empty([0, width]),
    };
    let (hidden_place, weight_place) = (Shared::of(&mut to_hidden), Shared::of(&mut to_weight));
    let mut logits = vec![0.0; BLOCK.min(rows) * ENTRIES.min(weight.height())];
    for (piece, weight) in weight.slice().chunks(ENTRIES * width).enumerate() {
        let (first, entries) = (piece * ENTRIES, weight.len() / width);
        for (block, hidden) in hidden.slice().chunks(BLOCK * width).enumerate() {
            let start = block * BLOCK;
            let count = hidden.len() / width;
            let logits = &mut logits[..count * entries];
            project(hidden, weight, width, logits);
            let tasks = logits.par_chunks_mut(TASK * entries).zip(targets[start..start + count].par_chunks(TASK));
            let tasks = tasks
                .zip(totals[start..start + count].par_chunks(TASK))
                .zip(slopes[start..start + count].par_chunks(TASK));
            tasks.for_each(|(((logits, targets), totals), slopes)| {
                Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        let rows = logits.chunks_mut(entries).zip(targets).zip(totals).zip(slopes);
                        for (((row, target), total), slope) in rows {
                            // d logprob / d logits = (onehot - softmax) / temperature
                            let slope = slope / temperature;
                            for logit in row.iter_mut() {
                                *logit = -slope * exp(*logit / temperature - total);
                            }
                            if (first..first + entries).contains(target) {
                                row[target - first] += slope;
                            }
                        }
                    },
                );
            });
            // SAFETY: rows `start..` of `to_hidden` and `first..` of `to_weight` are as many as the sizes say, and only
            // this thread hands them out.
            unsafe {
                let target = Target(hidden_place.at(start * width), width, first > 0);
                let (left, right) = (Operand(logits.as_ptr(), entries, 1), Operand(weight.as_ptr(), width, 1));
                product([count, width, entries], target, left, right, threads());
                if wanted == Wanted::Both {
                    let target = Target(weight_place.at(first * width), width, block > 0);
                    let (left, right) = (Operand(logits.as_ptr(), 1, entries), Operand(hidden.as_ptr(), width, 1));
                    product([entries, width, count], target, left, right, threads());
                }
            }
        }
    }
    (to_hidden, to_weight)
}
