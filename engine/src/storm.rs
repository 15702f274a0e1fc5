//! The storm: runs of a pipeline that are killed before every step on the disk and at any time, alone and by eights on
//! one store. After each, a run that is left alone ends with the very bytes of one that nobody ever disturbed.
//!
//! The tests blow a slice of it. All of it, in 20 minutes: `MASHBILL_TEST_ALL=1 cargo test -p engine storm -- --nocapture`.

#![cfg(unix)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    thread,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Command, Context, Digest, Input, Options, OtherInputs, Outcome, Plan, Registry, Sources, Spec, Stage, Store, run,
    store::fault,
};

/// Folder of the pipeline, for the process that runs it.
const HERE: &str = "MASHBILL_TEST_STORM";
/// Where that process says how many steps on the disk it took.
const COUNT: &str = "MASHBILL_TEST_STORM_COUNT";

/// A stage of this process: five steps, each saved and recorded, continued where it was stopped.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Climb {
    letter: String,
}

impl Stage for Climb {
    const NAME: &'static str = "climb";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OTHER_INPUTS: OtherInputs = OtherInputs::Taken;
    const OUTPUT: &'static str = "text";
    type Settings = Cores;

    fn run(&self, _: &Cores, ctx: &Context) -> anyhow::Result<()> {
        let saved = ctx.scratch().join("saved");
        let mut text = fs::read_to_string(&saved).unwrap_or_default();
        ctx.rewind(text.lines().count() as u64)?;
        for step in text.lines().count()..STEPS {
            ctx.record(step as u64 + 1, &[("step_twice", 2.0 * step as f64)])?;
            text.extend([self.letter.repeat(900), step.to_string(), "\n".to_owned()]);
            fs::write(saved.with_extension("new"), &text)?;
            fs::rename(saved.with_extension("new"), &saved)?;
        }
        for input in ctx.inputs("x") {
            text.push_str(&fs::read_to_string(input.path.join("text"))?);
        }
        Ok(fs::write(ctx.output().join("text"), text)?)
    }
}

const STEPS: usize = 5;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Cores {
    cores: u32,
}

/// A program with a child in the background and half an output before the whole one.
const SCRIPT: &str = "\
[ -e $SCRATCH/half ] || echo LETTER > $SCRATCH/new && mv $SCRATCH/new $SCRATCH/half 2>/dev/null || true
(while :; do echo garbage > $OUTPUT/late; sleep 0.002; done) & late=$!
echo LETTER >> $OUTPUT/text
kill -9 $late; wait $late 2>/dev/null || true; rm -f $OUTPUT/late
cat $INPUTS >> $OUTPUT/text
echo done";

const LAYERS: usize = 6;
const WIDTH: usize = 5;

/// Thirty nodes in six layers, programs and stages in turn; each reads two of the layer before.
fn pipeline() -> String {
    let mut text = String::from("name: storm\nnodes:\n");
    for layer in 0..LAYERS {
        for at in 0..WIDTH {
            let name = format!("n{layer}_{at}");
            let letter = char::from(b'a' + (layer * WIDTH + at) as u8 % 26);
            let reads: Vec<String> = match layer {
                0 => Vec::new(),
                _ => [at, (at + 1) % WIDTH].map(|at| format!("n{}_{at}", layer - 1)).into(),
            };
            let inputs =
                if reads.is_empty() { String::new() } else { format!("\n    inputs: {{ x: [{}] }}", reads.join(", ")) };
            if (layer + at) % 2 == 0 {
                let with = format!("{{ letter: {letter} }}, run: {{ cores: 1 }}");
                let with = with.replace(", run", "\n    run");
                text.extend([format!("  {name}:\n    stage: climb\n    with: {with}{inputs}\n")]);
            } else {
                let files = if reads.is_empty() { "in.txt" } else { "$INPUT_x/*/text" };
                let script = SCRIPT.replace("LETTER", &letter.to_string()).replace("$INPUTS", files);
                let script = script.replace('\n', "\n        ");
                text.extend([format!(
                    "  {name}:\n    stage: command\n    with:\n      sh: |\n        {script}\n      files: [in.txt]{inputs}\n"
                )]);
            }
        }
    }
    text
}

