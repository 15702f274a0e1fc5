//! The events of a run as a trace that Perfetto and `chrome://tracing` show: run, then nodes, then their steps.
//! Knows nothing of nodes but what the events say.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A span that has begun and not yet ended.
struct Open {
    /// The row it is drawn in: nodes that run at once have one each.
    row: usize,
    since: f64,
    /// Where its last step began: the step and the time.
    step: (u64, f64),
    stage: Value,
    reasons: Value,
}

/// The document for `events`, in the trace event format of Chrome.
#[must_use]
pub fn trace(events: &[Value]) -> Value {
    let mut spans = Vec::new();
    let mut open: BTreeMap<&str, Open> = BTreeMap::new();
    let mut rows = 0;
    let mut end = 0.0;
    for event in events {
        let t = event["t"].as_f64().unwrap_or_default();
        end = t;
        let node = event["node"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap_or_default() {
            "started" => {
                let is_free = |row: &usize| open.values().all(|other| other.row != *row);
                let row = (1..=open.len() + 1).find(is_free).expect("one row more than are taken");
                rows = rows.max(row);
                let (stage, reasons) = (event["stage"].clone(), event["reasons"].clone());
                open.insert(node, Open { row, since: t, step: (0, t), stage, reasons });
            }
            "progress" => {
                if let Some(span) = open.get_mut(node) {
                    let done = event["done"].as_u64().unwrap_or_default();
                    let (from, since) = span.step;
                    // A stage that counts anew, or continues far into its work, did not do all that in one step.
                    if done > from && !(from == 0 && done > 1 && since == span.since) {
                        let name = if done == from + 1 {
                            format!("step {done}")
                        } else {
                            format!("steps {}-{done}", from + 1)
                        };
                        spans.push(complete(&name, span.row, since, t, json!({ "message": event["message"] })));
                    }
                    span.step = (done, t);
                }
            }
            "retrying" | "waiting" => spans.push(instant(&event["event"], node, 0, t)),
            "finished" => match open.remove(node) {
                Some(span) => {
                    let about = json!({
                        "stage": span.stage, "reasons": span.reasons, "outcome": event["outcome"],
                        "fingerprint": event["fingerprint"], "error": event["error"],
                    });
                    spans.push(complete(node, span.row, span.since, t, about));
                }
                None => spans.push(instant(&event["outcome"], node, 0, t)),
            },
            _ => {}
        }
    }
    // Killed: what had begun lasted at least until the last word.
    for (node, span) in open {
        spans.push(complete(node, span.row, span.since, end, json!({ "stage": span.stage, "outcome": "begun" })));
    }
    let about = events.first().cloned().unwrap_or_default();
    let title = format!("run {} of {}", about["id"], about["pipeline"].as_str().unwrap_or_default());
    spans.push(complete(&title, 0, 0.0, end, json!({})));
    let named = (0..=rows).map(|row| {
        let name = if row == 0 { "run".to_owned() } else { format!("nodes {row}") };
        json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": { "name": name } })
    });
    spans.extend(named);
    json!({ "displayTimeUnit": "ms", "traceEvents": spans })
}

fn complete(name: &str, row: usize, from: f64, to: f64, about: Value) -> Value {
    let (ts, dur) = (micros(from), micros(to) - micros(from));
    json!({ "ph": "X", "name": name, "pid": 1, "tid": row, "ts": ts, "dur": dur, "args": about })
}

fn instant(what: &Value, node: &str, row: usize, t: f64) -> Value {
    let name = format!("{node} {}", what.as_str().unwrap_or_default());
    json!({ "ph": "i", "s": "t", "name": name, "pid": 1, "tid": row, "ts": micros(t) })
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_nest_as_run_node_step() {
        let events = [
            json!({"t": 0.0, "event": "run_started", "id": 7, "pipeline": "p", "nodes": 3}),
            json!({"t": 0.1, "event": "finished", "node": "old", "outcome": "reused"}),
            json!({"t": 1.0, "event": "started", "node": "a", "stage": "sift", "reasons": []}),
            json!({"t": 1.5, "event": "started", "node": "b", "stage": "sift", "reasons": []}),
            json!({"t": 2.0, "event": "progress", "node": "a", "done": 1, "total": 9, "message": "loss 2"}),
            json!({"t": 3.0, "event": "progress", "node": "a", "done": 5, "total": 9, "message": "loss 1"}),
            json!({"t": 4.0, "event": "finished", "node": "a", "outcome": "made"}),
            json!({"t": 5.0, "event": "run_finished", "outcome": "done"}),
        ];
        let document = trace(&events);
        let spans = document["traceEvents"].as_array().unwrap();
        let found = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let at = |name: &str| {
            let span = found(name);
            (span["tid"].as_u64().unwrap(), span["ts"].as_u64().unwrap(), span["dur"].as_u64().unwrap_or(0))
        };
        assert_eq!(at("run 7 of p"), (0, 0, 5_000_000));
        assert_eq!(at("a"), (1, 1_000_000, 3_000_000));
        assert_eq!(at("step 1"), (1, 1_000_000, 1_000_000));
        assert_eq!(at("steps 2-5"), (1, 2_000_000, 1_000_000));
        // It ran beside `a`, and the run ended without a word of it.
        assert_eq!(at("b"), (2, 1_500_000, 3_500_000));
        assert_eq!(found("old reused")["ph"], "i");
    }
}
