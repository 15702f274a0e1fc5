//! What went wrong in a plugin: where, in which line, and with which sample.
//! Knows nothing of who called the plugin, or why.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    ops::Deref,
};

use rhai::{Engine, EvalAltResult, ParseErrorType, Position};

use super::{Sample, host::Bounded, sandbox::Limits};

/// A mistake in a plugin, shown the way rustc shows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Mistake>);

/// What an [`Error`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub message: String,
    /// The file, as a path from the project root.
    pub file: String,
    /// Line and column, from one, and the text of that line.
    pub place: Option<(usize, usize, String)>,
    pub hint: Option<String>,
    /// What the plugin was given, and through which calls it went: name and value.
    pub notes: Vec<(&'static str, String)>,
    /// The field that is not there, and the name of what it was read from where that is a variable.
    missing: Option<(String, Option<String>)>,
}

/// What a note says, and the fields of what it shows.
pub(super) struct Note {
    text: String,
    fields: Vec<String>,
}

impl From<String> for Note {
    fn from(text: String) -> Self {
        Self { text, fields: Vec::new() }
    }
}

impl std::error::Error for Error {}

impl Deref for Error {
    type Target = Mistake;

    fn deref(&self) -> &Mistake {
        &self.0
    }
}

impl Error {
    pub(super) fn new(message: impl Into<String>, file: &str) -> Self {
        let (message, file) = (message.into(), file.into());
        Self(Box::new(Mistake { message, file, place: None, hint: None, notes: Vec::new(), missing: None }))
    }

    pub(super) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.0.hint = hint.into();
        self
    }

    pub(super) fn note(mut self, name: &'static str, value: impl Into<Note>) -> Self {
        let Note { text, fields } = value.into();
        self.0.notes.push((name, text));
        if !fields.is_empty() {
            self.suggest_field(&fields, |field| format!("`{field}`"));
        }
        self
    }

    /// Turns a field that is not there into the one that was probably meant, of those that are. Without that, to read it
    /// with a default would hide the slip: every sample would get the default.
    fn suggest_field(&mut self, fields: &[String], written: impl Fn(&str) -> String) {
        let Some((wanted, read_from)) = &self.0.missing else { return };
        if read_from.as_deref() == Some("params") {
            self.0.hint = Some("`params` holds what the node's `params:` says".into());
            return;
        }
        let names = || fields.iter().map(String::as_str);
        self.0.hint = Some(match nearest(wanted, names()) {
            Some(near) => format!("did you mean {}?", written(near)),
            None => format!(
                "there are {}; a field that only some have is read with `.get(\"{wanted}\")`, which gives `()` where it is \
                 not there",
                names().map(written).collect::<Vec<_>>().join(", ")
            ),
        });
    }

    pub(super) fn in_function(self, function: &str) -> Self {
        self.note("in", format!("`{function}`"))
    }

    pub(super) fn at(mut self, position: Position, text: &str) -> Self {
        if let Some(line) = position.line() {
            let shown = text.lines().nth(line - 1).unwrap_or_default();
            self.0.place = Some((line, position.position().unwrap_or(1), shown.into()));
        }
        self
    }

    /// Adds the sample that the plugin was given.
    pub(super) fn with_sample(mut self, sample: &Sample) -> Self {
        let cut = if sample.truncated { ", truncated" } else { "" };
        let own = SAMPLE.iter().map(|name| (*name).to_owned());
        let of_row = sample.row.keys().filter(|name| !SAMPLE.contains(&name.as_str()));
        let fields: Vec<String> = own.chain(of_row.cloned()).collect();
        let written =
            |field: &str| if SAMPLE.contains(&field) { format!("`{field}`") } else { format!("`row.{field}`") };
        self.suggest_field(&fields, written);
        // It is there, and was looked for in the wrong place.
        if let Some((wanted, Some(read_from))) = &self.0.missing
            && fields.contains(wanted)
            && read_from != "params"
        {
            let place = if SAMPLE.contains(&wanted.as_str()) { "sample" } else { "sample.row" };
            self.0.hint = Some(format!("`{wanted}` is a field of `{place}`"));
        }
        let error = self
            .note("sample", format!("number {} of its group, {} tokens{cut}", sample.index + 1, sample.tokens))
            .note("prompt", shorten(sample.prompt))
            .note("completion", shorten(sample.completion));
        match sample.row.get("answer") {
            Some(serde_json::Value::String(answer)) => error.note("answer", shorten(answer)),
            Some(answer) => error.note("answer", shorten(&answer.to_string())),
            None => error,
        }
    }

    pub(super) fn parsing(kind: &ParseErrorType, position: Position, name: &str, text: &str) -> Self {
        let (message, hint) = match kind {
            ParseErrorType::VariableUndefined(variable) => (
                format!("no variable `{variable}`"),
                Some(format!(
                    "a function sees its own variables and `params`; a constant of the file is `global::{variable}`"
                )),
            ),
            kind => (lower(&kind.to_string()), None),
        };
        Self::new(message, name).at(position, text).hint(hint)
    }

    /// An error of Rhai while a plugin ran, found in the innermost of its calls.
    pub(super) fn running(
        error: &EvalAltResult,
        engine: &Engine,
        name: &str,
        texts: &BTreeMap<String, String>,
        limits: &Limits,
    ) -> Self {
        let (mut inner, mut name, mut calls) = (error, name, Vec::new());
        loop {
            match inner {
                EvalAltResult::ErrorInFunctionCall(function, source, cause, _) => {
                    if texts.contains_key(source.as_str()) {
                        name = source;
                    }
                    calls.push(function);
                    inner = cause;
                }
                EvalAltResult::ErrorInModule(module, cause, _) => {
                    if texts.contains_key(module.as_str()) {
                        name = module;
                    }
                    inner = cause;
                }
                _ => break,
            }
        }
        let text = texts.get(name).map_or("", String::as_str);
        if let EvalAltResult::ErrorParsing(kind, position) = inner {
            return Self::parsing(kind, *position, name, text);
        }
        let (message, hint) = describe(inner, engine, limits);
        let mut error = Self::new(message, name).at(inner.position(), text).hint(hint);
        if let EvalAltResult::ErrorPropertyNotFound(field, position) = inner {
            error.0.missing = Some((field.clone(), read_from(text, *position)));
        }
        calls.iter().rev().fold(error, |error, function| error.in_function(function))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        let width = self.place.as_ref().map_or(1, |(line, _, _)| line.to_string().len());
        let gutter = " ".repeat(width);
        match &self.place {
            None => write!(f, "\n{gutter}--> {}", self.file)?,
            Some((line, column, text)) => {
                write!(f, "\n{gutter}--> {}:{line}:{column}", self.file)?;
                write!(f, "\n{gutter} |\n{line} | {}", text.replace('\t', " "))?;
                let before = " ".repeat(column.saturating_sub(1));
                write!(f, "\n{gutter} | {before}{}", "^".repeat(word_length(text, *column)))?;
            }
        }
        if self.hint.is_some() || !self.notes.is_empty() {
            write!(f, "\n{gutter} |")?;
        }
        for (name, value) in &self.notes {
            write!(f, "\n{gutter} = {name}: {value}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n{gutter} = help: {hint}"),
            None => Ok(()),
        }
    }
}

