//! What stages look at before anything runs: plugins, the room that a model's context leaves, rows that are to come.
//! Knows nothing of how the work is done. What is reported is certain to fail; all else is left to the work.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use engine::{Finding, Problem, Prospect, Prospects, Source};
use serde_json::{Value, json};

use crate::{
    data::rows::Row,
    footprint,
    script::{self, Script, Use},
};

/// How long a look at a plugin may take. Usual ones take milliseconds; what is slower is left to the run.
const PATIENCE: Duration = Duration::from_secs(3);
/// Rows of each node that are looked at.
pub const ROWS: usize = 4;
/// Rows of an input that a plugin is tried with.
const TRIED: usize = 8;

/// A plugin that a stage calls.
#[derive(Debug, Clone, Copy)]
pub struct Plugin<'a> {
    /// The parameter that names it.
    pub parameter: &'a str,
    pub source: &'a Source,
    pub params: &'a Row,
    pub used: Use,
}

/// What became of opening a plugin: none where nothing is said of it here.
type Opened = Option<Result<Arc<Script>, String>>;

impl Plugin<'_> {
    /// What is wrong with it, for rows of this input.
    #[must_use]
    pub fn findings(&self, inputs: &Prospects, rows: &str) -> Vec<Finding> {
        let rows = rows_of(inputs, rows);
        let key = format!("{} {:?} {}", self.key(), self.used, json!(rows));
        let messages: Arc<Vec<String>> = inputs.once(&key, || match &*self.opened(inputs) {
            None => Vec::new(),
            Some(Err(message)) => vec![message.clone()],
            Some(Ok(_)) => {
                let used = self.used;
                let look = move |script: &Script| {
                    let mut found = script.mistakes(used);
                    if found.is_empty() {
                        found.extend(script.wrong_result(used, &rows));
                    }
                    found.iter().map(ToString::to_string).collect()
                };
                self.looked_at(inputs, look).unwrap_or_default()
            }
        });
        messages.iter().map(|message| Finding::Parameter(Problem::new(self.parameter, message))).collect()
    }

    /// Rows that the plugin makes: none where it fails, or takes long.
    #[must_use]
    pub fn made(
        &self,
        inputs: &Prospects,
        make: impl FnOnce(&Script) -> anyhow::Result<Vec<Row>> + Send + 'static,
    ) -> Vec<Row> {
        self.looked_at(inputs, make).and_then(Result::ok).unwrap_or_default()
    }

    /// What a look at the compiled plugin gives; none where it takes long, or took long before.
    fn looked_at<T: Send + 'static>(
        &self,
        inputs: &Prospects,
        look: impl FnOnce(&Script) -> T + Send + 'static,
    ) -> Option<T> {
        let script = self.opened(inputs).as_ref().as_ref()?.as_ref().ok().cloned()?;
        let is_slow: Arc<AtomicBool> = inputs.once(&self.key(), AtomicBool::default);
        if is_slow.load(Relaxed) {
            return None;
        }
        let given = within(PATIENCE, move || look(&script));
        is_slow.store(given.is_none(), Relaxed);
        given
    }

    fn key(&self) -> String {
        format!("{} {}", self.source.0.display(), Value::Object(self.params.clone()))
    }

    fn opened(&self, inputs: &Prospects) -> Arc<Opened> {
        inputs.once(&self.key(), || {
            let path = inputs.source(self.source);
            // That a file is missing, or is no Rhai, was said already.
            if !path.is_file() || script::imports(&path).is_err() {
                return None;
            }
            let (root, params) = (inputs.root().to_path_buf(), self.params.clone());
            within(PATIENCE, move || open(&path, &root, &params))
        })
    }
}

fn open(path: &Path, root: &Path, params: &Row) -> Result<Arc<Script>, String> {
    Script::open_with(path, root, params).map(Arc::new).map_err(|error| format!("{error:#}"))
}

/// Does the work on a thread of its own, and waits for it so long. One that takes longer is left behind: its own limits
/// end it.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("inspection".into())
        // Nobody may listen any more.
        .spawn(move || _ = sender.send(work()))
        .ok()?;
    receiver.recv_timeout(patience).ok()
}

/// Some of the rows that an input will have, as far as the nodes that make them say.
#[must_use]
pub fn rows_of(inputs: &Prospects, input: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for (_, prospect) in inputs.of(input) {
        if let Prospect::Outlined(outline) = prospect {
            let listed = outline["rows"].as_array().into_iter().flatten();
            rows.extend(listed.filter_map(Value::as_object).take(ROWS).cloned());
        }
    }
    rows.truncate(TRIED);
    rows
}

/// Some of the rows that a node will make, for those that read it. None where nothing is known of them.
#[must_use]
pub fn outline(rows: Vec<Row>) -> Option<Value> {
    (!rows.is_empty()).then(|| json!({ "rows": rows }))
}

/// A field that none of the rows has, of those that are known.
#[must_use]
pub fn missing_field(parameter: &str, field: &str, rows: &[Row]) -> Option<Finding> {
    let first = rows.first()?;
    if rows.iter().any(|row| row.contains_key(field)) {
        return None;
    }
    let hint = engine::hint(field, first.keys().map(String::as_str), "the rows have");
    let message = format!("no field `{field}` in the rows");
    Some(Finding::Parameter(Problem { parameter: parameter.into(), message, hint }))
}

/// Completions that no prompt leaves room for, in the context of each of the models of this input.
#[must_use]
pub fn room(parameter: &str, max_new_tokens: usize, policy: &str, inputs: &Prospects) -> Vec<Finding> {
    let mut found = Vec::new();
    for (node, prospect) in inputs.of(policy) {
        let Some(context) = footprint::context(prospect) else { continue };
        if max_new_tokens < context {
            continue;
        }
        let name = parameter.rsplit('.').next().unwrap_or(parameter);
        let message = format!(
            "`{name}` is {max_new_tokens}, and the context of `{node}` holds {context} tokens, prompt and completion \
             together"
        );
        let hint = match context {
            0..=2 => "give the model a longer context".into(),
            _ => format!("set `{name}` to less than {context}, by as many tokens as the longest prompt has"),
        };
        found.push(Finding::Parameter(Problem { parameter: parameter.into(), message, hint: Some(hint) }));
    }
    // One that is too small for all is told once.
    found.truncate(1);
    found
}
