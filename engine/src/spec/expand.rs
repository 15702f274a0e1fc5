//! Makes of each node as written the nodes that are meant: one for each instance of its matrix, with the defaults of
//! its stage, and every expression replaced.
//! Knows nothing of what stages take.

use crate::{
    code,
    diagnostic::Diagnostic,
    spec::{
        include::Own,
        matrix::{self, Instance},
        merge::merge,
        overrides::Override,
        tree::{Key, Shape, Tree},
        vars::{self, Substitution},
    },
    suggestion,
};

/// A node whose values are all there.
#[derive(Debug)]
pub(crate) struct Expanded {
    /// As written.
    pub key: Key,
    /// `grow[seed=1]`
    pub name: String,
    pub axes: Vec<(String, String)>,
    pub unused_axes: Vec<Key>,
    pub tree: Tree,
}

/// The nodes of a file, which loses them; none where it has no block of them. Every other value of the file is replaced where it stands.
pub(crate) fn expand(
    tree: &mut Tree,
    own: &[Own],
    instances: &[Override],
    bytes: usize,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Vec<Expanded>> {
    let nodes = match tree.get("nodes").map(|nodes| &nodes.shape) {
        Some(Shape::Block(entries)) if !entries.is_empty() => tree.remove("nodes"),
        _ => None,
    };
    let defaults = tree.remove("defaults");
    let mut vars = tree.get("vars").cloned().unwrap_or_else(|| Tree::block(&tree.span));
    if !matches!(vars.shape, Shape::Block(_)) {
        vars.shape = Shape::Block(Vec::new());
    }
    let mut substitution = Substitution::new(&vars, bytes, mistakes);
    if let Shape::Block(entries) = &mut tree.shape {
        for (_, value) in entries.iter_mut().filter(|(key, _)| !key.name.starts_with("x-")) {
            substitution.walk(value, None);
        }
    }
    let mut expansion = Expansion { substitution, own, defaults: defaults.as_ref().map(|(_, tree)| tree) };
    let expanded = nodes.as_ref().map(|(_, nodes)| {
        let expand = |(key, node): &(Key, Tree)| expansion.node(key, node, instances);
        nodes.entries().iter().flat_map(expand).collect::<Vec<_>>()
    });
    if let Some(expanded) = &expanded {
        unmatched(expanded, instances, mistakes);
    }
    if let (Some(entry), Shape::Block(entries)) = (defaults, &mut tree.shape) {
        entries.push(entry);
    }
    expanded
}

/// An override of an instance that no matrix has.
fn unmatched(expanded: &[Expanded], instances: &[Override], mistakes: &mut Vec<Diagnostic>) {
    for words in instances {
        let wanted = words.node();
        if expanded.iter().any(|node| node.name == wanted.name) {
            continue;
        }
        let (family, _) = matrix::parts(&wanted.name);
        let known = expanded.iter().filter(|node| node.key.name == family).map(|node| node.name.as_str());
        let hint = suggestion::hint(&wanted.name, known.take(8), "its instances are");
        mistakes.push(wanted.mistake(code::BAD_OVERRIDE, format!("no node `{}` to set", wanted.name)).hint(hint));
    }
}

struct Expansion<'a> {
    substitution: Substitution<'a>,
    own: &'a [Own],
    defaults: Option<&'a Tree>,
}

impl Expansion<'_> {
    fn node(&mut self, key: &Key, node: &Tree, overrides: &[Override]) -> Vec<Expanded> {
        let mut node = node.clone();
        let is_wholly_computed = matches!(&node.shape, Shape::Text(text) if text.contains("${{"));
        if is_wholly_computed {
            self.substitution.walk(&mut node, None);
        }
        let Some((_, mut matrix)) = node.remove("matrix") else {
            // A name like `grow[seed=1]`, as `render` writes it, is an instance too.
            let axes = matrix::parts(&key.name).1.unwrap_or_default();
            let tree = self.complete(&key.name, node, None);
            return vec![Expanded { key: key.clone(), name: key.name.clone(), axes, unused_axes: Vec::new(), tree }];
        };
        self.substitution.walk(&mut matrix, None);
        let instances = matrix::instances(&key.name, &matrix, self.substitution.mistakes);
        let asked = vars::axes(&node);
        let unused = |axis: &&Key| !asked.contains(&axis.name);
        let mut unused_axes: Vec<Key> = matrix.entries().iter().map(|(axis, _)| axis).filter(unused).cloned().collect();
        let mut expanded = Vec::with_capacity(instances.len());
        for Instance { name, axes, values } in instances {
            let mut tree = node.clone();
            for words in overrides.iter().filter(|words| words.node().name == name) {
                if let Err(mistake) = words.apply_to(&mut tree) {
                    self.substitution.mistakes.push(*mistake);
                }
            }
            let tree = self.complete(&name, tree, Some(&values));
            let unused_axes = std::mem::take(&mut unused_axes);
            expanded.push(Expanded { key: key.clone(), name, axes, unused_axes, tree });
        }
        expanded
    }

    /// With every expression replaced, over the defaults that hold for it.
    fn complete(&mut self, name: &str, mut node: Tree, matrix: Option<&Tree>) -> Tree {
        self.substitution.walk(&mut node, matrix);
        let stage = match node.get("stage").map(|stage| &stage.shape) {
            Some(Shape::Text(stage)) => stage.clone(),
            _ => return node,
        };
        let around = self.own.iter().filter(|own| name.starts_with(&own.prefix)).collect::<Vec<_>>();
        for own in &around {
            let Some(mut seed) = own.seed.clone().filter(|_| node.get("seed").is_none()) else { continue };
            self.substitution.walk(&mut seed, None);
            let key = Key { name: "seed".into(), span: seed.span.clone(), notes: Vec::new() };
            if let Shape::Block(entries) = &mut node.shape {
                entries.push((key, seed));
            }
        }
        let layers = around.iter().filter_map(|own| own.defaults.as_ref()).chain(self.defaults);
        for defaults in layers {
            let Some(defaults) = defaults.get(&stage) else { continue };
            let mut defaults = defaults.clone();
            self.substitution.walk(&mut defaults, matrix);
            node = merge(defaults, node);
        }
        node
    }
}
