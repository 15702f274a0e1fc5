//! `mashbill plan`: what a run would do with each node, in one of three honest words.

use std::path::Path;

use engine::{Forecast, Reason, Verdict, forecast};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{BOLD, DIM, GREEN, RED, RESET, YELLOW, say, table},
};

pub fn plan(file: &Path, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let store = pipeline::store(&plan.root, global)?;
    let forecasts = forecast(&plan, &store)?;
    table(&forecasts.iter().flat_map(rows).collect::<Vec<_>>());
    let count =
        |is_counted: fn(&Verdict) -> bool| forecasts.iter().filter(|forecast| is_counted(&forecast.verdict)).count();
    say!(
        "{BOLD}{} to reuse, {} to run, {} to wait and see{RESET}",
        count(|verdict| matches!(verdict, Verdict::Reuse(_))),
        count(|verdict| matches!(verdict, Verdict::Run { .. } | Verdict::Fails(_))),
        count(|verdict| matches!(verdict, Verdict::Waits { .. })),
    );
    let fails = forecasts.iter().any(|forecast| matches!(forecast.verdict, Verdict::Fails(_)));
    Ok(if fails { Code::Failed } else { Code::Done })
}

/// One row for the node, and one more for each further reason.
fn rows(forecast: &Forecast) -> Vec<Vec<String>> {
    let (word, lines) = match &forecast.verdict {
        Verdict::Reuse(reuse) => {
            let made = &reuse.artifact.manifest.made.started;
            let other = reuse.device.as_ref().map(|(on, asked)| format!(", on {on} and not {asked}"));
            (format!("{GREEN}reuse{RESET}"), vec![format!("{DIM}made {made}{}{RESET}", other.unwrap_or_default())])
        }
        Verdict::Run { reasons, resumes } => {
            let mut lines = sentences(reasons);
            if *resumes {
                lines.push("continues what was interrupted".into());
            }
            (format!("{YELLOW}run{RESET}"), lines)
        }
        Verdict::Waits { on, reasons } => {
            let mut lines = vec![format!("on {}", on.join(", "))];
            lines.extend(sentences(reasons));
            ("waits".into(), lines)
        }
        Verdict::Fails(error) => (format!("{RED}fails{RESET}"), vec![format!("{error:#}")]),
    };
    let mut heads = [word, format!("{BOLD}{}{RESET}", forecast.node), forecast.stage.to_owned()];
    let row = |line: String| {
        let mut row: Vec<String> = std::mem::take(&mut heads).into();
        row.push(line);
        row
    };
    lines.into_iter().map(row).collect()
}

fn sentences(reasons: &[Reason]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}
