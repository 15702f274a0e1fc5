//! One node's work: open, run, publish; again where the pipeline says so.
//! Knows nothing of other nodes.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::anyhow;

use crate::{
    context::{Cancelled, Context, InputArtifact},
    digest::Digest,
    facts::Fingerprint,
    footprint::{Prospect, Prospects},
    machine::free_memory,
    manifest::{Origin, Provenance, utc},
    plan::{Node, Plan},
    reason::{Gathered, Reason, sources},
    report::Failure,
    run::{Event, Options},
    store::{Artifact, Draft, Found, Lookup, Store, StoreError},
};

/// A result to make.
pub(super) struct Job<'a> {
    pub node: &'a Node,
    pub now: Gathered,
    pub reasons: Vec<Reason>,
    /// What each input is, in the order of the node's inputs.
    pub inputs: Vec<Vec<(String, Artifact)>>,
    /// Made although it is there.
    pub is_forced: bool,
    /// The content of the result whose place it takes.
    pub before: Option<Digest>,
}

/// What came of a turn at it.
pub(super) enum Turn {
    /// Somebody else had made it meanwhile.
    Found(Artifact),
    Made(Artifact),
    /// Somebody else is making it.
    Busy,
    /// Asked to stop.
    Stopped,
    Failed(anyhow::Error),
}

/// Why one try gave nothing.
enum Try {
    Stopped,
    /// Another try may do better.
    Failed(anyhow::Error),
    /// The facts are out of date, or the store is in trouble: another try would do no better.
    Hopeless(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Try {
    fn from(error: E) -> Self {
        let error = error.into();
        if is_infrastructure(&error) { Self::Hopeless(error) } else { Self::Failed(error) }
    }
}

impl Job<'_> {
    pub fn make(&self, plan: &Plan, store: &Store, options: &Options) -> Turn {
        let mut left = self.node.retries;
        let mut pause = Duration::from_secs(1);
        loop {
            let draft = match self.open(store) {
                Ok(Lookup::Hit(artifact)) => return Turn::Found(artifact),
                Ok(Lookup::Busy) => return Turn::Busy,
                Ok(Lookup::Miss(draft)) => draft,
                Err(error) => return Turn::Failed(error.into()),
            };
            let error = match self.attempt(draft, plan, store, options) {
                Ok(artifact) => return Turn::Made(artifact),
                Err(Try::Stopped) => return Turn::Stopped,
                Err(Try::Hopeless(error)) => return Turn::Failed(error),
                Err(Try::Failed(error)) if left == 0 => return Turn::Failed(error),
                Err(Try::Failed(error)) => error,
            };
            left -= 1;
            (options.watch)(&Event::Retrying { node: self.node, error: &error, pause });
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if options.cancel.is_cancelled() {
                    return Turn::Stopped;
                }
                thread::sleep(Duration::from_millis(20));
            }
            pause = (pause * 2).min(Duration::from_mins(1));
        }
    }

