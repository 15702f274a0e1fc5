//! `mashbill plan`: what a run would do with each node, in one of three honest words.
//!
//! `--json` prints one document. It may gain keys; those that are there keep their meaning:
//!
//! ```text
//! { "pipeline", "file",
//!   "nodes": [ { "node", "stage", "place", "verdict": "reuse" | "run" | "waits" | "left" | "fails",
//!                "fingerprint":        the result that its facts name; null while an input is not known
//!                "seconds_last_time":  how long making it took; null where nobody made it
//!                "memory":             of work whose stage says what it will hold at its peak, else null:
//!                    { "bytes", "parts": { name: bytes }, "after": [node that must be there before it is exact],
//!                      "refusal": why it would not start now | null }
//!                "reasons": [REASON]   of run and waits; of reuse, why it took the place of the one before
//!                reuse:  "made": UTC, "other_device": null | [made on, asked for]
//!                run:    "resumes": bool
//!                waits:  "on": [node], "causes": [node that runs]
//!                left:   "why"     not selected and not there, or behind such a node
//!                fails:  "error" } ],
//!   "counts": { "reuse", "run", "waits", "left", "fails" } }
//!
//! REASON: { "sentence", "fact": "with.lr" | null, "old", "new", "place": "r1.yaml:41:22" | null,
//!           "because": null | { "node", "reasons": [REASON] } }
//! ```

use std::{path::Path, time::Duration};

use engine::{Footprint, Forecast, Inspected, Plan, Reason, Verdict, forecast_with, free_memory};
use serde_json::{Value, json};

use crate::{
    age::ago,
    args::{Global, Pick},
    outcome::{Code, Trouble},
    pick, pipeline,
    progress::duration,
    screen::{BOLD, DIM, GREEN, RED, RESET, YELLOW, say, table},
};

/// How a plan is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Form {
    pub json: bool,
    pub exit_code: bool,
}

pub fn plan(file: &Path, pick: &Pick, form: Form, global: &Global) -> Result<Code, Trouble> {
    let (Inspected { plan, unable }, store) = pipeline::with_store(file, global)?;
    let (plan, options) = pick::picked(plan, pick, &store)?;
    let mut forecasts = forecast_with(&plan, &store, &options)?;
    // The plan learnt digests of sources; the next one need not read them again. A store that can't be written to
    // is no reason to withhold what it says.
    let _ = store.save_memo();
    pipeline::refuse_unable(&unable, &forecasts)?;
    forecasts.retain(|forecast| pick::is_asked(&options, &forecast.node));
    if form.json {
        say!("{:#}", to_json(&plan, &forecasts));
    } else {
        tell(&plan, &forecasts);
    }
    Ok(if forecasts.iter().any(|forecast| matches!(forecast.verdict, Verdict::Fails(_))) {
        Code::Failed
    } else if form.exit_code && forecasts.iter().any(|forecast| forecast.verdict.is_work()) {
        Code::WouldRun
    } else {
        Code::Done
    })
}

fn count(forecasts: &[Forecast], word: &str) -> usize {
    forecasts.iter().filter(|forecast| forecast.verdict.word() == word).count()
}

fn tell(plan: &Plan, forecasts: &[Forecast]) {
    table(&forecasts.iter().flat_map(|forecast| rows(plan, forecast)).collect::<Vec<_>>());
    let count = |word: &str| count(forecasts, word);
    let mut counts = vec![
        format!("{} to reuse", count("reuse")),
        format!("{} to run", count("run") + count("fails")),
        format!("{} to wait and see", count("waits")),
    ];
    if count("left") > 0 {
        counts.push(format!("{} left", count("left")));
    }
    say!("{BOLD}{}{RESET}{}", counts.join(", "), estimate(forecasts));
}

/// As long as the last time, where that is known and worth a word.
fn estimate(forecasts: &[Forecast]) -> String {
    let work = || forecasts.iter().filter(|forecast| forecast.verdict.is_work());
    let seconds: f64 = work().filter_map(|forecast| forecast.seconds_last_time).sum();
    if seconds < 1.0 {
        return String::new();
    }
    let unknown = work().filter(|forecast| forecast.seconds_last_time.is_none()).count();
    let rest = if unknown > 0 { format!(", and {unknown} never made") } else { String::new() };
    format!("; {} the last time{rest}", duration(Duration::from_secs_f64(seconds)))
}

