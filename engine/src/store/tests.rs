use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{disk::fault, *};
use crate::manifest::Provenance;

fn facts(seed: u64) -> Facts {
    Facts {
        engine: 1,
        stage: "copy".into(),
        version: 1,
        with: json!({}),
        sources: BTreeMap::new(),
        seed,
        inputs: BTreeMap::new(),
    }
}

fn provenance() -> Provenance {
    Provenance {
        pipeline: "p".into(),
        node: "n".into(),
        started: "2026-11-23T18:06:56Z".into(),
        seconds: 0.25,
        engine: "0".into(),
        platform: "any".into(),
        settings: json!({}),
        sources: BTreeMap::new(),
        inputs: BTreeMap::new(),
    }
}

fn draft<'a>(store: &'a Store, facts: &Facts) -> Draft<'a> {
    match store.open(facts, &mut || false).unwrap() {
        Lookup::Miss(draft) => draft,
        other => panic!("expected a draft, got {other:?}"),
    }
}

fn make(store: &Store, facts: &Facts, files: &[(&str, &str)]) -> Artifact {
    publish(draft(store, facts), files)
}

fn publish(draft: Draft<'_>, files: &[(&str, &str)]) -> Artifact {
    for (name, text) in files {
        let path = draft.output().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    draft.publish("rows", provenance()).unwrap()
}

/// Writes a read-only file as an intruder would.
fn tamper(path: &Path, text: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn what_was_published_is_found_again_by_its_facts() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(&Store::at(folder.path()).unwrap(), &facts(1), &[("rows.jsonl", "{}\n"), ("deep/file", "x")]);
    let store = Store::at(folder.path()).unwrap();
    let Lookup::Hit(found) = store.open(&facts(1), &mut || false).unwrap() else { panic!("not found") };
    assert_eq!(found.manifest().unwrap(), made.manifest().unwrap());
    assert_eq!(fs::read_to_string(found.data().join("deep/file")).unwrap(), "x");
    assert!(matches!(store.open(&facts(2), &mut || false).unwrap(), Lookup::Miss(_)));
}

#[test]
fn equal_files_have_equal_content_whatever_the_facts() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let content = |seed, text| make(&store, &facts(seed), &[("rows.jsonl", text)]).brief.content;
    assert_eq!(content(1, "a"), content(2, "a"));
    assert_ne!(content(3, "a"), content(4, "b"));
}

#[cfg(unix)]
#[test]
fn files_of_an_artifact_are_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let artifact = make(&Store::at(folder.path()).unwrap(), &facts(1), &[("rows.jsonl", "{}\n")]);
    for name in ["data/rows.jsonl", "manifest.json", "facts.json"] {
        let mode = fs::metadata(artifact.folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0, "{name} has mode {mode:o}");
    }
}

type Tamper = fn(&Path);

/// Ways to alter a result, and what is then said of it.
fn ways() -> [(Tamper, &'static str); 8] {
    [
        (|folder| tamper(&folder.join("data/rows.jsonl"), "{ }"), "the bytes of `data/rows.jsonl` changed"),
        (|folder| fs::write(folder.join("data/more"), "").unwrap(), "`data/more` was added"),
        (|folder| fs::remove_file(folder.join("data/rows.jsonl")).unwrap(), "`data/rows.jsonl` is gone"),
        (
            |folder| {
                let path = folder.join("manifest.json");
                let text = fs::read_to_string(&path).unwrap().replace("0.25", "0.5");
                tamper(&path, &text);
            },
            "the bytes of `manifest.json` changed",
        ),
        (
            |folder| {
                let path = folder.join("facts.json");
                let text = fs::read_to_string(&path).unwrap().replace("\"seed\": 1", "\"seed\": 2");
                tamper(&path, &text);
            },
            "the bytes of `facts.json` changed",
        ),
        (|folder| tamper(&folder.join("manifest.json"), ""), "the bytes of `manifest.json` changed"),
        (|folder| fs::write(folder.join("data/deep/more"), "").unwrap(), "`data/deep/more` was added"),
        (
            |folder| {
                // Of the same size and age, in its own place.
                let path = folder.join("data/rows.jsonl");
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                let mut permissions = fs::metadata(&path).unwrap().permissions();
                #[expect(
                    clippy::permissions_set_readonly_false,
                    reason = "an intruder does not mind who else may write"
                )]
                permissions.set_readonly(false);
                fs::set_permissions(&path, permissions).unwrap();
                fs::write(&path, "[]\n").unwrap();
                File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            },
            "the bytes of `data/rows.jsonl` changed",
        ),
    ]
}

