//! `mashbill explain`: why a node runs, waits or is reused, down to the first cause.

use std::path::Path;

use engine::{Forecast, Reason, Verdict, forecast};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::say,
};

pub fn explain(file: &Path, node: &str, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let forecasts = forecast(&plan, &store)?;
    say!("{} is written at {}", node.name, node.place);
    tell(&node.name, &forecasts, 0);
    Ok(Code::Done)
}

fn tell(node: &str, forecasts: &[Forecast], depth: usize) {
    let forecast = forecasts.iter().find(|forecast| forecast.node == node).expect("every node has its forecast");
    let indent = "  ".repeat(depth);
    match &forecast.verdict {
        Verdict::Reuse(reuse) => {
            let manifest = &reuse.artifact.manifest;
            say!(
                "{indent}{node} is reused: result {} was made {}",
                manifest.fingerprint.short(),
                manifest.made.started
            );
            if !reuse.since_before.is_empty() {
                say!("{indent}  it took the place of an earlier result:");
                tell_reasons(&reuse.since_before, depth + 2);
            }
        }
        Verdict::Run { reasons, resumes } => {
            let how = if *resumes { ", and continues what was interrupted" } else { "" };
            say!("{indent}{node} runs{how}:");
            tell_reasons(reasons, depth + 1);
        }
        Verdict::Waits { on, reasons, .. } => {
            if !reasons.is_empty() {
                say!("{indent}{node} itself changed:");
                tell_reasons(reasons, depth + 1);
            }
            say!("{indent}{node} waits on {}: the same content again would cut it off", on.join(", "));
            for node in on {
                tell(node, forecasts, depth + 1);
            }
        }
        Verdict::Left { why } => say!("{indent}{node} is left as it is: {why}"),
        Verdict::Fails(error) => say!("{indent}{node} fails: {error:#}"),
    }
}

fn tell_reasons(reasons: &[Reason], depth: usize) {
    let indent = "  ".repeat(depth);
    for reason in reasons {
        say!("{indent}{}", reason.sentence);
        if let Some(cause) = &reason.cause {
            say!("{indent}  because {} changed:", cause.node);
            tell_reasons(&cause.reasons, depth + 2);
        }
    }
}
