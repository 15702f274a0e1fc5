//! Mixes rows of several sources in given proportions.
//! Knows nothing of what the rows are for.

use std::{collections::HashSet, path::Path};

use anyhow::{Result, bail, ensure};
use engine::{Arity, Context, Input, NoSettings, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    inspection,
    random::Stream,
    text::{encode, tokenizer::Tokenizer},
};

/// Mixes rows of several sources: drops doubles, caps each source, draws by weight, shuffles.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Merge {
    /// The sources' shares of the result, in the order of the inputs: `[3, 1]` is three quarters and one.
    /// Empty: every row of every source, or with `total` shares as large as the sources.
    pub weights: Vec<f64>,
    /// What the weights and `total` count.
    pub by: By,
    /// The size of the result, in what `by` counts. A source with too little for its share is repeated, whole
    /// passes first. Absent: as large as it can be with no row repeated.
    #[schemars(range(min = 1))]
    pub total: Option<usize>,
    /// The most rows that each source gives before weighting, drawn at random, in the order of the inputs; null: all.
    pub caps: Vec<Option<usize>>,
    /// A field: of rows with the same value only the first is kept, within a source and across. Rows without the
    /// field are all kept. Absent: doubles stay.
    pub dedupe: Option<String>,
    /// In random order; otherwise source after source.
    pub shuffle: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Rows.
    #[default]
    Samples,
    /// Tokens, by the `tokenizer` input.
    Tokens,
}

impl Default for Merge {
    fn default() -> Self {
        Self { weights: Vec::new(), by: By::Samples, total: None, caps: Vec::new(), dedupe: None, shuffle: true }
    }
}

impl Stage for Merge {
    const NAME: &'static str = "merge";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "rows", kinds: &["rows"], arity: Arity::Many, about: "The sources." },
        Input {
            name: "tokenizer",
            kinds: &["tokenizer", "checkpoint"],
            arity: Arity::Optional,
            about: "Counts the tokens, for `by: tokens`.",
        },
    ];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        inspection::outline(inspection::rows_of(inputs, "rows"))
    }

    fn check(&self) -> Vec<Problem> {
        let problem = |message: &str| Problem::new("weights", message);
        let mut problems = Vec::new();
        if self.weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) {
            problems.push(problem("a weight must be a number of at least zero"));
        } else if !self.weights.is_empty() && self.weights.iter().all(|weight| *weight == 0.0) {
            problems.push(problem("no weight is above zero"));
        }
        problems
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let inputs = ctx.inputs("rows");
        for (name, count) in [("weights", self.weights.len()), ("caps", self.caps.len())] {
            let fits = count == 0 || count == inputs.len();
            ensure!(fits, "`{name}` has {count} values for {} inputs", inputs.len());
        }
        let mut seen = HashSet::new();
        let mut sources = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let cap = self.caps.get(index).copied().flatten();
            let order = Stream::new(&[ctx.seed("draw"), index as u64]);
            sources.push(self.source(&input.path, cap, order, &mut seen)?);
        }
        self.measure(ctx, &mut sources)?;

        let mut merged = Vec::new();
        for (index, quota) in self.quotas(&sources)?.into_iter().enumerate() {
            let source = &mut sources[index];
            let (taken, size) = source.draw(quota, self.shuffle)?;
            let passes = taken.len() as f64 / source.rows.len().max(1) as f64;
            let figures = [
                ("source", index as f64 + 1.0),
                ("read", source.read as f64),
                ("doubles", source.doubles as f64),
                ("kept", source.rows.len() as f64),
                ("taken", taken.len() as f64),
                ("passes", passes),
            ];
            let tokens = [("tokens", size)];
            let tokens = if self.by == By::Tokens { &tokens[..] } else { &[] };
            ctx.record(index as u64, &[&figures[..], tokens].concat())?;
            merged.extend(taken.into_iter().map(|row| source.rows[row].clone()));
        }
        ensure!(!merged.is_empty(), "nothing is left of the {} sources", inputs.len());
        ctx.record(inputs.len() as u64, &[("rows", merged.len() as f64)])?;
        if self.shuffle {
            Stream::new(&[ctx.seed("shuffle")]).shuffle(&mut merged);
        }
        rows::write(ctx.output(), merged)?;
        Ok(())
    }
}

/// What one input gives.
struct Source {
    read: usize,
    doubles: usize,
    rows: Vec<Row>,
    /// The size of each row, in what the weights count.
    sizes: Vec<f64>,
    order: Stream,
}

