//! `mashbill ls`: what lies in the store.
//!
//! `--json` prints a line a result: `{ "fingerprint", "kind", "size", "made", "pipeline", "node", "stage", "current" }`.

use engine::Artifact;
use serde_json::json;

use crate::{
    age::ago,
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{BOLD, DIM, RESET, say, size, table},
};

pub fn ls(json: bool, global: &Global) -> Result<Code, Trouble> {
    let store = pipeline::store_here(global)?;
    let artifacts = store.artifacts()?;
    // A result is current while the node that it was made for has it still.
    let is_current = |artifact: &Artifact| {
        let made = &artifact.manifest.made;
        store.last(&made.pipeline, &made.node).is_some_and(|last| last.fingerprint == artifact.manifest.fingerprint)
    };
    if json {
        for artifact in &artifacts {
            let (manifest, made) = (&artifact.manifest, &artifact.manifest.made);
            say!(
                "{}",
                json!({
                    "fingerprint": manifest.fingerprint, "kind": manifest.kind, "size": manifest.size(),
                    "made": made.started, "pipeline": made.pipeline, "node": made.node, "stage": artifact.facts.stage,
                    "current": is_current(artifact),
                })
            );
        }
        return Ok(Code::Done);
    }
    let row = |artifact: &Artifact| {
        let (manifest, made) = (&artifact.manifest, &artifact.manifest.made);
        let earlier = if is_current(artifact) { String::new() } else { format!("{DIM}earlier{RESET}") };
        vec![
            manifest.fingerprint.short(),
            size(manifest.size()),
            manifest.kind.clone(),
            ago(&made.started),
            format!("{}/{BOLD}{}{RESET}", made.pipeline, made.node),
            earlier,
        ]
    };
    table(&artifacts.iter().map(row).collect::<Vec<_>>());
    let bytes: u64 = artifacts.iter().map(|artifact| artifact.manifest.size()).sum();
    say!("{BOLD}{} results, {}{RESET} in {}", artifacts.len(), size(bytes), store.root().display());
    Ok(Code::Done)
}
