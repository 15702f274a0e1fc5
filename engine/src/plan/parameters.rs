//! Makes a node's stage from its `with:` and `run:`, and finds the files that they name.
//! Knows nothing of inputs.

use std::{fs, io, path::Path, sync::Arc};

use serde_json::Value;

use crate::{
    code,
    diagnostic::{Diagnostic, Span},
    digest::{Links, files_below},
    plan::{NodeSource, World},
    registry::{Registered, StageInfo, Unfit, Work},
    schema::{self, Subject},
    spec::{
        NodeSpec,
        tree::{Key, Tree},
    },
    stage::Problem,
    suggestion,
};

pub(super) struct Parameters {
    pub with: Value,
    pub settings: Value,
    pub sources: Vec<NodeSource>,
    pub work: Arc<dyn Work>,
}

/// None where there is a mistake.
pub(super) fn resolve(
    world: &World,
    node: &NodeSpec,
    stage: &Registered,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Parameters> {
    let before = mistakes.len();
    let subject = |noun| Subject { stage: stage.info.name, noun, owner: &node.key.span };
    let mut found = schema::check(&stage.parameters, &node.with, subject("parameter"));
    found.extend(schema::check(&stage.settings, &node.run, subject("setting")));
    for mistake in &mut found {
        point_to_the_other_block(mistake, node, &stage.info);
    }
    mistakes.extend(found);
    if mistakes.len() > before || node.with.is_mistaken() || node.run.is_mistaken() {
        sources(world, node, stage, &node.with, mistakes);
        return None;
    }
    let prepared = match stage.prepare(node.with.to_value(), node.run.to_value()) {
        Ok(prepared) => prepared,
        Err(unfit) => {
            let (tree, error) = match &unfit {
                Unfit::Parameters(error) => (&node.with, error),
                Unfit::Settings(error) => (&node.run, error),
            };
            let message = format!("node `{}` cannot be made: {error}", node.family);
            mistakes.push(tree.mistake(code::WRONG_TYPE, message));
            return None;
        }
    };
    let problems = prepared.problems.iter();
    mistakes.extend(problems.map(|problem| refused(problem, node, (&node.with, &prepared.with))));
    let with = Tree::from_value(&prepared.with, &node.key.span);
    let sources = sources(world, node, stage, &with, mistakes);
    Some(Parameters { with: prepared.with, settings: prepared.settings, sources, work: prepared.work })
}

/// The files that the parameters name, and what keeps them from being read.
fn sources(
    world: &World,
    node: &NodeSpec,
    stage: &Registered,
    with: &Tree,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<NodeSource> {
    let found = schema::sources(&stage.parameters, with).into_iter();
    let sources: Vec<NodeSource> = found
        .map(|(parameter, path)| {
            let expand = world.registry.expansion(Path::new(&path));
            NodeSource { parameter, path: path.into(), expand }
        })
        .collect();
    mistakes.extend(sources.iter().filter_map(|source| unreadable(source, node, &world.spec.root)));
    sources
}

/// A parameter among the settings, or a setting among the parameters, is in the wrong block.
fn point_to_the_other_block(mistake: &mut Diagnostic, node: &NodeSpec, stage: &StageInfo) {
    if mistake.code != code::UNKNOWN_PARAMETER {
        return;
    }
    let is_at = |tree: &Tree, name: &str| {
        tree.entries().iter().any(|(key, _)| key.name == name && key.span == mistake.primary.span)
    };
    let misplaced = stage.settings.iter().find(|setting| is_at(&node.with, &setting.name));
    if let Some(setting) = misplaced {
        mistake.hint = Some(format!("`{}` is a setting: write it below `run:`", setting.name));
    }
    let misplaced = stage.parameters.iter().find(|parameter| is_at(&node.run, &parameter.name));
    if let Some(parameter) = misplaced {
        mistake.hint = Some(format!("`{}` is a parameter: write it below `with:`", parameter.name));
    }
    let misplaced = stage.inputs.iter().find(|input| is_at(&node.with, input.name));
    if let Some(input) = misplaced {
        mistake.hint = Some(format!("`{}` is an input: write it below `inputs:`", input.name));
    }
    for tree in [&node.with, &node.run] {
        if let Some((path, value)) = written_at(tree, &mistake.primary.span, "") {
            // A block that has no counterpart here may hold what has one.
            let leaves = || leaves(value, &path).iter().filter_map(|path| stage.called(path)).collect::<Vec<_>>();
            let hints = stage.called(&path).map_or_else(leaves, |hint| vec![hint]);
            if !hints.is_empty() {
                mistake.hint = Some(hints.join("; "));
            }
        }
    }
    if let Some((_, reason)) = stage.left_out.iter().find(|(name, _)| is_at(&node.with, name)) {
        mistake.hint = Some((*reason).into());
    }
}

/// The key that is written at the place: its path below the tree, and what it holds.
fn written_at<'a>(tree: &'a Tree, span: &Span, path: &str) -> Option<(String, &'a Tree)> {
    tree.entries().iter().find_map(|(key, value)| {
        let path = below(path, &key.name);
        if key.span == *span { Some((path, value)) } else { written_at(value, span, &path) }
    })
}

/// The paths of all that a block holds which is no block itself.
fn leaves(tree: &Tree, path: &str) -> Vec<String> {
    let inside = |(key, value): &(Key, Tree)| match value.entries() {
        [] => vec![below(path, &key.name)],
        _ => leaves(value, &below(path, &key.name)),
    };
    tree.entries().iter().flat_map(inside).collect()
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// What the stage itself says of its parameters, at the place of the one it names. `block`: as written, and in force.
pub(super) fn refused(problem: &Problem, node: &NodeSpec, block: (&Tree, &Value)) -> Diagnostic {
    let steps: Vec<&str> = problem.parameter.split('.').collect();
    let written = block.0.at(&steps);
    let diagnostic = match written {
        Some(tree) => tree.mistake(code::REFUSED, &problem.message),
        None => node.key.mistake(code::REFUSED, &problem.message),
    };
    let label = match block.1.pointer(&format!("/{}", steps.join("/"))) {
        Some(value) if written.is_none() => format!("here `{}` is {value} by default", problem.parameter),
        _ => String::new(),
    };
    diagnostic.label(label).hint(problem.hint.clone())
}

/// What keeps a source from being read, if anything.
fn unreadable(source: &NodeSource, node: &NodeSpec, root: &Path) -> Option<Diagnostic> {
    let steps: Vec<&str> = source.parameter.split('.').collect();
    let mistake = |code, message: String| match node.with.at(&steps) {
        Some(tree) => tree.mistake(code, message),
        None => node.key.mistake(code, message),
    };
    let shown = source.path.display();
    let path = root.join(&source.path);
    if source.path.as_os_str().is_empty() || !path.exists() {
        return Some(
            mistake(code::MISSING_SOURCE, format!("no file `{shown}`")).hint(suggestion::file(&source.path, root)),
        );
    }
    let regular = fs::metadata(&path).and_then(|metadata| match metadata {
        found if found.is_file() => Ok(()),
        found if found.is_dir() => files_below(&path, Links::Follow).map(drop),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is neither a file nor a folder")),
    });
    if let Err(why) = regular {
        return Some(mistake(code::BAD_SOURCE, format!("`{shown}` cannot be read: {why}")));
    }
    let error = source.files(root).err()?;
    Some(mistake(code::BAD_SOURCE, format!("`{shown}` cannot be read: {error:#}")))
}