const FILES: [(&str, &str); 2] = [("rows.jsonl", "{}\n"), ("deep/file", "x")];

/// A folder is trusted by its stats only after it lay still for two seconds.
#[test]
fn a_result_that_was_found_whole_before_is_not_trusted_once_anything_in_it_is_touched() {
    let stores = ways().map(|(alter, what)| {
        let folder = tempfile::tempdir().unwrap();
        let artifact = make(&Store::at(folder.path()).unwrap(), &facts(1), &FILES);
        (folder, artifact, alter, what)
    });
    std::thread::sleep(Duration::from_millis(2_100));
    for (folder, artifact, alter, what) in stores {
        let first = Store::at(folder.path()).unwrap();
        assert!(matches!(first.find(artifact.fingerprint).unwrap(), Found::Whole(_)));
        first.save_memo().unwrap();
        let store = Store::at(folder.path()).unwrap();
        assert!(store.memo.lesson_of(&artifact.fingerprint.to_string(), &artifact.folder).is_some());
        let Found::Whole(found) = store.find(artifact.fingerprint).unwrap() else { panic!("it is whole") };
        assert_eq!((&found.brief, found.manifest().unwrap()), (&artifact.brief, artifact.manifest().unwrap()));
        alter(&artifact.folder);
        assert!(matches!(store.find(artifact.fingerprint).unwrap(), Found::Damaged(found) if found == what), "{what}");
    }
}

#[test]
fn an_altered_result_goes_to_quarantine_and_is_never_returned() {
    for (alter, what) in ways() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let artifact = make(&store, &facts(1), &FILES);
        alter(&artifact.folder);
        assert!(matches!(store.find(artifact.fingerprint).unwrap(), Found::Damaged(found) if found == what));
        let draft = draft(&store, &facts(1));
        assert_eq!(draft.damage.as_deref(), Some(what));
        let again = publish(draft, &FILES);
        assert_eq!(again.brief.content, artifact.brief.content);
        assert_eq!(fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 1);
    }
}

#[test]
fn a_draft_that_was_dropped_leaves_scratch_but_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let first = draft(&store, &facts(1));
    fs::write(first.scratch().join("step"), "7").unwrap();
    fs::write(first.records().join("metrics.jsonl"), "{}\n").unwrap();
    fs::write(first.output().join("half"), "").unwrap();
    drop(first);
    assert!(store.is_begun(Fingerprint::of(&facts(1))));
    assert!(matches!(store.find(Fingerprint::of(&facts(1))).unwrap(), Found::Absent));
    let second = draft(&store, &facts(1));
    assert_eq!(fs::read_to_string(second.scratch().join("step")).unwrap(), "7");
    assert!(second.records().join("metrics.jsonl").exists());
    assert!(!second.output().join("half").exists());
}

/// A process killed between the two steps of publishing once left a draft that nobody ever cleared.
#[test]
fn what_is_left_of_a_published_draft_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let artifact = make(&store, &facts(1), &[("rows.jsonl", "{}\n")]);
    let left = folder.path().join("drafts").join(artifact.fingerprint.to_string());
    fs::create_dir_all(left.join("scratch")).unwrap();
    assert!(matches!(store.open(&facts(1), &mut || false).unwrap(), Lookup::Hit(_)));
    assert!(!left.exists());
}

#[test]
fn records_without_scratch_are_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let first = draft(&store, &facts(1));
    fs::write(first.records().join("metrics.jsonl"), "{}\n").unwrap();
    drop(first);
    assert!(!draft(&store, &facts(1)).records().join("metrics.jsonl").exists());
}

