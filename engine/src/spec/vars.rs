//! Puts values where `${{ ... }}` asks for them: variables, and the axes of a matrix.
//! Knows nothing of nodes or stages.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    code,
    diagnostic::{Diagnostic, Label, Span},
    spec::{
        expression::{self, Fault, Scope, Step, Stop},
        tree::{SET_HERE, Shape, TAKEN_FROM, Tree, USED_HERE},
    },
    suggestion,
};

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// Variables that use variables stop here: deeper is a mistake, not a pipeline.
const MAX_DEPTH: usize = 16;

/// All that substitution may write, in values and bytes, whatever the size of the file, and for each of its bytes:
/// variables must not become a bomb.
const MAX_WRITTEN: usize = 1_000_000;
const MAX_WRITTEN_A_BYTE: usize = 100;

/// Replaces expressions by their values. It counts what it writes.
pub(crate) struct Substitution<'a> {
    vars: &'a Tree,
    /// The variables whose values are being looked up, and where each is asked for.
    inside: Vec<(String, Span)>,
    written: usize,
    limit: usize,
    pub mistakes: &'a mut Vec<Diagnostic>,
}

impl<'a> Substitution<'a> {
    /// `bytes`: the size of all texts together.
    pub(crate) fn new(vars: &'a Tree, bytes: usize, mistakes: &'a mut Vec<Diagnostic>) -> Self {
        let limit = MAX_WRITTEN.max(bytes.saturating_mul(MAX_WRITTEN_A_BYTE));
        Self { vars, inside: Vec::new(), written: 0, limit, mistakes }
    }

    /// Replaces every expression in `tree`. `matrix`: the value of each axis, where the tree is inside one.
    pub(crate) fn walk(&mut self, tree: &mut Tree, matrix: Option<&Tree>) {
        match &mut tree.shape {
            Shape::List(items) => items.iter_mut().for_each(|item| self.walk(item, matrix)),
            Shape::Block(entries) => entries.iter_mut().for_each(|(_, value)| self.walk(value, matrix)),
            Shape::Text(text) if text.contains(OPEN) => {
                let text = std::mem::take(text);
                self.text(&text, tree, matrix);
            }
            Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => (),
        }
    }

    fn text(&mut self, text: &str, tree: &mut Tree, matrix: Option<&Tree>) {
        let mut out = String::new();
        let mut is_mistaken = false;
        let (mut rest, mut ordinal) = (text, 0);
        while let Some(at) = rest.find(OPEN) {
            out.push_str(&rest[..at]);
            let source = &rest[at + OPEN.len()..];
            let place = Place { tree: &*tree, source, ordinal };
            ordinal += 1;
            let (value, length) = match expression::parse(source) {
                Ok((expression, length)) => (self.value(&expression, place, matrix), length),
                Err(fault) => {
                    self.mistakes.push(place.mistake(fault));
                    (None, source.find(CLOSE).map_or(source.len(), |at| at + CLOSE.len()))
                }
            };
            rest = &source[length..];
            // A scalar that is wholly one expression keeps the type of its value.
            if ordinal == 1 && out.trim().is_empty() && rest.trim().is_empty() {
                match value {
                    Some(value) => put(value, tree),
                    None => tree.shape = Shape::Mistaken,
                }
                return;
            }
            match value {
                Some(value) => {
                    let written = source[..length].trim_end_matches(CLOSE).trim();
                    is_mistaken |= !self.append(&mut out, &value, written, place);
                    let note = Label { span: value.span, text: TAKEN_FROM.into() };
                    if note.span != tree.span {
                        tree.notes.push(note);
                    }
                }
                None => is_mistaken = true,
            }
            if !self.charge(out.len(), &tree.span) {
                break;
            }
        }
        out.push_str(rest);
        tree.shape = if is_mistaken { Shape::Mistaken } else { Shape::Text(out) };
    }

