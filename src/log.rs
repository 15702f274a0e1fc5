//! `mashbill log`: what a node's programs wrote, and its metrics line by line.

use std::path::Path;

use engine::Artifact;
use serde_json::Value;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{self, BOLD, RESET, say, table},
};

pub fn log(file: &Path, node: &str, lines: usize, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let last = store.last(&plan.name, &node.name);
    let Some(artifact) = last.and_then(|last| store.recall_artifact(last.fingerprint)) else {
        screen::error(&format!("`{}` has no result yet", node.name));
        screen::note(&format!("  hint: mashbill run {} --until {}", file.display(), node.name));
        return Ok(Code::Failed);
    };
    tell(&artifact, if lines == 0 { usize::MAX } else { lines });
    Ok(Code::Done)
}

fn tell(artifact: &Artifact, lines: usize) {
    if let Some(log) = artifact.log() {
        let all: Vec<&str> = log.lines().collect();
        let left = all.len().saturating_sub(lines);
        if left > 0 {
            screen::note(&format!("{left} lines before; `--lines 0` for all"));
        }
        all[left..].iter().for_each(|line| say!("{line}"));
    }
    let metrics = artifact.metrics();
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
    if metrics.is_empty() && artifact.log().is_none() {
        screen::note("the stage recorded neither a log nor metrics");
    } else if !metrics.is_empty() {
        table(&rows);
    }
}
