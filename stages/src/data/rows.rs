//! Rows: one JSON object a line.
//! Knows nothing of what the fields mean.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use engine::InputArtifact;
use serde_json::{Map, Value};

use super::regular;

/// One row. It may carry `prompt`, `completion`, `messages`, `answer`, `text`, `ids` and anything else, which is kept.
pub type Row = Map<String, Value>;

const FILE: &str = "rows.jsonl";
/// Bytes of a row of an artifact at most. What `load` takes into one is set by its own limits, which are far smaller.
const LONGEST_LINE: u64 = 1 << 30;

/// Reads the rows of an artifact. Empty lines and a byte order mark are passed over.
///
/// # Errors
/// Names the file and line of what is not a JSON object, and shows it.
pub fn read(folder: &Path) -> Result<Vec<Row>> {
    let path = folder.join(FILE);
    let reading = || format!("reading {}", path.display());
    let mut reader = BufReader::with_capacity(1 << 16, regular::open(&path).with_context(reading)?);
    let (mut rows, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        if reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line).with_context(reading)? == 0 {
            break;
        }
        let is_whole = line.len() as u64 <= LONGEST_LINE;
        ensure!(is_whole, "{}:{number}: a row of more than {LONGEST_LINE} bytes", path.display());
        let text = if number == 1 { without_mark(&line) } else { &line };
        rows.extend(parse_line(&path, number, text.strip_suffix(b"\n").unwrap_or(text))?);
    }
    Ok(rows)
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
    let mut writer = Writer::create(folder)?;
    for row in rows {
        writer.push(&row)?;
    }
    writer.finish()
}

/// The rows of an artifact as they are made, one after another.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    count: usize,
}

impl Writer {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file), count: 0 })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, row: &Row) -> Result<()> {
        let place = || format!("writing {}", self.path.display());
        serde_json::to_writer(&mut self.file, row).with_context(place)?;
        self.file.write_all(b"\n").with_context(place)?;
        self.count += 1;
        Ok(())
    }

    /// How many rows were written, all of them by now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<usize> {
        self.file.flush().with_context(|| format!("writing {}", self.path.display()))?;
        Ok(self.count)
    }
}

/// The row of a line; none where it is blank.
///
/// # Errors
/// As [`read`]; `path` and `number` are what messages call the line.
pub(crate) fn parse_line(path: &Path, number: usize, line: &[u8]) -> Result<Option<Row>> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(line) {
        Ok(Value::Object(row)) => Ok(Some(row)),
        Ok(other) => {
            let what = format!("a row is an object, but this is {}", kind(&other));
            Err(complaint(path, number, 1, &what, line))
        }
        Err(error) => {
            let what = format!("invalid JSON: {}", without_position(&error));
            Err(complaint(path, number, error.column(), &what, line))
        }
    }
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
