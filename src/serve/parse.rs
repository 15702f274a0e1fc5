//! The JSON of a request, read with limits: what its parsed form holds is bounded whatever the text is.
//! Knows nothing of what the parameters mean.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Formatter},
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::fault::Fault;

/// Values in a request besides the tokens of its prompts: a conversation of ten thousand messages has fewer. One value
/// takes up to 600 bytes of memory, for as few as four bytes of text.
const MOST_VALUES: usize = 1 << 16;
/// Prompts of a request.
const MOST_PROMPTS: usize = 1024;

/// A prompt as it was given.
#[derive(Debug)]
pub enum Given {
    Text(String),
    Tokens(Vec<u32>),
}

/// Of which parameter a list of tokens is read as such, and how many tokens one prompt may have.
#[derive(Debug, Clone, Copy)]
pub struct Prompts {
    pub name: &'static str,
    pub most_tokens: usize,
}

/// The parameters of a request, and apart from them its prompts; `null` is as if none were given.
pub type Parsed = (Map<String, Value>, Option<Vec<Given>>);

/// Reads a body; without `prompts`, all of it as values.
pub fn parse(body: &[u8], prompts: Option<Prompts>) -> Result<Parsed, Fault> {
    let bad = |message: String| Fault::new(axum::http::StatusCode::BAD_REQUEST, message);
    let first = body.trim_ascii_start().first();
    if let Some(kind) = first.and_then(|first| kind(*first)) {
        return Err(bad(format!("the body is {kind}; it must be an object")));
    }
    let left = Limits { values: Cell::new(MOST_VALUES), fault: RefCell::default(), prompts };
    let mut text = serde_json::Deserializer::from_slice(body);
    let read = Parameters(&left).deserialize(&mut text).and_then(|read| text.end().map(|()| read));
    read.map_err(|error| left.fault.take().unwrap_or_else(|| bad(format!("the body is no valid JSON: {error}"))))
}

/// Of a JSON text that begins so; none of an object's, or of what is no JSON.
fn kind(first: u8) -> Option<&'static str> {
    match first {
        b'[' => Some("a list"),
        b'"' => Some("a text"),
        b't' | b'f' => Some("a truth value"),
        b'n' => Some("null"),
        b'-' | b'0'..=b'9' => Some("a number"),
        _ => None,
    }
}

/// What may still come, and what was wrong, since errors of serde are sentences only.
struct Limits {
    values: Cell<usize>,
    fault: RefCell<Option<Fault>>,
    prompts: Option<Prompts>,
}

impl Limits {
    fn count<E: Error>(&self) -> Result<(), E> {
        let Some(left) = self.values.get().checked_sub(1) else {
            let message = format!("the body holds more than {MOST_VALUES} values");
            return Err(self.refuse(Fault::new(axum::http::StatusCode::BAD_REQUEST, message)));
        };
        self.values.set(left);
        Ok(())
    }

    fn refuse<E: Error>(&self, fault: Fault) -> E {
        *self.fault.borrow_mut() = Some(fault);
        E::custom("refused")
    }
}

struct Parameters<'a>(&'a Limits);

impl<'de> DeserializeSeed<'de> for Parameters<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Parameters<'_> {
    type Value = Parsed;

    fn expecting(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut rest, mut given) = (Map::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            match self.0.prompts {
                Some(prompts) if prompts.name == name => {
                    given = map.next_value_seed(Listed(self.0, prompts)).map_err(|error: A::Error| {
                        if self.0.fault.borrow().is_none() {
                            let message =
                                format!("`{name}` must be a text, a list of tokens, or a list of either: {error}");
                            return self.0.refuse(Fault::parameter(name, message));
                        }
                        error
                    })?;
                }
                _ => drop(rest.insert(name, map.next_value_seed(Counted(self.0))?)),
            }
        }
        Ok((rest, given))
    }
}

/// The prompts of a request.
struct Listed<'a>(&'a Limits, Prompts);