    /// Adds a value to a text. False where it cannot be part of one.
    fn append(&mut self, out: &mut String, value: &Tree, written: &str, place: Place) -> bool {
        if let Some(words) = value.as_words() {
            out.push_str(&words);
            return true;
        }
        if !matches!(value.shape, Shape::Mistaken) {
            let message = format!("`{written}` is {} and cannot be part of a text", value.described());
            let start = place.source.find(written).unwrap_or_default();
            let mut mistake = place.mistake(Fault::new(&(start..start + written.len()), message));
            if value.span != place.tree.span {
                mistake = mistake.also(&value.span, SET_HERE);
            }
            self.mistakes.push(mistake);
        }
        false
    }

    fn value(&mut self, expression: &expression::Expression, place: Place, matrix: Option<&Tree>) -> Option<Tree> {
        let mut lookup = Lookup { substitution: self, place, matrix };
        match expression::evaluate(expression, place.source, &place.tree.span, &mut lookup) {
            Ok(value) => Some(value),
            Err(Stop::Told) => None,
            Err(Stop::Fault(fault) | Stop::Missing(fault)) => {
                self.mistakes.push(place.mistake(fault));
                None
            }
        }
    }

    /// The value of a variable, its own expressions replaced. `asked`: where.
    fn variable(&mut self, root: &Step, path: &[Step], place: Place) -> Result<Tree, Stop> {
        let (first, rest) = path.split_first().expect("a path has a first step");
        let scope: Vec<&str> = place.tree.span.text.scope().collect();
        // A name is looked for among those of its own file, then in the files around it.
        let found = (0..=scope.len()).rev().find_map(|depth| {
            let owner = self.vars.at(&scope[..depth])?;
            Some((depth, owner.get(&first.name)?))
        });
        let Some((depth, found)) = found else {
            let owner = self.vars.at(&scope).unwrap_or(self.vars);
            return Err(Stop::Missing(unknown("vars", first, owner)));
        };
        let full: Vec<&str> = ["vars"]
            .into_iter()
            .chain(scope[..depth].iter().copied())
            .chain(path.iter().map(|s| s.name.as_str()))
            .collect();
        let asked = place.span(&(root.at.start..path[path.len() - 1].at.end));
        self.enter(full.join("."), asked)?;
        let value = self.inner(found.clone(), first, rest);
        self.inside.pop();
        value
    }

    /// Follows the steps into a variable, replacing expressions on the way.
    fn inner(&mut self, mut value: Tree, first: &Step, rest: &[Step]) -> Result<Tree, Stop> {
        let mut path = format!("vars.{}", first.name);
        for step in rest {
            if matches!(&value.shape, Shape::Text(text) if text.contains(OPEN)) {
                self.walk(&mut value, None);
            }
            if matches!(value.shape, Shape::Mistaken) {
                return Err(Stop::Told);
            }
            let Some(next) = value.at(&[step.name.as_str()]) else {
                return Err(Stop::Missing(unknown(&path, step, &value)));
            };
            value = next.clone();
            path = format!("{path}.{}", step.name);
        }
        if self.written > self.limit || !self.charge(weight(&value), &value.span) {
            return Err(Stop::Told);
        }
        self.walk(&mut value, None);
        Ok(value)
    }

    fn enter(&mut self, path: String, asked: Span) -> Result<(), Stop> {
        if let Some(start) = self.inside.iter().position(|(name, _)| *name == path) {
            let circle = circle(&self.inside[start..], asked);
            self.mistakes.push(circle);
            return Err(Stop::Told);
        }
        if self.inside.len() >= MAX_DEPTH {
            let message = format!("variables refer to each other more than {MAX_DEPTH} deep");
            self.mistakes.push(Diagnostic::new(code::BAD_EXPRESSION, message, &asked));
            return Err(Stop::Told);
        }
        self.inside.push((path, asked));
        Ok(())
    }

    /// False when the budget is spent; says so once.
    fn charge(&mut self, amount: usize, span: &Span) -> bool {
        let before = self.written;
        self.written = self.written.saturating_add(amount);
        if before <= self.limit && self.written > self.limit {
            self.mistakes.push(Diagnostic::new(code::BAD_EXPRESSION, "the variables grow beyond all measure", span));
        }
        self.written <= self.limit
    }
}