#[test]
fn a_stage_that_wrote_nothing_or_a_link_publishes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let error = draft(&store, &facts(1)).publish("rows", provenance()).unwrap_err();
    assert_eq!(error.to_string(), "the stage wrote nothing below its output folder");
    #[cfg(unix)]
    {
        let draft = draft(&store, &facts(1));
        std::os::unix::fs::symlink("/etc/hostname", draft.output().join("link")).unwrap();
        let error = draft.publish("rows", provenance()).unwrap_err();
        assert_eq!(error.to_string(), "in the output folder, `link` is neither a file nor a folder");
    }
    assert!(matches!(store.find(Fingerprint::of(&facts(1))).unwrap(), Found::Absent));
}

#[test]
fn a_held_draft_is_busy_for_the_impatient() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Store::at(folder.path()).unwrap(), Store::at(folder.path()).unwrap());
    let held = draft(&one, &facts(1));
    assert!(matches!(two.open(&facts(1), &mut || false).unwrap(), Lookup::Busy));
    drop(held);
    assert!(matches!(two.open(&facts(1), &mut || false).unwrap(), Lookup::Miss(_)));
}

#[test]
fn of_many_who_want_the_same_result_one_makes_it_and_all_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let (start, made) = (Barrier::new(8), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::at(folder.path()).unwrap();
                start.wait();
                for seed in 0..5 {
                    match store.open(&facts(seed), &mut || true).unwrap() {
                        Lookup::Hit(artifact) => assert!(artifact.data().join("rows.jsonl").exists()),
                        Lookup::Busy => panic!("patience does not end here"),
                        Lookup::Miss(draft) => {
                            made.fetch_add(1, Ordering::SeqCst);
                            fs::write(draft.output().join("rows.jsonl"), seed.to_string()).unwrap();
                            draft.publish("rows", provenance()).unwrap();
                        }
                    }
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 5);
    assert_eq!(fs::read_dir(folder.path().join("drafts")).unwrap().count(), 0);
}

#[test]
fn a_store_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("format"), "2").unwrap();
    let message = Store::at(folder.path()).unwrap_err().to_string();
    assert!(message.ends_with("has format \"2\", and this program reads format \"1\""), "{message}");
}

#[test]
fn a_node_remembers_its_result_and_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let [first, second] = [1, 2].map(|seed| Fingerprint::of(&facts(seed)));
    assert_eq!(store.last("p/q", "n"), None);
    for fingerprint in [first, first, second, second] {
        store.remember("p/q", "n", fingerprint).unwrap();
    }
    assert_eq!(store.last("p/q", "n"), Some(Last { fingerprint: second, before: Some(first) }));
}

/// A text long enough to be shared.
fn long(letter: &str) -> String {
    letter.repeat(5_000)
}

#[cfg(unix)]
#[test]
fn equal_files_of_two_results_are_one_file() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let inode = |artifact: &Artifact, name: &str| fs::metadata(artifact.data().join(name)).unwrap().ino();
    let first = make(&store, &facts(1), &[("big", &long("a")), ("small", "a")]);
    let second = make(&store, &facts(2), &[("deep/other", &long("a")), ("small", "a"), ("own", &long("b"))]);
    assert_eq!(inode(&first, "big"), inode(&second, "deep/other"));
    assert_ne!(inode(&first, "small"), inode(&second, "small"));
    assert!(matches!(store.find(first.fingerprint).unwrap(), Found::Whole(_)));
    assert!(matches!(store.find(second.fingerprint).unwrap(), Found::Whole(_)));
}

#[test]
fn an_altered_file_is_not_shared_with_later_results() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let first = make(&store, &facts(1), &[("big", &long("a"))]);
    let object = store.object(Digest::of_bytes(long("a").as_bytes()));
    let mut permissions = fs::metadata(&object).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "an intruder does")]
    permissions.set_readonly(false);
    fs::set_permissions(&object, permissions).unwrap();
    fs::write(&object, long("b")).unwrap();
    let second = make(&store, &facts(2), &[("big", &long("a"))]);
    assert!(matches!(store.find(second.fingerprint).unwrap(), Found::Whole(_)));
    assert!(matches!(store.find(first.fingerprint).unwrap(), Found::Damaged(_)));
}

