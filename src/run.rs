//! `mashbill run`: makes what is not there, then says what came of each node.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use engine::{
    Cancel, Event, Inspected, NodeReport, Options, Outcome, Plan, Report, Store, Watch,
    runs::{self, Asked, Recorder},
};
use serde_json::{Map, Value};

use crate::{
    args::{Global, Pace, Pick},
    outcome::{Code, Trouble},
    pages, pick, pipeline,
    progress::{self, duration},
    screen::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW, brief, say, table},
    signals::{self, Stop},
    watch,
};

/// Widest remark in the table.
const REMARK: usize = 90;

/// How a run is told.
#[derive(Debug, Default)]
pub struct Form {
    pub quiet: bool,
    pub pace: Pace,
    /// Run again whenever a file changes.
    pub is_watching: bool,
    /// Where a trace shall be written.
    pub trace: Option<PathBuf>,
    /// Print what the nodes' programs wrote.
    pub logs: bool,
}

pub fn run(file: &Path, pick: &Pick, form: &Form, global: &Global) -> Result<Code, Trouble> {
    let cancel = Cancel::default();
    let stop = signals::listen(cancel.clone())
        .map_err(|error| Trouble::usage(format!("cannot listen for signals: {error}")))?;
    let once = || once(file, pick, form, global, (&cancel, &stop));
    if form.is_watching { watch::again_and_again(file, global, &stop, once) } else { once() }
}

fn once(
    file: &Path,
    pick: &Pick,
    form: &Form,
    global: &Global,
    (cancel, stop): (&Cancel, &Stop),
) -> Result<Code, Trouble> {
    let (Inspected { plan, unable }, store) = pipeline::with_store(file, global)?;
    let watch = if form.quiet { Options::default().watch } else { progress::watch() };
    let (plan, options) = pick::picked(plan, pick, &store)?;
    pick::check(&plan, &options, &store)?;
    if !unable.is_empty() {
        pipeline::refuse_unable(&unable, &engine::forecast_with(&plan, &store, &options)?)?;
    }
    let recorder = begin_record(&plan, &store, global);
    let watch = recorder.as_ref().map_or(watch.clone(), |recorder| recorder.watch(watch));
    let watch = with_huge_pages(watch);
    let (jobs, keep_going) = (form.pace.jobs, form.pace.keep_going);
    let options = Options { cancel: cancel.clone(), watch, jobs, keep_going, ..options };
    let begun = Instant::now();
    let report = engine::run(&plan, &store, &options);
    end_record(recorder, &report, stop.code().is_some(), form.trace.as_deref(), &store)?;

    if form.logs {
        tell_logs(&report);
    }
    if !form.quiet {
        tell(&report, begun.elapsed());
    }
    if let Some((node, failure)) = report.failure() {
        let place = plan.node(&node.node).map_or(String::new(), |node| format!(" ({})", node.place));
        screen::error(&format!("node `{}` failed{place}", node.node));
        for (depth, cause) in failure.error.chain().enumerate() {
            let indent = if depth == 0 { "  " } else { "  because: " };
            screen::note(&format!("{indent}{}", cause.to_string().replace('\n', "\n  ")));
        }
        return Ok(if failure.is_infrastructure { Code::Infrastructure } else { Code::Failed });
    }
    if let Some(code) = stop.code() {
        screen::note("stopped; the same command continues where it was");
        return Ok(code);
    }
    let is_left =
        |node: &&NodeReport| matches!(node.outcome, Outcome::Skipped(_)) && pick::is_asked(&options, &node.node);
    if let Some(node) = report.nodes.iter().find(is_left) {
        let Outcome::Skipped(why) = &node.outcome else { unreachable!("filtered above") };
        screen::error(&format!("`{}` was skipped: {why}", node.node));
        return Ok(Code::Failed);
    }
    Ok(Code::Done)
}

/// The first node that works wants the pages that [`pages::small`] took away.
fn with_huge_pages(watch: Watch) -> Watch {
    let asked = Once::new();
    Arc::new(move |event| {
        if matches!(event, Event::Started { .. }) {
            asked.call_once(pages::huge);
        }
        watch(event);
    })
}

/// A run that can't be written down is run all the same: a store that is only read has results to give.
fn begin_record(plan: &Plan, store: &Store, global: &Global) -> Option<Recorder> {
    let seed = global.seed.map(|seed| format!("seed={seed}"));
    let asked = Asked {
        argv: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        overrides: seed.into_iter().chain(global.set.iter().cloned()).collect(),
    };
    Recorder::begin(store, plan, asked)
        .inspect_err(|error| screen::note(&format!("{YELLOW}this run is not recorded{RESET}: {error}")))
        .ok()
}

fn end_record(
    recorder: Option<Recorder>,
    report: &Report,
    is_stopped: bool,
    trace: Option<&Path>,
    store: &Store,
) -> Result<(), Trouble> {
    let Some(recorder) = recorder else { return Ok(()) };
    let id = recorder.id();
    if let Err(error) = recorder.finish(report, is_stopped) {
        screen::note(&format!("{YELLOW}the record of this run is not whole{RESET}: {error}"));
    }
    let Some(path) = trace else { return Ok(()) };
    let document = runs::trace(&runs::events(store, id)).to_string();
    std::fs::write(path, document)
        .map_err(|error| Trouble::usage(format!("cannot write the trace `{}`: {error}", path.display())))
}

/// The logs of programs that ran now and of those whose results are reused, alike.
fn tell_logs(report: &Report) {
    for node in &report.nodes {
        if let Some(log) = node.artifact.as_ref().and_then(|artifact| artifact.records().log()) {
            say!("{BOLD}{}{RESET}:\n{}\n", node.node, log.trim_end());
        }
    }
}

