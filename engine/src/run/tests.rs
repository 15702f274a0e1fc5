use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::bail;
use serde_json::{Value, json};

use super::*;
use crate::{
    Cancelled, Context, Footprint, Outcome, Prospect, Prospects, Verdict, diagnostic::Place, forecast,
    plan::NodeSource, registry::Work, toy,
};

type Job = fn(&Value, &Context) -> anyhow::Result<()>;

struct Toy {
    with: Value,
    job: Job,
    runs: Arc<AtomicUsize>,
}

impl Work for Toy {
    fn run(&self, ctx: &Context) -> anyhow::Result<()> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        (self.job)(&self.with, ctx)
    }

    fn outline(&self, _: &Prospects) -> Option<Value> {
        self.with.get("text").cloned()
    }

    /// `with.bytes`, and a byte for each letter of an input that is known only by its outline.
    fn footprint(&self, inputs: &Prospects) -> Option<Footprint> {
        let letters = |(_, prospect): &(String, Prospect)| match prospect {
            Prospect::Outlined(text) => text.as_str().unwrap().len() as u64,
            Prospect::There(folder) => u64::from(!folder.join("text").exists()),
            Prospect::Unknown => 0,
        };
        let bytes = self.with["bytes"].as_u64()? + inputs.of("texts").iter().map(letters).sum::<u64>();
        Some(Footprint { parts: vec![("paper", bytes)], after: Vec::new(), advice: "write less".into() })
    }
}

/// Writes `with.text`, or the text of the file `with.file`.
fn text(with: &Value, ctx: &Context) -> anyhow::Result<()> {
    let text = match with["file"].as_str() {
        Some(path) => fs::read_to_string(ctx.root().join(path))?,
        None => with["text"].as_str().unwrap().into(),
    };
    Ok(fs::write(ctx.output().join("text"), text)?)
}

/// Joins the texts of its inputs in capitals.
fn shout(_: &Value, ctx: &Context) -> anyhow::Result<()> {
    let texts: std::io::Result<Vec<String>> =
        ctx.inputs("texts").iter().map(|input| fs::read_to_string(input.path.join("text"))).collect();
    ctx.record(1, &[("texts", ctx.inputs("texts").len() as f64)])?;
    Ok(fs::write(ctx.output().join("text"), texts?.join(" ").to_uppercase())?)
}

/// A project folder with a store, and the nodes of one pipeline.
struct Project {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
    runs: Arc<AtomicUsize>,
}

impl Project {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), nodes: Vec::new(), runs: Arc::default() }
    }

    fn node(&mut self, name: &str, stage: &'static str, with: Value, inputs: &[&str], job: Job) -> &mut Node {
        let source = |path: &str| NodeSource { parameter: "file".into(), path: path.into(), expand: None };
        let place = |line| Place { file: "p.yaml".into(), line, column: 9 };
        let work = Toy { with: with.clone(), job, runs: self.runs.clone() };
        let line = 10 * (self.nodes.len() + 1);
        self.nodes.push(Node {
            settings: json!({"device": "cpu"}),
            sources: with["file"].as_str().map(source).into_iter().collect(),
            place: place(line),
            places: [("with.text".to_owned(), place(line + 1))].into(),
            with,
            work: Arc::new(work),
            ..toy::node(name, stage, inputs)
        });
        self.nodes.last_mut().unwrap()
    }

    /// `a` says hello, `b` says more, `loud` joins both.
    fn greeting(text_of_a: &str, folder: Option<tempfile::TempDir>) -> Self {
        let mut project = Self::new();
        project.folder = folder.unwrap_or(project.folder);
        project.node("a", "text", json!({"text": text_of_a}), &[], text);
        project.node("b", "text", json!({"text": "world"}), &[], text);
        project.node("loud", "shout", json!({}), &["a", "b"], shout);
        project
    }

    fn plan(&self) -> Plan {
        Plan { name: "p".into(), root: self.folder.path().into(), file: "p.yaml".into(), nodes: self.nodes.clone() }
    }

    fn store(&self) -> Store {
        Store::at(self.folder.path().join("store")).unwrap()
    }

    fn run(&self) -> Report {
        run(&self.plan(), &self.store(), &Options::default())
    }

    /// One word a node, such as `made made reused`.
    fn outcomes(&self) -> String {
        words(&self.run())
    }

    fn verdicts(&self) -> Vec<String> {
        let word = |verdict: &Verdict| match verdict {
            Verdict::Reuse(_) => "reuse".into(),
            Verdict::Run { reasons, .. } => format!("run: {}", lines(reasons)),
            Verdict::Waits { on, reasons, .. } => format!("waits on {}: {}", on.join(", "), lines(reasons)),
            Verdict::Left { why } => format!("left: {why}"),
            Verdict::Fails(error) => format!("fails: {error:#}"),
        };
        forecast(&self.plan(), &self.store()).unwrap().iter().map(|forecast| word(&forecast.verdict)).collect()
    }

    fn data(report: &Report, node: &str) -> PathBuf {
        let node = report.nodes.iter().find(|report| report.node == node).unwrap();
        node.artifact.as_ref().unwrap().data().join("text")
    }
}

