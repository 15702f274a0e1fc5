//! Nested blocks inherit the defaults of the stage that they stand in: one key in a block changes no other, and a key
//! that is written at the default that `mashbill stages` prints for it changes nothing.

use engine::{ParameterInfo, Plan, Sources, Spec, StageInfo};
use serde_json::{Map, Value, json};

use crate::project::Project;

const FILES: [(&str, &str); 3] = [
    ("rows.jsonl", "{\"prompt\": \"a\"}\n"),
    (
        "all.rhai",
        "fn keep(it) { true }\nfn map(it) { it }\nfn row(rng, index) { #{ prompt: \"a\" } }\n\
         fn reward(it) { 1.0 }\nfn score(it) { #{ a: 1.0 } }\n",
    ),
    ("model/config.json", "{}"),
];

/// What must be written of a stage's parameters.
fn needed(stage: &str) -> Value {
    match stage {
        "command" => json!({ "sh": "true" }),
        "distill" => json!({ "teach": { "keep": "all.rhai" } }),
        "evaluate" => json!({ "score": "all.rhai" }),
        "filter" | "map" => json!({ "script": "all.rhai" }),
        "generate" => json!({ "script": "all.rhai", "rows": 1 }),
        "grpo" => json!({ "reward": "all.rhai", "max_new_tokens": 8 }),
        "import" => json!({ "path": "model" }),
        "load" => json!({ "path": "rows.jsonl" }),
        "merge_models" => json!({ "method": "ties" }),
        "reject" => json!({ "keep": "all.rhai" }),
        "split" => json!({ "part": "train" }),
        _ => json!({}),
    }
}

/// The parameters in force of a node with these blocks.
fn in_force(project: &Project, stage: &StageInfo, with: &Value, run: &Value) -> (Value, Value) {
    let inputs: Map<String, Value> =
        stage.inputs.iter().map(|input| (input.name.to_owned(), input.kinds[0].into())).collect();
    let text = json!({ "nodes": {
        "rows": { "stage": "load", "with": needed("load") },
        "tokenizer": { "stage": "tokenizer", "inputs": { "rows": "rows" } },
        "checkpoint": { "stage": "import", "with": needed("import") },
        "it": { "stage": stage.name, "inputs": inputs, "with": with, "run": run },
    } });
    let root = project.path().to_path_buf();
    let sources =
        Sources { root, file: "p.yaml".into(), text: text.to_string(), profiles: Vec::new(), overrides: Vec::new() };
    let told = |mistakes: Vec<engine::Diagnostic>| -> String {
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        format!("{}: {}", stage.name, told.join("\n"))
    };
    let plan = Spec::parse(sources).and_then(|spec| Plan::resolve(&spec, &::stages::registry()));
    let plan = plan.map_err(told).unwrap_or_else(|told| panic!("{told}"));
    let node = plan.node("it").unwrap();
    (node.with.clone(), node.settings.clone())
}

/// A parameter that has a default, where it stands, and the blocks around it that are not there by default.
struct Key {
    path: Vec<String>,
    default: Value,
    optional: Vec<Vec<String>>,
}

fn keys(parameters: &[ParameterInfo], above: &[String], optional: &[Vec<String>], found: &mut Vec<Key>) {
    for ParameterInfo { name, default, kind, parameters, .. } in parameters {
        let path = [above, std::slice::from_ref(name)].concat();
        if let Some(default) = default {
            found.push(Key { path: path.clone(), default: default.clone(), optional: optional.to_vec() });
        }
        if parameters.is_empty() {
            continue;
        }
        assert!(!kind.starts_with("list"), "blocks in a list are not walked here yet: {path:?}");
        assert!(parameters.iter().all(|inner| !inner.name.contains(": ")), "one of several blocks is not: {path:?}");
        let optional = if default == &Some(Value::Null) {
            [optional, std::slice::from_ref(&path)].concat()
        } else {
            optional.into()
        };
        keys(parameters, &path, &optional, found);
    }
}

fn put(block: &mut Value, path: &[String], value: Value) {
    let (last, above) = path.split_last().unwrap();
    let place = above.iter().fold(block, |block, step| &mut block[step]);
    if place.is_null() {
        *place = json!({});
    }
    place[last] = value;
}

