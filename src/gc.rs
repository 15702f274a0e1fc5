//! `mashbill gc`, `pin` and `unpin`: what of the store nobody needs any more, and what stays whatever happens.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{Candidate, Fingerprint, Keep, Store, Verdict, Why, forecast, runs::Runs};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{self, BOLD, DIM, RESET, say, size, table},
};

/// A training that was stopped can be continued for at least so long.
const UNFINISHED: Duration = Duration::from_hours(7 * 24);

/// What the command line says of what to keep.
pub struct Wanted {
    pub files: Vec<PathBuf>,
    pub keep_size: Option<u64>,
    pub grace: Duration,
    /// How many runs' results stay.
    pub keep_runs: usize,
    pub is_applied: bool,
}

pub fn gc(wanted: &Wanted, global: &Global) -> Result<Code, Trouble> {
    let root = match wanted.files.first() {
        Some(file) => pipeline::root(file, global)?,
        None => pipeline::root(Path::new("."), global)?,
    };
    let store = pipeline::store(&root, global)?;
    let mut roots = BTreeSet::new();
    for file in &wanted.files {
        let plan = pipeline::plan(file, global)?;
        for forecast in forecast(&plan, &store)? {
            match forecast.verdict {
                Verdict::Reuse(reuse) => roots.insert(reuse.artifact.fingerprint),
                // What it had last may yet be wanted to compare with.
                _ => store.last(&plan.name, &forecast.node).is_some_and(|last| roots.insert(last.fingerprint)),
            };
        }
    }
    roots.extend(results_of_runs(&store, wanted.keep_runs)?);
    let keep = Keep {
        roots,
        last_results: wanted.files.is_empty(),
        grace: wanted.grace,
        unfinished: wanted.grace.max(UNFINISHED),
        size: wanted.keep_size,
    };
    let survey = store.survey(&keep)?;
    table(&survey.remove.iter().map(row).collect::<Vec<_>>());
    let count = |why: Why| survey.keep.iter().filter(|(_, other)| *other == why).count();
    let kept: Vec<String> = [
        (Why::Needed, "needed"),
        (Why::Pinned, "pinned"),
        (Why::InUse, "in use"),
        (Why::Recent, "used recently"),
        (Why::Room, "for which there is room"),
    ]
    .into_iter()
    .filter(|(why, _)| count(*why) > 0)
    .map(|(why, word)| format!("{} {word}", count(why)))
    .collect();
    say!("kept: {}", if kept.is_empty() { "nothing".into() } else { kept.join(", ") });
    let bytes = survey.remove.iter().map(|candidate| candidate.bytes).sum();
    if !wanted.is_applied {
        say!("{BOLD}{} of {} would be set free{RESET}", size(bytes), size(survey.bytes));
        if !survey.remove.is_empty() {
            screen::note("nothing was removed; `--apply` does it");
        }
        return Ok(Code::Done);
    }
    let freed = store.sweep(&survey)?;
    say!("{BOLD}{} of {} set free{RESET}", size(freed), size(survey.bytes));
    Ok(Code::Done)
}

/// What the newest runs had.
fn results_of_runs(store: &Store, count: usize) -> Result<BTreeSet<Fingerprint>, Trouble> {
    let runs = Runs::of(store)?;
    let newest: Vec<_> = runs.records.iter().rev().take(count).collect();
    let is_newer = |id: u64| newest.len() < count || newest.iter().any(|run| run.id < id);
    if let Some((id, what)) = runs.damaged.iter().find(|(id, _)| count > 0 && is_newer(*id)) {
        let message = format!("the record of run {id} does not say what it had: {what}");
        return Err(Trouble::Usage { message, hint: Some("`--keep-runs 0` goes without the runs".into()) });
    }
    Ok(newest.iter().flat_map(|run| &run.nodes).filter_map(|node| node.fingerprint).collect())
}

fn row(candidate: &Candidate) -> Vec<String> {
    let Candidate { path, about, bytes, unused_for, .. } = candidate;
    let days = unused_for.as_secs() / 86_400;
    let age = if days > 0 { format!("{days} d") } else { format!("{} h", unused_for.as_secs() / 3_600) };
    let path: String = path.display().to_string().chars().take(24).collect();
    vec![about.clone(), size(*bytes), format!("unused for {age}"), format!("{DIM}{path}{RESET}")]
}

/// Pins the result that a node has now, or takes the pin away.
pub fn pin(file: &Path, node: &str, is_kept: bool, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let Some(last) = store.last(&plan.name, &node.name) else {
        return Err(Trouble::usage(format!("`{}` has no result yet", node.name)));
    };
    let fingerprint: Fingerprint = last.fingerprint;
    if is_kept {
        store.pin(fingerprint, &format!("{} of {}", node.name, plan.name))?;
        say!("{} {} is kept until `mashbill unpin`", node.name, fingerprint.short());
    } else {
        store.unpin(fingerprint)?;
        say!("{} {} is kept only while it is needed", node.name, fingerprint.short());
    }
    Ok(Code::Done)
}