#[test]
fn without_locks_both_make_it_and_the_first_wins() {
    let folder = tempfile::tempdir().unwrap();
    let unlocked = || Store { locks: Locks::Missing, ..Store::at(folder.path()).unwrap() };
    let (one, two) = (unlocked(), unlocked());
    let (first, second) = (draft(&one, &facts(1)), draft(&two, &facts(1)));
    fs::write(first.output().join("rows"), "first").unwrap();
    fs::write(second.output().join("rows"), "second").unwrap();
    let second = second.publish("rows", provenance()).unwrap();
    let first = first.publish("rows", provenance()).unwrap();
    assert_eq!(first.manifest().unwrap(), second.manifest().unwrap());
    assert_eq!(fs::read_to_string(first.data().join("rows")).unwrap(), "second");
    assert_eq!(fs::read_dir(folder.path().join("drafts")).unwrap().count(), 0);
}

#[test]
fn what_an_earlier_try_left_running_cannot_reach_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let first = draft(&store, &facts(1));
    let late = first.output().join("late");
    drop(first);
    let second = draft(&store, &facts(1));
    assert!(fs::write(late, "garbage").is_err());
    fs::write(second.output().join("rows"), "1").unwrap();
    assert_eq!(second.publish("rows", provenance()).unwrap().manifest().unwrap().files.len(), 1);
}

/// Every step of making a result, one after the other, finds the disk full.
#[test]
fn a_full_disk_at_any_step_records_nothing_and_the_next_try_works() {
    let mut failures = 0;
    for steps in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let work = || -> Result<Artifact, PublishError> {
            let Lookup::Miss(draft) = store.open(&facts(1), &mut || false)? else { panic!("it is there already") };
            fs::write(draft.output().join("big"), long("a")).unwrap();
            fs::write(draft.records().join("metrics.jsonl"), "{}\n").unwrap();
            let artifact = draft.publish("rows", provenance())?;
            store.remember("p", "n", artifact.fingerprint)?;
            Ok(artifact)
        };
        fault::fill_disk_in(Some(steps));
        let first = work();
        fault::fill_disk_in(None);
        match first {
            Ok(_) => break,
            Err(PublishError::Store(StoreError::Io { source, .. })) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull, "step {steps}");
            }
            Err(other) => panic!("step {steps}: {other}"),
        }
        failures += 1;
        let found = store.find(Fingerprint::of(&facts(1))).unwrap();
        // Only what came after the rename may be missing.
        match found {
            Found::Absent => assert_eq!(work().unwrap().manifest().unwrap().files.len(), 1),
            Found::Whole(_) => {}
            Found::Damaged(what) => panic!("step {steps}: {what}"),
        }
        assert!(store.verify(&mut |_| ()).unwrap().damages.is_empty(), "step {steps}");
    }
    assert!(failures > 20, "{failures} steps are too few to be all");
}

#[test]
fn a_pointer_that_was_altered_is_as_good_as_none_and_verify_tells() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let made = make(&store, &facts(1), &[("rows", "1")]);
    store.remember("p", "n", made.fingerprint).unwrap();
    let path = store.last_path("p", "n");
    let name = made.fingerprint.to_string();
    let text = fs::read_to_string(&path).unwrap().replace(&name, &name.replace('a', "b"));
    fs::write(&path, text).unwrap();
    assert_eq!(store.last("p", "n"), None);
    let keep = Keep {
        roots: BTreeSet::new(),
        last_results: true,
        grace: Duration::ZERO,
        unfinished: Duration::ZERO,
        size: None,
    };
    let error = store.survey(&keep).unwrap_err().to_string();
    assert!(error.ends_with("nodes/p/n.json` was altered: `mashbill verify` sets it right"), "{error}");
    let examined = store.verify(&mut |_| ()).unwrap();
    assert_eq!(examined.damages.len(), 1);
    assert_eq!(examined.damages[0].path, Path::new("nodes/p/n.json"));
    assert!(store.verify(&mut |_| ()).unwrap().damages.is_empty());
}

