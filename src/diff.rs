//! `mashbill diff`: two runs beside each other, what decided their results and the last metrics of each.
//!
//! `--json` prints `{ "runs": [id, id], "rows": [{ "node", "what": "fact" | "metric" | "result", "name", "values": [a, b] }] }`.

use engine::{Artifact, Store, fact_text, runs::RunRecord};
use serde_json::{Map, Value, json};

use crate::{
    args::Global,
    facts_table::flat,
    outcome::{Code, Trouble},
    pipeline, runs,
    screen::{BOLD, DIM, RESET, brief, say, table},
};

/// Widest value.
const WIDTH: usize = 48;

/// How a comparison is told.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub all: bool,
    pub json: bool,
}

/// One thing that both runs, or one of them, have.
struct Row {
    node: String,
    what: &'static str,
    name: String,
    values: [Option<Value>; 2],
}

pub fn diff(words: [&str; 2], form: Form, global: &Global) -> Result<Code, Trouble> {
    let store = pipeline::store_here(global)?;
    let all = runs::read(&store)?;
    let pair = [runs::find(&all, words[0])?, runs::find(&all, words[1])?];
    let mut rows = rows(pair, &store);
    if !form.all {
        rows.retain(|row| row.values[0] != row.values[1]);
    }
    if form.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| json!({ "node": row.node, "what": row.what, "name": row.name, "values": row.values }))
            .collect();
        say!("{:#}", json!({ "runs": pair.map(|record| record.id), "rows": rows }));
    } else {
        tell(pair, &rows);
    }
    Ok(Code::Done)
}

fn rows(pair: [&RunRecord; 2], store: &Store) -> Vec<Row> {
    // In the order of the second run, then what only the first had.
    let second = pair[1].nodes.iter();
    let gone = pair[0].nodes.iter().filter(|node| pair[1].node(&node.node).is_none());
    let mut rows = Vec::new();
    for node in second.chain(gone) {
        let name = &node.node;
        let results = pair.map(|record| record.node(name).and_then(|node| node.fingerprint));
        let row = |what, name: String, values| Row { node: node.node.clone(), what, name, values };
        if results[0] == results[1] && results[0].is_some() {
            rows.push(row("result", String::new(), results.map(|result| result.map(|result| json!(result)))));
            continue;
        }
        let artifacts = results.map(|result| result.and_then(|result| store.recall_artifact(result)));
        let states = [0, 1].map(|run| state(pair[run], name, artifacts[run].as_ref()));
        if states[0] != states[1] {
            rows.push(row("result", String::new(), states.map(Some)));
        }
        let facts = artifacts.each_ref().map(|artifact| artifact.as_ref().map(facts).unwrap_or_default());
        rows.extend(pairs(facts).map(|(fact, values)| row("fact", fact, values)));
        let metrics =
            artifacts.each_ref().map(|artifact| artifact.as_ref().and_then(Artifact::last_metrics).unwrap_or_default());
        rows.extend(pairs(metrics).map(|(metric, values)| row("metric", metric, values)));
    }
    rows
}

/// A word for a result that can't be compared.
fn state(record: &RunRecord, name: &str, artifact: Option<&Artifact>) -> Value {
    match (record.node(name), artifact) {
        (None, _) => "not in this run".into(),
        (Some(_), Some(_)) => Value::Null,
        (Some(node), None) if node.fingerprint.is_some() => "its result is gone from the store".into(),
        (Some(node), None) => node.outcome.as_str().into(),
    }
}

fn facts(artifact: &Artifact) -> Map<String, Value> {
    flat(&serde_json::to_value(artifact.facts().ok()).expect("facts are plain data with text for keys"))
}

/// Names of both in their order, with the value of each.
fn pairs([a, b]: [Map<String, Value>; 2]) -> impl Iterator<Item = (String, [Option<Value>; 2])> {
    let mut names: Vec<String> = b.keys().cloned().collect();
    names.extend(a.keys().filter(|name| !b.contains_key(*name)).cloned());
    names.into_iter().map(move |name| {
        let values = [a.get(&name).cloned(), b.get(&name).cloned()];
        (name, values)
    })
}

fn tell(pair: [&RunRecord; 2], rows: &[Row]) {
    if rows.is_empty() {
        say!("runs {} and {} have the same results", pair[0].id, pair[1].id);
        return;
    }
    let mut lines = vec![vec![
        String::new(),
        String::new(),
        format!("{BOLD}run {}{RESET}", pair[0].id),
        format!("{BOLD}run {}{RESET}", pair[1].id),
        String::new(),
    ]];
    let mut last = "";
    for row in rows {
        let node = if row.node == last { String::new() } else { format!("{BOLD}{}{RESET}", row.node) };
        last = &row.node;
        let name = match row.what {
            "metric" => format!("{DIM}metric{RESET} {}", row.name),
            "result" => format!("{DIM}result{RESET}"),
            _ => row.name.clone(),
        };
        let [a, b] = row.values.each_ref().map(|value| value.as_ref().map_or_else(|| "-".to_owned(), text));
        lines.push(vec![node, name, a, b, difference(row)]);
    }
    table(&lines);
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            text[..8].into()
        }
        Value::String(text) => brief(text, WIDTH),
        Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or_default();
            if value != 0.0 && value.abs() < 0.001 {
                fact_text(&json!(value))
            } else {
                ((value * 1e6).round() / 1e6).to_string()
            }
        }
        Value::Null => "-".into(),
        other => brief(&fact_text(other), WIDTH),
    }
}

/// How far a metric moved.
fn difference(row: &Row) -> String {
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
    match (row.what, number(&row.values[0]), number(&row.values[1])) {
        ("metric", Some(a), Some(b)) if a != b => format!("{DIM}{:+}{RESET}", ((b - a) * 1e6).round() / 1e6),
        _ => String::new(),
    }
}