    fn open<'s>(&self, store: &'s Store) -> Result<Lookup<'s>, StoreError> {
        let impatience = &mut || false;
        if self.is_forced {
            store.open_anew(&self.now.facts, impatience)
        } else {
            store.open(&self.now.facts, impatience)
        }
    }

    fn attempt(&self, draft: Draft<'_>, plan: &Plan, store: &Store, options: &Options) -> Result<Artifact, Try> {
        let node = self.node;
        let fingerprint = Fingerprint::of(&self.now.facts);
        let resumes = store.is_begun(fingerprint);
        (options.watch)(&Event::Started { node, reasons: &self.reasons, resumes });

        if let Some(refusal) = self.refusal(plan) {
            return Err(Try::Hopeless(anyhow!(refusal)));
        }
        let (started, begun) = (SystemTime::now(), Instant::now());
        let deadline = node.timeout.map(|timeout| begun + timeout);
        let context = self.context(plan, &draft, options, deadline)?;
        let done = catch_unwind(AssertUnwindSafe(|| node.work.run(&context)))
            .unwrap_or_else(|panic| Err(anyhow!("the stage panicked: {}", message_of(&*panic))));
        drop(context);

        // Whatever came of it was computed from nobody knows which bytes: not even the scratch folder is worth keeping.
        if let Some(what) = self.changed(plan, store) {
            draft.discard()?;
            return Err(Try::Hopeless(anyhow!("{what} changed while the node ran; nothing was recorded, run again")));
        }
        match done {
            Ok(()) => {
                let made = self.provenance(plan, utc(started), begun.elapsed().as_secs_f64());
                Ok(draft.publish(&node.output, made)?)
            }
            Err(error) if error.is::<Cancelled>() => match node.timeout {
                Some(timeout) if begun.elapsed() >= timeout && !options.cancel.is_cancelled() => {
                    let timeout = timeout.as_secs();
                    Err(Try::Failed(anyhow!("it took longer than its timeout of {timeout} s; what it saved is kept")))
                }
                _ => Err(Try::Stopped),
            },
            Err(error) => Err(match trouble(&draft) {
                Some(trouble) => Try::Hopeless(error.context(trouble)),
                None => error.into(),
            }),
        }
    }

    /// Why the machine has too little memory for it, if it has.
    fn refusal(&self, plan: &Plan) -> Option<String> {
        let there = |(node, artifact): &(String, Artifact)| (node.clone(), Prospect::There(artifact.data()));
        let inputs = self.node.inputs.iter().zip(&self.inputs);
        let inputs = inputs.map(|(input, all)| (input.name.clone(), all.iter().map(there).collect())).collect();
        let prospects = Prospects { root: plan.root.clone(), inputs, ..Prospects::default() };
        let footprint = self.node.work.footprint(&prospects)?;
        footprint.refusal(&self.node.settings, free_memory()?)
    }

    fn context(
        &self,
        plan: &Plan,
        draft: &Draft<'_>,
        options: &Options,
        deadline: Option<Instant>,
    ) -> Result<Context, StoreError> {
        let artifact = |(node, artifact): &(String, Artifact)| InputArtifact {
            node: node.clone(),
            kind: artifact.brief.kind.clone(),
            path: artifact.data(),
        };
        let inputs = self.node.inputs.iter().zip(&self.inputs);
        let inputs = inputs.map(|(input, all)| (input.name.clone(), all.iter().map(artifact).collect())).collect();
        let (watch, name) = (options.watch.clone(), self.node.name.clone());
        let (warned, warner) = (options.watch.clone(), self.node.name.clone());
        Ok(Context {
            root: plan.root.clone(),
            inputs,
            output: draft.output(),
            scratch: draft.scratch(),
            records: draft.records(),
            temporary: draft.temporary(),
            lock: draft.lock()?,
            seed: self.node.seed,
            env: self.node.env.clone(),
            cancel: options.cancel.by(deadline),
            watch: Box::new(move |progress| watch(&Event::Progress { node: &name, progress: &progress })),
            warned: Box::new(move |text| warned(&Event::Warned { node: &warner, text })),
            told: Mutex::default(),
            files: Mutex::default(),
            step: Mutex::default(),
        })
    }

    /// The first source or input that is no longer what the facts say.
    fn changed(&self, plan: &Plan, store: &Store) -> Option<String> {
        let before = &self.now;
        let after = match sources(plan, self.node, store) {
            Ok((after, _)) => after,
            Err(error) => return Some(format!("a source ({error:#})")),
        };
        let is_other = |(parameter, files): &(&String, _)| after.get(*parameter) != Some(*files);
        if let Some((parameter, _)) = before.facts.sources.iter().find(is_other) {
            let file = before.legend.files[parameter].first().expect("a source is at least one file");
            return Some(format!("`{}`, or what it imports,", file.display()));
        }
        let is_whole = |artifact: &Artifact| matches!(store.find(artifact.fingerprint), Ok(Found::Whole(now)) if now.brief.content == artifact.brief.content);
        let (node, _) = self.inputs.iter().flatten().find(|(_, artifact)| !is_whole(artifact))?;
        Some(format!("the result of `{node}`"))
    }

    fn provenance(&self, plan: &Plan, started: String, seconds: f64) -> Provenance {
        let origin =
            |(node, artifact): &(String, Artifact)| Origin { node: node.clone(), fingerprint: artifact.fingerprint };
        let inputs = self.node.inputs.iter().zip(&self.inputs);
        let inputs: BTreeMap<_, _> =
            inputs.map(|(input, all)| (input.name.clone(), all.iter().map(origin).collect())).collect();
        Provenance {
            pipeline: plan.name.clone(),
            node: self.node.name.clone(),
            started,
            seconds,
            engine: env!("CARGO_PKG_VERSION").into(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            settings: self.node.settings.clone(),
            sources: self.now.legend.files.clone(),
            inputs,
        }
    }
}

/// What ails the folders that the stage worked in, if anything: then the stage's own words are not the whole story.
fn trouble(draft: &Draft<'_>) -> Option<StoreError> {
    let path = draft.output();
    if !path.exists() {
        return Some(StoreError::Gone { path });
    }
    is_full(&path).then_some(StoreError::Full { path })
}

#[cfg(unix)]
fn is_full(path: &Path) -> bool {
    const LEAST: u64 = 1 << 16;
    rustix::fs::statvfs(path)
        .is_ok_and(|disk| disk.f_bavail * disk.f_frsize < LEAST || disk.f_files > 0 && disk.f_favail == 0)
}

#[cfg(not(unix))]
fn is_full(_: &Path) -> bool {
    false
}

pub(super) fn failure(error: anyhow::Error) -> Failure {
    let is_infrastructure = is_infrastructure(&error);
    Failure { error, is_infrastructure }
}

/// The disk or the store, not the pipeline.
fn is_infrastructure(error: &anyhow::Error) -> bool {
    let is_disk = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::StaleNetworkFileHandle
            )
        })
    };
    error.is::<StoreError>() || error.chain().any(|cause| cause.is::<StoreError>() || is_disk(cause))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "no message".into())
}
