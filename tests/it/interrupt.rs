//! Runs that are stopped, killed, or two at once.

#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Child, Command},
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

fn signal(child: &Child, name: &str) {
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
