//! What will be done: every node typed, its inputs known, in an order that works.
//! Knows nothing of YAML, results or time.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    diagnostic::Place,
    registry::{Expand, Work},
};

/// A pipeline that can be run: [`Plan::resolve`] makes no other kind.
#[derive(Debug)]
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

/// A place in the pipeline where a stage does its work.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub stage: &'static str,
    pub version: u32,
    /// The kind of artifact it makes.
    pub output: &'static str,
    /// Parameters after defaults and [`crate::Stage::resolve`].
    pub with: Value,
    /// The `run:` block after defaults.
    pub settings: Value,
    pub seed: u64,
    /// In the order in which the stage declares them; an optional input that is not given is left out.
    pub inputs: Vec<NodeInput>,
    /// Files and folders whose bytes decide the result, by parameter.
    pub sources: Vec<NodeSource>,
    /// Where the node is written.
    pub place: Place,
    /// Where each value is written, by its path: `with.model.layers`, `run.device`, `inputs.rows`.
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
