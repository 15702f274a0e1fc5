//! Puts the values of variables where `${{ vars.NAME }}` asks for them.
//! Knows nothing of nodes or stages.

use std::collections::BTreeSet;

use crate::{
    code,
    diagnostic::{Diagnostic, Label, Span},
    spec::tree::{SET_HERE, Shape, Tree, USED_HERE},
    suggestion,
};

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// Variables that use variables stop here: deeper is a mistake, not a pipeline.
const MAX_DEPTH: usize = 16;

/// All that substitution may write, in values and bytes: variables must not become a bomb.
const MAX_WRITTEN: usize = 1_000_000;

/// Replaces every expression in `trees` by what it stands for. Returns the variables in use.
pub(crate) fn substitute<'a>(
    trees: impl Iterator<Item = &'a mut Tree>,
    vars: &Tree,
    mistakes: &mut Vec<Diagnostic>,
) -> BTreeSet<String> {
    let mut substitution = Substitution { vars, used: BTreeSet::new(), written: 0, mistakes };
    for tree in trees {
        substitution.walk(tree, &mut Vec::new());
    }
    substitution.used
}

struct Substitution<'a> {
    vars: &'a Tree,
    used: BTreeSet<String>,
    written: usize,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Substitution<'_> {
    /// `inside`: the variables whose values are being looked up.
    fn walk(&mut self, tree: &mut Tree, inside: &mut Vec<String>) {
        match &mut tree.shape {
            Shape::List(items) => items.iter_mut().for_each(|item| self.walk(item, inside)),
            Shape::Block(entries) => entries.iter_mut().for_each(|(_, value)| self.walk(value, inside)),
            Shape::Text(text) if text.contains(OPEN) => {
                let text = std::mem::take(text);
                self.text(&text, tree, inside);
            }
            Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => (),
        }
    }

    fn text(&mut self, text: &str, tree: &mut Tree, inside: &mut Vec<String>) {
        // A scalar that is wholly one expression keeps the type of its value.
        if let Some(expression) = text.trim().strip_prefix(OPEN).and_then(|rest| rest.strip_suffix(CLOSE))
            && !expression.contains(CLOSE)
        {
            match self.value(expression, tree, inside) {
                Some(value) => place(value, tree),
                None => tree.shape = Shape::Mistaken,
            }
            return;
        }
        let mut out = String::new();
        let mut is_mistaken = false;
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find(CLOSE) else {
                self.mistakes.push(
                    tree.mistake(code::BAD_EXPRESSION, "an expression is not closed")
                        .hint("write `${{ vars.NAME }}`".to_owned()),
                );
                tree.shape = Shape::Mistaken;
                return;
            };
            let expression = &rest[at + OPEN.len()..at + end];
            match self.value(expression, tree, inside) {
                Some(value) => {
                    is_mistaken |= !self.append(&mut out, &value, expression.trim(), tree);
                    tree.notes.push(Label { span: value.span, text: SET_HERE.into() });
                }
                None => is_mistaken = true,
            }
            if !self.charge(out.len(), &tree.span) {
                break;
            }
            rest = &rest[at + end + CLOSE.len()..];
        }
        out.push_str(rest);
        tree.shape = if is_mistaken { Shape::Mistaken } else { Shape::Text(out) };
    }

    /// Adds a value to a text. False where it cannot be part of one.
    fn append(&mut self, out: &mut String, value: &Tree, expression: &str, tree: &Tree) -> bool {
        match &value.shape {
            Shape::Text(text) => out.push_str(text),
            Shape::Number(number) => out.push_str(&number.to_string()),
            Shape::Bool(value) => out.push_str(&value.to_string()),
            Shape::Mistaken => return false,
            Shape::Null | Shape::List(_) | Shape::Block(_) => {
                let message = format!("`{expression}` is {} and cannot be part of a text", value.described());
                self.mistakes.push(tree.mistake(code::BAD_EXPRESSION, message).also(&value.span, SET_HERE));
                return false;
            }
        }
        true
    }

    /// The value that an expression stands for, its own expressions replaced.
    fn value(&mut self, expression: &str, tree: &Tree, inside: &mut Vec<String>) -> Option<Tree> {
        let path = expression.trim();
        let steps: Vec<&str> = path.split('.').collect();
        let is_path = steps.iter().all(|step| {
            !step.is_empty() && step.chars().all(|letter| letter.is_alphanumeric() || letter == '_' || letter == '-')
        });
        if !is_path || steps[0] != "vars" || steps.len() < 2 {
            let hint = match self.vars.get(steps[0]) {
                Some(_) => format!("did you mean `vars.{path}`?"),
                None => "write `${{ vars.NAME }}`".into(),
            };
            let message = format!("`{path}` is not a variable");
            self.mistakes.push(tree.mistake(code::BAD_EXPRESSION, message).hint(hint));
            return None;
        }
        self.used.insert(steps[1].to_owned());
        let refers_to_itself = inside.iter().any(|name| name == path);
        if refers_to_itself || inside.len() >= MAX_DEPTH {
            let message = if refers_to_itself {
                format!("variable `{path}` refers to itself")
            } else {
                format!("variables refer to each other more than {MAX_DEPTH} deep")
            };
            self.mistakes.push(tree.mistake(code::BAD_EXPRESSION, message));
            return None;
        }
        let mut found = self.vars;
        for (depth, step) in steps.iter().enumerate().skip(1) {
            let Some(next) = found.get(step) else {
                let known = found.entries().iter().map(|(key, _)| key.name.as_str());
                let owner = steps[..depth].join(".");
                let hint = match suggestion::nearest(step, known.clone()) {
                    Some(name) => Some(format!("did you mean `{owner}.{name}`?")),
                    None => suggestion::hint(step, known, "the variables are"),
                };
                let message = format!("no variable `{}`", steps[..=depth].join("."));
                self.mistakes.push(tree.mistake(code::UNKNOWN_VARIABLE, message).hint(hint));
                return None;
            };
            found = next;
        }
        if self.written > MAX_WRITTEN || !self.charge(weight(found), &tree.span) {
            return None;
        }
        let mut value = found.clone();
        inside.push(path.to_owned());
        self.walk(&mut value, inside);
        inside.pop();
        Some(value)
    }

    /// False when the budget is spent; says so once.
    fn charge(&mut self, amount: usize, span: &Span) -> bool {
        let before = self.written;
        self.written = self.written.saturating_add(amount);
        if before <= MAX_WRITTEN && self.written > MAX_WRITTEN {
            self.mistakes.push(Diagnostic::new(code::BAD_EXPRESSION, "the variables grow beyond all measure", span));
        }
        self.written <= MAX_WRITTEN
    }
}

