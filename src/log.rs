//! `mashbill log`: what a node's programs wrote, its metrics line by line, and why it failed: of the node as it runs or
//! failed, else of its last result.

use std::path::Path;

use engine::{
    Artifact, FactsNow, Fingerprint, Records, Store, facts_now,
    runs::{NodeRecord, RunOutcome, Runs},
};
use serde_json::Value;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{self, BOLD, DIM, RED, RESET, say, table},
};

pub fn log(file: &Path, node: &str, lines: usize, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let unfinished = match facts_now(&plan, &node.name, &store)? {
        Some(FactsNow { facts, unknown, .. }) if unknown.is_empty() => store.unfinished(Fingerprint::of(&facts)),
        Some(_) | None => None,
    };
    let failed = last_outcome(&store, &plan.name, &node.name).filter(|(_, node)| node.outcome == "failed");
    if let (Some((run, node)), None) = (&failed, &unfinished) {
        tell_failure(*run, node);
        return Ok(Code::Done);
    }
    if unfinished.is_some() {
        screen::note(&format!("{DIM}of a result that is not finished: it runs now, or was stopped, or failed{RESET}"));
    }
    let last = || store.recall_artifact(store.last(&plan.name, &node.name)?.fingerprint);
    let Some(records) = unfinished.or_else(|| last().as_ref().map(Artifact::records)) else {
        let why =
            last_outcome(&store, &plan.name, &node.name).and_then(|(run, node)| Some((run, node.outcome, node.error?)));
        let why = why.map_or(String::new(), |(run, outcome, why)| format!(": {outcome} in run {run}, {why}"));
        screen::error(&format!("`{}` has no result yet{why}", node.name));
        screen::note(&format!("  hint: mashbill run {} --until {}", file.display(), node.name));
        return Ok(Code::Failed);
    };
    tell(&records, if lines == 0 { usize::MAX } else { lines });
    if let Some((run, node)) = &failed {
        // Why a program failed repeats the end of its log.
        let why = node.error.as_deref().and_then(|why| why.lines().next()).unwrap_or("the run did not say why");
        screen::note(&format!("{RED}failed{RESET} in run {run}: {why}"));
    }
    Ok(Code::Done)
}

/// What came of a node in the last run that had it.
fn last_outcome(store: &Store, pipeline: &str, node: &str) -> Option<(u64, NodeRecord)> {
    let runs = Runs::of(store).ok()?;
    let mut of_pipeline = runs.records.iter().rev().filter(|run| run.pipeline == pipeline).peekable();
    // It may be at work again.
    if of_pipeline.peek().is_some_and(|run| run.outcome == RunOutcome::Running) {
        return None;
    }
    of_pipeline.find_map(|run| Some((run.id, run.node(node)?.clone())))
}

fn tell_failure(run: u64, node: &NodeRecord) {
    say!("{RED}failed{RESET} in run {run}: {}", node.error.as_deref().unwrap_or("the run did not say why"));
}

fn tell(records: &Records, lines: usize) {
    let log = records.log();
    if let Some(log) = &log {
        let all: Vec<&str> = log.lines().collect();
        let left = all.len().saturating_sub(lines);
        if left > 0 {
            screen::note(&format!("{left} lines before; `--lines 0` for all"));
        }
        all[left..].iter().for_each(|line| say!("{line}"));
    }
    let metrics = records.metrics();
    let mut names: Vec<&str> = Vec::new();
    for name in metrics.iter().flat_map(|line| line.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut rows = vec![names.iter().map(|name| format!("{BOLD}{name}{RESET}")).collect::<Vec<_>>()];
    let text = |value: Option<&Value>| match value {
        Some(Value::Number(number)) if number.is_f64() => {
            let value = number.as_f64().unwrap_or_default();
            if value == 0.0 || value.abs() >= 0.001 { format!("{value:.4}") } else { format!("{value:.2e}") }
        }
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    };
    for line in &metrics[metrics.len().saturating_sub(lines)..] {
        rows.push(names.iter().map(|name| text(line.get(*name))).collect());
    }
    if metrics.is_empty() && log.is_none() {
        screen::note("the stage recorded neither a log nor metrics");
    } else if !metrics.is_empty() {
        table(&rows);
    }
}
