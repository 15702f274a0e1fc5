//! Writes down a run while it happens: every event as a line, and the record when it ends.
//! Knows nothing of what is done with them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{EVENTS, FORMAT, NodeRecord, RECORD, RunOutcome, RunRecord, folder, git, numbers};
use crate::{
    context::Progress,
    manifest::utc,
    plan::Plan,
    report::{NodeReport, Outcome, Report},
    run::{Event, Watch},
    store::{Artifact, Store, StoreError},
};

/// How far apart two lines of progress of one node are at least.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a run was asked, in the words of the command line.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub argv: Vec<String>,
    /// `path=value` of every `--set`.
    pub overrides: Vec<String>,
}

/// A run that is being written down.
pub struct Recorder {
    record: RunRecord,
    path: std::path::PathBuf,
    begun: Instant,
    lines: Arc<Mutex<Lines>>,
}

/// The file of events. What it holds back is lost when the process is killed, so it holds back nothing but
/// nodes that were reused.
struct Lines {
    file: File,
    held: Vec<u8>,
    hasher: blake3::Hasher,
    begun: Instant,
    /// Of every node that tells its progress: when a line was written last, and what was left out since.
    progress: BTreeMap<String, (Instant, Option<Progress>)>,
    /// A disk that is full has failed louder elsewhere.
    error: Option<io::Error>,
}

impl Recorder {
    /// Begins the record of a run.
    ///
    /// # Errors
    /// When the store cannot be written to.
    pub fn begin(store: &Store, plan: &Plan, asked: Asked) -> Result<Self, StoreError> {
        store.lay_out()?;
        let runs = folder(store);
        let failed = |action| {
            let path = runs.clone();
            move |source| StoreError::Io { action, path, source }
        };
        fs::create_dir_all(&runs).map_err(failed("make"))?;
        let mut id = numbers(&runs)?.last().copied().unwrap_or(0) + 1;
        // Whoever makes the folder has the number.
        while let Err(error) = fs::create_dir(runs.join(id.to_string())) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(failed("write in")(error));
            }
            id += 1;
        }
        let path = runs.join(id.to_string());
        let file = File::create(path.join(EVENTS)).map_err(failed("write in"))?;
        // Where locks are not known the run counts as killed until it has ended.
        let _ = file.try_lock();
        let (commit, branch) = git::head(&plan.root);
        let record = RunRecord {
            format: FORMAT,
            id,
            pipeline: plan.name.clone(),
            file: plan.file.clone(),
            started: utc(SystemTime::now()),
            seconds: None,
            outcome: RunOutcome::Running,
            argv: asked.argv,
            overrides: asked.overrides,
            commit,
            branch,
            engine: env!("CARGO_PKG_VERSION").into(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            nodes: Vec::new(),
            events: None,
        };
        let begun = Instant::now();
        let mut lines = Lines {
            file,
            held: Vec::new(),
            hasher: blake3::Hasher::new(),
            begun,
            progress: BTreeMap::new(),
            error: None,
        };
        lines.tell(json!({ "event": "run_started", "id": id, "pipeline": plan.name, "nodes": plan.nodes().len() }));
        lines.flush();
        crate::store::replace(&path.join(RECORD), &record.to_json())?;
        Ok(Self { record, path, begun, lines: Arc::new(Mutex::new(lines)) })
    }

    #[must_use]
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Writes down every event, then passes it on.
    #[must_use]
    pub fn watch(&self, next: Watch) -> Watch {
        let lines = self.lines.clone();
        Arc::new(move |event| {
            lines.lock().expect("no holder of this lock panics").hear(event);
            next(event);
        })
    }

    /// Ends the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, report: &Report, is_stopped: bool) -> Result<RunRecord, StoreError> {
        self.record.outcome = if report.failure().is_some() {
            RunOutcome::Failed
        } else if is_stopped {
            RunOutcome::Stopped
        } else {
            RunOutcome::Done
        };
        self.record.seconds = Some(self.begun.elapsed().as_secs_f64());
        self.record.nodes = report.nodes.iter().map(node_record).collect();
        {
            let mut lines = self.lines.lock().expect("no holder of this lock panics");
            lines.tell(json!({ "event": "run_finished", "outcome": self.record.outcome }));
            lines.flush();
            if let Some(source) = lines.error.take() {
                return Err(StoreError::Io { action: "write", path: self.path.join(EVENTS), source });
            }
            self.record.events = Some(crate::digest::Digest::of_hasher(&lines.hasher));
        }
        crate::store::replace(&self.path.join(RECORD), &self.record.to_json())?;
        Ok(self.record)
    }
}

impl Lines {
    fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { node, reasons, resumes } => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                self.tell(json!({
                    "event": "started", "node": node.name, "stage": node.stage, "reasons": reasons, "resumes": resumes,
                }));
            }
            Event::Waiting { node } => self.tell(json!({ "event": "waiting", "node": node.name })),
            Event::Retrying { node, error, pause } => self.tell(json!({
                "event": "retrying", "node": node.name, "error": format!("{error:#}"), "pause": pause.as_secs_f64(),
            })),
            Event::Progress { node, progress } => {
                let now = Instant::now();
                match self.progress.get_mut(*node) {
                    Some((last, left_out)) if now.duration_since(*last) < INTERVAL => {
                        *left_out = Some((*progress).clone());
                        return;
                    }
                    _ => drop(self.progress.insert((*node).to_owned(), (now, None))),
                }
                self.tell(progress_line(node, progress));
            }
            Event::Warned { node, text } => self.tell(json!({ "event": "warned", "node": node, "text": text })),
            Event::Finished(report) => {
                if let Some((_, Some(progress))) = self.progress.remove(&report.node) {
                    self.tell(progress_line(&report.node, &progress));
                }
                let node = node_record(report);
                self.tell(json!({
                    "event": "finished", "node": node.node, "stage": node.stage, "outcome": node.outcome,
                    "seconds": node.seconds, "fingerprint": node.fingerprint, "error": node.error,
                    "warnings": node.warnings,
                }));
                if matches!(report.outcome, Outcome::Reused) {
                    return;
                }
            }
        }
        self.flush();
    }

    fn tell(&mut self, mut event: Value) {
        let t = (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        event.as_object_mut().expect("an event is a block").shift_insert(0, "t".into(), t.into());
        serde_json::to_writer(&mut self.held, &event).expect("an event is plain data with text for keys");
        self.held.push(b'\n');
    }

    fn flush(&mut self) {
        if self.error.is_some() {
            return;
        }
        self.hasher.update(&self.held);
        self.error = self.file.write_all(&self.held).err();
        self.held.clear();
    }
}

fn progress_line(node: &str, progress: &Progress) -> Value {
    let Progress { done, total, message } = progress;
    json!({ "event": "progress", "node": node, "done": done, "total": total, "message": message })
}

fn node_record(report: &NodeReport) -> NodeRecord {
    let error = match &report.outcome {
        Outcome::Failed(failure) => Some(format!("{:#}", failure.error)),
        Outcome::Skipped(why) => Some(why.clone()),
        Outcome::Reused | Outcome::Made => None,
    };
    NodeRecord {
        node: report.node.clone(),
        stage: report.stage.to_owned(),
        outcome: report.outcome.to_string(),
        seconds: report.seconds,
        fingerprint: report.artifact.as_ref().map(|artifact| artifact.fingerprint),
        reasons: report.reasons.iter().map(ToString::to_string).collect(),
        error,
        warnings: report.artifact.as_ref().map(Artifact::warnings).unwrap_or_default(),
    }
}
