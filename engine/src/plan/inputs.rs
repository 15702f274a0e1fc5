//! Holds a node's inputs against what its stage reads.
//! Knows nothing of parameters, nor of the order of nodes.

use crate::{
    code,
    diagnostic::Diagnostic,
    plan::{
        NodeInput, World,
        reference::{Reference, listed},
    },
    registry::StageInfo,
    spec::{InputSpec, NODE_KEYS, NodeSpec, tree::Shape},
    stage::{Arity, Input, OtherInputs},
    suggestion,
};

/// The inputs that are right, in the order in which the stage declares them.
pub(super) fn resolve(world: &World, at: usize, stage: &StageInfo, mistakes: &mut Vec<Diagnostic>) -> Vec<NodeInput> {
    let node = &world.spec.nodes[at];
    let name = stage.name;
    let inputs = stage.inputs;
    let references = |written: &InputSpec| -> &[Reference] {
        let found = node.inputs().iter().position(|other| std::ptr::eq(other, written));
        found.map_or(&[], |found| world.references[at][found].as_slice())
    };
    for written in node.inputs() {
        if inputs.iter().any(|input| input.name == written.key.name) {
            continue;
        }
        if stage.other_inputs == OtherInputs::Taken {
            other_name(written, mistakes);
        } else {
            let message = format!("unknown input `{}` of stage `{name}`", written.key.name);
            let hint =
                suggestion::hint(&written.key.name, inputs.iter().map(|input| input.name), &format!("`{name}` reads"))
                    .unwrap_or_else(|| format!("`{name}` reads nothing"));
            mistakes.push(written.key.mistake(code::UNKNOWN_INPUT, message).hint(hint));
        }
    }
    let mut resolved = Vec::new();
    for input in inputs {
        match node.inputs().iter().find(|written| written.key.name == input.name) {
            Some(written) => {
                let references = references(written);
                arity(world, (node, input), written, references, mistakes);
                kinds_fit(world, (node, input), references, mistakes);
                let nodes = names_of(world, references);
                if !nodes.is_empty() {
                    resolved.push(NodeInput { name: input.name.into(), nodes, named: input.arity == Arity::Named });
                }
            }
            None if input.arity == Arity::Optional || node.inputs.is_none() => (),
            None => {
                let message = format!("node `{}` has no input `{}`", node.family, input.name);
                let hint = format!("`{}` takes {}: {}", input.name, kinds(input), input.about);
                mistakes.push(node.key.mistake(code::MISSING_INPUT, message).hint(hint));
            }
        }
    }
    if stage.other_inputs == OtherInputs::Taken {
        let is_other = |written: &&InputSpec| !inputs.iter().any(|input| input.name == written.key.name);
        for written in node.inputs().iter().filter(is_other) {
            let references = references(written);
            left_out(node, &written.key.name, references, mistakes);
            let nodes = names_of(world, references);
            resolved.push(NodeInput { name: written.key.name.clone(), nodes, named: false });
        }
    }
    resolved
}

/// The name becomes that of an environment variable.
fn other_name(written: &InputSpec, mistakes: &mut Vec<Diagnostic>) {
    let name = &written.key.name;
    if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        let message = format!("`{name}` cannot be the name of an input");
        let hint = "the work sees it as `$INPUT_NAME`: a-z, A-Z, 0-9 and `_`".to_owned();
        mistakes.push(written.key.mistake(code::BAD_NAME, message).hint(hint));
    }
    if matches!(&written.value.shape, Shape::List(items) if items.is_empty()) {
        let message = format!("input `{name}` needs at least one node");
        mistakes.push(written.value.mistake(code::WRONG_ARITY, message));
    }
}

fn names_of(world: &World, references: &[Reference]) -> Vec<String> {
    let nodes = references.iter().flat_map(|reference| &reference.nodes);
    nodes.map(|at| world.spec.nodes[*at].key.name.clone()).collect()
}

/// Keys that nodes do not have: mistakes whatever the stage is.
pub(super) fn keys(node: &NodeSpec, stage: Option<&StageInfo>, mistakes: &mut Vec<Diagnostic>) {
    for key in &node.unknown {
        let name = key.name.as_str();
        let hint = stage
            .and_then(|stage| one_floor_down(name, stage))
            .or_else(|| suggestion::hint(name, NODE_KEYS, "a node has"));
        let message = format!("unknown key `{name}` of node `{}`", node.family);
        mistakes.push(key.mistake(code::UNKNOWN_NODE_KEY, message).hint(hint));
    }
}

