//! Parquet's encodings of whole numbers, as far as it takes to know what a page will become: runs of levels, and lengths
//! by their differences.
//! Knows nothing of pages.

use anyhow::{Context as _, Result, ensure};

/// The levels of a page as runs: how often which level stands there, `count` of them in all. RLE and bit-packed groups
/// in turn.
pub(super) fn runs(bytes: &[u8], width: u32, count: u64, mut run: impl FnMut(u64, u64)) -> Result<()> {
    let (mut at, mut left) = (0, count);
    while left > 0 {
        let header = varint(bytes, &mut at)?;
        if header & 1 == 0 {
            let length = (header >> 1).min(left);
            let size = width.div_ceil(8) as usize;
            let value = bytes.get(at..at + size).context("levels that end too early")?;
            at += size;
            run(value.iter().rev().fold(0, |level, byte| level << 8 | u64::from(*byte)), length);
            // One that is empty would not end.
            ensure!(length > 0, "a run of no levels");
            left -= length;
            continue;
        }
        let packed = &bytes[at.min(bytes.len())..];
        let length = (header >> 1).saturating_mul(8);
        // Some writers cut the last group short.
        let held = (packed.len() as u64 * 8) / u64::from(width.max(1));
        let here = length.min(left).min(held);
        ensure!(here > 0, "levels that end too early");
        for index in 0..here {
            run(bits(packed, index * u64::from(width), width), 1);
        }
        left -= here;
        at = at.saturating_add((header >> 1).saturating_mul(width.into()) as usize);
    }
    Ok(())
}

/// Numbers encoded by their differences (`DELTA_BINARY_PACKED`), of which there may be `most`; and where they end.
pub(super) fn deltas(bytes: &[u8], most: u64) -> Result<(Vec<i64>, usize)> {
    let mut at = 0;
    let block = varint(bytes, &mut at)?;
    let groups = varint(bytes, &mut at)?;
    let count = varint(bytes, &mut at)?;
    let mut last = zigzag(varint(bytes, &mut at)?);
    ensure!(count <= most, "{count} lengths in a page of {most} values");
    ensure!(groups > 0 && block.is_multiple_of(groups) && block > 0, "blocks of {block} values in {groups} parts");
    let per_group = block / groups;
    ensure!(per_group.is_multiple_of(8) && block <= 1 << 20, "blocks of {block} values in {groups} parts");
    let mut values = Vec::new();
    let mut left = count;
    if left > 0 {
        values.push(last);
        left -= 1;
    }
    while left > 0 {
        let least = zigzag(varint(bytes, &mut at)?);
        let widths = bytes.get(at..at + groups as usize).context("lengths that end too early")?;
        at += groups as usize;
        for width in widths {
            if left == 0 {
                break;
            }
            ensure!(*width <= 64, "a number of {width} bits");
            let size = per_group as usize / 8 * usize::from(*width);
            let group = bytes.get(at..at + size).context("lengths that end too early")?;
            at += size;
            for index in 0..per_group.min(left) {
                let delta = bits(group, index * u64::from(*width), (*width).into());
                last = last.wrapping_add(least).wrapping_add(delta.cast_signed());
                values.push(last);
            }
            left -= per_group.min(left);
        }
    }
    Ok((values, at))
}

/// `width` bits, the lowest first, from a place that lies inside.
fn bits(bytes: &[u8], start: u64, width: u32) -> u64 {
    let bit = |at: u64| bytes.get((at / 8) as usize).map_or(0, |byte| u64::from(byte >> (at % 8) & 1));
    (0..u64::from(width)).fold(0, |value, index| value | bit(start + index) << index)
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at).context("numbers that end too early")?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_groups_of_levels_are_told_in_turn() {
        // Ten of level 1, then a group of eight in one bit: 0 1 1 0 0 0 0 0, of which four count.
        let bytes = [20, 1, 3, 0b0000_0110];
        let mut found = Vec::new();
        runs(&bytes, 1, 14, |level, length| found.push((level, length))).unwrap();
        assert_eq!(found, [(1, 10), (0, 1), (1, 1), (1, 1), (0, 1)]);
        assert!(runs(&bytes, 1, 40, |_, _| ()).is_err());
        assert!(runs(&[0, 1], 1, 4, |_, _| ()).is_err());
    }

    #[test]
    fn lengths_are_found_from_their_differences() {
        // 128 values a block in 4 parts, 5 of them, the first 7; least difference -2; widths 2 0 0 0; 0 1 2 3.
        let mut bytes = vec![128, 1, 4, 5, 14, 3, 2, 0, 0, 0, 0b1110_0100];
        bytes.extend([0; 7]);
        let (values, end) = deltas(&bytes, 5).unwrap();
        assert_eq!((values, end), (vec![7, 5, 4, 4, 5], 18));
        assert_eq!(deltas(&bytes, 4).unwrap_err().to_string(), "5 lengths in a page of 4 values");
    }
}