/// An expression and the text that it stands in.
#[derive(Clone, Copy)]
struct Place<'a> {
    tree: &'a Tree,
    /// The text from after `${{` on.
    source: &'a str,
    /// How many expressions of the text come before it.
    ordinal: usize,
}

impl Place<'_> {
    fn mistake(&self, fault: Fault) -> Diagnostic {
        let mut mistake = Diagnostic::new(fault.code, fault.message, &self.span(&fault.at)).hint(fault.hint);
        mistake.secondary.extend(self.tree.notes.iter().cloned());
        mistake
    }

    /// Where a part of the expression is written; the whole text where quotes and escapes hide it.
    fn span(&self, at: &Range<usize>) -> Span {
        let span = &self.tree.span;
        let written = span.written();
        let start = written.match_indices(OPEN).nth(self.ordinal).map(|(start, _)| start + OPEN.len());
        match start.and_then(|start| Some((start, written.get(start..start + at.end)?))) {
            Some((start, seen)) if self.source.get(..at.end) == Some(seen) => {
                let start = span.range.start + start;
                Span::new(&span.text, start + at.start..start + at.end)
            }
            _ => span.clone(),
        }
    }
}

struct Lookup<'a, 's, 'v> {
    substitution: &'s mut Substitution<'v>,
    place: Place<'a>,
    matrix: Option<&'a Tree>,
}

impl Scope for Lookup<'_, '_, '_> {
    fn look_up(&mut self, path: &[Step]) -> Result<Tree, Stop> {
        let (root, rest) = path.split_first().expect("a path has a first step");
        match (root.name.as_str(), rest) {
            ("vars" | "matrix", []) => {
                let message = format!("`{}` is no value", root.name);
                Err(Fault::new(&root.at, message).hint(format!("write `{}.NAME`", root.name)).into())
            }
            ("vars", rest) => self.substitution.variable(root, rest, self.place),
            ("matrix", [axis, rest @ ..]) => {
                let Some(matrix) = self.matrix else {
                    let hint = "`matrix.AXIS` is the value of an axis inside a node that has a `matrix:`".to_owned();
                    return Err(Fault::new(&root.at, "there is no matrix here").hint(hint).into());
                };
                let mut value = matrix.get(&axis.name).ok_or_else(|| Stop::Missing(unknown("matrix", axis, matrix)))?;
                for step in rest {
                    value = value
                        .at(&[step.name.as_str()])
                        .ok_or_else(|| Stop::Missing(unknown(&format!("matrix.{}", axis.name), step, value)))?;
                }
                Ok(value.clone())
            }
            ("env", _) => {
                let message = "the environment decides no value of a pipeline";
                let hint =
                    "give the value with `--set vars.NAME=VALUE`; `env:` is for programs that a node runs".to_owned();
                Err(Fault::new(&root.at, message).hint(hint).into())
            }
            (name, _) => {
                let hint = match self.substitution.vars.get(name) {
                    Some(_) => format!("did you mean `vars.{name}`?"),
                    None => "write `${{ vars.NAME }}`; a text is in quotes".into(),
                };
                Err(Fault::new(&root.at, format!("`{name}` is not a variable")).hint(hint).into())
            }
        }
    }
}

fn unknown(owner: &str, step: &Step, value: &Tree) -> Fault {
    let known = value.entries().iter().map(|(key, _)| key.name.as_str());
    let written =
        |name: &str| if name.contains('-') { format!("{owner}[\"{name}\"]") } else { format!("{owner}.{name}") };
    // A minus ends a name: `vars.max-tokens` is a difference.
    let cut = known.clone().find(|name| name.strip_prefix(&step.name).is_some_and(|rest| rest.starts_with('-')));
    let hint = match (cut.or_else(|| suggestion::nearest(&step.name, known.clone())), &value.shape) {
        (Some(name), _) => Some(format!("did you mean `{}`?", written(name))),
        (None, Shape::List(items)) => Some(format!("the list has {} items, counted from 0", items.len())),
        (None, _) => suggestion::hint(&step.name, known, "there are"),
    };
    let mut fault = Fault::new(&step.at, format!("no variable `{owner}.{}`", step.name)).hint(hint);
    fault.code = code::UNKNOWN_VARIABLE;
    fault
}

