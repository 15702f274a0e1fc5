//! `mashbill render`: the pipeline as it is meant, every value with the place that gave it.
//! What it prints is a pipeline too, and means the same.

use std::{fmt::Write as _, path::Path};

use engine::{Node, Place, Plan};
use serde_json::{Map, Value, json};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{DIM, RESET, say},
};

pub fn render(file: &Path, as_json: bool, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    if as_json {
        say!("{:#}", document(&plan));
    } else {
        say!("{}", text(&plan).trim_end());
    }
    Ok(Code::Done)
}

fn document(plan: &Plan) -> Value {
    let node = |node: &Node| {
        let origins: Map<String, Value> =
            node.places.iter().map(|(path, place)| (path.clone(), place.to_string().into())).collect();
        let inputs: Map<String, Value> =
            node.inputs.iter().map(|input| (input.name.clone(), json!(input.nodes))).collect();
        let document = json!({
            "stage": node.stage,
            "inputs": inputs,
            "with": node.with,
            "run": node.settings,
            "seed": node.seed,
            "env": node.env,
            "retries": node.retries,
            "timeout_seconds": node.timeout.map(|timeout| timeout.as_secs_f64()),
            "origins": origins,
        });
        (node.name.clone(), document)
    };
    json!({ "name": plan.name, "nodes": plan.nodes().iter().map(node).collect::<Map<_, _>>() })
}

fn text(plan: &Plan) -> String {
    let mut page = Page { text: format!("name: {}\nnodes:\n", scalar(&plan.name)) };
    for node in plan.nodes() {
        page.node(node);
    }
    page.text
}

struct Page {
    text: String,
}

impl Page {
    fn node(&mut self, node: &Node) {
        self.line(1, &node.name, "", Some(&node.place));
        self.line(2, "stage", node.stage, node.places.get("stage"));
        if !node.inputs.is_empty() {
            self.line(2, "inputs", "", None);
        }
        for input in &node.inputs {
            let nodes = match &input.nodes[..] {
                [one] => scalar(one),
                many => flow(&json!(many)),
            };
            self.line(3, &input.name, &nodes, node.places.get(&format!("inputs.{}", input.name)));
        }
        self.block(2, "with", &node.with, node);
        self.block(2, "run", &node.settings, node);
        self.leaf(2, "seed", &node.seed.to_string(), "seed", node);
        if !node.env.is_empty() {
            self.leaf(2, "env", &flow(&json!(node.env)), "env", node);
        }
        if node.retries > 0 {
            self.leaf(2, "retries", &node.retries.to_string(), "retries", node);
        }
        if let Some(timeout) = node.timeout {
            self.leaf(2, "timeout", &format!("{}s", timeout.as_secs()), "timeout", node);
        }
    }

    /// The values of a block, a line each. `path` is how the node knows their places.
    fn block(&mut self, depth: usize, path: &str, value: &Value, node: &Node) {
        let name = path.rsplit('.').next().unwrap_or(path);
        match value {
            Value::Object(map) if map.is_empty() && depth == 2 => (),
            Value::Object(map) if !map.is_empty() => {
                self.line(depth, name, "", None);
                for (key, value) in map {
                    // A key with a dot in it has no path of its own.
                    if key.contains('.') {
                        self.leaf(depth + 1, key, &flow(value), path, node);
                    } else {
                        self.block(depth + 1, &format!("{path}.{key}"), value, node);
                    }
                }
            }
            other => self.leaf(depth, name, &flow(other), path, node),
        }
    }

    fn leaf(&mut self, depth: usize, name: &str, value: &str, path: &str, node: &Node) {
        let place = node.places.get(path);
        self.indent(depth);
        let origin = place.map_or_else(|| "default".to_owned(), origin);
        let _ = writeln!(self.text, "{}: {value}  {DIM}# {origin}{RESET}", scalar(name));
    }

    fn line(&mut self, depth: usize, name: &str, value: &str, place: Option<&Place>) {
        self.indent(depth);
        let space = if value.is_empty() { "" } else { " " };
        let _ = write!(self.text, "{}:{space}{value}", scalar(name));
        if let Some(place) = place {
            let _ = write!(self.text, "  {DIM}# {}{RESET}", origin(place));
        }
        self.text.push('\n');
    }

    fn indent(&mut self, depth: usize) {
        self.text.extend(std::iter::repeat_n("  ", depth));
    }
}

/// `pipelines/r1.yaml:14`, or the words of a `--set`.
fn origin(place: &Place) -> String {
    let file = place.file.replace(|letter: char| letter.is_control(), " ");
    match place.line {
        0 => file,
        line => format!("{file}:{line}"),
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".into(),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            format!("{{ {} }}", map.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A text as YAML reads it back: quoted unless it can be nothing else, and without new expressions.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter))
        && !["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"]
            .contains(&text.to_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text.replace("${{", "${{ '${{' }}")).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_could_be_something_else_are_quoted() {
        assert_eq!(scalar("plugins/rewards/math.rhai"), "plugins/rewards/math.rhai");
        for (text, written) in [
            ("no", "\"no\""),
            ("Null", "\"Null\""),
            ("1e5", "\"1e5\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("é\n", "\"é\\n\""),
            ("a ${{ b }}", "\"a ${{ '${{' }} b }}\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
