//! Rows out of files that people have: JSONL, JSON, CSV, Parquet and plain text, compressed or not.
//! Knows nothing of what the fields mean.

mod delimited;
mod json;
mod limits;
mod parquet;

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data::{
    regular,
    rows::{self, Row},
};
pub use limits::Limits;
use limits::Metered;

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
    /// As `csv`, with semicolons between, as spreadsheets write it where the comma stands in numbers.
    Semicolon,
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

/// A file of rows.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// What messages call it.
    pub named: &'a Path,
    /// Where it lies.
    pub opened: &'a Path,
    pub format: Format,
    /// The list of a JSON object that holds the rows, where it holds several.
    pub list: Option<&'a str>,
    pub limits: Limits,
}

impl Table<'_> {
    /// Hands out the rows, one after another: of most formats no more than one is held at a time.
    ///
    /// # Errors
    /// Names the place of what cannot be read, or the limit that the file is over; and whatever `take` says.
    pub fn each(&self, take: &mut dyn FnMut(Placed) -> Result<()>) -> Result<()> {
        match resolved(self.named, self.format)? {
            Format::Parquet => parquet::each(self, take),
            Format::Json => json::each(self, &self.whole()?, take),
            Format::Csv => delimited::each(self, b',', take),
            Format::Tsv => delimited::each(self, b'\t', take),
            Format::Semicolon => delimited::each(self, b';', take),
            Format::Text => take(self.text()?),
            Format::Lines => self.each_line(&mut |number, line| {
                let place = format!("{}:{number}", self.named.display());
                let Ok(text) = std::str::from_utf8(line) else { bail!("{place}: not UTF-8 text") };
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.trim().is_empty() {
                    return Ok(());
                }
                take(Placed { place, row: Map::from_iter([("text".to_owned(), text.into())]) })
            }),
            Format::Jsonl | Format::Auto => self.each_line(&mut |number, line| {
                let Some(row) = rows::parse_line(self.named, number, line)? else { return Ok(()) };
                take(Placed { place: format!("{}:{number}", self.named.display()), row })
            }),
        }
    }

    /// The file's bytes as they come, decompressed, without a byte order mark, and an error where they are too many.
    fn reader(&self) -> Result<impl Read + use<>> {
        // No frame makes the decoder hold more than this many bytes, as a power of two: as the `zstd` program has it.
        const WINDOW_LOG: u32 = 27;
        let open = || -> io::Result<_> {
            let file = regular::open(self.opened)?;
            let size = file.metadata()?.len();
            let (inner, packed): (Box<dyn Read>, _) = match extension(self.opened) {
                "gz" => (Box::new(flate2::read::MultiGzDecoder::new(file)), Some(size)),
                "zst" => {
                    let mut decoder = zstd::Decoder::new(file)?;
                    decoder.window_log_max(WINDOW_LOG)?;
                    (Box::new(decoder), Some(size))
                }
                _ => (Box::new(file), None),
            };
            let mut reader = Metered::new(inner, packed, self.limits);
            let mut first = Vec::new();
            reader.by_ref().take(MARK.len() as u64).read_to_end(&mut first)?;
            if first == MARK {
                first.clear();
            }
            Ok(io::Cursor::new(first).chain(reader))
        };
        open().with_context(|| self.reading())
    }

    fn reading(&self) -> String {
        format!("reading {}", self.named.display())
    }

    fn whole(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader()?.read_to_end(&mut bytes).with_context(|| self.reading())?;
        Ok(bytes)
    }

    fn text(&self) -> Result<Placed> {
        let text = String::from_utf8(self.whole()?).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.split(|byte| *byte == b'\n').count();
            anyhow::anyhow!("{}:{line}: not UTF-8 text", self.named.display())
        })?;
        let row = Map::from_iter([("text".to_owned(), Value::from(text))]);
        Ok(Placed { place: self.named.display().to_string(), row })
    }

    /// Every line with its number, from one.
    fn each_line(&self, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, self.reader()?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            // A row, the end of its line, and one more byte to know it by.
            let most = self.limits.row_bytes() + 2;
            let count = reader.by_ref().take(most).read_until(b'\n', &mut line).with_context(|| self.reading())?;
            if count == 0 {
                break;
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let place = || format!("{}:{number}", self.named.display());
            self.limits.check_row(line.len() as u64).with_context(place)?;
            take(number, line)?;
        }
        Ok(())
    }

    /// A line by its number, to be shown.
    fn line(&self, wanted: usize) -> Vec<u8> {
        let mut found = Vec::new();
        // What stops the search is no error of its own: the one that the line is shown for is told.
        let _ = self.each_line(&mut |number, line| {
            ensure!(number <= wanted, "found before");
            if number == wanted {
                found = line.to_vec();
            }
            Ok(())
        });
        found
    }
}

/// The byte order mark that some editors put before a text.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Does the name say that the file holds rows that [`Table::each`] understands?
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
            "{}: nothing is known of the extension `{other}`\n  hint: say what it is with `format: jsonl`, `json`, `csv`, `semicolon`, `tsv`, `parquet`, `text` or `lines`",
            path.display()
        ),
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
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
