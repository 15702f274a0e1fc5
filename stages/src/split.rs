//! Keeps one part of the rows, or of a long text: what is trained on, or what is held out.
//! Knows nothing of seeds: which side a prompt falls on is a property of the prompt.

use anyhow::{Context as _, Result, ensure};
use engine::{Arity, Context, Input, NoSettings, Problem, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    text::encode,
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
    /// The place in the row's `text`: the end of every text is the test part, as in nanoGPT.
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

    fn check(&self) -> Vec<Problem> {
        if self.test >= 1.0 && self.test.fract() != 0.0 {
            let message = format!("`test` is {}: from 1 on it is a number of rows, and whole", self.test);
            return vec![Problem { parameter: "test".into(), message, hint: None }];
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

impl Split {
    fn by_key(&self, rows: Vec<Row>) -> Result<Vec<Row>> {
        let hash = |(index, row): (usize, &Row)| {
            let absent = || format!("row {} has no `{}`; it has {}", index + 1, self.key, encode::fields(row));
            row.get(&self.key).map(hashed).with_context(absent)
        };
        let hashes: Vec<[u8; 32]> = rows.iter().enumerate().map(hash).collect::<Result<_>>()?;
        let is_test: Box<dyn Fn(&[u8; 32]) -> bool> = if self.test < 1.0 {
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
            let text = text.with_context(|| format!("row {} has no `text`; it has {}", index + 1, encode::fields(&row)))?;
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