/// A folder with the pipeline, on a disk in memory where there is one.
fn here() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    fs::write(folder.path().join("p.yaml"), pipeline()).unwrap();
    fs::write(folder.path().join("in.txt"), "input\n".repeat(1_000)).unwrap();
    folder
}

fn plan(here: &Path) -> Plan {
    let text = fs::read_to_string(here.join("p.yaml")).unwrap();
    let spec = Spec::parse(Sources { root: here.into(), file: "p.yaml".into(), text, ..Sources::default() }).unwrap();
    let registry = Registry::new().with::<Command>().with::<Climb>();
    Plan::resolve(&spec, &registry).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]))
}

fn store(here: &Path) -> Store {
    Store::at(here.join("store")).unwrap()
}

/// The process that is killed; left alone it makes everything and says so.
#[test]
fn child() {
    let Some(here) = std::env::var_os(HERE).map(PathBuf::from) else {
        finish(here().path());
        return;
    };
    let report = run(&plan(&here), &store(&here), &Options { jobs: 3, ..Options::default() });
    if let Some(count) = std::env::var_os(COUNT) {
        fs::write(count, fault::steps().to_string()).unwrap();
    }
    if let Some((node, failure)) = report.failure() {
        panic!("{}: {:#}", node.node, failure.error);
    }
    assert!(report.nodes.iter().all(|node| matches!(node.outcome, Outcome::Made | Outcome::Reused)));
}

/// A process that runs [`child`] in a folder.
fn process(here: &Path) -> Process {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args(["storm::child", "--exact", "--nocapture", "--test-threads=1"]).env(HERE, here);
    process.stdout(Stdio::null());
    process
}

fn start(here: &Path, kill_at: Option<u64>) -> Child {
    let mut process = process(here);
    if let Some(step) = kill_at {
        process.env(fault::KILL, step.to_string());
    }
    process.stderr(Stdio::null()).spawn().unwrap()
}

/// What decides whether two runs are the same: every node's content, and its metrics.
type Results = BTreeMap<String, (Digest, Option<String>)>;

/// Runs to the end, in this process, and holds the store against what it must be.
fn finish(here: &Path) -> Results {
    let store = store(here);
    let report = run(&plan(here), &store, &Options { jobs: 3, ..Options::default() });
    if let Some((node, failure)) = report.failure() {
        panic!("{}: {:#}", node.node, failure.error);
    }
    let results = report.nodes.iter().map(|node| {
        let artifact = node.artifact.as_ref().unwrap_or_else(|| panic!("{}: {}", node.node, node.outcome));
        (node.node.clone(), (artifact.brief.content, artifact.record("metrics.jsonl")))
    });
    let results = results.collect();
    let examined = store.verify(&mut |_| ()).unwrap();
    assert!(examined.damages.is_empty(), "{:?}", examined.damages);
    assert_eq!(examined.artifacts, LAYERS * WIDTH);
    assert_eq!(fs::read_dir(here.join("store/drafts")).unwrap().count(), 0, "a draft was left");
    results
}

/// What nobody disturbed, and how many steps and how long that took.
fn undisturbed() -> (Results, u64, Duration) {
    let here = here();
    let count = here.path().join("count");
    let begun = Instant::now();
    let status = process(here.path()).env(COUNT, &count).status().unwrap();
    let time = begun.elapsed();
    assert!(status.success());
    let steps = fs::read_to_string(count).unwrap().parse().unwrap();
    (finish(here.path()), steps, time)
}

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end.max(1)
    }

    fn time(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(longest.as_micros() as u64))
    }
}

/// How hard it blows.
struct Force {
    /// Before each how-many-th step on the disk a run is killed.
    every: u64,
    /// Runs killed at any time.
    at_any_time: usize,
    /// Times that eight processes run on one store, and each is killed.
    by_eights: usize,
}

#[derive(Debug, Default)]
struct Toll {
    killed: usize,
    /// They were done before the blow fell.
    escaped: usize,
    reruns: usize,
}

impl Toll {
    fn count(&mut self, mut child: Child) {
        use std::os::unix::process::ExitStatusExt;
        let status = child.wait().unwrap();
        match status.signal() {
            Some(9) => self.killed += 1,
            _ if status.success() => self.escaped += 1,
            _ => panic!("a run of the storm ended with {status}"),
        }
    }
}