#[test]
fn a_record_that_was_altered_is_not_shown_and_the_result_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let draft = draft(&store, &facts(1));
    fs::write(draft.output().join("rows"), "1").unwrap();
    fs::write(draft.records().join("metrics.jsonl"), "{\"loss\": 1.5}\n").unwrap();
    let artifact = draft.publish("rows", provenance()).unwrap();
    assert_eq!(artifact.last_metrics().unwrap()["loss"], json!(1.5));
    tamper(&artifact.folder.join("metrics.jsonl"), "{\"loss\": 0.5}\n");
    assert_eq!(artifact.last_metrics(), None);
    assert!(matches!(store.find(artifact.fingerprint).unwrap(), Found::Whole(_)));
    let damages = store.verify(&mut |_| ()).unwrap().damages;
    let told: Vec<_> = damages.iter().map(|damage| (damage.what.as_str(), damage.remedy)).collect();
    assert_eq!(told, [("the bytes of `metrics.jsonl` changed", "the result itself is whole")]);
}

fn sweep(store: &Store, keep: &Keep) -> usize {
    let survey = store.survey(keep).unwrap();
    store.sweep(&survey).unwrap();
    survey.remove.len()
}

fn only(roots: &[&Artifact]) -> Keep {
    let roots = roots.iter().map(|artifact| artifact.fingerprint).collect();
    Keep { roots, last_results: false, grace: Duration::ZERO, unfinished: Duration::ZERO, size: None }
}

fn is_there(store: &Store, artifact: &Artifact) -> bool {
    matches!(store.find(artifact.fingerprint).unwrap(), Found::Whole(_))
}

#[test]
fn a_sweep_removes_what_nobody_needs_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let artifacts: Vec<Artifact> = (0..6)
        .map(|seed| make(&store, &facts(seed), &[("big", &long(&seed.to_string())), ("same", &long("x"))]))
        .collect();
    let [root, pinned, leased, last, old, older] = &artifacts[..] else { panic!("there are six") };
    store.pin(pinned.fingerprint, "the best so far").unwrap();
    let lease = store.lease();
    lease.add(leased.fingerprint);
    store.remember("p", "n", last.fingerprint).unwrap();
    let keep = Keep { last_results: true, ..only(&[root]) };
    let survey = store.survey(&keep).unwrap();
    assert_eq!(survey.keep.iter().map(|(_, why)| *why).filter(|why| *why == Why::InUse).count(), 1);
    assert!(artifacts.iter().all(|artifact| is_there(&store, artifact)), "a survey removes nothing");
    // `big` alone goes: `same` is in other results too.
    assert_eq!(
        survey.remove[0].bytes,
        5_000
            + fs::metadata(old.folder.join("manifest.json")).unwrap().len()
            + fs::metadata(old.folder.join("facts.json")).unwrap().len()
    );
    store.sweep(&survey).unwrap();
    let left: Vec<bool> = artifacts.iter().map(|artifact| is_there(&store, artifact)).collect();
    assert_eq!(left, [true, true, true, true, false, false]);
    let _ = older;
    assert!(!store.object(Digest::of_bytes(long("4").as_bytes())).exists());
    assert!(store.object(Digest::of_bytes(long("x").as_bytes())).exists());

    drop(lease);
    store.unpin(pinned.fingerprint).unwrap();
    assert_eq!(sweep(&store, &only(&[root])), 3);
    assert!(is_there(&store, root));
    // No pointer is left that points to nothing.
    assert_eq!(store.last("p", "n"), None);
    assert!(store.verify(&mut |_| ()).unwrap().damages.is_empty());
}

