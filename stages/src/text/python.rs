//! Values as Python prints them, which is what templates made for Jinja2 put into a text.
//! Knows nothing of templates.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, State,
    value::{Tuple, Value, ValueKind, from_args},
};

/// Bytes of a list or a map at most, when it becomes a text: a list that holds another twice, and so on forty times, is
/// small in memory and endless on paper.
const LARGEST_PRINTED: u64 = 16 << 20;
/// Bytes that `join` puts together at most: as many as a conversation may have.
const LONGEST_JOINED: usize = 64 << 20;
/// Lists in lists at most, when they become a text.
const DEEPEST: usize = 200;
/// Bytes that one unit of a template's fuel pays for, as the engine counts them.
const BYTES_OF_FUEL: u64 = 64;
/// Bytes of a value in a list, with room for the list to grow.
const SLOT: u64 = 48;

/// `str(value)`.
///
/// # Errors
/// When it would be too long.
pub fn str(value: &Value) -> Result<String, Error> {
    measure(value)?;
    Ok(match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => repr(value),
        _ => value.to_string(),
    })
}

/// What a value's text takes at least.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spacing {
    /// Between two items.
    pub of_item: u64,
    /// Before an item, for each level that it lies in.
    pub of_level: u64,
}

/// Refuses a value that would become too long a text, before any of it is made. Texts alone have their length already.
///
/// # Errors
/// Says so.
pub fn measure(value: &Value) -> Result<(), Error> {
    measure_by(value, Spacing::default())
}

/// As [`measure`], of a text with blanks and separators.
///
/// # Errors
/// As [`measure`].
pub fn measure_by(value: &Value, spacing: Spacing) -> Result<(), Error> {
    if value.kind() == ValueKind::String {
        return Ok(());
    }
    measure_within(value, spacing, 0, &mut LARGEST_PRINTED.clone())
}

fn measure_within(value: &Value, spacing: Spacing, depth: usize, left: &mut u64) -> Result<(), Error> {
    let refuse = |what: String| Error::new(ErrorKind::OutOfFuel, what);
    if depth > DEEPEST {
        return Err(refuse(format!("a value of more than {DEEPEST} lists in each other becomes no text")));
    }
    let text = value.as_str().map_or(4, |text| text.len() as u64 + 4);
    let own = text.saturating_add(spacing.of_item).saturating_add(spacing.of_level.saturating_mul(depth as u64));
    *left = left
        .checked_sub(own)
        .ok_or_else(|| refuse(format!("a value of more than {LARGEST_PRINTED} bytes becomes no text")))?;
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                let of_key = value.get_item(&key).unwrap_or_default();
                measure_within(&key, spacing, depth + 1, left)?;
                measure_within(&of_key, spacing, depth + 1, left)?;
            }
        }
        // What has no length is not printed item by item.
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            for item in value.try_iter()? {
                measure_within(&item, spacing, depth + 1, left)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Pays for bytes before they are made.
fn pay(state: &State, bytes: u64) -> Result<(), Error> {
    state.consume_fuel(bytes / BYTES_OF_FUEL)
}

/// Pays for the parts of a text before they are made.
///
/// # Errors
/// When the template has no fuel left for them.
pub fn pay_for_parts(state: &State, text: &str, separator: Option<&str>) -> Result<(), Error> {
    let parts = match separator {
        Some(separator) => text.matches(separator).count() + 1,
        None => text.split_whitespace().count(),
    };
    pay(state, parts as u64 * SLOT)
}

/// Pays for what `str.format` makes: every value as often as the text could ask for it, and every width and precision.
fn pay_for_format(state: &State, text: &str, arguments: &[Value]) -> Result<(), Error> {
    let mut widths = 0_u64;
    for digits in text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        widths = widths.saturating_add(digits.parse().unwrap_or(u64::MAX));
    }
    let fields = text.matches('{').count() as u64;
    let mut longest = 0;
    for argument in arguments {
        measure(argument)?;
        longest = longest.max(argument.as_str().map_or_else(|| argument.to_string().len(), str::len) as u64);
    }
    // A digit may become two characters, as with a comma between thousands.
    pay(state, widths.saturating_add(fields.saturating_mul(longest.saturating_add(64))).saturating_mul(2))
}

/// `separator.join(values)`, each paid for before it is added.
fn join(state: &State, separator: &str, values: &Value) -> Result<Value, Error> {
    let mut joined = String::new();
    for (at, value) in values.try_iter()?.checked().enumerate() {
        let value = value?;
        if at > 0 {
            pay(state, separator.len() as u64 + BYTES_OF_FUEL)?;
            joined.push_str(separator);
        }
        measure(&value)?;
        if joined.len() > LONGEST_JOINED {
            return Err(Error::new(ErrorKind::OutOfFuel, format!("a text of more than {LONGEST_JOINED} bytes")));
        }
        match value.as_str() {
            Some(text) => {
                pay(state, text.len() as u64)?;
                joined.push_str(text);
            }
            None => write!(joined, "{value}").expect("a String takes all"),
        }
    }
    Ok(Value::from(joined))
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
        // The library pays for these when they are made.
        "format" => pay_for_format(state, text, arguments)?,
        "upper" | "lower" | "title" | "capitalize" => pay(state, 3 * text.len() as u64)?,
        "split" => {
            pay_for_parts(state, text, arguments.first().and_then(Value::as_str))?;
        }
        "splitlines" => pay_for_parts(state, text, Some("\n"))?,
        _ => {}
    }
    match name {
        "join" => {
            let (values,): (&Value,) = from_args(arguments)?;
            join(state, text, values)
        }
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
            pay_for_parts(state, text, part)?;
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
