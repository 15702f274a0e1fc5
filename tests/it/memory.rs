//! What a plan says of memory, and what does not start for want of it.

use serde_json::Value;

use crate::project::Project;

const PIPELINE: &str = "\
name: memory
nodes:
  text:      { stage: generate, with: { script: text.rhai, rows: 40 } }
  tokenizer: { stage: tokenizer, inputs: { rows: text } }
  model:     { stage: init, inputs: { tokenizer: tokenizer }, with: { layers: 2, hidden: 32, heads: 2, context: 64 } }
  base:      { stage: pretrain, inputs: { policy: model, rows: text }, with: { steps: 2, batch: 8 }, run: { memory_gb: 1 } }
";

fn project() -> Project {
    Project::new(&[("p.yaml", PIPELINE), ("text.rhai", "fn row(rng, index) { #{ text: \"so it goes, \" + index } }\n")])
}

fn memory(project: &Project, node: &str) -> Value {
    let said = project.mashbill("plan p.yaml --json");
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    plan["nodes"].as_array().unwrap().iter().find(|each| each["node"] == node).unwrap()["memory"].clone()
}

#[test]
fn a_plan_says_what_a_node_will_hold_as_soon_as_its_model_is_known() {
    let project = project();
    assert_eq!(memory(&project, "text"), Value::Null);
    assert_eq!(memory(&project, "base")["after"], serde_json::json!(["model"]));
    let said = project.mashbill("plan p.yaml").stdout;
    assert!(said.contains("what it needs of memory is known after model"), "{said}");

    assert_eq!(project.mashbill("run p.yaml --until tokenizer").code, Some(0));
    let outlined = memory(&project, "base");
    // 2 layers: q, k, v and o of 32 x 32 and three of 96 x 32; five norms; the embedding of the characters.
    let table = outlined["parts"]["weights"].as_u64().unwrap() / 4 - 2 * (4 * 1024 + 3 * 96 * 32) - 5 * 32;
    assert_eq!(table % 32, 0);
    assert_eq!(outlined["parts"]["optimiser"].as_u64(), outlined["parts"]["weights"].as_u64().map(|bytes| 2 * bytes));

    assert_eq!(project.mashbill("run p.yaml --until model").code, Some(0));
    let known = memory(&project, "base");
    assert_eq!((&known["after"], &known["refusal"]), (&serde_json::json!([]), &Value::Null));
    assert_eq!(known["parts"]["weights"], outlined["parts"]["weights"]);
    let said = project.mashbill("plan p.yaml").stdout;
    assert!(said.contains("of memory (weights "), "{said}");
}

#[test]
fn a_node_that_does_not_fit_is_refused_by_plan_and_run_with_what_to_change() {
    let project = project();
    assert_eq!(project.mashbill("run p.yaml --until model").code, Some(0));
    let tight = "--set nodes.base.run.memory_gb=0.01";
    let expected = "and its `memory_gb` is 10 MB: lower `micro_batch_tokens` (it is 4096), \
                    or keep less by `activations: recompute`, or raise `memory_gb`";
    let planned = project.mashbill(&format!("plan p.yaml {tight}")).stdout;
    assert!(planned.contains(expected), "{planned}");
    let said = project.mashbill(&format!("run p.yaml {tight}"));
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("node `base` failed") && said.stderr.contains(expected), "{}", said.stderr);
    assert_eq!(project.mashbill("run p.yaml").code, Some(0));
}
