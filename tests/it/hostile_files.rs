//! Files and folders of somebody who means no good, under a limit on address space that a test cannot get past: what is
//! refused is told, and the program neither aborts nor waits.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::project::{Project, Said, workspace};

#[allow(dead_code, reason = "the files' own tests use all of it")]
#[path = "../../stages/src/data/files/parquet/forged.rs"]
mod forged;

/// Bytes of address space, and seconds of all processors.
const SPACE: u64 = 2 << 30;
const SECONDS: u64 = 60;

/// Runs the program within limits, with these lines as its input.
fn limited(project: &Project, words: &str, input: &str) -> Said {
    let started = Instant::now();
    let plain = project.command(words);
    let mut command = Command::new("prlimit");
    command.args([format!("--as={SPACE}"), format!("--cpu={SECONDS}")]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(project.path());
    command.env("RAYON_NUM_THREADS", "2");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`prlimit` is there");
    // One that refuses to start reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let waited = std::thread::scope(|scope| {
        let pid = child.id();
        let output = scope.spawn(|| child.wait_with_output().unwrap());
        while !output.is_finished() && started.elapsed() < Duration::from_secs(SECONDS) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !output.is_finished() {
            Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        }
        output.join().unwrap()
    });
    Said {
        code: waited.status.code(),
        stdout: String::from_utf8_lossy(&waited.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&waited.stderr).into_owned(),
    }
}

/// A file as the one input of a pipeline is refused by its node.
fn refused(project: &Project, file: &str, bytes: &[u8], parts: &[&str]) {
    fs::write(project.path().join(file), bytes).unwrap();
    project.write("p.yaml", &format!("nodes:\n  rows: {{ stage: load, with: {{ path: {file} }} }}\n"));
    let said = limited(project, "run p.yaml", "");
    assert_eq!(said.code, Some(1), "{file}: {said:#?}");
    for part in parts {
        assert!(said.stderr.contains(part), "{file} does not say {part:?}: {}", said.stderr);
    }
}

#[test]
fn small_files_that_become_gigabytes_are_refused_by_the_limit_they_are_over() {
    let project = Project::new(&[]);
    let refused = |file: &str, bytes: &[u8], parts: &[&str]| refused(&project, file, bytes, parts);
    let ratio = ["which is its `max_ratio`", "raise `max_ratio` below the node's `run:`"];
    refused("nulls.parquet", &forged::nulls(i32::MAX.into()), &ratio);
    let row = ["a row of more than 16 MB, which is its `max_row_mb`", "raise `max_row_mb` below the node's `run:`"];
    refused("items.parquet", &forged::list(1 << 30, 8), &row);
    refused("texts.parquet", &forged::list(100_000, 100_000), &row);
    let page = forged::page(i32::MAX as usize, 20, 3, 0);
    let column = forged::Column {
        schema: vec![forged::field("a", Some(6), 0, &[])],
        path: vec!["a"],
        kind: 6,
        codec: 6,
        pages: vec![(page, vec![0; 20])],
        has_dictionary: false,
    };
    refused("page.parquet", &forged::file(&[column], 3), &["its 20 bytes hold 2147483647 bytes or more"]);
    // A hundred frames of 64 MB each: one letter, blank lines, numbers without end.
    let frames = |text: &[u8]| zstd::encode_all(&text.repeat((64 << 20) / text.len())[..], 1).unwrap().repeat(100);
    refused("letters.txt.zst", &frames(b"x"), &ratio);
    refused("lines.jsonl.zst", &frames(b"\n"), &ratio);
    refused("letters.jsonl.zst", &frames(b"x"), &["letters.jsonl.zst:1", row[0], row[1]]);
    refused("field.csv.zst", &[&zstd::encode_all(&b"a\n\""[..], 1).unwrap()[..], &frames(b"x")].concat(), &row[..1]);
    refused("numbers.json.zst", &frames(b"0,"), &ratio);
}

