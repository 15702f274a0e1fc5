//! Files, archives and programs that are not meant well, and what they get from the binary.
//! Every process runs within limits of its own, so that a test that fails hurts nobody.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use engine::{Digest, FileEntry, Manifest};

use crate::project::Project;

/// The program within 20 seconds, 8 GB of addresses and files of 32 MiB, after `before`.
fn limited(project: &Project, before: &str, words: &str) -> (Option<i32>, String) {
    let script = format!("{before}; ulimit -v 8000000; ulimit -f 65536; exec timeout 20 \"$@\"");
    let output: Output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_mashbill")])
        .args(words.split_whitespace())
        .current_dir(project.path())
        .env_remove("MASHBILL_STORE")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn check_and_plan_refuse_what_is_no_plain_file_and_do_not_wait_for_it() {
    let project =
        Project::new(&[("p.yaml", "nodes:\n  g: { stage: generate, with: { script: zero.rhai, rows: 1 } }\n")]);
    std::os::unix::fs::symlink("/dev/zero", project.path().join("zero.rhai")).unwrap();
    pipe(&project.path().join("pipe.yaml"));
    pipe(&project.path().join("pipe.rhai"));
    project.write("import.rhai", "import \"pipe\" as p;\nfn row(rng, index) { #{} }\n");
    project.write("import.yaml", "nodes:\n  g: { stage: generate, with: { script: import.rhai, rows: 1 } }\n");
    project.write("include.yaml", "include: [pipe.yaml]\nnodes: {}\n");
    for verb in ["check", "plan", "run"] {
        let (code, said) = limited(&project, ":", &format!("{verb} p.yaml"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("`zero.rhai` cannot be read: it is neither a file nor a folder"), "{said}");
        for file in ["pipe.yaml", "/dev/zero"] {
            let (code, said) = limited(&project, ":", &format!("{verb} {file}"));
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(&format!("cannot read the pipeline `{file}`: it is no plain file")), "{said}");
        }
        let (code, said) = limited(&project, ":", &format!("{verb} import.yaml"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("it is no plain file"), "{said}");
        let (code, said) = limited(&project, ":", &format!("{verb} include.yaml"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("`pipe.yaml` cannot be included: it is no plain file"), "{said}");
    }
}

#[test]
fn rows_without_end_and_names_without_end_are_mistakes() {
    let node = "{ stage: generate, with: { script: g.rhai, rows: 1000000000000000000 } }";
    let project = Project::new(&[("g.rhai", "fn row(rng, index) { #{ a: index } }\n")]);
    project.write("p.yaml", &format!("nodes:\n  g: {node}\n"));
    let (code, said) = limited(&project, ":", "run p.yaml");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`rows`") && said.contains("1000000000"), "{said}");
    let name = "n".repeat(300);
    project.write("p.yaml", &format!("nodes:\n  {name}: {{ stage: generate, with: {{ script: g.rhai, rows: 1 }} }}\n"));
    let (code, said) = limited(&project, ":", "check p.yaml");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("takes 300 bytes in a file name, and 200 are the limit"), "{said}");
}

/// Files made by way of a temporary one were the owner's alone.
#[test]
fn a_second_user_can_read_a_store_as_far_as_the_umask_says() {
    let project = Project::new(&[
        ("p.yaml", "nodes:\n  g: { stage: generate, with: { script: g.rhai, rows: 3 } }\n"),
        ("g.rhai", "fn row(rng, index) { #{ a: index } }\n"),
    ]);
    assert_eq!(limited(&project, "umask 022", "run p.yaml").0, Some(0));
    // What is remembered of a file was still for two seconds.
    thread::sleep(Duration::from_millis(2_100));
    assert_eq!(limited(&project, "umask 022", "run p.yaml").0, Some(0));
    let mut seen = Vec::new();
    walk(&project.path().join(".mashbill"), &mut seen);
    for (path, mode) in &seen {
        assert_eq!(mode & 0o044, 0o044, "{path} has mode {mode:o}");
        assert_eq!(mode & 0o022, 0, "{path} has mode {mode:o}");
    }
    for name in ["format", "memo", "nodes/p/g.json", "runs/1/run.json"] {
        assert!(seen.iter().any(|(path, _)| path.ends_with(name)), "{name}: {seen:?}");
    }
    let private = Project::new(&[("p.yaml", "nodes:\n  c: { stage: command, with: { sh: echo > $OUTPUT/x } }\n")]);
    assert_eq!(limited(&private, "umask 077", "run p.yaml").0, Some(0));
    assert_eq!(fs::metadata(private.path().join(".mashbill/format")).unwrap().permissions().mode() & 0o777, 0o600);
}

fn walk(folder: &Path, seen: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        seen.push((entry.path().display().to_string(), metadata.permissions().mode()));
        if metadata.is_dir() {
            walk(&entry.path(), seen);
        }
    }
}

/// An entry of a tar archive.
fn append(archive: &mut Vec<u8>, name: &str, size: u64, bytes: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_refused_before_it_is_written() {
    const BOMB: usize = 200_000_000;
    let project = Project::new(&[("p.yaml", "nodes:\n  c: { stage: command, with: { sh: echo x > $OUTPUT/x } }\n")]);
    assert_eq!(limited(&project, ":", "run p.yaml").0, Some(0));
    let folder = project.data("c").parent().unwrap().to_owned();
    let (manifest, facts) =
        (fs::read(folder.join("manifest.json")).unwrap(), fs::read(folder.join("facts.json")).unwrap());
    let write = |name: &str, manifest: &[u8], bomb: &[u8]| {
        let mut archive = Vec::new();
        append(&mut archive, "manifest.json", manifest.len() as u64, manifest);
        append(&mut archive, "facts.json", facts.len() as u64, &facts);
        append(&mut archive, "data/bomb", bomb.len() as u64, bomb);
        let packed = zstd::encode_all(&archive[..], 1).unwrap();
        assert!(packed.len() < 100_000, "{}", packed.len());
        fs::write(project.path().join(name), packed).unwrap();
    };
    write("undeclared.tar.zst", &manifest, &vec![0; BOMB]);
    let (code, said) = limited(&project, ":", "unpack undeclared.tar.zst --store other");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("it holds `data/bomb`, which its manifest does not declare"), "{said}");

    let mut declared = Manifest::from_json(&manifest).unwrap();
    declared.files = [("bomb".into(), FileEntry { size: 3_000_000_000, digest: Digest::of_bytes(b"") })].into();
    declared.content = Digest::of_files(declared.files.iter().map(|(name, file)| (name.as_str(), file.digest)));
    write("declared.tar.zst", &declared.to_json(), b"");
    let (code, said) = limited(&project, ":", "unpack declared.tar.zst --store other");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the packed result has 3.0 GB unpacked, and 256.0 MB are the limit"), "{said}");
    assert!(said.contains("hint: `--max-size 3G` takes it"), "{said}");
    let (_, said) = limited(&project, ":", "unpack declared.tar.zst --store other --max-size 3G");
    assert!(said.contains("`data/bomb` has 0 bytes, and its manifest declares 3000000000"), "{said}");
    let mut seen = Vec::new();
    walk(&project.path().join("other/drafts"), &mut seen);
    assert!(seen.is_empty(), "{seen:?}");

    // A frame that asks for a window of 2 GiB.
    fs::write(project.path().join("window.tar.zst"), [0x28, 0xB5, 0x2F, 0xFD, 0, 21 << 3, 1, 0, 0]).unwrap();
    let (code, said) = limited(&project, ":", "unpack window.tar.zst --store other");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot read the archive"), "{said}");
    pipe(&project.path().join("pipe.tar"));
    let (code, said) = limited(&project, ":", "unpack pipe.tar --store other");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot read `pipe.tar`: it is no plain file"), "{said}");

    // And one that is right.
    assert_eq!(limited(&project, ":", "pack p.yaml c c.tar.zst").0, Some(0));
    let (code, said) = limited(&project, ":", "unpack c.tar.zst --store other");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(limited(&project, ":", "verify --store other").0, Some(0));
}

/// Nobody is left to end it but the process that guards it.
#[cfg(target_os = "linux")]
#[test]
fn what_left_the_session_ends_when_mashbill_is_killed() {
    let sh = "setsid sh -c 'sleep 100 & echo $! > $SCRATCH/new; mv $SCRATCH/new $SCRATCH/child'; sleep 100";
    let project =
        Project::new(&[("p.yaml", &format!("nodes:\n  c: {{ stage: command, with: {{ sh: \"{sh}\" }} }}\n"))]);
    let mut running = project.start("run p.yaml");
    let drafts = project.path().join(".mashbill/drafts");
    let begun = Instant::now();
    let child = loop {
        let drafts = fs::read_dir(&drafts).into_iter().flatten();
        let mut paths = drafts.map(|draft| draft.unwrap().path().join("scratch/child"));
        if let Some(child) = paths.find_map(|path| fs::read_to_string(path).ok()) {
            break child.trim().to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the child did not start");
        thread::sleep(Duration::from_millis(5));
    };
    let is_running = || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    assert!(is_running());
    running.kill().unwrap();
    running.wait().unwrap();
    let killed = Instant::now();
    while is_running() {
        assert!(killed.elapsed() < Duration::from_secs(10), "the child outlives mashbill");
        thread::sleep(Duration::from_millis(5));
    }
}
