//! Says what a run would do, without doing any of it: reuse, run, or wait to see.
//! Knows nothing of how a node does its work.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    facts::{Facts, Fingerprint, Legend},
    footprint::{Footprint, Prospect, Prospects, Shared},
    plan::{Node, Plan},
    reason::{Comparison, Gathered, Known, Reason, gather},
    run::Options,
    select::Outside,
    store::{Artifact, Found, Store, StoreError},
};

/// What a run would do with one node.
#[derive(Debug)]
pub struct Forecast {
    pub node: String,
    pub stage: &'static str,
    pub verdict: Verdict,
    /// How long making it took the last time, where somebody made it.
    pub seconds_last_time: Option<f64>,
    /// The result that its facts name, where they are known.
    pub fingerprint: Option<Fingerprint>,
    /// What its work will hold in memory, where there is work and its stage says so.
    pub footprint: Option<Footprint>,
}

/// Three words, because a node behind another that runs can't be known: the other may give the same content.
#[derive(Debug)]
pub enum Verdict {
    Reuse(Box<Reuse>),
    Run {
        reasons: Vec<Reason>,
        /// An earlier try left something to continue from.
        resumes: bool,
    },
    Waits {
        /// The nodes whose content decides.
        on: Vec<String>,
        /// The nodes that run and so began it, upstream of those or among them; the first few.
        causes: Vec<String>,
        /// What changed in the node itself.
        reasons: Vec<Reason>,
    },
    /// It was not selected and its result is not there, or it needs such a node.
    Left {
        why: String,
    },
    /// Its facts can't be gathered: a file is missing, say.
    Fails(anyhow::Error),
}

/// A result that is there.
#[derive(Debug)]
pub struct Reuse {
    pub artifact: Artifact,
    /// It was made on another class of device than is asked for now: `(made on, asked for)`.
    pub device: Option<(String, String)>,
    /// Why this result took the place of the one before.
    pub since_before: Vec<Reason>,
}

impl Verdict {
    /// Would a run have work here?
    #[must_use]
    pub fn is_work(&self) -> bool {
        match self {
            Verdict::Run { .. } | Verdict::Waits { .. } | Verdict::Fails(_) => true,
            Verdict::Reuse(_) | Verdict::Left { .. } => false,
        }
    }

    /// `reuse`, `run`, `waits`, `left` or `fails`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Reuse(_) => "reuse",
            Verdict::Run { .. } => "run",
            Verdict::Waits { .. } => "waits",
            Verdict::Left { .. } => "left",
            Verdict::Fails(_) => "fails",
        }
    }
}

/// What [`crate::run`] would do without options.
///
/// # Errors
/// When the store does not answer.
pub fn forecast(plan: &Plan, store: &Store) -> Result<Vec<Forecast>, StoreError> {
    forecast_with(plan, store, &Options::default())
}

/// What [`crate::run`] would do with these options. Goes through the plan in order.
///
/// # Errors
/// When the store does not answer.
pub fn forecast_with(plan: &Plan, store: &Store, options: &Options) -> Result<Vec<Forecast>, StoreError> {
    let mut judge = Judge::new(plan, store, options);
    plan.nodes().iter().map(|node| judge.node(node)).collect()
}

struct Judge<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    known: Known,
    /// Of every node that runs or waits, the nodes that began it.
    causes: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// What nodes whose results are not there say of them.
    outlines: BTreeMap<&'a str, Value>,
    shared: Shared,
}

impl<'a> Judge<'a> {
    fn new(plan: &'a Plan, store: &'a Store, options: &'a Options) -> Self {
        let (causes, outlines) = (BTreeMap::new(), BTreeMap::new());
        Self { plan, store, options, known: Known::new(), causes, outlines, shared: Shared::default() }
    }

