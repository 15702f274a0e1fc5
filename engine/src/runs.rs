//! What every run was asked to do and what came of it, a folder a run in the store.
//! Knows nothing of how nodes are run, nor of how records are shown.
//!
//! ```text
//! runs/<number>/run.json       sealed by its digest; written when the run begins, and again when it ends
//!               events.jsonl   what happened, a line each, as it happens; locked while the run lives
//! ```
//!
//! Lines of `events.jsonl`; `t` is in seconds since the run began. Lines may gain keys; those here keep their meaning.
//!
//! | event | keys besides `t`, `event` and `node` |
//! |---|---|
//! | `run_started` | `id`, `pipeline`, `nodes`: how many; no `node` |
//! | `started` | `stage`, `reasons`: sentences, `resumes` |
//! | `waiting` | another process is making the node |
//! | `retrying` | `error`, `pause`: seconds |
//! | `progress` | `done`, `total`: zero where unknown, `message`; at most ten a second of each node, and its last |
//! | `warned` | `text`: something looks wrong and stops nothing |
//! | `finished` | `stage`, `outcome`: `made`, `reused`, `failed` or `skipped`, `seconds`, `fingerprint`, `error`, `warnings`: those that stay with the result |
//! | `run_finished` | `outcome`: `done`, `failed` or `stopped`; no `node` |
//!
//! A run that was killed has a record too: `run.json` of its beginning, and the whole lines of `events.jsonl`.

mod git;
mod recorder;
mod trace;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use recorder::{Asked, Recorder};
pub use trace::trace;

use crate::{
    digest::Digest,
    facts::Fingerprint,
    store::{Store, StoreError},
};

const FORMAT: u32 = 1;
const RECORD: &str = "run.json";
const EVENTS: &str = "events.jsonl";

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub format: u32,
    /// Counted from one in each store.
    pub id: u64,
    pub pipeline: String,
    pub file: PathBuf,
    /// UTC, as `2026-11-23T18:06:56Z`.
    pub started: String,
    /// None while it lives, and where it was killed.
    pub seconds: Option<f64>,
    pub outcome: RunOutcome,
    /// The words of the command line.
    pub argv: Vec<String>,
    /// `path=value` of every `--set`.
    pub overrides: Vec<String>,
    /// What git has checked out where the pipeline lies.
    pub commit: Option<String>,
    pub branch: Option<String>,
    /// Version of this program.
    pub engine: String,
    /// Such as `linux x86_64`.
    pub platform: String,
    pub cores: usize,
    /// In the order in which they ended.
    pub nodes: Vec<NodeRecord>,
    /// Of `events.jsonl`, once that is whole.
    pub events: Option<Digest>,
}

/// What came of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub node: String,
    pub stage: String,
    /// `made`, `reused`, `failed`, `skipped`; `begun` where the run was killed meanwhile.
    pub outcome: String,
    pub seconds: f64,
    /// The result, where there is one.
    pub fingerprint: Option<Fingerprint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the stage found wrong with the result, made now or before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It lives, as its lock says.
    Running,
    Done,
    Failed,
    /// Somebody asked it to stop.
    Stopped,
    /// It ended without a word.
    Killed,
}

impl RunOutcome {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RunOutcome::Running => "running",
            RunOutcome::Done => "done",
            RunOutcome::Failed => "failed",
            RunOutcome::Stopped => "stopped",
            RunOutcome::Killed => "killed",
        }
    }
}

/// All runs of a store.
#[derive(Debug, Default)]
pub struct Runs {
    /// The oldest first.
    pub records: Vec<RunRecord>,
    /// Records that are no longer what was written: which run, and a sentence.
    pub damaged: Vec<(u64, String)>,
}