impl Merge {
    fn source(&self, path: &Path, cap: Option<usize>, mut order: Stream, seen: &mut HashSet<String>) -> Result<Source> {
        let mut rows = rows::read(path)?;
        let read = rows.len();
        if let Some(field) = &self.dedupe {
            rows.retain(|row| row.get(field).is_none_or(|value| seen.insert(value.to_string())));
        }
        let doubles = read - rows.len();
        if let Some(cap) = cap.filter(|cap| *cap < rows.len()) {
            let mut places: Vec<usize> = (0..rows.len()).collect();
            order.shuffle(&mut places);
            let chosen: HashSet<usize> = places[..cap].iter().copied().collect();
            let mut place = 0..;
            rows.retain(|_| place.next().is_some_and(|place| chosen.contains(&place)));
        }
        Ok(Source { read, doubles, sizes: vec![1.0; rows.len()], rows, order })
    }

    fn measure(&self, ctx: &Context, sources: &mut [Source]) -> Result<()> {
        if self.by == By::Samples {
            return Ok(());
        }
        let Some(input) = ctx.optional("tokenizer") else {
            bail!("`by: tokens` needs the input `tokenizer`: a tokenizer or a checkpoint that counts them");
        };
        let tokenizer = Tokenizer::open(&input.path)?;
        for (index, source) in sources.iter_mut().enumerate() {
            use anyhow::Context as _;
            let lengths = encode::lengths(&tokenizer, &source.rows);
            let lengths = lengths.with_context(|| format!("counting the tokens of source {}", index + 1))?;
            source.sizes = lengths.into_iter().map(|length| length as f64).collect();
        }
        Ok(())
    }

    /// How much each source gives, in what the weights count.
    fn quotas(&self, sources: &[Source]) -> Result<Vec<f64>> {
        let available: Vec<f64> = sources.iter().map(|source| source.sizes.iter().sum()).collect();
        if self.weights.is_empty() && self.total.is_none() {
            return Ok(available);
        }
        let weights = if self.weights.is_empty() { &available } else { &self.weights };
        for (index, (weight, size)) in weights.iter().zip(&available).enumerate() {
            ensure!(*weight == 0.0 || *size > 0.0, "source {} has weight {weight} and no rows left", index + 1);
        }
        let sum: f64 = weights.iter().sum();
        ensure!(sum > 0.0, "no source has any rows left");
        let shares = weights.iter().map(|weight| weight / sum);
        let Some(total) = self.total else {
            let pairs = available.iter().zip(shares.clone()).filter(|(_, share)| *share > 0.0);
            let total = pairs.map(|(size, share)| size / share).fold(f64::INFINITY, f64::min);
            // The source that runs out first gives all it has, whatever the rounding.
            return Ok(shares.map(|share| (total * share + 1e-6).floor()).collect());
        };
        let exact: Vec<f64> = shares.map(|share| total as f64 * share).collect();
        Ok(if self.by == By::Samples { whole(&exact, total) } else { exact })
    }
}

/// Whole numbers with the given sum, each within one of its exact value: the largest remainders are rounded up.
fn whole(exact: &[f64], total: usize) -> Vec<f64> {
    let mut whole: Vec<f64> = exact.iter().map(|value| value.floor()).collect();
    let missing = total.saturating_sub(whole.iter().sum::<f64>() as usize);
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|a, b| (exact[*b] - whole[*b]).total_cmp(&(exact[*a] - whole[*a])));
    for index in order.into_iter().take(missing) {
        whole[index] += 1.0;
    }
    whole
}

