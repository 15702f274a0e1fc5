//! What will be done: every node typed, its inputs known, in an order that works.
//! Knows nothing of YAML, results or time.

mod inputs;
mod order;
mod parameters;
mod reference;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    code,
    diagnostic::{self, Diagnostic, Place},
    footprint::{Prospect, Prospects, Shared},
    plan::reference::References,
    registry::{Expand, Registered, Registry, Work},
    spec::{
        NodeSpec, Spec,
        tree::{Shape, Tree},
    },
    stage::Finding,
    suggestion,
};

/// A pipeline that can be run: [`Plan::resolve`] makes no other kind.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: String,
    /// Folder that relative paths start from.
    pub root: PathBuf,
    /// The pipeline's file, as the user gave it.
    pub file: PathBuf,
    /// Every node comes after the nodes it reads.
    pub(crate) nodes: Vec<Node>,
}

impl Plan {
    /// Decides what will be done. Reads no file but the sources that scripts pull in.
    ///
    /// # Errors
    /// With every mistake of the pipeline at once, in reading order.
    pub fn resolve(spec: &Spec, registry: &Registry) -> Result<Self, Vec<Diagnostic>> {
        let (mut mistakes, mut nodes, order) = Self::parts(spec, registry);
        if mistakes.is_empty() { Ok(Self::of_parts(spec, &mut nodes, order)) } else { Err(sorted(&mut mistakes)) }
    }

    /// As [`Plan::resolve`], and lets every stage look further ([`crate::Stage::inspect`]): at scripts, at what is known of
    /// inputs before they are made, at this machine. Runs no work and asks no store.
    ///
    /// # Errors
    /// As [`Plan::resolve`]. Where settings alone are at fault there is a plan all the same, since a result that is there
    /// already needs no work: they are in [`Inspected::unable`].
    pub fn inspect(spec: &Spec, registry: &Registry) -> Result<Inspected, Vec<Diagnostic>> {
        let (mut mistakes, mut nodes, order) = Self::parts(spec, registry);
        let unable = inspect(spec, &nodes, &order, &mut mistakes);
        if mistakes.is_empty() {
            return Ok(Inspected { plan: Self::of_parts(spec, &mut nodes, order), unable });
        }
        mistakes.extend(unable.into_values().flatten());
        Err(sorted(&mut mistakes))
    }

    /// The mistakes, the nodes without any as far as they can be told, in the order of the spec, and the order in which
    /// they come.
    fn parts(spec: &Spec, registry: &Registry) -> (Vec<Diagnostic>, Vec<Option<Node>>, Vec<usize>) {
        let mut mistakes = spec.mistakes.clone();
        for key in spec.defaults.iter().filter(|key| registry.get(&key.name).is_none()) {
            mistakes.push(unknown_stage(&key.name, key.mistake(code::UNKNOWN_STAGE, ""), registry));
        }
        let references = reference::resolve(spec, &mut mistakes);
        let order = order::check(spec, &references, &mut mistakes);
        let world = World { spec, registry, references };
        for node in &spec.left_out {
            world.check_left_out(node, &mut mistakes);
        }
        let nodes = (0..spec.nodes.len()).map(|at| world.resolve(at, &mut mistakes)).collect();
        (mistakes, nodes, order)
    }

    /// Without mistakes every node was resolved, and comes once.
    fn of_parts(spec: &Spec, nodes: &mut [Option<Node>], order: Vec<usize>) -> Self {
        let mut ordered = Vec::with_capacity(order.len());
        // Nodes are large: a vector that grew with them would move them again and again.
        ordered.extend(order.into_iter().filter_map(|at| nodes[at].take()));
        Self { name: spec.name.clone(), root: spec.root.clone(), file: spec.file.clone(), nodes: ordered }
    }

