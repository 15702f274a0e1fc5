//! What is written down of runs, and what the verbs that read it say.

use std::fs;

use serde_json::Value;

use crate::project::Project;

const PIPELINE: &str = "\
name: numbers
nodes:
  numbers: { stage: load, with: { path: numbers.jsonl } }
  few:     { stage: filter, inputs: { rows: numbers }, with: { script: few.rhai } }
  both:    { stage: merge, inputs: { rows: [numbers, few] } }
";

fn project() -> Project {
    let numbers = "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n";
    Project::new(&[("p.yaml", PIPELINE), ("numbers.jsonl", numbers), ("few.rhai", "fn keep(row) { row.n < 3 }\n")])
}

/// Run 1 makes all; run 2 comes after an edit of the script.
fn edited() -> Project {
    let project = project();
    project.outcomes();
    project.write("few.rhai", "fn keep(row) { row.n < 2 }\n");
    project.outcomes();
    project
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn plan_as_json_says_word_reasons_and_causes() {
    let project = project();
    project.outcomes();
    project.edit("p.yaml", "name: numbers\n", "name: numbers\nseed: 4\n");
    let plan = json(&project.mashbill("plan p.yaml --json").stdout);
    let words: Vec<&str> = plan["nodes"].as_array().unwrap().iter().map(|n| n["verdict"].as_str().unwrap()).collect();
    assert_eq!(words, ["run", "waits", "waits"]);
    let reason = &plan["nodes"][0]["reasons"][0];
    assert_eq!((&reason["fact"], &reason["old"], &reason["new"]), (&"seed".into(), &0.into(), &4.into()));
    assert_eq!(plan["nodes"][2]["on"], serde_json::json!(["few", "numbers"]));
    assert_eq!(plan["nodes"][2]["causes"], serde_json::json!(["numbers"]));
    assert_eq!(plan["counts"]["waits"], 2);
}

#[test]
fn plan_ends_with_ten_only_where_asked_and_only_with_work() {
    let project = project();
    assert_eq!(project.mashbill("plan p.yaml").code, Some(0));
    assert_eq!(project.mashbill("plan p.yaml --exit-code").code, Some(10));
    assert_eq!(project.mashbill("run p.yaml --dry-run").stdout, project.mashbill("plan p.yaml").stdout);
    project.outcomes();
    assert_eq!(project.mashbill("plan p.yaml --exit-code").code, Some(0));
}

#[test]
fn selectors_run_a_part_and_say_what_is_missing() {
    let project = project();
    let said = project.mashbill("run p.yaml --select few");
    assert_eq!(said.code, Some(2));
    assert_eq!(
        said.stderr,
        "error: `few` cannot be made: it needs `numbers`, which was not selected and would have to run\n  \
         hint: `--select +few` makes what it needs too, `--only few` takes what is there\n"
    );
    assert_eq!(project.mashbill("run p.yaml --select +few").outcomes(), "numbers made, few made");
    assert_eq!(project.mashbill("run p.yaml --select kind:merge").outcomes(), "numbers reused, few reused, both made");
    let said = project.mashbill("plan p.yaml --exclude both --select kind:load,numbers --select few");
    assert!(said.stdout.ends_with("2 to reuse, 0 to run, 0 to wait and see\n"), "{}", said.stdout);
}

#[test]
fn quiet_says_nothing() {
    let said = project().mashbill("run p.yaml --quiet");
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let project = edited();
    let list = project.mashbill("runs").stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert!(lines[0].starts_with("1  numbers  done") && lines[0].contains("3 made"), "{list}");
    assert!(lines[1].starts_with("2  numbers  done") && lines[1].contains("2 made, 1 reused"), "{list}");
    let shown = project.mashbill("runs last").stdout;
    assert!(shown.starts_with("run 2 of numbers: done\n"), "{shown}");
    assert!(shown.contains("with.script: bytes of few.rhai changed"), "{shown}");
    let record = json(&project.mashbill("runs 1 --json").stdout);
    assert_eq!(record["nodes"][1]["outcome"], "made");

    let rows = json(&project.mashbill("diff 1 last --json").stdout);
    let names: Vec<String> =
        rows["rows"].as_array().unwrap().iter().map(|row| format!("{} {}", row["node"], row["name"])).collect();
    assert!(names.contains(&"\"few\" \"sources.script.0\"".to_owned()), "{names:?}");
    assert!(names.contains(&"\"both\" \"inputs.rows.1.content\"".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("\"numbers\"")), "{names:?}");
    let said = project.mashbill("diff 1 3");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with("error: no run `3`\n  hint: the runs are 1 to 2;"), "{}", said.stderr);
}

#[test]
fn a_run_that_fails_is_recorded_with_its_error() {
    let project = project();
    project.write("few.rhai", "fn keep(row) { throw \"no\" }\n");
    assert_eq!(project.mashbill("run p.yaml").code, Some(1));
    let record = json(&project.mashbill("runs last --json").stdout);
    assert_eq!(record["outcome"], "failed");
    assert!(record["nodes"][1]["error"].as_str().unwrap().contains("few.rhai"), "{record}");
}

