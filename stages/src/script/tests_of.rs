//! Runs the `test_` functions of plugins.
//! Knows nothing of how the outcomes are shown.

use std::path::{Path, PathBuf};

use ::engine::Cancel;
use anyhow::Context as _;
use rhai::{Dynamic, Engine, EvalAltResult, Map};

use super::{Error, Row, Script, rng::Rng, sandbox::Limits, value};

/// How one test went, or why a file holds none that could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    /// Path from the project root.
    pub file: String,
    /// The function; empty where the file itself could not be opened.
    pub name: String,
    /// Nothing where it passed.
    pub error: Option<String>,
}

/// Runs every function without parameters whose name begins with `test_`, in a plugin or in all plugins
/// below a folder, in order of paths and names.
///
/// Tests have these functions besides all that a plugin has: `assert(truth)`, `assert(truth, message)`,
/// `assert_eq(left, right)`, `sample(completion, row)` for the sample of a row, and `rng(seed)`.
///
/// # Errors
/// When a folder can't be listed. A plugin that doesn't compile is an outcome.
pub fn run_tests(path: &Path, root: &Path) -> anyhow::Result<Vec<TestOutcome>> {
    let mut outcomes = Vec::new();
    for file in plugins(path)? {
        match Script::load(&file, root, &Row::new(), Limits::default(), Cancel::default(), register) {
            Ok(script) => outcomes.extend(script.run_own_tests()),
            Err(error) => {
                let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
                let file = error.downcast_ref::<Error>().map_or(shown, |error| error.file.clone());
                outcomes.push(TestOutcome { file, name: String::new(), error: Some(error.to_string()) });
            }
        }
    }
    Ok(outcomes)
}

impl Script {
    fn run_own_tests(&self) -> Vec<TestOutcome> {
        let tests = self.0.ast.iter_functions().filter(|f| f.name.starts_with("test_") && f.params.is_empty());
        let mut names: Vec<String> = tests.map(|f| f.name.to_string()).collect();
        names.sort_unstable();
        let run = |name: String| {
            let called = self.each(&name, &[()], |()| [], |_, _, _| Ok(()), |error, _| error);
            TestOutcome { file: self.0.name.clone(), error: called.err().map(|error| error.to_string()), name }
        };
        names.into_iter().map(run).collect()
    }
}

fn plugins(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let listing = || format!("listing {}", path.display());
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).with_context(listing)? {
        entries.push(entry.with_context(listing)?.path());
    }
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|extension| extension == "rhai") {
            found.extend(plugins(&entry)?);
        }
    }
    Ok(found)
}

pub(super) fn register(engine: &mut Engine) {
    type Asserted = Result<(), Box<EvalAltResult>>;
    let assert = |truth: bool, message: &str| -> Asserted { if truth { Ok(()) } else { Err(message.into()) } };
    engine.register_fn("assert", move |truth: bool| assert(truth, "assertion failed"));
    engine.register_fn("assert", move |truth: bool, message: &str| assert(truth, message));
    engine.register_fn("assert_eq", |left: Dynamic, right: Dynamic| -> Asserted {
        let (left, right) = (literal(&left), literal(&right));
        if left == right { Ok(()) } else { Err(format!("{left} is not {right}").into()) }
    });
    engine.register_fn("rng", |seed: i64| Rng::new(&[seed.cast_unsigned()]));
    engine.register_fn("sample", |completion: &str, row: Map| -> Result<Dynamic, Box<EvalAltResult>> {
        let row = value::to_row(&Dynamic::from_map(row))?;
        let text = |name: &str| row.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_string();
        let sample = super::Sample {
            row: &row,
            prompt: &text("prompt"),
            completion,
            truncated: false,
            tokens: completion.chars().count(),
            index: 0,
        };
        Ok(sample.to_dynamic())
    });
}

/// A value as a plugin would write it, so that equal values and only they look equal.
fn literal(value: &Dynamic) -> String {
    format!("{value:?}")
}
