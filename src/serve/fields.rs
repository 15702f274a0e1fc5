//! The parameters of a request, taken out one by one: what is left at the end was not understood.
//! Knows nothing of what they mean.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::fault::{Fault, cut};

/// What a request's body holds. `null` counts as not given, as in OpenAI's clients.
#[derive(Debug)]
pub struct Fields(pub Map<String, Value>);

impl Fields {
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub fn required(&mut self, name: &str) -> Result<Value, Fault> {
        self.take(name).ok_or_else(|| Fault::parameter(name, format!("`{name}` is missing")))
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a text")),
        }
    }

    pub fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong(name, &other, "`true` or `false`")),
        }
    }

    pub fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|number| range.contains(number));
        let wanted = || format!("a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| wrong(name, &value, &wanted()))
    }

    pub fn whole(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|n| range.contains(n));
        let wanted = || match *range.end() {
            usize::MAX => format!("a whole number, {} or more", range.start()),
            most => format!("a whole number from {} to {most}", range.start()),
        };
        number.map(Some).ok_or_else(|| wrong(name, &value, &wanted()))
    }

    /// A parameter that may be given so long as it asks for nothing.
    pub fn only(&mut self, name: &str, asks_nothing: impl Fn(&Value) -> bool) -> Result<(), Fault> {
        match self.take(name) {
            Some(value) if !asks_nothing(&value) => {
                let message = format!("`{name}` is not supported here, and {} would not be heeded", shown(&value));
                Err(Fault::parameter(name, message).with_code("unsupported_parameter"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what nobody took.
    pub fn done(self, known: &[&str]) -> Result<(), Fault> {
        let Some(name) = self.0.keys().next() else { return Ok(()) };
        let name = cut(name);
        let hint = engine::hint(name, known.iter().copied(), "").filter(|hint| hint.starts_with("did you mean"));
        let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
        let message = format!("`{name}` is no parameter that this server knows{hint}");
        Err(Fault::parameter(name, message).with_code("unknown_parameter"))
    }
}

/// `` `stop` must be a text; it is 7 ``.
pub fn wrong(name: &str, value: &Value, wanted: &str) -> Fault {
    Fault::parameter(name, format!("`{name}` must be {wanted}; it is {}", shown(value)))
}

/// A value where it is short, else what kind of value.
pub fn shown(value: &Value) -> String {
    let is_long = match value {
        Value::String(text) => text.len() > 40,
        Value::Array(items) => items.len() > 20,
        Value::Object(fields) => fields.len() > 20,
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    };
    let text = if is_long { String::new() } else { value.to_string() };
    if (1..=40).contains(&text.len()) { text } else { kind(value).to_owned() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
