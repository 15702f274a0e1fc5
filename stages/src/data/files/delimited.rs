//! Rows out of a table written as text: CSV and its kin.
//! Knows nothing of types: every value is the text that stands there.

use std::path::Path;

use anyhow::{Result, bail};
use csv::{ErrorKind, ReaderBuilder};

use super::Placed;
use crate::data::rows::{Row, complaint};

/// Reads a table whose first record names the fields.
///
/// # Errors
/// At the line of a record that has more or fewer fields than the header, or is no UTF-8.
pub(super) fn read(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Vec<Placed>> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader.headers().map_err(|error| refused(path, bytes, &error))?.clone();
    let names: Vec<&str> = header.iter().collect();
    if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
        bail!("{}:1: two columns are named `{name}`", path.display());
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| refused(path, bytes, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = names.iter().zip(&record).map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        rows.push(Placed { place: format!("{}:{line}", path.display()), row });
    }
    Ok(rows)
}

fn refused(path: &Path, bytes: &[u8], error: &csv::Error) -> anyhow::Error {
    let what = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, where the header names {expected_len}")
        }
        ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
        _ => error.to_string(),
    };
    let line = error.position().map_or(1, csv::Position::line) as usize;
    let shown = bytes.split(|byte| *byte == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
    complaint(path, line, 1, &what, shown)
}
