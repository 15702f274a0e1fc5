//! What was seen to go wrong in other engines, one test each; the name in brackets is where.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command as Process, Stdio},
};

use engine::{Options, Verdict, forecast};

use crate::project::{Project, wait_for, words};

/// Writes a read-only file and leaves its mode as it was, as a poisoner would.
fn poison(path: &Path, text: &str) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// Such a file as results share.
fn long(letter: &str) -> String {
    format!("{}\n", letter.repeat(5_000))
}

const COPY: &str = "nodes:\n  a: { stage: command, with: { sh: cp in.txt $OUTPUT/text, files: [in.txt] } }\n";

/// [DVC, Snakemake: the old result is recorded as made from the new file]
#[test]
fn a_source_that_changes_while_its_node_runs_records_nothing() {
    let project = Project::new("nodes: {}", &[("in.txt", "1")]);
    let file = project.path().join("in.txt").display().to_string();
    let sh = format!("cp in.txt $OUTPUT/text; echo 2 > {file}");
    project.write("p.yaml", &format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\", files: [in.txt] }} }}\n"));
    let expected =
        "a failed: `in.txt`, or what it imports, changed while the node ran; nothing was recorded, run again";
    assert_eq!(project.outcomes(), expected);
    assert!(project.store().last("p", "a").is_none());
    // Now it is as it will stay.
    assert_eq!(project.outcomes(), "made");
    assert_eq!(project.output("a", "text"), "2\n");
}

#[test]
fn an_input_that_is_altered_while_its_reader_runs_records_nothing() {
    let pipeline = "\
nodes:
  a: { stage: command, with: { sh: echo 1 > $OUTPUT/text } }
  b: { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT; chmod u+w $INPUT_x/text; echo 2 > $INPUT_x/text }, inputs: { x: a } }
";
    let project = Project::new(pipeline, &[]);
    let expected = "b failed: the result of `a` changed while the node ran; nothing was recorded, run again";
    assert_eq!(project.outcomes(), expected);
    // The altered one is never read: it is made again, and so altered again.
    assert_eq!(project.outcomes(), expected);
    project.edit("; chmod u+w $INPUT_x/text; echo 2 > $INPUT_x/text", "");
    assert_eq!(project.outcomes(), "made made");
    assert_eq!(project.output("b", "text"), "1\n");
}

/// [DVC: a cache object that kept its mode is trusted, restored, and its digest written into the lock file]
#[test]
fn a_poisoned_object_is_never_restored() {
    let pipeline = "\
nodes:
  a: { stage: command, with: { sh: cat in.txt > $OUTPUT/text, files: [in.txt] } }
  b: { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT/other }, inputs: { x: a } }
";
    let project = Project::new(pipeline, &[("in.txt", &long("a"))]);
    assert_eq!(project.outcomes(), "made made");
    let objects = project.path().join(".store/objects");
    let folder = fs::read_dir(objects).unwrap().next().unwrap().unwrap().path();
    let object = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    poison(&object, &long("b"));
    // The object is the file of both results.
    assert_eq!(project.outcomes(), "made made");
    assert_eq!(project.output("a", "text"), long("a"));
    assert_eq!(project.output("b", "other"), long("a"));
    assert!(project.store().verify(&mut |_| ()).unwrap().damages.is_empty());
}

/// [Snakemake: "nothing to be done"; DVC, Tango, Nextflow: existence is enough]
#[test]
fn a_tampered_result_is_made_again_even_if_size_and_time_are_as_before() {
    let project = Project::new(COPY, &[("in.txt", "good")]);
    assert_eq!(project.outcomes(), "made");
    let path = project.data("a").join("text");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    poison(&path, "evil");
    let file = fs::File::options().read(true).open(&path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    assert_eq!(project.outcomes(), "made");
    assert_eq!(fs::read_to_string(path).unwrap(), "good");
}

/// [Snakemake: outputs link into a cache of mode 666, and the next project gets what was written there]
#[test]
fn results_are_read_only() {
    let project = Project::new(COPY, &[("in.txt", &long("a"))]);
    assert_eq!(project.outcomes(), "made");
    let folder = project.data("a");
    for path in [folder.join("text"), folder.with_file_name("manifest.json"), folder.with_file_name("log.txt")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0, "{} has mode {mode:o}", path.display());
    }
}

