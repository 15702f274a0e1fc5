//! How much a file may hold, and reading that stops there: a file of a few kilobytes can claim to be terabytes.
//! Knows nothing of formats.

use std::{
    fmt,
    io::{self, Read},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `run:` block of a stage that reads files of other people: how much of each it takes. A file that holds more is
/// an error, so that what is read never depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Megabytes of one row at most: of its line, its record or its item. Not of a file that is one row by
    /// `format: text`.
    #[schemars(range(min = 0.001, max = 1_000.0))]
    pub max_row_mb: f64,
    /// Gigabytes of one file at most, decompressed.
    #[schemars(range(min = 0.001, max = 1_000_000.0))]
    pub max_file_gb: f64,
    /// How many bytes one byte of a compressed file may become at most, and one byte of a Parquet file in the text of
    /// its rows. What comes to 64 MB or less is taken whatever its ratio.
    #[schemars(range(min = 1.0, max = 1e12))]
    pub max_ratio: f64,
}

impl Default for Limits {
    fn default() -> Self {
        // A row of 16 MB has some 4 million tokens, more than any context; as JSON of many small numbers it takes half a
        // gigabyte of memory. Text becomes a fifth to a twentieth of its size, rows that hardly differ a hundredth.
        Self { max_row_mb: 16.0, max_file_gb: 4.0, max_ratio: 200.0 }
    }
}

/// What a file may hold whatever its ratio, in bytes.
const SMALL: u64 = 64_000_000;

impl Limits {
    pub(super) fn row_bytes(&self) -> u64 {
        (self.max_row_mb * 1e6) as u64
    }

    fn file_bytes(&self) -> u64 {
        (self.max_file_gb * 1e9) as u64
    }

    /// What a file of `size` bytes may hold by its ratio alone.
    pub(super) fn expanded(&self, size: u64) -> u64 {
        ((size as f64 * self.max_ratio) as u64).max(SMALL)
    }

    /// # Errors
    /// When a row has so many bytes.
    pub(super) fn check_row(&self, bytes: u64) -> Result<(), TooMuch> {
        if bytes <= self.row_bytes() { Ok(()) } else { Err(TooMuch::Row { max_row_mb: self.max_row_mb }) }
    }

    /// # Errors
    /// When a file of `size` bytes that can hold more than those has held so many by now.
    pub(super) fn check_packed(&self, held: u64, size: u64) -> Result<(), TooMuch> {
        if held > self.expanded(size) {
            return Err(TooMuch::Ratio { size, held, max_ratio: self.max_ratio });
        }
        self.check_file(held)
    }

    /// # Errors
    /// When a file has held so many bytes by now.
    pub(super) fn check_file(&self, held: u64) -> Result<(), TooMuch> {
        if held <= self.file_bytes() { Ok(()) } else { Err(TooMuch::File { max_file_gb: self.max_file_gb }) }
    }
}

/// What was more than a limit allows. It says which one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TooMuch {
    Row { max_row_mb: f64 },
    File { max_file_gb: f64 },
    Ratio { size: u64, held: u64, max_ratio: f64 },
}

impl std::error::Error for TooMuch {}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mend = |f: &mut fmt::Formatter<'_>, name| {
            write!(f, "\n  hint: where the file can be trusted, raise `{name}` below the node's `run:`")
        };
        match self {
            Self::Row { max_row_mb } => {
                write!(f, "a row of more than {max_row_mb} MB, which is its `max_row_mb`")?;
                mend(f, "max_row_mb")
            }
            Self::File { max_file_gb } => {
                write!(f, "it holds more than {max_file_gb} GB, which is its `max_file_gb`")?;
                mend(f, "max_file_gb")
            }
            Self::Ratio { size, held, max_ratio } => {
                write!(
                    f,
                    "its {size} bytes hold {held} bytes or more, over {max_ratio} times as many, which is its `max_ratio`"
                )?;
                mend(f, "max_ratio")
            }
        }
    }
}

/// A reader that stops where a file has held more than it may.
pub(super) struct Metered<R> {
    inner: R,
    held: u64,
    /// Of the file on the disk, where that is not what is read here.
    packed: Option<u64>,
    limits: Limits,
}

impl<R: Read> Metered<R> {
    pub(super) fn new(inner: R, packed: Option<u64>, limits: Limits) -> Self {
        Self { inner, held: 0, packed, limits }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.held += count as u64;
        match self.packed {
            Some(size) => self.limits.check_packed(self.held, size),
            None => self.limits.check_file(self.held),
        }
        .map_err(io::Error::other)?;
        Ok(count)
    }
}
