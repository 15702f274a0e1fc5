//! Models and rows of the Hub, from a cache as Python's `huggingface_hub` leaves it.

use std::{fs, os::unix::fs::symlink};

use crate::project::{Project, Said, workspace};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Puts files into the cache below the project: `blobs/`, `snapshots/<commit>/` with links, `refs/<revision>`.
fn cached(project: &Project, repository: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>)]) {
    let root = project.path().join("hf/hub").join(repository);
    for folder in ["refs", "blobs"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("refs").join(revision), commit).unwrap();
    for (index, (name, bytes)) in files.iter().enumerate() {
        let blob = format!("{commit}{index}");
        fs::write(root.join("blobs").join(&blob), bytes).unwrap();
        let link = root.join("snapshots").join(commit).join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(format!("{}blobs/{blob}", "../".repeat(2 + name.matches('/').count())), link).unwrap();
    }
}

fn offline(project: &Project, words: &str) -> Said {
    let mut command = project.command(words);
    command.env("HF_HOME", project.path().join("hf")).env("HF_HUB_OFFLINE", "1");
    for name in ["HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(workspace().join("tests/fixtures").join(name)).unwrap()
}

fn model() -> Vec<(&'static str, Vec<u8>)> {
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    names.map(|name| (name, fixture(&format!("llama/{name}")))).into()
}

#[test]
fn a_model_and_rows_are_read_from_the_cache_without_a_network() {
    let project = Project::new(&[(
        "p.yaml",
        "name: p
nodes:
  base: { stage: import, with: { path: 'hf:org/tiny' } }
  rows: { stage: load, with: { path: 'hf:datasets/org/rows:train', limit: 3 } }
  both: { stage: load, with: { path: [own.jsonl, 'hf:datasets/org/rows:test'] } }
",
    )]);
    project.write("own.jsonl", "{\"prompt\": \"own\"}\n");
    cached(&project, "models--org--tiny", "main", COMMIT, &model());
    let many = fixture("tables/many.parquet");
    let shards =
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"];
    cached(&project, "datasets--org--rows", "main", OTHER, &shards.map(|name| (name, many.clone())));

    let said = offline(&project, "run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert_eq!(said.outcomes(), "base made, rows made, both made");
    let shown = offline(&project, "show p.yaml base").stdout;
    let record = format!("\n  repository: org/tiny\n  revision: main\n  commit: {COMMIT}\n");
    assert!(shown.contains(&record), "{shown}");
    assert!(shown.contains("hf:org/tiny"), "{shown}");
    let shown = offline(&project, "show p.yaml rows").stdout;
    assert!(shown.contains("{\"prompt\":\"0*0=\",\"answer\":0}") && shown.contains(OTHER), "{shown}");

    // The bytes of a file beside it are a fact as ever; the name of the dataset is one.
    project.write("own.jsonl", "{\"prompt\": \"edited\"}\n");
    let said = offline(&project, "run p.yaml");
    assert_eq!(said.outcomes(), "base reused, rows reused, both made", "{said:#?}");
    assert!(said.stderr.contains("with.path.0: bytes of own.jsonl changed"), "{said:#?}");
    project.edit("p.yaml", "rows:train", "rows:test");
    assert_eq!(offline(&project, "run p.yaml").outcomes(), "base reused, rows made, both reused");
}

#[test]
fn a_branch_that_moved_changes_no_result_and_a_commit_names_one_for_good() {
    let project =
        Project::new(&[("p.yaml", "name: p\nnodes:\n  base: { stage: import, with: { path: 'hf:org/tiny' } }\n")]);
    cached(&project, "models--org--tiny", "main", COMMIT, &model());
    assert_eq!(offline(&project, "run p.yaml").outcomes(), "base made");
    cached(&project, "models--org--tiny", "main", OTHER, &model());
    assert_eq!(offline(&project, "run p.yaml").outcomes(), "base reused");
    assert!(offline(&project, "show p.yaml base").stdout.contains(COMMIT));
    project.edit("p.yaml", "hf:org/tiny", &format!("hf:org/tiny@{OTHER}"));
    assert_eq!(offline(&project, "run p.yaml").outcomes(), "base made");
    assert!(offline(&project, "show p.yaml base").stdout.contains(OTHER));
}

#[test]
fn what_is_not_cached_says_what_to_run() {
    let project =
        Project::new(&[("p.yaml", "name: p\nnodes:\n  base: { stage: import, with: { path: 'hf:org/tiny@v2' } }\n")]);
    let said = offline(&project, "run p.yaml");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("hf:org/tiny@v2: it is not in the cache"), "{said:#?}");
    assert!(
        said.stderr.contains("hint: run once without `HF_HUB_OFFLINE`, or `hf download org/tiny --revision v2`"),
        "{said:#?}"
    );
}

#[test]
fn a_name_that_names_nothing_is_found_before_anything_runs() {
    let project = Project::new(&[(
        "p.yaml",
        "name: p
nodes:
  base: { stage: import, with: { path: 'hf:datasets/org/tiny' } }
  rows: { stage: load, with: { path: ['hf:datasets/org/rows', 'hf:org/rows'] } }
  none: { stage: load, with: { path: 'hg:org/rows' } }
",
    )]);
    project.write("rows.jsonl", "{}\n");
    let said = project.mashbill("check p.yaml");
    assert_eq!(said.code, Some(2), "{said:#?}");
    assert!(said.stderr.contains("`hf:datasets/org/tiny` names a dataset where a model is read"), "{said:#?}");
    assert!(
        said.stderr.contains("p.yaml:4:63")
            && said.stderr.contains("`hf:org/rows` names a model where a dataset is read"),
        "{said:#?}"
    );
    assert!(said.stderr.contains("no file `hg:org/rows`"), "{said:#?}");
}
