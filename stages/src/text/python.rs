//! Values as Python prints them, which is what templates made for Jinja2 put into a text.
//! Knows nothing of templates.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, State,
    value::{Tuple, Value, ValueKind, from_args},
};

/// `str(value)`.
#[must_use]
pub fn str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => repr(value),
        _ => value.to_string(),
    }
}

/// A method of a text, list or map by its name in Python.
///
/// # Errors
/// When there is none, or it refuses its arguments.
pub fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let absent = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("{what} is not in it"));
    let three = |parts: [&str; 3]| Value::from(Tuple::from(parts.map(Value::from)));
    let Some(text) = value.as_str() else {
        if name == "index" && value.kind() == ValueKind::Seq {
            let (wanted,): (&Value,) = from_args(arguments)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            return at.map(Value::from).ok_or_else(|| absent(&wanted.to_string()));
        }
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments);
    };
    match name {
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(arguments)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(arguments)?;
            let is_first = name == "partition";
            let cut = if is_first { text.split_once(part) } else { text.rsplit_once(part) };
            Ok(match cut {
                Some((before, after)) => three([before, part, after]),
                None if is_first => three([text, "", ""]),
                None => three(["", "", text]),
            })
        }
        "index" => {
            let (part,): (&str,) = from_args(arguments)?;
            let at = text.find(part).ok_or_else(|| absent(part))?;
            Ok(Value::from(text[..at].chars().count()))
        }
        "rsplit" => {
            let (part, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            let mut parts: Vec<&str> = match (part, most) {
                (Some(part), Some(most)) => text.rsplitn(most + 1, part).collect(),
                (Some(part), None) => text.rsplit(part).collect(),
                (None, None) => text.split_whitespace().rev().collect(),
                (None, Some(_)) => {
                    let what = "rsplit at blanks takes no count here";
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            };
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::String => text(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => {
            let items: Vec<String> = items().map(|item| repr(&item)).collect();
            let comma = if items.len() == 1 { "," } else { "" };
            format!("({}{comma})", items.join(", "))
        }
        ValueKind::Seq => format!("[{}]", items().map(|item| repr(&item)).collect::<Vec<_>>().join(", ")),
        // Namespaces, loops and the like are maps that only print in their own way.
        ValueKind::Map if value.to_string().starts_with('{') => {
            let entry = |key: Value| {
                let of_key = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&of_key))
            };
            format!("{{{}}}", items().map(entry).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            _ if code <= 0xff => write!(out, "\\x{code:02x}").expect("a String takes all"),
            _ if code <= 0xffff => write!(out, "\\u{code:04x}").expect("a String takes all"),
            _ => write!(out, "\\U{code:08x}").expect("a String takes all"),
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable`: neither control, format, private use nor separator, but for the blank. What Unicode has not
/// assigned yet counts as printable here.
fn is_printable(c: char) -> bool {
    let is_separator = c.is_whitespace() && c != ' ';
    let is_format = matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}');
    let is_private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..);
    !(c.is_control() || is_separator || is_format || is_private)
}

/// The shortest digits that read back, in scientific notation from 1e16 and below 1e-4.
#[must_use]
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // repr(..) of CPython 3.11.
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