impl Runs {
    /// Reads every record.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let mut runs = Self::default();
        for id in numbers(&folder(store))? {
            match RunRecord::read(store, id) {
                Ok(record) => runs.records.push(record),
                // Its folder was made, and its first words were not written yet.
                Err(_) if is_locked(&folder(store).join(id.to_string()).join(EVENTS)) => {}
                Err(damage) => runs.damaged.push((id, damage)),
            }
        }
        Ok(runs)
    }

    /// By number, or `last`, `last~1` and so on.
    #[must_use]
    pub fn get(&self, words: &str) -> Option<&RunRecord> {
        if let Some(back) = words.strip_prefix("last") {
            let back = if back.is_empty() { 0 } else { back.strip_prefix('~')?.parse::<usize>().ok()? };
            return self.records.iter().rev().nth(back);
        }
        let id: u64 = words.parse().ok()?;
        self.records.iter().find(|record| record.id == id)
    }

    /// Compares every event file with the digest in its record; gives those that do not fit, each with a sentence.
    #[must_use]
    pub fn verify(&self, store: &Store) -> Vec<(u64, String)> {
        let is_damaged = |record: &&RunRecord| {
            let Some(digest) = record.events else { return false };
            let bytes = fs::read(folder(store).join(record.id.to_string()).join(EVENTS));
            bytes.map_or(true, |bytes| Digest::of_bytes(&bytes) != digest)
        };
        let damaged = self.records.iter().filter(is_damaged);
        let sentence = |record: &RunRecord| (record.id, format!("the bytes of `{EVENTS}` changed"));
        self.damaged.iter().cloned().chain(damaged.map(sentence)).collect()
    }
}

impl RunRecord {
    /// # Errors
    /// With what is wrong with the record, as a sentence.
    pub fn read(store: &Store, id: u64) -> Result<Self, String> {
        let folder = folder(store).join(id.to_string());
        let damaged = || format!("the bytes of `{RECORD}` changed");
        let bytes = match fs::read(folder.join(RECORD)) {
            Ok(bytes) => bytes,
            // Killed before its first words, or somebody is just writing them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(format!("`{RECORD}` is gone")),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let mut sealed: Value = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        let document = sealed["run"].take();
        if sealed["seal"] != seal(&document).to_string() {
            return Err(damaged());
        }
        let mut record: Self = serde_json::from_value(document).map_err(|_| damaged())?;
        if record.outcome == RunOutcome::Running {
            record.outcome = if is_locked(&folder.join(EVENTS)) { RunOutcome::Running } else { RunOutcome::Killed };
            record.nodes = told(&events(store, id));
        }
        Ok(record)
    }

    fn to_json(&self) -> Vec<u8> {
        let document = serde_json::to_value(self).expect("a record is plain data with text for keys");
        format!("{}\n", json!({ "seal": seal(&document), "run": document })).into_bytes()
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.iter().find(|node| node.node == name)
    }

    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.nodes.iter().filter(|node| node.outcome == outcome).count()
    }
}

/// The events of a run, each line that is whole.
#[must_use]
pub fn events(store: &Store, id: u64) -> Vec<Value> {
    let path = folder(store).join(id.to_string()).join(EVENTS);
    let text = fs::read(path).unwrap_or_default();
    let lines = String::from_utf8_lossy(&text).into_owned();
    // The last line of a run that was killed may be cut short.
    lines.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// What the events say of the nodes.
fn told(events: &[Value]) -> Vec<NodeRecord> {
    let mut nodes: Vec<NodeRecord> = Vec::new();
    for event in events {
        let Some(name) = event["node"].as_str() else { continue };
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let texts = |key: &str| -> Vec<String> {
            event[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
        };
        match event["event"].as_str() {
            Some("started") => nodes.push(NodeRecord {
                node: name.into(),
                stage: text("stage"),
                outcome: "begun".into(),
                seconds: 0.0,
                fingerprint: None,
                reasons: texts("reasons"),
                error: None,
                warnings: Vec::new(),
            }),
            Some("finished") => {
                let begun = nodes.iter().position(|node| node.node == name).map(|at| nodes.remove(at));
                nodes.push(NodeRecord {
                    node: name.into(),
                    stage: text("stage"),
                    outcome: text("outcome"),
                    seconds: event["seconds"].as_f64().unwrap_or_default(),
                    fingerprint: serde_json::from_value(event["fingerprint"].clone()).ok(),
                    reasons: begun.map(|begun| begun.reasons).unwrap_or_default(),
                    error: event["error"].as_str().map(Into::into),
                    warnings: texts("warnings"),
                });
            }
            _ => {}
        }
    }
    nodes
}

fn folder(store: &Store) -> PathBuf {
    store.root().join("runs")
}

fn seal(document: &Value) -> Digest {
    Digest::of_document("mashbill 1 run", document)
}

/// The runs that there are, in order.
fn numbers(folder: &Path) -> Result<Vec<u64>, StoreError> {
    let failed = |source| StoreError::Io { action: "read", path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Does somebody hold the file, as a run does its events while it lives?
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests;
