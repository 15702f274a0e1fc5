//! Rows out of a table written as text: CSV and its kin.
//! Knows nothing of types: every value is the text that stands there.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{self, Read},
    rc::Rc,
};

use anyhow::{Context as _, Result, bail, ensure};
use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::{Placed, Table, limits::TooMuch};
use crate::data::rows::{Row, complaint};

/// What the reader takes from the file at once, in bytes.
const BUFFER: usize = 1 << 16;
/// Each row holds the names of all columns: far more than any table of texts has.
pub(super) const MOST_COLUMNS: usize = 100_000;

/// Hands out the rows of a table whose first record names the fields.
///
/// # Errors
/// At the line of a record that has more or fewer fields than the header, is no UTF-8 or is too long; of a header that
/// has one field, with other marks in it that stand between fields elsewhere.
pub(super) fn each(table: &Table, delimiter: u8, take: &mut dyn FnMut(Placed) -> Result<()>) -> Result<()> {
    let room = Rc::new(Cell::new(0));
    let wall = Wall { inner: table.reader()?, room: Rc::clone(&room), max_row_mb: table.limits.max_row_mb };
    // A field without an end would be held whole before its record is seen.
    let refill = || room.set(table.limits.row_bytes() + 2 * BUFFER as u64);
    refill();
    let mut reader = ReaderBuilder::new().delimiter(delimiter).buffer_capacity(BUFFER).from_reader(wall);
    let named = table.named.display();
    let header = reader.headers().map_err(|error| refused(table, 1, error))?.clone();
    let names: Vec<&str> = header.iter().collect();
    ensure!(names.len() <= MOST_COLUMNS, "{named}:1: {} columns, and at most {MOST_COLUMNS} are read", names.len());
    let mut seen = HashSet::new();
    if let Some(name) = names.iter().find(|name| !seen.insert(**name)) {
        bail!("{named}:1: two columns are named `{name}`");
    }
    if let [name] = names[..]
        && let Some((marks, format)) = other_marks(name, delimiter)
    {
        bail!(
            "{named}:1: its header is one column, `{name}`, with {marks} in it\n  hint: where they stand between columns, say `format: {format}`"
        );
    }
    let mut record = StringRecord::new();
    loop {
        refill();
        let line = reader.position().line();
        if !reader.read_record(&mut record).map_err(|error| refused(table, line, error))? {
            return Ok(());
        }
        let line = record.position().map_or(0, csv::Position::line);
        let place = format!("{named}:{line}");
        table.limits.check_row(record.as_slice().len() as u64).with_context(|| place.clone())?;
        let row: Row = names.iter().zip(&record).map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        take(Placed { place, row })?;
    }
}

/// What stands between columns in files of other formats, and is in this name.
fn other_marks(name: &str, delimiter: u8) -> Option<(&'static str, &'static str)> {
    let all = [(b';', "semicolons", "semicolon"), (b'\t', "tabs", "tsv"), (b',', "commas", "csv")];
    let found = all.into_iter().find(|(mark, ..)| *mark != delimiter && name.as_bytes().contains(mark));
    found.map(|(_, marks, format)| (marks, format))
}

fn refused(table: &Table, record: u64, error: csv::Error) -> anyhow::Error {
    let line = error.position().map_or(record.max(1), csv::Position::line) as usize;
    let message = error.to_string();
    let what = match error.into_kind() {
        ErrorKind::Io(error) => {
            let is_long =
                error.get_ref().is_some_and(|inner| matches!(inner.downcast_ref(), Some(TooMuch::Row { .. })));
            let place = if is_long { format!("{}:{line}", table.named.display()) } else { table.reading() };
            return anyhow::Error::new(error).context(place);
        }
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, where the header names {expected_len}")
        }
        ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
        _ => message,
    };
    complaint(table.named, line, 1, &what, &table.line(line))
}

/// A reader that stops where one record is longer than any may be.
struct Wall<R> {
    inner: R,
    /// Bytes until then. Filled up after each record.
    room: Rc<Cell<u64>>,
    max_row_mb: f64,
}

impl<R: Read> Read for Wall<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(room) = self.room.get().checked_sub(count as u64) else {
            return Err(io::Error::other(TooMuch::Row { max_row_mb: self.max_row_mb }));
        };
        self.room.set(room);
        Ok(count)
    }
}
