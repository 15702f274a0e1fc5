//! Keeps the rows that a plugin wants, and counts why the others went.
//! Knows nothing of what is in the rows.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use engine::{Arity, Cancelled, Context, Finding, Input, NoSettings, Prospects, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    inspection::{self, Plugin},
    script::{Keep, Script, Use},
    text::room::excerpt,
};

/// Keeps the rows that a plugin wants, in their order. Why the others were dropped is in the node's metrics.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The plugin; its `keep(row)` gives true, false, or the reason the row is dropped.
    pub script: Source,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Row,
}

impl Stage for Filter {
    const NAME: &'static str = "filter";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "rows", kinds: &["rows"], arity: Arity::One, about: "What to choose from." }];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn inspect(&self, _: &NoSettings, inputs: &Prospects) -> Vec<Finding> {
        self.plugin().findings(inputs, "rows")
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        let rows = inspection::rows_of(inputs, "rows");
        inspection::outline(self.plugin().made(inputs, move |script| {
            let verdicts = script.keep_rows(&rows, 0)?;
            let kept = rows.into_iter().zip(verdicts).filter(|(_, verdict)| *verdict == Keep::Yes);
            Ok(kept.map(|(row, _)| row).collect())
        }))
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let script = Script::open_in(ctx, &self.script, &self.params)?;
        let rows = rows::read(&ctx.input("rows")?.path)?;
        let total = rows.len();
        let mut verdicts = Vec::with_capacity(total);
        for chunk in rows.chunks(4096) {
            if ctx.cancelled() {
                bail!(Cancelled);
            }
            ctx.progress(verdicts.len() as u64, total as u64, "");
            verdicts.extend(script.keep_rows(chunk, verdicts.len())?);
        }
        let mut kept = Vec::with_capacity(total);
        let mut dropped = Dropped::default();
        let mut example = String::new();
        for (i, (row, verdict)) in rows.into_iter().zip(verdicts).enumerate() {
            match verdict {
                Keep::Yes => kept.push(row),
                Keep::No(reason) => {
                    if example.is_empty() {
                        let row = excerpt(&serde_json::to_string(&row)?);
                        let (given, hint) = (Dropped::given(&reason), Dropped::hint(&reason));
                        example = format!("\nsuch as row {}, for which `keep` gave {given}: {row}{hint}", i + 1);
                    }
                    dropped.add(ctx, reason, row)?;
                }
            }
        }
        dropped.record(ctx, kept.len())?;
        if kept.is_empty() {
            bail!("`{}` keeps none of {total} rows{}{example}", self.script.0.display(), dropped.list());
        }
        rows::write(ctx.output(), kept)?;
        Ok(())
    }
}

impl Filter {
    fn plugin(&self) -> Plugin<'_> {
        Plugin { parameter: "script", source: &self.script, params: &self.params, used: Use::KeepRow }
    }
}

/// How many rows went for each reason.
#[derive(Default)]
pub(crate) struct Dropped(BTreeMap<String, usize>);

impl Dropped {
    /// Reasons with values in them are endless: what is told is the most frequent ones.
    pub(crate) const TOLD: usize = 20;
    /// Rows shown of each reason.
    pub(crate) const SHOWN: usize = 3;
    /// The reason where `keep` gave a bare `false`.
    const NONE: &str = "no reason given";

    /// What `keep` gave for this reason.
    pub(crate) fn given(reason: &str) -> String {
        if reason == Self::NONE { "`false`".into() } else { format!("\"{reason}\"") }
    }

