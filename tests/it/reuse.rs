//! What runs again and what does not, and how well the program can say why.

use std::{fs, time::Instant};

use crate::project::Project;

const PIPELINE: &str = "\
name: numbers
seed: 3
nodes:
  numbers: { stage: load, with: { path: numbers.jsonl } }
  few:     { stage: filter, inputs: { rows: numbers }, with: { script: few.rhai } }
  both:    { stage: merge, inputs: { rows: [numbers, few] } }
";

const NUMBERS: &str = "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n";

fn project() -> Project {
    Project::new(&[("p.yaml", PIPELINE), ("numbers.jsonl", NUMBERS), ("few.rhai", "fn keep(row) { row.n < 3 }\n")])
}

fn made() -> Project {
    let project = project();
    assert_eq!(project.outcomes(), "numbers made, few made, both made");
    project
}

const ALL_REUSED: &str = "numbers reused, few reused, both reused";

#[test]
fn running_again_reuses_everything_in_under_a_second() {
    let project = made();
    let begun = Instant::now();
    assert_eq!(project.outcomes(), ALL_REUSED);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "took {:?}", begun.elapsed());
}

#[test]
fn a_comment_the_order_of_keys_and_the_layout_rerun_nothing() {
    let project = made();
    project.write(
        "p.yaml",
        "\
# A comment.
nodes:
  both:
    inputs:
      rows: [numbers, few]   # in this order
    stage: merge
  few: { with: { script: few.rhai }, inputs: { rows: numbers }, stage: filter }
  numbers: { stage: load, with: { path: \"numbers.jsonl\" } }
seed: 3
name: numbers
",
    );
    let outcomes = project.outcomes();
    assert!(!outcomes.contains("made"), "{outcomes}");
}

#[test]
fn other_names_of_nodes_pipeline_and_files_rerun_nothing() {
    let project = made();
    fs::rename(project.path().join("numbers.jsonl"), project.path().join("integers.jsonl")).unwrap();
    fs::rename(project.path().join("few.rhai"), project.path().join("small.rhai")).unwrap();
    let renamed = PIPELINE.replace("numbers", "integers").replace("few", "small").replace("both", "union");
    project.write("p.yaml", &renamed);
    assert_eq!(project.outcomes(), "integers reused, small reused, union reused");
}

#[test]
fn an_edited_script_reruns_only_what_is_behind_it() {
    let project = made();
    project.write("few.rhai", "fn keep(row) { row.n < 2 }\n");
    assert_eq!(project.outcomes(), "numbers reused, few made, both made");
    assert_eq!(fs::read_to_string(project.data("few").join("rows.jsonl")).unwrap(), "{\"n\":1}\n");
}

#[test]
fn an_edit_that_keeps_the_same_rows_stops_there() {
    let project = made();
    project.write("few.rhai", "fn keep(row) { row.n <= 2 }\n");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.outcomes(), "numbers reused, few made, both reused");
    assert!(said.stdout.contains("same content as before"), "{}", said.stdout);
}

#[test]
fn the_bytes_of_what_a_script_imports_decide_too() {
    let project = project();
    project.write("few.rhai", "import \"limit\" as limit;\nfn keep(row) { row.n < limit::LIMIT }\n");
    project.write("limit.rhai", "export const LIMIT = 3;\n");
    assert_eq!(project.outcomes(), "numbers made, few made, both made");
    project.write("limit.rhai", "export const LIMIT = 2;\n");
    let said = project.mashbill("plan p.yaml").stdout;
    assert!(said.contains("with.script: bytes of limit.rhai changed"), "{said}");
    assert_eq!(project.outcomes(), "numbers reused, few made, both made");
}

#[test]
fn explain_names_old_and_new_before_the_run_and_after_it() {
    let project = made();
    project.edit("p.yaml", "seed: 3", "seed: 4");
    let sentence = "seed: 3 -> 4";
    let before = project.mashbill("explain p.yaml few").stdout;
    assert!(before.contains("few itself changed:\n  seed: 3 -> 4\n"), "{before}");
    assert!(before.contains("few waits on numbers"), "{before}");
    project.outcomes();
    let after = project.mashbill("explain p.yaml few").stdout;
    assert!(after.contains("few is reused") && after.contains(sentence), "{after}");
}

#[test]
fn explain_goes_down_to_the_first_cause() {
    let project = made();
    project.write("numbers.jsonl", "{\"n\": 1}\n{\"n\": 4}\n");
    project.outcomes();
    let said = project.mashbill("explain p.yaml both").stdout;
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let at = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{said}"));
    assert!(at("input rows: content changed") < at("because numbers changed:"));
    assert!(at("because numbers changed:") < at("with.path.0: bytes of numbers.jsonl changed"));
}

#[test]
fn plan_says_reuse_run_and_wait_and_does_nothing() {
    let project = made();
    project.write("few.rhai", "fn keep(row) { row.n <= 2 }\n");
    let said = project.mashbill("plan p.yaml");
    let words: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(words[..3], [["reuse", "numbers"], ["run", "few"], ["waits", "both"]], "{}", said.stdout);
    assert!(said.stdout.contains("with.script: bytes of few.rhai changed"), "{}", said.stdout);
    assert!(said.stdout.ends_with("1 to reuse, 1 to run, 1 to wait and see\n"), "{}", said.stdout);
    assert_eq!(project.mashbill("plan p.yaml").stdout, said.stdout);
}

#[test]
fn a_tampered_result_is_made_again_and_never_used() {
    let project = made();
    let rows = project.data("numbers").join("rows.jsonl");
    let whole = fs::read(&rows).unwrap();
    fs::remove_file(&rows).unwrap();
    fs::write(&rows, "{\"n\":1}\n{\"n\":7}\n{\"n\":3}\n").unwrap();
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.outcomes(), "numbers made, few reused, both reused");
    assert!(said.stderr.contains("damaged: the bytes of `data/rows.jsonl` changed"), "{}", said.stderr);
    assert_eq!(fs::read(&rows).unwrap(), whole);
}