fn words(report: &Report) -> String {
    report.nodes.iter().map(|node| node.outcome.to_string()).collect::<Vec<_>>().join(" ")
}

fn lines(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

fn message(report: &Report) -> String {
    format!("{:#}", report.failure().expect("a failed node").1.error)
}

#[test]
fn a_run_makes_everything_and_the_next_reuses_it() {
    let project = Project::greeting("hello", None);
    let first = project.run();
    assert_eq!(words(&first), "made made made");
    assert_eq!(fs::read_to_string(Project::data(&first, "loud")).unwrap(), "HELLO WORLD");
    let metrics = first.nodes[2].artifact.as_ref().unwrap().last_metrics().unwrap();
    assert_eq!(Value::Object(metrics), json!({"step": 1, "texts": 2.0}));
    assert_eq!(project.outcomes(), "reused reused reused");
    assert_eq!(project.runs.load(Ordering::SeqCst), 3);
}

#[test]
fn names_settings_and_places_decide_nothing() {
    let mut project = Project::greeting("hello", None);
    project.run();
    project.nodes[0].name = "renamed".into();
    project.nodes[2].inputs[0].nodes[0] = "renamed".into();
    project.nodes[1].settings = json!({"device": "cuda:0"});
    project.nodes[2].place.line = 99;
    assert_eq!(project.outcomes(), "reused reused reused");
}

#[test]
fn an_edit_reruns_what_is_behind_it_and_is_named_with_old_and_new() {
    let project = Project::greeting("hello", None);
    project.run();
    let edited = Project::greeting("goodbye", Some(project.folder));
    assert_eq!(edited.verdicts(), ["run: with.text: \"hello\" -> \"goodbye\" (p.yaml:11:9)", "reuse", "waits on a: "]);
    let report = edited.run();
    assert_eq!(words(&report), "made reused made");
    let [from, to] = ["hello", "goodbye"].map(|text| {
        let file = crate::Digest::of_bytes(text.as_bytes());
        crate::Digest::of_files([("text", file)]).short()
    });
    assert_eq!(
        lines(&report.nodes[2].reasons),
        format!(
            "input texts: content changed, {from} -> {to}, because a changed: with.text: \"hello\" -> \"goodbye\" \
             (p.yaml:11:9)"
        )
    );
}

#[test]
fn after_the_run_the_forecast_still_knows_what_had_changed() {
    let project = Project::greeting("hello", None);
    project.run();
    let edited = Project::greeting("goodbye", Some(project.folder));
    edited.run();
    let forecasts = forecast(&edited.plan(), &edited.store()).unwrap();
    let Verdict::Reuse(reuse) = &forecasts[0].verdict else { panic!("not reused") };
    assert_eq!(lines(&reuse.since_before), "with.text: \"hello\" -> \"goodbye\" (p.yaml:11:9)");
}

#[test]
fn equal_content_cuts_the_rerun_off() {
    let project = Project::greeting("hello", None);
    project.run();
    let mut edited = Project::greeting("hello", Some(project.folder));
    edited.nodes[0].version = 2;
    let report = edited.run();
    assert_eq!(words(&report), "made reused reused");
    assert!(report.nodes[0].is_same_content);
    assert_eq!(lines(&report.nodes[0].reasons), "version of stage text: 1 -> 2");
}

#[test]
fn going_back_to_an_earlier_version_reuses_its_result() {
    let first = Project::greeting("hello", None);
    first.run();
    let second = Project::greeting("goodbye", Some(first.folder));
    second.run();
    let third = Project::greeting("hello", Some(second.folder));
    assert_eq!(third.outcomes(), "reused reused reused");
}

#[test]
fn a_failure_ends_the_run_and_keeps_what_was_made() {
    let mut project = Project::greeting("hello", None);
    project.node("never", "shout", json!({}), &["loud"], shout);
    let works = std::mem::replace(
        &mut project.nodes[2].work,
        Arc::new(Toy { with: json!({}), job: |_, _| bail!("no voice"), runs: Arc::default() }),
    );
    let report = project.run();
    assert_eq!(words(&report), "made made failed skipped");
    assert_eq!(message(&report), "no voice");
    let Outcome::Skipped(why) = &report.nodes[3].outcome else { panic!("not skipped") };
    assert_eq!(why, "`loud` failed");
    project.nodes[2].work = works;
    assert_eq!(project.outcomes(), "reused reused made made");
}

#[test]
fn a_stage_that_panics_fails_its_node() {
    let mut project = Project::new();
    project.node("a", "panics", json!({}), &[], |_, _| panic!("index 7"));
    assert_eq!(message(&project.run()), "the stage panicked: index 7");
}

#[test]
fn a_cancelled_stage_continues_from_its_scratch() {
    fn two_steps(_: &Value, ctx: &Context) -> anyhow::Result<()> {
        let saved = ctx.scratch().join("step");
        if !saved.exists() {
            fs::write(saved, "1")?;
            return Err(Cancelled.into());
        }
        Ok(fs::write(ctx.output().join("text"), "done")?)
    }
    let mut project = Project::new();
    project.node("a", "two_steps", json!({}), &[], two_steps);
    project.node("b", "shout", json!({}), &["a"], shout);
    assert_eq!(project.outcomes(), "skipped skipped");
    let forecasts = forecast(&project.plan(), &project.store()).unwrap();
    assert!(matches!(forecasts[0].verdict, Verdict::Run { resumes: true, .. }));
    assert_eq!(project.outcomes(), "made made");
}

#[test]
fn a_request_to_stop_skips_what_was_not_begun() {
    let project = Project::greeting("hello", None);
    let options = Options::default();
    options.cancel.cancel();
    assert_eq!(words(&run(&project.plan(), &project.store(), &options)), "skipped skipped skipped");
}

#[test]
fn the_bytes_of_a_source_decide_and_its_path_does_not() {
    let mut project = Project::new();
    let write = |name: &str, text: &str, folder: &Path| fs::write(folder.join(name), text).unwrap();
    write("one.txt", "1", project.folder.path());
    project.node("a", "text", json!({"file": "one.txt"}), &[], text);
    assert_eq!(project.outcomes(), "made");

    write("two.txt", "1", project.folder.path());
    project.nodes.clear();
    project.node("a", "text", json!({"file": "two.txt"}), &[], text);
    assert_eq!(project.outcomes(), "reused");

    write("two.txt", "2", project.folder.path());
    let [old, new] = ["1", "2"].map(|text| crate::Digest::of_bytes(text.as_bytes()).short());
    assert_eq!(project.verdicts(), [format!("run: with.file: bytes of two.txt changed, {old} -> {new}")]);
    assert_eq!(project.outcomes(), "made");
}

#[test]
fn a_source_that_changes_while_the_node_runs_records_nothing() {
    fn careless(with: &Value, ctx: &Context) -> anyhow::Result<()> {
        text(with, ctx)?;
        fs::write(ctx.scratch().join("step"), "1")?;
        Ok(fs::write(ctx.root().join("one.txt"), "edited meanwhile")?)
    }
    let mut project = Project::new();
    fs::write(project.folder.path().join("one.txt"), "1").unwrap();
    project.node("a", "text", json!({"file": "one.txt"}), &[], careless);
    let expected = "`one.txt`, or what it imports, changed while the node ran; nothing was recorded, run again";
    assert_eq!(message(&project.run()), expected);
    fs::write(project.folder.path().join("one.txt"), "1").unwrap();
    let forecasts = forecast(&project.plan(), &project.store()).unwrap();
    assert!(matches!(&forecasts[0].verdict, Verdict::Run { resumes: false, .. }));
}

#[test]
fn a_missing_source_fails_its_node_by_name() {
    let mut project = Project::new();
    project.node("a", "text", json!({"file": "gone.txt"}), &[], text);
    let expected = "reading with.file `gone.txt`: No such file or directory (os error 2)";
    assert_eq!(message(&project.run()), expected);
}

#[test]
fn a_damaged_result_is_made_again_with_the_reason() {
    let project = Project::greeting("hello", None);
    let path = Project::data(&project.run(), "a");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "HELLO").unwrap();
    let damage = "its stored result was damaged: the bytes of `data/text` changed";
    assert_eq!(project.verdicts()[0], format!("run: {damage}"));
    let report = project.run();
    assert_eq!(words(&report), "made reused reused");
    assert_eq!(lines(&report.nodes[0].reasons), damage);
    assert_eq!(fs::read_to_string(path).unwrap(), "hello");
}

