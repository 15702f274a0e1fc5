//! Keeps one part of the rows, or of a long text: what is trained on, or what is held out.
//! Knows nothing of seeds: which side a prompt falls on is a property of the prompt.

use anyhow::{Context as _, Result, ensure};
use engine::{Arity, Context, Input, NoSettings, Problem, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    inspection,
    text::fields,
};

/// Keeps the training part or the test part of rows; two nodes with the same parameters but `part` share nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Which part to keep.
    pub part: Part,
    /// How much goes to the test part: below 1 a share, from 1 on a number of rows (or of characters).
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0))]
    pub test: f64,
    /// What decides the side.
    #[serde(default)]
    pub by: By,
    /// With `by: key`: the field whose value decides. Rows with the same value are on the same side.
    #[serde(default = "prompt")]
    pub key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Train,
    Test,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The hash of a field's value: the smallest hashes are the test part. A share is the same for a prompt
    /// whatever else is in the rows; a number of rows is met exactly, and exceeded only by rows with the same value.
    #[default]
    Key,
    /// The place in the row's `text`: the end of every text is the test part, as in `nanoGPT`.
    Position,
}

fn tenth() -> f64 {
    0.1
}

fn prompt() -> String {
    "prompt".into()
}

impl Stage for Split {
    const NAME: &'static str = "split";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "rows", kinds: &["rows"], arity: Arity::One, about: "What to divide." }];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        inspection::outline(inspection::rows_of(inputs, "rows"))
    }

    fn check(&self) -> Vec<Problem> {
        if self.test >= 1.0 && self.test.fract() != 0.0 {
            let message = format!("`test` is {}: from 1 on it is a number of rows, and whole", self.test);
            return vec![Problem::new("test", message)];
        }
        Vec::new()
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let rows = rows::read(&ctx.input("rows")?.path)?;
        let read = rows.len();
        let kept = match self.by {
            By::Key => self.by_key(rows)?,
            By::Position => self.by_position(rows)?,
        };
        ensure!(!kept.is_empty(), "no row is left in this part of {read} rows with `test: {}`", self.test);
        ctx.record(0, &[("read", read as f64), ("kept", kept.len() as f64)])?;
        rows::write(ctx.output(), kept)?;
        Ok(())
    }
}

/// Does the row with this hash belong to the test part?
type IsTest<'a> = dyn Fn(&[u8; 32]) -> bool + 'a;

impl Split {
    fn by_key(&self, rows: Vec<Row>) -> Result<Vec<Row>> {
        let hash = |(index, row): (usize, &Row)| {
            let absent = || format!("row {} has no `{}`; it has {}", index + 1, self.key, fields::names(row));
            row.get(&self.key).map(hashed).with_context(absent)
        };
        let hashes: Vec<[u8; 32]> = rows.iter().enumerate().map(hash).collect::<Result<_>>()?;
        let is_test: Box<IsTest<'_>> = if self.test < 1.0 {
            Box::new(|hash| unit(hash) < self.test)
        } else {
            let wanted = self.test as usize;
            ensure!(wanted < rows.len(), "`test: {wanted}` leaves nothing to train on: there are {} rows", rows.len());
            let mut sorted = hashes.clone();
            sorted.sort_unstable();
            let last = sorted[wanted - 1];
            Box::new(move |hash| *hash <= last)
        };
        let wanted = self.part == Part::Test;
        let sides: Vec<bool> = hashes.iter().map(is_test).collect();
        Ok(rows.into_iter().zip(sides).filter(|(_, side)| *side == wanted).map(|(row, _)| row).collect())
    }

    fn by_position(&self, rows: Vec<Row>) -> Result<Vec<Row>> {
        let cut = |(index, mut row): (usize, Row)| {
            let text = row.get("text").and_then(Value::as_str);
            let text =
                text.with_context(|| format!("row {} has no `text`; it has {}", index + 1, fields::names(&row)))?;
            let count = text.chars().count();
            let train = if self.test < 1.0 {
                // Rounded down, as nanoGPT's `int(n * 0.9)`.
                (count as f64 * (1.0 - self.test)) as usize
            } else {
                count.saturating_sub(self.test as usize)
            };
            let border = text.char_indices().nth(train).map_or(text.len(), |(at, _)| at);
            let kept = match self.part {
                Part::Train => &text[..border],
                Part::Test => &text[border..],
            };
            ensure!(!kept.is_empty(), "row {}: no character of its {count} is left in this part", index + 1);
            row["text"] = Value::from(kept);
            Ok(row)
        };
        rows.into_iter().enumerate().map(cut).collect()
    }
}

