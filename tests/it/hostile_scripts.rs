//! Scripts that want more memory or time than they may have, met by the program as its user runs it.
//! Under an address-space limit, so that a test that fails hurts nobody.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{interrupt::signal, project::Project};

/// Bytes of address space; what is touched of it is far less.
const ADDRESS_SPACE: &str = "--as=5000000000";

const PIPELINE: &str = "
name: p
nodes:
  rows: { stage: generate, with: { script: draw.rhai, rows: 20 } }
  kept: { stage: filter, inputs: { rows: rows }, with: { script: keep.rhai } }
";

fn project(body: &str) -> Project {
    let keep = format!("fn keep(row) {{\n    {body}\n}}\n");
    Project::new(&[
        ("p.yaml", PIPELINE),
        ("draw.rhai", "fn row(rng, index) { #{ prompt: index } }"),
        ("keep.rhai", &keep),
    ])
}

fn limited(project: &Project) -> Command {
    let bare = project.command("run p.yaml --quiet");
    let mut command = Command::new("prlimit");
    command.arg(ADDRESS_SPACE).arg(bare.get_program()).args(bare.get_args()).current_dir(project.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// 100 GB, 10^12 bytes, 11 GB and 9 GB were asked for, and the program aborted.
#[test]
fn what_a_script_makes_is_measured_before_it_is_made() {
    let large = "a text is larger than 1048576 bytes";
    let held = "stopped after taking 256 MiB of memory";
    for (body, expected) in [
        ("let s = \"a\"; s.pad(1000000, 'a'); let a = []; a.pad(100000, 1); join(a, s)", large),
        ("let s = \"a\"; s.pad(1000000, 'a'); s.replace(\"a\", s); true", large),
        ("let s = \"a\"; s.pad(500000, 'a'); let a = []; a.pad(100000, 1); a.map(|x| s + x); true", held),
        ("let f = |x| 1; loop { f = f.curry(f); }", held),
    ] {
        let project = project(body);
        let output = limited(&project).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{body}: {stderr}");
        assert!(stderr.contains(&format!("{expected}\n")), "{body}: {stderr}");
        assert!(stderr.contains("--> keep.rhai:"), "{body}: {stderr}");
        assert!(stderr.contains("= row: 1 {\"prompt\":0}"), "{body}: {stderr}");
    }
}

/// The second of them is not stopped from inside: its thread waits for itself.
#[test]
fn the_first_ctrl_c_ends_whatever_a_script_does() {
    for body in [
        "let s = \"a\"; s.pad(4000, 'a'); let t = \"b\"; t.pad(4000, 'b'); let a = []; a.pad(3000, 1); \
         a.filter(|x| { levenshtein(s, t); false }); true",
        "let a = #{}; let f = || a.len(); a.f = f; a.to_json(); true",
    ] {
        let project = project(body);
        let mut child = limited(&project).spawn().unwrap();
        // It is in the script when the node before it is done.
        let artifacts = project.path().join(".mashbill/artifacts");
        while std::fs::read_dir(&artifacts).map_or(0, Iterator::count) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        signal(&child, "-INT");
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(130), "{body}: {said}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{body}: {:?}", asked.elapsed());
    }
}