/// The name most like `wanted`, where one is near enough to be a slip of the pen.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .filter(|name| *name != wanted)
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, _)| *distance <= 1 + wanted.chars().count() / 4)
        .min()
        .map(|(_, name)| name)
}

/// The message for an error of Rhai, and what may mend it.
fn describe(error: &EvalAltResult, engine: &Engine, limits: &Limits) -> (String, Option<String>) {
    use EvalAltResult as Rhai;
    match error {
        Rhai::ErrorFunctionNotFound(signature, _) => unknown_function(signature, engine),
        Rhai::ErrorPropertyNotFound(name, _) => (format!("no field `{name}`"), None),
        Rhai::ErrorTerminated(why, _) => (why.to_string(), None),
        Rhai::ErrorStackOverflow(_) => (format!("calls are nested more than {} deep", limits.call_levels), None),
        Rhai::ErrorDataTooLarge(what, _) => {
            let most = match what.as_str() {
                "Length of string" => format!("a text is larger than {} bytes", limits.string_bytes),
                "Size of object map" => format!("a map holds more than {} fields", limits.map_fields),
                _ => format!("an array holds more than {} items", limits.array_items),
            };
            (most, None)
        }
        Rhai::ErrorRuntime(thrown, _) => (thrown_text(thrown), None),
        other => {
            let mut text = other.to_string();
            if let Some(cut) = text.rfind(" (line ") {
                text.truncate(cut);
            }
            (lower(&text), None)
        }
    }
}

/// What a plugin threw; a value that prints at length is cut, and not printed whole before.
fn thrown_text(thrown: &rhai::Dynamic) -> String {
    let mut text = Bounded::new(10_000);
    if write!(text, "{thrown}").is_err() {
        text.text.push('…');
    }
    text.text
}