/// An unknown key is often one of the stage's, written one floor too high.
fn one_floor_down(name: &str, stage: &StageInfo) -> Option<String> {
    let (noun, block) = if stage.parameters.iter().any(|parameter| parameter.name == name) {
        ("a parameter", "with")
    } else if stage.settings.iter().any(|setting| setting.name == name) {
        ("a setting", "run")
    } else if stage.inputs.iter().any(|input| input.name == name) {
        ("an input", "inputs")
    } else {
        return None;
    };
    Some(format!("`{name}` is {noun} of `{}`: write it below `{block}:`", stage.name))
}

fn arity(
    world: &World,
    (node, input): (&NodeSpec, &Input),
    written: &InputSpec,
    references: &[Reference],
    mistakes: &mut Vec<Diagnostic>,
) {
    let is_list = matches!(written.value.shape, Shape::List(_));
    let takes = format!("input `{}` of node `{}`", input.name, node.family);
    let mut wrong = |message: String| mistakes.push(written.value.mistake(code::WRONG_ARITY, message));
    match (input.arity, is_list) {
        (Arity::One | Arity::Optional, true) => wrong(format!("{takes} takes one node, found a list")),
        (Arity::One | Arity::Optional, false) => {
            for reference in references.iter().filter(|reference| reference.nodes.len() > 1) {
                let message = format!(
                    "{takes} takes one node, but `{}` is {}: {}",
                    reference.name,
                    reference.nodes.len(),
                    listed(world.spec, &reference.nodes)
                );
                let hint = format!("choose one of them, or give `{}` a matrix with the same axis", node.family);
                mistakes.push(reference.place.mistake(code::WRONG_ARITY, message).hint(hint));
            }
        }
        (Arity::Many | Arity::Named, true) if written.nodes.is_empty() => {
            wrong(format!("{takes} needs at least one node"));
        }
        (Arity::Many | Arity::Named, _) => (),
    }
    if input.arity != Arity::Optional {
        left_out(node, input.name, references, mistakes);
    }
}

/// An input that has nothing to read because of what is left out.
fn left_out(node: &NodeSpec, input: &str, references: &[Reference], mistakes: &mut Vec<Diagnostic>) {
    if references.iter().any(|reference| !reference.nodes.is_empty()) {
        return;
    }
    let Some((reference, other)) = references.iter().find_map(|one| Some((one, one.left_out.first()?))) else { return };
    let message = format!("input `{input}` of node `{}` needs `{}`, which is left out", node.family, reference.name);
    let mut mistake = reference.place.mistake(code::LEFT_OUT, message).also(&other.key.span, "defined here");
    if let Some(when) = &other.when {
        mistake = mistake.also(when, "left out by this");
    }
    let hint = format!("give `{}` the same `when`, or another node to read", node.family);
    mistakes.push(mistake.hint(hint));
}

/// Every node that is read makes a kind of artifact that the input takes.
fn kinds_fit(
    world: &World,
    (node, input): (&NodeSpec, &Input),
    references: &[Reference],
    mistakes: &mut Vec<Diagnostic>,
) {
    for reference in references {
        for other in reference.nodes.iter().map(|at| &world.spec.nodes[*at]) {
            // That its stage does not exist is told elsewhere.
            let Some(made) = world.output(other) else { continue };
            if !input.kinds.contains(&made) {
                mistakes.push(wrong_kind(world, (node, input), reference, other, made));
            }
        }
    }
}

fn wrong_kind(
    world: &World,
    (node, input): (&NodeSpec, &Input),
    reference: &Reference,
    other: &NodeSpec,
    made: &str,
) -> Diagnostic {
    let makes_it = |other: &&NodeSpec| {
        let made = world.output(other).is_some_and(|kind| input.kinds.contains(&kind));
        made && other.family != node.family
    };
    let mut makers: Vec<&str> = world.spec.nodes.iter().filter(makes_it).map(|other| other.family.as_str()).collect();
    makers.dedup();
    let hint = (!makers.is_empty()).then(|| format!("{} is made by {}", kinds(input), suggestion::list(makers)));
    let name = reference.name;
    let message = format!("input `{}` takes {}, but `{name}` makes `{made}`", input.name, kinds(input));
    let mistake = reference.place.mistake(code::WRONG_KIND, message);
    mistake.also(&other.key.span, format!("`{made}` is made by this node")).hint(hint)
}

fn kinds(input: &Input) -> String {
    let quoted: Vec<String> = input.kinds.iter().map(|kind| format!("`{kind}`")).collect();
    quoted.join(" or ")
}
