//! Holds a node's inputs against what its stage reads.
//! Knows nothing of parameters, nor of the order of nodes.

use crate::{
    code,
    diagnostic::Diagnostic,
    plan::{NodeInput, World},
    registry::StageInfo,
    spec::{
        InputSpec, NODE_KEYS, NodeSpec,
        tree::{Shape, Tree},
    },
    stage::{Arity, Input, OtherInputs},
    suggestion,
};

/// The inputs that are right, in the order in which the stage declares them.
pub(super) fn resolve(
    world: &World,
    node: &NodeSpec,
    stage: &StageInfo,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<NodeInput> {
    let name = stage.name;
    let inputs = stage.inputs;
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
                arity(node, input, written, mistakes);
                for (other, place) in &written.nodes {
                    kind(world, (node, input), other, place, mistakes);
                }
                let nodes = written.nodes.iter().map(|(name, _)| name.clone()).collect();
                resolved.push(NodeInput { name: input.name.into(), nodes, named: input.arity == Arity::Named });
            }
            None if input.arity == Arity::Optional || node.inputs.is_none() => (),
            None => {
                let message = format!("node `{}` has no input `{}`", node.key.name, input.name);
                let hint = format!("`{}` takes {}: {}", input.name, kinds(input), input.about);
                mistakes.push(node.key.mistake(code::MISSING_INPUT, message).hint(hint));
            }
        }
    }
    if stage.other_inputs == OtherInputs::Taken {
        let is_other = |written: &&InputSpec| !inputs.iter().any(|input| input.name == written.key.name);
        for written in node.inputs().iter().filter(is_other) {
            let nodes = written.nodes.iter().map(|(name, _)| name.clone()).collect();
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

/// Keys that nodes do not have, and inputs that name no node: mistakes whatever the stage is.
pub(super) fn names(world: &World, node: &NodeSpec, stage: Option<&StageInfo>, mistakes: &mut Vec<Diagnostic>) {
    for (name, place) in node.inputs().iter().flat_map(|input| &input.nodes) {
        if !world.names.contains_key(name.as_str()) {
            let known = world.spec.nodes.iter().map(|other| other.key.name.as_str());
            let hint = suggestion::hint(name, known.filter(|known| *known != node.key.name), "the other nodes are");
            mistakes.push(place.mistake(code::UNKNOWN_NODE, format!("no node `{name}`")).hint(hint));
        }
    }
    for key in &node.unknown {
        let name = key.name.as_str();
        let hint = stage
            .and_then(|stage| one_floor_down(name, stage))
            .or_else(|| suggestion::hint(name, NODE_KEYS, "a node has"));
        let message = format!("unknown key `{name}` of node `{}`", node.key.name);
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

fn arity(node: &NodeSpec, input: &Input, written: &InputSpec, mistakes: &mut Vec<Diagnostic>) {
    let is_list = matches!(written.value.shape, Shape::List(_));
    let message = match (input.arity, is_list) {
        (Arity::One | Arity::Optional, true) => {
            format!("input `{}` of node `{}` takes one node, found a list", input.name, node.key.name)
        }
        (Arity::Many | Arity::Named, true) if written.nodes.is_empty() => {
            format!("input `{}` of node `{}` needs at least one node", input.name, node.key.name)
        }
        _ => return,
    };
    mistakes.push(written.value.mistake(code::WRONG_ARITY, message));
}

fn kind(world: &World, (node, input): (&NodeSpec, &Input), name: &str, place: &Tree, mistakes: &mut Vec<Diagnostic>) {
    // That a node or its stage does not exist is told elsewhere.
    let Some(other) = world.names.get(name) else { return };
    let Some(made) = world.output(other) else { return };
    if input.kinds.contains(&made) {
        return;
    }
    let makes_it = |other: &&NodeSpec| {
        let made = world.output(other).is_some_and(|kind| input.kinds.contains(&kind));
        made && other.key.name != node.key.name
    };
    let makers: Vec<&str> = world.spec.nodes.iter().filter(makes_it).map(|other| other.key.name.as_str()).collect();
    let hint = (!makers.is_empty()).then(|| format!("{} is made by {}", kinds(input), suggestion::list(makers)));
    let message = format!("input `{}` takes {}, but `{name}` makes `{made}`", input.name, kinds(input));
    mistakes.push(
        place
            .mistake(code::WRONG_KIND, message)
            .also(&other.key.span, format!("`{made}` is made by this node"))
            .hint(hint),
    );
}

fn kinds(input: &Input) -> String {
    let quoted: Vec<String> = input.kinds.iter().map(|kind| format!("`{kind}`")).collect();
    quoted.join(" or ")
}
