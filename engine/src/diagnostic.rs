//! A mistake in a pipeline, told as rustc tells one: code, place, source line, caret, and a way out.
//! Knows nothing of YAML, stages or graphs.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_json::{Value, json};

/// One mistake that the user can mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable, such as `E0104`; see [`crate::code`].
    pub code: &'static str,
    pub message: String,
    /// Where the mistake is.
    pub primary: Label,
    /// Other places that explain it: `first defined here`, `made by this node`.
    pub secondary: Vec<Label>,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, span: &Span) -> Self {
        let primary = Label { span: span.clone(), text: String::new() };
        // A file that others include is told with the places that do.
        let from = |text: &Text| text.included.as_ref().map(|(span, _)| span.clone());
        let inclusions = std::iter::successors(from(&span.text), |span| from(&span.text));
        let secondary = inclusions.map(|span| Label { span, text: "included from here".into() }).collect();
        Self { code, message: message.into(), primary, secondary, hint: None }
    }

    /// Says under the caret what is wrong there.
    pub(crate) fn label(mut self, text: impl Into<String>) -> Self {
        self.primary.text = text.into();
        self
    }

    pub(crate) fn also(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label { span: span.clone(), text: text.into() });
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Where the mistake is, for one-line forms.
    #[must_use]
    pub fn place(&self) -> Place {
        self.primary.span.place()
    }

    /// For programs: the code, the message, every place with its end, and the hint.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let labels: Vec<Value> = self.secondary.iter().map(Label::to_json).collect();
        let mut document = self.primary.to_json();
        let place = document.as_object_mut().expect("a label is a document");
        place.shift_insert(0, "code".into(), self.code.into());
        place.shift_insert(1, "message".into(), self.message.clone().into());
        place.insert("labels".into(), labels.into());
        place.insert("hint".into(), self.hint.clone().into());
        document
    }

    /// The whole message, with the lines it is about.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        type Labels<'a> = Vec<(AnnotationKind, &'a Label)>;
        // One snippet a text; the primary's text comes first.
        let mut texts: Vec<(&Arc<Text>, Labels)> = Vec::new();
        let labels = self.secondary.iter().map(|label| (AnnotationKind::Context, label));
        for (kind, label) in std::iter::once((AnnotationKind::Primary, &self.primary)).chain(labels) {
            match texts.iter_mut().find(|(text, _)| *text == &label.span.text) {
                Some((_, labels)) => labels.push((kind, label)),
                None => texts.push((&label.span.text, vec![(kind, label)])),
            }
        }
        let snippets = texts.iter().map(|(text, labels)| {
            let annotations = labels.iter().map(|(kind, label)| {
                let text = (!label.text.is_empty()).then_some(label.text.as_str());
                kind.span(label.span.first_line()).label(text)
            });
            Snippet::source(text.body()).path(text.title()).annotations(annotations)
        });
        let group = Level::ERROR.primary_title(&self.message).id(self.code).elements(snippets);
        let group = match &self.hint {
            Some(hint) => group.element(Level::HELP.message(hint)),
            None => group,
        };
        let renderer = match colour {
            Colour::Never => Renderer::plain(),
            Colour::Always => Renderer::styled(),
        };
        renderer.render(&[group])
    }
}

/// The plain form, as [`Diagnostic::render`] without colour.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colour::Never))
    }
}

/// Whether a message may hold escape codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Always,
    Never,
}

/// A place and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    /// Empty where the message says it all.
    pub text: String,
}

impl Label {
    fn to_json(&self) -> Value {
        let (start, end) = (self.span.place(), self.span.end());
        json!({
            "file": start.file, "line": start.line, "column": start.column,
            "end": { "line": end.line, "column": end.column },
            "label": self.text,
        })
    }
}

/// Something the user wrote: a file, or the words `--set path=value` of the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// As the user would type it; none for the command line.
    path: Option<String>,
    body: String,
    /// Where each line begins, in bytes: places are asked for by the thousand.
    lines: Vec<usize>,
    /// Where another file includes this one, and the name that all names of this one live under, if any.
    included: Option<(Span, Vec<String>)>,
}

impl Text {
    pub(crate) fn file(path: String, body: String) -> Self {
        let lines = std::iter::once(0).chain(body.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path: Some(path), body, lines, included: None }
    }

    /// A file that is included at `from`; its own names lie under `scope`.
    pub(crate) fn included(path: String, body: String, from: Span, scope: Vec<String>) -> Self {
        Self { included: Some((from, scope)), ..Self::file(path, body) }
    }

    pub(crate) fn command_line(words: String) -> Self {
        Self { path: None, body: words, lines: vec![0], included: None }
    }

    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// Is it a `--set` that replaces, and not one that adds?
    pub(crate) fn is_plain_override(&self) -> bool {
        self.path.is_none() && !self.body.starts_with("--set +")
    }

    pub(crate) fn is_included(&self) -> bool {
        self.included.is_some()
    }

    /// The names under which all names of this text live, the outermost first.
    pub(crate) fn scope(&self) -> impl Iterator<Item = &str> {
        self.included.iter().flat_map(|(_, scope)| scope).map(String::as_str)
    }

    fn title(&self) -> &str {
        self.path.as_deref().unwrap_or("command line")
    }
}

/// A piece of a text, in bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    pub text: Arc<Text>,
    pub range: Range<usize>,
}

impl Span {
    pub(crate) fn new(text: &Arc<Text>, range: Range<usize>) -> Self {
        Self { text: text.clone(), range }
    }

    /// What is written there.
    pub(crate) fn written(&self) -> &str {
        &self.text.body()[self.range.clone()]
    }

    #[must_use]
    pub fn place(&self) -> Place {
        self.place_of(self.range.start)
    }

    /// Where it ends: the place after its last letter.
    #[must_use]
    pub fn end(&self) -> Place {
        self.place_of(self.range.end)
    }

    fn place_of(&self, at: usize) -> Place {
        let Some(path) = &self.text.path else {
            return Place { file: self.text.body.clone(), line: 0, column: 0 };
        };
        let line = self.text.lines.partition_point(|start| *start <= at);
        let before = &self.text.body[self.text.lines[line - 1]..at];
        Place { file: path.clone(), line, column: before.chars().count() + 1 }
    }

    /// A caret under a whole block of lines says less than one under its beginning.
    fn first_line(&self) -> Range<usize> {
        let line = self.written().find('\n').unwrap_or(self.range.len());
        self.range.start..self.range.start + line
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.place(), self.written())
    }
}

/// Where something is written: `pipelines/r1.yaml:14:13`, or the words of a `--set`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    /// From one; zero where it is not a file but the command line.
    pub line: usize,
    /// In characters, from one.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// In reading order, and each mistake once: two nodes that share an anchor share its mistakes.
pub(crate) fn sorted(diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut by_place = BTreeMap::new();
    for diagnostic in diagnostics {
        let place = diagnostic.place();
        let key = (place.line == 0, place, diagnostic.code, diagnostic.message.clone());
        by_place.entry(key).or_insert(diagnostic);
    }
    by_place.into_values().collect()
}
