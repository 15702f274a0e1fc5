//! Which node's turn it is: those whose inputs are there, as many at once as there is room for.
//! Knows nothing of how a node's work is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, Scope},
    time::{Duration, Instant},
};

use crate::{
    facts::{Fingerprint, Legend},
    forecast::{damage, forced, outside_result, reasons_to_make},
    plan::{Node, Plan},
    reason::{Comparison, Known, gather},
    report::{NodeReport, Outcome, Report},
    run::{
        Event, Options,
        make::{Job, Turn, failure},
        room::{Claim, Room},
    },
    store::{Artifact, Found, Last, Lease, Store},
};

/// How long before a result that somebody else is making is looked for again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Threads of stages: interpreters and graphs go deeper than a thread's usual two megabytes.
const STACK: usize = 64 << 20;

pub(super) struct Schedule<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    /// What this run uses, until it ends.
    lease: Lease,
    known: Known,
    /// By position in the plan: how many nodes it still waits for, and who waits for it.
    missing: Vec<usize>,
    readers: Vec<Vec<usize>>,
    /// Not looked at yet, and all they read is settled.
    ready: BTreeSet<usize>,
    /// Looked at, and to be made.
    waiting: BTreeMap<usize, Waiting<'a>>,
    running: usize,
    room: Room,
    reports: Vec<Option<NodeReport>>,
    /// Why nothing more is begun.
    stopped: Option<String>,
}

struct Waiting<'a> {
    job: Job<'a>,
    claim: Claim,
    /// Somebody else is making it: when to look again.
    not_before: Option<Instant>,
    begun: Option<Instant>,
}

/// What a thread says when it is done with a node.
struct Done<'a> {
    at: usize,
    waiting: Waiting<'a>,
    turn: Turn,
}

impl<'a> Schedule<'a> {
    pub fn new(plan: &'a Plan, store: &'a Store, options: &'a Options) -> Self {
        let positions: BTreeMap<&str, usize> =
            plan.nodes().iter().enumerate().map(|(at, node)| (node.name.as_str(), at)).collect();
        let count = plan.nodes().len();
        let (mut missing, mut readers) = (vec![0; count], vec![Vec::new(); count]);
        for (at, node) in plan.nodes().iter().enumerate() {
            let reads: BTreeSet<&String> = node.inputs.iter().flat_map(|input| &input.nodes).collect();
            missing[at] = reads.len();
            for name in reads {
                readers[positions[name.as_str()]].push(at);
            }
        }
        let ready = (0..count).filter(|at| missing[*at] == 0).collect();
        let cores = match options.jobs {
            0 => thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        Self {
            plan,
            store,
            options,
            lease: store.lease(),
            known: Known::new(),
            missing,
            readers,
            ready,
            waiting: BTreeMap::new(),
            running: 0,
            room: Room::new(cores as u64),
            reports: (0..count).map(|_| None).collect(),
            stopped: None,
        }
    }

    pub fn run(mut self) -> Report {
        let (tell, told) = channel();
        thread::scope(|scope| {
            loop {
                while let Some(at) = self.next_to_look_at() {
                    self.look(at);
                }
                self.start_what_fits(scope, &tell);
                if self.running == 0 && self.waiting.is_empty() {
                    break;
                }
                if let Some(done) = self.wait(&told) {
                    self.running -= 1;
                    self.room.give_back(&done.waiting.claim);
                    self.take(done);
                }
            }
        });
        let why = self.stopped.clone().unwrap_or_else(|| "stopped before it".into());
        for at in 0..self.reports.len() {
            if self.reports[at].is_none() {
                self.settle(at, Outcome::Skipped(why.clone()), None, NodeReport::new(self.node(at), Outcome::Reused));
            }
        }
        let mut nodes = Vec::with_capacity(self.reports.len());
        nodes.extend(self.reports.into_iter().flatten());
        Report { nodes }
    }

    fn node(&self, at: usize) -> &'a Node {
        &self.plan.nodes()[at]
    }

    fn is_stopped(&mut self) -> bool {
        if self.stopped.is_none() && self.options.cancel.is_cancelled() {
            self.stopped = Some("stopped before it".into());
        }
        self.stopped.is_some()
    }

    fn next_to_look_at(&mut self) -> Option<usize> {
        if self.is_stopped() { None } else { self.ready.pop_first() }
    }

