//! What plugins make of rows: drawn ones and mapped ones.
//! Knows nothing of files or artifacts.

use std::ops::Range;

use rhai::Dynamic;

use super::{Compiled, Error, Read, Row, Script, error, rng::Rng, value};

impl Script {
    /// Calls `row(rng, index)` for every index, in parallel; what each gave is in order, and depends on
    /// the seed and its index alone.
    ///
    /// # Errors
    /// The [`Error`] of the first index in order that gave no row.
    pub fn draw_rows(&self, seed: u64, indices: Range<u64>) -> anyhow::Result<Vec<Vec<Row>>> {
        let indices: Vec<u64> = indices.collect();
        let arguments = |index: &u64| [Dynamic::from(Rng::new(&[seed, *index])), index.cast_signed().into()];
        let at = |error: Error, index: usize| error.note("index", indices[index].to_string());
        self.each("row", &indices, arguments, several, at)
    }

    /// Calls `map(row)` on every row, in parallel; what became of each is in order. `first` is the number
    /// of the first row, for messages.
    ///
    /// # Errors
    /// The [`Error`] of the first row in order that became no row.
    pub fn map_rows(&self, rows: &[Row], first: usize) -> anyhow::Result<Vec<Vec<Row>>> {
        let read: Read<Vec<Row>> = |script, function, given| {
            if given.is_unit() { Ok(Vec::new()) } else { several(script, function, given) }
        };
        let at = |error: Error, index: usize| error.note("row", error::numbered(first + index, &rows[index]));
        let made = self.each("map", rows, |row| [value::from_row(row)], read, at)?;
        let in_order = |(old, made): (&Row, Vec<Row>)| made.into_iter().map(|new| in_order_of(old, new)).collect();
        Ok(rows.iter().zip(made).map(in_order).collect())
    }
}

fn several(script: &Compiled, function: &str, given: &Dynamic) -> Result<Vec<Row>, Error> {
    value::to_rows(given).map_err(|message| script.refuse(function, message))
}

/// Plugins see fields sorted by name; a mapped row keeps the order it had, new fields last.
fn in_order_of(old: &Row, mut new: Row) -> Row {
    let mut ordered: Row = old.keys().filter_map(|name| new.shift_remove_entry(name)).collect();
    ordered.append(&mut new);
    ordered
}
