//! The JSON Schema of a pipeline's file, for editors: what can be written where, with its docs.
//! Knows nothing of any stage but what it says of itself. What a schema cannot see, `mashbill check` does: names of
//! nodes and variables, kinds of artifacts, files.

use serde_json::{Map, Value, json};

use super::{default, required};
use crate::{
    registry::{Registered, Registry, StageInfo},
    stage::{Arity, OtherInputs},
};

const NODE_NAME: &str = r"^[A-Za-z_][A-Za-z0-9_-]*(/[A-Za-z_][A-Za-z0-9_-]*)*(\[[^\]]*\])?$";

/// The schema of a file whose nodes may be of these stages.
#[must_use]
pub fn pipeline_schema(registry: &Registry) -> Value {
    let stages: Vec<&Registered> = registry.stages().filter_map(|info| registry.get(info.name)).collect();
    let mut parts = Map::new();
    parts.insert("expression".into(), json!({ "type": "string", "pattern": r"\$\{\{" }));
    parts.insert("seed".into(), or_expression(json!({ "type": "integer", "minimum": 0 })));
    let names = json!({ "type": "array", "items": { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" } });
    parts.insert("env".into(), names);
    for stage in &stages {
        let name = stage.info.name;
        parts.insert(format!("{name}.inputs"), inputs(&stage.info));
        block(&format!("{name}.with"), &stage.parameters, &mut parts);
        block(&format!("{name}.run"), &stage.settings, &mut parts);
    }
    parts.insert("node".into(), node(&stages));
    parts.insert("whole_node".into(), whole_node(&stages));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of Mashbill",
        "type": "object",
        "properties": top(&stages),
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
        // What other files or defaults may add is not asked of this one.
        "if": { "anyOf": [{ "required": ["include"] }, { "required": ["defaults"] }] },
        "else": {
            "required": ["nodes"],
            "properties": { "nodes": { "additionalProperties": { "$ref": "#/$defs/whole_node" } } },
        },
    });
    schema["$defs"] = Value::Object(parts);
    schema
}

fn top(stages: &[&Registered]) -> Value {
    let nodes = json!({
        "description": "The nodes by name, each with the stage that it is of.",
        "type": "object",
        "propertyNames": { "pattern": NODE_NAME },
        "additionalProperties": { "$ref": "#/$defs/node" },
    });
    let vars = json!({ "description": "Values that `${{ vars.NAME }}` asks for.", "type": ["object", "null"] });
    let defaults: Map<String, Value> =
        stages.iter().map(|stage| (stage.info.name.to_owned(), defaults(stage.info.name))).collect();
    let defaults = json!({
        "description": "What nodes of a stage have where they do not say otherwise.",
        "type": "object",
        "properties": defaults,
        "additionalProperties": false,
    });
    let seed = json!({ "description": "The seed of every node that has none of its own.", "$ref": "#/$defs/seed" });
    let env = json!({
        "description": "Names of environment variables that the programs of nodes may see.",
        "$ref": "#/$defs/env",
    });
    let profile = json!({
        "type": ["object", "null"],
        "properties": { "seed": seed, "vars": vars, "env": env, "defaults": defaults, "nodes": nodes },
        "additionalProperties": false,
    });
    let include = json!({
        "anyOf": [
            { "type": "string" },
            {
                "type": "object",
                "properties": {
                    "file": { "description": "The file, from the project's root.", "type": "string" },
                    "as": {
                        "description": "A name that all its nodes and variables live under: `eval/report`.",
                        "type": "string",
                    },
                },
                "required": ["file"],
                "additionalProperties": false,
            },
        ],
    });
    json!({
        "name": { "description": "The pipeline's name; that of the file if not given.", "type": "string" },
        "seed": seed,
        "include": {
            "description": "Files that lie under this one: what both have, this one decides.",
            "anyOf": [include, { "type": "array", "items": include }],
        },
        "vars": vars,
        "env": env,
        "defaults": defaults,
        "profiles": {
            "description": "What `--profile NAME` lays over the file.",
            "type": "object",
            "additionalProperties": profile,
        },
        "nodes": nodes,
    })
}

fn defaults(stage: &str) -> Value {
    json!({
        "type": ["object", "null"],
        "properties": {
            "with": { "$ref": format!("#/$defs/{stage}.with") },
            "run": { "$ref": format!("#/$defs/{stage}.run") },
            "env": { "$ref": "#/$defs/env" },
            "retries": retries(),
            "timeout": timeout(),
        },
        "additionalProperties": false,
    })
}

fn retries() -> Value {
    let mut retries = or_expression(json!({ "type": "integer", "minimum": 0, "maximum": 100 }));
    retries["description"] = "How often the node is tried again after a failure.".into();
    retries
}

fn timeout() -> Value {
    json!({ "description": "How long one try may take: `90s`, `30m`, `1h30m`.", "type": "string" })
}

/// What every node may have. The parts of its stage follow the stage's name.
fn node(stages: &[&Registered]) -> Value {
    let names: Vec<Value> = stages
        .iter()
        .map(|stage| json!({ "const": stage.info.name, "description": stage.info.about }))
        .chain([json!({ "$ref": "#/$defs/expression" })])
        .collect();
    let of_stage: Vec<Value> = stages
        .iter()
        .map(|stage| {
            let name = stage.info.name;
            let part = |part: &str| json!({ "$ref": format!("#/$defs/{name}.{part}") });
            json!({
                "if": is(name),
                "then": { "properties": { "inputs": part("inputs"), "with": part("with"), "run": part("run") } },
            })
        })
        .collect();
    json!({
        "type": "object",
        "properties": {
            "stage": { "description": "What the node does.", "anyOf": names },
            "matrix": {
                "description": "Axes with their values: one node for each, `grow[seed=1]`. `${{ matrix.AXIS }}` is its value.",
                "anyOf": [
                    {
                        "type": "object",
                        "minProperties": 1,
                        "additionalProperties": or_expression(json!({ "type": "array", "minItems": 1 })),
                    },
                    { "$ref": "#/$defs/expression" },
                ],
            },
            "when": {
                "description": "Where false, the node is left out.",
                "anyOf": [{ "type": "boolean" }, { "$ref": "#/$defs/expression" }],
            },
            "inputs": { "description": "What it reads: nodes by the names of the stage's inputs." },
            "with": { "description": "Parameters: what is computed. They decide the result." },
            "run": { "description": "Settings: how it is computed. They decide nothing." },
            "seed": { "description": "Its own seed.", "$ref": "#/$defs/seed" },
            "env": { "description": "Names of environment variables, beside the pipeline's.", "$ref": "#/$defs/env" },
            "retries": retries(),
            "timeout": timeout(),
        },
        "additionalProperties": false,
        "allOf": of_stage,
    })
}

/// A node that no other place completes: all that its stage needs is there.
fn whole_node(stages: &[&Registered]) -> Value {
    let of_stage: Vec<Value> = stages
        .iter()
        .filter_map(|stage| {
            let needed = |arity: Arity| !matches!(arity, Arity::Optional);
            let inputs: Vec<&str> =
                stage.info.inputs.iter().filter(|input| needed(input.arity)).map(|input| input.name).collect();
            let parameters = required(&stage.parameters);
            let mut then = Map::new();
            let mut keys = Vec::new();
            for (key, names) in [("inputs", inputs), ("with", parameters)] {
                if !names.is_empty() {
                    keys.push(key);
                    then.insert(key.into(), json!({ "if": { "type": "object" }, "then": { "required": names } }));
                }
            }
            (!keys.is_empty())
                .then(|| json!({ "if": is(stage.info.name), "then": { "required": keys, "properties": then } }))
        })
        .collect();
    json!({ "required": ["stage"], "allOf": of_stage })
}

fn is(stage: &str) -> Value {
    json!({ "properties": { "stage": { "const": stage } }, "required": ["stage"] })
}

fn inputs(info: &StageInfo) -> Value {
    let one = json!({ "type": "string" });
    let many = json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": one, "minItems": 1 }] });
    let property = |input: &crate::stage::Input| {
        let mut schema = match input.arity {
            Arity::One | Arity::Optional => one.clone(),
            Arity::Many | Arity::Named => many.clone(),
        };
        schema["description"] = format!("{} Takes {}.", input.about, input.kinds.join(" or ")).into();
        (input.name.to_owned(), schema)
    };
    let properties: Map<String, Value> = info.inputs.iter().map(property).collect();
    let others = match info.other_inputs {
        OtherInputs::Refused => json!(false),
        OtherInputs::Taken => many,
    };
    or_expression(json!({
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": others,
    }))
}

/// Adds the schema of a `with:` or `run:` block under this name. What is required of it is asked elsewhere.
fn block(name: &str, schema: &Value, parts: &mut Map<String, Value>) {
    let mut schema = schema.clone();
    if let Some(map) = schema.as_object_mut() {
        for key in ["$schema", "title", "required"] {
            map.shift_remove(key);
        }
        if let Some(Value::Object(inner)) = map.shift_remove("$defs") {
            for (key, mut value) in inner {
                point(&mut value, name);
                loosen(&mut value);
                parts.insert(format!("{name}.{key}"), value);
            }
        }
        if let Some(kind) = map.get_mut("type") {
            *kind = json!(["object", "null"]);
        }
    }
    point(&mut schema, name);
    loosen_inside(&mut schema);
    let about = schema.as_object_mut().and_then(|map| map.shift_remove("description"));
    let mut whole = or_expression(schema);
    if let Some(about) = about {
        whole["description"] = about;
    }
    parts.insert(name.into(), whole);
}

/// References of a stage's own schema lead to where its parts are now.
fn point(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref") {
                *target = match target.strip_prefix("#/$defs/") {
                    Some(inner) => format!("#/$defs/{name}.{inner}"),
                    None => format!("#/$defs/{name}"),
                };
            }
            map.values_mut().for_each(|value| point(value, name));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point(item, name)),
        _ => (),
    }
}