    fn node(&mut self, node: &'a Node) -> Result<Forecast, StoreError> {
        let (verdict, fingerprint) = self.judge(node)?;
        let mut footprint = None;
        if matches!(verdict, Verdict::Run { .. } | Verdict::Waits { .. }) {
            let prospects = self.prospects(node);
            footprint = node.work.footprint(&prospects);
            if let Some(outline) = node.work.outline(&prospects) {
                self.outlines.insert(&node.name, outline);
            }
        }
        let seconds_last_time = match &verdict {
            Verdict::Reuse(reuse) => Some(reuse.artifact.brief.seconds),
            Verdict::Run { .. } | Verdict::Waits { .. } => self.seconds_last_time(node),
            Verdict::Left { .. } | Verdict::Fails(_) => None,
        };
        let (name, stage) = (node.name.clone(), node.stage);
        Ok(Forecast { node: name, stage, verdict, seconds_last_time, fingerprint, footprint })
    }

    fn prospects(&self, node: &Node) -> Prospects {
        let prospect = |name: &String| match (self.known.get(name), self.outlines.get(name.as_str())) {
            (Some((artifact, _)), _) => Prospect::There(artifact.data()),
            (None, Some(outline)) => Prospect::Outlined(outline.clone()),
            (None, None) => Prospect::Unknown,
        };
        let of = |nodes: &[String]| nodes.iter().map(|name| (name.clone(), prospect(name))).collect();
        let inputs = node.inputs.iter().map(|input| (input.name.clone(), of(&input.nodes))).collect();
        Prospects { root: self.plan.root.clone(), inputs, shared: self.shared.clone() }
    }

    fn judge(&mut self, node: &'a Node) -> Result<(Verdict, Option<Fingerprint>), StoreError> {
        if let Some(outside) = self.options.outside(&node.name) {
            return Ok((self.judge_outside(node, outside)?, None));
        }
        let now = match gather(self.plan, node, self.store, &self.known) {
            Ok(now) => now,
            Err(error) => return Ok((Verdict::Fails(error), None)),
        };
        let comparison = Comparison { plan: self.plan, store: self.store, known: &self.known };
        if !now.unknown.is_empty() {
            let causes = self.causes_of(&now.unknown);
            if causes.is_empty() {
                let why = format!("it needs {}, which was not selected and would have to run", quoted(&now.unknown));
                return Ok((Verdict::Left { why }, None));
            }
            let last = self.store.last(&self.plan.name, &node.name);
            let reasons = last.map_or(Vec::new(), |last| comparison.since(node, &now, last.fingerprint));
            let told = causes.iter().take(CAUSES).map(|cause| (*cause).to_owned()).collect();
            self.causes.insert(&node.name, causes);
            return Ok((Verdict::Waits { on: now.unknown.into_iter().collect(), causes: told, reasons }, None));
        }
        let fingerprint = Fingerprint::of(&now.facts);
        let reasons = if self.options.force.contains(&node.name) {
            vec![forced()]
        } else {
            match self.store.find(fingerprint)? {
                Found::Whole(artifact) => return Ok((self.reuse(node, now, artifact), Some(fingerprint))),
                Found::Damaged(what) => vec![damage(&what)],
                Found::Absent => reasons_to_make(&comparison, node, &now, fingerprint),
            }
        };
        self.causes.insert(&node.name, BTreeSet::from([node.name.as_str()]));
        Ok((Verdict::Run { reasons, resumes: self.store.is_begun(fingerprint) }, Some(fingerprint)))
    }

    fn reuse(&mut self, node: &Node, now: Gathered, artifact: Artifact) -> Verdict {
        let fingerprint = artifact.fingerprint;
        let last = self.store.last(&self.plan.name, &node.name);
        // A result that was there already when the node came to it took the place of the last one just now.
        let before =
            last.and_then(|last| if last.fingerprint == fingerprint { last.before } else { Some(last.fingerprint) });
        let comparison = Comparison { plan: self.plan, store: self.store, known: &self.known };
        let since_before = before.map_or(Vec::new(), |before| comparison.since(node, &now, before));
        let device = other_device(&artifact.brief.settings, &node.settings);
        self.known.insert(node.name.clone(), (artifact.clone(), now.legend));
        Verdict::Reuse(Box::new(Reuse { artifact, device, since_before }))
    }

