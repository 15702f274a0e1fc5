//! Reads rows from files: renames fields, keeps the rows whose fields have given values.
//! Knows nothing of what is learned from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::Read,
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use engine::{Cancelled, Context, Input, Problem, Prospects, Stage};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

use crate::{
    data::{
        conversation,
        files::{Format, Limits, Placed, Table, excerpt},
        rows::{self, Row},
    },
    hub::{self, Kind, Place, Reference, Repository},
    inspection,
    text::fields,
};

/// Reads rows from JSONL, JSON, CSV, Parquet or text files, plain or compressed, of this machine or of the Hugging
/// Face Hub.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A file, or a list of files read one after another. `hf:datasets/org/name:train` is a split on the Hugging Face
    /// Hub, with `@revision` behind the name where it is not `main`; `:folder/train` and `:data/rows.parquet` are
    /// parts too, and none is needed where there is one only. A branch or a tag is looked up when the node is made,
    /// and the commit recorded; the result then stays. A commit of 40 digits as the revision names one state for good.
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
    /// Texts that are read as something else, by field: `{ answer: number, tags: json }`. What is not a text stays; an
    /// empty text becomes null. Names are those after renaming.
    #[serde(default)]
    pub types: BTreeMap<String, Type>,
    /// The field that holds a conversation as `ShareGPT` has it, often `conversations`: a list of `{ from, value }`.
    /// It becomes `messages` of `{ role, content }`; a text `system` beside it becomes the first of them. Rows
    /// that have `messages` already stay as they are. How many were converted is recorded.
    #[serde(default)]
    pub sharegpt: Option<String>,
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
pub struct Paths(pub Vec<Place>);

/// What a text is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Digits, with a sign or not.
    Integer,
    /// A decimal number.
    Number,
    /// `true` or `false`, in any case.
    Boolean,
    /// Whatever the JSON says.
    Json,
}

impl Stage for Load {
    const NAME: &'static str = "load";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "rows";
    type Settings = Limits;

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        inspection::outline(self.first_rows(inputs))
    }

    fn check(&self) -> Vec<Problem> {
        if self.path.0.is_empty() {
            return vec![Problem::new("path", "no file to load")];
        }
        let parameter = |index| if self.path.0.len() == 1 { "path".to_owned() } else { format!("path.{index}") };
        let places = self.path.0.iter().enumerate();
        places.filter_map(|(index, place)| place.check(&parameter(index), Kind::Dataset)).collect()
    }

    fn run(&self, limits: &Limits, ctx: &Context) -> Result<()> {
        let mut writer = rows::Writer::create(ctx.output())?;
        let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let (mut read, mut kept, mut converted) = (0_usize, 0_usize, 0_usize);
        let mut found = Vec::new();
        for (index, place) in self.path.0.iter().enumerate() {
            found.extend(located(index, place, ctx)?);
        }
        for (named, opened) in &found {
            let table = Table { named, opened, format: self.format, list: self.list.as_deref(), limits: *limits };
            table.each(&mut |Placed { place, row }| {
                if read.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                    ensure!(!ctx.cancelled(), Cancelled);
                }
                read += 1;
                let shown = |row: &Row| format!("{place}: in {}", shown(row));
                let mut row =
                    if self.fields.is_empty() { row } else { self.renamed(&row).with_context(|| shown(&row))? };
                self.read_texts(&mut row).with_context(|| shown(&row))?;
                if let Some(field) = &self.sharegpt {
                    converted += usize::from(conversation::convert(&mut row, field).with_context(|| shown(&row))?);
                }
                fields::check(&row).with_context(|| shown(&row))?;
                for field in self.keep.keys() {
                    let values = seen.entry(field).or_default();
                    if let Some(value) = row.get(field).filter(|_| values.len() < MOST_SHOWN) {
                        values.insert(excerpt(value));
                    }
                }
                if self.keeps(&row) && self.limit.is_none_or(|limit| kept < limit) {
                    writer.push(&row)?;
                    kept += 1;
                }
                Ok(())
            })?;
        }
        ensure!(read > 0, "no rows in {}", self.path);
        ensure!(kept > 0, "`where` keeps none of the {read} rows of {}{}", self.path, described(&seen));
        let counts = [("read", read as f64), ("kept", kept as f64), ("converted", converted as f64)];
        // Told only where it was asked for.
        ctx.record(0, &counts[..2 + usize::from(self.sharegpt.is_some())])?;
        writer.finish()?;
        Ok(())
    }
}