impl Listed<'_> {
    fn push<E: Error>(&self, ids: &mut Vec<u32>, id: u32) -> Result<(), E> {
        let Prompts { name, most_tokens } = self.1;
        if ids.len() == most_tokens {
            let message = format!("`{name}` has more than {most_tokens} tokens, the model's context");
            return Err(self.0.refuse(Fault::parameter(name, message).with_code("context_length_exceeded")));
        }
        ids.push(id);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Listed<'_> {
    type Value = Option<Vec<Given>>;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Listed<'_> {
    type Value = Option<Vec<Given>>;

    fn expecting(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str("a text or a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(vec![Given::Text(text.to_owned())]))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(vec![Given::Text(text)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut all, mut ids) = (Vec::new(), Vec::new());
        while let Some(item) = seq.next_element_seed(Element(&self))? {
            match item {
                Item::Id(id) if all.is_empty() => self.push(&mut ids, id)?,
                Item::Prompt(prompt) if ids.is_empty() => {
                    if all.len() == MOST_PROMPTS {
                        let message = format!("`{}` has more than {MOST_PROMPTS} prompts", self.1.name);
                        return Err(self.0.refuse(Fault::parameter(self.1.name, message)));
                    }
                    all.push(prompt);
                }
                Item::Id(_) | Item::Prompt(_) => return Err(Error::custom("it has tokens beside prompts")),
            }
        }
        Ok(Some(if ids.is_empty() { all } else { vec![Given::Tokens(ids)] }))
    }
}

/// An element of a list of prompts, or of a list of tokens.
struct Element<'a>(&'a Listed<'a>);

enum Item {
    Id(u32),
    Prompt(Given),
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Item, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = Item;

    fn expecting(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str("a text, a token's id, or a list of ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        u32::try_from(id).map(Item::Id).map_err(|_| E::custom(format!("{id} is no token's id")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Prompt(Given::Text(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Item, E> {
        Ok(Item::Prompt(Given::Text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = seq.next_element()? {
            self.0.push(&mut ids, id)?;
        }
        Ok(Item::Prompt(Given::Tokens(ids)))
    }
}

/// A value of which every part counts.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Limits);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Value, D::Error> {
        self.0.count()?;
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            fields.insert(name, map.next_value_seed(self)?);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PROMPTS: Prompts = Prompts { name: "prompt", most_tokens: 4 };

    fn read(body: &str) -> Result<(Value, String), Fault> {
        parse(body.as_bytes(), Some(PROMPTS)).map(|(rest, given)| (rest.into(), format!("{given:?}")))
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let body =
            r#"{"a": [1, -2, 1.5, true, null, "é\n", {"b": {"c": []}}], "a2": 18446744073709551615, "e": 1e400}"#;
        assert!(read(body).is_err(), "no number");
        let body = body.replace("1e400", "1e300");
        assert_eq!(read(&body).unwrap().0, serde_json::from_str::<Value>(&body).unwrap());
        for body in ["", "{", "{}x", "{\"a\":1,}", "{\"a\" 1}", "[", "[1]", "7", "\"", "{\"a\":\"\u{1}\"}"] {
            assert_eq!(read(body).unwrap_err().status, 400, "{body}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(read(&deep).unwrap_err().message.starts_with("the body is no valid JSON: recursion limit exceeded"));
        assert_eq!(read(" [{}]").unwrap_err().message, "the body is a list; it must be an object");
    }

    #[test]
    fn prompts_are_texts_or_tokens() {
        let prompts = |prompt: &str| read(&format!("{{\"n\": 1, \"prompt\": {prompt}}}"));
        for (prompt, expected) in [
            ("null", "None"),
            ("\"a\"", "Some([Text(\"a\")])"),
            ("[]", "Some([])"),
            ("[1, 2]", "Some([Tokens([1, 2])])"),
            ("[\"a\", [1], []]", "Some([Text(\"a\"), Tokens([1]), Tokens([])])"),
        ] {
            assert_eq!(prompts(prompt).unwrap(), (json!({ "n": 1 }), expected.into()));
        }
        for prompt in ["1", "{}", "[1, \"a\"]", "[\"a\", 1]", "[-1]", "[1.5]", "[4294967296]", "[[\"a\"]]", "[null]"] {
            let fault = prompts(prompt).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some("prompt"), "{prompt}: {fault:?}");
        }
        assert_eq!(prompts("[1, 2, 3, 4, 5]").unwrap_err().code, Some("context_length_exceeded"));
    }

    #[test]
    fn what_would_take_much_memory_is_refused_before_it_does() {
        let list = format!("{{\"user\": [{}1]}}", "1,".repeat(MOST_VALUES));
        assert_eq!(read(&list).unwrap_err().message, "the body holds more than 65536 values");
        let many = format!("{{\"prompt\": [{}[1]]}}", "[1],".repeat(MOST_PROMPTS));
        assert_eq!(read(&many).unwrap_err().message, "`prompt` has more than 1024 prompts");
    }
}
