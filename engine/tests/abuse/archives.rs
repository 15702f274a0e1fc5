//! Packed results that somebody made by hand: what they may write, and where.

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::{Artifact, Digest, FileEntry, Found, Manifest, PackError, Store};

use crate::project::Project;

/// A result with a short name, a long one and a record.
fn project() -> Project {
    let long = "n".repeat(150);
    let sh = format!("echo said; echo rows > $OUTPUT/rows.jsonl; mkdir $OUTPUT/deep; echo x > $OUTPUT/deep/{long}");
    let project = Project::new(&format!("nodes:\n  a: {{ stage: command, with: {{ sh: \"{sh}\" }} }}\n"), &[]);
    assert_eq!(project.outcomes(), "made");
    project
}

fn artifact(project: &Project) -> Artifact {
    let store = project.store();
    match store.find(store.last("p", "a").unwrap().fingerprint).unwrap() {
        Found::Whole(artifact) => artifact,
        other => panic!("{other:?}"),
    }
}

/// Entries of an archive, in their order.
#[derive(Clone)]
struct Entries(Vec<(tar::Header, Vec<u8>, Vec<u8>)>);

impl Entries {
    /// Those of the result, with its manifest changed and sealed again.
    fn of(artifact: &Artifact, change: impl FnOnce(&mut Manifest)) -> Self {
        let mut manifest = artifact.manifest().unwrap().clone();
        let names: Vec<String> = manifest.files.keys().map(|name| format!("data/{name}")).collect();
        let names = [vec!["facts.json".into()], manifest.records.keys().cloned().collect(), names].concat();
        change(&mut manifest);
        let mut entries = Self(Vec::new());
        entries.add("manifest.json", &manifest.to_json());
        for name in names {
            entries.add(&name, &fs::read(artifact.folder.join(&name)).unwrap());
        }
        entries
    }

    fn add(&mut self, name: &str, bytes: &[u8]) {
        self.add_as(tar::EntryType::Regular, name, bytes);
    }

    fn add_as(&mut self, kind: tar::EntryType, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.0.push((header, name.as_bytes().to_vec(), bytes.to_vec()));
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (header, name, bytes) in &self.0 {
            let mut header = header.clone();
            if name.len() > 100 {
                let mut long = tar::Header::new_gnu();
                long.set_entry_type(tar::EntryType::GNULongName);
                long.set_size(name.len() as u64 + 1);
                append(&mut all, &mut long, b"././@LongLink", &[&name[..], b"\0"].concat());
            }
            append(&mut all, &mut header, &name[..name.len().min(100)], bytes);
        }
        all.extend([0; 1024]);
        all
    }
}

fn append(all: &mut Vec<u8>, header: &mut tar::Header, name: &[u8], bytes: &[u8]) {
    let field = &mut header.as_old_mut().name;
    field.fill(0);
    field[..name.len()].copy_from_slice(name);
    header.set_cksum();
    all.extend(header.as_bytes());
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
}

/// The whole sentence with which another store refuses these bytes.
fn refusal(bytes: impl Read) -> String {
    refusal_of(bytes, 1 << 20)
}

fn refusal_of(bytes: impl Read, most: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let error = store.unpack(bytes, most).expect_err("it is refused");
    assert_eq!(fs::read_dir(folder.path().join("artifacts")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(folder.path().join("drafts")).unwrap().count(), 0);
    assert!(!matches!(error, PackError::Store(_)), "it is the archive's fault and not the disk's: {error}");
    error.to_string()
}

fn entry(bytes: &[u8]) -> FileEntry {
    FileEntry { size: bytes.len() as u64, digest: Digest::of_bytes(bytes) }
}

/// The content is made right again: nothing else is wrong.
fn with_files(manifest: &mut Manifest, change: impl FnOnce(&mut Manifest)) {
    change(manifest);
    manifest.content = Digest::of_files(manifest.files.iter().map(|(name, file)| (name.as_str(), file.digest)));
}

#[test]
fn what_was_packed_is_unpacked_with_long_names_and_records() {
    let project = project();
    let artifact = artifact(&project);
    let mut packed = Vec::new();
    artifact.pack(&mut packed).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let unpacked = store.unpack(&packed[..], 1 << 20).unwrap();
    assert_eq!(unpacked.manifest().unwrap(), artifact.manifest().unwrap());
    assert_eq!(unpacked.record("log.txt").unwrap(), "said\n");
    // The same by hand, so that what is refused below is refused for what was changed.
    assert!(Store::at(folder.path()).unwrap().unpack(&Entries::of(&artifact, |_| ()).bytes()[..], 1 << 20).is_ok());
    assert!(store.verify(&mut |_| ()).unwrap().damages.is_empty());
}

/// A file that no archive has to touch, and the folder that holds it.
fn file_outside() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("canary");
    fs::write(&file, "known bytes").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    (folder, file)
}

