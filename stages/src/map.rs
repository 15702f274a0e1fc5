//! Makes other rows of rows with a plugin.
//! Knows nothing of what is in them.

use anyhow::{Result, bail};
use engine::{Arity, Cancelled, Context, Finding, Input, NoSettings, Prospects, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    inspection::{self, Plugin},
    script::{Script, Use},
};

/// Makes of every row what a plugin gives for it, in their order: another row, several, or none.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// The plugin; its `map(row)` gives a row, an array of rows, or `()` to drop it.
    pub script: Source,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Row,
}

impl Stage for Map {
    const NAME: &'static str = "map";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "rows", kinds: &["rows"], arity: Arity::One, about: "What to make other rows of." }];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn inspect(&self, _: &NoSettings, inputs: &Prospects) -> Vec<Finding> {
        self.plugin().findings(inputs, "rows")
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        let rows = inspection::rows_of(inputs, "rows");
        let mapped = move |script: &Script| Ok(script.map_rows(&rows, 0)?.into_iter().flatten().collect());
        inspection::outline(self.plugin().made(inputs, mapped))
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let script = Script::open_in(ctx, &self.script, &self.params)?;
        let rows = rows::read(&ctx.input("rows")?.path)?;
        let mut made = Vec::with_capacity(rows.len());
        for (number, chunk) in rows.chunks(4096).enumerate() {
            if ctx.cancelled() {
                bail!(Cancelled);
            }
            let first = number * 4096;
            ctx.progress(first as u64, rows.len() as u64, "");
            made.extend(script.map_rows(chunk, first)?.into_iter().flatten());
        }
        ctx.record(0, &[("read", rows.len() as f64), ("made", made.len() as f64)])?;
        if made.is_empty() {
            bail!("`{}` makes no row of {} rows", self.script.0.display(), rows.len());
        }
        rows::write(ctx.output(), made)?;
        Ok(())
    }
}

impl Map {
    fn plugin(&self) -> Plugin<'_> {
        Plugin { parameter: "script", source: &self.script, params: &self.params, used: Use::Map }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_become_what_the_plugin_gives_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let text = "fn map(row) { switch row.n % 3 { 0 => (), 1 => #{ m: row.n * params.by }, _ => [#{ m: row.n }, #{ m: row.n }] } }";
        std::fs::write(folder.path().join("map.rhai"), text).unwrap();
        let input = folder.path().join("input");
        std::fs::create_dir_all(&input).unwrap();
        rows::write(&input, (0..5000).map(|n| json!({ "n": n }).as_object().unwrap().clone())).unwrap();
        let ctx = Context::standalone(folder.path(), 17).unwrap().with_input("rows", "numbers", "rows", &input);
        let stage: Map = serde_json::from_value(json!({ "script": "map.rhai", "params": { "by": 10 } })).unwrap();
        stage.run(&NoSettings {}, &ctx).unwrap();
        let made: Vec<_> = rows::read(ctx.output()).unwrap().iter().map(|row| row["m"].as_i64().unwrap()).collect();
        assert_eq!(made[..6], [10, 2, 2, 40, 5, 5]);
        assert_eq!(made.len(), 1667 + 2 * 1666);
    }

    #[test]
    fn the_failing_row_is_shown_by_its_number_among_all_rows() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("map.rhai"), "fn map(row) {\n    #{ m: 1 / (row.n - 4500) }\n}\n").unwrap();
        let input = folder.path().join("input");
        std::fs::create_dir_all(&input).unwrap();
        rows::write(&input, (0..5000).map(|n| json!({ "n": n }).as_object().unwrap().clone())).unwrap();
        let ctx = Context::standalone(folder.path(), 17).unwrap().with_input("rows", "numbers", "rows", &input);
        let stage: Map = serde_json::from_value(json!({ "script": "map.rhai" })).unwrap();
        let expected = "\
division by zero: 1 / 0
 --> map.rhai:2:13
  |
2 |     #{ m: 1 / (row.n - 4500) }
  |             ^
  |
  = in: `map`
  = row: 4501 {\"n\":4500}";
        assert_eq!(stage.run(&NoSettings {}, &ctx).unwrap_err().to_string(), expected);
    }
}
