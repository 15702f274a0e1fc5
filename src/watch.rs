//! `mashbill run --watch`: runs again whenever the bytes of the pipeline, of what it includes or of a source change.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use engine::{Digest, NodeSource, Plan, Store};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline, screen,
    screen::{DIM, RESET},
    signals::Stop,
};

/// Between two looks. A look at a file that did not change is one stat.
const INTERVAL: Duration = Duration::from_millis(300);

/// Every file that decides something, and its digest; none where it can't be read.
type Files = BTreeMap<PathBuf, Option<Digest>>;

/// Runs, waits for a change, and so on until somebody stops it. A mistake in the pipeline is told and waited on too.
pub fn again_and_again(
    file: &Path,
    global: &Global,
    stop: &Stop,
    once: impl Fn() -> Result<Code, Trouble>,
) -> Result<Code, Trouble> {
    let store = pipeline::store(&pipeline::root(file, global)?, global)?;
    // Of a pipeline with mistakes, those of the last one without.
    let mut sources = BTreeSet::new();
    loop {
        // Before the run, so that an edit during it is seen.
        if let Ok(plan) = pipeline::plan(file, global) {
            sources = sources_of(&plan);
        }
        let included = pipeline::sources(file, global).map(|sources| sources.included()).unwrap_or_default();
        let paths = [file.to_path_buf()].into_iter().chain(included).chain(sources.iter().cloned());
        let before: Files = paths.map(|path| (path.clone(), store.digest(&path).ok())).collect();
        match once() {
            Ok(_) => {}
            Err(Trouble::Store(error)) => return Err(Trouble::Store(error)),
            Err(trouble) => drop(trouble.tell(global.message_format)),
        }
        screen::note(&format!("{DIM}watching {} files; Ctrl-C ends{RESET}", before.len()));
        let changed = loop {
            if let Some(code) = stop.code() {
                return Ok(code);
            }
            if let Some(changed) = first_change(&before, &store) {
                break changed;
            }
            thread::sleep(INTERVAL);
        };
        screen::note(&format!("\n{} changed", changed.display()));
    }
}

/// Every source of its nodes, with what those pull in.
fn sources_of(plan: &Plan) -> BTreeSet<PathBuf> {
    let files = |source: &NodeSource| source.files(&plan.root).unwrap_or_else(|_| vec![plan.root.join(&source.path)]);
    plan.nodes().iter().flat_map(|node| &node.sources).flat_map(files).collect()
}

fn first_change<'a>(before: &'a Files, store: &Store) -> Option<&'a Path> {
    before.iter().find(|(path, digest)| store.digest(path).ok() != **digest).map(|(path, _)| path.as_path())
}
