//! Runs a plan, five verbs a node: facts, open, run, publish, report.
//! Knows nothing of what a stage computes, nor of who watches.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use anyhow::{anyhow, bail};

use crate::{
    context::{Cancel, Cancelled, Context, InputArtifact, Progress},
    facts::Fingerprint,
    forecast::{damage, outside_result, reasons_to_make},
    manifest::{Origin, Provenance, utc},
    plan::{Node, Plan},
    reason::{Comparison, Gathered, Known, Reason, gather},
    report::{Failure, NodeReport, Outcome, Report},
    select::{Outside, Scope},
    store::{Artifact, Draft, Lookup, Store, StoreError},
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
    Progress {
        node: &'a str,
        progress: &'a Progress,
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
    /// How many nodes may run at once; zero for as many as there are cores.
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
            jobs: 1,
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

/// Makes what is not there. After the first node that fails, and after a request to stop, the rest is skipped:
/// the next run finds all that was made.
#[must_use]
pub fn run(plan: &Plan, store: &Store, options: &Options) -> Report {
    let mut run = Run { plan, store, options, known: Known::new() };
    let mut report = Report::default();
    let mut stopped: Option<String> = None;
    for node in plan.nodes() {
        let node_report = match &stopped {
            None => run.node(node),
            Some(why) => NodeReport::new(node, Outcome::Skipped(why.clone())),
        };
        if stopped.is_none() {
            match &node_report.outcome {
                Outcome::Failed(_) => stopped = Some(format!("`{}` failed", node.name)),
                Outcome::Skipped(_) if options.cancel.is_cancelled() => stopped = Some("stopped before it".into()),
                // Outside the scope, or behind such a node.
                Outcome::Skipped(_) | Outcome::Reused | Outcome::Made => {}
            }
        }
        tracing::debug!(node = node.name, outcome = %node_report.outcome, seconds = node_report.seconds);
        (options.watch)(&Event::Finished(&node_report));
        report.nodes.push(node_report);
    }
    // It only saves time: a store that can't be written to has failed louder elsewhere.
    let _ = store.save_memo();
    report
}

struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    known: Known,
}

impl Run<'_> {
    fn node(&mut self, node: &Node) -> NodeReport {
        let begun = Instant::now();
        let mut report = NodeReport::new(node, Outcome::Reused);
        report.outcome = match self.settle(node, &mut report) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(failure(error)),
        };
        report.seconds = begun.elapsed().as_secs_f64();
        report
    }

    fn settle(&mut self, node: &Node, report: &mut NodeReport) -> anyhow::Result<Outcome> {
        if self.options.cancel.is_cancelled() {
            return Ok(Outcome::Skipped("stopped before it".into()));
        }
        if let Some(outside) = self.options.outside(&node.name) {
            return self.look_outside(node, outside, report);
        }
        let now = gather(self.plan, node, self.store, &self.known)?;
        if let Some(needed) = now.unknown.first() {
            return Ok(Outcome::Skipped(format!("it needs `{needed}`, which was not selected and would have to run")));
        }
        let mut is_told = false;
        let mut patience = || {
            if !is_told {
                (self.options.watch)(&Event::Waiting { node });
                is_told = true;
            }
            !self.options.cancel.is_cancelled()
        };
        let store = self.store;
        let (outcome, artifact) = match store.open(&now.facts, &mut patience)? {
            Lookup::Busy => return Ok(Outcome::Skipped("stopped while another process was making it".into())),
            Lookup::Hit(artifact) => (Outcome::Reused, artifact),
            Lookup::Miss(draft) => match self.make(node, &now, draft, report)? {
                Some(artifact) => (Outcome::Made, artifact),
                None => return Ok(Outcome::Skipped("stopped; the next run continues it".into())),
            },
        };
        let last = store.last(&self.plan.name, &node.name).and_then(|last| store.recall(last.fingerprint));
        report.is_same_content = last.is_some_and(|(manifest, _)| manifest.content == artifact.manifest.content);
        store.remember(&self.plan.name, &node.name, artifact.manifest.fingerprint)?;
        report.artifact = Some(artifact.clone());
        self.known.insert(node.name.clone(), (artifact, now.legend));
        Ok(outcome)
    }

    /// A node that the run is not about: its result is taken where it is there, and never made.
    fn look_outside(&mut self, node: &Node, outside: Outside, report: &mut NodeReport) -> anyhow::Result<Outcome> {
        let Some((artifact, legend)) = outside_result(self.plan, node, self.store, &self.known, outside)? else {
            return Ok(Outcome::Skipped("not selected, and its result is not there".into()));
        };
        report.artifact = Some(artifact.clone());
        self.known.insert(node.name.clone(), (artifact, legend));
        Ok(Outcome::Reused)
    }

    /// Lets the stage do its work; `None` when it stopped because it was asked to.
    fn make(
        &self,
        node: &Node,
        now: &Gathered,
        draft: Draft<'_>,
        report: &mut NodeReport,
    ) -> anyhow::Result<Option<Artifact>> {
        let fingerprint = Fingerprint::of(&now.facts);
        let comparison = Comparison { plan: self.plan, store: self.store, known: &self.known };
        report.reasons = match &draft.damage {
            Some(what) => vec![damage(what)],
            None => reasons_to_make(&comparison, node, now, fingerprint),
        };
        let resumes = self.store.is_begun(fingerprint);
        (self.options.watch)(&Event::Started { node, reasons: &report.reasons, resumes });

        let (started, begun) = (SystemTime::now(), Instant::now());
        let context = self.context(node, &draft)?;
        let done = catch_unwind(AssertUnwindSafe(|| node.work.run(&context)))
            .unwrap_or_else(|panic| Err(anyhow!("the stage panicked: {}", message_of(&*panic))));
        drop(context);

        // Whatever came of it was computed from nobody knows which bytes: not even the scratch folder is worth keeping.
        if let Some(source) = self.changed_source(node, now) {
            draft.discard()?;
            bail!("{source} changed while the node ran; nothing was recorded, run again");
        }
        match done {
            Ok(()) => {
                let made = self.provenance(node, now, utc(started), begun.elapsed().as_secs_f64());
                Ok(Some(draft.publish(&node.output, made)?))
            }
            Err(error) if error.is::<Cancelled>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn context(&self, node: &Node, draft: &Draft<'_>) -> anyhow::Result<Context> {
        let inputs = node.inputs.iter().map(|input| {
            let artifacts = input.nodes.iter().map(|name| {
                let (artifact, _) = &self.known[name];
                InputArtifact { node: name.clone(), kind: artifact.manifest.kind.clone(), path: artifact.data() }
            });
            (input.name.clone(), artifacts.collect())
        });
        let (watch, name) = (self.options.watch.clone(), node.name.clone());
        Ok(Context {
            root: self.plan.root.clone(),
            inputs: inputs.collect(),
            output: draft.output(),
            scratch: draft.scratch(),
            records: draft.records(),
            temporary: draft.temporary(),
            lock: Some(draft.lock()?),
            seed: node.seed,
            env: node.env.clone(),
            cancel: self.options.cancel.clone(),
            deadline: None,
            watch: Box::new(move |progress| watch(&Event::Progress { node: &name, progress: &progress })),
            files: Mutex::default(),
        })
    }

    /// The first source that is no longer what the facts say.
    fn changed_source(&self, node: &Node, before: &Gathered) -> Option<String> {
        let after = match gather(self.plan, node, self.store, &self.known) {
            Ok(after) => after.facts.sources,
            Err(error) => return Some(format!("a source ({error:#})")),
        };
        let (parameter, _) =
            before.facts.sources.iter().find(|(parameter, files)| after.get(*parameter) != Some(*files))?;
        let file = before.legend.files[parameter].first().expect("a source is at least one file");
        Some(format!("`{}`, or what it imports,", file.display()))
    }

    fn provenance(&self, node: &Node, now: &Gathered, started: String, seconds: f64) -> Provenance {
        let origin =
            |name: &String| Origin { node: name.clone(), fingerprint: self.known[name].0.manifest.fingerprint };
        let inputs: BTreeMap<_, _> =
            node.inputs.iter().map(|input| (input.name.clone(), input.nodes.iter().map(origin).collect())).collect();
        Provenance {
            pipeline: self.plan.name.clone(),
            node: node.name.clone(),
            started,
            seconds,
            engine: env!("CARGO_PKG_VERSION").into(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            settings: node.settings.clone(),
            sources: now.legend.files.clone(),
            inputs,
        }
    }
}

fn failure(error: anyhow::Error) -> Failure {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
    };
    let is_infrastructure = error.chain().any(|cause| cause.is::<StoreError>() || is_full(cause));
    Failure { error, is_infrastructure }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests;
