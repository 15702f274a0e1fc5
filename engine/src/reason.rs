//! Why a node's facts are not what they were: every change as a sentence, down to the node that caused it.
//! Knows nothing of how a plan is run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    diagnostic::Place,
    digest::Digest,
    facts::{Change, FORMAT, Facts, Fingerprint, InputFacts, Legend},
    manifest::Manifest,
    plan::{Node, Plan},
    store::{Artifact, Store},
};

/// One reason why a node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Such as `with.rate: 1e-5 -> 3e-6 (pipelines/r1.yaml:41:22)`.
    pub sentence: String,
    /// The fact that changed, where one did.
    pub change: Option<Change>,
    /// Where the new value is written.
    pub place: Option<Place>,
    /// The node that changed an input, and why that one changed.
    pub cause: Option<Cause>,
}

/// What is behind a changed input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub node: String,
    pub reasons: Vec<Reason>,
}

impl Reason {
    /// A reason that is no change of a fact.
    pub(crate) fn of(sentence: String) -> Self {
        Self { sentence, change: None, place: None, cause: None }
    }
}

impl From<&str> for Reason {
    fn from(sentence: &str) -> Self {
        Self::of(sentence.into())
    }
}

/// On one line: `input rows: content changed, 1f.. -> 5a.., because cold changed: with.rows: 10 -> 20`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        let Some(cause) = &self.cause else { return Ok(()) };
        write!(f, ", because {} changed: ", cause.node)?;
        for (i, reason) in cause.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// A node's facts, as far as they are known, and where they are written.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub facts: Facts,
    pub legend: Legend,
    /// Nodes whose results it needs and that are not known yet.
    pub unknown: BTreeSet<String>,
}

/// Nodes of a plan whose results are known.
pub(crate) type Known = BTreeMap<String, (Artifact, Legend)>;

/// Reads whatever decides the node's result.
pub(crate) fn gather(plan: &Plan, node: &Node, store: &Store, known: &Known) -> anyhow::Result<Gathered> {
    let mut with = node.with.clone();
    let (sources, files) = sources(plan, node, store)?;
    for source in &node.sources {
        // The bytes decide, not where they lie.
        *parameter(&mut with, &source.parameter) = Value::Null;
    }
    let (mut inputs, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for input in &node.inputs {
        let mut artifacts = Vec::new();
        for name in &input.nodes {
            let Some((artifact, _)) = known.get(name) else {
                unknown.insert(name.clone());
                continue;
            };
            let name = input.named.then(|| name.clone());
            artifacts.push(InputFacts { name, kind: artifact.brief.kind.clone(), content: artifact.brief.content });
        }
        inputs.insert(input.name.clone(), artifacts);
    }
    let facts = Facts {
        engine: FORMAT,
        stage: node.stage.into(),
        version: node.version,
        with,
        sources,
        seed: node.seed,
        inputs,
    };
    Ok(Gathered { facts, legend: Legend { places: node.places.clone(), files }, unknown })
}

/// By parameter, the digests of a node's sources and of what they pull in.
type Digests = BTreeMap<String, Vec<Digest>>;
/// By parameter, where those lie.
type Files = BTreeMap<String, Vec<PathBuf>>;

/// Reads every source of a node.
pub(crate) fn sources(plan: &Plan, node: &Node, store: &Store) -> anyhow::Result<(Digests, Files)> {
    let (mut sources, mut files) = (BTreeMap::new(), BTreeMap::new());
    for source in &node.sources {
        let about = || format!("reading with.{} `{}`", source.parameter, source.path.display());
        let paths = source.files(&plan.root).with_context(about)?;
        let digests: std::io::Result<Vec<Digest>> = paths.iter().map(|path| store.digest(path)).collect();
        sources.insert(source.parameter.clone(), digests.with_context(about)?);
        files.insert(source.parameter.clone(), paths.iter().map(|path| below(&plan.root, path)).collect());
    }
    Ok((sources, files))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).into()
}

/// The value at a path such as `files.0`.
fn parameter<'a>(with: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(with, |value, name| match value {
        Value::Array(items) => &mut items[name.parse::<usize>().expect("the plan found a source at this path")],
        other => &mut other[name],
    })
}

/// Compares the results of a plan with those it had before.
pub(crate) struct Comparison<'a> {
    pub plan: &'a Plan,
    pub store: &'a Store,
    pub known: &'a Known,
}

impl Comparison<'_> {
    /// Why the node's facts are not those of the result that it had last.
    pub fn since_last(&self, node: &Node, now: &Gathered) -> Vec<Reason> {
        let Some(last) = self.store.last(&self.plan.name, &node.name) else {
            return vec!["it was never made".into()];
        };
        self.since(node, now, last.fingerprint)
    }

    /// What differs between the node's facts and those of an earlier result.
    pub fn since(&self, node: &Node, now: &Gathered, earlier: Fingerprint) -> Vec<Reason> {
        let Some((manifest, facts)) = self.store.recall(earlier) else {
            return vec!["its stored result is gone".into()];
        };
        let unknown = |input: &str| {
            let nodes = node.inputs.iter().filter(|known| known.name == input).flat_map(|input| &input.nodes);
            nodes.into_iter().any(|name| now.unknown.contains(name))
        };
        let mut changes = now.facts.changes_since(&facts);
        changes.retain(|change| match change {
            Change::Input { name, .. } | Change::InputCount { name, .. } => !unknown(name),
            Change::Engine { .. }
            | Change::Stage { .. }
            | Change::Version { .. }
            | Change::Seed { .. }
            | Change::Parameter { .. }
            | Change::Source { .. }
            | Change::SourceFiles { .. } => true,
        });
        self.reasons(node, &changes, &now.legend, &manifest, &mut BTreeSet::new())
    }

    fn reasons(
        &self,
        node: &Node,
        changes: &[Change],
        legend: &Legend,
        earlier: &Manifest,
        seen: &mut BTreeSet<String>,
    ) -> Vec<Reason> {
        let reason = |change: &Change| Reason {
            sentence: change.sentence(legend),
            change: Some(change.clone()),
            place: change.place(legend).cloned(),
            cause: self.cause(node, change, earlier, seen),
        };
        changes.iter().map(reason).collect()
    }

    /// The node behind a changed input, told once: two inputs may come from the same one.
    fn cause(&self, node: &Node, change: &Change, earlier: &Manifest, seen: &mut BTreeSet<String>) -> Option<Cause> {
        let Change::Input { name, position, old, new } = change else { return None };
        if old.content == new.content {
            return None;
        }
        let maker = node.inputs.iter().find(|input| input.name == *name)?.nodes.get(*position)?;
        let (artifact, legend) = self.known.get(maker)?;
        if !seen.insert(maker.clone()) {
            return Some(Cause { node: maker.clone(), reasons: vec!["as said before".into()] });
        }
        let origin = earlier.made.inputs.get(name)?.get(*position)?;
        let (before, facts) = self.store.recall(origin.fingerprint)?;
        let changes = artifact.facts().ok()?.changes_since(&facts);
        let mut reasons = self.reasons(self.plan.node(maker)?, &changes, legend, &before, seen);
        if reasons.is_empty() {
            reasons.push("the same facts gave other bytes".into());
        }
        Some(Cause { node: maker.clone(), reasons })
    }
}
