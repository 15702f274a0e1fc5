//! Says what a run would do, without doing any of it: reuse, run, or wait to see.
//! Knows nothing of how a node does its work.

use serde_json::Value;

use crate::{
    facts::Fingerprint,
    plan::{Node, Plan},
    reason::{Comparison, Known, Reason, gather},
    store::{Artifact, Found, Store, StoreError},
};

/// What a run would do with one node.
#[derive(Debug)]
pub struct Forecast {
    pub node: String,
    pub stage: &'static str,
    pub verdict: Verdict,
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
        /// What changed in the node itself.
        reasons: Vec<Reason>,
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

/// Goes through the plan in order.
///
/// # Errors
/// When the store does not answer.
pub fn forecast(plan: &Plan, store: &Store) -> Result<Vec<Forecast>, StoreError> {
    let mut known = Known::new();
    let mut forecasts = Vec::new();
    for node in plan.nodes() {
        let verdict = judge(plan, node, store, &mut known)?;
        forecasts.push(Forecast { node: node.name.clone(), stage: node.stage, verdict });
    }
    Ok(forecasts)
}

fn judge(plan: &Plan, node: &Node, store: &Store, known: &mut Known) -> Result<Verdict, StoreError> {
    let now = match gather(plan, node, store, known) {
        Ok(now) => now,
        Err(error) => return Ok(Verdict::Fails(error)),
    };
    let comparison = Comparison { plan, store, known };
    if !now.unknown.is_empty() {
        let on = now.unknown.iter().cloned().collect();
        let last = store.last(&plan.name, &node.name);
        let reasons = last.map_or(Vec::new(), |last| comparison.since(node, &now, last.fingerprint));
        return Ok(Verdict::Waits { on, reasons });
    }
    let fingerprint = Fingerprint::of(&now.facts);
    let reasons = match store.find(fingerprint)? {
        Found::Whole(artifact) => {
            let last = store.last(&plan.name, &node.name);
            // A result that was there already when the node came to it took the place of the last one just now.
            let before = last
                .and_then(|last| if last.fingerprint == fingerprint { last.before } else { Some(last.fingerprint) });
            let since_before = before.map_or(Vec::new(), |before| comparison.since(node, &now, before));
            let device = other_device(&artifact.manifest.made.settings, &node.settings);
            known.insert(node.name.clone(), (artifact.clone(), now.legend));
            return Ok(Verdict::Reuse(Box::new(Reuse { artifact, device, since_before })));
        }
        Found::Damaged(what) => vec![damage(&what)],
        Found::Absent => reasons_to_make(&comparison, node, &now, fingerprint),
    };
    Ok(Verdict::Run { reasons, resumes: store.is_begun(fingerprint) })
}

/// Why a result that is not there has to be made.
pub(crate) fn reasons_to_make(
    comparison: &Comparison<'_>,
    node: &Node,
    now: &crate::reason::Gathered,
    fingerprint: Fingerprint,
) -> Vec<Reason> {
    let last = comparison.store.last(&comparison.plan.name, &node.name);
    if last.is_some_and(|last| last.fingerprint == fingerprint) {
        return vec!["its stored result is gone".into()];
    }
    comparison.since_last(node, now)
}

pub(crate) fn damage(what: &str) -> Reason {
    Reason { sentence: format!("its stored result was damaged: {what}"), cause: None }
}

/// The classes of device of two `run:` blocks, `cuda` of `cuda:0`, where they differ.
fn other_device(made: &Value, asked: &Value) -> Option<(String, String)> {
    let class = |settings: &Value| Some(settings.get("device")?.as_str()?.split(':').next()?.to_owned());
    let (made, asked) = (class(made)?, class(asked)?);
    (made != asked).then_some((made, asked))
}
