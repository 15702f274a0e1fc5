//! Nodes that run at the same time, fail, are tried again, or take too long.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Instant,
};

use engine::{Event, Options};

use crate::project::{Project, words};

/// Waits for the other's file, for a while: who runs alone gives up.
const MEETING: &str = "\
nodes:
  a: { stage: command, with: { sh: \"SAY a; WAIT b; echo a > $OUTPUT/text\" }RUN }
  b: { stage: command, with: { sh: \"SAY b; WAIT a; echo b > $OUTPUT/text\" }RUN }
";

fn meeting(run: &str) -> Project {
    let project = Project::new("nodes: {}\n", &[]);
    let here = project.path().display().to_string();
    let pipeline = MEETING
        .replace("SAY ", &format!("echo > {here}/met_"))
        .replace(
            "WAIT ",
            &format!(
                "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                 [ -e {here}/met_$N ] && break; [ $i = 20 ] && exit 5; sleep 0.05; done; : "
            ),
        )
        .replacen("$N", "b", 1)
        .replacen("$N", "a", 1)
        .replace("RUN", run);
    project.write("p.yaml", &pipeline);
    project
}

fn with_jobs(jobs: usize) -> Options {
    Options { jobs, ..Options::default() }
}

#[test]
fn independent_nodes_run_at_the_same_time() {
    assert_eq!(words(&meeting("").run_with(&with_jobs(2))), "made made");
}

#[test]
fn no_more_run_at_once_than_there_is_room_for() {
    for (jobs, run) in [(1, ""), (3, ", run: { cores: 2 }"), (8, ", run: { device: \"cuda:0\" }")] {
        let report = meeting(run).run_with(&with_jobs(jobs));
        assert_eq!(words(&report), "failed skipped", "{jobs} {run}");
    }
}

#[test]
fn of_two_nodes_with_the_same_facts_one_makes_the_result_and_both_have_it() {
    let project = Project::new("nodes: {}\n", &[]);
    let count = project.path().join("count").display().to_string();
    let work = format!("{{ stage: command, with: {{ sh: \"echo >> {count}; sleep 0.3; echo 1 > $OUTPUT/text\" }} }}");
    project.write("p.yaml", &format!("nodes:\n  a: {work}\n  b: {work}\n  c: {work}\n"));
    assert_eq!(words(&project.run_with(&with_jobs(3))).replace("made", "").matches("reused").count(), 2);
    assert_eq!(std::fs::read_to_string(count).unwrap(), "\n");
}

const BRANCHES: &str = "\
nodes:
  bad:    { stage: command, with: { sh: exit 1 } }
  behind: { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT }, inputs: { x: bad } }
  good:   { stage: command, with: { sh: echo 1 > $OUTPUT/text } }
  after:  { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT }, inputs: { x: good } }
";

#[test]
fn a_failure_ends_the_run_unless_it_shall_keep_going() {
    let project = Project::new(BRANCHES, &[]);
    assert_eq!(words(&project.run_with(&with_jobs(1))), "failed skipped skipped skipped");
    let report = project.run_with(&Options { keep_going: true, ..with_jobs(1) });
    assert_eq!(words(&report), "failed skipped made made");
    let engine::Outcome::Skipped(why) = &report.nodes[1].outcome else { panic!("not skipped") };
    assert_eq!(why, "`bad` failed");
}

#[test]
fn a_node_is_tried_again_as_often_as_it_says_and_keeps_its_scratch() {
    let pipeline = "\
nodes:
  a: { stage: command, with: { sh: \"echo >> $SCRATCH/tries; [ $(wc -l < $SCRATCH/tries) = 2 ]; echo 1 > $OUTPUT/x\" }, retries: 1 }
";
    let project = Project::new(pipeline, &[]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = told.clone();
    let watch = Arc::new(move |event: &Event<'_>| {
        if let Event::Retrying { node, error, .. } = event {
            hear.lock().unwrap().push(format!("{}: {}", node.name, error.to_string().lines().next().unwrap()));
        }
    });
    assert_eq!(words(&project.run_with(&Options { watch, ..Options::default() })), "made");
    assert_eq!(*told.lock().unwrap(), ["a: the program ended with exit status: 1"]);
    project.edit("= 2", "= 3");
    assert_eq!(words(&project.run()), "failed");
}

#[test]
fn a_node_that_takes_too_long_is_stopped() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: sleep 100 }, timeout: 1s }\n", &[]);
    let begun = Instant::now();
    assert_eq!(project.outcomes(), "a failed: it took longer than its timeout of 1 s; what it saved is kept");
    assert!(begun.elapsed().as_secs() < 20);
}

#[test]
fn a_forced_node_is_made_again_and_says_whether_it_gave_the_same() {
    let pipeline = "\
nodes:
  same:  { stage: command, with: { sh: echo 1 > $OUTPUT/text } }
  other: { stage: command, with: { sh: date +%N > $OUTPUT/text } }
  last:  { stage: command, with: { sh: cat $INPUT_x/text $INPUT_y/text > $OUTPUT/text }, inputs: { x: same, y: other } }
";
    let project = Project::new(pipeline, &[]);
    assert_eq!(project.outcomes(), "made made made");
    let before = project.output("other", "text");
    let force = BTreeSet::from(["same".to_owned()]);
    let report = project.run_with(&Options { force, ..Options::default() });
    assert_eq!(words(&report), "made reused reused");
    assert!(report.nodes[0].is_same_content);
    assert_eq!(report.nodes[0].reasons[0].to_string(), "asked for by --force");
    let force = BTreeSet::from(["other".to_owned()]);
    let report = project.run_with(&Options { force, ..Options::default() });
    assert_eq!(words(&report), "reused made made");
    assert!(!report.nodes[1].is_same_content);
    assert_ne!(project.output("other", "text"), before);
}

#[test]
fn mistakes_in_retries_and_timeout_are_told() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: x }, retries: many, timeout: 90 }\n", &[]);
    let told = project.plan().unwrap_err();
    assert!(told.contains("`retries` must be a whole number from 0 to 100, found"), "{told}");
    assert!(told.contains("`timeout` must be a time such as `90s`, `30m` or `1h30m`, found"), "{told}");
}