const CHAIN: &str = "\
nodes:
  a: { stage: command, with: { sh: sh make.sh > $OUTPUT/text, files: [make.sh] } }
  b: { stage: command, with: { sh: wc -l < $INPUT_x/text > $OUTPUT/text }, inputs: { x: a } }
  c: { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT/text }, inputs: { x: b } }
";

/// [Snakemake, Nextflow, Tango, Turborepo: all that is behind it runs again]
#[test]
fn a_cosmetic_change_upstream_runs_one_node() {
    let project = Project::new(CHAIN, &[("make.sh", "echo one\necho two\n")]);
    assert_eq!(project.outcomes(), "made made made");
    project.write("make.sh", "# two lines\necho one\necho two\n");
    assert_eq!(project.outcomes(), "made reused reused");
    // Other bytes, the same count: cut off one node later.
    project.write("make.sh", "echo eins\necho zwei\n");
    assert_eq!(project.outcomes(), "made made reused");
}

/// [DVC: "didn't change, skipping"]
#[test]
fn a_plan_says_of_what_is_behind_a_change_that_it_waits() {
    let project = Project::new(CHAIN, &[("make.sh", "echo one\n")]);
    assert_eq!(project.outcomes(), "made made made");
    project.write("make.sh", "echo two\n");
    let forecasts = forecast(&project.plan().unwrap(), &project.store()).unwrap();
    let words: Vec<&str> = forecasts
        .iter()
        .map(|forecast| match &forecast.verdict {
            Verdict::Run { .. } => "run",
            Verdict::Waits { .. } => "waits",
            _ => "other",
        })
        .collect();
    assert_eq!(words, ["run", "waits", "waits"]);
}

/// [DVC: dropping a dependency or a parameter reruns nothing]
#[test]
fn what_is_taken_away_counts_as_much_as_what_is_added() {
    let pipeline = "\
nodes:
  a: { stage: command, with: { sh: echo 1 > $OUTPUT/text } }
  b: { stage: command, with: { sh: ls > $OUTPUT/text, files: [one, two] }, inputs: { x: a } }
";
    let project = Project::new(pipeline, &[("one", "1"), ("two", "2")]);
    assert_eq!(project.outcomes(), "made made");
    project.edit("[one, two]", "[one]");
    assert_eq!(project.outcomes(), "reused made");
    project.edit(", inputs: { x: a }", "");
    assert_eq!(project.outcomes(), "reused made");
    project.edit(", files: [one]", "");
    assert_eq!(project.outcomes(), "reused made");
    assert_eq!(project.output("b", "text"), "");
}

/// [Snakemake, Nextflow: a newer time is a change]
#[test]
fn a_file_that_is_written_again_with_the_same_bytes_changes_nothing() {
    let project = Project::new(COPY, &[("in.txt", "1")]);
    assert_eq!(project.outcomes(), "made");
    fs::remove_file(project.path().join("in.txt")).unwrap();
    project.write("in.txt", "1");
    assert_eq!(project.outcomes(), "reused");
}

/// [Tango, `ZenML`, Nextflow: the name is part of the key]
#[test]
fn a_node_by_another_name_is_the_same_node() {
    let project = Project::new(COPY, &[("in.txt", "1")]);
    assert_eq!(project.outcomes(), "made");
    project.edit("  a: {", "  b: {");
    assert_eq!(project.outcomes(), "reused");
}

/// [`ZenML`: both have one key]
#[test]
fn a_number_is_not_a_text() {
    let project = Project::new("nodes:\n  a: { stage: echo, with: { value: 1 } }\n", &[]);
    assert_eq!(project.outcomes(), "made");
    project.edit("value: 1 ", "value: \"1\" ");
    assert_eq!(project.outcomes(), "made");
    project.edit("value: \"1\" ", "value: 1.0 ");
    assert_eq!(project.outcomes(), "made");
    project.edit("value: 1.0 ", "value: 1 ");
    assert_eq!(project.outcomes(), "reused");
}

