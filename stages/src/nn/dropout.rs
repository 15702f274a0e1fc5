//! What a training step leaves out of an adapter's inputs (Srivastava et al., JMLR 15, 2014), found by looking it up:
//! a number is a function of seed, step, sequence, position, matrix and channel.
//! So it depends neither on the batch around a sequence nor on what was computed before.

use std::sync::Arc;

use crate::{
    kernels::{Omission, Sequences},
    random,
};

/// Dropout for one training step.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// The share that is left out, above 0 and below 1.
    share: f32,
    /// Seed and step.
    key: [u64; 2],
}

impl Dropout {
    /// `None` where the share is zero: nothing is left out.
    #[must_use]
    pub fn new(share: f32, key: [u64; 2]) -> Option<Self> {
        (share > 0.0).then_some(Self { share, key })
    }

    /// For the tokens of one forward pass. A sequence goes by its ids: where it stands in a step's batch is nothing
    /// that training should depend on. Sequences of the same ids in one step share what is left out.
    #[must_use]
    pub fn draw(&self, tokens: &[u32], sequences: &Sequences) -> Drawn {
        let of_sequence = |ends: &[usize]| {
            let ids = &tokens[ends[0]..ends[1]];
            let words = self.key.into_iter().chain(ids.iter().map(|id| u64::from(*id)));
            let text = random::bits(&words.collect::<Vec<u64>>());
            (0..ids.len() as u64).map(move |position| random::bits(&[text, position]))
        };
        let keys: Vec<u64> = sequences.offsets.windows(2).flat_map(of_sequence).collect();
        Drawn { share: self.share, keys: keys.into() }
    }
}

/// What is left out of one forward pass.
#[derive(Debug)]
pub struct Drawn {
    share: f32,
    /// `[tokens]`: what each token's chance is drawn by.
    keys: Arc<Vec<u64>>,
}

impl Drawn {
    /// Of the input of one matrix, whose word is `place`.
    #[must_use]
    pub fn omission(&self, place: u64) -> Arc<Omission> {
        Arc::new(Omission { share: self.share, keys: self.keys.clone(), place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn_for(place: u64, key: [u64; 2], tokens: &[u32], lengths: &[usize]) -> Vec<Vec<f32>> {
        let drawn = Dropout::new(0.25, key).unwrap().draw(tokens, &Sequences::of_lengths(lengths));
        let omission = drawn.omission(place);
        (0..tokens.len()).map(|row| omission.factors(row).take(1000).collect()).collect()
    }

    fn drawn(key: [u64; 2], tokens: &[u32], lengths: &[usize]) -> Vec<Vec<f32>> {
        drawn_for(9, key, tokens, lengths)
    }

    #[test]
    fn a_quarter_is_left_out_and_the_mean_stays() {
        let factors = drawn([1, 2], &[7; 40], &[40]).concat();
        let zeros = factors.iter().filter(|factor| **factor == 0.0).count();
        // 40,000 draws: a deviation of 87.
        assert!((9_650..10_350).contains(&zeros), "{zeros}");
        assert!(factors.iter().all(|factor| *factor == 0.0 || (factor - 4.0 / 3.0).abs() < 1e-6));
        assert!(Dropout::new(0.0, [1, 2]).is_none());
    }

    #[test]
    fn what_a_sequence_loses_does_not_depend_on_its_batch() {
        let alone = drawn([1, 2], &[5, 6, 7], &[3]);
        assert_eq!(drawn([1, 2], &[8, 9, 5, 6, 7], &[2, 3])[2..], alone);
        assert_eq!(drawn([1, 2], &[5, 6, 7, 8, 9], &[3, 2])[..3], alone);
    }

    #[test]
    fn every_token_step_seed_and_matrix_loses_something_else() {
        let base = drawn([1, 2], &[5, 5, 5], &[3]);
        assert!(base[0] != base[1] && base[1] != base[2]);
        assert_ne!(base, drawn([1, 3], &[5, 5, 5], &[3]));
        assert_ne!(base, drawn([2, 2], &[5, 5, 5], &[3]));
        assert_ne!(base, drawn([1, 2], &[5, 5, 6], &[3]));
        assert_ne!(base, drawn_for(10, [1, 2], &[5, 5, 5], &[3]));
    }
}