/// `inside`: variables, each asked for by the one before; the last one asks for the first at `asked`.
fn circle(inside: &[(String, Span)], asked: Span) -> Diagnostic {
    if let [(name, _)] = inside {
        return Diagnostic::new(code::BAD_EXPRESSION, format!("variable `{name}` refers to itself"), &asked);
    }
    let names: Vec<&str> = inside.iter().map(|(name, _)| name.as_str()).collect();
    let mut asks: Vec<Span> = inside[1..].iter().map(|(_, span)| span.clone()).collect();
    asks.push(asked);
    // The circle begins with the same variable from wherever it was entered.
    let start = (0..names.len()).min_by_key(|at| names[*at]).expect("a circle has variables");
    let turn = |at: usize| (start + at) % names.len();
    let label = |at: usize| format!("`{}` asks for `{}`", names[turn(at)], names[turn(at + 1)]);
    let path: Vec<String> = (0..=names.len()).map(|at| format!("`{}`", names[turn(at)])).collect();
    let message = format!("variables refer to each other in a circle: {}", path.join(" -> "));
    let mut mistake = Diagnostic::new(code::BAD_EXPRESSION, message, &asks[turn(0)]).label(label(0));
    for at in 1..names.len() {
        mistake = mistake.also(&asks[turn(at)], label(at));
    }
    mistake
}

/// The paths of all variables that `tree` asks for, each with those that its file's own names make possible.
pub(crate) fn used(tree: &Tree, found: &mut BTreeSet<Vec<String>>) {
    match &tree.shape {
        Shape::List(items) => items.iter().for_each(|item| used(item, found)),
        Shape::Block(entries) => entries.iter().for_each(|(_, value)| used(value, found)),
        Shape::Text(text) => {
            let scope: Vec<String> = tree.span.text.scope().map(str::to_owned).collect();
            for path in paths(text).iter().filter(|path| path[0] == "vars") {
                found.extend((0..=scope.len()).map(|depth| [&scope[..depth], &path[1..]].concat()));
            }
        }
        Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Mistaken => (),
    }
}

/// The axes that `tree` asks for.
pub(crate) fn axes(tree: &Tree) -> BTreeSet<String> {
    fn collect(tree: &Tree, found: &mut BTreeSet<String>) {
        match &tree.shape {
            Shape::List(items) => items.iter().for_each(|item| collect(item, found)),
            Shape::Block(entries) => entries.iter().for_each(|(_, value)| collect(value, found)),
            Shape::Text(text) => {
                let paths = paths(text).into_iter().filter(|path| path[0] == "matrix");
                found.extend(paths.filter_map(|path| path.into_iter().nth(1)));
            }
            Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Mistaken => (),
        }
    }
    let mut found = BTreeSet::new();
    collect(tree, &mut found);
    found
}

/// What the expressions of a text ask for.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices(OPEN) {
        if let Ok((expression, _)) = expression::parse(&text[at + OPEN.len()..]) {
            expression::paths(&expression, &mut paths);
        }
    }
    paths
}

/// Puts a value where it is used. What lies inside it keeps its own place.
fn put(mut value: Tree, tree: &mut Tree) {
    let is_computed = value.span == tree.span;
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
    if is_computed {
        tree.notes.extend(value.notes.into_iter().filter(|note| note.text == TAKEN_FROM));
    } else {
        tree.notes.push(Label { span: value.span, text: SET_HERE.into() });
    }
    tree.shape = value.shape;
}

fn mark(tree: &mut Tree, used: &Span) {
    if tree.span != *used {
        tree.notes.push(Label { span: used.clone(), text: USED_HERE.into() });
    }
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
