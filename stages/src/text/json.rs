//! JSON as Python's `json.dumps` writes it, which is what chat templates and the models behind them have seen.
//! Knows nothing of templates.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use crate::text::python;

/// The options of `json.dumps` that chat templates give, with its defaults but for `ensure_ascii`, which
/// transformers turns off.
#[derive(Debug, Clone, Default)]
pub struct Style {
    /// Blanks a level; none writes all on one line.
    pub indent: Option<usize>,
    /// Between items, and between a key and its value.
    pub separators: Option<(String, String)>,
    pub sorts_keys: bool,
    pub is_ascii: bool,
}

impl Style {
    /// A value as text.
    #[must_use]
    pub fn dumps(&self, value: &Value) -> String {
        let mut out = String::new();
        self.write(&mut out, value, 0);
        out
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Number(number) => out.push_str(&self::number(number)),
            Value::String(text) => self.text(out, text),
            Value::Array(items) => {
                self.enclosed(out, depth, ['[', ']'], items.len(), |out, i| self.write(out, &items[i], depth + 1));
            }
            Value::Object(map) => {
                let entries = self.entries(map);
                self.enclosed(out, depth, ['{', '}'], entries.len(), |out, i| {
                    let (key, value) = entries[i];
                    self.text(out, key);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, of_key)| of_key));
                    self.write(out, value, depth + 1);
                });
            }
        }
    }

    fn entries<'a>(&self, map: &'a Map<String, Value>) -> Vec<(&'a String, &'a Value)> {
        let mut entries: Vec<_> = map.iter().collect();
        if self.sorts_keys {
            entries.sort_by_key(|(key, _)| *key);
        }
        entries
    }

    fn enclosed(
        &self,
        out: &mut String,
        depth: usize,
        [open, close]: [char; 2],
        count: usize,
        item: impl Fn(&mut String, usize),
    ) {
        out.push(open);
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        let between = match &self.separators {
            Some((of_items, _)) => of_items,
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        for i in 0..count {
            if i > 0 {
                out.push_str(between);
            }
            line(out, depth + 1);
            item(out, i);
        }
        if count > 0 {
            line(out, depth);
        }
        out.push(close);
    }

    fn text(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.is_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("a String takes all");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => python::float(value),
        _ => number.to_string(),
    }
}
