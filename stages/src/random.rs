//! Counter-based randomness: a number is a function of its key, never of what was drawn before it.
//! That is why a completion does not depend on its batch, and a resumed run draws what an unbroken one drew.

/// The 64 bits that belong to a key, such as `[seed, step, prompt, sample, token]`.
///
/// Chains the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014) over the key's words; distinct lengths give unrelated numbers.
#[must_use]
pub fn bits(key: &[u64]) -> u64 {
    key.iter().fold(mix(key.len() as u64), |state, word| mix(state ^ mix(*word)))
}

/// A number in `[0, 1)` for a key, on the grid of f32.
#[must_use]
pub fn uniform(key: &[u64]) -> f32 {
    unit(bits(key))
}

fn unit(bits: u64) -> f32 {
    // 24 bits: every multiple of 2^-24 below one is an f32, so nothing rounds up to one.
    (bits >> 40) as f32 / (1u32 << 24) as f32
}

fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The numbers of one key, one after another.
#[derive(Debug, Clone)]
pub struct Stream {
    key: u64,
    position: u64,
}

impl Stream {
    #[must_use]
    pub fn new(key: &[u64]) -> Self {
        Self { key: bits(key), position: 0 }
    }

    pub fn bits(&mut self) -> u64 {
        self.position += 1;
        bits(&[self.key, self.position])
    }

    /// In `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        unit(self.bits())
    }

    /// In `0..end`, each as likely (Lemire's multiply-shift; its bias is below 2^-32 for any `end` met here).
    ///
    /// # Panics
    /// When `end` is zero: there is nothing to choose.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "below(0) has nothing to choose from");
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// From the standard normal distribution (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.uniform());
        (radius * angle.cos()) as f32
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
