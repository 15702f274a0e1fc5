//! A tiny model of every family through import, scoring, greedy decoding, a step of fine-tuning and export, beside what
//! transformers computed of it. `tests/reference/families.py` goes on from here with transformers at hand.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::project::{Project, workspace};

#[test]
fn every_family_computes_what_transformers_does_from_import_to_export() {
    let mut seen = 0;
    for entry in fs::read_dir(workspace().join("tests/fixtures")).unwrap() {
        let fixture = entry.unwrap().path();
        let Ok(reference) = fs::read(fixture.join("reference.json")) else { continue };
        let reference: Value = serde_json::from_slice(&reference).unwrap();
        let family = fixture.file_name().unwrap().to_str().unwrap();
        seen += 1;
        let project = project(&fixture, &reference);
        let said = project.mashbill("run p.yaml");
        assert_eq!(said.code, Some(0), "{family}: {said:#?}");

        let published: Vec<&Value> = scored(&reference).collect();
        let rows = project.rows("scores");
        assert_eq!(rows.len(), published.len());
        for (row, published) in rows.iter().zip(published) {
            for (ours, theirs) in list(&row["logprobs"]).iter().zip(list(&published["logprobs"])) {
                assert!((number(ours) - number(theirs)).abs() < 1e-4, "{family}: {ours} is not {theirs}");
            }
        }

        let continued = &project.rows("continued")[0];
        // A token a character.
        let prompt = continued["prompt"].as_str().unwrap().chars().count();
        let greedy = &list(&reference["greedy"])[prompt..];
        assert_eq!(list(&continued["completion_ids"])[..greedy.len()], *greedy, "{family}");

        let metrics = project.metrics("tuned");
        let step = metrics.iter().find(|line| line.get("loss").is_some()).unwrap();
        for (key, tolerance) in [("loss", 1e-5), ("gradient_norm", 1e-4)] {
            let (ours, theirs) = (number(&step[key]), number(&reference["sft"][key]));
            assert!((ours - theirs).abs() < tolerance * theirs, "{family}: {key} {ours} for {theirs}");
        }

        // What was tuned is what was exported, and another than what was imported.
        let nll = |node: &str| number(&project.metrics(node)[0]["mean_nll"]);
        assert!((nll("exported_scores") - nll("scores")).abs() > 1e-6, "{family}");
        let files: Vec<String> = fs::read_dir(project.data("sharded"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("model"))
            .collect();
        assert!(files.len() > 2 && files.contains(&"model.safetensors.index.json".into()), "{family}: {files:?}");
    }
    assert!(seen > 0, "no model in tests/fixtures");
}

fn project(fixture: &Path, reference: &Value) -> Project {
    let pipeline = fs::read_to_string(workspace().join("tests/reference/families.yaml")).unwrap();
    let mut project = Project::new(&[("p.yaml", &pipeline)]);
    project.overrides = vec![format!("vars.model={}", fixture.display()), "vars.rows=rows".into()];
    let lines = |rows: Vec<Value>| rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    project.write("rows/scored.jsonl", &lines(scored(reference).map(|case| json!({ "ids": case["ids"] })).collect()));
    let prompt = reference["prompt"].as_str().unwrap_or("12+7=");
    project.write("rows/prompts.jsonl", &lines(vec![json!({ "prompt": prompt })]));
    let lesson = |row: &Value| json!({ "prompt": row["prompt"], "completion": row["completion"] });
    project.write("rows/lessons.jsonl", &lines(list(&reference["sft"]["rows"]).iter().map(lesson).collect()));
    project
}

/// The sequences in which something is predicted.
fn scored(reference: &Value) -> impl Iterator<Item = &Value> {
    list(&reference["scored"]).iter().filter(|case| list(&case["ids"]).len() > 1)
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