fn tell(report: &Report, time: Duration) {
    table(&report.nodes.iter().map(row).collect::<Vec<_>>());
    let count = |name: &str| report.count(|outcome| outcome.to_string() == name);
    let counts: Vec<String> = ["reused", "made", "failed", "skipped"]
        .into_iter()
        .filter(|name| count(name) > 0)
        .map(|name| format!("{} {name}", count(name)))
        .collect();
    say!("{BOLD}{} in {}{RESET}", counts.join(", "), duration(time));
    // Of results that are reused too: what was wrong with them still is.
    for node in &report.nodes {
        for text in node.artifact.iter().flat_map(engine::Artifact::warnings) {
            say!("{YELLOW}warning{RESET}: {BOLD}{}{RESET}: {text}", node.node);
        }
    }

    let made = report.nodes.iter().rfind(|node| matches!(node.outcome, Outcome::Made));
    if let Some(artifact) = made.and_then(|node| node.artifact.as_ref())
        && let Ok(text) = std::fs::read_to_string(artifact.data().join("report.md"))
    {
        say!("\n{}", text.trim_end());
    }
}

fn row(node: &NodeReport) -> Vec<String> {
    let time = duration(Duration::from_secs_f64(node.seconds));
    let (outcome, time, remark) = match &node.outcome {
        Outcome::Reused => (format!("{GREEN}reused{RESET}"), String::new(), String::new()),
        Outcome::Made => (format!("{GREEN}made{RESET}"), time, remark(node)),
        Outcome::Failed(failure) => (format!("{RED}failed{RESET}"), time, failure.error.to_string()),
        Outcome::Skipped(why) => (format!("{YELLOW}skipped{RESET}"), String::new(), why.clone()),
    };
    let remark = format!("{DIM}{}{RESET}", brief(&remark, REMARK));
    vec![format!("{BOLD}{}{RESET}", node.node), node.stage.into(), outcome, time, remark]
}

/// Its last figures, else why it was made.
fn remark(node: &NodeReport) -> String {
    let same = if node.is_same_content { "same content as before; " } else { "" };
    let metrics = node.artifact.as_ref().and_then(metrics);
    let figures = metrics.map(|metrics| figures(&metrics)).filter(|figures| !figures.is_empty());
    let reason = || node.reasons.first().map_or(String::new(), ToString::to_string);
    format!("{same}{}", figures.unwrap_or_else(reason))
}

/// The last line of metrics, and what the first says of rows that were lost before there was anything to measure.
fn metrics(artifact: &engine::Artifact) -> Option<Map<String, Value>> {
    let text = artifact.record("metrics.jsonl")?;
    let read = |line: &str| serde_json::from_str::<Map<String, Value>>(line).ok();
    let mut metrics = read(text.lines().last()?)?;
    for (name, value) in text.lines().next().and_then(read).into_iter().flatten() {
        if is_loss_of_rows(&name) {
            metrics.entry(name).or_insert(value);
        }
    }
    Some(metrics)
}

/// Does the figure count rows that are not in the result as they were given?
fn is_loss_of_rows(name: &str) -> bool {
    name.starts_with("dropped") || name == "truncated" || name == "split"
}

/// Where a figure stands among the others: what a node is run for is read first, how it was done last. Figures of one
/// place keep the order in which they were recorded.
fn importance(name: &str) -> usize {
    const LAST: [&str; 12] = [
        "length",
        "truncated",
        "dead_groups",
        "kl",
        "entropy",
        "loss",
        "gradient_norm",
        "clip_fraction",
        "logprob_difference",
        "learning_rate",
        "tokens_per_s",
        "sampling_share",
    ];
    match name {
        "reward" => 0,
        part if part.starts_with("reward/") => 1,
        "validation_loss" => 2,
        // Of rows by a stage that measures nothing more: `kept` before what was dropped, as recorded.
        other => 3 + LAST.iter().position(|last| *last == other).map_or(0, |at| 1 + at),
    }
}

/// `loss 1.234, accuracy 0.5`, the most important first, without the step.
pub fn figures(metrics: &Map<String, Value>) -> String {
    let figure = |(name, value): (&String, &Value)| match value.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e9 => Some(format!("{name} {value}")),
        Some(value) if value.abs() >= 0.001 => Some(format!("{name} {value:.4}")),
        Some(value) => Some(format!("{name} {value:.2e}")),
        None => None,
    };
    let mut metrics: Vec<(&String, &Value)> = metrics.iter().filter(|(name, _)| *name != "step").collect();
    metrics.sort_by_key(|(name, _)| importance(name));
    metrics.into_iter().filter_map(figure).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_reward_comes_first_and_how_it_was_computed_last() {
        let metrics = json!({
            "step": 3, "clip_fraction": 0, "dead_groups": 1, "entropy": 0.5, "kl": 0, "learning_rate": 1, "length": 2,
            "reward": 0.25, "reward/format": 0.25, "tokens_per_s": 9, "truncated": 0,
        });
        assert_eq!(
            figures(metrics.as_object().unwrap()),
            "reward 0.2500, reward/format 0.2500, length 2, truncated 0, dead_groups 1, kl 0, entropy 0.5000, \
             clip_fraction 0, learning_rate 1, tokens_per_s 9"
        );
        let metrics = json!({ "step": 0, "kept": 3, "dropped": 2, "dropped: no reason given": 2 });
        assert_eq!(figures(metrics.as_object().unwrap()), "kept 3, dropped 2, dropped: no reason given 2");
        let metrics = json!({ "loss": 1.5, "learning_rate": 1, "dropped_too_long": 4, "validation_loss": 2 });
        assert_eq!(
            figures(metrics.as_object().unwrap()),
            "validation_loss 2, dropped_too_long 4, loss 1.5000, learning_rate 1"
        );
    }
}
