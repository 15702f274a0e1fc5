//! Numbers as ggml stores them: f32, f16, and blocks of 32 that share a scale (`q8_0`).
//! Knows nothing of files.

use half::f16;
use rayon::prelude::*;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    Q8_0,
}

/// Numbers that share a scale.
pub const BLOCK: usize = 32;

impl Type {
    /// `ggml_type`.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// Bytes of `count` numbers.
    pub fn bytes(self, count: usize) -> usize {
        match self {
            Self::F32 => 4 * count,
            Self::F16 => 2 * count,
            Self::Q8_0 => count / BLOCK * (2 + BLOCK),
        }
    }
}

/// The bytes of `values`. For `q8_0` their number must be a multiple of [`BLOCK`].
pub fn encode(values: &[f32], kind: Type) -> Vec<u8> {
    match kind {
        Type::F32 => values.par_iter().flat_map_iter(|value| value.to_le_bytes()).collect(),
        Type::F16 => values.par_iter().flat_map_iter(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Type::Q8_0 => values.par_chunks_exact(BLOCK).flat_map_iter(q8_0).collect(),
    }
}

/// `quantize_row_q8_0_ref` of ggml: scale = largest magnitude / 127, kept in f16; each number divided by the scale
/// before that rounding, to the nearest integer, halves away from zero.
fn q8_0(values: &[f32]) -> impl Iterator<Item = u8> {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = [0; 2 + BLOCK];
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, value) in bytes[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8).to_le_bytes()[0];
    }
    bytes.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_its_scale_and_whole_steps_of_it() {
        let mut values = [0.0; BLOCK];
        // Largest magnitude 127, so the scale is 1: 2.5 goes away from zero.
        values[..5].copy_from_slice(&[127.0, -127.0, 2.5, -2.5, 0.4]);
        let bytes = encode(&values, Type::Q8_0);
        assert_eq!(bytes.len(), 34);
        assert_eq!(&bytes[..2], f16::from_f32(1.0).to_le_bytes());
        let steps: Vec<i8> = bytes[2..7].iter().map(|byte| byte.cast_signed()).collect();
        assert_eq!(steps, [127, -127, 3, -3, 0]);
        assert_eq!(encode(&[0.0; BLOCK], Type::Q8_0), [0; 34]);
    }

    #[test]
    fn sizes_are_those_of_the_bytes() {
        for kind in [Type::F32, Type::F16, Type::Q8_0] {
            assert_eq!(encode(&[0.5; 64], kind).len(), kind.bytes(64));
        }
    }
}