#[test]
fn until_makes_a_node_and_what_it_needs() {
    let said = project().mashbill("run p.yaml --until few");
    assert_eq!(said.outcomes(), "numbers made, few made");
}

#[test]
fn set_and_seed_override_the_file() {
    let project = made();
    let said = project.mashbill("run p.yaml --seed 3 --set nodes.few.with.script=few.rhai");
    assert_eq!(said.outcomes(), ALL_REUSED);
    let said = project.mashbill("plan p.yaml --seed 5");
    assert!(said.stdout.contains("seed: 3 -> 5"), "{}", said.stdout);
}

#[test]
fn the_store_can_lie_elsewhere() {
    let project = project();
    let elsewhere = Project::new(&[]);
    let folder = elsewhere.path().join("results");
    project.mashbill(&format!("run p.yaml --store {}", folder.display()));
    assert!(folder.join("artifacts").is_dir());
    assert!(!project.path().join(".mashbill").exists());
    let output = project.command("run p.yaml").env("MASHBILL_STORE", &folder).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches("reused").count(), 4);
}

#[test]
fn a_pipeline_in_a_subfolder_finds_the_root_above_it() {
    let project = project();
    fs::create_dir(project.path().join(".git")).unwrap();
    fs::create_dir(project.path().join("pipelines")).unwrap();
    fs::rename(project.path().join("p.yaml"), project.path().join("pipelines/p.yaml")).unwrap();
    let said = project.mashbill("run pipelines/p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(project.path().join(".mashbill").is_dir());
}

#[test]
fn show_prints_folder_facts_and_rows() {
    let project = made();
    let said = project.mashbill("show p.yaml few");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let lines: Vec<&str> = said.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[0], "few (filter, p.yaml:5:3): up to date");
    assert!(fs::metadata(lines[1]).unwrap().is_dir());
    assert!(lines.contains(&"{\"n\":1}"), "{}", said.stdout);
    for word in ["seed", "with.script", "few.rhai", "input rows", "rows.jsonl"] {
        assert!(said.stdout.contains(word), "no `{word}` in {}", said.stdout);
    }
}