#[test]
fn a_node_name_is_a_fact_only_where_the_stage_writes_it() {
    let mut project = Project::greeting("hello", None);
    project.nodes[2].inputs[0].named = true;
    project.run();
    project.nodes[0].name = "renamed".into();
    project.nodes[2].inputs[0].nodes[0] = "renamed".into();
    let report = project.run();
    assert_eq!(words(&report), "reused reused made");
    assert_eq!(lines(&report.nodes[2].reasons), "input texts: name of its node: a -> renamed");
}

#[test]
fn the_forecast_marks_a_result_of_another_class_of_device() {
    let mut project = Project::greeting("hello", None);
    project.run();
    project.nodes[0].settings = json!({"device": "cuda:0"});
    let forecasts = forecast(&project.plan(), &project.store()).unwrap();
    let Verdict::Reuse(reuse) = &forecasts[0].verdict else { panic!("not reused") };
    assert_eq!(reuse.device, Some(("cpu".into(), "cuda".into())));
}

#[test]
fn events_tell_start_progress_and_end_of_each_node() {
    let mut project = Project::new();
    project.node("a", "steps", json!({}), &[], |_, ctx| {
        ctx.progress(1, 2, "half");
        Ok(fs::write(ctx.output().join("text"), "")?)
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let watch: Watch = Arc::new({
        let told = told.clone();
        move |event| {
            told.lock().unwrap().push(match event {
                Event::Started { node, reasons, .. } => format!("{} starts: {}", node.name, lines(reasons)),
                Event::Waiting { node } => format!("{} waits", node.name),
                Event::Retrying { node, error, .. } => format!("{} again: {error}", node.name),
                Event::Progress { node, progress } => {
                    format!("{node} {}/{} {}", progress.done, progress.total, progress.message)
                }
                Event::Warned { node, text } => format!("{node} warns: {text}"),
                Event::Finished(report) => format!("{} {}", report.node, report.outcome),
            });
        }
    });
    let options = Options { watch, ..Options::default() };
    assert_eq!(words(&run(&project.plan(), &project.store(), &options)), "made");
    assert_eq!(*told.lock().unwrap(), ["a starts: it was never made", "a 1/2 half", "a made"]);
}

#[test]
fn a_node_larger_than_its_memory_does_not_start_is_not_tried_again_and_says_what_helps() {
    let mut project = Project::new();
    let node = project.node("a", "text", json!({"text": "hello", "bytes": 3_000_000_000_u64}), &[], text);
    (node.settings, node.retries) = (json!({ "memory_gb": 2.5 }), 3);
    let report = project.run();
    assert_eq!(
        message(&report),
        "it needs 3.0 GB of memory (paper 3.0 GB), and its `memory_gb` is 2.5 GB: write less, or raise `memory_gb`"
    );
    assert_eq!(project.runs.load(Ordering::SeqCst), 0);
    project.nodes[0].settings = json!({ "memory_gb": 3 });
    assert_eq!(project.outcomes(), "made");
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_word_on_memory_what_is_free_decides() {
    let mut project = Project::new();
    project.node("a", "text", json!({"text": "hello", "bytes": 1_u64 << 60}), &[], text);
    let message = message(&project.run());
    assert!(message.contains("are free: write less; `memory_gb: 1152921505` below `run:` starts it"), "{message}");
}

#[test]
fn a_plan_knows_a_footprint_by_what_inputs_are_or_will_be() {
    let mut project = Project::new();
    project.node("a", "text", json!({"text": "hello"}), &[], text);
    project.node("loud", "shout", json!({ "bytes": 100 }), &["a"], shout);
    let bytes = |project: &Project| -> Vec<Option<u64>> {
        let forecasts = forecast(&project.plan(), &project.store()).unwrap();
        forecasts.iter().map(|forecast| forecast.footprint.as_ref().map(Footprint::bytes)).collect()
    };
    assert_eq!(bytes(&project), [None, Some(105)]);
    project.run();
    project.nodes[1].with["other"] = 1.into();
    assert_eq!(bytes(&project), [None, Some(100)]);
}
