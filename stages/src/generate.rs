//! Rows that a plugin draws: problems with answers, made as they are needed.
//! Knows nothing of what is in them.

use std::{collections::HashSet, sync::Arc};

use anyhow::{Context as _, Result, bail};
use engine::{Cancelled, Context, Finding, Input, NoSettings, Prospects, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    inspection::{self, Plugin},
    script::{Script, Use},
};

/// Draws rows with a plugin. Row by row they depend on the seed alone: more rows begin with the same ones.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// The plugin; its `row(rng, index)` gives a row, or an array of rows.
    pub script: Source,
    /// How many rows to draw.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub rows: usize,
    /// A field, such as `prompt`, whose values are all to differ: a row whose value was there before is drawn again.
    #[serde(default)]
    pub unique: Option<String>,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Row,
}

impl Stage for Generate {
    const NAME: &'static str = "generate";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn inspect(&self, _: &NoSettings, inputs: &Prospects) -> Vec<Finding> {
        let mut found = self.plugin().findings(inputs, "");
        let unique = self.unique.iter();
        found.extend(unique.filter_map(|field| inspection::missing_field("unique", field, &self.first_rows(inputs))));
        found
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        inspection::outline(self.first_rows(inputs).to_vec())
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let script = Script::open_in(ctx, &self.script, &self.params)?;
        let mut seen = HashSet::new();
        let mut drawn = Vec::with_capacity(self.rows.min(4096));
        let (mut next, mut repeated) = (0, 0_usize);
        while drawn.len() < self.rows {
            if ctx.cancelled() {
                bail!(Cancelled);
            }
            ctx.progress(drawn.len() as u64, self.rows as u64, "");
            if next >= self.patience() {
                return Err(self.exhausted(drawn.len(), next));
            }
            // Enough for what is left, where every draw gives a row.
            let left = (self.rows - drawn.len()).min(4096) as u64;
            let batch = script.draw_rows(ctx.seed("rows"), next..next + left)?;
            next += left;
            for row in batch.into_iter().flatten() {
                if self.is_new(&row, &mut seen)? {
                    drawn.push(row);
                } else {
                    repeated += 1;
                }
            }
        }
        drawn.truncate(self.rows);
        ctx.record(0, &[("rows", drawn.len() as f64), ("draws", next as f64), ("repeated", repeated as f64)])?;
        rows::write(ctx.output(), drawn)?;
        Ok(())
    }
}

impl Generate {
    fn plugin(&self) -> Plugin<'_> {
        Plugin { parameter: "script", source: &self.script, params: &self.params, used: Use::Draw }
    }

    /// Rows as the plugin draws them, by another seed than the node's.
    fn first_rows(&self, inputs: &Prospects) -> Arc<Vec<Row>> {
        let draw = |script: &Script| {
            let drawn = script.draw_rows(0, 0..inspection::ROWS as u64)?;
            Ok(drawn.into_iter().flatten().take(inspection::ROWS).collect())
        };
        let key = format!("{} {}", self.script.0.display(), Value::Object(self.params.clone()));
        inputs.once(&key, || self.plugin().made(inputs, draw))
    }

    /// After how many draws the plugin is taken to have nothing new to give.
    fn patience(&self) -> u64 {
        (self.rows as u64).saturating_mul(20).saturating_add(1000)
    }

    fn exhausted(&self, rows: usize, draws: u64) -> anyhow::Error {
        let (script, wanted) = (self.script.0.display(), self.rows);
        match &self.unique {
            Some(field) => anyhow::anyhow!(
                "{draws} draws of `{script}` gave {rows} rows that differ in `{field}`; `rows` asks for {wanted}"
            ),
            None => anyhow::anyhow!("{draws} draws of `{script}` gave {rows} rows; `rows` asks for {wanted}"),
        }
    }

    fn is_new(&self, row: &Row, seen: &mut HashSet<String>) -> Result<bool> {
        let Some(field) = &self.unique else { return Ok(true) };
        let fields = || row.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let value = row.get(field).with_context(|| {
            format!("a row of `{}` has no `{field}` to be unique in; it has {}", self.script.0.display(), fields())
        })?;
        Ok(seen.insert(value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn generate(folder: &Path, text: &str, with: serde_json::Value) -> Result<Vec<Row>> {
        std::fs::write(folder.join("draw.rhai"), text)?;
        let ctx = Context::standalone(folder, 17)?;
        let stage: Generate = serde_json::from_value(with)?;
        stage.run(&NoSettings {}, &ctx)?;
        rows::read(ctx.output())
    }

    #[test]
    fn more_rows_begin_with_the_same_ones() {
        let folder = tempfile::tempdir().unwrap();
        let text = "fn row(rng, index) { let a = rng.int(0, 99); #{ prompt: `${a}+1=`, answer: `${a + params.add}` } }";
        let draw = |rows: usize| {
            generate(folder.path(), text, json!({ "script": "draw.rhai", "rows": rows, "params": { "add": 1 } }))
                .unwrap()
        };
        let (few, many) = (draw(10), draw(5000));
        assert_eq!((few.len(), many.len()), (10, 5000));
        assert_eq!(few, many[..10]);
    }

    #[test]
    fn unique_rows_differ_and_running_out_of_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let text = "fn row(rng, index) { #{ prompt: rng.int(1, 100) } }";
        let rows =
            generate(folder.path(), text, json!({ "script": "draw.rhai", "rows": 100, "unique": "prompt" })).unwrap();
        let mut prompts: Vec<_> = rows.iter().map(|row| row["prompt"].as_i64().unwrap()).collect();
        prompts.sort_unstable();
        assert_eq!(prompts, (1..=100).collect::<Vec<_>>());

        let error = generate(folder.path(), text, json!({ "script": "draw.rhai", "rows": 101, "unique": "prompt" }));
        let told = error.unwrap_err().to_string();
        assert!(
            told.ends_with(" draws of `draw.rhai` gave 100 rows that differ in `prompt`; `rows` asks for 101"),
            "{told}"
        );
        let error = generate(folder.path(), text, json!({ "script": "draw.rhai", "rows": 1, "unique": "answer" }));
        assert_eq!(
            error.unwrap_err().to_string(),
            "a row of `draw.rhai` has no `answer` to be unique in; it has `prompt`"
        );
    }

    #[test]
    fn a_plugin_that_gives_several_rows_or_none_is_cut_to_size_or_told() {
        let folder = tempfile::tempdir().unwrap();
        let with = json!({ "script": "draw.rhai", "rows": 5 });
        let text = "fn row(rng, index) { [#{ i: index }, #{ i: index }, #{ i: index }] }";
        let rows = generate(folder.path(), text, with.clone()).unwrap();
        assert_eq!(rows.iter().map(|row| row["i"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        let error = generate(folder.path(), "fn row(rng, index) { [] }", with).unwrap_err().to_string();
        assert_eq!(error, "1100 draws of `draw.rhai` gave 0 rows; `rows` asks for 5");
    }

    #[test]
    fn a_cancelled_draw_stops() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("draw.rhai"), "fn row(rng, index) { #{} }").unwrap();
        let cancel = engine::Cancel::default();
        cancel.cancel();
        let ctx = Context::standalone(folder.path(), 17).unwrap().with_cancel(cancel);
        let stage: Generate = serde_json::from_value(json!({ "script": "draw.rhai", "rows": 5 })).unwrap();
        assert!(stage.run(&NoSettings {}, &ctx).unwrap_err().is::<Cancelled>());
    }
}