/// [DVC: its lock file, cut short, is accepted silently; Tango: asks people to delete folders]
#[test]
fn a_record_cut_short_is_found_and_the_result_made_again() {
    let project = Project::new(COPY, &[("in.txt", "1")]);
    assert_eq!(project.outcomes(), "made");
    for name in ["manifest.json", "facts.json"] {
        let path = project.data("a").with_file_name(name);
        let whole = fs::read_to_string(&path).unwrap();
        for end in [0, 1, whole.len() / 2, whole.len() - 3] {
            poison(&path, &whole[..end]);
            assert_eq!(project.outcomes(), "made", "{name} cut at {end}");
        }
    }
}

/// [Snakemake, DVC: a lock that nobody holds any more stops everybody]
#[test]
fn a_lock_file_that_nobody_holds_stops_nobody() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: exit 1 } }\n", &[]);
    assert_eq!(words(&project.run()), "failed");
    let drafts = project.path().join(".store/drafts");
    let draft = fs::read_dir(drafts).unwrap().next().unwrap().unwrap().path();
    fs::write(draft.join("lock"), "pid 1").unwrap();
    assert_eq!(words(&project.run()), "failed");
}

/// For a process that is to be killed: it runs the pipeline in this folder.
const HERE: &str = "MASHBILL_TEST_HERE";

/// The process of other tests; left alone it runs a pipeline of its own.
#[test]
fn child() {
    let Some(here) = std::env::var_os(HERE) else {
        assert_eq!(Project::new(COPY, &[("in.txt", "1")]).outcomes(), "made");
        return;
    };
    let report = Project::in_folder(Path::new(&here)).run();
    if let Some((node, failure)) = report.failure() {
        println!("{}: {:#}", node.node, failure.error);
    }
    std::process::exit(i32::from(report.failure().is_some()));
}

/// A process that runs [`child`] in the project's folder.
fn process(project: &Project) -> Process {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args(["peers::child", "--exact", "--nocapture"]).env(HERE, project.path());
    process
}

fn start(project: &Project) -> std::process::Child {
    process(project).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// [DVC: the child lives on, the next `repro` races it, and `half/done/done` is recorded as good]
#[test]
fn after_a_kill_nothing_lives_on_and_the_next_run_is_alone() {
    let project = Project::new("nodes: {}", &[]);
    let here = project.path().display();
    // A child and a grandchild that go on writing, by absolute paths, wherever they can.
    let sh = format!(
        "echo half > $OUTPUT/text; (while :; do echo garbage >> $OUTPUT/text; sleep 0.01; done) & echo $! > {here}/child; \
         touch {here}/begun; [ -e {here}/again ] || sleep 100; kill -9 $!; echo done > $OUTPUT/text"
    );
    project.write("p.yaml", &format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\" }} }}\n"));
    let mut child = start(&project);
    wait_for("the program", || project.path().join("begun").exists());
    let first = fs::read_to_string(project.path().join("child")).unwrap();
    project.write("again", "");
    child.kill().unwrap();
    child.wait().unwrap();
    // At once, while the dead are hardly cold.
    assert_eq!(project.outcomes(), "made");
    assert_eq!(project.output("a", "text"), "done\n");
    wait_for("the end of the grandchild", || {
        !Path::new(&format!("/proc/{}", first.trim())).exists() || is_zombie(first.trim())
    });
}

/// Dead, and nobody has asked how.
fn is_zombie(id: &str) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// [DVC, Snakemake: the second fails]
#[test]
fn two_runs_at_once_share_the_work() {
    let project = Project::new("nodes: {}", &[]);
    let count = project.path().join("count").display().to_string();
    let node = |name: &str| {
        format!(
            "  {name}: {{ stage: command, with: {{ sh: \"echo {name} >> {count}; sleep 0.1; echo {name} > $OUTPUT/x\" }} }}\n"
        )
    };
    project.write("p.yaml", &format!("nodes:\n{}{}{}", node("a"), node("b"), node("c")));
    let children = [start(&project), start(&project), start(&project)];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut made: Vec<String> = fs::read_to_string(count).unwrap().lines().map(str::to_owned).collect();
    made.sort();
    assert_eq!(made, ["a", "b", "c"]);
}

