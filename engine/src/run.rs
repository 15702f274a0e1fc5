//! Runs a plan, independent nodes at once, five verbs a node: facts, open, run, publish, report.
//! Knows nothing of what a stage computes, nor of who watches.

mod make;
mod room;
mod schedule;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use crate::{
    context::{Cancel, Progress},
    plan::{Node, Plan},
    reason::Reason,
    report::{NodeReport, Report},
    run::schedule::Schedule,
    select::{Outside, Scope},
    store::Store,
};

/// What happens during a run, for whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// The node's work begins.
    Started {
        node: &'a Node,
        reasons: &'a [Reason],
        /// An earlier try left something to continue from.
        resumes: bool,
    },
    /// Another process is making the same result; this one will take it.
    Waiting {
        node: &'a Node,
    },
    /// A try failed, and after a pause there is another.
    Retrying {
        node: &'a Node,
        error: &'a anyhow::Error,
        pause: Duration,
    },
    Progress {
        node: &'a str,
        progress: &'a Progress,
    },
    /// Something looks wrong and stops nothing. What still does at the end stays with the result: [`Artifact::warnings`].
    ///
    /// [`Artifact::warnings`]: crate::Artifact::warnings
    Warned {
        node: &'a str,
        text: &'a str,
    },
    Finished(&'a NodeReport),
}

/// Told every event, from whichever thread it happens on.
pub type Watch = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// What a run is about, who may stop it, and who watches it.
#[derive(Clone)]
pub struct Options {
    pub cancel: Cancel,
    pub watch: Watch,
    /// Only these nodes are made; all of them without a scope.
    pub scope: Option<Scope>,
    /// Nodes that are made anew although their result is there.
    pub force: BTreeSet<String>,
    /// After a failure, go on with whatever does not need it.
    pub keep_going: bool,
    /// How many cores there are to share out, and so how many nodes may run at once; zero for all of the machine's.
    pub jobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cancel: Cancel::default(),
            watch: Arc::new(|_| ()),
            scope: None,
            force: BTreeSet::new(),
            keep_going: false,
            jobs: 0,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cancel, watch: _, scope, force, keep_going, jobs } = self;
        f.debug_struct("Options")
            .field("cancel", cancel)
            .field("scope", scope)
            .field("force", force)
            .field("keep_going", keep_going)
            .field("jobs", jobs)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// How a node outside the scope comes by its result; none for a node inside.
    pub(crate) fn outside(&self, node: &str) -> Option<Outside> {
        self.scope.as_ref().filter(|scope| !scope.nodes.contains(node)).map(|scope| scope.outside)
    }
}

/// Makes what is not there. After a node that failed, unless it shall keep going, and after a request to stop, those that
/// run come to their end and nothing more is begun: the next run finds all that was made.
#[must_use]
pub fn run(plan: &Plan, store: &Store, options: &Options) -> Report {
    let span = tracing::info_span!("run", pipeline = plan.name);
    let report = span.in_scope(|| Schedule::new(plan, store, options).run());
    // It only saves time: a store that can't be written to has failed louder elsewhere.
    let _ = store.save_memo();
    report
}

#[cfg(test)]
mod tests;
