//! A folder with files in it, and the program run there.
//! Knows nothing of the inside of either.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

pub struct Project {
    folder: tempfile::TempDir,
    /// `--set path=value`, given with every word that is said to the program.
    pub overrides: Vec<String>,
}

/// What the program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap(), overrides: Vec::new() };
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    /// A pipeline that users copy, as `p.yaml`, with the plugins beside it; data come from where they are.
    pub fn of_pipeline(name: &str) -> Self {
        let text = fs::read_to_string(workspace().join("pipelines").join(name)).unwrap();
        let mut project = Self::new(&[("p.yaml", &text)]);
        copy(&workspace().join("plugins"), &project.path().join("plugins"));
        if text.contains("../shared/data") {
            project.overrides.push(format!("vars.data={}", workspace().join("../shared/data").display()));
        }
        project
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces one piece of a file by another.
    pub fn edit(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path().join(name)).unwrap();
        assert_eq!(text.matches(old).count(), 1, "`{old}` is not exactly once in {name}");
        self.write(name, &text.replace(old, new));
    }

    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mashbill"));
        command.args(words.split_whitespace()).current_dir(self.path());
        for value in &self.overrides {
            command.args(["--set", value]);
        }
        for name in ["MASHBILL_STORE", "MASHBILL_LOG", "NO_COLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program with these words, in the folder.
    pub fn mashbill(&self, words: &str) -> Said {
        let output = self.command(words).output().unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the program and does not wait for it.
    pub fn start(&self, words: &str) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs `p.yaml` and says what came of each node: `numbers made, few reused`.
    pub fn outcomes(&self) -> String {
        let said = self.mashbill("run p.yaml");
        assert_eq!(said.code, Some(0), "{said:#?}");
        said.outcomes()
    }

    /// The lines that a node recorded as metrics.
    pub fn metrics(&self, node: &str) -> Vec<Value> {
        let path = self.data(node).with_file_name("metrics.jsonl");
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The rows that a node made.
    pub fn rows(&self, node: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.data(node).join("rows.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The data folder of a node's result, as `show` says it.
    pub fn data(&self, node: &str) -> PathBuf {
        let said = self.mashbill(&format!("show p.yaml {node}"));
        assert_eq!(said.code, Some(0), "{said:#?}");
        said.stdout.lines().nth(1).unwrap().into()
    }
}

/// The folder of this project, with the pipelines and plugins that users copy.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file or folder of the data that some pipelines read; `None`, said aloud, where they are not there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = workspace().join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).map(drop).unwrap();
        }
    }
}

impl Said {
    /// Node and outcome from the table at the end of a run.
    pub fn outcomes(&self) -> String {
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [node, _, outcome @ ("made" | "reused" | "failed" | "skipped"), ..] => {
                    Some(format!("{node} {outcome}"))
                }
                _ => None,
            }
        };
        self.stdout.lines().filter_map(row).collect::<Vec<_>>().join(", ")
    }
}
