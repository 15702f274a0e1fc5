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
//! Every call has limits on operations, time and memory (`sandbox.rs`), and what cannot be stopped from inside is given up
//! (`bounded.rs`).
//!
//! `params` is a constant map in every function: the stage's `params:`, empty where there are none.
//! A function may also take it as its last argument.

mod check;
mod error;
#[cfg(test)]
mod fuzz;
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
    sync::Arc,
};

use ::engine::{Cancel, Cancelled, Context, Source};
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
use crate::{
    bounded::{self, Stopped},
    data::rows::Row,
};

/// A plugin, compiled and ready to be called from many threads.
pub struct Script(Arc<Compiled>);

/// What a [`Script`] shares with the threads that call it.
struct Compiled {
    engine: Engine,
    ast: AST,
    /// Path from the project root, as messages show it.
    name: String,
    /// The text of the plugin and of all it imports, by name, to show lines in messages.
    texts: BTreeMap<String, String>,
    params: Dynamic,
    limits: Limits,
    cancel: Cancel,
}

/// Makes something of what a function of a plugin gave; the name is the function's.
type Read<R> = fn(&Compiled, &str, &Dynamic) -> Result<R, Error>;

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
        Self::load(path, root, params, Limits::default(), Cancel::default(), |_| ())
    }

    /// The plugin of a node, whose calls end when the node is cancelled.
    ///
    /// # Errors
    /// As [`Script::open`]; [`Cancelled`] where that happens meanwhile.
    pub fn open_in(ctx: &Context, source: &Source, params: &Row) -> anyhow::Result<Self> {
        Self::load(&ctx.source(source), ctx.root(), params, Limits::default(), ctx.cancel(), |_| ())
    }

    fn load(
        path: &Path,
        root: &Path,
        params: &Row,
        limits: Limits,
        cancel: Cancel,
        extend: impl Fn(&mut Engine) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let params = value::from_row(params);
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let (path, root) = (path.to_path_buf(), root.to_path_buf());
        let (taken, stop) = (limits.clone(), cancel.clone());
        let compile = move |()| {
            let library = Library::default();
            let mut engine = sandbox::engine(&limits, params.clone(), library.clone(), cancel.clone());
            extend(&mut engine);
            let load = || imports::load(&engine, &library, &path, &root, &limits);
            let imports::Loaded { ast, name, texts } = sandbox::timed(&limits, load)?;
            let (params, limits, cancel) = (params.clone(), limits.clone(), cancel.clone());
            Ok(Self(Arc::new(Compiled { engine, ast, name, texts, params, limits, cancel })))
        };
        match bounded::run(1, taken.bounds(), &stop, &|_| (), compile) {
            Ok(mut one) => Ok(one.pop().expect("one piece of work has one result")),
            Err(Stopped::Failed { error, .. }) => Err(Error::into(error)),
            Err(Stopped::GivenUp { why, .. }) => Err(Error::new(format!("reading it was {why}"), &name).into()),
            Err(Stopped::Cancelled) => Err(Cancelled.into()),
        }
    }

    /// Is there such a function, with any number of parameters?
    #[must_use]
    pub fn defines(&self, function: &str) -> bool {
        self.0.ast.iter_functions().any(|defined| defined.name == function)
    }

    /// Calls a function once for every item, on all cores, with as many of `arguments` as it takes, `params` being the
    /// last of them. The results are in order; of several errors the first in order is told, with what `at` adds.
    fn each<T: Sync, R: Send + 'static, const N: usize>(
        &self,
        function: &str,
        items: &[T],
        arguments: impl Fn(&T) -> [Dynamic; N] + Sync,
        read: Read<R>,
        at: impl Fn(Error, usize) -> Error,
    ) -> anyhow::Result<Vec<R>> {
        let taken = self.0.parameters(function, N + 1)?;
        let prepare = |index: usize| -> Vec<Dynamic> {
            arguments(&items[index]).into_iter().chain([self.0.params.clone()]).take(taken).collect()
        };
        let (compiled, name) = (Arc::clone(&self.0), function.to_owned());
        let call = move |arguments| compiled.call(&name, arguments, read);
        let (index, error) = match bounded::run(items.len(), self.0.limits.bounds(), &self.0.cancel, &prepare, call) {
            Ok(results) => return Ok(results),
            Err(Stopped::Cancelled) => return Err(Cancelled.into()),
            Err(Stopped::Failed { index, error }) => (index, error),
            Err(Stopped::GivenUp { index, why }) => (index, self.0.refuse(function, format!("the call was {why}"))),
        };
        Err(at(error, index).into())
    }
}

impl Compiled {
    fn call<R>(&self, function: &str, arguments: Vec<Dynamic>, read: Read<R>) -> Result<R, Error> {
        let call = || {
            let given = self.engine.call_fn::<Dynamic>(&mut Scope::new(), &self.ast, function, arguments);
            let given = given.map_err(|error| {
                let error = Error::running(&error, &self.engine, &self.name, &self.texts, &self.limits);
                // Rhai forgets where it was when a limit ended a call.
                let is_lost = error.place.is_none() && error.file == self.name;
                let error = if is_lost { self.at_definition(function, error) } else { error };
                error.in_function(function)
            })?;
            match sandbox::refusal() {
                Some(why) => Err(self.refuse(function, why)),
                None => read(self, function, &given),
            }
        };
        // Rhai's own invariants are not ours to trust: a panic in it is the plugin's error, not the end of the run.
        catch_unwind(AssertUnwindSafe(|| sandbox::timed(&self.limits, call)))
            .unwrap_or_else(|_| Err(Error::new("the script engine panicked", &self.name).in_function(function)))
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
