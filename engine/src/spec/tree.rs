//! What a file says, value by value, each with the place where it is written.
//! Knows nothing of YAML's grammar, nor of what the values mean.

use serde_json::{Map, Number, Value};

use crate::diagnostic::{Diagnostic, Label, Place, Span};

/// The note at the place that gave a variable its value.
pub(crate) const SET_HERE: &str = "set here";
/// The note at the place that asked for a value written elsewhere.
pub(crate) const USED_HERE: &str = "used here";
/// The note at a value that went into a computed one.
pub(crate) const TAKEN_FROM: &str = "taken from here";

/// A value and where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub span: Span,
    /// How the value came to be here: [`USED_HERE`] for an alias, [`SET_HERE`] for a variable.
    pub notes: Vec<Label>,
    pub shape: Shape,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Tree>),
    /// In the order of the file, keys unique.
    Block(Vec<(Key, Tree)>),
    /// A mistake already told: nobody complains of it again.
    Mistaken,
}

/// A key of a block and where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub name: String,
    pub span: Span,
    pub notes: Vec<Label>,
}

impl Key {
    pub(crate) fn mistake(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(code, message, &self.span);
        diagnostic.secondary.extend(self.notes.iter().cloned());
        diagnostic
    }
}

impl Tree {
    pub(crate) fn mistake(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(code, message, &self.span);
        diagnostic.secondary.extend(self.notes.iter().cloned());
        diagnostic
    }

    pub(crate) fn block(span: &Span) -> Self {
        Self { span: span.clone(), notes: Vec::new(), shape: Shape::Block(Vec::new()) }
    }

    pub(crate) fn entries(&self) -> &[(Key, Tree)] {
        match &self.shape {
            Shape::Block(entries) => entries,
            _ => &[],
        }
    }

    /// Takes an entry out of a block.
    pub(crate) fn remove(&mut self, name: &str) -> Option<(Key, Tree)> {
        let Shape::Block(entries) = &mut self.shape else { return None };
        let at = entries.iter().position(|(key, _)| key.name == name)?;
        Some(entries.remove(at))
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Tree> {
        let Shape::Block(entries) = &mut self.shape else { return None };
        entries.iter_mut().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        self.entries().iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// Where the value in force was written: a variable's value, not the expression that asks for it.
    pub(crate) fn place(&self) -> Place {
        let set = self.notes.iter().rev().find(|note| note.text == SET_HERE);
        set.map_or(&self.span, |note| &note.span).place()
    }

    /// The value that the steps lead to, if it is written.
    pub(crate) fn at(&self, steps: &[&str]) -> Option<&Tree> {
        steps.iter().try_fold(self, |tree, step| match &tree.shape {
            Shape::List(items) => items.get(step.parse::<usize>().ok()?),
            _ => tree.get(step),
        })
    }

    pub(crate) fn is_mistaken(&self) -> bool {
        match &self.shape {
            Shape::Mistaken => true,
            Shape::List(items) => items.iter().any(Tree::is_mistaken),
            Shape::Block(entries) => entries.iter().any(|(_, value)| value.is_mistaken()),
            Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) => false,
        }
    }

    /// As a part of a text; none for what is not a single word, number or truth.
    pub(crate) fn as_words(&self) -> Option<String> {
        match &self.shape {
            Shape::Text(text) => Some(text.clone()),
            Shape::Number(number) => Some(number.to_string()),
            Shape::Bool(value) => Some(value.to_string()),
            Shape::Null | Shape::List(_) | Shape::Block(_) | Shape::Mistaken => None,
        }
    }

    /// What it is, with an article, for messages.
    pub(crate) fn described(&self) -> String {
        match &self.shape {
            Shape::Null | Shape::Mistaken => "nothing".into(),
            Shape::Bool(value) => format!("`{value}`"),
            Shape::Number(number) => format!("`{number}`"),
            Shape::Text(text) if text.len() <= 40 && !text.contains('\n') => format!("the text \"{text}\""),
            Shape::Text(_) => "a text".into(),
            Shape::List(_) => "a list".into(),
            Shape::Block(_) => "a block".into(),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        match &self.shape {
            Shape::Null | Shape::Mistaken => Value::Null,
            Shape::Bool(value) => Value::Bool(*value),
            Shape::Number(number) => Value::Number(number.clone()),
            Shape::Text(text) => Value::String(text.clone()),
            Shape::List(items) => items.iter().map(Tree::to_value).collect(),
            Shape::Block(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.name.clone(), value.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// A value that was never written, in the place of another.
    pub(crate) fn from_value(value: &Value, span: &Span) -> Self {
        let shape = match value {
            Value::Null => Shape::Null,
            Value::Bool(value) => Shape::Bool(*value),
            Value::Number(number) => Shape::Number(number.clone()),
            Value::String(text) => Shape::Text(text.clone()),
            Value::Array(items) => Shape::List(items.iter().map(|item| Self::from_value(item, span)).collect()),
            Value::Object(map) => Shape::Block(
                map.iter()
                    .map(|(name, value)| {
                        let key = Key { name: name.clone(), span: span.clone(), notes: Vec::new() };
                        (key, Self::from_value(value, span))
                    })
                    .collect(),
            ),
        };
        Self { span: span.clone(), notes: Vec::new(), shape }
    }
}