#[test]
fn what_was_used_just_now_stays_and_so_does_what_there_is_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let [new, old] = [1, 2].map(|seed| make(&store, &facts(seed), &[("big", &long(&seed.to_string()))]));
    let age = |artifact: &Artifact, hours: u64| {
        let time = std::time::SystemTime::now() - Duration::from_hours(hours);
        File::open(&artifact.folder).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    };
    age(&new, 1);
    age(&old, 2);
    let nothing = only(&[]);
    assert_eq!(store.survey(&Keep { grace: Duration::from_hours(3), ..nothing.clone() }).unwrap().remove.len(), 0);
    // One of the two has room.
    let size = Some(store.survey(&nothing).unwrap().bytes - 1);
    assert_eq!(sweep(&store, &Keep { size, ..nothing.clone() }), 1);
    assert!(is_there(&store, &new) && !is_there(&store, &old));
    // Reusing it is using it.
    store.reuse(new.fingerprint).unwrap();
    assert_eq!(store.survey(&Keep { grace: Duration::from_mins(30), ..nothing }).unwrap().remove.len(), 0);
}

#[test]
fn a_draft_that_somebody_works_on_is_not_swept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let held = draft(&store, &facts(1));
    drop(draft(&store, &facts(2)));
    let survey = store.survey(&only(&[])).unwrap();
    store.sweep(&survey).unwrap();
    assert!(held.scratch().exists());
    assert_eq!(fs::read_dir(folder.path().join("drafts")).unwrap().count(), 1);
}

#[test]
fn a_packed_result_is_the_same_elsewhere_and_an_altered_one_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::at(here.path()).unwrap();
    let artifact = make(&store, &facts(1), &[("rows.jsonl", &long("a")), ("deep/file", "x")]);
    let mut packed = Vec::new();
    artifact.pack(&mut packed).unwrap();
    let mut again = Vec::new();
    artifact.pack(&mut again).unwrap();
    assert!(packed == again);

    let other = Store::at(there.path()).unwrap();
    let unpacked = other.unpack(&packed[..], u64::MAX).unwrap();
    assert_eq!(unpacked.manifest().unwrap(), artifact.manifest().unwrap());
    let Lookup::Hit(found) = other.open(&facts(1), &mut || false).unwrap() else { panic!("not found") };
    assert_eq!(fs::read_to_string(found.data().join("deep/file")).unwrap(), "x");
    // Again is no harm.
    assert_eq!(other.unpack(&packed[..], u64::MAX).unwrap().manifest().unwrap(), artifact.manifest().unwrap());

    let mut refused = 0;
    for at in (0..packed.len()).step_by(97) {
        let mut altered = packed.clone();
        altered[at] ^= 0x20;
        let elsewhere = tempfile::tempdir().unwrap();
        let store = Store::at(elsewhere.path()).unwrap();
        match store.unpack(&altered[..], u64::MAX) {
            Err(_) => refused += 1,
            // Headers hold modes and padding that decide nothing.
            Ok(unpacked) => assert_eq!(unpacked.manifest().unwrap(), artifact.manifest().unwrap()),
        }
        assert_eq!(entries(&store.root.join("drafts")).unwrap(), Vec::<String>::new());
    }
    assert!(refused > 50, "{refused}");
    assert!(
        Store::at(tempfile::tempdir().unwrap().path()).unwrap().unpack(&packed[..packed.len() / 2], u64::MAX).is_err()
    );
}

/// A kill while a result was being published once took the records with it, but left the saved state that they go with.
#[test]
fn who_is_stopped_while_publishing_keeps_state_and_records_together() {
    for steps in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let first = draft(&store, &facts(1));
        fs::write(first.scratch().join("saved"), "5").unwrap();
        fs::write(first.records().join("metrics.jsonl"), "{}\n").unwrap();
        fs::write(first.output().join("rows"), "1").unwrap();
        fault::fill_disk_in(Some(steps));
        let published = first.publish("rows", provenance());
        fault::fill_disk_in(None);
        if published.is_ok() {
            break;
        }
        let Lookup::Miss(second) = store.open(&facts(1), &mut || false).unwrap() else { break };
        assert!(second.scratch().join("saved").exists() && second.records().join("metrics.jsonl").exists());
    }
}