/// A row for a message, cut where it is long.
fn shown(row: &Row) -> String {
    excerpt(&Value::Object(row.clone()))
}

/// The files of a place: what messages call each, and where it lies. Those of the Hub are fetched.
fn located(index: usize, place: &Place, ctx: &Context) -> Result<Vec<(PathBuf, PathBuf)>> {
    let text = match place {
        Place::Here(source) => return Ok(vec![(source.0.clone(), ctx.source(source))]),
        Place::Hub(text) => text,
    };
    let reference = Reference::parse(text, Kind::Dataset)?;
    let repository = Repository::open(&reference, &hub::Settings::from_env())?;
    let names: Vec<String> = repository.names().map(str::to_owned).collect();
    let names = hub::part(&names, reference.part.as_deref()).with_context(|| repository.to_string())?;
    let opened = repository.fetch(&names, ctx)?;
    repository.record(index as u64, ctx)?;
    Ok(names.iter().map(|name| PathBuf::from(format!("{text}: {name}"))).zip(opened).collect())
}

/// So many rows are read between two looks at whether the run was cancelled.
const ROWS_BETWEEN_LOOKS: usize = 1024;
/// So many values of a field are listed in a message.
const MOST_SHOWN: usize = 12;

/// Bytes of a file that are read to learn which fields its rows have: some rows of most files.
const LOOKED_AT: u64 = 64 << 10;

impl Load {
    /// The first rows that are kept of files that are simple to look into: lines of JSON as they are.
    fn first_rows(&self, inputs: &Prospects) -> Vec<Row> {
        let mut rows = Vec::new();
        for place in &self.path.0 {
            let Place::Here(source) = place else { continue };
            let is_lines = match self.format {
                Format::Auto => source.0.extension().is_some_and(|extension| extension == "jsonl"),
                format => format == Format::Jsonl,
            };
            let path = inputs.source(source);
            if !is_lines || !path.is_file() {
                continue;
            }
            let mut text = Vec::new();
            let read = File::open(path).and_then(|file| file.take(LOOKED_AT).read_to_end(&mut text));
            if read.is_err() {
                continue;
            }
            // The last line may be cut off.
            let is_whole = |line: &&[u8]| line.ends_with(b"\n") || (text.len() as u64) < LOOKED_AT;
            let lines = text.split_inclusive(|byte| *byte == b'\n').filter(is_whole);
            let read = lines.filter_map(|line| self.read(serde_json::from_slice(rows::without_mark(line)).ok()?).ok());
            rows.extend(read.filter(|row| self.keeps(row)).take(inspection::ROWS));
        }
        rows
    }

    /// A row as it is kept.
    fn read(&self, row: Row) -> Result<Row> {
        let mut row = self.renamed(&row)?;
        self.read_texts(&mut row)?;
        if let Some(field) = &self.sharegpt {
            conversation::convert(&mut row, field)?;
        }
        Ok(row)
    }

    /// The row with its fields renamed, in their old places.
    fn renamed(&self, row: &Row) -> Result<Row> {
        for old in self.fields.values() {
            ensure!(row.contains_key(old), "no field `{old}`; the row has {}", fields::names(row));
        }
        let mut renamed = Row::new();
        for (name, value) in row {
            let new: Vec<&String> = self.fields.iter().filter(|(_, old)| *old == name).map(|(new, _)| new).collect();
            for name in if new.is_empty() { vec![name] } else { new } {
                let earlier = renamed.insert(name.clone(), value.clone());
                ensure!(earlier.is_none(), "two fields would be named `{name}`");
            }
        }
        Ok(renamed)
    }

