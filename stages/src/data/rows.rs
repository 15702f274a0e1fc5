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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;

    fn complaint_of(text: &str) -> String {
        let bench = Bench::new();
        bench.file("r/rows.jsonl", text);
        bench.message(&read(&bench.path("r")).unwrap_err())
    }

    #[test]
    fn rows_survive_writing_with_their_order_and_numbers() {
        let bench = Bench::new();
        let text = "{\"z\":1,\"a\":0.1,\"b\":\"é\\n\",\"n\":[1.0,null]}\n{\"big\":18446744073709551615}\n";
        bench.file("in/rows.jsonl", format!("\u{feff}\n{}", text.replace('\n', "\r\n")));
        bench.file("out/.keep", "");
        assert_eq!(write(&bench.path("out"), read(&bench.path("in")).unwrap()).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(bench.path("out/rows.jsonl")).unwrap(), text);
    }

    #[test]
    fn invalid_json_is_shown_at_its_line_and_column() {
        assert_eq!(
            complaint_of("{\"a\": 1}\n\n{\"a\": 1 \"b\": 2}\n"),
            "r/rows.jsonl:3:9: invalid JSON: expected `,` or `}`\n   |\n 3 | {\"a\": 1 \"b\": 2}\n   |         ^"
        );
    }

    #[test]
    fn a_line_cut_short_is_shown_at_its_end() {
        assert_eq!(
            complaint_of("{\"a\": \"no end"),
            "r/rows.jsonl:1:13: invalid JSON: EOF while parsing a string\n   |\n 1 | {\"a\": \"no end\n   |             ^"
        );
    }

    #[test]
    fn a_row_that_is_no_object_is_refused() {
        assert_eq!(
            complaint_of("[1, 2]\n"),
            "r/rows.jsonl:1:1: a row is an object, but this is a list\n   |\n 1 | [1, 2]\n   | ^"
        );
    }

    #[test]
    fn a_long_line_is_shown_around_the_mistake() {
        let line = format!("{{\"a\": \"{}\" oops \"{}\"}}", "é".repeat(100), "b".repeat(200));
        let message = complaint_of(&line);
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "r/rows.jsonl:1:210: invalid JSON: expected `,` or `}`");
        assert_eq!(lines[2], format!(" 1 | …{}\" oops \"{}…", "é".repeat(58), "b".repeat(44)));
        assert_eq!(lines[3], format!("   | {}^", " ".repeat(61)));
    }
}