#[test]
fn explain_compares_the_facts_that_are_hashed() {
    let project = edited();
    let facts = json(&project.mashbill("explain p.yaml few --json").stdout);
    let stored = fs::read_to_string(project.data("few").with_file_name("facts.json")).unwrap();
    assert_eq!(facts["now"]["facts"], json(&stored));
    assert_ne!(facts["then"]["fingerprint"], facts["now"]["fingerprint"]);
    let said = project.mashbill("explain p.yaml few").stdout;
    assert!(said.lines().any(|line| line.starts_with("! sources.script.0")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("  seed ")), "{said}");
    let runs = json(&project.mashbill("explain p.yaml few --runs 1 2 --json").stdout);
    assert_eq!((&runs["then"], &runs["now"]), (&facts["then"], &facts["now"]));
}

#[test]
fn ls_and_show_say_where_results_came_from() {
    let project = edited();
    let list = project.mashbill("ls").stdout;
    assert_eq!(list.matches("numbers/few").count(), 2, "{list}");
    assert_eq!(list.matches("earlier").count(), 2, "{list}");
    assert!(list.lines().last().unwrap().starts_with("5 results, "), "{list}");
    let shown = project.mashbill("show p.yaml both").stdout;
    assert!(shown.contains("by run   2: "), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.trim_start().starts_with("from ")).count(), 2, "{shown}");
}

#[test]
fn a_trace_has_run_and_nodes() {
    let project = project();
    assert_eq!(project.mashbill("run p.yaml --trace trace.json").code, Some(0));
    let trace = json(&fs::read_to_string(project.path().join("trace.json")).unwrap());
    let spans: Vec<&str> = trace["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    for name in ["numbers", "few", "both", "run 1 of numbers"] {
        assert!(spans.contains(&name), "{spans:?}");
    }
}

#[test]
fn spans_nest_as_run_node_and_step() {
    let output = project().command("run p.yaml").env("MASHBILL_LOG", "info").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for span in [
        "run{pipeline=\"numbers\"}: ",
        "run{pipeline=\"numbers\"}:node{name=\"few\" stage=\"filter\"}: ",
        "run{pipeline=\"numbers\"}:node{name=\"few\" stage=\"filter\"}:step{after=0}: ",
    ] {
        assert!(stderr.lines().any(|line| line.contains(span) && line.contains("close")), "no `{span}` in {stderr}");
    }
}

#[test]
fn what_a_program_wrote_is_replayed_when_its_result_is_reused() {
    let project = Project::new(&[(
        "p.yaml",
        "nodes:\n  a: { stage: command, with: { sh: \"echo hello; echo again >&2; echo x > $OUTPUT/x\" } }\n",
    )]);
    let made = project.mashbill("run p.yaml --logs");
    assert!(made.stdout.starts_with("a:\nhello\nagain\n\na  command  made"), "{}", made.stdout);
    let reused = project.mashbill("run p.yaml --logs");
    assert!(reused.stdout.starts_with("a:\nhello\nagain\n\na  command  reused"), "{}", reused.stdout);
    assert!(project.mashbill("run p.yaml").stdout.starts_with("a  command  reused"));
}

#[test]
fn results_of_the_last_runs_are_not_swept_away() {
    let project = project();
    for last in [3, 4, 5] {
        project.write("few.rhai", &format!("fn keep(row) {{ row.n + 2 == {last} }}\n"));
        project.outcomes();
    }
    // Another pipeline's needs, and hardly any grace: `few` and `both` of each run are three times two results, `numbers` is one.
    project.write("other.yaml", "nodes:\n  n: { stage: load, with: { path: numbers.jsonl } }\n");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let kept = |flags: &str| {
        let said = project.mashbill(&format!("gc other.yaml --older-than 1s {flags}")).stdout;
        said.lines().find_map(|line| line.strip_prefix("kept: ")).map(str::to_owned).unwrap_or(said)
    };
    assert_eq!(kept(""), "3 needed");
    assert_eq!(kept("--keep-runs 2"), "5 needed");
    assert_eq!(kept("--keep-runs 0"), "1 needed");
    assert_eq!(project.mashbill("gc other.yaml --older-than 1s --apply").code, Some(0));
    assert_eq!(project.outcomes(), "numbers reused, few reused, both reused");
}

#[test]
fn a_damaged_record_of_a_run_stops_the_sweep() {
    let project = edited();
    let path = project.path().join(".mashbill/runs/2/run.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let said = project.mashbill("gc p.yaml --apply");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with("error: the record of run 2 does not say what it had: "), "{}", said.stderr);
    assert!(said.stderr.ends_with("\n  hint: `--keep-runs 0` goes without the runs\n"), "{}", said.stderr);
    assert_eq!(project.mashbill("gc p.yaml --keep-runs 0").code, Some(0));
}
