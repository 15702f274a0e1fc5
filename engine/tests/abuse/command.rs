//! The stage that runs programs.

use std::{
    fs,
    process::Command as Process,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{Event, Options};

use crate::project::{Project, wait_for, words};

#[test]
fn a_program_reads_its_inputs_and_writes_its_output() {
    let project = Project::new(
        r#"
nodes:
  words: { stage: command, with: { sh: "echo hello > $OUTPUT/text", kind: text } }
  more:  { stage: command, with: { sh: "echo world > $OUTPUT/text", kind: text } }
  loud:
    stage: command
    inputs: { one: words, all: [words, more] }
    with:
      sh: |
        cat $INPUT_one/text > $OUTPUT/one
        cat $INPUT_all/0/text $INPUT_all/1/text | sh shout.sh > $OUTPUT/all
      files: [shout.sh]
"#,
        &[("shout.sh", "tr a-z A-Z\n")],
    );
    assert_eq!(project.outcomes(), "made made made");
    assert_eq!(project.output("loud", "one"), "hello\n");
    assert_eq!(project.output("loud", "all"), "HELLO\nWORLD\n");
    assert_eq!(project.outcomes(), "reused reused reused");
    project.write("shout.sh", "tr a-z b-za\n");
    assert_eq!(project.outcomes(), "reused reused made");
    assert_eq!(project.output("loud", "all"), "ifmmp\nxpsme\n");
}

#[test]
fn a_file_that_is_not_declared_is_not_there() {
    let project = Project::new(
        "nodes:\n  a: { stage: command, with: { sh: cat notes/secret.txt > $OUTPUT/text } }\n",
        &[("notes/secret.txt", "1")],
    );
    let told = project.outcomes();
    assert!(told.contains("cat: notes/secret.txt: No such file or directory\n"), "{told}");
    assert!(told.contains("a folder that holds its `files` and nothing else"), "{told}");
    project.edit("$OUTPUT/text }", "$OUTPUT/text, files: [notes] }");
    assert_eq!(project.outcomes(), "made");
}

/// The list is the whole of it: a variable that leaked in would be a difference nobody hashed.
#[test]
fn the_environment_holds_nothing_that_was_not_declared() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: env > $OUTPUT/env } }\n", &[]);
    // Cargo sets dozens for a test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert_eq!(project.outcomes(), "made");
    let env = project.output("a", "env");
    let mut names: Vec<&str> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // What the shell itself sets.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.retain(|name| !["HOME", "LANG"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["OUTPUT", "PATH", "SCRATCH", "SEED", "TMPDIR"]);
}

#[test]
fn an_undeclared_variable_is_an_error_and_not_an_empty_text() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: echo $LR > $OUTPUT/text } }\n", &[]);
    let told = project.outcomes();
    assert!(told.contains("LR: parameter not set") || told.contains("LR: unbound variable"), "{told}");
}

#[test]
fn the_paths_of_files_decide_as_the_program_finds_them_by_path() {
    let pipeline = "nodes:\n  a: { stage: command, with: { sh: sh one.sh > $OUTPUT/text, files: [one.sh, two.sh] } }\n";
    let project = Project::new(pipeline, &[("one.sh", "echo 1"), ("two.sh", "echo 2")]);
    assert_eq!(project.outcomes(), "made");
    // The same bytes in the same order, under each other's names.
    project.write("one.sh", "echo 2");
    project.write("two.sh", "echo 1");
    project.edit("[one.sh, two.sh]", "[two.sh, one.sh]");
    assert_eq!(project.outcomes(), "made");
    assert_eq!(project.output("a", "text"), "2\n");
}

#[test]
fn a_failure_shows_the_last_lines_and_the_exit_code() {
    let project =
        Project::new("nodes:\n  a: { stage: command, with: { sh: \"echo one; echo two >&2; exit 7\" } }\n", &[]);
    let told = project.outcomes();
    assert!(
        told.starts_with("a failed: the program ended with exit status: 7\nthe last that it wrote:\none\ntwo\n"),
        "{told}"
    );
}