/// The fixture's model, in a folder that can be spoiled.
fn model(project: &Project) -> std::path::PathBuf {
    let folder = project.path().join("model");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(workspace().join("tests/fixtures/llama")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

#[test]
fn a_model_of_a_billion_layers_is_refused_at_its_key() {
    let project = Project::new(&[(
        "p.yaml",
        "nodes:\n  model: { stage: import, with: { path: model } }\n  again: { stage: merge_adapter, inputs: { policy: model } }\n",
    )]);
    let config = model(&project).join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let found = text.split("\"num_hidden_layers\": ").nth(1).unwrap().split(',').next().unwrap();
    for layers in ["1000000000", "1099511627776", "18446744073709551615"] {
        let key = "\"num_hidden_layers\": ";
        fs::write(&config, text.replace(&format!("{key}{found}"), &format!("{key}{layers}"))).unwrap();
        let expected = format!("`num_hidden_layers` is {layers}; at most 10000 are supported");
        for words in ["run p.yaml", "chat model"] {
            let said = limited(&project, words, "hi\n");
            assert!(matches!(said.code, Some(1 | 2)), "{words}: {said:#?}");
            assert!(said.stderr.contains(&expected), "{words}: {}", said.stderr);
        }
    }
}

#[test]
fn a_pipe_in_the_place_of_a_models_file_is_refused_without_waiting() {
    let project = Project::new(&[]);
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
    {
        let path = model(&project).join(name);
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let said = limited(&project, "chat model", "hi\n");
        assert_eq!(said.code, Some(2), "{name}: {said:#?}");
        let expected = "it is a pipe, a socket or a device, and only a regular file is read";
        assert!(said.stderr.contains(name) && said.stderr.contains(expected), "{name}: {}", said.stderr);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_chat_template_that_asks_for_ten_gigabytes_is_refused_and_chat_goes_on_to_say_so() {
    let project = Project::new(&[]);
    let folder = model(&project);
    for source in
        ["{{ '{:>10000000000}'.format('a') }}", "{{ messages | tojson(indent=10000000000) }}", "{{ 'a' * 10 ** 10 }}"]
    {
        fs::write(folder.join("chat_template.jinja"), source).unwrap();
        let said = limited(&project, "chat model", "hi\n");
        assert_eq!(said.code, Some(1), "{source}: {said:#?}");
        assert!(said.stderr.contains("the chat template "), "{source}: {}", said.stderr);
    }
}

/// A copy of PEFT's adapter of the fixtures.
fn adapter(project: &Project) -> std::path::PathBuf {
    let folder = project.path().join("adapter");
    fs::create_dir_all(&folder).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(workspace().join("tests/fixtures/lora/all").join(name), folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn an_adapter_of_numbers_that_end_nowhere_makes_no_model() {
    let pipeline = "nodes:\n  model: { stage: import, with: { path: model } }\n  \
                    merged: { stage: merge_adapter, inputs: { policy: model }, with: { adapter: adapter } }\n";
    let project = Project::new(&[("p.yaml", pipeline)]);
    model(&project);
    let folder = adapter(&project);
    let path = folder.join("adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for number in bytes[start..].as_chunks_mut::<4>().0 {
        *number = 3e38_f32.to_le_bytes();
    }
    fs::write(&path, &bytes).unwrap();
    let said = limited(&project, "run p.yaml", "");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(
        said.stderr.contains(".weight` becomes ") && said.stderr.contains("numbers are too large"),
        "{}",
        said.stderr
    );
    let config = adapter(&project).join("adapter_config.json");
    let mut keys: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    keys["lora_alpha"] = serde_json::json!(1e308);
    fs::write(&config, keys.to_string()).unwrap();
    let said = limited(&project, "run p.yaml", "");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("`lora_alpha` is 1e+308; it must be between"), "{}", said.stderr);
}

#[test]
fn what_a_file_may_hold_is_set_below_run_and_changes_no_result() {
    let project = Project::new(&[("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n")]);
    let pipeline = |run: &str| format!("nodes:\n  rows: {{ stage: load, with: {{ path: rows.jsonl }}{run} }}\n");
    project.write("p.yaml", &pipeline(""));
    assert_eq!(project.outcomes(), "rows made");
    project.write("p.yaml", &pipeline(", run: { max_row_mb: 2, max_file_gb: 1, max_ratio: 50 }"));
    assert_eq!(project.outcomes(), "rows reused");
    let told = project.mashbill("stages load").stdout;
    for setting in ["max_row_mb", "max_file_gb", "max_ratio"] {
        assert!(told.contains(setting), "{told}");
    }
    assert!(Path::new(&project.data("rows")).exists());
}