    /// Every node, each after the nodes it reads.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// A plan whose stages looked further than at their parameters.
#[derive(Debug)]
pub struct Inspected {
    pub plan: Plan,
    /// Settings with which work cannot be done on this machine, by node: mistakes of every node that has work.
    pub unable: BTreeMap<String, Vec<Diagnostic>>,
}

fn sorted(mistakes: &mut Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostic::sorted(std::mem::take(mistakes))
}

/// Lets every node that was resolved inspect what is known before anything is made. What is wrong with settings is
/// returned, by node.
fn inspect(
    spec: &Spec,
    nodes: &[Option<Node>],
    order: &[usize],
    mistakes: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Vec<Diagnostic>> {
    let shared = Shared::default();
    let mut outlines: BTreeMap<&str, Value> = BTreeMap::new();
    let mut unable: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
    for at in order {
        let (written, Some(node)) = (&spec.nodes[*at], &nodes[*at]) else { continue };
        let prospect = |name: &String| match outlines.get(name.as_str()) {
            Some(outline) => (name.clone(), Prospect::Outlined(outline.clone())),
            None => (name.clone(), Prospect::Unknown),
        };
        let inputs = node.inputs.iter().map(|input| (input.name.clone(), input.nodes.iter().map(prospect).collect()));
        let prospects = Prospects { root: spec.root.clone(), inputs: inputs.collect(), shared: shared.clone() };
        for finding in node.work.inspect(&prospects) {
            match finding {
                Finding::Parameter(problem) => {
                    mistakes.push(parameters::refused(&problem, written, (&written.with, &node.with)));
                }
                Finding::Setting(problem) => {
                    let mistake = parameters::refused(&problem, written, (&written.run, &node.settings));
                    unable.entry(node.name.clone()).or_default().push(mistake);
                }
            }
        }
        if let Some(outline) = node.work.outline(&prospects) {
            outlines.insert(&node.name, outline);
        }
    }
    unable
}

/// What a node is held against.
struct World<'a> {
    spec: &'a Spec,
    registry: &'a Registry,
    references: References<'a>,
}

fn unknown_stage(name: &str, mistake: Diagnostic, registry: &Registry) -> Diagnostic {
    let hint = suggestion::hint(name, registry.stages().map(|stage| stage.name), "the stages are");
    Diagnostic { message: format!("unknown stage `{name}`"), ..mistake }.hint(hint)
}

impl World<'_> {
    /// None where there is a mistake.
    fn resolve(&self, at: usize, mistakes: &mut Vec<Diagnostic>) -> Option<Node> {
        let node = &self.spec.nodes[at];
        let stage = self.known_stage(node, mistakes)?;
        let inputs = inputs::resolve(self, at, &stage.info, mistakes);
        let parameters = parameters::resolve(self, node, stage, mistakes)?;
        Some(Node {
            name: node.key.name.clone(),
            stage: stage.info.name,
            version: stage.info.version,
            output: self.output(node)?.to_owned(),
            with: parameters.with,
            settings: parameters.settings,
            seed: node.seed.unwrap_or(self.spec.seed),
            env: node.env.clone(),
            retries: node.retries,
            timeout: node.timeout,
            inputs,
            sources: parameters.sources,
            place: node.key.span.place(),
            places: places(node),
            work: parameters.work,
        })
    }

    /// What is wrong with it whoever switches it on. The files that it names may come with what it waits for.
    fn check_left_out(&self, node: &NodeSpec, mistakes: &mut Vec<Diagnostic>) {
        let mut found = Vec::new();
        if let Some(stage) = self.known_stage(node, &mut found) {
            parameters::resolve(self, node, stage, &mut found);
        }
        let is_of_files = |mistake: &Diagnostic| [code::MISSING_SOURCE, code::BAD_SOURCE].contains(&mistake.code);
        mistakes.extend(found.into_iter().filter(|mistake| !is_of_files(mistake)));
    }

