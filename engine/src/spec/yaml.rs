//! YAML text to a tree of values with spans: the only file that knows the parser.
//! Knows nothing of pipelines.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;
use serde_saphyr::{
    Error, Location, MessageFormatter, Options, Spanned, UserMessageFormatter, alias_limits, budget, options,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use crate::{
    code,
    diagnostic::{Diagnostic, Label, Span, Text},
    spec::tree::{Key, Shape, Tree, USED_HERE},
};

/// Reads `text` from byte `start` on. Repeated keys are mistakes that do not stop the reading.
pub(crate) fn read(text: &Arc<Text>, start: usize, mistakes: &mut Vec<Diagnostic>) -> Result<Tree, Box<Diagnostic>> {
    let body = &text.body()[start..];
    let reader = Reader { text, start };
    let parsed = on_a_deep_stack(|| serde_saphyr::from_str_with_options::<Spanned<Raw>>(body, options(body.len())));
    match parsed {
        Ok(raw) => Ok(reader.tree(raw, mistakes)),
        Err(error) => Err(Box::new(reader.syntax(&error))),
    }
}

/// The parser falls by some kilobytes a level, and whoever reads a file may be a thread with a small stack.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        thread.expect("a thread can be started").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const MAX_DEPTH: usize = 64;
const STACK: usize = MAX_DEPTH * 512 * 1024;

/// `no`, `0777` and `1_000` are what people mean: text.
fn options(bytes: usize) -> Options {
    options! {
        // A file of ten thousand nodes is a file; what aliases make of a small one is bounded by the events that
        // they replay.
        budget: budget! {
            max_nodes: 1_000_000, max_events: 3_000_000, max_depth: MAX_DEPTH, max_documents: 1, max_aliases: 100_000
        },
        alias_limits: alias_limits! { max_total_replayed_events: 20_000 + 2 * bytes },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        // They are told with all other mistakes.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// A value before its places are known to be in one of our texts.
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Block(Vec<(Spanned<Raw>, Spanned<Raw>)>),
    /// What no number of ours can be, and why. An error here would end the reading, and hide every other mistake.
    NoNumber(&'static str),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, true, false, a list or a block")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Number::from_i128(value).map_or(Raw::NoNumber("the number needs more than 64 bits"), Raw::Number))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Number::from_u128(value).map_or(Raw::NoNumber("the number needs more than 64 bits"), Raw::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Number::from_f64(value).map_or(Raw::NoNumber("the number is not finite"), Raw::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Block(entries))
    }
}

struct Reader<'a> {
    text: &'a Arc<Text>,
    start: usize,
}

impl Reader<'_> {
    fn tree(&self, raw: Spanned<Raw>, mistakes: &mut Vec<Diagnostic>) -> Tree {
        let (mut span, notes) = self.places(raw.referenced, raw.defined);
        let shape = match raw.value {
            Raw::Null => Shape::Null,
            Raw::Bool(value) => Shape::Bool(value),
            Raw::Number(number) => Shape::Number(number),
            Raw::Text(text) => Shape::Text(text),
            Raw::List(items) => Shape::List(items.into_iter().map(|item| self.tree(item, mistakes)).collect()),
            Raw::Block(entries) => self.block(entries, mistakes),
            Raw::NoNumber(why) => {
                let mut mistake = Diagnostic::new(code::SYNTAX, why, &span);
                mistake.secondary.extend(notes.iter().cloned());
                mistakes.push(mistake);
                Shape::Mistaken
            }
        };
        // The parser says of a block only where it begins; it ends where its last value does.
        let last = match &shape {
            Shape::List(items) => items.last(),
            Shape::Block(entries) => entries.last().map(|(_, value)| value),
            _ => None,
        };
        if let Some(last) = last {
            span.range.end = span.range.end.max(last.span.range.end);
        }
        if matches!(shape, Shape::List(_) | Shape::Block(_)) {
            self.close(&mut span);
        }
        Tree { span, notes, shape }
    }

    /// Takes in the bracket that closes a list or block in brackets.
    fn close(&self, span: &mut Span) {
        let bracket = match self.text.body()[span.range.start..].chars().next() {
            Some('[') => ']',
            Some('{') => '}',
            _ => return,
        };
        let rest = &self.text.body()[span.range.end..];
        let between =
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',').len();
        if rest[between..].starts_with(bracket) {
            span.range.end += between + 1;
        }
    }

    fn block(&self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>, mistakes: &mut Vec<Diagnostic>) -> Shape {
        let mut entries: Vec<(Key, Tree)> = Vec::with_capacity(raw.len());
        let mut places: HashMap<String, usize> = HashMap::with_capacity(raw.len());
        for (key, value) in raw {
            let (span, notes) = self.places(key.referenced, key.defined);
            let name = match key.value {
                Raw::Text(text) => text,
                _ => span.written().to_owned(),
            };
            let key = Key { name, span, notes };
            let value = self.tree(value, mistakes);
            if let Some(earlier) = places.get(&key.name).map(|at| &entries[*at].0) {
                mistakes.push(
                    key.mistake(code::DUPLICATE, format!("`{}` is defined twice", key.name))
                        .label("defined again here")
                        .also(&earlier.span, "first defined here"),
                );
            } else {
                places.insert(key.name.clone(), entries.len());
                entries.push((key, value));
            }
        }
        Shape::Block(entries)
    }

    /// Where a value is written, and where an alias or a merge uses it.
    fn places(&self, referenced: Location, defined: Location) -> (Span, Vec<Label>) {
        let notes = if referenced == defined {
            Vec::new()
        } else {
            vec![Label { span: self.span(referenced), text: USED_HERE.into() }]
        };
        (self.span(defined), notes)
    }

    fn span(&self, location: Location) -> Span {
        Span::new(self.text, self.range(location).unwrap_or(self.start..self.start))
    }

    fn range(&self, location: Location) -> Option<Range<usize>> {
        let body = &self.text.body()[self.start..];
        let bytes = location.span().byte_offset().zip(location.span().byte_len());
        let range = if let Some((start, length)) = bytes {
            let start = usize::try_from(start).ok()?;
            start..start + usize::try_from(length).ok()?
        } else {
            // Mistakes of grammar come with line and column alone.
            let line = usize::try_from(location.line()).ok()?.checked_sub(1)?;
            let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
            let before: usize = body.split_inclusive('\n').take(line).map(str::len).sum();
            let line = body[before..].split('\n').next()?;
            let start = before + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
            start..start
        };
        body.get(range.clone())?;
        Some(self.start + range.start..self.start + range.end)
    }

    fn syntax(&self, error: &Error) -> Diagnostic {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let message = UserMessageFormatter.format_message(error.without_snippet()).into_owned();
        let span = self.span(location);
        // `{ a: ${{ x }} }`: the expression's braces are YAML's own there.
        let before = &self.text.body()[self.start..span.range.start];
        let line = before.rsplit('\n').next().unwrap_or_default();
        if let Some(at) = line.rfind("${{").or_else(|| line.ends_with('$').then(|| line.len() - 1))
            && !line[..at].ends_with(['"', '\''])
        {
            let start = span.range.start - line.len() + at;
            let rest = &self.text.body()[start..];
            let length = rest.find("}}").map_or(1, |end| end + 2);
            let written = rest[..length].lines().next().unwrap_or_default();
            let message = "an expression inside brackets needs quotes";
            let hint = format!("write `\"{written}\"`");
            let span = Span::new(self.text, start..start + written.len());
            return Diagnostic::new(code::SYNTAX, message, &span).hint(hint);
        }
        let hint = message
            .starts_with("mapping values are not allowed")
            .then(|| "a text that contains `: ` needs quotes; is this line indented as the one above?".to_owned());
        Diagnostic::new(code::SYNTAX, message, &span).hint(hint)
    }
}