/// Lets an expression stand wherever a value can.
fn loosen(schema: &mut Value) {
    loosen_inside(schema);
    let Some(map) = schema.as_object_mut() else { return };
    // A tag tells one block from another, and any text may hold an expression as it is.
    let is_any_text = map.get("type").is_some_and(|kind| kind == "string") && !map.contains_key("enum");
    if map.contains_key("const") || is_any_text || map.is_empty() {
        return;
    }
    let mut outer = Map::new();
    for key in ["description", "default"] {
        if let Some(value) = map.shift_remove(key) {
            outer.insert(key.into(), value);
        }
    }
    outer.extend(or_expression(schema.take()).as_object().cloned().unwrap_or_default());
    *schema = Value::Object(outer);
}

fn loosen_inside(schema: &mut Value) {
    if schema.get("default").is_some() {
        schema["default"] = default(schema);
    }
    let Some(map) = schema.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(loosen),
            ("items" | "additionalProperties", value @ Value::Object(_)) => loosen(value),
            ("prefixItems", Value::Array(items)) => items.iter_mut().for_each(loosen),
            ("anyOf" | "oneOf" | "allOf", Value::Array(options)) => options.iter_mut().for_each(loosen_inside),
            _ => (),
        }
    }
}

fn or_expression(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/expression" }] })
}
