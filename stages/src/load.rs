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
    /// Which list of a JSON object holds the rows; absent: its only one.
    #[serde(default)]
    pub list: Option<String>,
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
        let mut read = 0_usize;
        for source in &self.path.0 {
            for Placed { place, row } in files::read(&source.0, &ctx.source(source), self.format, self.list.as_deref())?
            {
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
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

fn described(seen: &BTreeMap<&str, BTreeSet<String>>) -> String {
    let line = |(field, values): (&&str, &BTreeSet<String>)| match values.len() {
        0 => format!("\n  `{field}` is in no row"),
        _ => format!("\n  `{field}` is among {}", values.iter().cloned().collect::<Vec<_>>().join(", ")),
    };
    seen.iter().map(line).collect()
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;
    use crate::bench::{Bench, column, shared};

    const ROWS: &str = "{\"q\":\"1+1\",\"n\":2,\"t\":\"sum\"}\n{\"q\":\"gcd 4 6\",\"n\":2.0,\"t\":\"gcd\"}\n{\"q\":\"3+4\",\"n\":7,\"t\":\"sum\"}\n";

    #[test]
    fn compressed_and_plain_files_hold_the_same_rows() {
        let bench = Bench::new();
        bench.file("a.jsonl", ROWS);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(ROWS.as_bytes()).unwrap();
        bench.file("b.jsonl.gz", gz.finish().unwrap());
        bench.file("c.jsonl.zst", zstd::encode_all(ROWS.as_bytes(), 1).unwrap());
        let list = format!("[{}]", ROWS.trim().replace('\n', ","));
        bench.file("d.json", &list);
        bench.file("e.json", format!("{{\"about\": \"x\", \"rows\": {list}}}"));
        let first = bench.made::<Load>(json!({ "path": "a.jsonl" }), &[]).unwrap();
        assert_eq!(first.len(), 3);
        for name in ["b.jsonl.gz", "c.jsonl.zst", "d.json", "e.json"] {
            assert_eq!(bench.made::<Load>(json!({ "path": name }), &[]).unwrap(), first, "{name}");
        }
        let twice = bench.made::<Load>(json!({ "path": ["a.jsonl", "d.json"] }), &[]).unwrap();
        assert_eq!(twice.len(), 6);
    }

    #[test]
    fn fields_are_renamed_and_rows_kept_by_value() {
        let bench = Bench::new();
        bench.file("a.jsonl", ROWS);
        let with = json!({ "path": "a.jsonl", "fields": { "prompt": "q" }, "where": { "t": ["sum", "x"], "n": 2 } });
        let rows = bench.made::<Load>(with, &[]).unwrap();
        assert_eq!(json!(rows), json!([{ "prompt": "1+1", "n": 2, "t": "sum" }]));
        let with = json!({ "path": "a.jsonl", "where": { "n": 2 }, "limit": 5 });
        assert_eq!(bench.made::<Load>(with, &[]).unwrap().len(), 2, "2.0 is 2");
    }

    #[test]
    fn a_text_file_is_one_row() {
        let bench = Bench::new();
        bench.file("a.txt", "To be,\nor not\n");
        assert_eq!(
            json!(bench.made::<Load>(json!({ "path": "a.txt" }), &[]).unwrap()),
            json!([{ "text": "To be,\nor not\n" }])
        );
    }

    #[test]
    fn an_invalid_line_is_shown_with_its_file_as_the_pipeline_names_it() {
        let bench = Bench::new();
        bench.file("data/a.jsonl", "{\"q\": 1}\n{\"q\": }\n");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "data/a.jsonl" }), &[]),
            "data/a.jsonl:2:7: invalid JSON: expected value\n   |\n 2 | {\"q\": }\n   |       ^"
        );
    }

    #[test]
    fn a_row_of_the_wrong_shape_is_shown_with_its_place() {
        let bench = Bench::new();
        bench.file("a.jsonl", "{\"prompt\": \"x\"}\n{\"prompt\": 7, \"n\": 1}\n");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.jsonl" }), &[]),
            "a.jsonl:2: in {\"prompt\":7,\"n\":1}: `prompt` is a number; it must be a text"
        );
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.jsonl", "fields": { "prompt": "question" } }), &[]),
            "a.jsonl:1: in {\"prompt\":\"x\"}: no field `question`; the row has `prompt`"
        );
        bench.file("b.json", "[{\"a\": 1}, 5]");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "b.json" }), &[]),
            "b.json: item 2: a row is an object, but this is a number: 5"
        );
    }

    #[test]
    fn a_filter_that_keeps_nothing_says_what_there_was() {
        let bench = Bench::new();
        bench.file("a.jsonl", ROWS);
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.jsonl", "where": { "t": "sums", "u": 1 } }), &[]),
            "`where` keeps none of the 3 rows of a.jsonl\n  `t` is among \"gcd\", \"sum\"\n  `u` is in no row"
        );
        bench.file("b.jsonl", "\n");
        assert_eq!(bench.complaint::<Load>(json!({ "path": "b.jsonl" }), &[]), "no rows in b.jsonl");
    }

    #[test]
    fn an_unknown_extension_asks_for_the_format() {
        let bench = Bench::new();
        bench.file("rows.data", ROWS);
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "rows.data" }), &[]),
            "rows.data: nothing is known of the extension `data`\n  hint: say what it is with `format: jsonl`, `json` or `text`"
        );
        assert_eq!(bench.made::<Load>(json!({ "path": "rows.data", "format": "jsonl" }), &[]).unwrap().len(), 3);
    }

    #[test]
    fn an_object_of_several_lists_asks_which_one() {
        let bench = Bench::new();
        bench.file("a.json", "{\"about\": 1, \"easy\": [{\"n\": 1}], \"hard\": [{\"n\": 2}, {\"n\": 3}]}");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.json" }), &[]),
            "a.json: its object holds several lists (`easy`, `hard`); which are the rows is not clear\n  hint: name it with `list`"
        );
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.json", "list": "about" }), &[]),
            "a.json: its object holds no list `about`; it holds `easy`, `hard`"
        );
        let rows = bench.made::<Load>(json!({ "path": "a.json", "list": "hard" }), &[]).unwrap();
        assert_eq!(json!(rows), json!([{ "n": 2 }, { "n": 3 }]));
    }

    #[test]
    fn real_files_load() {
        let Some(folder) = shared("") else { return };
        let bench = Bench::new();
        let load = |with: Value| {
            let mut with = with;
            with["path"] = json!(folder.join(with["path"].as_str().unwrap()));
            bench.made::<Load>(with, &[]).unwrap()
        };
        // Numbers of rows: shared/data/README.md.
        assert_eq!(load(json!({ "path": "gsm8k/train.jsonl.gz", "fields": { "prompt": "question" } })).len(), 7473);
        let svamp = load(json!({ "path": "svamp/SVAMP.json.gz" }));
        assert_eq!((svamp.len(), &svamp[0]["Answer"]), (1000, &json!(51.0)));
        let tasks = json!({ "task": ["chain_sum", "gcd", "leg_counting"] });
        assert_eq!(load(json!({ "path": "reasoning_gym/train.jsonl.gz", "where": tasks })).len(), 360);
        assert_eq!(load(json!({ "path": "general-instruct/self_instruct.jsonl" })).len(), 427);
        let shakespeare = load(json!({ "path": "tinyshakespeare/input.txt.gz" }));
        let text = column(&shakespeare, "text")[0].as_str().unwrap().chars().count();
        assert_eq!((shakespeare.len(), text), (1, 1_115_394));
    }
}
