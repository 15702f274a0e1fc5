use std::{
    io::{Seek as _, SeekFrom, Write as _},
    sync::Arc,
};

use super::*;
use crate::{
    plan::Plan,
    report::Report,
    run::{Options, run},
    toy::node,
};

struct World {
    plan: Plan,
    store: Store,
    folder: tempfile::TempDir,
}

fn world(last: &'static str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let nodes = vec![node("a", "text", &[]), node("b", "steps", &["a"]), node("c", last, &["b"])];
    let plan = Plan { name: "p".into(), root: folder.path().into(), file: "p.yaml".into(), nodes };
    World { plan, store: Store::at(folder.path().join("store")).unwrap(), folder }
}

impl World {
    fn begin(&self) -> Recorder {
        let words = |words: &str| words.split(' ').map(Into::into).collect();
        let asked = Asked { argv: words("mashbill run p.yaml"), overrides: words("vars.x=1") };
        Recorder::begin(&self.store, &self.plan, asked).unwrap()
    }

    fn run(&self, recorder: &Recorder) -> Report {
        let watch = recorder.watch(Arc::new(|_| ()));
        run(&self.plan, &self.store, &Options { watch, ..Options::default() })
    }

    fn recorded(&self) -> RunRecord {
        let recorder = self.begin();
        let report = self.run(&recorder);
        recorder.finish(&report, false).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("store/runs").join(name)
    }
}

fn outcomes(record: &RunRecord) -> String {
    record.nodes.iter().map(|node| format!("{} {}", node.node, node.outcome)).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_run_is_found_again_with_what_it_was_asked_and_what_came_of_it() {
    let world = world("text");
    let first = world.recorded();
    let second = world.recorded();
    let runs = Runs::of(&world.store).unwrap();
    assert_eq!(runs.records, [first, second]);
    let first = runs.get("1").unwrap();
    assert_eq!(outcomes(first), "a made, b made, c made");
    assert_eq!(first.argv, ["mashbill", "run", "p.yaml"]);
    assert_eq!(first.overrides, ["vars.x=1"]);
    assert_eq!(first.nodes[0].reasons, ["it was never made"]);
    assert_eq!(outcomes(runs.get("last").unwrap()), "a reused, b reused, c reused");
    assert_eq!(runs.get("last~1").unwrap().id, 1);
    assert_eq!(runs.get("last").unwrap().node("c").unwrap().fingerprint, first.node("c").unwrap().fingerprint);
    assert!(runs.get("3").is_none() && runs.get("last~2").is_none() && runs.get("lust").is_none());
    assert!(runs.verify(&world.store).is_empty());
}

#[test]
fn events_are_lines_in_their_order() {
    let world = world("fails");
    let record = world.recorded();
    assert_eq!(record.outcome, RunOutcome::Failed);
    let told = |event: &Value| {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("event"), text("node"), text("outcome")).trim_end().to_owned()
    };
    let events = events(&world.store, record.id);
    let lines: Vec<String> = events.iter().map(told).collect();
    let expected = [
        "run_started",
        "started a",
        "finished a made",
        "started b",
        "progress b",
        // The second step came within a tenth of a second, and is told because it was the last.
        "progress b",
        "finished b made",
        "started c",
        "finished c failed",
        "run_finished  failed",
    ];
    assert_eq!(lines, expected);
    assert_eq!((events[5]["done"].as_u64(), events[8]["error"].as_str()), (Some(2), Some("no ink")));
    let times: Vec<f64> = events.iter().map(|event| event["t"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_run_that_lives_says_so_and_a_killed_one_is_read_to_its_last_whole_line() {
    let world = world("text");
    let recorder = world.begin();
    let report = world.run(&recorder);
    assert_eq!(Runs::of(&world.store).unwrap().records[0].outcome, RunOutcome::Running);
    // As `kill -9` would: the lock goes, the record stays that of the beginning.
    drop((recorder, report));
    let path = world.path("1/events.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let runs = Runs::of(&world.store).unwrap();
    assert_eq!(runs.records[0].outcome, RunOutcome::Killed);
    assert_eq!(runs.records[0].seconds, None);
    assert_eq!(outcomes(&runs.records[0]), "a made, b made, c begun");
    assert_eq!(world.recorded().id, 2);
}

#[test]
fn every_altered_byte_and_every_truncation_of_a_finished_record_is_found() {
    let world = world("text");
    world.recorded();
    for name in ["1/run.json", "1/events.jsonl"] {
        let path = world.path(name);
        let whole = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let is_found = || !Runs::of(&world.store).unwrap().verify(&world.store).is_empty();
        let put = |at: usize, byte: u8| {
            (&file).seek(SeekFrom::Start(at as u64)).unwrap();
            (&file).write_all(&[byte]).unwrap();
        };
        for (at, byte) in whole.iter().enumerate() {
            put(at, byte ^ 1);
            assert!(is_found(), "byte {at} of {name}");
            put(at, *byte);
        }
        assert!(!is_found());
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            // Without its last newline `run.json` still says all that it said.
            assert!(is_found() || (name == "1/run.json" && length + 1 == whole.len()), "{name} cut at {length}");
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn verify_sets_a_damaged_record_aside() {
    let world = world("text");
    world.recorded();
    world.recorded();
    fs::write(world.path("1/events.jsonl"), "{}\n").unwrap();
    let damages = world.store.verify(&mut |_| ()).unwrap().damages;
    assert_eq!(damages.len(), 1, "{damages:?}");
    assert_eq!(
        (damages[0].path.as_path(), damages[0].what.as_str()),
        (Path::new("runs/1"), "the bytes of `events.jsonl` changed")
    );
    assert!(world.store.verify(&mut |_| ()).unwrap().damages.is_empty());
    assert_eq!(Runs::of(&world.store).unwrap().records.len(), 1);
}

#[test]
fn two_who_begin_at_once_have_two_numbers() {
    let world = world("text");
    let ids = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| world.begin().id())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(ids, (1..=8).collect());
}
