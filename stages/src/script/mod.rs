//! Plugins: Rhai scripts that reward, filter, map and draw rows, in a sandbox.
//! Knows nothing of stages, models or tokens.
//!
//! A plugin is a file of functions. What calls them, and what they give back:
//!
//! | function | called by | gives |
//! |---|---|---|
//! | `reward(sample)` | grpo, reject, evaluate | a number, or a map of named parts whose sum is the reward |
//! | `keep(sample)` | reject, distill | `true`, `false`, or the reason it was dropped as text |
//! | `keep(row)` | filter | the same |
//! | `map(row)` | map | a row, an array of rows, or `()` to drop it |
//! | `row(rng, index)` | generate | a row, or an array of rows |
//! | `test_...()` | `mashbill test` | nothing; it fails by `assert`, `assert_eq` or any error |
//!
//! `params` is a constant map in every function: the stage's `params:`, empty where there are none.
//! A function may also take it as its last argument.

mod check;
mod error;
mod host;
mod imports;
mod keep;
mod reward;
mod rng;
mod rows;
mod sandbox;
#[cfg(test)]
mod tests;
mod tests_of;
mod value;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rayon::prelude::*;
use rhai::{AST, Dynamic, Engine, Scope};

pub use self::{
    check::Use,
    error::{Error, Mistake},
    imports::imports,
    keep::Keep,
    reward::Reward,
    tests_of::{TestOutcome, run_tests},
};
use self::{imports::Library, sandbox::Limits};
use crate::data::rows::Row;

/// A plugin, compiled and ready to be called from many threads.
pub struct Script {
    engine: Engine,
    ast: AST,
    /// Path from the project root, as messages show it.
    name: String,
    /// The text of the plugin and of all it imports, by name, to show lines in messages.
    texts: BTreeMap<String, String>,
    params: Dynamic,
    limits: Limits,
}

/// One completion, as a plugin sees it.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// The row that the prompt came from; its `answer` is `sample.answer` too.
    pub row: &'a Row,
    pub prompt: &'a str,
    /// Decoded without the end-of-text token.
    pub completion: &'a str,
    /// Was the completion cut off at the length limit?
    pub truncated: bool,
    /// Length of the completion in tokens.
    pub tokens: usize,
    /// Place in its group, from zero.
    pub index: usize,
}

impl Script {
    /// Compiles a plugin and what it imports from inside `root`.
    ///
    /// # Errors
    /// An [`Error`] where a file is missing, lies outside of `root`, or is not valid Rhai.
    pub fn open(path: &Path, root: &Path) -> anyhow::Result<Self> {
        Self::open_with(path, root, &Row::new())
    }

    /// As [`Script::open`], with the values of `params` in the plugin.
    ///
    /// # Errors
    /// As [`Script::open`].
    pub fn open_with(path: &Path, root: &Path, params: &Row) -> anyhow::Result<Self> {
        Ok(Self::load(path, root, params, Limits::default(), |_| ())?)
    }

    fn load(
        path: &Path,
        root: &Path,
        params: &Row,
        limits: Limits,
        extend: impl FnOnce(&mut Engine),
    ) -> Result<Self, Error> {
        let library = Library::default();
        let params = value::from_row(params);
        let mut engine = sandbox::engine(&limits, params.clone(), library.clone());
        extend(&mut engine);
        let loaded = sandbox::pool().install(|| imports::load(&engine, &library, path, root, &limits))?;
        Ok(Self { engine, ast: loaded.ast, name: loaded.name, texts: loaded.texts, params, limits })
    }

    /// Is there such a function, with any number of parameters?
    #[must_use]
    pub fn defines(&self, function: &str) -> bool {
        self.ast.iter_functions().any(|defined| defined.name == function)
    }

    /// Calls a function with as many of `arguments` as it takes, `params` being the last of them.
    fn call(&self, function: &str, arguments: &[Dynamic]) -> Result<Dynamic, Error> {
        let taken = self.parameters(function, arguments.len() + 1)?;
        let arguments: Vec<_> = arguments.iter().chain([&self.params]).take(taken).cloned().collect();
        sandbox::timed(self.limits.wall, || {
            let call = || self.engine.call_fn::<Dynamic>(&mut Scope::new(), &self.ast, function, arguments);
            // Rhai's own invariants are not ours to trust: a panic in it is the plugin's error, not the end of the run.
            catch_unwind(AssertUnwindSafe(call))
        })
        .map_err(|_| Error::new("the script engine panicked", &self.name).in_function(function))?
        .map_err(|error| {
            Error::running(&error, &self.engine, &self.name, &self.texts, &self.limits).in_function(function)
        })
    }

    /// How many parameters the function takes: at least one, and no more than are given.
    fn parameters(&self, function: &str, given: usize) -> Result<usize, Error> {
        let arities = || self.ast.iter_functions().filter(|f| f.name == function).map(|f| f.params.len());
        if let Some(taken) = arities().filter(|arity| *arity <= given).max() {
            return Ok(taken);
        }
        if let Some(arity) = arities().next() {
            let message = format!("`{function}` takes {arity} parameters, but is given {given}");
            return Err(Error::new(message, &self.name));
        }
        let mut names: Vec<_> = self.ast.iter_functions().map(|f| f.name).collect();
        names.sort_unstable();
        let hint = match error::nearest(function, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "it defines no functions".into(),
            None => format!("it defines {}", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
        };
        Err(Error::new(format!("no function `{function}` in the plugin"), &self.name).hint(hint))
    }
}

/// Works on all items in parallel, with results in order; of several errors, the first in order.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
    // Small enough that a plugin that always fails, or is always slow, is stopped soon.
    const CHUNK: usize = 64;
    let mut results = Vec::with_capacity(items.len());
    for (number, chunk) in items.chunks(CHUNK).enumerate() {
        let start = number * CHUNK;
        let done: Vec<_> =
            sandbox::pool().install(|| chunk.par_iter().enumerate().map(|(i, item)| work(start + i, item)).collect());
        for result in done {
            results.push(result?);
        }
    }
    Ok(results)
}