fn hashed(value: &Value) -> [u8; 32] {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A hash as a number in `[0, 1)`.
fn unit(hash: &[u8; 32]) -> f64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    (u64::from_be_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::bench::{Bench, column, prompts, shared};

    fn numbered(count: usize) -> Vec<Value> {
        prompts((0..count).map(|i| format!("{i}+1=")))
    }

    fn side(rows: &[Value], part: &str, test: f64) -> Vec<Row> {
        let bench = Bench::new();
        let folder = bench.rows("rows", rows);
        bench.made::<Split>(json!({ "part": part, "test": test }), &[("rows", &folder)]).unwrap()
    }

    #[test]
    fn the_parts_are_disjoint_and_together_everything_in_order() {
        let rows = numbered(500);
        let (train, test) = (side(&rows, "train", 50.0), side(&rows, "test", 50.0));
        assert_eq!((train.len(), test.len()), (450, 50));
        let both: BTreeSet<String> = train.iter().chain(&test).map(|row| row["prompt"].to_string()).collect();
        assert_eq!(both.len(), 500);
        let place = |row: &Row| row["prompt"].as_str().unwrap().trim_end_matches("+1=").parse::<usize>().unwrap();
        assert!(train.is_sorted_by_key(place) && test.is_sorted_by_key(place));
    }

    #[test]
    fn a_share_puts_a_prompt_on_the_same_side_whatever_else_is_there() {
        let few = side(&numbered(500), "test", 0.2);
        let many = side(&numbered(5000), "test", 0.2);
        assert_eq!(few[..], many[..few.len()]);
        // 5000 draws with chance 0.2: mean 1000, deviation 28.
        assert!((many.len() as f64 - 1000.0).abs() < 110.0, "{}", many.len());
    }

    #[test]
    fn rows_with_the_same_prompt_stay_together() {
        let rows: Vec<Value> = numbered(40).into_iter().cycle().take(120).collect();
        let (train, test) = (side(&rows, "train", 10.0), side(&rows, "test", 10.0));
        let distinct = |rows: &[Row]| column(rows, "prompt").iter().map(Value::to_string).collect::<BTreeSet<_>>();
        assert_eq!(distinct(&train).intersection(&distinct(&test)).count(), 0);
        assert_eq!(test.len(), 12, "four prompts of three rows are the first to reach ten");
    }

    #[test]
    fn a_long_text_is_cut_where_nanogpt_cuts_it() {
        let bench = Bench::new();
        let folder = bench.rows("rows", &[json!({ "text": "äbcdefghijklmnopqrstuvw" })]);
        let cut = |part: &str| {
            bench.made::<Split>(json!({ "part": part, "by": "position" }), &[("rows", &folder)]).unwrap()[0]["text"]
                .clone()
        };
        // 23 characters: int(23 * 0.9) = 20.
        assert_eq!((cut("train"), cut("test")), (json!("äbcdefghijklmnopqrst"), json!("uvw")));
    }

    #[test]
    fn shakespeare_is_cut_as_in_nanogpt() {
        let Some(path) = shared("tinyshakespeare/input.txt.gz") else { return };
        let bench = Bench::new();
        let rows = bench.run::<crate::load::Load>(json!({ "path": path }), &[]).unwrap();
        let kept = bench.path("kept");
        std::fs::rename(rows, &kept).unwrap();
        let cut = |part: &str| {
            let rows = bench.made::<Split>(json!({ "part": part, "by": "position" }), &[("rows", &kept)]).unwrap();
            rows[0]["text"].as_str().unwrap().chars().count()
        };
        // nanoGPT, data/shakespeare_char/prepare.py: train has 1,003,854 tokens, val has 111,540 tokens.
        assert_eq!((cut("train"), cut("test")), (1_003_854, 111_540));
    }

    #[test]
    fn rows_without_the_key_and_impossible_sizes_are_errors() {
        let bench = Bench::new();
        let folder = bench.rows("rows", &[json!({ "question": "?" })]);
        let inputs = [("rows", folder.as_path())];
        assert_eq!(
            bench.complaint::<Split>(json!({ "part": "train" }), &inputs),
            "row 1 has no `prompt`; it has `question`"
        );
        assert_eq!(
            bench.complaint::<Split>(json!({ "part": "train", "key": "question", "test": 1 }), &inputs),
            "`test: 1` leaves nothing to train on: there are 1 rows"
        );
        assert_eq!(
            bench.complaint::<Split>(json!({ "part": "train", "test": 2.5 }), &inputs),
            "test: `test` is 2.5: from 1 on it is a number of rows, and whole"
        );
    }
}