    /// The stage that a node names. Mistakes are a name that no stage has, and keys that no node has.
    fn known_stage(&self, node: &NodeSpec, mistakes: &mut Vec<Diagnostic>) -> Option<&Registered> {
        let stage = self.stage(node);
        inputs::keys(node, stage.map(|stage| &stage.info), mistakes);
        let (name, written) = node.stage.as_ref()?;
        if stage.is_none() {
            mistakes.push(unknown_stage(name, written.mistake(code::UNKNOWN_STAGE, ""), self.registry));
        }
        stage
    }

    fn stage(&self, node: &NodeSpec) -> Option<&Registered> {
        node.stage.as_ref().and_then(|(name, _)| self.registry.get(name))
    }

    /// The kind of artifact that a node makes; none where its stage is a mistake.
    fn output<'b>(&'b self, node: &'b NodeSpec) -> Option<&'b str> {
        let info = &self.stage(node)?.info;
        let named = info.kind_parameter.and_then(|parameter| node.with.get(parameter));
        match named.map(|kind| &kind.shape) {
            Some(Shape::Text(kind)) => Some(kind),
            _ => Some(info.output),
        }
    }
}

/// Where each value of a node is written, by its path.
fn places(node: &NodeSpec) -> BTreeMap<String, Place> {
    fn collect(path: &str, tree: &Tree, places: &mut BTreeMap<String, Place>) {
        for (key, value) in tree.entries() {
            let path = format!("{path}.{}", key.name);
            collect(&path, value, places);
            places.insert(path, value.place());
        }
    }
    let mut places: BTreeMap<String, Place> =
        node.places.iter().map(|(name, place)| ((*name).to_owned(), place.clone())).collect();
    collect("with", &node.with, &mut places);
    collect("run", &node.run, &mut places);
    for input in node.inputs() {
        places.insert(format!("inputs.{}", input.key.name), input.value.place());
    }
    if let Some((_, stage)) = &node.stage {
        places.insert("stage".into(), stage.place());
    }
    places
}

/// A place in the pipeline where a stage does its work.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub stage: &'static str,
    pub version: u32,
    /// The kind of artifact it makes.
    pub output: String,
    /// Parameters after defaults and [`crate::Stage::resolve`].
    pub with: Value,
    /// The `run:` block after defaults.
    pub settings: Value,
    pub seed: u64,
    /// Names of the environment variables that its work may see. Their values are written down nowhere.
    pub env: Vec<String>,
    /// How often it is tried again after a failure.
    pub retries: u32,
    /// How long one try may take.
    pub timeout: Option<Duration>,
    /// In the order in which the stage declares them, then those of other names; an optional input that is not
    /// given is left out.
    pub inputs: Vec<NodeInput>,
    /// Files and folders whose bytes decide the result, by parameter.
    pub sources: Vec<NodeSource>,
    /// Where the node is written.
    pub place: Place,
    /// Where each value is written, by its path: `with.shape.layers`, `run.device`, `inputs.rows`.
    pub places: BTreeMap<String, Place>,
    pub(crate) work: Arc<dyn Work>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("stage", &self.stage)
            .field("with", &self.with)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

/// What a node reads by one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInput {
    pub name: String,
    pub nodes: Vec<String>,
    /// The result holds the nodes' names: [`crate::Arity::Named`].
    pub named: bool,
}

/// A parameter that is a file or folder.
#[derive(Debug, Clone)]
pub struct NodeSource {
    /// Path below `with:`, dots between: `script`, `files.0`.
    pub parameter: String,
    /// As written: relative to the root, or absolute.
    pub path: PathBuf,
    pub(crate) expand: Option<Expand>,
}

impl NodeSource {
    /// The file and what it pulls in, as paths that can be opened.
    ///
    /// # Errors
    /// When the file cannot be read or understood by whoever says what it pulls in.
    pub fn files(&self, root: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let path = root.join(&self.path);
        let mut files = match self.expand {
            Some(expand) => expand(&path)?,
            None => Vec::new(),
        };
        files.insert(0, path);
        Ok(files)
    }
}
