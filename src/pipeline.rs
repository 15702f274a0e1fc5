//! From the words on the command line to a plan and its store.

use std::{
    collections::BTreeMap,
    fs, panic,
    path::{Path, PathBuf},
    thread,
};

use engine::{
    Artifact, Diagnostic, Forecast, Found, Inspected, Node, Plan, Registry, Sources, Spec, Store, StoreError, Verdict,
    forecast,
};

use crate::{args::Global, outcome::Trouble};

/// Reads a pipeline and resolves it.
pub fn plan(file: &Path, global: &Global) -> Result<Plan, Trouble> {
    resolved(sources(file, global)?, Plan::resolve)
}

/// As [`plan`], and looks into scripts, at what is known of inputs, and at the machine.
pub fn inspected(file: &Path, global: &Global) -> Result<Inspected, Trouble> {
    resolved(sources(file, global)?, Plan::inspect)
}

fn resolved<P>(sources: Sources, resolve: fn(&Spec, &Registry) -> Result<P, Vec<Diagnostic>>) -> Result<P, Trouble> {
    let spec = Spec::parse(sources).map_err(Trouble::Mistakes)?;
    resolve(&spec, &::stages::registry()).map_err(Trouble::Mistakes)
}

/// Refuses settings with which nodes that have work cannot do it here.
pub fn refuse_unable<'a>(
    unable: &BTreeMap<String, Vec<Diagnostic>>,
    forecasts: impl IntoIterator<Item = &'a Forecast>,
) -> Result<(), Trouble> {
    let at_work = forecasts.into_iter().filter(|forecast| forecast.verdict.is_work());
    let mistakes: Vec<Diagnostic> =
        at_work.filter_map(|forecast| unable.get(&forecast.node)).flatten().cloned().collect();
    if mistakes.is_empty() { Ok(()) } else { Err(Trouble::Mistakes(mistakes)) }
}

/// Reads and inspects a pipeline and opens its store. While the one is done, another core looks at what the store
/// holds: most of it will be asked for.
pub fn with_store(file: &Path, global: &Global) -> Result<(Inspected, Store), Trouble> {
    let sources = sources(file, global)?;
    let root = sources.root.clone();
    thread::scope(|scope| {
        let opened = scope.spawn(|| -> Result<Store, Trouble> {
            let store = store(&root, global)?;
            store.look_ahead();
            Ok(store)
        });
        let plan = resolved(sources, Plan::inspect);
        let store = opened.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        Ok((plan?, store?))
    })
}

/// The text of a pipeline, and what was said on the command line.
pub fn sources(file: &Path, global: &Global) -> Result<Sources, Trouble> {
    let text = engine::read_text(file)
        .map_err(|why| Trouble::usage(format!("cannot read the pipeline `{}`: {why}", file.display())))?;
    let seed = global.seed.map(|seed| format!("seed={seed}"));
    let overrides = seed.into_iter().chain(global.set.iter().cloned()).collect();
    let profiles = global.profile.clone();
    Ok(Sources { root: root(file, global)?, file: file.into(), text, profiles, overrides })
}

/// The store that goes with a root.
pub fn store(root: &Path, global: &Global) -> Result<Store, Trouble> {
    let folder = global.store.clone().unwrap_or_else(|| root.join(".mashbill"));
    // What `show` prints is pasted into other programs, which run elsewhere.
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    Ok(Store::at(folder)?)
}

/// The node of that name.
pub fn node<'a>(plan: &'a Plan, name: &str) -> Result<&'a Node, Trouble> {
    plan.node(name).ok_or_else(|| Trouble::Usage {
        message: format!("{}: no node `{name}`", plan.file.display()),
        hint: engine::hint(name, plan.nodes().iter().map(|node| node.name.as_str()), "the nodes are"),
    })
}

/// Does a result belong to the pipeline as it is now?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    UpToDate,
    OutOfDate,
}

/// The result of a node, or the last one it had; none where nothing whole is left of it.
pub fn result(plan: &Plan, node: &Node, store: &Store) -> Result<Option<(Artifact, Standing)>, StoreError> {
    let forecasts = forecast(plan, store)?;
    let verdict = forecasts.into_iter().find(|forecast| forecast.node == node.name).map(|forecast| forecast.verdict);
    if let Some(Verdict::Reuse(reuse)) = verdict {
        return Ok(Some((reuse.artifact, Standing::UpToDate)));
    }
    let last = store.last(&plan.name, &node.name);
    Ok(match last.map(|last| store.find(last.fingerprint)).transpose()? {
        Some(Found::Whole(artifact)) => Some((artifact, Standing::OutOfDate)),
        Some(Found::Absent | Found::Damaged(_)) | None => None,
    })
}

/// There is nothing to show of a node.
pub fn no_result(file: &Path, node: &str) -> Trouble {
    Trouble::Failed {
        message: format!("`{node}` has no result yet"),
        hint: Some(format!("mashbill run {} --until {node}", file.display())),
    }
}

/// Where relative paths start: `--root`, else the nearest marked folder above `file`, else the current one.
pub fn root(file: &Path, global: &Global) -> Result<PathBuf, Trouble> {
    let absolute = |path: &Path| {
        fs::canonicalize(path).map_err(|error| Trouble::usage(format!("cannot open `{}`: {error}", path.display())))
    };
    if let Some(root) = &global.root {
        return absolute(root);
    }
    let file = absolute(file)?;
    marked_above(&file, 1).map_or_else(|| absolute(Path::new(".")), Ok)
}

/// The store of the project around the current folder, for verbs that are about no pipeline.
pub fn store_here(global: &Global) -> Result<Store, Trouble> {
    let here = fs::canonicalize(global.root.as_deref().unwrap_or(Path::new(".")))
        .map_err(|error| Trouble::usage(format!("cannot open the current folder: {error}")))?;
    let root = if global.root.is_some() { here } else { marked_above(&here, 0).unwrap_or(here) };
    store(&root, global)
}

/// The nearest folder that is marked as a project's, so many above the path.
fn marked_above(path: &Path, skip: usize) -> Option<PathBuf> {
    let is_marked = |folder: &&Path| folder.join(".mashbill").is_dir() || folder.join(".git").exists();
    path.ancestors().skip(skip).find(is_marked).map(Into::into)
}
