//! The compact protocol of Thrift, in which a Parquet file describes itself, as far as it takes to look at numbers in it.
//! What is claimed to be long is never made room for: it is walked over.
//! Knows nothing of Parquet.

use std::io::Read;

use anyhow::{Result, bail, ensure};

/// Structures in structures at most. Parquet's own are six deep.
const DEEPEST: usize = 32;

/// Bytes that are read as the protocol says.
pub(super) struct Compact<R> {
    inner: R,
    left: u64,
}

/// What a field holds, by the protocol's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    pub(super) const LIST: Self = Self(9);
    pub(super) const STRUCT: Self = Self(12);

    fn is_integer(self) -> bool {
        matches!(self.0, 4..=6)
    }
}

impl<R: Read> Compact<R> {
    /// No more than `most` bytes are read.
    pub(super) fn new(inner: R, most: u64) -> Self {
        Self { inner, left: most }
    }

    /// How many of the bytes are still to be read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Walks over a structure. `field` is called for each field with its number and must read all of it, by
    /// [`Compact::integer`], [`Compact::skip`] or what else is below.
    pub(super) fn structure(&mut self, mut field: impl FnMut(&mut Self, i64, Kind) -> Result<()>) -> Result<()> {
        let mut id = 0_i64;
        loop {
            let byte = self.byte()?;
            let kind = Kind(byte & 0x0f);
            if byte == 0 {
                return Ok(());
            }
            id = match byte >> 4 {
                0 => self.zigzag()?,
                delta => id.wrapping_add(i64::from(delta)),
            };
            field(self, id, kind)?;
        }
    }

    /// The number in a field; none where it holds something else, which is walked over.
    pub(super) fn integer(&mut self, kind: Kind) -> Result<Option<i64>> {
        if kind.is_integer() {
            return self.zigzag().map(Some);
        }
        self.skip(kind)?;
        Ok(None)
    }

    /// The kind of a list's items, and how many there are said to be.
    pub(super) fn list(&mut self) -> Result<(Kind, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            few => few.into(),
        };
        // Each item has a byte at least.
        ensure!(count <= self.left, "a list of {count} items in {} bytes", self.left);
        Ok((Kind(byte & 0x0f), count))
    }

    pub(super) fn skip(&mut self, kind: Kind) -> Result<()> {
        self.skip_within(kind, DEEPEST)
    }

    fn skip_within(&mut self, kind: Kind, depth: usize) -> Result<()> {
        ensure!(depth > 0, "more than {DEEPEST} structures in each other");
        match kind.0 {
            // The value of a boolean field is its kind.
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            8 => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            9 | 10 => {
                let (of, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_item(of, depth))
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                for _ in 0..count {
                    self.skip_item(Kind(kinds >> 4), depth)?;
                    self.skip_item(Kind(kinds & 0x0f), depth)?;
                }
                Ok(())
            }
            12 => self.structure(|reader, _, kind| reader.skip_within(kind, depth - 1)),
            13 => self.skip_bytes(16),
            other => bail!("a field of the unknown kind {other}"),
        }
    }

    fn skip_item(&mut self, kind: Kind, depth: usize) -> Result<()> {
        match kind.0 {
            // Outside of a field a boolean has a byte.
            1 | 2 => self.byte().map(drop),
            _ => self.skip_within(kind, depth - 1),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.left = self.left.checked_sub(1).ok_or_else(|| anyhow::anyhow!("it ends in the middle of a header"))?;
        self.inner.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn skip_bytes(&mut self, count: u64) -> Result<()> {
        ensure!(count <= self.left, "a text of {count} bytes, where {} are left", self.left);
        self.left -= count;
        let skipped = std::io::copy(&mut self.inner.by_ref().take(count), &mut std::io::sink())?;
        ensure!(skipped == count, "it ends in the middle of a header");
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a number of more than ten bytes")
    }

    fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }
}
