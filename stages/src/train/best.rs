//! Which look at held-out examples was the best, and when there were enough without a better one.
//! Knows no weights; that loss is a number is all it needs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which weights a training ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of the last step.
    #[default]
    Last,
    /// Those of the look with the lowest validation loss, the one before the first step among them.
    Best,
}

/// How long a training goes on without a better look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// So many in a row, and it ends.
    pub looks: u64,
    /// A loss must be lower than the best by more than this to count.
    pub min_delta: f64,
}

/// How the looks so far went. Saved among a training's notes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    pub best: Option<Look>,
    /// Looks in a row that were no better, or not by enough.
    pub worse: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub step: u64,
    /// Finite.
    pub loss: f64,
}

impl Standing {
    /// Takes a look into account; is it the best so far? Small steps down make a best, but exhaust patience (as
    /// transformers' `early_stopping_threshold`).
    pub fn take(&mut self, look: Look, patience: Option<Patience>) -> bool {
        let min_delta = patience.map_or(0.0, |patience| patience.min_delta);
        let is_best = self.best.is_none_or(|best| look.loss < best.loss);
        let is_enough = self.best.is_none_or(|best| best.loss - look.loss > min_delta);
        self.worse = if is_enough { 0 } else { self.worse + 1 };
        if is_best {
            self.best = Some(look);
        }
        is_best
    }

    /// Were there so many looks in a row that none was better?
    #[must_use]
    pub fn is_out_of(&self, patience: Option<Patience>) -> bool {
        patience.is_some_and(|patience| self.worse >= patience.looks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{fixture, json_of};

    /// Against `tests/reference/optimisers.py`: transformers' `EarlyStoppingCallback`, told the same losses.
    #[test]
    fn a_training_stops_where_transformers_does() {
        for case in json_of(&fixture("training/optimisers.json"))["stops"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            let patience = Patience { looks: number("patience") as u64, min_delta: number("threshold") };
            let losses = case["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap());
            let mut standing = Standing::default();
            let stopped = (1..).zip(losses).find_map(|(step, loss)| {
                standing.take(Look { step, loss }, Some(patience));
                standing.is_out_of(Some(patience)).then_some(step)
            });
            assert_eq!(stopped, case["stopped"].as_u64(), "{case}");
        }
    }

    #[test]
    fn patience_counts_the_looks_since_the_best() {
        let mut standing = Standing::default();
        let mut seen = Vec::new();
        for (step, loss) in [(0, 3.0), (5, 2.0), (10, 2.5), (15, 1.5), (20, 1.5), (25, 1.6)] {
            let patience = Some(Patience { looks: 2, min_delta: 0.0 });
            let is_best = standing.take(Look { step, loss }, patience);
            seen.push((is_best, standing.is_out_of(patience)));
        }
        let (best, out) = seen.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        // An equal loss is no better one.
        assert_eq!(best, [true, true, false, true, false, false]);
        assert_eq!(out, [false, false, false, false, false, true]);
        assert_eq!(standing.best, Some(Look { step: 15, loss: 1.5 }));
        assert!(!standing.is_out_of(None));
    }
}
