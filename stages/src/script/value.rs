//! Rows as plugins see them, and back.
//! Knows nothing of what the values mean.

use rhai::Dynamic;
use serde_json::Value;

use super::{Row, error};

/// A value deeper than this is no row that anyone wrote.
const DEEPEST: usize = 64;
/// Bytes of the rows that one call gives: far above what a text and an array may hold.
const MOST_BYTES: usize = 64 << 20;

pub(super) fn from_row(row: &Row) -> Dynamic {
    let fields = row.iter().map(|(name, value)| (name.as_str().into(), from_json(value)));
    Dynamic::from_map(fields.collect())
}

fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(truth) => (*truth).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Dynamic::from_array(items.iter().map(from_json).collect()),
        Value::Object(row) => from_row(row),
    }
}

/// The row, or the rows of an array of them.
///
/// # Errors
/// A sentence on the field that no row can hold.
pub(super) fn to_rows(value: &Dynamic) -> Result<Vec<Row>, String> {
    let mut json = ToJson { bytes_left: MOST_BYTES };
    match value.as_array_ref() {
        Ok(rows) => rows.iter().map(|row| json.row(row)).collect(),
        Err(_) => Ok(vec![json.row(value)?]),
    }
}

/// # Errors
/// A sentence on the field that no row can hold.
pub(super) fn to_row(value: &Dynamic) -> Result<Row, String> {
    ToJson { bytes_left: MOST_BYTES }.row(value)
}

/// Makes JSON of a value, which may name one long text many times over: what it takes is counted.
struct ToJson {
    bytes_left: usize,
}

impl ToJson {
    fn row(&mut self, value: &Dynamic) -> Result<Row, String> {
        match self.value(value, "the row", 0)? {
            Value::Object(row) => Ok(row),
            _ => Err(format!("a row is a map, not {}", described(value))),
        }
    }

    fn value(&mut self, value: &Dynamic, place: &str, depth: usize) -> Result<Value, String> {
        if depth > DEEPEST {
            return Err(format!("`{place}` is nested more than {DEEPEST} deep"));
        }
        if let Ok(map) = value.as_map_ref() {
            let mut row = Row::new();
            for (name, value) in map.iter() {
                self.take(name.len())?;
                row.insert(name.to_string(), self.value(value, name, depth + 1)?);
            }
            return Ok(Value::Object(row));
        }
        self.take(size_of::<Value>())?;
        if let Ok(items) = value.as_array_ref() {
            let items = items.iter().map(|item| self.value(item, place, depth + 1));
            return items.collect::<Result<_, _>>().map(Value::Array);
        }
        if let Ok(text) = value.as_immutable_string_ref() {
            self.take(text.len())?;
            return Ok(Value::String(text.to_string()));
        }
        if let Ok(number) = value.as_float() {
            let number = serde_json::Number::from_f64(number);
            return number.map(Value::Number).ok_or_else(|| format!("`{place}` is {value}, which a row can't hold"));
        }
        if let Ok(number) = value.as_int() {
            return Ok(number.into());
        }
        if let Ok(truth) = value.as_bool() {
            return Ok(truth.into());
        }
        if let Ok(letter) = value.as_char() {
            return Ok(Value::String(letter.into()));
        }
        if value.is_unit() {
            return Ok(Value::Null);
        }
        Err(format!("`{place}` is {}, which a row can't hold", described(value)))
    }

    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left =
            left.ok_or_else(|| format!("what it gave is larger than {} MiB as rows", MOST_BYTES >> 20))?;
        Ok(())
    }
}

/// A value for a message: what it is, and what it says.
pub(super) fn described(value: &Dynamic) -> String {
    if value.is_unit() {
        return "nothing".into();
    }
    match value.type_name() {
        "i64" | "f64" | "bool" => value.to_string(),
        "string" | "char" => format!("the text `{}`", error::shorten(&value.to_string())),
        "map" => "a map".into(),
        "array" => "an array".into(),
        "Fn" => "a function".into(),
        other => format!("a value of type {other}"),
    }
}
