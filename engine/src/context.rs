//! All that a stage may see while it runs: inputs, output, scratch, seeds, and where to report.
//! Knows nothing of the store that the folders lie in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use crate::stage::Source;

/// What a program wrote that a stage ran, among the records.
pub(crate) const LOG: &str = "log.txt";
/// What a stage found wrong with its own result, among the records.
pub(crate) const WARNINGS: &str = "warnings.jsonl";

/// A request to stop, shared by whoever asks and whoever must heed it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    is_asked: Arc<AtomicBool>,
    /// When it counts as cancelled, asked or not.
    deadline: Option<Instant>,
}

impl Cancel {
    pub fn cancel(&self) {
        self.is_asked.store(true, Ordering::SeqCst);
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_asked.load(Ordering::SeqCst) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The same request, which is also made when the time has come.
    pub(crate) fn by(&self, deadline: Option<Instant>) -> Self {
        Self { is_asked: Arc::clone(&self.is_asked), deadline }
    }
}

/// The error of a stage that stopped because it was asked to, after saving what it had.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// An input as the stage sees it: a finished, read-only folder.
#[derive(Debug, Clone)]
pub struct InputArtifact {
    /// Name of the node that made it. A result may hold it only where the input is `Arity::Named`.
    pub node: String,
    pub kind: String,
    /// The artifact's data folder.
    pub path: PathBuf,
}

/// How far a node is, for whoever watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub done: u64,
    /// Zero where it is not known.
    pub total: u64,
    /// A few figures, such as `loss 1.234 · 12k tok/s`.
    pub message: String,
}

/// What a running stage may see and say.
pub struct Context {
    /// Folder that relative paths of a pipeline start from.
    pub(crate) root: PathBuf,
    pub(crate) inputs: BTreeMap<String, Vec<InputArtifact>>,
    pub(crate) output: PathBuf,
    pub(crate) scratch: PathBuf,
    /// Folder for `metrics.jsonl`, `samples.jsonl` and `warnings.jsonl`, beside the data and not part of its digest.
    pub(crate) records: PathBuf,
    /// Empty when the work begins, gone when it ends.
    pub(crate) temporary: PathBuf,
    /// Keeps others out of these folders; what the stage starts shares it.
    pub(crate) lock: Option<File>,
    pub(crate) seed: u64,
    /// Names of the environment variables that the work may see.
    pub(crate) env: Vec<String>,
    /// With the node's deadline, where it has one.
    pub(crate) cancel: Cancel,
    pub(crate) watch: Box<dyn Fn(Progress) + Send + Sync>,
    /// Told every warning as it comes up.
    pub(crate) warned: Box<dyn Fn(&str) + Send + Sync>,
    /// The warnings that have been told: none is told twice in one try.
    pub(crate) told: Mutex<BTreeSet<String>>,
    pub(crate) files: Mutex<BTreeMap<&'static str, File>>,
    /// The step that the stage is at.
    pub(crate) step: Mutex<Option<tracing::Span>>,
}

