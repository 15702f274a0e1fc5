//! `mashbill runs`: every run of the store, or one with what it was asked and what came of it.

use std::time::Duration;

use engine::{
    Store,
    runs::{RunOutcome, RunRecord, Runs},
};

use crate::{
    age::ago,
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    progress::duration,
    screen::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW, brief, say, table},
};

/// Letters of a reason or error.
const REMARK: usize = 100;

pub fn runs(run: Option<&str>, json: bool, global: &Global) -> Result<Code, Trouble> {
    let store = pipeline::store_here(global)?;
    let runs = read(&store)?;
    if let Some(run) = run {
        let record = find(&runs, run)?;
        if json {
            say!("{}", to_json(record));
        } else {
            tell(record);
        }
        return Ok(Code::Done);
    }
    if json {
        // One line a run, as they may be many.
        runs.records.iter().for_each(|record| say!("{}", serde_json::json!(record)));
    } else if runs.records.is_empty() {
        say!("no run yet: `mashbill run FILE` makes the first");
    } else {
        table(&runs.records.iter().map(row).collect::<Vec<_>>());
    }
    Ok(Code::Done)
}

/// All runs; what is damaged is said and left out.
pub fn read(store: &Store) -> Result<Runs, Trouble> {
    let runs = Runs::of(store)?;
    for (id, damage) in &runs.damaged {
        screen::note(&format!("{YELLOW}run {id}: {damage}{RESET}"));
    }
    Ok(runs)
}

pub fn find<'a>(runs: &'a Runs, words: &str) -> Result<&'a RunRecord, Trouble> {
    runs.get(words).ok_or_else(|| Trouble::Usage {
        message: format!("no run `{words}`"),
        hint: Some(match (runs.records.first(), runs.records.last()) {
            (Some(first), Some(last)) => {
                format!("the runs are {} to {}; `last` and `last~1` are the newest two", first.id, last.id)
            }
            _ => "the store has no runs yet".into(),
        }),
    })
}

fn to_json(record: &RunRecord) -> String {
    serde_json::to_string_pretty(record).expect("a record is plain data with text for keys")
}

fn coloured(outcome: RunOutcome) -> String {
    let colour = match outcome {
        RunOutcome::Done => GREEN,
        RunOutcome::Failed | RunOutcome::Killed => RED,
        RunOutcome::Running | RunOutcome::Stopped => YELLOW,
    };
    format!("{colour}{}{RESET}", outcome.word())
}

fn counts(record: &RunRecord) -> String {
    let words = ["made", "reused", "failed", "skipped", "begun"];
    let counts = words.into_iter().filter(|word| record.count(word) > 0);
    counts.map(|word| format!("{} {word}", record.count(word))).collect::<Vec<_>>().join(", ")
}

fn row(record: &RunRecord) -> Vec<String> {
    let time = record.seconds.map(|seconds| duration(Duration::from_secs_f64(seconds))).unwrap_or_default();
    let commit = record.commit.as_deref().unwrap_or_default().chars().take(8).collect::<String>();
    vec![
        format!("{BOLD}{}{RESET}", record.id),
        record.pipeline.clone(),
        coloured(record.outcome),
        ago(&record.started),
        time,
        counts(record),
        format!("{DIM}{commit}{RESET}"),
        record.overrides.join(" "),
    ]
}

fn tell(record: &RunRecord) {
    say!("{BOLD}run {}{RESET} of {}: {}", record.id, record.pipeline, coloured(record.outcome));
    let row = |name: &str, value: String| vec![format!("  {name}"), value];
    let mut rows = vec![row("began", format!("{} ({})", record.started, ago(&record.started)))];
    if let Some(seconds) = record.seconds {
        rows.push(row("took", duration(Duration::from_secs_f64(seconds))));
    }
    rows.push(row("asked", record.argv.join(" ")));
    if let Some(commit) = &record.commit {
        let branch = record.branch.as_ref().map_or(String::new(), |branch| format!(" on {branch}"));
        rows.push(row("commit", format!("{commit}{branch}")));
    }
    rows.push(row("by", format!("mashbill {} on {}, {} cores", record.engine, record.platform, record.cores)));
    table(&rows);
    say!("");
    let row = |node: &engine::runs::NodeRecord| {
        let remark = node.error.as_ref().or(node.reasons.first());
        vec![
            format!("{BOLD}{}{RESET}", node.node),
            node.stage.clone(),
            node.outcome.clone(),
            if node.outcome == "reused" { String::new() } else { duration(Duration::from_secs_f64(node.seconds)) },
            node.fingerprint.map(engine::Fingerprint::short).unwrap_or_default(),
            remark.map(|remark| brief(remark, REMARK)).unwrap_or_default(),
        ]
    };
    table(&record.nodes.iter().map(row).collect::<Vec<_>>());
    for node in &record.nodes {
        for text in &node.warnings {
            say!("{YELLOW}warning{RESET}: {BOLD}{}{RESET}: {text}", node.node);
        }
    }
}
