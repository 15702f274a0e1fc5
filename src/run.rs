//! `mashbill run`: makes what is not there, then says what came of each node.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use engine::{NodeReport, Options, Outcome, Report};
use serde_json::{Map, Value};

use crate::{
    args::{Global, Pace, Pick},
    outcome::{Code, Trouble},
    pick, pipeline,
    progress::{self, duration},
    screen::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW, brief, say, table},
    signals,
};

/// Widest remark in the table.
const REMARK: usize = 90;

pub fn run(file: &Path, pick: &Pick, pace: &Pace, quiet: bool, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let store = pipeline::store(&plan.root, global)?;
    let watch = if quiet { Options::default().watch } else { progress::watch() };
    let (plan, options) = pick::picked(plan, pick, &store)?;
    let options = Options { watch, jobs: pace.jobs, keep_going: pace.keep_going, ..options };
    pick::check(&plan, &options, &store)?;
    let stop = signals::listen(options.cancel.clone())
        .map_err(|error| Trouble::usage(format!("cannot listen for signals: {error}")))?;
    let begun = Instant::now();
    let report = engine::run(&plan, &store, &options);

    if !quiet {
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

fn tell(report: &Report, time: Duration) {
    table(&report.nodes.iter().map(row).collect::<Vec<_>>());
    let count = |name: &str| report.count(|outcome| outcome.to_string() == name);
    let counts: Vec<String> = ["reused", "made", "failed", "skipped"]
        .into_iter()
        .filter(|name| count(name) > 0)
        .map(|name| format!("{} {name}", count(name)))
        .collect();
    say!("{BOLD}{} in {}{RESET}", counts.join(", "), duration(time));

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
    let metrics = node.artifact.as_ref().and_then(engine::Artifact::last_metrics);
    let figures = metrics.map(|metrics| figures(&metrics)).filter(|figures| !figures.is_empty());
    let reason = || node.reasons.first().map_or(String::new(), ToString::to_string);
    format!("{same}{}", figures.unwrap_or_else(reason))
}

/// `loss 1.234, accuracy 0.5`, without the step.
pub fn figures(metrics: &Map<String, Value>) -> String {
    let figure = |(name, value): (&String, &Value)| match value.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e9 => Some(format!("{name} {value}")),
        Some(value) if value.abs() >= 0.001 => Some(format!("{name} {value:.4}")),
        Some(value) => Some(format!("{name} {value:.2e}")),
        None => None,
    };
    let figures: Vec<String> = metrics.iter().filter(|(name, _)| *name != "step").filter_map(figure).collect();
    figures.join(", ")
}
