//! What the binary says of a pipeline's file: rendered, explained, for programs.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use stages::text::check::Finding;

use crate::project::{Project, shared, workspace};

/// A folder in which the examples of the codes have the files that they name.
fn examples() -> Project {
    Project::new(&[
        ("rows.jsonl", "{\"text\": \"a\"}\n"),
        ("broken.rhai", "import \"nowhere\" as n;\nfn generate(rng, index, params) { #{} }\n"),
    ])
}

#[test]
fn every_code_is_explained_and_its_example_has_the_mistake() {
    let project = examples();
    for explanation in engine::EXPLANATIONS {
        let code = explanation.code;
        project.write("p.yaml", explanation.example);
        let said = project.mashbill(&format!("check p.yaml --message-format json {}", explanation.words));
        assert_eq!(said.code, Some(2), "{code}: {said:#?}");
        let codes: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(codes.iter().all(|mistake| mistake["code"] == code) && !codes.is_empty(), "{code}: {}", said.stdout);
        let told = project.mashbill(&format!("explain {code}"));
        assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""));
        let first = explanation.text.split(' ').take(5).collect::<Vec<_>>().join(" ");
        assert!(told.stdout.starts_with(&format!("{code}\n{first}")), "{}", told.stdout);
    }
    let codes: Vec<&str> = engine::EXPLANATIONS.iter().map(|explanation| explanation.code).collect();
    let source = fs::read_to_string(workspace().join("engine/src/code.rs")).unwrap();
    let declared: Vec<&str> = source.split('"').filter(|word| word.starts_with("E0")).collect();
    assert_eq!(codes, declared, "every code that there is");
}

#[test]
fn what_the_template_check_finds_is_explained_by_the_code_that_it_prints() {
    let mut abouts = BTreeSet::new();
    for finding in Finding::ALL {
        let code = serde_json::to_value(finding).unwrap();
        let code = code.as_str().unwrap();
        let told = examples().mashbill(&format!("explain {code}"));
        assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""));
        let (about, mend) = told.stdout.split_once("\nthe mend:\n").unwrap();
        assert!(about.starts_with(&format!("{code}\n")) && about.trim_end().ends_with('.'), "{}", told.stdout);
        assert!(mend.contains(&format!("accept: [{code}]")), "{}", told.stdout);
        abouts.insert(about.lines().nth(1).unwrap().to_owned());
    }
    assert_eq!(abouts.len(), Finding::ALL.len(), "each in its own words");
}

#[test]
fn an_unknown_code_and_a_missing_node_are_told() {
    let said = examples().mashbill("explain E0999");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with("error: no code `E0999`\n  hint: "), "{}", said.stderr);
    let said = examples().mashbill("explain p.yaml");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("which node shall be explained?"), "{}", said.stderr);
}

#[test]
fn programs_get_one_object_a_line_for_each_mistake() {
    let project = examples();
    project
        .write("p.yaml", "nodes:\n  r: { stage: load, with: { path: rows.jsonl, limitt: 3 } }\n  r: { stage: laod }\n");
    for verb in ["check", "plan", "run"] {
        let said = project.mashbill(&format!("{verb} p.yaml --message-format json"));
        assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
        let lines: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({
                    "code": "E0104", "message": "unknown parameter `limitt`", "file": "p.yaml", "line": 2, "column": 47,
                    "end": { "line": 2, "column": 53 }, "label": "", "labels": [], "hint": "did you mean `limit`?",
                }),
                json!({
                    "code": "E0116", "message": "`r` is defined twice", "file": "p.yaml", "line": 3, "column": 3,
                    "end": { "line": 3, "column": 4 }, "label": "defined again here",
                    "labels": [{
                        "file": "p.yaml", "line": 2, "column": 3, "end": { "line": 2, "column": 4 },
                        "label": "first defined here",
                    }],
                    "hint": null,
                }),
            ]
        );
    }
}

const LAYERS: &str = "\
name: demo
vars: { n: 4 }
defaults: { load: { with: { format: jsonl } } }
profiles: { few: { vars: { n: 1 } } }
nodes:
  r:
    stage: load
    matrix: { seed: [1, 2] }
    seed: ${{ matrix.seed }}
    with: { path: rows.jsonl, limit: \"${{ vars.n * 2 }}\" }
  all: { stage: merge, inputs: { rows: r } }
";

#[test]
fn a_rendered_pipeline_shows_where_each_value_comes_from() {
    let project = examples();
    project.write("p.yaml", LAYERS);
    let said = project.mashbill("render p.yaml --set all.total=3");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let expected = "\
name: demo
nodes:
  \"r[seed=1]\":  # p.yaml:6
    stage: load  # p.yaml:7
    with:
      path: [rows.jsonl]  # p.yaml:10
      format: jsonl  # p.yaml:3
      list: null  # default
      fields: {}  # default
      types: {}  # default
      sharegpt: null  # default
      where: {}  # default
      limit: 8  # p.yaml:10
    run:
      max_row_mb: 16.0  # default
      max_file_gb: 4.0  # default
      max_ratio: 200.0  # default
    seed: 1  # p.yaml:8
";
    assert!(said.stdout.starts_with(expected), "{}", said.stdout);
    assert!(said.stdout.contains("      rows: [\"r[seed=1]\", \"r[seed=2]\"]  # p.yaml:11\n"), "{}", said.stdout);
    assert!(said.stdout.contains("      total: 3  # --set all.total=3\n"), "{}", said.stdout);
    let few = project.mashbill("render p.yaml --profile few --json");
    let document: Value = serde_json::from_str(&few.stdout).unwrap();
    assert_eq!(document["nodes"]["r[seed=2]"]["with"]["limit"], 2);
    assert_eq!(document["nodes"]["r[seed=2]"]["origins"]["with.format"], "p.yaml:3:37");
}

#[test]
fn a_rendered_pipeline_is_the_pipeline() {
    let project = examples();
    project.write("p.yaml", LAYERS);
    let made = project.mashbill("run p.yaml");
    assert_eq!(made.code, Some(0), "{made:#?}");
    let rendered = project.mashbill("render p.yaml").stdout;
    project.write("p.yaml", &rendered);
    assert_eq!(project.outcomes(), "r[seed=1] reused, r[seed=2] reused, all reused");
    // The ones that users copy, too: what is rendered renders the same.
    for entry in fs::read_dir(workspace().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if fs::read_to_string(&path).unwrap().contains("../shared/data") && shared("").is_none() {
            continue;
        }
        let render = |path: &std::path::Path| {
            let root = ["--root", workspace().to_str().unwrap()];
            let output = project.command("render").arg(path).args(root).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
        };
        let once = render(&path);
        project.write("again.yaml", &once);
        assert_eq!(render(&project.path().join("again.yaml")), once, "{}", path.display());
    }
}
