//! `mashbill ls`: what lies in the store.
//!
//! `--json` prints a line a result: `{ "fingerprint", "kind", "size", "made", "pipeline", "node", "stage", "current" }`.

use engine::{Facts, Manifest, StoreError};
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
    let all = artifacts.iter().map(|artifact| Ok((artifact.manifest()?, artifact.facts()?)));
    let all = all.collect::<Result<Vec<_>, StoreError>>()?;
    // A result is current while the node that it was made for has it still.
    let is_current = |Manifest { fingerprint, made, .. }: &Manifest| {
        store.last(&made.pipeline, &made.node).is_some_and(|last| last.fingerprint == *fingerprint)
    };
    if json {
        for (manifest, facts) in all {
            let made = &manifest.made;
            say!(
                "{}",
                json!({
                    "fingerprint": manifest.fingerprint, "kind": manifest.kind, "size": manifest.size(),
                    "made": made.started, "pipeline": made.pipeline, "node": made.node, "stage": facts.stage,
                    "current": is_current(manifest),
                })
            );
        }
        return Ok(Code::Done);
    }
    let row = |(manifest, _): &(&Manifest, &Facts)| {
        let made = &manifest.made;
        let earlier = if is_current(manifest) { String::new() } else { format!("{DIM}earlier{RESET}") };
        vec![
            manifest.fingerprint.short(),
            size(manifest.size()),
            manifest.kind.clone(),
            ago(&made.started),
            format!("{}/{BOLD}{}{RESET}", made.pipeline, made.node),
            earlier,
        ]
    };
    table(&all.iter().map(row).collect::<Vec<_>>());
    let bytes: u64 = all.iter().map(|(manifest, _)| manifest.size()).sum();
    say!("{BOLD}{} results, {}{RESET} in {}", all.len(), size(bytes), store.root().display());
    Ok(Code::Done)
}
