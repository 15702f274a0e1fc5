//! How long the sequences of an input are, by some of its rows. Knows nothing of memory.

use std::{
    io::{BufRead, BufReader, Read as _},
    path::Path,
};

use engine::Prospect;

use super::TooLong;
use crate::{
    data::{regular, rows::Row},
    text::{
        check::Finding,
        encode::{self, Example, LossOn},
        tokenizer::Tokenizer,
    },
    train::packing,
};

/// Rows of an input that are read to learn how long its sequences are.
pub(super) const ROWS_READ: usize = 256;
/// Bytes of an input that are read for it at most, however long its rows are.
const BYTES_READ: u64 = 256 << 20;
/// As many rows at most are packed to learn how full blocks become.
const ROWS_PACKED: f64 = 4096.0;

/// How long sequences are: some of them, and how many each stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lengths(pub(super) Vec<Length>);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Length {
    pub(super) tokens: usize,
    /// Those that the loss counts.
    pub(super) targets: usize,
    /// Sequences like this one.
    pub(super) weight: f64,
}

/// A number of each of many sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

impl Lengths {
    pub(super) fn exactly(tokens: usize, count: usize) -> Self {
        Self(vec![Length { tokens, targets: tokens, weight: count as f64 }])
    }

    pub(super) fn spread(&self, number: impl Fn(&Length) -> usize) -> Spread {
        let (mut sum, mut squares) = (0.0, 0.0);
        for each in &self.0 {
            let number = number(each) as f64;
            sum += each.weight * number;
            squares += each.weight * number * number;
        }
        let mean = sum / self.weight();
        Spread { mean, deviation: (squares / self.weight() - mean * mean).max(0.0).sqrt() }
    }

    pub(super) fn weight(&self) -> f64 {
        self.0.iter().map(|each| each.weight).sum()
    }

    /// About how many sequences there are.
    pub(super) fn count(&self) -> usize {
        self.weight().ceil() as usize
    }

    pub(super) fn longest(&self) -> usize {
        self.0.iter().map(|each| each.tokens).max().unwrap_or(0)
    }

    /// The share of tokens that are targets.
    pub(super) fn trained(&self) -> f64 {
        let sum =
            |number: fn(&Length) -> usize| self.0.iter().map(|each| each.weight * number(each) as f64).sum::<f64>();
        sum(|each| each.targets) / sum(|each| each.tokens).max(1.0)
    }

    /// With so many tokens more in each, all of them targets.
    pub(super) fn continued(mut self, tokens: usize) -> Self {
        for each in &mut self.0 {
            (each.tokens, each.targets) = (each.tokens + tokens, tokens);
        }
        self
    }

    /// As rows of at most so many tokens.
    pub(super) fn fitted(self, most: usize, too_long: TooLong) -> Self {
        let fit = |each: Length| match too_long {
            TooLong::Cut => Length { tokens: each.tokens.min(most), targets: each.targets.min(most), ..each },
            // Each piece begins with the last token of the one before.
            TooLong::Split if each.tokens > most => {
                let pieces = (each.tokens - 1) as f64 / (most - 1).max(1) as f64;
                Length { tokens: most, targets: most, weight: each.weight * pieces }
            }
            TooLong::Split => each,
        };
        Self(self.0.into_iter().map(fit).collect())
    }

    /// How full blocks of so many tokens become.
    pub(super) fn packed(&self, block: usize) -> Spread {
        let scale = (ROWS_PACKED / self.weight()).min(1.0);
        let copies = |each: &Length| vec![each.tokens.min(block); (each.weight * scale).round().max(1.0) as usize];
        let lengths: Vec<usize> = self.0.iter().flat_map(copies).collect();
        let fill =
            |taken: Vec<usize>| Length { tokens: taken.into_iter().map(|i| lengths[i]).sum(), targets: 0, weight: 1.0 };
        Lengths(packing::best_fit(&lengths, block).into_iter().map(fill).collect()).spread(|block| block.tokens)
    }
}

impl Spread {
    /// The most that so many of them are together, all but never more.
    pub(super) fn most(self, count: usize) -> usize {
        let count = count as f64;
        (count * self.mean + 3.0 * count.sqrt() * self.deviation).ceil() as usize
    }

    /// The least, all but never less.
    pub(super) fn least(self, count: usize) -> usize {
        let count = count as f64;
        (count * self.mean - 3.0 * count.sqrt() * self.deviation).max(0.0).floor() as usize
    }
}

/// What is asked of rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Examples(LossOn),
    Prompts,
}

/// Of the first rows of each input, each input weighed by its size. None where nothing can be read; the work itself
/// will say why.
pub(super) fn lengths(inputs: &[(String, Prospect)], tokenizer: &Tokenizer, asked: Asked) -> Option<Lengths> {
    // What the template check finds is for the stage to say.
    let tokenizer = &tokenizer.clone().accepting(Finding::ALL.into());
    let mut all = Vec::new();
    for (_, prospect) in inputs {
        let Prospect::There(folder) = prospect else { return None };
        let (rows, count) = first_rows(folder)?;
        let weight = count / rows.len().max(1) as f64;
        for row in &rows {
            all.push(match asked {
                Asked::Examples(loss) => {
                    let Example { ids, trained } = encode::example(tokenizer, row, loss).ok()?;
                    let targets = trained.iter().skip(1).filter(|trained| **trained).count();
                    Length { tokens: ids.len(), targets, weight }
                }
                Asked::Prompts => Length { tokens: encode::prompt(tokenizer, row).ok()?.len(), targets: 0, weight },
            });
        }
    }
    if all.is_empty() { None } else { Some(Lengths(all)) }
}

/// The first rows of an artifact, and about how many there are.
fn first_rows(folder: &Path) -> Option<(Vec<Row>, f64)> {
    let file = regular::open(&folder.join("rows.jsonl")).ok()?;
    let size = file.metadata().ok()?.len();
    let (mut rows, mut read) = (Vec::new(), 0);
    for line in BufReader::new(file.take(BYTES_READ)).lines().take(ROWS_READ) {
        let line = line.ok()?;
        read += line.len() as u64 + 1;
        if !line.trim().is_empty() {
            rows.push(serde_json::from_str(&line).ok()?);
        }
    }
    let count = rows.len() as f64 * size as f64 / read.max(1) as f64;
    Some((rows, count))
}