/// A record's name was joined to the folder unchecked: whatever file it led to was made read-only.
#[test]
fn no_name_leads_out_of_the_result() {
    let project = project();
    let artifact = artifact(&project);
    let (_outside, canary) = file_outside();
    let absolute = canary.to_str().unwrap();
    let up = format!("{}{absolute}", "../".repeat(20));
    for name in [absolute, &up, "deep/log.txt", "..", ".", "", "data", "facts.json", "manifest.json", "a\0b"] {
        let bytes = Entries::of(&artifact, |manifest| {
            manifest.records.insert(name.into(), entry(b"known bytes"));
        });
        let said = refusal(&bytes.bytes()[..]);
        assert!(said.contains("`manifest.json` names a record `"), "{name}: {said}");
    }
    for name in [absolute, &up, "a/../b", "./a", "a//b", "a/", "/a", "", "a\0b", &"n".repeat(256), &"a/".repeat(1500)] {
        let bytes = Entries::of(&artifact, |manifest| {
            with_files(manifest, |manifest| _ = manifest.files.insert(name.into(), entry(b"known bytes")));
        });
        let said = refusal(&bytes.bytes()[..]);
        assert!(said.contains("`manifest.json` names a file `"), "{name}: {said}");
    }
    let bytes = Entries::of(&artifact, |manifest| {
        with_files(manifest, |manifest| _ = manifest.files.insert("rows.jsonl/a".into(), entry(b"x")));
    });
    assert!(refusal(&bytes.bytes()[..]).contains("names `rows.jsonl` as a file and as a folder"));
    assert_eq!(fs::metadata(&canary).unwrap().mode() & 0o777, 0o644);
}

/// Other rows under the true content digest were taken in, and used behind a node that was made.
#[test]
fn the_content_is_that_of_the_files() {
    let project = project();
    let artifact = artifact(&project);
    let forged = |manifest: &mut Manifest| {
        manifest.files.insert("rows.jsonl".into(), entry(b"forged\n"));
    };
    let mut bytes = Entries::of(&artifact, forged);
    let rows = bytes.0.iter_mut().find(|(_, name, _)| name == b"data/rows.jsonl").unwrap();
    rows.0.set_size(7);
    rows.2 = b"forged\n".to_vec();
    let said = refusal(&bytes.bytes()[..]);
    assert!(said.ends_with("the content in `manifest.json` is not that of its files"), "{said}");

    // One that lies in the store already, as an earlier version took it in.
    let mut manifest = artifact.manifest().unwrap().clone();
    forged(&mut manifest);
    for (name, bytes) in [("data/rows.jsonl", b"forged\n".to_vec()), ("manifest.json", manifest.to_json())] {
        fs::remove_file(artifact.folder.join(name)).unwrap();
        fs::write(artifact.folder.join(name), bytes).unwrap();
    }
    let store = project.store();
    assert!(matches!(store.find(artifact.fingerprint).unwrap(), Found::Damaged(_)));
    assert!(store.recall(artifact.fingerprint).is_none());
    let damages = store.verify(&mut |_| ()).unwrap().damages;
    assert_eq!(damages[0].what, "the content in `manifest.json` is not that of its files");
    assert_eq!(project.outcomes(), "made");
}

#[test]
fn what_lies_beside_a_result_undeclared_is_reported() {
    let pipe = |path: &Path| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    };
    let project = project();
    let folder = artifact(&project).folder;
    fs::write(folder.join("more"), "x").unwrap();
    pipe(&folder.join("pipe"));
    fs::remove_file(folder.join("log.txt")).unwrap();
    pipe(&folder.join("log.txt"));
    let mut found: Vec<String> =
        project.store().verify(&mut |_| ()).unwrap().damages.into_iter().map(|damage| damage.what).collect();
    found.sort();
    assert_eq!(found, ["`more` was added", "`pipe` was added", "the bytes of `log.txt` changed"]);
}

