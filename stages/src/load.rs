//! Reads rows from files: renames fields, keeps the rows whose fields have given values.
//! Knows nothing of what is learned from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result, ensure};
use engine::{Context, Input, NoSettings, Problem, Source, Stage};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

use crate::{
    data::{
        files::{self, Format, Placed, excerpt},
        rows::{self, Row},
    },
    text::encode,
};

/// Reads rows from JSONL, JSON or text files, plain or compressed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A file, or a list of files read one after another.
    pub path: Paths,
    /// How the files hold their rows.
    #[serde(default)]
    pub format: Format,
    /// Fields to rename, the new name first: `{ prompt: question }`.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Rows to keep: each field has the value, or one of the list. Names are those after renaming.
    #[serde(default, rename = "where")]
    pub keep: BTreeMap<String, Value>,
    /// The most rows to keep, the first ones; absent: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
}

/// One file or several.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Paths(pub Vec<Source>);

impl Stage for Load {
    const NAME: &'static str = "load";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "rows";
    type Settings = NoSettings;

    fn check(&self) -> Vec<Problem> {
        if self.path.0.is_empty() {
            vec![Problem { parameter: "path".into(), message: "no file to load".into(), hint: None }]
        } else {
            Vec::new()
        }
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let mut kept: Vec<Row> = Vec::new();
        let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut read = 0;
        for source in &self.path.0 {
            for Placed { place, row } in files::read(&source.0, &ctx.source(source), self.format)? {
                read += 1;
                let shown = |row: &Row| format!("{place}: in {}", excerpt(&Value::Object(row.clone())));
                let row = self.renamed(row.clone()).with_context(|| shown(&row))?;
                encode::check(&row).with_context(|| shown(&row))?;
                for field in self.keep.keys() {
                    let values = seen.entry(field).or_default();
                    if let Some(value) = row.get(field).filter(|_| values.len() < MOST_SHOWN) {
                        values.insert(value.to_string());
                    }
                }
                if self.keeps(&row) && self.limit.is_none_or(|limit| kept.len() < limit) {
                    kept.push(row);
                }
            }
        }
        ensure!(read > 0, "no rows in {}", self.path);
        ensure!(!kept.is_empty(), "`where` keeps none of the {read} rows of {}{}", self.path, described(&seen));
        ctx.record(0, &[("read", read as f64), ("kept", kept.len() as f64)])?;
        rows::write(ctx.output(), kept)?;
        Ok(())
    }
}

/// So many values of a field are listed in a message.
const MOST_SHOWN: usize = 12;

impl Load {
    /// The row with its fields renamed, in their old places.
    fn renamed(&self, row: Row) -> Result<Row> {
        for old in self.fields.values() {
            ensure!(row.contains_key(old), "no field `{old}`; the row has {}", encode::fields(&row));
        }
        let mut renamed = Row::new();
        for (name, value) in row {
            let new: Vec<&String> = self.fields.iter().filter(|(_, old)| **old == name).map(|(new, _)| new).collect();
            for name in if new.is_empty() { vec![&name] } else { new } {
                let earlier = renamed.insert(name.clone(), value.clone());
                ensure!(earlier.is_none(), "two fields would be named `{name}`");
            }
        }
        Ok(renamed)
    }

    fn keeps(&self, row: &Row) -> bool {
        self.keep.iter().all(|(field, wanted)| {
            let Some(value) = row.get(field) else { return false };
            match wanted {
                Value::Array(any) => any.iter().any(|one| same(one, value)),
                one => same(one, value),
            }
        })
    }
}

/// Equality of values in which 51 is 51.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn described(seen: &BTreeMap<&str, BTreeSet<String>>) -> String {
    let mut text = String::new();
    for (field, values) in seen {
        let listed = values.iter().cloned().collect::<Vec<_>>().join(", ");
        let listed = if values.is_empty() { "is in no row".to_owned() } else { format!("is among {listed}") };
        text.push_str(&format!("\n  `{field}` {listed}"));
    }
    text
}

impl fmt::Display for Paths {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|source| source.0.display().to_string()).collect();
        formatter.write_str(&names.join(", "))
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Paths;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a path or a list of paths")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Paths, E> {
                Ok(Paths(vec![Source(path.into())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, paths: A) -> Result<Paths, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(paths)).map(Paths)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Paths {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Paths".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Source>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}