    fn judge_outside(&mut self, node: &Node, outside: Outside) -> Result<Verdict, StoreError> {
        let Some((artifact, legend)) = outside_result(self.plan, node, self.store, &self.known, outside)? else {
            return Ok(Verdict::Left { why: "it was not selected, and its result is not there".into() });
        };
        self.known.insert(node.name.clone(), (artifact.clone(), legend));
        Ok(Verdict::Reuse(Box::new(Reuse { artifact, device: None, since_before: Vec::new() })))
    }

    /// Who began what these nodes wait for; nobody where they were left out and are not there.
    fn causes_of(&self, nodes: &BTreeSet<String>) -> BTreeSet<&'a str> {
        let causes = nodes.iter().filter_map(|node| self.causes.get(node.as_str())).flatten().copied();
        causes.take(CAUSES * 4).collect()
    }

    fn seconds_last_time(&self, node: &Node) -> Option<f64> {
        let last = self.store.last(&self.plan.name, &node.name)?;
        Some(self.store.recall(last.fingerprint)?.0.made.seconds)
    }
}

/// As many causes of a node that waits are told.
const CAUSES: usize = 4;

fn quoted(names: &BTreeSet<String>) -> String {
    crate::suggestion::list(names.iter().map(String::as_str))
}

/// The result of a node that a run is not about, if it is there.
pub(crate) fn outside_result(
    plan: &Plan,
    node: &Node,
    store: &Store,
    known: &Known,
    outside: Outside,
) -> Result<Option<(Artifact, Legend)>, StoreError> {
    let (fingerprint, legend) = match outside {
        Outside::Last => match store.last(&plan.name, &node.name) {
            Some(last) => (last.fingerprint, Legend::default()),
            None => return Ok(None),
        },
        Outside::Current => match gather(plan, node, store, known) {
            Ok(Gathered { facts, legend, unknown }) if unknown.is_empty() => (Fingerprint::of(&facts), legend),
            // Whoever needs it will say so.
            Ok(_) | Err(_) => return Ok(None),
        },
    };
    Ok(match store.find(fingerprint)? {
        Found::Whole(artifact) => Some((artifact, legend)),
        Found::Absent | Found::Damaged(_) => None,
    })
}

/// Why a result that is not there has to be made.
pub(crate) fn reasons_to_make(
    comparison: &Comparison<'_>,
    node: &Node,
    now: &Gathered,
    fingerprint: Fingerprint,
) -> Vec<Reason> {
    let last = comparison.store.last(&comparison.plan.name, &node.name);
    if last.is_some_and(|last| last.fingerprint == fingerprint) {
        return vec!["its stored result is gone".into()];
    }
    comparison.since_last(node, now)
}

pub(crate) fn damage(what: &str) -> Reason {
    Reason::of(format!("its stored result was damaged: {what}"))
}

pub(crate) fn forced() -> Reason {
    "asked for by --force".into()
}

/// The classes of device of two `run:` blocks, `cuda` of `cuda:0`, where they differ.
fn other_device(made: &Value, asked: &Value) -> Option<(String, String)> {
    let class = |settings: &Value| Some(settings.get("device")?.as_str()?.split(':').next()?.to_owned());
    let (made, asked) = (class(made)?, class(asked)?);
    (made != asked).then_some((made, asked))
}

/// The facts of a node as they are now.
#[derive(Debug)]
pub struct FactsNow {
    pub facts: Facts,
    pub legend: Legend,
    /// Nodes whose results it needs and that are not known yet: the facts lack their content.
    pub unknown: BTreeSet<String>,
}

/// What decides a node's result today, as far as it is known: the document whose hash is the fingerprint.
/// None where the plan has no such node, or a file that decides it can't be read.
///
/// # Errors
/// When the store does not answer.
pub fn facts_now(plan: &Plan, node: &str, store: &Store) -> Result<Option<FactsNow>, StoreError> {
    let needed = plan.with_needs(&BTreeSet::from([node.to_owned()]));
    let options = Options::default();
    let mut judge = Judge::new(&needed, store, &options);
    for each in needed.nodes() {
        if each.name == node {
            let now = gather(&needed, each, store, &judge.known).ok();
            return Ok(now.map(|Gathered { facts, legend, unknown }| FactsNow { facts, legend, unknown }));
        }
        judge.judge(each)?;
    }
    Ok(None)
}
