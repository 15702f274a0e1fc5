//! Sequences laid flat for one forward pass, with the tokens whose probability is asked for.

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;

use crate::{
    kernels::{self, Sequences},
    nn::decoder::{Attend, Decoder},
};

/// What one forward and backward pass takes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Inputs of all sequences, each without its last token.
    tokens: Vec<u32>,
    sequences: Arc<Sequences>,
    /// `[targets]`: where in `tokens` each target is predicted.
    places: Arc<Vec<usize>>,
    /// `[targets]`: the token asked for.
    targets: Arc<Vec<usize>>,
}

impl Batch {
    /// From sequences `(ids, trained)`: every token but the first whose mark is true is a target.
    #[must_use]
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>) -> Self {
        let (mut tokens, mut lengths, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (ids, trained) in sequences {
            if ids.len() < 2 {
                continue;
            }
            for at in 1..ids.len() {
                if trained[at] {
                    places.push(tokens.len() + at - 1);
                    targets.push(ids[at] as usize);
                }
            }
            tokens.extend(&ids[..ids.len() - 1]);
            lengths.push(ids.len() - 1);
        }
        Self { tokens, sequences: Sequences::of_lengths(&lengths), places: places.into(), targets: targets.into() }
    }

    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    #[must_use]
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Hidden states `[targets, hidden]` at the places that predict a target: only these meet the vocabulary, prompts
    /// never do.
    #[must_use]
    pub fn hidden(&self, decoder: &Decoder) -> Tensor<2> {
        let hidden = decoder.hidden(&self.tokens, Attend::Within(&self.sequences));
        kernels::rows(hidden, &self.places)
    }

    /// Log-probability `[targets]` of every target.
    #[must_use]
    pub fn logprobs(&self, decoder: &Decoder, temperature: f32) -> Tensor<1> {
        decoder.logprobs(self.hidden(decoder), &self.targets, temperature)
    }

    /// As [`Batch::logprobs`], with the entropy `[targets]` of the distributions that they come from.
    #[must_use]
    pub fn logprobs_and_entropy(&self, decoder: &Decoder, temperature: f32) -> (Tensor<1>, Tensor<1>) {
        decoder.logprobs_and_entropy(self.hidden(decoder), &self.targets, temperature)
    }
}

/// Cuts items of these lengths into runs of at most `tokens` tokens (one item alone may be longer).
#[must_use]
pub fn micro_batches(lengths: &[usize], tokens: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (i, length) in lengths.iter().enumerate() {
        if held + length > tokens && i > start {
            runs.push(start..i);
            (start, held) = (i, 0);
        }
        held += length;
    }
    if start < lengths.len() {
        runs.push(start..lengths.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_marked_tokens_at_the_place_before() {
        let batch =
            Batch::new([(&[5, 6, 7][..], &[false, false, true][..]), (&[9], &[true]), (&[1, 2], &[true, true])]);
        assert_eq!(batch.tokens, [5, 6, 1]);
        assert_eq!(batch.sequences.offsets, [0, 2, 3]);
        assert_eq!((&*batch.places, &*batch.targets), (&vec![1, 2], &vec![7, 2]));
    }

    #[test]
    fn micro_batches_hold_what_fits_and_never_nothing() {
        assert_eq!(micro_batches(&[3, 3, 3, 10, 1], 7), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(micro_batches(&[], 7), Vec::<Range<usize>>::new());
    }
}
