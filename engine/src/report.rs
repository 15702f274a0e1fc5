//! What came of a run, node by node. Knows nothing of how it is shown.

use std::fmt;

use crate::{plan::Node, reason::Reason, store::Artifact};

/// Every node of the plan, in the plan's order.
#[derive(Debug, Default)]
pub struct Report {
    pub nodes: Vec<NodeReport>,
}

impl Report {
    /// The node that ended the run.
    #[must_use]
    pub fn failure(&self) -> Option<(&NodeReport, &Failure)> {
        self.nodes.iter().find_map(|node| match &node.outcome {
            Outcome::Failed(failure) => Some((node, failure)),
            Outcome::Reused | Outcome::Made | Outcome::Skipped(_) => None,
        })
    }

    #[must_use]
    pub fn count(&self, is_counted: impl Fn(&Outcome) -> bool) -> usize {
        self.nodes.iter().filter(|node| is_counted(&node.outcome)).count()
    }
}

#[derive(Debug)]
pub struct NodeReport {
    pub node: String,
    pub stage: &'static str,
    pub outcome: Outcome,
    /// How long this run took over it.
    pub seconds: f64,
    /// Why it was made.
    pub reasons: Vec<Reason>,
    /// The result, where there is one.
    pub artifact: Option<Artifact>,
    /// Its content is what it was the time before: nothing behind it has to run for its sake.
    pub is_same_content: bool,
}

impl NodeReport {
    pub(crate) fn new(node: &Node, outcome: Outcome) -> Self {
        Self {
            node: node.name.clone(),
            stage: node.stage,
            outcome,
            seconds: 0.0,
            reasons: Vec::new(),
            artifact: None,
            is_same_content: false,
        }
    }
}

#[derive(Debug)]
pub enum Outcome {
    /// The result was there.
    Reused,
    /// The stage did its work, and its result is there now.
    Made,
    Failed(Failure),
    /// It did not come to it, or was stopped; with the reason.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Reused => "reused",
            Outcome::Made => "made",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        })
    }
}

/// Why a node failed.
#[derive(Debug)]
pub struct Failure {
    pub error: anyhow::Error,
    /// The disk or the store, not the pipeline: nothing in it needs mending.
    pub is_infrastructure: bool,
}