    /// Reuses what is there, and puts what is not among those to be made.
    fn look(&mut self, at: usize) {
        let node = self.node(at);
        let mut report = NodeReport::new(node, Outcome::Reused);
        let begun = Instant::now();
        let looked = self.try_look(node);
        report.seconds = begun.elapsed().as_secs_f64();
        match looked {
            Ok(Look::Reused(artifact, legend)) => {
                self.settle(at, Outcome::Reused, Some((*artifact, legend)), report);
            }
            Ok(Look::Outside(Some(result))) => self.settle(at, Outcome::Reused, Some(*result), report),
            Ok(Look::Outside(None)) => {
                let why = "not selected, and its result is not there".into();
                self.settle(at, Outcome::Skipped(why), None, report);
            }
            Ok(Look::Make(job)) => {
                let claim = self.room.claim(&node.settings);
                self.waiting.insert(at, Waiting { job: *job, claim, not_before: None, begun: None });
            }
            Ok(Look::Lacks(name)) => {
                let why = format!("it needs `{name}`, which was not selected and would have to run");
                self.settle(at, Outcome::Skipped(why), None, report);
            }
            Err(error) => self.settle(at, Outcome::Failed(failure(error)), None, report),
        }
    }

    fn try_look(&self, node: &'a Node) -> anyhow::Result<Look<'a>> {
        if let Some(outside) = self.options.outside(&node.name) {
            let result = outside_result(self.plan, node, self.store, &self.known, outside)?;
            return Ok(Look::Outside(result.map(Box::new)));
        }
        let now = gather(self.plan, node, self.store, &self.known)?;
        if let Some(name) = now.unknown.first() {
            return Ok(Look::Lacks(name.clone()));
        }
        let fingerprint = Fingerprint::of(&now.facts);
        // First the lease, then the look: what is there then stays.
        self.lease.add(fingerprint);
        let comparison = Comparison { plan: self.plan, store: self.store, known: &self.known };
        let is_forced = self.options.force.contains(&node.name);
        let mut before = None;
        let reasons = if is_forced {
            if let Found::Whole(artifact) = self.store.find(fingerprint)? {
                before = Some(artifact.brief.content);
            }
            vec![forced()]
        } else {
            match self.store.reuse(fingerprint)? {
                Found::Whole(artifact) => return Ok(Look::Reused(Box::new(artifact), now.legend)),
                Found::Damaged(what) => vec![damage(&what)],
                Found::Absent => reasons_to_make(&comparison, node, &now, fingerprint),
            }
        };
        let artifact = |name: &String| (name.clone(), self.known[name].0.clone());
        let inputs = node.inputs.iter().map(|input| input.nodes.iter().map(artifact).collect()).collect();
        Ok(Look::Make(Box::new(Job { node, now, reasons, inputs, is_forced, before })))
    }

    fn start_what_fits<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, tell: &Sender<Done<'a>>)
    where
        'a: 'scope,
    {
        if self.is_stopped() {
            self.waiting.clear();
            return;
        }
        let now = Instant::now();
        let is_due = |waiting: &Waiting<'_>| waiting.not_before.is_none_or(|time| time <= now);
        let due: Vec<usize> = self.waiting.iter().filter(|(_, waiting)| is_due(waiting)).map(|(at, _)| *at).collect();
        for at in due {
            if !self.room.fits(&self.waiting[&at].claim) {
                continue;
            }
            let mut waiting = self.waiting.remove(&at).expect("it was just there");
            self.room.take(&waiting.claim);
            self.running += 1;
            waiting.begun.get_or_insert(now);
            let (plan, store, options, tell) = (self.plan, self.store, self.options, tell.clone());
            // Begun here, where the run's span is: threads have none of their own.
            let span = tracing::info_span!("node", name = waiting.job.node.name, stage = waiting.job.node.stage);
            let work = move || {
                let turn = span.in_scope(|| waiting.job.make(plan, store, options));
                // Who would not hear it is gone, and this thread with it.
                let _ = tell.send(Done { at, waiting, turn });
            };
            let builder = thread::Builder::new().name(self.node(at).name.clone()).stack_size(STACK);
            builder.spawn_scoped(scope, work).expect("the system has room for a thread a core");
        }
    }

    /// The next node that is done; none when it is time to look again for what others make.
    fn wait(&self, told: &Receiver<Done<'a>>) -> Option<Done<'a>> {
        if self.waiting.values().all(|waiting| waiting.not_before.is_none()) && self.running > 0 {
            return told.recv().ok();
        }
        told.recv_timeout(PATIENCE / 4).ok()
    }

    fn take(&mut self, done: Done<'a>) {
        let Done { at, mut waiting, turn } = done;
        let node = self.node(at);
        if matches!(turn, Turn::Busy) {
            if waiting.not_before.is_none() {
                (self.options.watch)(&Event::Waiting { node });
            }
            waiting.not_before = Some(Instant::now() + PATIENCE);
            self.waiting.insert(at, waiting);
            return;
        }
        let mut report = NodeReport::new(node, Outcome::Reused);
        report.seconds = waiting.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let Job { now, reasons, before, .. } = waiting.job;
        report.reasons = reasons;
        let (outcome, result) = match turn {
            Turn::Found(artifact) => (Outcome::Reused, Some((artifact, now.legend))),
            Turn::Made(artifact) => (Outcome::Made, Some((artifact, now.legend))),
            Turn::Stopped | Turn::Busy => (Outcome::Skipped("stopped; the next run continues it".into()), None),
            Turn::Failed(error) => (Outcome::Failed(failure(error)), None),
        };
        // The pointer says the same of a result that was made anew in its own place.
        report.is_same_content = result.as_ref().is_some_and(|(artifact, _)| Some(artifact.brief.content) == before);
        self.settle(at, outcome, result, report);
    }

    /// The last word on a node: who reads it may be looked at, or will never be.
    fn settle(&mut self, at: usize, outcome: Outcome, result: Option<(Artifact, Legend)>, mut report: NodeReport) {
        let node = self.node(at);
        report.outcome = outcome;
        if let Some((artifact, legend)) = result {
            if self.options.outside(&node.name).is_none() {
                let fingerprint = artifact.fingerprint;
                let last = self.store.last(&self.plan.name, &node.name);
                if !self.options.force.contains(&node.name) {
                    report.is_same_content = last.as_ref().is_some_and(|last| self.is_same_content(last, &artifact));
                }
                if let Err(error) = self.store.remember_after(last, &self.plan.name, &node.name, fingerprint) {
                    report.outcome = Outcome::Failed(failure(error.into()));
                }
            }
            report.artifact = Some(artifact.clone());
            self.known.insert(node.name.clone(), (artifact, legend));
        }
        tracing::debug!(node = node.name, outcome = %report.outcome, seconds = report.seconds);
        (self.options.watch)(&Event::Finished(&report));
        let has_failed = matches!(report.outcome, Outcome::Failed(_));
        self.reports[at] = Some(report);
        if has_failed {
            let why = format!("`{}` failed", node.name);
            if self.options.keep_going {
                self.skip_readers(at, &why);
            } else {
                self.stopped.get_or_insert(why);
            }
            return;
        }
        for reader in &self.readers[at] {
            self.missing[*reader] -= 1;
            if self.missing[*reader] == 0 {
                self.ready.insert(*reader);
            }
        }
    }

    fn skip_readers(&mut self, at: usize, why: &str) {
        for reader in self.readers[at].clone() {
            if self.reports[reader].is_none() {
                let node = self.node(reader);
                let report = NodeReport::new(node, Outcome::Skipped(why.to_owned()));
                (self.options.watch)(&Event::Finished(&report));
                self.reports[reader] = Some(report);
                self.skip_readers(reader, why);
            }
        }
    }

    /// Did the node have the same content the last time?
    fn is_same_content(&self, last: &Last, artifact: &Artifact) -> bool {
        if last.fingerprint == artifact.fingerprint {
            return true;
        }
        let before = self.store.recall(last.fingerprint);
        before.is_some_and(|(manifest, _)| manifest.content == artifact.brief.content)
    }
}

/// What a first look at a node says.
enum Look<'a> {
    Reused(Box<Artifact>, Legend),
    Make(Box<Job<'a>>),
    /// What a node that the run is not about has for its result.
    Outside(Option<Box<(Artifact, Legend)>>),
    /// The node that it needs and that has no result.
    Lacks(String),
}
