//! Rows out of files that people have: JSONL, JSON, CSV, Parquet and plain text, compressed or not.
//! Knows nothing of what the fields mean.

mod delimited;
mod parquet;

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data::rows::{self, Row, complaint, kind};

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's extension: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt`, all but Parquet with `.gz`
    /// or `.zst` behind it or not.
    #[default]
    Auto,
    /// One object a line.
    Jsonl,
    /// A list of objects, or one object that holds one list of them.
    Json,
    /// A line of names, then one row a line, with commas between; a field in `"` may hold commas, line breaks and
    /// `""` for one `"`. Every value is a text.
    Csv,
    /// As `csv`, with tabs between.
    Tsv,
    /// Apache Parquet, as pandas, Polars and `datasets` write it: lists and structs become JSON, times and decimals
    /// text, binary columns Base64, and a number that is not finite null.
    Parquet,
    /// One row, whose `text` is the file.
    Text,
    /// A row for each line that is not empty, whose `text` is the line.
    Lines,
}

/// A row and where it was found, such as `data/train.jsonl:17`.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    pub place: String,
    pub row: Row,
}

/// Reads a file. `named` is what messages call it, `opened` where it lies; `from` is the list of a JSON object
/// that holds the rows, where it holds several.
///
/// # Errors
/// Names the place of what cannot be read.
pub fn read(named: &Path, opened: &Path, format: Format, from: Option<&str>) -> Result<Vec<Placed>> {
    let format = resolved(named, format)?;
    if format == Format::Parquet {
        return parquet::read(named, opened);
    }
    let bytes = bytes(opened).with_context(|| format!("reading {}", named.display()))?;
    let bytes = rows::without_mark(&bytes);
    match format {
        Format::Json => from_json(named, bytes, from),
        Format::Csv => delimited::read(named, bytes, b','),
        Format::Tsv => delimited::read(named, bytes, b'\t'),
        Format::Text => from_text(named, bytes),
        Format::Lines => from_lines(named, bytes),
        Format::Jsonl | Format::Auto | Format::Parquet => {
            let place = |line: usize| format!("{}:{line}", named.display());
            Ok(rows::parse(named, bytes)?.into_iter().map(|(line, row)| Placed { place: place(line), row }).collect())
        }
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    match extension(path) {
        "gz" => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes)?,
        "zst" => zstd::Decoder::new(file)?.read_to_end(&mut bytes)?,
        _ => file.read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

/// Does the name say that the file holds rows that [`read`] understands?
pub(crate) fn is_table(path: &Path) -> bool {
    resolved(path, Format::Auto).is_ok_and(|format| format != Format::Text)
}

fn resolved(path: &Path, format: Format) -> Result<Format> {
    if format != Format::Auto {
        return Ok(format);
    }
    let bare = if matches!(extension(path), "gz" | "zst") { path.with_extension("") } else { PathBuf::from(path) };
    match extension(&bare) {
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "json" => Ok(Format::Json),
        "csv" => Ok(Format::Csv),
        "tsv" => Ok(Format::Tsv),
        "parquet" => Ok(Format::Parquet),
        "txt" => Ok(Format::Text),
        other => bail!(
            "{}: nothing is known of the extension `{other}`\n  hint: say what it is with `format: jsonl`, `json`, `csv`, `tsv`, `parquet`, `text` or `lines`",
            path.display()
        ),
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
}

fn from_json(path: &Path, bytes: &[u8], from: Option<&str>) -> Result<Vec<Placed>> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let line = bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        let what = format!("invalid JSON: {}", rows::without_position(&error));
        complaint(path, error.line(), error.column(), &what, line)
    })?;
    let place = |index: usize| format!("{}: item {}", path.display(), index + 1);
    let object = |(index, item)| match item {
        Value::Object(row) => Ok(Placed { place: place(index), row }),
        other => bail!("{}: a row is an object, but this is {}: {}", place(index), kind(&other), excerpt(&other)),
    };
    list(path, value, from)?.into_iter().enumerate().map(object).collect()
}

fn list(path: &Path, value: Value, from: Option<&str>) -> Result<Vec<Value>> {
    let map = match value {
        Value::Array(list) => return Ok(list),
        Value::Object(map) => map,
        other => bail!("{}: it holds {} where a list of rows was expected", path.display(), kind(&other)),
    };
    let mut lists: Vec<(String, Vec<Value>)> = map
        .into_iter()
        .filter_map(|(name, value)| if let Value::Array(list) = value { Some((name, list)) } else { None })
        .collect();
    let names = lists.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (from, lists.len()) {
        (_, 0) => bail!("{}: its object holds no list of rows", path.display()),
        (None, 1) => Ok(lists.remove(0).1),
        (None, _) => bail!(
            "{}: its object holds several lists ({names}); which are the rows is not clear\n  hint: name it with `list`",
            path.display()
        ),
        (Some(from), _) => match lists.into_iter().find(|(name, _)| name == from) {
            Some((_, list)) => Ok(list),
            None => bail!("{}: its object holds no list `{from}`; it holds {names}", path.display()),
        },
    }
}

fn from_text(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        anyhow::anyhow!("{}:{line}: not UTF-8 text", path.display())
    })?;
    let row = Map::from_iter([("text".to_owned(), Value::from(text))]);
    Ok(vec![Placed { place: path.display().to_string(), row }])
}

fn from_lines(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>> {
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let place = format!("{}:{}", path.display(), index + 1);
        let Ok(text) = std::str::from_utf8(line) else { bail!("{place}: not UTF-8 text") };
        let text = text.strip_suffix('\r').unwrap_or(text);
        if !text.trim().is_empty() {
            rows.push(Placed { place, row: Map::from_iter([("text".to_owned(), text.into())]) });
        }
    }
    Ok(rows)
}

/// A value as JSON, cut after so many characters that it still fits a message.
pub(crate) fn excerpt(value: &Value) -> String {
    const SHOWN: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
