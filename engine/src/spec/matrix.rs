//! One node written, several meant: the axes of a matrix, and the names of its instances.
//! Knows nothing of what the values are for.

use crate::{
    code,
    diagnostic::Diagnostic,
    spec::tree::{Key, Shape, Tree},
};

/// More is a mistake, not a sweep.
const MAX_INSTANCES: usize = 10_000;

/// The values of one axis, each with its word in the names of instances.
type Axis<'a> = (&'a Key, Vec<(String, &'a Tree)>);

/// One of the nodes that a matrix stands for.
#[derive(Debug)]
pub(crate) struct Instance {
    /// `grow[seed=1,rate=0.02]`, or the node's own name where there is no matrix.
    pub name: String,
    /// Each axis with the word of its value, in the order of the file.
    pub axes: Vec<(String, String)>,
    /// Each axis with its value.
    pub values: Tree,
}

/// The instances of the node `name`, the last axis running fastest.
pub(crate) fn instances(name: &str, matrix: &Tree, mistakes: &mut Vec<Diagnostic>) -> Vec<Instance> {
    let Some(axes) = axes(matrix, mistakes) else { return Vec::new() };
    let count = axes.iter().try_fold(1_usize, |count, (_, values)| count.checked_mul(values.len()));
    let Some(count) = count.filter(|count| *count <= MAX_INSTANCES) else {
        let message = format!("a matrix has at most {MAX_INSTANCES} instances");
        mistakes.push(matrix.mistake(code::BAD_MATRIX, message));
        return Vec::new();
    };
    let instance = |at: usize| {
        let mut rest = at;
        let mut chosen: Vec<(&Key, &(String, &Tree))> = Vec::new();
        for (key, values) in axes.iter().rev() {
            chosen.push((key, &values[rest % values.len()]));
            rest /= values.len();
        }
        chosen.reverse();
        let words = chosen.iter().map(|(key, (word, _))| (key.name.clone(), word.clone())).collect::<Vec<_>>();
        let values = chosen.into_iter().map(|(key, (_, value))| (key.clone(), (*value).clone())).collect();
        let values = Tree { span: matrix.span.clone(), notes: Vec::new(), shape: Shape::Block(values) };
        Instance { name: named(name, &words), axes: words, values }
    };
    (0..count).map(instance).collect()
}

/// `grow[seed=1,rate=0.02]`
fn named(name: &str, axes: &[(String, String)]) -> String {
    let axes: Vec<String> = axes.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    format!("{name}[{}]", axes.join(","))
}

/// The node's name and its axes, as a name like `grow[seed=1,rate=0.02]` says them; no axes for `grow[*]`.
pub(crate) fn parts(name: &str) -> (&str, Option<Vec<(String, String)>>) {
    let Some((family, axes)) = name.split_once('[').and_then(|(family, rest)| Some((family, rest.strip_suffix(']')?)))
    else {
        return (name, None);
    };
    if axes == "*" {
        return (family, Some(Vec::new()));
    }
    let axes = axes.split(',').map(|axis| {
        let (axis, value) = axis.split_once('=').unwrap_or((axis, ""));
        (axis.trim().to_owned(), value.trim().to_owned())
    });
    (family, Some(axes.collect()))
}

fn axes<'a>(matrix: &'a Tree, mistakes: &mut Vec<Diagnostic>) -> Option<Vec<Axis<'a>>> {
    let before = mistakes.len();
    if !matches!(matrix.shape, Shape::Block(_)) || matrix.entries().is_empty() {
        if !matches!(matrix.shape, Shape::Mistaken) {
            let found = if matrix.entries().is_empty() { matrix.described() } else { String::new() };
            let message = format!("`matrix` must be a block of axes, found {found}");
            mistakes.push(matrix.mistake(code::BAD_MATRIX, message).hint("write `{ seed: [1, 2, 3] }`".to_owned()));
        }
        return None;
    }
    let mut axes = Vec::new();
    for (key, axis) in matrix.entries() {
        if !super::is_name(&key.name) {
            let message = format!("`{}` cannot be the name of an axis", key.name);
            mistakes.push(key.mistake(code::BAD_NAME, message).hint(super::NAME_HINT.to_owned()));
        }
        let Shape::List(items) = &axis.shape else {
            if !matches!(axis.shape, Shape::Mistaken) {
                let message = format!("axis `{}` must be a list of values, found {}", key.name, axis.described());
                mistakes.push(axis.mistake(code::BAD_MATRIX, message));
            }
            continue;
        };
        if items.is_empty() {
            mistakes.push(axis.mistake(code::BAD_MATRIX, format!("axis `{}` has no values", key.name)));
        }
        let mut values: Vec<(String, &Tree)> = Vec::new();
        for item in items {
            match word(item) {
                Ok(word) => {
                    if let Some((_, earlier)) = values.iter().find(|(held, _)| *held == word) {
                        let message = format!("axis `{}` has the value `{word}` twice", key.name);
                        mistakes.push(item.mistake(code::DUPLICATE, message).also(&earlier.span, "first here"));
                    }
                    values.push((word, item));
                }
                Err(why) => mistakes.extend(why.map(|why| {
                    item.mistake(code::BAD_MATRIX, format!("axis `{}`: {} {why}", key.name, item.described()))
                })),
            }
        }
        axes.push((key, values));
    }
    (mistakes.len() == before && !matrix.is_mistaken()).then_some(axes)
}

/// A value as names of instances say it; else what is wrong with it, if that was not told already.
fn word(value: &Tree) -> Result<String, Option<&'static str>> {
    if matches!(value.shape, Shape::Mistaken) {
        return Err(None);
    }
    let word = value.as_words().ok_or(Some("cannot be in the name of an instance: a number or a text can"))?;
    let is_plain = |letter: char| !"[],=*\"'`".contains(letter) && !letter.is_control();
    if word.is_empty() || word.trim() != word || !word.chars().all(is_plain) {
        return Err(Some("cannot be in the name of an instance: it is empty, or has one of `[],=*` or quotes in it"));
    }
    Ok(word)
}
