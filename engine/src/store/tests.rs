use std::{
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;

use super::*;

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
    let draft = draft(store, facts);
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
    assert_eq!(found.manifest, made.manifest);
    assert_eq!(fs::read_to_string(found.data().join("deep/file")).unwrap(), "x");
    assert!(matches!(store.open(&facts(2), &mut || false).unwrap(), Lookup::Miss(_)));
}

#[test]
fn equal_files_have_equal_content_whatever_the_facts() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let content = |seed, text| make(&store, &facts(seed), &[("rows.jsonl", text)]).manifest.content;
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

#[test]
fn an_altered_result_goes_to_quarantine_and_is_never_returned() {
    type Tamper = fn(&Path);
    let ways: [(Tamper, &str); 6] = [
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
    ];
    for (alter, what) in ways {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let artifact = make(&store, &facts(1), &[("rows.jsonl", "{}\n")]);
        alter(&artifact.folder);
        assert!(matches!(store.find(artifact.manifest.fingerprint).unwrap(), Found::Damaged(found) if found == what));
        let draft = draft(&store, &facts(1));
        assert_eq!(draft.damage.as_deref(), Some(what));
        fs::write(draft.output().join("rows.jsonl"), "{}\n").unwrap();
        let again = draft.publish("rows", provenance()).unwrap();
        assert_eq!(again.manifest.content, artifact.manifest.content);
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
    let left = folder.path().join("drafts").join(artifact.manifest.fingerprint.to_string());
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
