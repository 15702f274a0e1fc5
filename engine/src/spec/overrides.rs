//! `--set path=value`: values from the command line in the place of those in the file.
//! Knows nothing of what a stage's parameters may be; the plan checks those as any other.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    code,
    diagnostic::{Diagnostic, Span, Text},
    spec::{
        NODE_KEYS, TOP_KEYS,
        tree::{Key, Shape, Tree},
        yaml,
    },
    suggestion,
};

/// Applies the overrides in order. Returns the variables that only they define, and where.
pub(crate) fn apply(tree: &mut Tree, overrides: &[String], mistakes: &mut Vec<Diagnostic>) -> BTreeMap<String, Span> {
    let mut added = BTreeMap::new();
    for words in overrides {
        let words = format!("--set {words}");
        let text = Arc::new(Text::command_line(words.clone()));
        let start = "--set ".len();
        let Some(equals) = words.find('=') else {
            let span = Span::new(&text, start..words.len());
            mistakes.push(
                Diagnostic::new(code::BAD_OVERRIDE, "an override has no value", &span)
                    .hint("write `--set path=value`".to_owned()),
            );
            continue;
        };
        let value = match yaml::read(&text, equals + 1, mistakes) {
            Ok(value) => value,
            Err(mistake) => {
                mistakes.push(*mistake);
                continue;
            }
        };
        let mut at = start;
        let steps: Vec<Key> = words[start..equals]
            .split('.')
            .map(|name| {
                let span = Span::new(&text, at..at + name.len());
                at += name.len() + 1;
                Key { name: name.to_owned(), span, notes: Vec::new() }
            })
            .collect();
        if let Err(mistake) = set(tree, &steps, value, &mut added) {
            mistakes.push(*mistake);
        }
    }
    added
}

fn set(tree: &mut Tree, steps: &[Key], value: Tree, added: &mut BTreeMap<String, Span>) -> Result<(), Box<Diagnostic>> {
    let top = &steps[0];
    if !TOP_KEYS.contains(&top.name.as_str()) {
        let hint = if top.name.starts_with("x-") {
            Some("anchors are already in place where they are used: set the value there".into())
        } else {
            suggestion::hint(&top.name, TOP_KEYS, "what can be set begins with")
        };
        return Err(Box::new(top.mistake(code::BAD_OVERRIDE, format!("no `{}` to set", top.name)).hint(hint)));
    }
    if top.name == "nodes"
        && let Some(node) = steps.get(1)
    {
        let nodes = tree.get("nodes");
        let Some(written) = nodes.and_then(|nodes| nodes.get(&node.name)) else {
            let known = nodes.map(Tree::entries).unwrap_or_default().iter().map(|(key, _)| key.name.as_str());
            let hint = suggestion::hint(&node.name, known, "the nodes are");
            return Err(Box::new(
                node.mistake(code::BAD_OVERRIDE, format!("no node `{}` to set", node.name)).hint(hint),
            ));
        };
        if let Some(key) = steps.get(2)
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
    }
    if top.name == "vars"
        && let Some(name) = steps.get(1)
        && tree.get("vars").and_then(|vars| vars.get(&name.name)).is_none()
    {
        added.insert(name.name.clone(), name.span.clone());
    }
    put(tree, steps, value)
}

/// Replaces what follows `steps`, adding keys that are not there.
fn put(tree: &mut Tree, steps: &[Key], value: Tree) -> Result<(), Box<Diagnostic>> {
    let Some((step, rest)) = steps.split_first() else {
        *tree = value;
        return Ok(());
    };
    let described = tree.described();
    match &mut tree.shape {
        Shape::Block(entries) => {
            let at = entries.iter().position(|(key, _)| key.name == step.name).unwrap_or_else(|| {
                entries.push((step.clone(), Tree::block(&step.span)));
                entries.len() - 1
            });
            put(&mut entries[at].1, rest, value)
        }
        Shape::Null => {
            *tree = Tree::block(&step.span);
            put(tree, steps, value)
        }
        Shape::List(items) => {
            let length = items.len();
            match step.name.parse().ok().and_then(|at: usize| items.get_mut(at)) {
                Some(item) => put(item, rest, value),
                None => Err(Box::new(
                    step.mistake(code::BAD_OVERRIDE, format!("no item `{}` to set", step.name))
                        .hint(format!("the list has {length} items, counted from 0"))
                        .also(&tree.span, "this list"),
                )),
            }
        }
        Shape::Bool(_) | Shape::Number(_) | Shape::Text(_) | Shape::Mistaken => Err(Box::new(
            step.mistake(code::BAD_OVERRIDE, format!("no `{}` to set: it would lie inside {described}", step.name))
                .also(&tree.span, "this value"),
        )),
    }
}