impl Context {
    /// A context outside any store, for tests of a single stage: everything lies below `folder`.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn standalone(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let below = |name: &str| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            std::fs::create_dir_all(&path)?;
            Ok(path)
        };
        Ok(Self {
            root: folder.to_path_buf(),
            inputs: BTreeMap::new(),
            output: below("output")?,
            scratch: below("scratch")?,
            records: below("records")?,
            temporary: below("temporary")?,
            lock: None,
            seed,
            env: Vec::new(),
            cancel: Cancel::default(),
            watch: Box::new(|_| ()),
            warned: Box::new(|_| ()),
            told: Mutex::default(),
            files: Mutex::default(),
            step: Mutex::default(),
        })
    }

    /// Adds an input to a standalone context.
    #[must_use]
    pub fn with_input(mut self, name: &str, node: &str, kind: &str, path: &Path) -> Self {
        let artifact = InputArtifact { node: node.into(), kind: kind.into(), path: path.into() };
        self.inputs.entry(name.into()).or_default().push(artifact);
        self
    }

    /// Replaces the stop flag of a standalone context.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The one artifact of an input with `Arity::One`.
    ///
    /// # Errors
    /// When the stage asks for an input that it did not declare.
    pub fn input(&self, name: &str) -> anyhow::Result<&InputArtifact> {
        match self.inputs(name) {
            [one] => Ok(one),
            other => bail!("input `{name}` holds {} artifacts where one was expected", other.len()),
        }
    }

    /// The artifact of an input with `Arity::Optional`.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<&InputArtifact> {
        self.inputs(name).first()
    }

    /// All artifacts of an input, in the order of the pipeline.
    #[must_use]
    pub fn inputs(&self, name: &str) -> &[InputArtifact] {
        self.inputs.get(name).map_or(&[], Vec::as_slice)
    }

    /// Folder that becomes the artifact's data.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Working folder of this result alone; it survives a kill and is there again on the next try.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Where a source lies.
    #[must_use]
    pub fn source(&self, source: &Source) -> PathBuf {
        self.root.join(&source.0)
    }

    /// Folder that relative paths of the pipeline start from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A seed for one purpose, derived from the node's seed: another purpose gives an unrelated one.
    #[must_use]
    pub fn seed(&self, purpose: &str) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("mashbill 1 seed");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// Has the user asked to stop, or is the node's time up? A long stage then saves into scratch and returns [`Cancelled`].
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The same as a value, for threads that outlive the call which is given the context.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Tells whoever watches how far the stage is.
    pub fn progress(&self, done: u64, total: u64, message: impl Into<String>) {
        (self.watch)(Progress { done, total, message: message.into() });
    }

    /// Appends one line to `metrics.jsonl`: the step and its figures. The step ends here, and the next begins.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn record(&self, step: u64, metrics: &[(&str, f64)]) -> anyhow::Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        for (name, value) in metrics {
            // JSON has no NaN: a figure that does not exist is written as null.
            line.insert((*name).into(), serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number));
        }
        let line = Value::Object(line);
        let mut at = self.step.lock().expect("no holder of this lock panics");
        tracing::debug!(parent: at.as_ref().and_then(tracing::Span::id), %line, "step");
        *at = Some(tracing::info_span!("step", after = step));
        drop(at);
        self.append("metrics.jsonl", &line)
    }

    /// Appends one line to `samples.jsonl`: anything worth reading afterwards, stamped with its step.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn sample(&self, step: u64, mut sample: Map<String, Value>) -> anyhow::Result<()> {
        sample.shift_insert(0, "step".into(), step.into());
        self.append("samples.jsonl", &Value::Object(sample))
    }

    /// Tells whoever watches that something looks wrong. It may mend itself: what is still wrong at the end is for
    /// [`Context::warn`].
    pub fn notice(&self, text: &str) {
        let is_new = self.told.lock().expect("no holder of this lock panics").insert(text.to_owned());
        if is_new {
            (self.warned)(text);
        }
    }

    /// Appends one line to `warnings.jsonl`: the work is done, and its result may not be what was wanted. The sentence
    /// stays with the result and is told again wherever that is shown or reused. One that is there already is not
    /// written twice.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn warn(&self, step: u64, text: &str) -> anyhow::Result<()> {
        let told = std::fs::read_to_string(self.records.join(WARNINGS)).unwrap_or_default();
        if warnings(&told).iter().any(|warning| warning == text) {
            return Ok(());
        }
        self.notice(text);
        self.append(WARNINGS, &serde_json::json!({ "step": step, "text": text }))
    }

    /// Drops what was recorded after `step`: a stage that resumes there will record it again. Metrics that were
    /// told twice up to there, as step 0 is by a stage that begins again, stay once.
    ///
    /// # Errors
    /// When the records cannot be rewritten.
    pub fn rewind(&self, step: u64) -> anyhow::Result<()> {
        let mut files = self.files.lock().expect("no holder of this lock panics");
        files.clear();
        for name in ["metrics.jsonl", "samples.jsonl", WARNINGS] {
            let path = self.records.join(name);
            let Ok(file) = File::open(&path) else { continue };
            let (mut kept, mut told) = (String::new(), BTreeSet::new());
            for line in BufReader::new(file).lines() {
                let line = line?;
                // A last line cut short by a kill does not parse, and goes too.
                let Ok(value) = serde_json::from_str::<Value>(&line) else { break };
                let is_repeated = name == "metrics.jsonl" && !told.insert(line.clone());
                if value["step"].as_u64().is_some_and(|at| at <= step) && !is_repeated {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
            std::fs::write(&path, kept).with_context(|| format!("rewriting {}", path.display()))?;
        }
        Ok(())
    }

    fn append(&self, name: &'static str, value: &Value) -> anyhow::Result<()> {
        let mut files = self.files.lock().expect("no holder of this lock panics");
        if !files.contains_key(name) {
            let path = self.records.join(name);
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            files.insert(name, file);
        }
        let file = files.get_mut(name).expect("inserted above");
        file.write_all(format!("{value}\n").as_bytes()).with_context(|| format!("writing {name}"))
    }
}

/// The sentences in the text of [`WARNINGS`].
pub(crate) fn warnings(text: &str) -> Vec<String> {
    let sentence = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["text"].as_str()?.to_owned());
    text.lines().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_written_once_and_goes_with_the_steps_that_are_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let ctx = Context {
            warned: Box::new(move |text| heard.lock().unwrap().push(text.to_owned())),
            ..Context::standalone(folder.path(), 0).unwrap()
        };
        let written = || warnings(&std::fs::read_to_string(folder.path().join("records").join(WARNINGS)).unwrap());
        ctx.notice("late");
        ctx.warn(0, "early").unwrap();
        ctx.warn(0, "early").unwrap();
        ctx.warn(5, "late").unwrap();
        assert_eq!(written(), ["early", "late"]);
        assert_eq!(*told.lock().unwrap(), ["late", "early"]);
        ctx.rewind(4).unwrap();
        assert_eq!(written(), ["early"]);
        ctx.warn(5, "late").unwrap();
        assert_eq!(written(), ["early", "late"]);
    }
}