/// One row for the node, and one more for each further reason and for what it will hold.
fn rows(plan: &Plan, forecast: &Forecast) -> Vec<Vec<String>> {
    let (colour, mut lines) = match &forecast.verdict {
        Verdict::Reuse(reuse) => {
            let other = reuse.device.as_ref().map(|(on, asked)| format!(", on {on} and not {asked}"));
            (
                GREEN,
                vec![format!("{DIM}made {}{}{RESET}", ago(&reuse.artifact.brief.started), other.unwrap_or_default())],
            )
        }
        Verdict::Run { reasons, resumes } => {
            let mut lines = sentences(reasons);
            if *resumes {
                lines.push("continues what was interrupted".into());
            }
            (YELLOW, lines)
        }
        Verdict::Waits { on, causes, reasons } => {
            let further: Vec<&str> = causes.iter().filter(|cause| !on.contains(cause)).map(String::as_str).collect();
            let verb = if further.len() == 1 { "runs" } else { "run" };
            let why = if further.is_empty() { String::new() } else { format!(": {} {verb}", further.join(", ")) };
            let mut lines = vec![format!("on {}{why}", on.join(", "))];
            lines.extend(sentences(reasons));
            (RESET, lines)
        }
        Verdict::Left { why } => (DIM, vec![why.clone()]),
        Verdict::Fails(error) => (RED, vec![format!("{error:#}")]),
    };
    lines.extend(forecast.footprint.as_ref().map(|footprint| memory(footprint, refusal(plan, forecast))));
    let word = format!("{colour}{}{RESET}", forecast.verdict.word());
    let mut heads = [word, format!("{BOLD}{}{RESET}", forecast.node), forecast.stage.to_owned()];
    let row = |line: String| {
        let mut row: Vec<String> = std::mem::take(&mut heads).into();
        row.push(line);
        row
    };
    lines.into_iter().map(row).collect()
}

fn memory(footprint: &Footprint, refusal: Option<String>) -> String {
    let after = footprint.after.join(", ");
    match refusal {
        Some(refusal) => format!("{RED}{refusal}{RESET}"),
        None if footprint.parts.is_empty() => format!("{DIM}what it needs of memory is known after {after}{RESET}"),
        None if after.is_empty() => format!("{DIM}needs {footprint}{RESET}"),
        None => format!("{DIM}needs at most {footprint}; exact after {after}{RESET}"),
    }
}

/// Why the node would not start now, for want of memory.
fn refusal(plan: &Plan, forecast: &Forecast) -> Option<String> {
    let settings = &plan.node(&forecast.node)?.settings;
    forecast.footprint.as_ref()?.refusal(settings, free_memory()?)
}

fn sentences(reasons: &[Reason]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}

fn to_json(plan: &Plan, forecasts: &[Forecast]) -> Value {
    let words = ["reuse", "run", "waits", "left", "fails"];
    json!({
        "pipeline": plan.name,
        "file": plan.file,
        "nodes": forecasts.iter().map(|forecast| node_to_json(plan, forecast)).collect::<Vec<_>>(),
        "counts": words.into_iter().map(|word| (word.to_owned(), count(forecasts, word).into())).collect::<serde_json::Map<_, _>>(),
    })
}

fn node_to_json(plan: &Plan, forecast: &Forecast) -> Value {
    let place = plan.node(&forecast.node).map(|node| node.place.to_string());
    let mut node = json!({
        "node": forecast.node,
        "stage": forecast.stage,
        "place": place,
        "verdict": forecast.verdict.word(),
        "fingerprint": forecast.fingerprint,
        "seconds_last_time": forecast.seconds_last_time,
        "memory": forecast.footprint.as_ref().map(|footprint| json!({
            "bytes": footprint.bytes(),
            "parts": footprint.parts.iter().map(|(name, bytes)| ((*name).to_owned(), (*bytes).into())).collect::<serde_json::Map<_, _>>(),
            "after": footprint.after,
            "refusal": refusal(plan, forecast),
        })),
    });
    match &forecast.verdict {
        Verdict::Reuse(reuse) => {
            node["reasons"] = reasons_to_json(&reuse.since_before);
            node["made"] = reuse.artifact.brief.started.as_str().into();
            node["other_device"] = reuse.device.as_ref().map_or(Value::Null, |(made, asked)| json!([made, asked]));
        }
        Verdict::Run { reasons, resumes } => {
            node["reasons"] = reasons_to_json(reasons);
            node["resumes"] = (*resumes).into();
        }
        Verdict::Waits { on, causes, reasons } => {
            node["reasons"] = reasons_to_json(reasons);
            node["on"] = on.as_slice().into();
            node["causes"] = causes.as_slice().into();
        }
        Verdict::Left { why } => node["why"] = why.as_str().into(),
        Verdict::Fails(error) => node["error"] = format!("{error:#}").into(),
    }
    node
}

/// Also what `explain --json` and the run record say of a reason.
pub fn reasons_to_json(reasons: &[Reason]) -> Value {
    let reason = |reason: &Reason| {
        let (old, new) = reason.change.as_ref().map(engine::Change::values).unwrap_or_default();
        json!({
            "sentence": reason.sentence,
            "fact": reason.change.as_ref().map(engine::Change::fact),
            "old": old,
            "new": new,
            "place": reason.place.as_ref().map(ToString::to_string),
            "because": reason.cause.as_ref().map(|cause| json!({
                "node": cause.node, "reasons": reasons_to_json(&cause.reasons),
            })),
        })
    };
    reasons.iter().map(reason).collect()
}