/// [everywhere: a traceback]
#[test]
fn a_folder_that_vanishes_under_a_node_is_told_as_such() {
    let project = Project::new("nodes:\n  a: { stage: command, with: { sh: \"rm -r $OUTPUT; exit 1\" } }\n", &[]);
    let report = project.run();
    let (_, failure) = report.failure().unwrap();
    assert!(failure.is_infrastructure);
    let message = format!("{:#}", failure.error);
    assert!(
        message.starts_with("the folder `") && message.contains("/output` vanished while a node worked in it"),
        "{message}"
    );
}

#[test]
fn a_store_that_cannot_be_made_is_infrastructure() {
    let project =
        Project::new("nodes:\n  a: { stage: command, with: { sh: echo 1 > $OUTPUT/x } }\n", &[(".store", "a file")]);
    let error = engine::Store::at(project.path().join(".store")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `"), "{error}");
}

/// A store on a disk that is mounted read-only: what is there is reused, what is not is refused in one sentence.
#[test]
fn a_read_only_store_is_reused_and_refuses_new_results() {
    let project = Project::new(COPY, &[("in.txt", "1")]);
    assert_eq!(project.outcomes(), "made");
    let store = project.path().join(".store");
    let mount = |words: &[&str]| {
        let status = Process::new("mount").args(words).arg(&store).arg(&store).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["--bind"]) || !mount(&["-o", "remount,ro,bind"]) {
        // Past the harness, which keeps what a passing test prints to itself.
        writeln!(std::io::stderr(), "NOT RUN: a read-only store, since mounting one is not permitted here").unwrap();
        return;
    }
    let reused = project.outcomes();
    project.write("in.txt", "2");
    let report = project.run();
    assert!(Process::new("umount").arg(&store).status().unwrap().success());
    assert_eq!(reused, "reused");
    let (_, failure) = report.failure().unwrap();
    assert!(failure.is_infrastructure);
    let message = format!("{:#}", failure.error);
    assert!(message.contains("Read-only file system"), "{message}");
    assert_eq!(project.outcomes(), "made");
}

#[test]
fn forcing_and_failing_leaves_the_earlier_result() {
    let project = Project::new("nodes: {}", &[]);
    let flag = project.path().join("flag").display().to_string();
    project.write(
        "p.yaml",
        &format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"[ ! -e {flag} ]; echo 1 > $OUTPUT/x\" }} }}\n"),
    );
    assert_eq!(project.outcomes(), "made");
    project.write("flag", "");
    let force = std::collections::BTreeSet::from(["a".to_owned()]);
    assert_eq!(words(&project.run_with(&Options { force, ..Options::default() })), "failed");
    assert_eq!(project.outcomes(), "reused");
}

/// [everywhere: a token that a program printed lies in a log for ever]
#[test]
fn the_value_of_a_declared_variable_is_written_down_nowhere() {
    const CANARY: &str = "canary-2718281828";
    let pipeline = "\
env: [MASHBILL_TEST_TOKEN]
nodes:
  a: { stage: command, with: { sh: \"echo token $MASHBILL_TEST_TOKEN; printf %s $MASHBILL_TEST_TOKEN | wc -c > $OUTPUT/length\" } }
  b: { stage: command, with: { sh: \"echo $MASHBILL_TEST_TOKEN $INPUT_x; exit 3\" }, inputs: { x: a } }
";
    let project = Project::new(pipeline, &[]);
    let output = process(&project).env("MASHBILL_TEST_TOKEN", CANARY).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(project.output("a", "length").trim(), CANARY.len().to_string());
    let log = fs::read_to_string(project.data("a").with_file_name("log.txt")).unwrap();
    assert_eq!(log, "token ***\n");
    let canary = Process::new("grep").args(["-rl", CANARY]).arg(project.path().join(".store")).output().unwrap();
    assert_eq!(String::from_utf8(canary.stdout).unwrap(), "");
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(told.contains("b: the program ended with exit status: 3\nthe last that it wrote:\n***"), "{told}");
    assert!(!told.contains(CANARY), "{told}");
    // With another value, or none, the result is the same.
    let output = process(&project).env("MASHBILL_TEST_TOKEN", "another").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(project.output("a", "length").trim(), CANARY.len().to_string());
}