#[test]
fn a_key_written_at_its_default_changes_no_fact_of_any_stage() {
    let project = Project::new(&FILES);
    let registry = ::stages::registry();
    let (mut tried, mut nested) = (0, 0);
    for stage in registry.stages() {
        let needed = needed(stage.name);
        let mut parameters = Vec::new();
        keys(&stage.parameters, &[], &[], &mut parameters);
        let mut settings = Vec::new();
        keys(&stage.settings, &[], &[], &mut settings);
        for (is_setting, key) in parameters.iter().map(|key| (false, key)).chain(settings.iter().map(|key| (true, key)))
        {
            // What is needed is there already.
            let pointer = format!("/{}", key.path.join("/"));
            if !is_setting && needed.pointer(&pointer).is_some() {
                continue;
            }
            let place = format!("{} {}", stage.name, key.path.join("."));
            let mut base = if is_setting { json!({}) } else { needed.clone() };
            for block in &key.optional {
                put(&mut base, block, json!({}));
            }
            let mut written = base.clone();
            put(&mut written, &key.path, key.default.clone());
            let facts = |block: &Value| {
                if is_setting {
                    in_force(&project, stage, &needed, block)
                } else {
                    in_force(&project, stage, block, &json!({}))
                }
            };
            let (without, with) = (facts(&base), facts(&written));
            assert_eq!(without, with, "{place} at {}", key.default);
            let block = if is_setting { &without.1 } else { &without.0 };
            // A null is decided by a preset or by other parameters.
            if let Some(value) = block.pointer(&pointer).filter(|_| !key.default.is_null()) {
                assert_eq!(value, &key.default, "{place}: what is printed is not what holds");
            }
            tried += 1;
            nested += usize::from(key.path.len() > 1);
        }
    }
    assert!(tried > 200 && nested > 100, "{tried} keys were tried, {nested} of them in blocks");
}

/// The `with:` block of the node `it`, as `mashbill render` tells it.
fn rendered(with: &str) -> Value {
    let text = format!(
        "nodes:\n  rows: {{ stage: load, with: {{ path: rows.jsonl }} }}\n  \
         policy: {{ stage: import, with: {{ path: model }} }}\n  it: {with}\n"
    );
    let project = Project::new(&FILES);
    project.write("p.yaml", &text);
    let said = project.mashbill("render p.yaml --json");
    assert_eq!(said.code, Some(0), "{said:#?}");
    serde_json::from_str::<Value>(&said.stdout).unwrap()["nodes"]["it"]["with"].clone()
}

#[test]
fn one_key_of_a_block_changes_no_other() {
    for (stage, written, block) in [
        ("evaluate, inputs: { policies: policy, prompts: rows }", "score: all.rhai", "sampling"),
        ("grpo, inputs: { policy: policy, prompts: rows }", "reward: all.rhai, max_new_tokens: 8", "optimiser"),
        ("sft, inputs: { policy: policy, rows: rows }", "batch: 8", "optimiser"),
        ("pretrain, inputs: { policy: policy, rows: rows }", "batch: 8", "optimiser"),
    ] {
        let (key, value) = if block == "sampling" { ("max_new_tokens", json!(128)) } else { ("max_norm", json!(0.5)) };
        let node = |more: &str| rendered(&format!("{{ stage: {stage}, with: {{ {written}{more} }} }}"))[block].clone();
        let mut expected = node("");
        expected[key] = value.clone();
        assert_eq!(node(&format!(", {block}: {{ {key}: {value} }}")), expected, "{stage}");
    }
    let learn = |more: &str| {
        let with = format!("teach: {{ keep: all.rhai }}, learn: {{ batch: 8{more} }}");
        rendered(&format!(
            "{{ stage: distill, inputs: {{ teacher: policy, student: policy, prompts: rows }}, with: {{ {with} }} }}"
        ))["learn"]
            .clone()
    };
    assert_eq!(learn("")["optimiser"]["beta2"], 0.99);
    assert_eq!(learn(", optimiser: { max_norm: 0.5 }")["optimiser"]["beta2"], 0.99);
}

#[test]
fn the_defaults_of_a_block_that_are_printed_are_the_stages_own() {
    let project = Project::new(&[]);
    let line = |stage: &str, parameter: &str| {
        let said = project.mashbill(&format!("stages {stage}"));
        let lines = || said.stdout.lines().map(str::trim).filter(|line| line.starts_with(&format!("{parameter}: ")));
        assert_eq!(lines().count(), 1, "{}", said.stdout);
        lines().next().unwrap().rsplit("default ").next().unwrap().to_owned()
    };
    assert_eq!((line("evaluate", "temperature"), line("evaluate", "top_p")), ("0.6".into(), "0.95".into()));
    assert_eq!((line("sample", "temperature"), line("sample", "top_p")), ("1.0".into(), "1.0".into()));
    assert_eq!((line("grpo", "beta2"), line("grpo", "weight_decay")), ("0.99".into(), "0.0".into()));
    assert_eq!((line("sft", "beta2"), line("sft", "weight_decay")), ("0.99".into(), "0.01".into()));
    assert_eq!(line("sft", "min_delta"), "0.0", "what facts leave out has a default too");
    let schema: Value = serde_json::from_str(&project.mashbill("schema").stdout).unwrap();
    let sampling = |stage: &str| {
        let with = &schema["$defs"][format!("{stage}.with")]["anyOf"][0]["properties"]["sampling"];
        with["anyOf"][0]["properties"]["temperature"]["default"].clone()
    };
    assert_eq!((sampling("evaluate"), sampling("sample")), (json!(0.6), json!(1.0)));
}
