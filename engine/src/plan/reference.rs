//! Which nodes an input means: one by its name, instances of a matrix by their axes, or those of the reader's own axes.
//! Knows nothing of stages, nor of how many nodes an input takes.

use std::collections::BTreeMap;

use crate::{
    code,
    diagnostic::{Diagnostic, Span},
    spec::{
        InputSpec, NodeSpec, Spec, matrix,
        tree::{SET_HERE, Tree},
    },
    suggestion,
};

/// A name in an input, and the nodes that it means.
#[derive(Debug)]
pub(super) struct Reference<'a> {
    /// As written.
    pub name: &'a str,
    pub place: &'a Tree,
    /// Places in [`Spec::nodes`]; none where the name is a mistake.
    pub nodes: Vec<usize>,
    /// Those that their `when` leaves out.
    pub left_out: Vec<&'a NodeSpec>,
}

/// The references of every input of every node, in the order of the spec.
pub(super) type References<'a> = Vec<Vec<Vec<Reference<'a>>>>;

pub(super) fn resolve<'a>(spec: &'a Spec, mistakes: &mut Vec<Diagnostic>) -> References<'a> {
    let names = Names::of(spec);
    let mut references = Vec::with_capacity(spec.nodes.len());
    for node in &spec.nodes {
        let mut paired = Vec::new();
        let mut of_input = |input: &'a InputSpec| -> Vec<Reference<'a>> {
            let find = |(name, place): &'a (String, Tree)| match names.find(node, name, place, &mut paired) {
                Ok(reference) => reference,
                Err(mistake) => {
                    mistakes.push(*mistake);
                    Reference { name, place, nodes: Vec::new(), left_out: Vec::new() }
                }
            };
            input.nodes.iter().map(find).collect()
        };
        let of_node: Vec<_> = node.inputs().iter().map(&mut of_input).collect();
        references.push(of_node);
        for axis in node.unused_axes.iter().filter(|axis| !paired.contains(&axis.name)) {
            let message = format!("axis `{}` of node `{}` decides nothing", axis.name, node.family);
            let hint = format!("ask for it, as in `with: {{ {0}: \"${{{{ matrix.{0} }}}}\" }}`", axis.name);
            mistakes.push(axis.mistake(code::UNUSED_AXIS, message).hint(hint));
        }
    }
    references
}

struct Names<'a> {
    spec: &'a Spec,
    by_name: BTreeMap<&'a str, usize>,
    families: BTreeMap<&'a str, Vec<usize>>,
    left_out: BTreeMap<&'a str, Vec<&'a NodeSpec>>,
}

