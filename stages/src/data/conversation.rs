//! Conversations as `ShareGPT` writes them, turned into the messages that chat templates take.
//! Knows nothing of templates or files.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::data::rows::{Row, kind};

/// Replaces the list of `{ from, value }` in `field` by `messages` of `{ role, content }`, in the same place. What
/// else a turn carries is kept. A text `system` of the row becomes the first message. False where the row has
/// `messages` already, and stays as it is.
///
/// # Errors
/// Names what is not of that shape, and a speaker that is not known.
pub fn convert(row: &mut Row, field: &str) -> Result<bool> {
    if row.get("messages").is_some_and(|messages| !messages.is_null()) {
        return Ok(false);
    }
    let turns = row.get(field).with_context(|| format!("no `{field}` and no `messages`"))?;
    let Value::Array(turns) = turns else {
        bail!("`{field}` is {}; it must be a list of `{{ from, value }}`", kind(turns));
    };
    let mut messages = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        messages.push(message(turn).with_context(|| format!("turn {} of `{field}`", index + 1))?);
    }
    ensure!(!messages.is_empty(), "`{field}` is empty");
    match row.get("system") {
        Some(Value::String(system)) if !system.is_empty() => {
            ensure!(
                messages[0]["role"] != "system",
                "`{field}` begins with a system turn, and the row has a text `system` beside it: which one is meant is not clear"
            );
            messages.insert(0, Value::Object(said("system", system)));
            row.shift_remove("system");
        }
        _ => (),
    }
    *row =
        std::mem::take(row)
            .into_iter()
            .filter(|(name, _)| name != "messages")
            .map(|(name, value)| {
                if name == field {
                    ("messages".to_owned(), std::mem::take(&mut messages).into())
                } else {
                    (name, value)
                }
            })
            .collect();
    Ok(true)
}

fn message(turn: &Value) -> Result<Value> {
    let Value::Object(turn) = turn else { bail!("it is {}; it must be `{{ from, value }}`", kind(turn)) };
    let text = |key: &str| match turn.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => bail!("`{key}` is {}; it must be a text", kind(other)),
        None => bail!("no `{key}`"),
    };
    let role = role(text("from")?)?;
    let mut message = said(role, text("value")?);
    let others = turn.iter().filter(|(key, _)| *key != "from" && *key != "value");
    for (key, value) in others {
        ensure!(!message.contains_key(key), "it has `{key}` beside `from` and `value`");
        message.insert(key.clone(), value.clone());
    }
    Ok(Value::Object(message))
}

fn said(role: &str, content: &str) -> Map<String, Value> {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

/// The names that collections of this shape use.
fn role(from: &str) -> Result<&'static str> {
    Ok(match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bard" | "bing" | "model" => "assistant",
        "system" => "system",
        "tool" | "observation" => "tool",
        other => bail!(
            "`from` is `{other}`, of which nothing is known; known are `human`, `user`, `gpt`, `assistant`, `chatgpt`, `bard`, `bing`, `model`, `system`, `tool` and `observation`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn converted(row: Value) -> Result<Value> {
        let Value::Object(mut row) = row else { panic!("a row is an object") };
        convert(&mut row, "conversations")?;
        Ok(row.into())
    }

    fn complaint(row: Value) -> String {
        format!("{:#}", converted(row).unwrap_err())
    }

    #[test]
    fn speakers_become_roles_in_the_place_of_the_list() {
        let row = json!({ "id": "a", "conversations": [
            { "from": "system", "value": "Be brief." }, { "from": "human", "value": "1+1?" },
            { "from": "gpt", "value": "2", "weight": 0 } ], "n": 1 });
        let expected = json!({ "id": "a", "messages": [
            { "role": "system", "content": "Be brief." }, { "role": "user", "content": "1+1?" },
            { "role": "assistant", "content": "2", "weight": 0 } ], "n": 1 });
        assert_eq!(converted(row).unwrap().to_string(), expected.to_string());
    }

    #[test]
    fn a_system_text_beside_the_list_is_said_first() {
        let row = json!({ "conversations": [{ "from": "human", "value": "hi" }], "system": "Be brief." });
        let expected =
            json!({ "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "hi" }] });
        assert_eq!(converted(row).unwrap(), expected);
        assert_eq!(
            complaint(json!({ "conversations": [{ "from": "system", "value": "a" }], "system": "b" })),
            "`conversations` begins with a system turn, and the row has a text `system` beside it: which one is meant is not clear"
        );
    }

    #[test]
    fn rows_with_messages_stay() {
        let row = json!({ "messages": [{ "role": "user", "content": "hi" }], "conversations": 3 });
        assert_eq!(converted(row.clone()).unwrap(), row);
    }

    #[test]
    fn what_is_not_of_the_shape_is_named() {
        assert_eq!(
            complaint(
                json!({ "conversations": [{ "from": "human", "value": "hi" }, { "from": "narrator", "value": "" }] })
            ),
            "turn 2 of `conversations`: `from` is `narrator`, of which nothing is known; known are `human`, `user`, `gpt`, `assistant`, `chatgpt`, `bard`, `bing`, `model`, `system`, `tool` and `observation`"
        );
        assert_eq!(
            complaint(json!({ "conversations": [{ "role": "user", "content": "hi" }] })),
            "turn 1 of `conversations`: no `from`"
        );
        assert_eq!(
            complaint(json!({ "conversations": [{ "from": "human", "value": null }] })),
            "turn 1 of `conversations`: `value` is null; it must be a text"
        );
        assert_eq!(complaint(json!({ "prompt": "hi" })), "no `conversations` and no `messages`");
        assert_eq!(complaint(json!({ "conversations": [] })), "`conversations` is empty");
        assert_eq!(
            complaint(json!({ "conversations": "hi" })),
            "`conversations` is a text; it must be a list of `{ from, value }`"
        );
    }
}
