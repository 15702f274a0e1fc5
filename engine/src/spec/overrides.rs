//! `--set path=value`, `--set +path=value`, `--set ~path`: the command line's say over what the files hold.
//! Knows nothing of what a stage's parameters may be; the plan checks those as any other.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    code,
    diagnostic::{Diagnostic, Span, Text},
    spec::{
        NODE_KEYS,
        tree::{Key, Shape, Tree},
        yaml,
    },
    suggestion,
};

/// What begins a path. Includes and profiles are in place before anything is set.
const SET_KEYS: [&str; 6] = ["name", "seed", "vars", "env", "defaults", "nodes"];

type Done = Result<(), Box<Diagnostic>>;

/// What the overrides leave for later.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Variables that only they define, and where.
    pub added: BTreeMap<String, Span>,
    /// Those of one instance of a matrix, which is not there yet.
    pub instances: Vec<Override>,
}

/// One `--set`.
#[derive(Debug)]
pub(crate) struct Override {
    pub steps: Vec<Key>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Set(Tree),
    Add(Tree),
    Remove,
}

/// Applies the overrides in order.
pub(crate) fn apply(tree: &mut Tree, overrides: &[String], mistakes: &mut Vec<Diagnostic>) -> Applied {
    let mut applied = Applied::default();
    for words in overrides {
        let done = read(words, mistakes).and_then(|mut words| {
            words.steps = full(tree, words.steps)?;
            known(tree, &words)?;
            if matches!(&words.steps[..], [top, node, ..] if top.name == "nodes" && node.name.contains('[')) {
                applied.instances.push(words);
                return Ok(());
            }
            if let ([top, name, ..], Action::Set(_)) = (&words.steps[..], &words.action)
                && top.name == "vars"
                && tree.get("vars").and_then(|vars| vars.get(&name.name)).is_none()
            {
                applied.added.insert(name.name.clone(), name.span.clone());
            }
            put(tree, &words.steps, words.action)
        });
        mistakes.extend(done.err().map(|mistake| *mistake));
    }
    applied
}

impl Override {
    /// Applies it to the node that its first two steps name.
    pub(crate) fn apply_to(&self, node: &mut Tree) -> Done {
        let action = match &self.action {
            Action::Set(value) => Action::Set(value.clone()),
            Action::Add(value) => Action::Add(value.clone()),
            Action::Remove => Action::Remove,
        };
        put(node, &self.steps[2..], action)
    }

    /// `grow[seed=1]`
    pub(crate) fn node(&self) -> &Key {
        &self.steps[1]
    }
}

fn read(words: &str, mistakes: &mut Vec<Diagnostic>) -> Result<Override, Box<Diagnostic>> {
    let words = format!("--set {words}");
    let text = Arc::new(Text::command_line(words.clone()));
    let sign = "--set ".len();
    let start = sign + usize::from(words[sign..].starts_with(['+', '~']));
    let equals = outside_brackets(&words, start, '=').next();
    let span = Span::new(&text, sign..words.len());
    let action = match (&words[sign..start], equals) {
        ("~", None) => Action::Remove,
        ("~", Some(equals)) => {
            let span = Span::new(&text, equals..words.len());
            return Err(Box::new(Diagnostic::new(code::BAD_OVERRIDE, "`~` removes and takes no value", &span)));
        }
        (_, None) => {
            let hint = "write `--set path=value`, or `--set ~path` to remove".to_owned();
            return Err(Box::new(Diagnostic::new(code::BAD_OVERRIDE, "an override has no value", &span).hint(hint)));
        }
        ("+", Some(equals)) => Action::Add(value(&text, equals + 1, mistakes)?),
        (_, Some(equals)) => Action::Set(value(&text, equals + 1, mistakes)?),
    };
    let end = equals.unwrap_or(words.len());
    let mut steps = Vec::new();
    let mut at = start;
    for dot in outside_brackets(&words[..end], start, '.').chain([end]) {
        if at == dot {
            let message = "a step of the path is empty";
            return Err(Box::new(Diagnostic::new(code::BAD_OVERRIDE, message, &Span::new(&text, at..dot))));
        }
        steps.push(Key { name: words[at..dot].into(), span: Span::new(&text, at..dot), notes: Vec::new() });
        at = dot + 1;
    }
    Ok(Override { steps, action })
}

/// YAML, but for an expression: on the command line it needs no quotes of its own.
fn value(text: &Arc<Text>, start: usize, mistakes: &mut Vec<Diagnostic>) -> Result<Tree, Box<Diagnostic>> {
    let written = &text.body()[start..];
    if written.starts_with("${{") && written.ends_with("}}") {
        let span = Span::new(text, start..start + written.len());
        return Ok(Tree { span, notes: Vec::new(), shape: Shape::Text(written.to_owned()) });
    }
    yaml::read(text, start, mistakes)
}

/// Where the letter stands in `words` from `start` on, but in `[seed=0.5]`.
fn outside_brackets(words: &str, start: usize, letter: char) -> impl Iterator<Item = usize> {
    let mut is_inside = false;
    words[start..].char_indices().filter_map(move |(at, found)| {
        is_inside = found == '[' || is_inside && found != ']';
        (found == letter && !is_inside).then_some(start + at)
    })
}