impl<'a> Names<'a> {
    fn of(spec: &'a Spec) -> Self {
        let by_name = spec.nodes.iter().enumerate().map(|(at, node)| (node.key.name.as_str(), at)).collect();
        let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, node) in spec.nodes.iter().enumerate() {
            families.entry(&node.family).or_default().push(at);
        }
        let mut left_out: BTreeMap<&str, Vec<&NodeSpec>> = BTreeMap::new();
        for node in &spec.left_out {
            left_out.entry(&node.family).or_default().push(node);
        }
        Self { spec, by_name, families, left_out }
    }

    /// `paired`: axes of the reader that decide which instances it reads are added.
    fn find(
        &self,
        reader: &NodeSpec,
        name: &'a str,
        place: &'a Tree,
        paired: &mut Vec<String>,
    ) -> Result<Reference<'a>, Box<Diagnostic>> {
        let (family, chosen) = matrix::parts(name);
        let family = self.in_scope(family, place);
        let exact = family.clone() + &name[matrix::parts(name).0.len()..];
        if let Some(at) = self.by_name.get(exact.as_str()) {
            return Ok(Reference { name, place, nodes: vec![*at], left_out: Vec::new() });
        }
        let instances = self.families.get(family.as_str()).map_or(&[][..], Vec::as_slice);
        let left_out = self.left_out.get(family.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(example) = instances.first().map(|at| &self.spec.nodes[*at]).or(left_out.first().copied()) else {
            return Err(Box::new(self.unknown(reader, name, place)));
        };
        // What is asked for by name holds, and of the reader's own axes those that are not.
        let is_all = chosen.as_ref().is_some_and(Vec::is_empty);
        let mut wanted = chosen.unwrap_or_default();
        for (axis, _) in &wanted {
            if !example.axes.iter().any(|(known, _)| known == axis) {
                let known = example.axes.iter().map(|(axis, _)| axis.as_str());
                let hint = suggestion::hint(axis, known, "its axes are")
                    .unwrap_or_else(|| format!("`{family}` has no matrix: write `{family}`"));
                let message = format!("node `{family}` has no axis `{axis}`");
                return Err(Box::new(place.mistake(code::UNKNOWN_NODE, message).hint(hint)));
            }
        }
        if !is_all {
            let own = reader.axes.iter().filter(|(axis, _)| example.axes.iter().any(|(known, _)| known == axis));
            for (axis, value) in own {
                if !wanted.iter().any(|(asked, _)| asked == axis) {
                    wanted.push((axis.clone(), value.clone()));
                    paired.push(axis.clone());
                }
            }
        }
        let fits = |node: &NodeSpec| wanted.iter().all(|axis| axis.1 == "*" || node.axes.contains(axis));
        let nodes: Vec<usize> = instances.iter().copied().filter(|at| fits(&self.spec.nodes[*at])).collect();
        let left_out: Vec<&NodeSpec> = left_out.iter().copied().filter(|node| fits(node)).collect();
        if nodes.is_empty() && left_out.is_empty() {
            let axes: Vec<String> = wanted.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
            let message = format!("no instance of `{family}` has {}", axes.join(" and "));
            let hint = format!("its instances are {}", listed(self.spec, instances));
            return Err(Box::new(place.mistake(code::UNKNOWN_NODE, message).hint(hint)));
        }
        Ok(Reference { name, place, nodes, left_out })
    }

    /// A name is looked for among those of the file that it is written in, then in the files around it.
    fn in_scope(&self, family: &str, place: &Tree) -> String {
        let scope: Vec<&str> = written(place).text.scope().collect();
        let candidates = (1..=scope.len()).rev().map(|depth| format!("{}/{family}", scope[..depth].join("/")));
        let is_known =
            |name: &String| self.families.contains_key(name.as_str()) || self.left_out.contains_key(name.as_str());
        candidates.into_iter().find(is_known).unwrap_or_else(|| family.to_owned())
    }

    fn unknown(&self, reader: &NodeSpec, name: &str, place: &Tree) -> Diagnostic {
        let known = self.families.keys().chain(self.left_out.keys()).copied().filter(|known| *known != reader.family);
        let mut ordered: Vec<&str> = known.collect();
        ordered.sort_by_key(|name| self.spec.nodes.iter().position(|node| node.family == *name));
        let hint = suggestion::hint(name, ordered, "the other nodes are");
        place.mistake(code::UNKNOWN_NODE, format!("no node `{name}`")).hint(hint)
    }
}

/// The names of some nodes, not too many.
pub(super) fn listed(spec: &Spec, nodes: &[usize]) -> String {
    const MOST: usize = 8;
    let names = nodes.iter().take(MOST).map(|at| spec.nodes[*at].key.name.as_str());
    match nodes.len().checked_sub(MOST) {
        None | Some(0) => suggestion::list(names),
        Some(more) => {
            let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            format!("{} and {more} more", names.join(", "))
        }
    }
}

/// Where the name is written: in a variable, if that gave it.
fn written(place: &Tree) -> &Span {
    let set = place.notes.iter().rev().find(|note| note.text == SET_HERE);
    set.map_or(&place.span, |note| &note.span)
}