    /// Reads the texts that `types` names.
    fn read_texts(&self, row: &mut Row) -> Result<()> {
        for (field, kind) in &self.types {
            let Some(value) = row.get_mut(field) else { bail!("no field `{field}` to read as {kind}") };
            let Value::String(text) = value else { continue };
            *value = kind.read(text).with_context(|| format!("`{field}` is no {kind}"))?;
        }
        Ok(())
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

impl Type {
    fn read(self, text: &str) -> Result<Value> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Value::Null);
        }
        Ok(match self {
            Self::Integer => text.parse::<i64>()?.into(),
            Self::Number => {
                let number: f64 = text.parse()?;
                serde_json::Number::from_f64(number).with_context(|| format!("{number} has no place in JSON"))?.into()
            }
            Self::Boolean => text.to_lowercase().parse::<bool>()?.into(),
            Self::Json => serde_json::from_str(text)?,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Json => "json",
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
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
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
                Ok(Paths(vec![Place::from(path.to_owned())]))
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
        let one = generator.subschema_for::<Place>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;
    use crate::bench::{Bench, column, fixture, json_of, shared};

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
    fn a_text_file_is_one_row_or_one_a_line() {
        let bench = Bench::new();
        bench.file("a.txt", "To be,\nor not\n");
        assert_eq!(
            json!(bench.made::<Load>(json!({ "path": "a.txt" }), &[]).unwrap()),
            json!([{ "text": "To be,\nor not\n" }])
        );
        assert_eq!(
            json!(bench.made::<Load>(json!({ "path": "a.txt", "format": "lines" }), &[]).unwrap()),
            json!([{ "text": "To be," }, { "text": "or not" }])
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
            "rows.data: nothing is known of the extension `data`\n  hint: say what it is with `format: jsonl`, `json`, `csv`, `semicolon`, `tsv`, `parquet`, `text` or `lines`"
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
    fn tables_hold_what_python_wrote_into_them() {
        // tests/reference/make_tables.py wrote each with pandas or pyarrow, and its rows as JSON.
        let bench = Bench::new();
        for name in ["quoted.csv", "tabs.tsv", "flat.parquet", "nested.parquet", "many.parquet"] {
            let path = fixture("tables").join(name);
            let expected: Value = json_of(&fixture("tables").join(format!("{name}.json")));
            assert_eq!(json!(bench.made::<Load>(json!({ "path": path }), &[]).unwrap()), expected, "{name}");
        }
        let rows = bench.made::<Load>(json!({ "path": fixture("tables/nested.parquet") }), &[]).unwrap();
        let names: Vec<&String> = rows[0].keys().collect();
        assert_eq!(names[..2], ["messages", "tags"], "columns keep their order");
    }

    #[test]
    fn texts_are_read_as_what_the_pipeline_says() {
        let bench = Bench::new();
        bench.file("a.csv", "n,x,ok,tags,zip\n7,1.5,True,\"[1, \"\"a\"\"]\",007\n,,,,\n");
        let types = json!({ "n": "integer", "x": "number", "ok": "boolean", "tags": "json" });
        let rows = bench.made::<Load>(json!({ "path": "a.csv", "types": types }), &[]).unwrap();
        assert_eq!(
            json!(rows),
            json!([{ "n": 7, "x": 1.5, "ok": true, "tags": [1, "a"], "zip": "007" },
                   { "n": null, "x": null, "ok": null, "tags": null, "zip": "" }])
        );
        bench.file("b.csv", "n\n7\nseven\n");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "b.csv", "types": { "n": "integer" } }), &[]),
            "b.csv:3: in {\"n\":\"seven\"}: `n` is no integer: invalid digit found in string"
        );
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "b.csv", "types": { "m": "integer" } }), &[]),
            "b.csv:2: in {\"n\":\"7\"}: no field `m` to read as integer"
        );
    }

    #[test]
    fn a_table_that_is_not_one_is_shown_at_its_line() {
        let bench = Bench::new();
        bench.file("a.csv", "prompt,answer\n\"1+1,\nor so\",2\n2+2,4,5\n");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.csv" }), &[]),
            "a.csv:4:1: 3 fields, where the header names 2\n   |\n 4 | 2+2,4,5\n   | ^"
        );
        bench.file("b.csv", "a,b,a\n1,2,3\n");
        assert_eq!(bench.complaint::<Load>(json!({ "path": "b.csv" }), &[]), "b.csv:1: two columns are named `a`");
        let whole = std::fs::read(fixture("tables/flat.parquet")).unwrap();
        bench.file("c.parquet", &whole[..whole.len() - 9]);
        let message = bench.complaint::<Load>(json!({ "path": "c.parquet" }), &[]);
        assert!(message.starts_with("c.parquet: Parquet error: "), "{message}");
    }

    #[test]
    fn marks_of_another_format_in_a_header_of_one_column_are_noticed() {
        let bench = Bench::new();
        bench.file("a.csv", "prompt;answer\n1+1;2\n");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "a.csv" }), &[]),
            "a.csv:1: its header is one column, `prompt;answer`, with semicolons in it\n  hint: where they stand between columns, say `format: semicolon`"
        );
        let rows = bench.made::<Load>(json!({ "path": "a.csv", "format": "semicolon" }), &[]).unwrap();
        assert_eq!(json!(rows), json!([{ "prompt": "1+1", "answer": "2" }]));
        bench.file("b.csv", "prompt\tanswer\n1+1\t2\n");
        assert!(bench.complaint::<Load>(json!({ "path": "b.csv" }), &[]).contains("say `format: tsv`"));
        bench.file("c.tsv", "prompt,answer\n1+1,2\n");
        assert!(bench.complaint::<Load>(json!({ "path": "c.tsv" }), &[]).contains("say `format: csv`"));
        bench.file("d.csv", "a;b,c\n1,2\n");
        assert_eq!(bench.made::<Load>(json!({ "path": "d.csv" }), &[]).unwrap().len(), 1);
    }

    fn limited(bench: &Bench, path: &str, limits: Limits) -> String {
        let error = bench.run_by::<Load>(&limits, json!({ "path": path }), &[]).map(drop);
        error.map_or_else(|error| bench.message(&error), |()| String::new())
    }

    #[test]
    fn a_row_of_the_limit_is_taken_and_one_byte_more_is_not() {
        let bench = Bench::new();
        let limits = Limits { max_row_mb: 0.001, ..Limits::default() };
        let expected = "a row of more than 0.001 MB, which is its `max_row_mb`\n  hint: where the file can be trusted, raise \
                        `max_row_mb` below the node's `run:`";
        let of = |name: &str, text: &dyn Fn(usize) -> String, place: &str| {
            bench.file(name, text(1000));
            assert_eq!(limited(&bench, name, limits), "", "{name}");
            bench.file(name, text(1001));
            assert_eq!(limited(&bench, name, limits), format!("{name}{place}: {expected}"));
        };
        let object = |size: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
        of("a.jsonl", &|size| format!("{{\"a\":1}}\r\n\n{}\n", object(size)), ":3");
        of("b.json", &|size| format!("[{{\"a\":1}}, {}]", object(size)), ": item 2");
        of("c.csv", &|size| format!("a,b\n1,2\n\"3\n4\",{}\n", "x".repeat(size - 3)), ":3");
        // A field that never ends is not held.
        bench.file("d.csv", format!("a,b\n1,\"{}", "x,\n".repeat(300_000)));
        assert_eq!(limited(&bench, "d.csv", limits), format!("d.csv:2: {expected}"));
        // One row by its format, and of one file.
        bench.file("e.txt", "x".repeat(2000));
        assert_eq!(limited(&bench, "e.txt", limits), "");
    }

    #[test]
    fn a_file_that_holds_more_than_it_may_is_not_read_to_its_end() {
        let bench = Bench::new();
        let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(90));
        let text = line.repeat(20_000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        bench.file("a.jsonl", &text);
        bench.file("b.jsonl.gz", gz.finish().unwrap());
        bench.file("c.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap());
        bench.file("d.json", format!("[{}]", text.trim().replace('\n', ",")));
        bench.file("e.txt.zst", zstd::encode_all(text.as_bytes(), 1).unwrap());
        let small = Limits { max_file_gb: 0.001, ..Limits::default() };
        for name in ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.json", "e.txt.zst"] {
            assert_eq!(limited(&bench, name, Limits::default()), "", "{name}");
            let message = limited(&bench, name, small);
            let expected = format!("reading {name}: it holds more than 0.001 GB, which is its `max_file_gb`");
            assert!(message.starts_with(&expected) && message.contains("raise `max_file_gb`"), "{message}");
        }
        // 65 MB of one letter in some kilobytes: as one row, as lines that are blank, and as a text.
        for (name, letter) in [("f.txt.zst", b'x'), ("g.jsonl.zst", b'\n'), ("h.txt.gz", b'x')] {
            let bytes = vec![letter; 65_000_000];
            let packed = if name.ends_with("gz") {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                gz.write_all(&bytes).unwrap();
                gz.finish().unwrap()
            } else {
                zstd::encode_all(&bytes[..], 1).unwrap()
            };
            bench.file(name, &packed);
            let message = limited(&bench, name, Limits::default());
            let expected = format!("reading {name}: its {} bytes hold ", packed.len());
            assert!(message.starts_with(&expected) && message.contains("over 200 times as many"), "{message}");
            assert!(message.contains("raise `max_ratio` below the node's `run:`"), "{message}");
        }
        let bytes = vec![b'x'; 17_000_000];
        bench.file("i.jsonl.zst", zstd::encode_all(&bytes[..], 1).unwrap());
        assert!(
            limited(&bench, "i.jsonl.zst", Limits::default()).starts_with("i.jsonl.zst:1: a row of more than 16 MB")
        );
    }

    #[test]
    fn documents_are_taken_apart_at_their_items() {
        let bench = Bench::new();
        bench.file(
            "a.json",
            " { \"x\" : 1, \"r\\u0065\": [ {\"a\":\"],}\\\"\"} , {\"a\":[[1],{\"b\":\"[\"}]} ],\n \"y\":{} } ",
        );
        let rows = bench.made::<Load>(json!({ "path": "a.json", "list": "re" }), &[]).unwrap();
        assert_eq!(json!(rows), json!([{ "a": "],}\"" }, { "a": [[1], { "b": "[" }] }]));
        // Of two of one name the last stands.
        bench.file("b.json", "{\"a\": [{\"n\": 1}], \"a\": [{\"n\": 2}]}");
        assert_eq!(json!(bench.made::<Load>(json!({ "path": "b.json" }), &[]).unwrap()), json!([{ "n": 2 }]));
        bench.file("c.json", "[{\"a\": 1},\n {\"a\": 1e999}]");
        assert_eq!(
            bench.complaint::<Load>(json!({ "path": "c.json" }), &[]),
            "c.json:2:12: invalid JSON: number out of range\n   |\n 2 |  {\"a\": 1e999}]\n   |            ^"
        );
        bench.file("d.json", "7");
        let message = bench.complaint::<Load>(json!({ "path": "d.json" }), &[]);
        assert_eq!(message, "d.json: it holds a number where a list of rows was expected");
        bench.file("e.json", "[".repeat(2_000_000));
        assert!(bench.complaint::<Load>(json!({ "path": "e.json" }), &[]).starts_with("e.json:1:"));
        bench.file("f.json", format!("[{{\"a\": {}{}}}]", "[".repeat(5000), "]".repeat(5000)));
        let message = bench.complaint::<Load>(json!({ "path": "f.json" }), &[]);
        assert!(message.contains("recursion limit exceeded"), "{message}");
    }

    #[test]
    fn sharegpt_becomes_messages_where_it_is_asked_for() {
        let bench = Bench::new();
        bench.file(
            "a.json",
            r#"[{"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
                {"messages": [{"role": "user", "content": "hi"}]}]"#,
        );
        let rows = bench.made::<Load>(json!({ "path": "a.json", "sharegpt": "conversations" }), &[]).unwrap();
        assert_eq!(
            json!(rows),
            json!([{ "messages": [{ "role": "user", "content": "1+1?" }, { "role": "assistant", "content": "2" }] },
                   { "messages": [{ "role": "user", "content": "hi" }] }])
        );
        let told = std::fs::read_to_string(bench.path("records/metrics.jsonl")).unwrap();
        assert_eq!(told, "{\"step\":0,\"read\":2.0,\"kept\":2.0,\"converted\":1.0}\n");
        let rows = bench.made::<Load>(json!({ "path": "a.json" }), &[]).unwrap();
        assert!(rows[0].contains_key("conversations"), "nothing is guessed");
        bench.file("b.json", r#"[{"conversations": [{"from": "narrator", "value": ""}]}]"#);
        let message = bench.complaint::<Load>(json!({ "path": "b.json", "sharegpt": "conversations" }), &[]);
        assert!(message.starts_with("b.json: item 1: in {\"conversations\":[{\"from\":\"narrator\""), "{message}");
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