#[test]
fn an_archive_holds_what_its_manifest_declares_and_nothing_else() {
    use tar::EntryType;
    let project = project();
    let artifact = artifact(&project);
    let whole = || Entries::of(&artifact, |_| ());

    let mut more = whole();
    more.add("data/more", b"x");
    assert!(refusal(&more.bytes()[..]).contains("it holds `data/more`, which its manifest does not declare"));
    for name in ["../out", "/etc/passwd", "more"] {
        let mut more = whole();
        more.add(name, b"x");
        assert!(refusal(&more.bytes()[..]).contains("which its manifest does not declare"), "{name}");
    }
    let mut twice = whole();
    twice.add("data/rows.jsonl", b"rows\n");
    assert!(refusal(&twice.bytes()[..]).contains("it holds `data/rows.jsonl`, which its manifest does not declare"));
    let mut twice = whole();
    let first = twice.0[0].clone();
    twice.0.push(first);
    assert!(refusal(&twice.bytes()[..]).contains("it holds `manifest.json`, which its manifest does not declare"));

    let mut late = whole();
    late.0.swap(0, 1);
    assert!(refusal(&late.bytes()[..]).contains("it begins with `facts.json` and not with `manifest.json`"));
    for at in 1..whole().0.len() {
        let mut less = whole();
        less.0.remove(at);
        assert!(refusal(&less.bytes()[..]).ends_with("is not in it"), "{at}");
    }
    assert!(refusal(&[0; 1024][..]).contains("it holds no `manifest.json`"));

    let kinds = [
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Char,
        EntryType::Block,
        EntryType::Directory,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNULongLink,
        EntryType::GNUSparse,
        EntryType::XGlobalHeader,
        EntryType::XHeader,
        EntryType::new(b'Q'),
    ];
    for kind in kinds {
        for at in 0..whole().0.len() {
            let mut odd = whole();
            odd.add_as(kind, "data/rows.jsonl", b"");
            let last = odd.0.pop().unwrap();
            odd.0.insert(at, last);
            assert!(refusal(&odd.bytes()[..]).contains("which is no plain file"), "{kind:?} at {at}");
        }
    }
}

/// Counts what is read of it.
struct Counted<'a, R>(R, &'a Cell<u64>);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.set(self.1.get() + count as u64);
        Ok(count)
    }
}

/// An archive of 99 kB wrote 3 GB before it was refused.
#[test]
fn what_is_too_much_is_refused_before_it_is_read_or_written() {
    const BOMB: u64 = 3_000_000_000;
    let project = project();
    let artifact = artifact(&project);
    let header = |kind, name: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(BOMB);
        let mut bytes = Vec::new();
        append(&mut bytes, &mut header, name, b"");
        bytes
    };
    let start = |entries: &Entries| entries.bytes()[..entries.bytes().len() - 1024].to_vec();
    let read = |start: Vec<u8>, expected: &str| {
        let count = Cell::new(0);
        let said = refusal(Counted(io::Cursor::new(start).chain(io::repeat(0).take(BOMB)), &count));
        assert!(said.contains(expected), "{said}");
        assert!(count.get() < 32 << 20, "{} bytes were read: {said}", count.get());
    };
    let whole = Entries::of(&artifact, |_| ());
    let manifest = Entries(whole.0[..1].to_vec());
    let regular = tar::EntryType::Regular;
    let long = tar::EntryType::GNULongName;
    read(header(regular, b"manifest.json"), "`manifest.json` has more than 16777216 bytes");
    read(header(long, b"././@LongLink"), "which is no plain file");
    read([start(&manifest), header(regular, b"facts.json")].concat(), "`facts.json` has 3000000000 bytes");
    read([start(&manifest), header(regular, b"data/more")].concat(), "which its manifest does not declare");
    read([start(&manifest), header(regular, b"data/rows.jsonl")].concat(), "and its manifest declares 5");
    read([start(&manifest), header(long, b"././@LongLink")].concat(), "which is no plain file");

    // All declared as it should be, and too much.
    let bomb = |size: u64| {
        Entries::of(&artifact, |manifest| {
            let digest = Digest::of_bytes(b"whatever");
            with_files(manifest, |manifest| _ = manifest.files.insert("bomb".into(), FileEntry { size, digest }));
        })
    };
    read(start(&bomb(BOMB)), "and 1048576 are the limit");
    assert!(matches!(
        Store::at(tempfile::tempdir().unwrap().path()).unwrap().unpack(&bomb(BOMB).bytes()[..], 1 << 20),
        Err(PackError::TooLarge { most: 1_048_576, .. })
    ));
    let two = Entries::of(&artifact, |manifest| {
        let entry = FileEntry { size: u64::MAX, digest: Digest::of_bytes(b"") };
        with_files(manifest, |manifest| {
            manifest.files.extend([("a".to_owned(), entry), ("b".to_owned(), entry)]);
        });
    });
    assert!(refusal_of(&two.bytes()[..], u64::MAX - 1).contains("are the limit"));
    let many = Entries::of(&artifact, |manifest| {
        with_files(manifest, |manifest| {
            manifest.files.extend((0..100_000).map(|at| (format!("{at}"), entry(b""))));
        });
    });
    assert!(refusal(&many.bytes()[..]).contains("has 100003 files, and 100000 are the limit"));
}

