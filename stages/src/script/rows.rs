//! What plugins make of rows: drawn ones and mapped ones.
//! Knows nothing of files or artifacts.

use std::ops::Range;

use rhai::Dynamic;

use super::{Error, Row, Script, each, error, rng::Rng, value};

impl Script {
    /// Calls `row(rng, index)` for every index, in parallel; what each gave is in order, and depends on
    /// the seed and its index alone.
    ///
    /// # Errors
    /// The [`Error`] of the first index in order that gave no row.
    pub fn draw_rows(&self, seed: u64, indices: Range<u64>) -> anyhow::Result<Vec<Vec<Row>>> {
        self.parameters("row", 3)?;
        let indices: Vec<u64> = indices.collect();
        let draw = |_, index: &u64| {
            let number = index.cast_signed();
            let at = |error: Error| error.note("index", index.to_string());
            let given = self.call("row", &[Dynamic::from(Rng::new(&[seed, *index])), number.into()]).map_err(at)?;
            several(&given).map_err(|message| at(self.refuse("row", message)))
        };
        Ok(each(&indices, draw)?)
    }

    /// Calls `map(row)` on every row, in parallel; what became of each is in order. `first` is the number
    /// of the first row, for messages.
    ///
    /// # Errors
    /// The [`Error`] of the first row in order that became no row.
    pub fn map_rows(&self, rows: &[Row], first: usize) -> anyhow::Result<Vec<Vec<Row>>> {
        self.parameters("map", 2)?;
        let become_rows = |i, row: &Row| {
            let at = |error: Error| error.note("row", error::numbered(first + i, row));
            let given = self.call("map", &[value::from_row(row)]).map_err(at)?;
            if given.is_unit() {
                return Ok(Vec::new());
            }
            let made = several(&given).map_err(|message| at(self.refuse("map", message)))?;
            Ok(made.into_iter().map(|new| in_order_of(row, new)).collect())
        };
        Ok(each(rows, become_rows)?)
    }
}

fn several(given: &Dynamic) -> Result<Vec<Row>, String> {
    match given.as_array_ref() {
        Ok(rows) => rows.iter().map(value::to_row).collect(),
        Err(_) => Ok(vec![value::to_row(given)?]),
    }
}

/// Plugins see fields sorted by name; a mapped row keeps the order it had, new fields last.
fn in_order_of(old: &Row, mut new: Row) -> Row {
    let mut ordered: Row = old.keys().filter_map(|name| new.shift_remove_entry(name)).collect();
    ordered.append(&mut new);
    ordered
}
