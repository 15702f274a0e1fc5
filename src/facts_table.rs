//! Facts as rows: the document that is hashed, a line for each value in it.

use engine::fact_text;
use serde_json::{Map, Value};

use crate::screen::{BOLD, DIM, RESET, YELLOW, brief, table};

/// Widest value.
const WIDTH: usize = 60;

/// Every value of a document by its path, `with.model.layers`, `inputs.rows.0.content`.
pub fn flat(document: &Value) -> Map<String, Value> {
    let mut values = Map::new();
    collect("", document, &mut values);
    values
}

fn collect(path: &str, value: &Value, values: &mut Map<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(name, value)| collect(&below(name), value, values));
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || is_digest(item)) => {
            items.iter().enumerate().for_each(|(at, value)| collect(&below(&at.to_string()), value, values));
        }
        other => drop(values.insert(path.to_owned(), other.clone())),
    }
}

fn is_digest(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 64)
}

/// Prints both documents beside each other; `unknown` says what stands where a value is not known yet.
pub fn compare(titles: [&str; 2], documents: [&Value; 2], unknown: impl Fn(&str) -> Option<String>) {
    let [old, new] = documents.map(flat);
    let mut names: Vec<&String> = new.keys().collect();
    names.extend(old.keys().filter(|name| !new.contains_key(*name)));
    let text = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), |value| brief(&short(value), WIDTH));
    let mut rows = vec![["  fact", titles[0], titles[1]].map(|title| format!("{BOLD}{title}{RESET}")).to_vec()];
    for name in names {
        let pending = if new.contains_key(name) { None } else { unknown(name) };
        let row = if let Some(pending) = pending {
            vec![format!("? {name}"), text(old.get(name)), pending]
        } else if old.get(name) == new.get(name) {
            vec![format!("{DIM}  {name}"), format!("{}{RESET}", text(new.get(name)))]
        } else {
            vec![format!("{YELLOW}! {name}"), text(old.get(name)), format!("{}{RESET}", text(new.get(name)))]
        };
        rows.push(row);
    }
    table(&rows);
}

fn short(value: &Value) -> String {
    match value.as_str() {
        Some(text) if is_digest(value) => text[..12].to_owned(),
        _ => fact_text(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_of_a_document_has_its_path() {
        let digest = "a".repeat(64);
        let document = json!({
            "seed": 1, "with": {"model": {"layers": 4}, "list": [1, 2], "none": null, "empty": {}},
            "sources": {"script": [digest]}, "inputs": {"rows": [{"kind": "rows"}]},
        });
        let expected = json!({
            "seed": 1, "with.model.layers": 4, "with.list": [1, 2], "with.none": null, "with.empty": {},
            "sources.script.0": digest, "inputs.rows.0.kind": "rows",
        });
        assert_eq!(Value::Object(flat(&document)), expected);
    }
}
