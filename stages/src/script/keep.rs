//! What a filter plugin says of each sample or row.
//! Knows nothing of what is done with the dropped ones.

use rhai::Dynamic;

use super::{Error, Row, Sample, Script, each, error, value};

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
        self.parameters("keep", 2)?;
        let verdict = |_, sample: &Sample| self.keep(sample.to_dynamic()).map_err(|error| error.with_sample(sample));
        Ok(each(samples, verdict)?)
    }

    /// Calls `keep(row)` on every row, in parallel; the verdicts are in order. `first` is the number of
    /// the first row, for messages.
    ///
    /// # Errors
    /// The [`Error`] of the first row in order whose verdict is none.
    pub fn keep_rows(&self, rows: &[Row], first: usize) -> anyhow::Result<Vec<Keep>> {
        self.parameters("keep", 2)?;
        let verdict = |i, row: &Row| {
            self.keep(value::from_row(row)).map_err(|error| error.note("row", error::numbered(first + i, row)))
        };
        Ok(each(rows, verdict)?)
    }

    fn keep(&self, given: Dynamic) -> Result<Keep, Error> {
        let verdict = self.call("keep", &[given])?;
        match (verdict.as_bool(), verdict.as_immutable_string_ref()) {
            (Ok(true), _) => Ok(Keep::Yes),
            (Ok(false), _) => Ok(Keep::No("no reason given".into())),
            (_, Ok(reason)) => Ok(Keep::No(reason.to_string())),
            _ => {
                let message = format!("`keep` gave {}, not true, false or a reason", value::described(&verdict));
                Err(self.refuse("keep", message))
            }
        }
    }
}
