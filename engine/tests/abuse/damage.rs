//! Every file of a store, altered byte by byte and cut short: it is found, or it makes no difference.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use engine::{Fingerprint, Store};

use crate::project::Project;

const PIPELINE: &str = "\
nodes:
  a: { stage: command, with: { sh: cat in.txt > $OUTPUT/text; echo read, files: [in.txt] } }
  b: { stage: command, with: { sh: cp $INPUT_x/text $OUTPUT/same; wc -c < $INPUT_x/text > $OUTPUT/size }, inputs: { x: a } }
  c: { stage: command, with: { sh: cat $INPUT_x/* > $OUTPUT/all; echo done }, inputs: { x: b } }
";

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// All of a store, by path.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = Vec::new();
    files_below(folder, &mut found);
    found.into_iter().map(|path| (path.strip_prefix(folder).unwrap().into(), fs::read(&path).unwrap())).collect()
}

/// Makes the folder hold exactly these files, and no two names of one.
fn restore(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = fs::remove_dir_all(folder);
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    }
}

/// What the results are: the data of each, and what each says of itself.
fn results(project: &Project) -> Vec<(String, BTreeMap<PathBuf, Vec<u8>>)> {
    ["a", "b", "c"].map(|node| (node.to_owned(), contents(&project.data(node)))).into()
}

/// What a store says, however it is written: line ends in a document may be other white space.
fn meaning(store: &Store, fingerprints: &[Fingerprint]) -> String {
    let says = fingerprints.iter().map(|fingerprint| format!("{:?}", store.recall(*fingerprint)));
    let last = ["a", "b", "c"].map(|node| format!("{:?}", store.last("p", node)));
    says.chain(last).collect::<Vec<_>>().join("\n")
}

/// Every `stride`-th byte of every file is flipped, and every file is cut at as many places.
fn damage_everything(stride: usize) {
    let project = Project::new(PIPELINE, &[("in.txt", &"a line of text\n".repeat(400))]);
    assert_eq!(project.outcomes(), "made made made");
    // Old enough for the memo to hold them.
    thread::sleep(Duration::from_millis(2_100));
    assert_eq!(project.outcomes(), "reused reused reused");
    let folder = project.path().join(".store");
    let (whole, expected) = (contents(&folder), results(&project));
    let fingerprints = ["a", "b", "c"].map(|node| project.store().last("p", node).unwrap().fingerprint);
    let said = meaning(&project.store(), &fingerprints);
    let (mut found, mut harmless) = (0, 0);
    let mut check = |path: &Path, altered: Option<Vec<u8>>, how: &str| {
        restore(&folder, &whole);
        let target = folder.join(path);
        fs::remove_file(&target).unwrap();
        if let Some(bytes) = altered {
            fs::write(&target, bytes).unwrap();
        }
        let told = format!("{} {how}", path.display());
        let Ok(store) = Store::at(&folder) else {
            assert_eq!(path, Path::new("format"), "{told}");
            found += 1;
            return;
        };
        // No run ends with anything but the right results, whatever it reused.
        let outcomes = project.outcomes();
        assert!(!outcomes.contains("failed"), "{told}: {outcomes}");
        assert!(results(&project) == expected, "{told}: other results");

        restore(&folder, &whole);
        fs::remove_file(&target).unwrap();
        if how != "gone" {
            fs::write(&target, altered_again(&whole[path], how)).unwrap();
        }
        let is_same = meaning(&store, &fingerprints) == said;
        let damages = store.verify(&mut |_| ()).unwrap().damages;
        if damages.is_empty() {
            // White space in a document, or a file that says nothing.
            let says_nothing = [".gitignore", "format", "memo"].iter().any(|name| path == Path::new(name));
            let is_gone = how == "gone";
            assert!(is_same || is_gone || says_nothing, "{told}: not found");
            let is_data = path.components().any(|part| part.as_os_str() == "data" || part.as_os_str() == "objects");
            assert!(!is_data || is_gone, "{told}: not found");
            harmless += 1;
        } else {
            found += 1;
        }
    };
    for (path, bytes) in &whole {
        check(path, None, "gone");
        for at in (0..bytes.len()).step_by(stride) {
            for how in [format!("flip {at}"), format!("cut {at}")] {
                check(path, Some(altered_again(bytes, &how)), &how);
            }
        }
    }
    println!("{} files, {found} alterations found, {harmless} of no consequence", whole.len());
    assert!(found > harmless);
}

/// `flip 7` or `cut 7`.
fn altered_again(bytes: &[u8], how: &str) -> Vec<u8> {
    let (word, at) = how.split_once(' ').unwrap();
    let at: usize = at.parse().unwrap();
    let mut bytes = bytes.to_vec();
    if word == "cut" {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 1;
    }
    bytes
}

/// One byte in 397 of each file, and the first: about one in a hundred of all. With `MASHBILL_TEST_ALL=1` every seventh.
#[test]
fn damage_is_found_or_harmless() {
    damage_everything(if std::env::var_os("MASHBILL_TEST_ALL").is_some() { 7 } else { 397 });
}
