//! Lays one file's values over another's: blocks go into each other, everything else replaces.
//! Knows nothing of where the files come from.

use crate::{
    code,
    diagnostic::{Diagnostic, Span, Text},
    spec::tree::{Key, Shape, Tree},
    suggestion,
};

/// What a profile may hold.
const PROFILE_KEYS: [&str; 5] = ["seed", "vars", "env", "defaults", "nodes"];

/// `over` wins. What both have keeps the place in the order that `base` gives it.
pub(crate) fn merge(base: Tree, over: Tree) -> Tree {
    match (base.shape, over.shape) {
        (Shape::Block(below), Shape::Block(above)) => {
            let mut entries = below;
            for (key, value) in above {
                match entries.iter_mut().find(|(held, _)| held.name == key.name) {
                    Some(entry) => {
                        let held = std::mem::replace(&mut entry.1, Tree::block(&key.span));
                        *entry = (key, merge(held, value));
                    }
                    None => entries.push((key, value)),
                }
            }
            Tree { span: over.span, notes: over.notes, shape: Shape::Block(entries) }
        }
        (_, shape) => Tree { span: over.span, notes: over.notes, shape },
    }
}

/// As [`merge`] for whole files: names of the environment add up.
pub(crate) fn merge_files(base: Tree, over: Tree) -> Tree {
    let together = match (base.get("env"), over.get("env")) {
        (Some(Tree { shape: Shape::List(below), .. }), Some(Tree { shape: Shape::List(above), .. })) => {
            Some(Shape::List(below.iter().chain(above).cloned().collect()))
        }
        _ => None,
    };
    let mut merged = merge(base, over);
    if let (Some(together), Some(env)) = (together, merged.get_mut("env")) {
        env.shape = together;
    }
    merged
}

/// Lays the profiles of these names over the file, in their order, and takes all profiles out of it.
pub(crate) fn profiles(mut tree: Tree, names: &[String], mistakes: &mut Vec<Diagnostic>) -> Tree {
    let profiles = tree.remove("profiles");
    let entries = match profiles.as_ref().map(|(_, profiles)| (&profiles.shape, profiles)) {
        Some((Shape::Block(entries), _)) => entries.as_slice(),
        Some((Shape::Null | Shape::Mistaken, _)) | None => &[],
        Some((_, other)) => {
            mistakes.push(wrong(other, "`profiles`", "a block of profiles"));
            &[]
        }
    };
    for (name, profile) in entries {
        for (key, _) in profile.entries().iter().filter(|(key, _)| !PROFILE_KEYS.contains(&key.name.as_str())) {
            let hint = suggestion::hint(&key.name, PROFILE_KEYS, "a profile has");
            let message = format!("unknown key `{}` of the profile `{}`", key.name, name.name);
            mistakes.push(key.mistake(code::UNKNOWN_KEY, message).hint(hint));
        }
    }
    for name in names {
        match entries.iter().find(|(key, _)| key.name == *name) {
            Some((_, profile)) if matches!(profile.shape, Shape::Block(_)) => {
                tree = merge_files(tree, profile.clone());
            }
            Some((_, Tree { shape: Shape::Null | Shape::Mistaken, .. })) => (),
            Some((key, other)) => mistakes.push(wrong(other, &format!("profile `{}`", key.name), "a block")),
            None => mistakes.push(unknown(name, entries)),
        }
    }
    tree
}

fn unknown(name: &str, profiles: &[(Key, Tree)]) -> Diagnostic {
    let words = format!("--profile {name}");
    let start = words.len() - name.len();
    let text = std::sync::Arc::new(Text::command_line(words));
    let span = Span::new(&text, start..start + name.len());
    let known = profiles.iter().map(|(key, _)| key.name.as_str());
    let hint = suggestion::hint(name, known, "the profiles are")
        .unwrap_or_else(|| "the pipeline has none: write `profiles:` and below it `NAME: { vars: { .. } }`".into());
    Diagnostic::new(code::UNKNOWN_PROFILE, format!("no profile `{name}`"), &span).hint(hint)
}

fn wrong(tree: &Tree, what: &str, wanted: &str) -> Diagnostic {
    tree.mistake(code::WRONG_TYPE, format!("{what} must be {wanted}, found {}", tree.described()))
}