/// Puts a variable's value where it is used. What lies inside it keeps its own place.
fn place(mut value: Tree, tree: &mut Tree) {
    match &mut value.shape {
        Shape::List(items) => items.iter_mut().for_each(|item| mark(item, &tree.span)),
        Shape::Block(entries) => {
            for (key, item) in entries {
                key.notes.push(Label { span: tree.span.clone(), text: USED_HERE.into() });
                mark(item, &tree.span);
            }
        }
        Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => (),
    }
    tree.notes.push(Label { span: value.span, text: SET_HERE.into() });
    tree.shape = value.shape;
}

fn mark(tree: &mut Tree, used: &Span) {
    tree.notes.push(Label { span: used.clone(), text: USED_HERE.into() });
    match &mut tree.shape {
        Shape::List(items) => items.iter_mut().for_each(|item| mark(item, used)),
        Shape::Block(entries) => {
            for (key, item) in entries {
                key.notes.push(Label { span: used.clone(), text: USED_HERE.into() });
                mark(item, used);
            }
        }
        Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => (),
    }
}

/// What a copy of the tree costs.
fn weight(tree: &Tree) -> usize {
    50 + match &tree.shape {
        Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Mistaken => 0,
        Shape::Text(text) => text.len(),
        Shape::List(items) => items.iter().map(weight).sum(),
        Shape::Block(entries) => entries.iter().map(|(key, value)| key.name.len() + weight(value)).sum(),
    }
}
