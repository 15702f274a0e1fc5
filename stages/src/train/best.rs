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

/// How the looks so far went. Saved among a training's notes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    pub best: Option<Look>,
    /// Looks since the best.
    pub worse: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub step: u64,
    /// Finite.
    pub loss: f64,
}

impl Standing {
    /// Takes a look into account; is it the best so far?
    pub fn take(&mut self, look: Look) -> bool {
        let is_best = self.best.is_none_or(|best| look.loss < best.loss);
        if is_best {
            *self = Self { best: Some(look), worse: 0 };
        } else {
            self.worse += 1;
        }
        is_best
    }

    /// Were there so many looks in a row that none was better?
    #[must_use]
    pub fn is_out_of(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|patience| self.worse >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_the_looks_since_the_best() {
        let mut standing = Standing::default();
        let mut seen = Vec::new();
        for (step, loss) in [(0, 3.0), (5, 2.0), (10, 2.5), (15, 1.5), (20, 1.5), (25, 1.6)] {
            let is_best = standing.take(Look { step, loss });
            seen.push((is_best, standing.is_out_of(Some(2))));
        }
        let (best, out) = seen.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        // An equal loss is no better one.
        assert_eq!(best, [true, true, false, true, false, false]);
        assert_eq!(out, [false, false, false, false, false, true]);
        assert_eq!(standing.best, Some(Look { step: 15, loss: 1.5 }));
        assert!(!standing.is_out_of(None));
    }
}