fn blow(force: &Force) -> Toll {
    let seed = std::env::var("MASHBILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut chance = Chance(seed);
    let mut toll = Toll::default();
    let (expected, steps, time) = undisturbed();
    let check = |here: &Path, how: &str, toll: &mut Toll| {
        toll.reruns += 1;
        for (node, result) in finish(here) {
            assert_eq!(result, expected[&node], "{node} after {how}, seed {seed}");
        }
    };
    for step in (1..=steps).filter(|step| step % force.every == 0) {
        let here = here();
        toll.count(start(here.path(), Some(step)));
        check(here.path(), &format!("a kill before step {step}"), &mut toll);
    }
    for _ in 0..force.at_any_time {
        let here = here();
        // Now and then the one that continues is killed too.
        for _ in 0..=chance.below(3) {
            let mut child = start(here.path(), None);
            thread::sleep(chance.time(time));
            let _ = child.kill();
            toll.count(child);
        }
        check(here.path(), "kills at any time", &mut toll);
    }
    for _ in 0..force.by_eights {
        let here = here();
        let mut children: Vec<(Instant, Child)> = (0..8)
            .map(|at| {
                let step = (at % 2 == 0).then(|| 1 + chance.below(steps / 4));
                (Instant::now() + chance.time(time * 4), start(here.path(), step))
            })
            .collect();
        children.sort_by_key(|(until, _)| *until);
        for (until, mut child) in children {
            thread::sleep(until.saturating_duration_since(Instant::now()));
            let _ = child.kill();
            toll.count(child);
        }
        check(here.path(), "kills among eight", &mut toll);
    }
    toll
}

/// Whether all of the storm was asked for.
fn is_all() -> bool {
    std::env::var_os("MASHBILL_TEST_ALL").is_some()
}

#[test]
fn a_storm_loses_nothing() {
    let begun = Instant::now();
    let (force, least) = if is_all() {
        (Force { every: 1, at_any_time: 250, by_eights: 40 }, 1_000)
    } else {
        (Force { every: 97, at_any_time: 3, by_eights: 1 }, 8)
    };
    let toll = blow(&force);
    println!("{toll:?} in {:.0} s", begun.elapsed().as_secs_f64());
    assert!(toll.killed >= least, "{toll:?}");
}

/// A disk of its own at a folder, until this value is gone.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// None where nobody may mount one.
    fn mount(at: &'a Path, kilobytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={kilobytes}k");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], at).then_some(Self(at))
    }

    fn grow(&self) {
        assert!(mount(&["-o", "remount,size=64m"], self.0));
    }
}

fn mount(words: &[&str], at: &Path) -> bool {
    let status = Process::new("mount").args(words).arg(at).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Runs on disks of these sizes, then gives each the room that it lacked. How many runs it stopped, and how many of those
/// said that it was the disk; none where nobody may mount one.
fn fill_disks(sizes: &[u64]) -> Option<(usize, usize)> {
    let (expected, ..) = undisturbed();
    let (mut stopped, mut told) = (0, 0);
    for &kilobytes in sizes {
        let here = here();
        let at = here.path().join("store");
        let Some(disk) = Disk::mount(&at, kilobytes) else {
            // Past the harness, which keeps what a passing test prints to itself.
            writeln!(std::io::stderr(), "NOT RUN: a full disk, since mounting one is not permitted here").unwrap();
            return None;
        };
        let options = Options { jobs: 2, ..Options::default() };
        let report = run(&plan(here.path()), &store(here.path()), &options);
        if let Some((_, failure)) = report.failure() {
            stopped += 1;
            told += usize::from(failure.is_infrastructure);
        }
        disk.grow();
        for (node, result) in finish(here.path()) {
            assert_eq!(result, expected[&node], "{node} after a disk of {kilobytes} kB");
        }
    }
    Some((stopped, told))
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let sizes = if is_all() { (8..=2_000).step_by(16).collect() } else { vec![40, 300, 900] };
    let (least_stopped, least_told) = if is_all() { (100, 2) } else { (3, 2) };
    if let Some((stopped, told)) = fill_disks(&sizes) {
        println!("{} disks, {stopped} runs stopped by a full one, {told} of them said so", sizes.len());
        assert!(stopped >= least_stopped && told >= least_told, "{stopped} stopped, {told} told why");
    }
}
