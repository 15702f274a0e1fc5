//! `mashbill explain`: why a node runs, waits or is reused, down to the first cause; then every fact, then and now.
//!
//! `--json` prints `{ "node", "then", "now", "waits_on": [node] }`, where `then` and `now` are null or
//! `{ "fingerprint", "facts" }`: the document whose hash the fingerprint is.

use std::path::Path;

use engine::{
    Artifact, Facts, FactsNow, Fingerprint, Forecast, Node, Plan, Reason, Store, Verdict, facts_now, forecast,
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    facts_table,
    outcome::{Code, Trouble},
    pipeline, runs,
    screen::say,
};

/// How an explanation is told, and of what.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// Two runs whose facts are compared.
    pub runs: Option<Vec<String>>,
    pub json: bool,
}

pub fn explain(file: &Path, node: &str, form: &Form, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    if let Some([before, after]) = form.runs.as_deref() {
        return between([before, after], node, form, &store);
    }
    // What plan and explain know of the node must be the same, so it is asked about what the node needs alone.
    let plan = plan.with_needs(&std::iter::once(node.name.clone()).collect());
    let now = facts_now(&plan, &node.name, &store)?;
    let then = earlier(&plan, node, &store, now.as_ref());
    if form.json {
        let waits_on = now.as_ref().map(|now| now.unknown.iter().collect::<Vec<_>>()).unwrap_or_default();
        let now = now.as_ref().map(|now| document(&now.facts, now.unknown.is_empty()));
        let then = then.as_ref().map(|then| document(then, true));
        say!("{:#}", json!({ "node": node.name, "then": then, "now": now, "waits_on": waits_on }));
        return Ok(Code::Done);
    }
    say!("{} is written at {}", node.name, node.place);
    tell(&node.name, &forecast(&plan, &store)?, 0);
    if let Some(now) = now {
        tell_facts(node, then.as_ref(), &now);
    }
    Ok(Code::Done)
}

fn document(facts: &Facts, is_whole: bool) -> Value {
    json!({ "fingerprint": is_whole.then(|| Fingerprint::of(facts)), "facts": facts })
}

/// The facts of the result that the node had before today's: its last one, or the one before where the last is today's.
fn earlier(plan: &Plan, node: &Node, store: &Store, now: Option<&FactsNow>) -> Option<Facts> {
    let last = store.last(&plan.name, &node.name)?;
    let is_today = now.is_some_and(|now| now.unknown.is_empty() && Fingerprint::of(&now.facts) == last.fingerprint);
    let fingerprint = if is_today { last.before.unwrap_or(last.fingerprint) } else { last.fingerprint };
    Some(store.recall(fingerprint)?.1)
}

fn tell_facts(node: &Node, then: Option<&Facts>, now: &FactsNow) {
    let value = |facts: &Facts| serde_json::to_value(facts).expect("facts are plain data with text for keys");
    let name = |facts: &Facts| Fingerprint::of(facts).short();
    let title = if now.unknown.is_empty() { format!("now, {}", name(&now.facts)) } else { "now".to_owned() };
    let before = then.map_or_else(|| "before".to_owned(), |then| format!("before, {}", name(then)));
    let pending = |fact: &str| {
        let input = fact.strip_prefix("inputs.")?.split('.').next()?;
        let nodes = node.inputs.iter().filter(|known| known.name == input).flat_map(|input| &input.nodes);
        let waits: Vec<&str> = nodes.filter(|name| now.unknown.contains(*name)).map(String::as_str).collect();
        (!waits.is_empty()).then(|| format!("waits on {}", waits.join(", ")))
    };
    say!("");
    let then = then.map_or(Value::Null, value);
    facts_table::compare([&before, &title], [&then, &value(&now.facts)], pending);
}

/// What decided the node's result in two runs.
fn between(words: [&String; 2], node: &Node, form: &Form, store: &Store) -> Result<Code, Trouble> {
    let all = runs::read(store)?;
    let facts = |words: &String| -> Result<(u64, Facts), Trouble> {
        let record = runs::find(&all, words)?;
        let id = record.id;
        let fingerprint = record.node(&node.name).and_then(|node| node.fingerprint);
        let Some(fingerprint) = fingerprint else {
            return Err(Trouble::usage(format!("`{}` has no result in run {id}", node.name)));
        };
        let gone = || Trouble::usage(format!("the result of `{}` in run {id} is gone from the store", node.name));
        Ok((id, store.recall(fingerprint).ok_or_else(gone)?.1))
    };
    let (before, after) = (facts(words[0])?, facts(words[1])?);
    if form.json {
        let (then, now) = (document(&before.1, true), document(&after.1, true));
        say!("{:#}", json!({ "node": node.name, "then": then, "now": now, "waits_on": [] }));
        return Ok(Code::Done);
    }
    let title = |(id, facts): &(u64, Facts)| format!("run {id}, {}", Fingerprint::of(facts).short());
    let value = |facts: &Facts| serde_json::to_value(facts).expect("facts are plain data with text for keys");
    if Fingerprint::of(&before.1) == Fingerprint::of(&after.1) {
        say!("{} has the same result in both runs", node.name);
    }
    let documents = [value(&before.1), value(&after.1)];
    facts_table::compare([&title(&before), &title(&after)], documents.each_ref(), |_| None);
    Ok(Code::Done)
}

fn tell(node: &str, forecasts: &[Forecast], depth: usize) {
    let forecast = forecasts.iter().find(|forecast| forecast.node == node).expect("every node has its forecast");
    let indent = "  ".repeat(depth);
    match &forecast.verdict {
        Verdict::Reuse(reuse) => {
            let Artifact { fingerprint, brief, .. } = &reuse.artifact;
            say!("{indent}{node} is reused: result {} was made {}", fingerprint.short(), brief.started);
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
        Verdict::Waits { on, causes, reasons } => {
            if !reasons.is_empty() {
                say!("{indent}{node} itself changed:");
                tell_reasons(reasons, depth + 1);
            }
            say!("{indent}{node} waits on {}: the same content again would cut it off", on.join(", "));
            // Straight to who began it: what lies between only waits too.
            for cause in causes {
                tell(cause, forecasts, depth + 1);
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