impl Source {
    /// Rows whose sizes reach the quota, and their size: whole passes over the source, then a random rest.
    fn draw(&mut self, quota: f64, shuffle: bool) -> Result<(Vec<usize>, f64)> {
        let mut taken = Vec::new();
        let mut size = 0.0;
        while size < quota {
            ensure!(self.sizes.iter().any(|size| *size > 0.0), "a source of empty rows cannot fill its share");
            let mut places: Vec<usize> = (0..self.rows.len()).collect();
            self.order.shuffle(&mut places);
            let mut pass = Vec::new();
            for place in places {
                if size >= quota {
                    break;
                }
                pass.push(place);
                size += self.sizes[place];
            }
            if !shuffle {
                pass.sort_unstable();
            }
            taken.extend(pass);
        }
        Ok((taken, size))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::bench::{Bench, column, prompts};

    fn source(letter: char, count: usize) -> Vec<Value> {
        prompts((0..count).map(|i| format!("{letter}{i}")))
    }

    fn merged(with: Value, sources: &[Vec<Value>]) -> Vec<Row> {
        let bench = Bench::new();
        let folders: Vec<_> = sources.iter().enumerate().map(|(i, rows)| bench.rows(&format!("in{i}"), rows)).collect();
        let inputs: Vec<(&str, &Path)> = folders.iter().map(|folder| ("rows", folder.as_path())).collect();
        bench.made::<Merge>(with, &inputs).unwrap()
    }

    fn counts(rows: &[Row]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for prompt in column(rows, "prompt") {
            *counts.entry(prompt.as_str().unwrap()[..1].to_owned()).or_default() += 1;
        }
        counts
    }

    fn is(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn without_weights_every_row_is_there_once() {
        let rows = merged(json!({}), &[source('a', 5), source('b', 3)]);
        assert_eq!(counts(&rows), is(&[("a", 5), ("b", 3)]));
        let again = merged(json!({}), &[source('a', 5), source('b', 3)]);
        assert_eq!(rows, again, "the order is drawn by the seed alone");
        let in_order = merged(json!({ "shuffle": false }), &[source('a', 5), source('b', 3)]);
        assert_eq!(column(&in_order, "prompt")[5], json!("b0"));
        assert_ne!(rows, in_order);
    }

    #[test]
    fn weights_are_shares_of_the_largest_result_without_repetition() {
        // 3 : 1 of 60 and 40 rows: the first allows 80 in all, the second 160.
        let rows = merged(json!({ "weights": [3, 1] }), &[source('a', 60), source('b', 40)]);
        assert_eq!(counts(&rows), is(&[("a", 60), ("b", 20)]));
        let thirds = merged(json!({ "weights": [1, 1, 1] }), &[source('a', 7), source('b', 50), source('c', 9)]);
        assert_eq!(counts(&thirds), is(&[("a", 7), ("b", 7), ("c", 7)]));
    }

    #[test]
    fn a_total_is_met_exactly_and_a_small_source_repeated_in_whole_passes() {
        let rows = merged(
            json!({ "weights": [1, 1, 1], "total": 100 }),
            &[source('a', 10), source('b', 500), source('c', 500)],
        );
        assert_eq!(counts(&rows), is(&[("a", 34), ("b", 33), ("c", 33)]));
        let mut times = BTreeMap::new();
        for prompt in column(&rows, "prompt").iter().filter(|prompt| prompt.as_str().unwrap().starts_with('a')) {
            *times.entry(prompt.to_string()).or_insert(0) += 1;
        }
        assert_eq!(times.len(), 10);
        assert!(times.values().all(|times| (3..=4).contains(times)), "{times:?}");
    }

    #[test]
    fn doubles_go_first_then_caps_then_weights() {
        let with = json!({ "dedupe": "prompt", "caps": [3, null], "weights": [1, 2] });
        let doubled = [source('a', 10), source('a', 10), source('b', 2)].concat();
        let second = [source('a', 4), source('b', 9)].concat();
        // First: a0..a9, b0, b1, of which 3 are drawn. Second: b2..b8, of which 6 make two thirds.
        assert_eq!(merged(with, &[doubled, second]).len(), 9);
    }

    #[test]
    fn shares_can_be_of_tokens() {
        let bench = Bench::new();
        let rows = |text: &str| vec![json!({ "prompt": text }); 100];
        let (short, long) = (bench.rows("short", &rows("ab")), bench.rows("long", &rows(&"a".repeat(20))));
        let tokenizer = bench.run::<crate::tokenizer::Tokenizer>(json!({}), &[("rows", &short)]).unwrap();
        let kept = bench.path("tokenizer");
        std::fs::rename(tokenizer, &kept).unwrap();
        let with = json!({ "weights": [1, 1], "by": "tokens" });
        let inputs = [("rows", short.as_path()), ("rows", long.as_path()), ("tokenizer", kept.as_path())];
        // 100 rows of 2 tokens are 200, and so are 10 of 20.
        assert_eq!(bench.made::<Merge>(with.clone(), &inputs).unwrap().len(), 110);
        assert_eq!(
            bench.complaint::<Merge>(with, &inputs[..2]),
            "`by: tokens` needs the input `tokenizer`: a tokenizer or a checkpoint that counts them"
        );
    }

    #[test]
    fn lists_must_be_as_long_as_the_inputs() {
        let bench = Bench::new();
        let folder = bench.rows("in", &source('a', 2));
        assert_eq!(
            bench.complaint::<Merge>(json!({ "weights": [1, 2] }), &[("rows", &folder)]),
            "`weights` has 2 values for 1 inputs"
        );
        assert_eq!(
            bench.complaint::<Merge>(json!({ "weights": [-1] }), &[("rows", &folder)]),
            "weights: a weight must be a number of at least zero"
        );
    }
}
