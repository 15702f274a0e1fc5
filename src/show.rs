//! `mashbill show`: a node's result as a person wants to see it.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use engine::{
    Artifact, Manifest, Store,
    runs::{RunRecord, Runs},
};
use serde_json::Value;

use crate::{
    age::ago,
    args::Global,
    outcome::{Code, Trouble},
    pipeline::{self, Standing},
    run::figures,
    screen::{BOLD, RESET, brief, say, size, table},
};

/// Lines shown of each file, and letters of each line.
const LINES: usize = 3;
const LETTERS: usize = 300;
/// Files whose rows are what a model wrote.
const WRITTEN: [&str; 2] = ["completions.jsonl", "samples.jsonl"];

pub fn show(file: &Path, node: &str, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let Some((artifact, standing)) = pipeline::result(&plan, node, &store)? else {
        return Err(pipeline::no_result(file, &node.name));
    };
    let state = match standing {
        Standing::UpToDate => "up to date",
        Standing::OutOfDate => "out of date; `mashbill explain` says why",
    };
    say!("{BOLD}{}{RESET} ({}, {}): {state}", node.name, node.stage, node.place);
    tell(&artifact, &provenance(&artifact, &store))?;
    Ok(Code::Done)
}

/// Which run made it, if that is still known, and what it came from, back to the first.
fn provenance(artifact: &Artifact, store: &Store) -> Vec<Vec<String>> {
    let Ok(Manifest { fingerprint, made, .. }) = artifact.manifest() else { return Vec::new() };
    let mut rows = Vec::new();
    let runs = Runs::of(store).unwrap_or_default();
    let is_maker = |record: &&RunRecord| {
        let made = record.nodes.iter().filter(|node| node.outcome == "made");
        made.filter_map(|node| node.fingerprint).any(|made| made == *fingerprint)
    };
    if let Some(record) = runs.records.iter().rev().find(is_maker) {
        let commit = record
            .commit
            .as_ref()
            .map_or(String::new(), |commit| format!(", commit {}", &commit[..commit.len().min(12)]));
        rows.push(vec!["  by run".into(), format!("{}{commit}: {}", record.id, record.argv.join(" "))]);
    }
    let mut seen = BTreeSet::new();
    let mut ahead: VecDeque<_> = made.inputs.values().flatten().cloned().collect();
    while let Some(origin) = ahead.pop_front() {
        if !seen.insert(origin.fingerprint) {
            continue;
        }
        let from = store.recall(origin.fingerprint);
        let when = from
            .as_ref()
            .map_or_else(|| "no longer in the store".to_owned(), |(manifest, _)| ago(&manifest.made.started));
        rows.push(vec!["  from".into(), format!("{} {} {when}", origin.fingerprint.short(), origin.node)]);
        ahead.extend(from.iter().flat_map(|(manifest, _)| manifest.made.inputs.values().flatten()).cloned());
    }
    rows
}

fn tell(artifact: &Artifact, provenance: &[Vec<String>]) -> Result<(), Trouble> {
    let (manifest, facts) = (artifact.manifest()?, artifact.facts()?);
    let made = &manifest.made;
    say!("{}", artifact.data().display());
    let row = |name: &str, value: String| vec![format!("  {name}"), value];
    let mut rows = vec![
        row(
            "made",
            format!("{} in {:.1} s, by mashbill {} on {}", made.started, made.seconds, made.engine, made.platform),
        ),
        row("run", made.settings.to_string()),
        row("result", manifest.fingerprint.to_string()),
        row("content", manifest.content.to_string()),
    ];
    rows.extend_from_slice(provenance);
    table(&rows);

    say!("\n{BOLD}facts{RESET}");
    rows =
        vec![row("stage", format!("{} version {}", facts.stage, facts.version)), row("seed", facts.seed.to_string())];
    parameters("with", &facts.with, &mut rows);
    for (parameter, digests) in &facts.sources {
        let paths = made.sources.get(parameter).map_or(&[][..], Vec::as_slice);
        for (digest, path) in digests.iter().zip(paths) {
            rows.push(row(&format!("with.{parameter}"), format!("{} {}", digest.short(), path.display())));
        }
    }
    for (name, inputs) in &facts.inputs {
        let origins = made.inputs.get(name).map_or(&[][..], Vec::as_slice);
        for (input, origin) in inputs.iter().zip(origins) {
            rows.push(row(
                &format!("input {name}"),
                format!("{} {} {}", input.content.short(), input.kind, origin.node),
            ));
        }
    }
    table(&rows);

    if let Some(metrics) = artifact.last_metrics() {
        say!("\n{BOLD}metrics{RESET}, step {}", metrics.get("step").unwrap_or(&Value::Null));
        say!("  {}", figures(&metrics));
    }
    let warnings = artifact.warnings();
    if !warnings.is_empty() {
        say!("\n{BOLD}warnings{RESET}");
        for text in &warnings {
            say!("  {text}");
        }
    }
    say!("\n{BOLD}files{RESET}");
    table(&manifest.files.iter().map(|(name, file)| row(name, size(file.size))).collect::<Vec<_>>());
    let is_report = |name: &&String| Path::new(name).extension().is_some_and(|extension| extension == "md");
    let (reports, others): (Vec<_>, Vec<_>) = manifest.files.keys().partition(is_report);
    for name in reports.into_iter().chain(others) {
        first_lines(name, &artifact.data().join(name));
    }
    first_lines("samples.jsonl", &artifact.folder.join("samples.jsonl"));
    Ok(())
}

fn parameters(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| parameters(&format!("{path}.{name}"), value, rows)),
        // The path of a source, which is no fact.
        Value::Null => {}
        other => rows.push(vec![format!("  {path}"), brief(&engine::fact_text(other), LETTERS)]),
    }
}

/// A report whole, of what models wrote the first rows whole, of other text files a few lines, of anything else nothing.
fn first_lines(name: &str, path: &Path) {
    let extension = Path::new(name).extension().unwrap_or_default();
    if extension == "md" {
        say!("\n{}", visible(fs::read_to_string(path).unwrap_or_default().trim_end()));
    } else if (extension == "jsonl" || extension == "txt")
        && let Ok(file) = File::open(path)
    {
        say!("\n{BOLD}{name}{RESET}");
        for line in BufReader::new(file).lines().take(LINES).map_while(Result::ok) {
            match serde_json::from_str::<Value>(&line) {
                Ok(Value::Object(row)) if WRITTEN.contains(&name) => {
                    row.iter().for_each(|(field, value)| whole(field, value));
                    say!("");
                }
                _ => say!("  {}", brief(&line, LETTERS)),
            }
        }
    }
}

/// A field with every letter of its texts, as a person reads them.
fn whole(field: &str, value: &Value) {
    match value {
        Value::String(text) if text.contains('\n') => {
            say!("  {BOLD}{field}{RESET}:\n    {}", visible(text.trim_end()).replace('\n', "\n    "));
        }
        Value::String(text) => say!("  {BOLD}{field}{RESET}: {}", visible(text)),
        Value::Array(items) if items.iter().any(Value::is_string) => {
            items.iter().enumerate().for_each(|(at, item)| whole(&format!("{field}.{at}"), item));
        }
        other => say!("  {BOLD}{field}{RESET}: {other}"),
    }
}

/// Models write what they like: nothing of it is for the terminal to obey.
fn visible(text: &str) -> String {
    let is_command = |letter: &char| letter.is_control() && *letter != '\n' && *letter != '\t';
    text.chars()
        .map(|letter| if is_command(&letter) { letter.escape_default().to_string() } else { letter.to_string() })
        .collect()
}
