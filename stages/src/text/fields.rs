//! The fields of a row that have a meaning where text becomes tokens: `prompt`, `completion`, `messages`, `text`, `ids`.
//! Knows nothing of tokenizers.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    data::rows::{Row, kind},
    text::template::REASONING,
};

/// Are the fields that have a meaning of the kind that they must be?
///
/// # Errors
/// Names the first that is not.
pub fn check(row: &Row) -> Result<()> {
    for name in ["prompt", "completion", "text"] {
        text(row, name)?;
    }
    messages(row)?;
    ids(row)?;
    Ok(())
}

/// A field that is a text. `prompt` and `completion` may be messages instead, and are none then.
pub(super) fn text<'a>(row: &'a Row, name: &str) -> Result<Option<&'a str>> {
    match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(_)) if name != "text" => Ok(None),
        Some(other) => bail!("`{name}` is {}; it must be a text", kind(other)),
    }
}

pub(super) fn ids(row: &Row) -> Result<Option<Vec<u32>>> {
    let Some(value) = row.get("ids") else { return Ok(None) };
    let ids = serde_json::from_value(value.clone());
    ids.map(Some).with_context(|| format!("`ids` is {}; it must be a list of token ids", kind(value)))
}

/// The messages of a row.
pub(super) struct Messages {
    pub all: Vec<Value>,
    /// What stands before this message is given, and not learned.
    pub learned_from: usize,
}

/// The row's `messages`, or its `prompt` and `completion` where they are lists of messages.
pub(super) fn messages(row: &Row) -> Result<Option<Messages>> {
    let list = |name: &str| -> Result<Option<&[Value]>> {
        let Some(value) = row.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_array() {
            Some(list) => check_messages(name, list).map(|()| Some(list.as_slice())),
            None if name == "messages" => bail!("`messages` is {}; it must be a list of messages", kind(value)),
            None => Ok(None),
        }
    };
    if let Some(all) = list("messages")? {
        return Ok(Some(Messages { all: all.to_vec(), learned_from: 0 }));
    }
    let Some(asked) = list("prompt")? else { return Ok(None) };
    let answered = list("completion")?.unwrap_or_default();
    Ok(Some(Messages { all: [asked, answered].concat(), learned_from: asked.len() }))
}

fn check_messages(name: &str, messages: &[Value]) -> Result<()> {
    ensure!(!messages.is_empty(), "`{name}` is empty");
    for (index, message) in messages.iter().enumerate() {
        ensure!(message["role"].is_string(), "message {} of `{name}` has no text `role`", index + 1);
        let says_otherwise = ["tool_calls"].iter().chain(&REASONING).any(|field| !message[*field].is_null());
        let is_fine = match &message["content"] {
            Value::String(_) => true,
            Value::Array(parts) => parts.iter().all(Value::is_object),
            Value::Null => says_otherwise,
            _ => false,
        };
        ensure!(is_fine, "message {} of `{name}` has no text `content`", index + 1);
    }
    Ok(())
}

/// The names of a row's fields, for messages.
pub(crate) fn names(row: &Row) -> String {
    if row.is_empty() {
        return "no fields".to_owned();
    }
    row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
