//! What a training step leaves out of an adapter's inputs (Srivastava et al., JMLR 15, 2014), found by looking it up:
//! a number is a function of seed, step, sequence, position, matrix and channel.
//! So it depends neither on the batch around a sequence nor on what was computed before.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::{
    kernels::Sequences,
    random::{self, Stream},
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
        Drawn { share: self.share, keys: sequences.offsets.windows(2).flat_map(of_sequence).collect() }
    }
}

/// What is left out of one forward pass.
#[derive(Debug)]
pub struct Drawn {
    share: f32,
    /// `[tokens]`: what each token's chance is drawn by.
    keys: Vec<u64>,
}

impl Drawn {
    /// Zeroes numbers of `x` `[tokens, width]` and scales the others so that the mean stays. `place` is the word of
    /// the matrix that reads them.
    #[must_use]
    pub fn drop(&self, x: Tensor<2>, place: u64) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let factors = TensorData::new(self.factors(place, width), [tokens, width]);
        // A constant beside a recorded tensor.
        x.clone() * Tensor::from_data(factors, &x.device().without_autodiff())
    }

    fn factors(&self, place: u64, width: usize) -> Vec<f32> {
        let kept = 1.0 / (1.0 - self.share);
        // Of 32 bits: two channels take one draw.
        let least = (f64::from(self.share) * f64::from(u32::MAX)) as u32;
        let mut factors = vec![0.0; self.keys.len() * width];
        factors.par_chunks_mut(width).zip(&self.keys).for_each(|(row, key)| {
            let mut stream = Stream::new(&[*key, place]);
            for pair in row.chunks_mut(2) {
                let bits = stream.bits();
                for (factor, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
                    *factor = if bits < least { 0.0 } else { kept };
                }
            }
        });
        factors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(key: [u64; 2], tokens: &[u32], lengths: &[usize]) -> Vec<Vec<f32>> {
        let drawn = Dropout::new(0.25, key).unwrap().draw(tokens, &Sequences::of_lengths(lengths));
        drawn.factors(9, 1000).chunks(1000).map(<[f32]>::to_vec).collect()
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
        let drawn = Dropout::new(0.25, [1, 2]).unwrap().draw(&[5, 5, 5], &Sequences::of_lengths(&[3]));
        assert_ne!(drawn.factors(9, 1000), drawn.factors(10, 1000));
    }
}