#[test]
fn what_a_program_prints_is_kept_beside_its_result() {
    let project = Project::new(
        "nodes:\n  a: { stage: command, with: { sh: \"echo one; echo two >&2; echo x > $OUTPUT/x; printf end\" } }\n",
        &[],
    );
    assert_eq!(project.outcomes(), "made");
    let log = project.data("a").with_file_name("log.txt");
    assert_eq!(fs::read_to_string(log).unwrap(), "one\ntwo\nend");
}

#[test]
fn an_input_of_the_wrong_kind_is_refused_whoever_makes_it() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: true }, inputs: { my-rows: a } }\n", &[]);
    let told = project.plan().unwrap_err();
    assert!(told.contains("`my-rows` cannot be the name of an input"), "{told}");
}

fn is_alive(id: &str) -> bool {
    Process::new("kill").args(["-0", id]).stderr(std::process::Stdio::null()).status().unwrap().success()
}

#[test]
fn a_request_to_stop_lets_the_program_save_and_the_next_run_continues_it() {
    let script = r"
nodes:
  a:
    stage: command
    with:
      sh: |
        if [ -e $SCRATCH/saved ]; then cp $SCRATCH/saved $OUTPUT/text; exit; fi
        trap 'echo 7 > $SCRATCH/saved; exit 3' TERM
        sleep 100 & echo $! > $SCRATCH/child
        echo ready; wait
";
    let project = Project::new(script, &[]);
    let base = Options::default();
    let cancel = base.cancel.clone();
    let watch = Arc::new(move |event: &Event<'_>| {
        if matches!(event, Event::Progress { progress, .. } if progress.message == "ready") {
            cancel.cancel();
        }
    });
    let report = project.run_with(&Options { watch, ..base });
    assert_eq!(words(&report), "skipped");
    let mut child = String::new();
    for draft in fs::read_dir(project.path().join(".store/drafts")).unwrap() {
        child = fs::read_to_string(draft.unwrap().path().join("scratch/child")).unwrap();
    }
    wait_for("the end of the child", || !is_alive(child.trim()));
    assert_eq!(project.outcomes(), "made");
    assert_eq!(project.output("a", "text"), "7\n");
}

#[test]
fn a_program_that_does_not_heed_the_request_is_killed() {
    let project = Project::new(
        "nodes:\n  a: { stage: command, with: { sh: \"trap '' TERM; echo ready; sleep 100\" }, run: { grace_s: 0 } }\n",
        &[],
    );
    let begun = Instant::now();
    let base = Options::default();
    let cancel = base.cancel.clone();
    let watch = Arc::new(move |event: &Event<'_>| {
        if matches!(event, Event::Progress { .. }) {
            cancel.cancel();
        }
    });
    let report = project.run_with(&Options { watch, ..base });
    assert_eq!(words(&report), "skipped");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_a_program_leaves_in_the_background_ends_with_it() {
    let project = Project::new(
        "nodes:\n  a: { stage: command, with: { sh: \"sleep 100 >&- & echo $! > $OUTPUT/child\" } }\n",
        &[],
    );
    assert_eq!(project.outcomes(), "made");
    let child = project.output("a", "child");
    wait_for("the end of the child", || !is_alive(child.trim()));
}

/// A daemon: it forks twice and begins a session of its own, so that it is in no group of the program's.
const DAEMON: &str = "setsid sh -c 'sleep 100 >&- 2>&- <&- & echo $! > $SCRATCH/new; mv $SCRATCH/new $SCRATCH/child'";

fn child(project: &Project) -> String {
    let mut child = String::new();
    wait_for("a child", || {
        let drafts = fs::read_dir(project.path().join(".store/drafts"));
        let mut paths = drafts.into_iter().flatten().map(|draft| draft.unwrap().path().join("scratch/child"));
        child = paths.find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        !child.is_empty()
    });
    child.trim().to_owned()
}

#[cfg(target_os = "linux")]
#[test]
fn what_leaves_the_session_ends_with_the_program_too() {
    let sh = format!("{DAEMON}; cp $SCRATCH/child $OUTPUT/child");
    let project = Project::new(&format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\" }} }}\n"), &[]);
    assert_eq!(project.outcomes(), "made");
    let child = project.output("a", "child");
    // Not a moment later: who reads the result may rely on it.
    assert!(!is_running(child.trim()));
}

