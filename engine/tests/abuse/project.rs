//! A folder with a pipeline and its files, run with no stage but `command` and a toy.
//! Knows nothing of the inside of the store.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use engine::{Command, Context, Input, NoSettings, Options, Plan, Registry, Report, Sources, Spec, Stage, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub struct Project {
    path: PathBuf,
    /// None where somebody else cleans up.
    _folder: Option<tempfile::TempDir>,
}

/// Writes down what it is given, whatever that is.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Echo {
    value: Value,
}

impl Stage for Echo {
    const NAME: &'static str = "echo";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "text";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> anyhow::Result<()> {
        Ok(fs::write(ctx.output().join("text"), self.value.to_string())?)
    }
}

impl Project {
    /// The pipeline and other files.
    pub fn new(pipeline: &str, files: &[(&str, &str)]) -> Self {
        // In memory where that is possible: hundreds of results are put on the disk here, each with care.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let project = Self { path: folder.path().into(), _folder: Some(folder) };
        project.write("p.yaml", pipeline);
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    /// A project that is there already.
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.into(), _folder: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces one piece of the pipeline by another.
    pub fn edit(&self, old: &str, new: &str) {
        let text = fs::read_to_string(self.path().join("p.yaml")).unwrap();
        assert_eq!(text.matches(old).count(), 1, "`{old}` is not exactly once in the pipeline");
        self.write("p.yaml", &text.replace(old, new));
    }

    /// The plan, or the mistakes as one text.
    pub fn plan(&self) -> Result<Plan, String> {
        let text = fs::read_to_string(self.path().join("p.yaml")).unwrap();
        let sources = Sources { root: self.path().into(), file: "p.yaml".into(), text, ..Sources::default() };
        let told =
            |mistakes: Vec<engine::Diagnostic>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let spec = Spec::parse(sources).map_err(told)?;
        Plan::resolve(&spec, &Registry::new().with::<Command>().with::<Echo>()).map_err(told)
    }

    pub fn store(&self) -> Store {
        Store::at(self.path().join(".store")).unwrap()
    }

    pub fn run(&self) -> Report {
        self.run_with(&Options::default())
    }

    pub fn run_with(&self, options: &Options) -> Report {
        engine::run(&self.plan().unwrap(), &self.store(), options)
    }

    /// One word a node, such as `made made reused`; the whole error where one failed.
    pub fn outcomes(&self) -> String {
        let report = self.run();
        if let Some((node, failure)) = report.failure() {
            return format!("{} failed: {:#}", node.node, failure.error);
        }
        words(&report)
    }

    /// A file of a node's result after a run.
    pub fn output(&self, node: &str, name: &str) -> String {
        fs::read_to_string(self.data(node).join(name)).unwrap()
    }

    /// The data folder of the result that a node had last.
    pub fn data(&self, node: &str) -> PathBuf {
        let last = self.store().last("p", node).expect("the node has a result");
        match self.store().find(last.fingerprint).unwrap() {
            engine::Found::Whole(artifact) => artifact.data(),
            other => panic!("{other:?}"),
        }
    }
}

pub fn words(report: &Report) -> String {
    report.nodes.iter().map(|node| node.outcome.to_string()).collect::<Vec<_>>().join(" ")
}

/// Waits until something is so, for twenty seconds at most.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}
