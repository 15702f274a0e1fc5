//! Rows out of one JSON document: a list of objects, or an object that holds one. Of the document only its text is held,
//! and of the rows one at a time.
//! Knows nothing of what the fields mean.

use std::{collections::HashMap, ops::Range};

use anyhow::{Context as _, Result, bail};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Placed, Table, excerpt};
use crate::data::rows::{complaint, kind, without_position};

/// Hands out the rows of a document.
///
/// # Errors
/// At the line of what is no JSON; of an item that is no object or too long; when which list is meant is not clear.
pub(super) fn each(table: &Table, bytes: &[u8], take: &mut dyn FnMut(Placed) -> Result<()>) -> Result<()> {
    // Without holding any of it: what is below relies on a document that is well formed.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| invalid(table, bytes, 0, &error))?;
    let list = list(table, bytes)?;
    for (index, item) in items(bytes, list).enumerate() {
        let place = format!("{}: item {}", table.named.display(), index + 1);
        table.limits.check_row(item.len() as u64).with_context(|| place.clone())?;
        let value =
            serde_json::from_slice(&bytes[item.clone()]).map_err(|error| invalid(table, bytes, item.start, &error))?;
        match value {
            Value::Object(row) => take(Placed { place, row })?,
            other => bail!("{place}: a row is an object, but this is {}: {}", kind(&other), excerpt(&other)),
        }
    }
    Ok(())
}

/// An error of the part of a document that begins at `start`.
fn invalid(table: &Table, bytes: &[u8], start: usize, error: &serde_json::Error) -> anyhow::Error {
    let before = &bytes[..start];
    let lines = before.split(|byte| *byte == b'\n').count() - 1;
    let indent = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    let number = lines + error.line();
    let column = error.column() + if error.line() == 1 { indent } else { 0 };
    let line = bytes.split(|byte| *byte == b'\n').nth(number.saturating_sub(1)).unwrap_or_default();
    complaint(table.named, number, column, &format!("invalid JSON: {}", without_position(error)), line)
}

/// Where the list of rows lies.
fn list(table: &Table, bytes: &[u8]) -> Result<Range<usize>> {
    let named = table.named.display();
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or_default();
    let whole = start..bytes.len();
    let what = match bytes[start] {
        b'[' => return Ok(whole),
        b'{' => None,
        b'"' => Some("a text"),
        b'n' => Some("null"),
        b't' | b'f' => Some("true or false"),
        _ => Some("a number"),
    };
    if let Some(what) = what {
        bail!("{named}: it holds {what} where a list of rows was expected");
    }
    // By name: where it first stood among the others, and where its value lies.
    let mut found: HashMap<String, (usize, Range<usize>)> = HashMap::new();
    for (order, entry) in items(bytes, whole).enumerate() {
        let key = entry.start..end_of_text(bytes, entry.start);
        let name: String =
            serde_json::from_slice(&bytes[key.clone()]).map_err(|error| invalid(table, bytes, key.start, &error))?;
        let rest = &bytes[key.end..entry.end];
        let skipped = rest.iter().position(|byte| *byte != b':' && !byte.is_ascii_whitespace()).unwrap_or_default();
        // Of several of one name the last stands, as everywhere.
        found.entry(name).or_insert((order, 0..0)).1 = key.end + skipped..entry.end;
    }
    let lists = found.into_iter().filter(|(_, (_, value))| bytes[value.start] == b'[');
    let mut entries: Vec<(usize, String, Range<usize>)> =
        lists.map(|(name, (order, value))| (order, name, value)).collect();
    entries.sort_unstable_by_key(|(order, ..)| *order);
    let names = || entries.iter().map(|(_, name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (table.list, &entries[..]) {
        (_, []) => bail!("{named}: its object holds no list of rows"),
        (None, [(.., only)]) => Ok(only.clone()),
        (None, _) => bail!(
            "{named}: its object holds several lists ({}); which are the rows is not clear\n  hint: name it with `list`",
            names()
        ),
        (Some(wanted), _) => match entries.iter().find(|(_, name, _)| name == wanted) {
            Some((.., list)) => Ok(list.clone()),
            None => bail!("{named}: its object holds no list `{wanted}`; it holds {}", names()),
        },
    }
}

/// Where the items of a list lie, or the entries of an object, in a document that is well formed.
fn items(bytes: &[u8], of: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = of.start + 1;
    std::iter::from_fn(move || {
        while bytes[at] == b',' || bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        if matches!(bytes[at], b']' | b'}') {
            return None;
        }
        let (start, mut depth) = (at, 0_usize);
        loop {
            match bytes[at] {
                b'"' => {
                    at = end_of_text(bytes, at);
                    continue;
                }
                b'[' | b'{' => depth += 1,
                b',' | b']' | b'}' if depth == 0 => return Some(start..at),
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
    })
}

/// Behind the quote that ends the text which begins at `start`.
fn end_of_text(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
