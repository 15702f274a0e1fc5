//! What a filter plugin says of each sample or row.
//! Knows nothing of what is done with the dropped ones.

use rhai::Dynamic;

use super::{Compiled, Error, Row, Sample, Script, error, value};

/// A filter's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    Yes,
    /// Dropped, and why: the plugin's words, or `no reason given` for a bare `false`.
    No(String),
}

impl Script {
    /// Calls `keep(sample)` on every sample, in parallel; the verdicts are in order.
    ///
    /// # Errors
    /// The [`Error`] of the first sample in order whose verdict is none.
    pub fn keeps(&self, samples: &[Sample]) -> anyhow::Result<Vec<Keep>> {
        let arguments = |sample: &Sample| [sample.to_dynamic()];
        self.each("keep", samples, arguments, verdict, |error, index| error.with_sample(&samples[index]))
    }

    /// Calls `keep(row)` on every row, in parallel; the verdicts are in order. `first` is the number of
    /// the first row, for messages.
    ///
    /// # Errors
    /// The [`Error`] of the first row in order whose verdict is none.
    pub fn keep_rows(&self, rows: &[Row], first: usize) -> anyhow::Result<Vec<Keep>> {
        let at = |error: Error, index: usize| error.note("row", error::numbered(first + index, &rows[index]));
        self.each("keep", rows, |row| [value::from_row(row)], verdict, at)
    }
}

fn verdict(script: &Compiled, function: &str, given: &Dynamic) -> Result<Keep, Error> {
    match (given.as_bool(), given.as_immutable_string_ref()) {
        (Ok(true), _) => Ok(Keep::Yes),
        (Ok(false), _) => Ok(Keep::No("no reason given".into())),
        // Every reason is kept and counted by its words.
        (_, Ok(reason)) => Ok(Keep::No(error::shorten(&reason))),
        _ => {
            let message = format!("`keep` gave {}, not true, false or a reason", value::described(given));
            Err(script.refuse(function, message))
        }
    }
}