/// Archives with random changes: 400 of them, or as many as fit the seconds of `MASHBILL_FUZZ_SECONDS`.
#[test]
fn a_changed_archive_is_refused_or_gives_the_same_result() {
    let project = project();
    let artifact = artifact(&project);
    let (outside, canary) = file_outside();
    let state = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.mtime_nsec(), metadata.mtime(), fs::read(path).unwrap())
    };
    let before = state(&canary);
    let room = tempfile::tempdir().unwrap();
    let seconds = std::env::var("MASHBILL_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let (started, mut chance, mut count, mut taken) = (Instant::now(), Chance(0x5EED), 0_u64, 0_u64);
    while seconds.map_or(count < 400, |seconds| started.elapsed() < Duration::from_secs(seconds)) {
        count += 1;
        let bytes = chance.changed(&artifact, canary.to_str().unwrap());
        let store = Store::at(room.path().join(format!("store-{count}"))).unwrap();
        if let Ok(unpacked) = store.unpack(&bytes[..], 1 << 20) {
            taken += 1;
            let (new, old) = (unpacked.manifest().unwrap(), artifact.manifest().unwrap());
            assert_eq!(new.contradiction(), None);
            assert_eq!(unpacked.facts().unwrap(), artifact.facts().unwrap());
            // Whoever seals a manifest anew may declare less or other files, and then those are what is there.
            if new.content == old.content {
                assert_eq!(new.files.keys().collect::<Vec<_>>(), old.files.keys().collect::<Vec<_>>());
            }
            assert!(store.verify(&mut |_| ()).unwrap().damages.is_empty());
        }
        assert_eq!(fs::read_dir(store.root().join("drafts")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
        assert_eq!(state(&canary), before);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        fs::remove_dir_all(store.root()).unwrap();
    }
    assert!(taken > 0 && taken < count, "{taken} of {count}");
    println!("{count} archives in {:.0} s, {taken} of them whole", started.elapsed().as_secs_f64());
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 20) as usize % end.max(1)
    }

    fn changed(&mut self, artifact: &Artifact, canary: &str) -> Vec<u8> {
        let up = format!("{}{canary}", "../".repeat(20));
        let names =
            [canary, &up, "..", "data", "data/", "data/rows.jsonl", "data/rows.jsonl/x", "facts.json", "", "\0", "q"];
        let name = names[self.below(names.len())].to_owned();
        let sizes = [0, 1, 5, 11, 512, 1 << 33, u64::MAX - 511, u64::MAX];
        let size = sizes[self.below(sizes.len())];
        let digest = Digest::of_bytes([&b"known bytes"[..], b"rows\n", b""][self.below(3)]);
        let (kind, is_right) = (self.below(8), self.below(2) == 0);
        let mut entries = Entries::of(artifact, |manifest| {
            match kind {
                0 => drop(manifest.records.insert(name.clone(), FileEntry { size, digest })),
                1 => drop(manifest.files.insert(name.clone(), FileEntry { size, digest })),
                2 => manifest.records.clear(),
                3 => drop(manifest.files.pop_first()),
                _ => {}
            }
            if is_right {
                with_files(manifest, |_| ());
            }
        });
        for _ in 0..self.below(3) {
            let at = self.below(entries.0.len());
            let types = [b'0', b'1', b'2', b'3', b'5', b'6', b'7', b'L', b'K', b'S', b'x', b'g', 0];
            match self.below(7) {
                0 => entries.0[at].1 = name.clone().into_bytes(),
                1 => entries.0[at].0.set_size(size),
                2 => entries.0[at].0.set_entry_type(tar::EntryType::new(types[self.below(types.len())])),
                3 => drop(entries.0.remove(at)),
                4 => {
                    let again = entries.0[at].clone();
                    entries.0.push(again);
                }
                5 => {
                    let to = self.below(entries.0.len());
                    entries.0.swap(at, to);
                }
                _ => entries.add(&name, b"known bytes"),
            }
            if entries.0.is_empty() {
                break;
            }
        }
        let mut bytes = entries.bytes();
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len());
            match self.below(3) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes.truncate(at),
                _ => {
                    let end = (at + self.below(2000)).min(bytes.len());
                    drop(bytes.drain(at..end));
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}