fn unknown_function(signature: &str, engine: &Engine) -> (String, Option<String>) {
    let name = signature.split([' ', '(']).next().unwrap_or(signature);
    let shown = signature.replacen(" (", "(", 1).replace("&str | ImmutableString | String", "string");
    let message = format!("no function `{shown}`");
    let known = engine.gen_fn_signatures(true);
    let names = || known.iter().filter_map(|known| known.split('(').next());
    let forms: Vec<_> = known.iter().filter(|known| known.split('(').next() == Some(name)).collect();
    let hint = match forms.first() {
        Some(form) if name.chars().all(|c| c.is_alphanumeric() || c == '_') => Some(format!("there is `{form}`")),
        Some(_) => None,
        None => nearest(name, names()).map(|near| format!("did you mean `{near}`?")),
    };
    (message, hint)
}

/// Text on one line, at most about 240 characters of it: the beginning and the end.
pub(super) fn shorten(text: &str) -> String {
    const HEAD: usize = 160;
    const TAIL: usize = 80;
    let one_line = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    let length = one_line.chars().count();
    if length <= HEAD + TAIL {
        return one_line;
    }
    let head: String = one_line.chars().take(HEAD).collect();
    let tail: String = one_line.chars().skip(length - TAIL).collect();
    format!("{head} … {} more … {tail}", length - HEAD - TAIL)
}

/// Rhai's words in the house's style: a small letter first, names in backticks.
fn lower(text: &str) -> String {
    let mut letters = text.replace('\'', "`");
    if let Some(first) = letters.get(..1).map(str::to_lowercase) {
        letters.replace_range(..1, &first);
    }
    letters
}

/// The fields of a sample, as plugins see it.
const SAMPLE: [&str; 7] = ["prompt", "completion", "answer", "truncated", "tokens", "index", "row"];

/// The name in front of the dot before the field at this place, such as `row` in `sample.row.anwser`.
fn read_from(text: &str, field: Position) -> Option<String> {
    let line = text.lines().nth(field.line()? - 1)?;
    let before: String = line.chars().take(field.position()? - 1).collect();
    let before = before.trim_end().trim_end_matches('.').trim_end();
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let name = before.rsplit(|letter| !is_part(letter)).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// How many characters the caret underlines: the word that begins there, or one.
fn word_length(text: &str, column: usize) -> usize {
    let word = text.chars().skip(column.saturating_sub(1)).take_while(|c| c.is_alphanumeric() || *c == '_');
    word.count().max(1)
}

/// A row for a note: its number, from one, and what it holds.
pub(super) fn numbered(index: usize, row: &super::Row) -> Note {
    let text = serde_json::to_string(row).unwrap_or_default();
    Note { text: format!("{} {}", index + 1, shorten(&text)), fields: row.keys().cloned().collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Row, Script};
    use super::*;

    fn open(text: &str) -> Script {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plugin.rhai"), text).unwrap();
        Script::open(&folder.path().join("plugin.rhai"), folder.path()).unwrap()
    }

    fn row() -> Row {
        json!({ "prompt": "2+3=", "answer": "5", "level": 2 }).as_object().unwrap().clone()
    }

    /// What is suggested for a reward with this body.
    fn hint(body: &str) -> String {
        let row = row();
        let sample = Sample { row: &row, prompt: "2+3=", completion: "5", truncated: false, tokens: 1, index: 0 };
        let error = open(&format!("fn reward(sample) {{ {body} }}")).rewards("reward", &[sample]).unwrap_err();
        error.downcast_ref::<Error>().unwrap().hint.clone().unwrap_or_default()
    }

    #[test]
    fn a_field_that_is_not_there_is_answered_with_the_nearest_that_is() {
        assert_eq!(hint("if sample.anwser == \"5\" { 1 } else { 0 }"), "did you mean `answer`?");
        assert_eq!(hint("sample.tokenz"), "did you mean `tokens`?");
        assert_eq!(hint("sample.row.lvel"), "did you mean `row.level`?");
        assert_eq!(hint("sample.level"), "`level` is a field of `sample.row`");
        assert_eq!(hint("sample.row.completion.len()"), "`completion` is a field of `sample`");
        assert_eq!(hint("params.wieght"), "`params` holds what the node's `params:` says");
        assert_eq!(
            hint("sample.zzzzzzz"),
            "there are `prompt`, `completion`, `answer`, `truncated`, `tokens`, `index`, `row`, `row.level`; a field that \
             only some have is read with `.get(\"zzzzzzz\")`, which gives `()` where it is not there"
        );
    }

    #[test]
    fn so_is_one_of_a_row() {
        let error = open("fn keep(row) { row.anwser == \"5\" }").keep_rows(&[row()], 0).unwrap_err();
        assert_eq!(error.downcast_ref::<Error>().unwrap().hint.as_deref(), Some("did you mean `answer`?"));
        let error = open("fn map(row) { row.answr }").map_rows(&[row()], 0).unwrap_err();
        assert_eq!(error.downcast_ref::<Error>().unwrap().hint.as_deref(), Some("did you mean `answer`?"));
    }
}