/// The whole path of a short one: `grow.rate` is `nodes.grow.with.rate`.
fn full(tree: &Tree, mut steps: Vec<Key>) -> Result<Vec<Key>, Box<Diagnostic>> {
    let top = &steps[0];
    if SET_KEYS.contains(&top.name.as_str()) {
        return Ok(steps);
    }
    let nodes = tree.get("nodes").map(Tree::entries).unwrap_or_default();
    if nodes.iter().any(|(key, _)| key.name == family(&top.name)) {
        let between = |name: &str| Key { name: name.into(), span: top.span.clone(), notes: Vec::new() };
        let (nodes, with) = (between("nodes"), between("with"));
        if steps.get(1).is_some_and(|key| !NODE_KEYS.contains(&key.name.as_str())) {
            steps.insert(1, with);
        }
        steps.insert(0, nodes);
        return Ok(steps);
    }
    let hint = match top.name.as_str() {
        name if name.starts_with("x-") => {
            Some("anchors are already in place where they are used: set the value there".into())
        }
        "include" | "profiles" => Some("that is in place before anything is set".into()),
        name => {
            let known = SET_KEYS.into_iter().chain(nodes.iter().map(|(key, _)| key.name.as_str()));
            suggestion::hint(name, known, "what can be set begins with")
        }
    };
    Err(Box::new(top.mistake(code::BAD_OVERRIDE, format!("no `{}` to set", top.name)).hint(hint)))
}

/// Nodes and their keys must be there; what lies below is the stage's to know.
fn known(tree: &Tree, words: &Override) -> Done {
    let [top, node, rest @ ..] = &words.steps[..] else { return Ok(()) };
    if top.name != "nodes" {
        return Ok(());
    }
    let nodes = tree.get("nodes");
    let name = family(&node.name);
    let Some(written) = nodes.and_then(|nodes| nodes.get(name).or_else(|| nodes.get(&node.name))) else {
        if rest.is_empty() && matches!(words.action, Action::Add(_)) {
            return Ok(());
        }
        let known = nodes.map(Tree::entries).unwrap_or_default().iter().map(|(key, _)| key.name.as_str());
        let hint = suggestion::hint(name, known, "the nodes are");
        return Err(Box::new(node.mistake(code::BAD_OVERRIDE, format!("no node `{}` to set", node.name)).hint(hint)));
    };
    if let Some(key) = rest.first()
        && !NODE_KEYS.contains(&key.name.as_str())
    {
        let hint = match written.get("with").and_then(|with| with.get(&key.name)) {
            Some(_) => Some(format!("did you mean `nodes.{}.with.{}`?", node.name, key.name)),
            None => suggestion::hint(&key.name, NODE_KEYS, "a node has"),
        };
        return Err(Box::new(
            key.mistake(code::BAD_OVERRIDE, format!("no `{}` of a node to set", key.name)).hint(hint),
        ));
    }
    Ok(())
}

/// The node that an instance is one of: `grow` of `grow[seed=1]`.
fn family(name: &str) -> &str {
    name.split_once('[').map_or(name, |(family, _)| family)
}

/// Does it to what the steps lead to.
fn put(tree: &mut Tree, steps: &[Key], action: Action) -> Done {
    let Some((step, rest)) = steps.split_first() else {
        match action {
            Action::Set(value) | Action::Add(value) => *tree = value,
            Action::Remove => tree.shape = Shape::Null,
        }
        return Ok(());
    };
    let described = tree.described();
    match &mut tree.shape {
        Shape::Block(entries) => {
            let found = entries.iter().position(|(key, _)| key.name == step.name);
            let is_last = rest.is_empty();
            match (found, action) {
                (Some(at), Action::Remove) if is_last => {
                    entries.remove(at);
                    Ok(())
                }
                (None, Action::Remove) => {
                    let known = entries.iter().map(|(key, _)| key.name.as_str());
                    let hint = suggestion::hint(&step.name, known, "there are");
                    let message = format!("no `{}` to remove", step.name);
                    Err(Box::new(step.mistake(code::BAD_OVERRIDE, message).hint(hint)))
                }
                (Some(at), Action::Add(value)) if is_last => {
                    let (key, held) = &mut entries[at];
                    if let Shape::List(items) = &mut held.shape {
                        items.push(value);
                        return Ok(());
                    }
                    Err(Box::new(
                        step.mistake(code::BAD_OVERRIDE, format!("`{}` is there already", step.name))
                            .also(&key.span, "defined here")
                            .hint("without `+` the value is replaced; `+` adds a key, or an item to a list".to_owned()),
                    ))
                }
                (None, Action::Add(value)) if is_last => {
                    entries.push((step.clone(), value));
                    Ok(())
                }
                (Some(at), action) => put(&mut entries[at].1, rest, action),
                (None, action) => {
                    entries.push((step.clone(), Tree::block(&step.span)));
                    let at = entries.len() - 1;
                    put(&mut entries[at].1, rest, action)
                }
            }
        }
        Shape::Null if !matches!(action, Action::Remove) => {
            *tree = Tree::block(&step.span);
            put(tree, steps, action)
        }
        Shape::List(items) => {
            let length = items.len();
            match step.name.parse().ok().filter(|at: &usize| *at < length) {
                Some(at) if rest.is_empty() && matches!(action, Action::Remove) => {
                    items.remove(at);
                    Ok(())
                }
                Some(at) => put(&mut items[at], rest, action),
                None => Err(Box::new(
                    step.mistake(code::BAD_OVERRIDE, format!("no item `{}` to set", step.name))
                        .hint(format!("the list has {length} items, counted from 0"))
                        .also(&tree.span, "this list"),
                )),
            }
        }
        Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => Err(Box::new(
            step.mistake(code::BAD_OVERRIDE, format!("no `{}` to set: it would lie inside {described}", step.name))
                .also(&tree.span, "this value"),
        )),
    }
}
