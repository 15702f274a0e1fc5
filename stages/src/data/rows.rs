//! Rows: one JSON object a line.
//! Knows nothing of what the fields mean.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use engine::InputArtifact;
use serde_json::{Map, Value};

/// One row. It may carry `prompt`, `completion`, `messages`, `answer`, `text`, `ids` and anything else, which is kept.
pub type Row = Map<String, Value>;

const FILE: &str = "rows.jsonl";

/// Reads the rows of an artifact.
///
/// # Errors
/// Names the file and line of what is not a JSON object, and shows it.
pub fn read(folder: &Path) -> Result<Vec<Row>> {
    let path = folder.join(FILE);
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(parse(&path, &bytes)?.into_iter().map(|(_, row)| row).collect())
}

/// The rows of all artifacts of an input, one after another.
///
/// # Errors
/// As [`read`].
pub fn read_all(inputs: &[InputArtifact]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for input in inputs {
        rows.extend(read(&input.path)?);
    }
    Ok(rows)
}

/// Writes the rows of an artifact and says how many.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, rows: impl IntoIterator<Item = Row>) -> Result<usize> {
    let path = folder.join(FILE);
    let place = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(place)?);
    let mut count = 0;
    for row in rows {
        serde_json::to_writer(&mut file, &row).with_context(place)?;
        file.write_all(b"\n").with_context(place)?;
        count += 1;
    }
    file.flush().with_context(place)?;
    Ok(count)
}

/// The rows of a JSONL text with their line numbers. Empty lines and a byte order mark are passed over.
///
/// # Errors
/// As [`read`]; `path` is what messages call the text.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(usize, Row)>> {
    let mut rows = Vec::new();
    for (index, line) in without_mark(bytes).split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let number = index + 1;
        match serde_json::from_slice(line) {
            Ok(Value::Object(row)) => rows.push((number, row)),
            Ok(other) => {
                let what = format!("a row is an object, but this is {}", kind(&other));
                return Err(complaint(path, number, 1, &what, line));
            }
            Err(error) => {
                let what = format!("invalid JSON: {}", without_position(&error));
                return Err(complaint(path, number, error.column(), &what, line));
            }
        }
    }
    Ok(rows)
}

/// Text without the byte order mark that some editors put before it.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// What a JSON value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An error at a line and column (in bytes, from one), with the line shown and the column marked.
pub(crate) fn complaint(path: &Path, number: usize, column: usize, what: &str, line: &[u8]) -> anyhow::Error {
    let column = column.clamp(1, line.len().max(1));
    let text = String::from_utf8_lossy(line).replace(['\t', '\r'], " ");
    let before = String::from_utf8_lossy(&line[..column - 1]).chars().count();
    let (shown, caret) = window(&text, before);
    let gutter = number.to_string();
    let indent = " ".repeat(gutter.len());
    anyhow!(
        "{}:{number}:{column}: {what}\n {indent} |\n {gutter} | {shown}\n {indent} | {}^",
        path.display(),
        " ".repeat(caret)
    )
}

/// The part of a long line around a character, and the character's place in it.
fn window(line: &str, at: usize) -> (String, usize) {
    const BEFORE: usize = 60;
    const SHOWN: usize = 110;
    let start = at.saturating_sub(BEFORE);
    let cut = if start == 0 { "" } else { "…" };
    let mut shown: String = cut.chars().chain(line.chars().skip(start).take(SHOWN)).collect();
    if line.chars().nth(start + SHOWN).is_some() {
        shown.push('…');
    }
    (shown, at - start + cut.chars().count())
}

/// The message of a JSON error alone: its position is said by whoever knows the file.
pub(crate) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}