    /// How reasons come to be told, where there is none.
    pub(crate) fn hint(reason: &str) -> &'static str {
        if reason == Self::NONE {
            "\nhint: give the reason as a text in the place of `false`, and it is told here"
        } else {
            ""
        }
    }

    fn add(&mut self, ctx: &Context, reason: String, mut row: Row) -> Result<()> {
        let kinds = self.0.len();
        let count = self.0.entry(reason.clone()).or_default();
        *count += 1;
        if *count <= Self::SHOWN && kinds <= Self::TOLD {
            row.insert("dropped".into(), reason.into());
            ctx.sample(0, row)?;
        }
        Ok(())
    }

    fn record(&self, ctx: &Context, kept: usize) -> Result<()> {
        let all: usize = self.0.values().sum();
        let mut figures = vec![("kept".to_string(), kept as f64), ("dropped".to_string(), all as f64)];
        let told = self.most_frequent();
        let rest = all - told.iter().map(|(_, count)| count).sum::<usize>();
        figures.extend(told.iter().map(|(reason, count)| (format!("dropped: {reason}"), *count as f64)));
        if rest > 0 {
            figures.push(("dropped for other reasons".into(), rest as f64));
        }
        let figures: Vec<_> = figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        ctx.record(0, &figures)
    }

    fn list(&self) -> String {
        let told = self.most_frequent();
        let line = |(reason, count): &(&str, usize)| format!("\n  {count} × {reason}");
        told.iter().map(line).collect()
    }

    fn most_frequent(&self) -> Vec<(&str, usize)> {
        let mut reasons: Vec<_> = self.0.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        reasons.truncate(Self::TOLD);
        reasons
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn filter(folder: &Path, text: &str, count: i64) -> Result<Vec<Row>> {
        std::fs::write(folder.join("keep.rhai"), text)?;
        let input = folder.join("input");
        std::fs::create_dir_all(&input)?;
        rows::write(&input, (0..count).map(|n| json!({ "n": n }).as_object().unwrap().clone()))?;
        let ctx = Context::standalone(folder, 17)?.with_input("rows", "numbers", "rows", &input);
        let stage: Filter = serde_json::from_value(json!({ "script": "keep.rhai", "params": { "below": 3 } }))?;
        stage.run(&NoSettings {}, &ctx)?;
        rows::read(ctx.output())
    }

    #[test]
    fn wanted_rows_are_kept_in_order_and_the_reasons_of_others_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            "fn keep(row) { if row.n < params.below { true } else if row.n == 3 { false } else { \"too large\" } }";
        let kept = filter(folder.path(), text, 10_000).unwrap();
        assert_eq!(kept.iter().map(|row| row["n"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
        let metrics = std::fs::read_to_string(folder.path().join("records/metrics.jsonl")).unwrap();
        let expected = json!({ "step": 0, "kept": 3.0, "dropped": 9997.0, "dropped: too large": 9996.0, "dropped: no reason given": 1.0 });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&metrics).unwrap(), expected);
        let samples = std::fs::read_to_string(folder.path().join("records/samples.jsonl")).unwrap();
        assert_eq!(samples.lines().last().unwrap(), r#"{"step":0,"n":6,"dropped":"too large"}"#);
        assert_eq!(samples.lines().count(), 4);
    }

    #[test]
    fn a_filter_that_keeps_nothing_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let text = "fn keep(row) { if row.n % 3 == 0 { \"a third\" } else { \"no third\" } }";
        let error = filter(folder.path(), text, 10).unwrap_err().to_string();
        assert_eq!(
            error,
            "`keep.rhai` keeps none of 10 rows\n  6 × no third\n  4 × a third\nsuch as row 1, for which `keep` gave \"a third\": {\"n\":0}"
        );
        let error = filter(folder.path(), "fn keep(row) { row.n > 10 }", 3).unwrap_err().to_string();
        assert_eq!(
            error,
            "`keep.rhai` keeps none of 3 rows\n  3 × no reason given\nsuch as row 1, for which `keep` gave `false`: \
             {\"n\":0}\nhint: give the reason as a text in the place of `false`, and it is told here"
        );
    }

    #[test]
    fn endless_reasons_are_told_as_the_most_frequent_ones() {
        let folder = tempfile::tempdir().unwrap();
        let text = "fn keep(row) { if row.n == 0 { true } else { `is ${row.n}` } }";
        filter(folder.path(), text, 1000).unwrap();
        let metrics = std::fs::read_to_string(folder.path().join("records/metrics.jsonl")).unwrap();
        let metrics: Row = serde_json::from_str(&metrics).unwrap();
        assert_eq!(metrics.len(), 1 + 2 + 20 + 1);
        assert_eq!(metrics["dropped for other reasons"], 979.0);
    }
}
