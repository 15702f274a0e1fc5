//! Runs that are stopped, killed, or two at once.

#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::project::Project;

/// Long enough to be caught at it, short enough to wait for.
const SLOW: &str = "\
name: slow
nodes:
  first: { stage: generate, with: { script: slow.rhai, rows: 10 } }
  slow:  { stage: generate, with: { script: slow.rhai, rows: 16000 } }
  last:  { stage: merge, inputs: { rows: [first, slow] } }
";

const SCRIPT: &str = "\
fn row(rng, index) {
    let sum = 0;
    for i in 0..300 { sum += i; }
    #{ text: `${index} ${rng.int(0, 999)}` }
}
";

fn project() -> Project {
    Project::new(&[("p.yaml", SLOW), ("slow.rhai", SCRIPT)])
}

/// Waits until `first` is made and the slow node has begun.
fn wait_until_slow_runs(project: &Project) {
    let begun = Instant::now();
    let count = |folder: &str| fs::read_dir(project.path().join(".mashbill").join(folder)).map_or(0, Iterator::count);
    while !(count("artifacts") == 1 && count("drafts") == 1) {
        assert!(begun.elapsed() < Duration::from_mins(1), "the slow node did not begin");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The bytes of the last node's rows after an undisturbed run.
fn undisturbed() -> Vec<u8> {
    let project = project();
    assert_eq!(project.outcomes(), "first made, slow made, last made");
    rows(&project)
}

fn rows(project: &Project) -> Vec<u8> {
    fs::read(project.data("last").join("rows.jsonl")).unwrap()
}

fn drafts(project: &Path) -> usize {
    fs::read_dir(project.join(".mashbill/drafts")).unwrap().count()
}

#[test]
fn ctrl_c_ends_with_130_and_the_next_run_continues() {
    for (name, code) in [("-INT", 130), ("-TERM", 143), ("-USR1", 138)] {
        let project = project();
        let child = project.start("run p.yaml");
        wait_until_slow_runs(&project);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.ends_with("stopped; the same command continues where it was\n"), "{stderr}");
        assert_eq!(project.outcomes(), "first reused, slow made, last made");
        assert_eq!(drafts(project.path()), 0);
    }
}

#[test]
fn a_killed_run_leaves_a_store_that_the_next_run_can_use() {
    let expected = undisturbed();
    for wait_ms in [0, 50, 200, 500] {
        let project = project();
        let mut child = project.start("run p.yaml");
        wait_until_slow_runs(&project);
        thread::sleep(Duration::from_millis(wait_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let outcomes = project.outcomes();
        assert!(outcomes.starts_with("first reused"), "{outcomes}");
        assert!(rows(&project) == expected, "other rows after a kill at {wait_ms} ms");
        assert_eq!(drafts(project.path()), 0);
    }
}

#[test]
fn two_runs_at_once_make_each_result_once() {
    let project = project();
    let children = [project.start("run p.yaml"), project.start("run p.yaml"), project.start("run p.yaml")];
    let said = children.map(|child| child.wait_with_output().unwrap());
    let made: usize = said
        .iter()
        .map(|output| {
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            let stdout = String::from_utf8_lossy(&output.stdout);
            stdout.lines().filter(|line| line.split_whitespace().nth(2) == Some("made")).count()
        })
        .sum();
    assert_eq!(made, 3);
    assert_eq!(drafts(project.path()), 0);
}

/// How many runs came to an end.
fn ended_runs(project: &Project) -> usize {
    let runs = project.path().join(".mashbill/runs");
    let ended =
        |folder: &Path| fs::read_to_string(folder.join("events.jsonl")).is_ok_and(|text| text.contains("run_finished"));
    fs::read_dir(runs).map_or(0, |all| all.filter(|run| ended(&run.as_ref().unwrap().path())).count())
}

fn wait_for_runs(project: &Project, count: usize, why: &str) {
    let begun = Instant::now();
    while ended_runs(project) < count {
        assert!(begun.elapsed() < Duration::from_mins(1), "{why}: no run {count}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn watching_runs_again_after_an_edit_of_the_file_of_an_included_one_and_of_a_script() {
    let project = Project::new(&[
        ("p.yaml", "include: [lib/few.yaml]\nnodes:\n  numbers: { stage: load, with: { path: numbers.jsonl } }\n"),
        ("lib/few.yaml", "nodes:\n  few: { stage: filter, inputs: { rows: numbers }, with: { script: few.rhai } }\n"),
        ("few.rhai", "fn keep(row) { row.n < 3 }\n"),
        ("numbers.jsonl", "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n"),
    ]);
    let child = project.start("run p.yaml --watch");
    wait_for_runs(&project, 1, "the first run");
    project.write("few.rhai", "fn keep(row) { row.n < 2 }\n");
    wait_for_runs(&project, 2, "an edit of a script");
    project.edit("lib/few.yaml", "script: few.rhai", "script: few.rhai, params: { least: 1 }");
    wait_for_runs(&project, 3, "an edit of an included file");
    // A mistake there is told and waited on, and what it says of scripts is not forgotten meanwhile.
    project.edit("lib/few.yaml", "stage: filter", "stage: filtre");
    thread::sleep(Duration::from_millis(700));
    project.write("few.rhai", "fn keep(row) { row.n < 4 }\n");
    thread::sleep(Duration::from_millis(700));
    project.edit("lib/few.yaml", "stage: filtre", "stage: filter");
    wait_for_runs(&project, 4, "a mended mistake");
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    for said in ["few.rhai changed", "lib/few.yaml changed", "unknown stage `filtre`", "watching 4 files"] {
        assert!(stderr.contains(said), "no `{said}` in {stderr}");
    }
    assert_eq!(stderr.matches("unknown stage `filtre`").count(), 2, "once a change while it was there: {stderr}");
}

#[test]
fn the_log_of_a_node_that_runs_or_failed_can_be_read() {
    let sh = "echo so far; while [ ! -e ../../go ]; do sleep 0.02; done; exit 3";
    let project = Project::new(&[(
        "p.yaml",
        &format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{}\" }} }}\n", sh.replace("../../go", "$GO")),
    )]);
    assert_eq!(project.mashbill("log p.yaml a").code, Some(1));
    let go = project.path().join("go");
    let text = format!("env: [GO]\n{}", fs::read_to_string(project.path().join("p.yaml")).unwrap());
    project.write("p.yaml", &text);
    let child =
        project.command("run p.yaml").env("GO", &go).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let log = || project.command("log p.yaml a").env("GO", &go).output().unwrap();
    let running = loop {
        let output = log();
        if output.status.success() && !output.stdout.is_empty() {
            break output;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "nothing was logged");
    };
    assert_eq!(String::from_utf8_lossy(&running.stdout), "so far\n");
    assert!(String::from_utf8_lossy(&running.stderr).starts_with("of a result that is not finished"));
    fs::write(&go, "").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&log().stdout), "so far\n");
}