#[cfg(target_os = "linux")]
#[test]
fn what_leaves_the_session_ends_with_a_program_that_is_stopped_by_force() {
    let sh = format!("trap '' TERM; {DAEMON}; echo ready; sleep 100");
    let project = Project::new(
        &format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\" }}, run: {{ grace_s: 0 }} }}\n"),
        &[],
    );
    let base = Options::default();
    let cancel = base.cancel.clone();
    let watch = Arc::new(move |event: &Event<'_>| {
        if matches!(event, Event::Progress { progress, .. } if progress.message == "ready") {
            cancel.cancel();
        }
    });
    let begun = Instant::now();
    assert_eq!(words(&project.run_with(&Options { watch, ..base })), "skipped");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!is_running(&child(&project)));
}

/// There, and no zombie that waits for its parent to look.
#[cfg(target_os = "linux")]
fn is_running(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// What this process was started with may hold secrets that the program was not given.
#[cfg(target_os = "linux")]
#[test]
fn the_environment_of_the_parents_is_not_the_engines() {
    let project = Project::new(
        "nodes:\n  a: { stage: command, with: { sh: cat /proc/$PPID/environ > $OUTPUT/parent; cat /proc/$PPID/stat > $OUTPUT/stat } }\n",
        &[],
    );
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert_eq!(project.outcomes(), "made");
    let stat = project.output("a", "stat");
    assert!(!stat.starts_with(&format!("{} ", std::process::id())), "{stat}");
    let environment = project.output("a", "parent");
    let names: Vec<&str> = environment.split('\0').filter_map(|one| Some(one.split_once('=')?.0)).collect();
    assert!(names.contains(&"OUTPUT") && !names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    // As root one reads it all the same; for others this decides.
    let behavior = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
}

#[test]
fn a_program_that_a_signal_ended_is_told_by_the_signal() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: kill -9 $$ } }\n", &[]);
    let told = project.outcomes();
    assert!(told.starts_with("a failed: the program ended with signal: 9 (SIGKILL)\nand wrote nothing"), "{told}");
}

/// A shell makes what it starts in the background deaf to SIGINT, and what it starts while it is deaf itself.
#[test]
fn a_program_hears_the_signals_that_it_would_hear_elsewhere() {
    for signal in ["INT", "TERM", "HUP", "USR1"] {
        let sh = format!("trap 'echo heard > $OUTPUT/text; exit' {signal}; kill -{signal} $$; sleep 0.1");
        let project = Project::new(&format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\" }} }}\n"), &[]);
        assert_eq!(project.outcomes(), "made", "{signal}");
    }
}

/// A plan that reads one waits for ever, or has no end.
#[test]
fn a_source_or_an_include_that_is_no_plain_file_is_refused_at_its_place() {
    let sh = "{ stage: command, with: { sh: \"true\", files: [thing] } }";
    let project = Project::new(&format!("nodes:\n  a: {sh}\n"), &[("folder/one", "1")]);
    let (thing, inside) = (project.path().join("thing"), project.path().join("folder/pipe"));
    std::os::unix::fs::symlink("/dev/zero", &thing).unwrap();
    let told = project.plan().unwrap_err();
    assert!(told.contains("`thing` cannot be read: it is neither a file nor a folder\n --> p.yaml:2:"), "{told}");
    fs::remove_file(&thing).unwrap();
    for path in [&thing, &inside] {
        assert!(Process::new("mkfifo").arg(path).status().unwrap().success());
    }
    let told = project.plan().unwrap_err();
    assert!(told.contains("`thing` cannot be read: it is neither a file nor a folder\n --> p.yaml:2:"), "{told}");
    fs::remove_file(&thing).unwrap();
    fs::rename(project.path().join("folder"), &thing).unwrap();
    let told = project.plan().unwrap_err();
    assert!(told.contains("`thing` cannot be read: `pipe` is neither a file nor a folder\n --> p.yaml:2:"), "{told}");
    project.write("p.yaml", "include: [thing/pipe]\nnodes: {}\n");
    let told = project.plan().unwrap_err();
    assert!(told.contains("`thing/pipe` cannot be included: it is no plain file\n --> p.yaml:1:"), "{told}");
}
