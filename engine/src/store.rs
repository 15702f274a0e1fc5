//! Keeps results: finished ones read-only under their fingerprint, unfinished ones as locked drafts.
//! Knows nothing of pipelines, stages or what the files hold.
//!
//! ```text
//! format                            layout of all below
//! artifacts/<fingerprint>/          there at once, by one rename, or not at all
//!   data/                           what the stage wrote
//!   metrics.jsonl, samples.jsonl, log.txt    what it recorded beside that
//!   facts.json, manifest.json
//! objects/<ab>/<digest>             a second name for every larger file: equal files are one file
//! drafts/<fingerprint>/             lock, scratch/, records/, and a folder for each try
//! nodes/<pipeline>/<node>.json      the result that a node had last, and the one before
//! runs/<number>/                    what each run was asked and what came of it; see `runs.rs`
//! pins/<fingerprint>                results that are kept whatever happens
//! leases/                           the results that each run in progress uses, locked by it
//! quarantine/                       what was no longer what had been published
//! memo                              digests of files whose stat is unchanged
//! ```
//!
//! A result is named by what decides it and appears by one rename, so that whoever comes second finds it made: locks
//! only keep two from doing the same work, and where a file system has none, both do it and the first wins.

mod disk;
mod draft;
mod gc;
mod lease;
mod lock;
mod pack;
mod sealed;
mod verify;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    digest::{Digest, Links, Memo, all_below, read_all},
    facts::{Facts, Fingerprint},
    manifest::{Manifest, Provenance},
    store::{
        disk::{At, make_folder, remove_folder, rename},
        lock::{Lock, lock, unique_name},
    },
};

#[cfg(test)]
pub(crate) use disk::fault;
pub(crate) use disk::replace;
pub use draft::Draft;
pub use gc::{Candidate, Keep, Sweep, Why};
pub use lease::Lease;
pub use pack::PackError;
pub use verify::{Damage, Examined};

const FORMAT: &str = "1";
const POINTER: &str = "mashbill 1 pointer";

/// What keeps the store from its work: nothing that a pipeline could mend.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the store `{}` has format {found:?}, and this program reads format {FORMAT:?}", path.display())]
    Format { path: PathBuf, found: String },
    #[error("the folder `{}` vanished while a node worked in it", path.display())]
    Gone { path: PathBuf },
    #[error("the disk is full at `{}`", path.display())]
    Full { path: PathBuf },
    #[error("`{}` was altered: `mashbill verify` sets it right", path.display())]
    Altered { path: PathBuf },
}

/// Why a draft cannot be published: the stage's doing, not the store's.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the stage wrote nothing below its output folder")]
    Empty,
    #[error("in the output folder, {0}")]
    NotPlain(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A folder of results.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    memo: Memo,
    locks: Locks,
    /// The drafts that were there when somebody first asked.
    leftovers: OnceLock<BTreeSet<String>>,
}

/// Does the file system lock files?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locks {
    Kept,
    /// As if it did not, for tests.
    #[cfg(test)]
    Missing,
}

/// What the store has for some facts.
#[derive(Debug)]
pub enum Found {
    Whole(Artifact),
    Absent,
    /// Something is there that isn't what was published.
    Damaged(String),
}

/// What opening a result gives: the result, or the right to make it.
#[derive(Debug)]
pub enum Lookup<'a> {
    Hit(Artifact),
    Miss(Draft<'a>),
    /// Somebody else is making it, and the caller did not want to wait.
    Busy,
}

impl Store {
    /// Opens the store in a folder, which need not exist yet.
    ///
    /// # Errors
    /// When another version of the store lies there.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let format = root.join("format");
        match fs::read(&format) {
            Ok(found) if found.trim_ascii() != FORMAT.as_bytes() => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(StoreError::Format { path: root, found });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &format),
        }
        let memo = Memo::load(&root.join("memo"));
        Ok(Self { root, memo, locks: Locks::Kept, leftovers: OnceLock::new() })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at all that was found whole before, while the caller finds out what it wants. Worth it for who asks of most
    /// of it at once, and on a thread of its own.
    pub fn look_ahead(&self) {
        self.memo.look_ahead(&self.root);
    }

    /// Looks for a result and verifies it; changes nothing.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub fn find(&self, fingerprint: Fingerprint) -> Result<Found, StoreError> {
        let folder = self.artifact_folder(fingerprint);
        let name = fingerprint.to_string();
        if let Some(brief) = self.memo.lesson_of(&name, &folder).and_then(|lesson| serde_json::from_str(&lesson).ok()) {
            return Ok(Found::Whole(Artifact { folder, fingerprint, brief, documents: Arc::default() }));
        }
        match fs::metadata(&folder) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(error) => return Err(error).at("read", &folder),
        }
        let paths = || {
            let data = all_below(&folder.join("data"))?.into_iter().map(|path| format!("data/{path}"));
            Ok(["data", "facts.json", "manifest.json"].map(str::to_owned).into_iter().chain(data).collect())
        };
        let look = || {
            let artifact = Self::examine(&self.memo, fingerprint, &folder)?;
            let lesson = serde_json::to_string(&artifact.brief).expect("plain data with text for keys");
            Ok((artifact, lesson))
        };
        match self.memo.learn(&name, (&self.root, &format!("artifacts/{name}")), paths, look) {
            Ok(artifact) => Ok(Found::Whole(artifact)),
            // Whoever swept it away meanwhile took the whole folder.
            Err(Doubt::Damage(_)) if !folder.exists() => Ok(Found::Absent),
            Err(Doubt::Damage(what)) => Ok(Found::Damaged(what)),
            Err(Doubt::Store(error)) => Err(error),
        }
    }

    /// The result that `facts` decide, or the draft that may become it. While another process holds that draft,
    /// `patience` is asked about ten times a second whether to wait on.
    ///
    /// A result that is no longer what was published goes to quarantine: it is never returned.
    ///
    /// # Errors
    /// When the disk does not do what it should.
    pub fn open(&self, facts: &Facts, patience: &mut dyn FnMut() -> bool) -> Result<Lookup<'_>, StoreError> {
        let fingerprint = Fingerprint::of(facts);
        if let Found::Whole(artifact) = self.reuse(fingerprint)? {
            return Ok(Lookup::Hit(artifact));
        }
        let Some((folder, lock)) = self.claim(fingerprint, patience)? else { return Ok(Lookup::Busy) };
        // Whoever held the lock may have published, and nobody else can now.
        let damage = match self.find(fingerprint)? {
            Found::Whole(artifact) => {
                // Another process may be waiting in there, and will find the same artifact.
                let _ = remove_folder(&folder);
                return Ok(Lookup::Hit(artifact));
            }
            Found::Absent => None,
            Found::Damaged(what) => {
                self.quarantine(fingerprint)?;
                Some(what)
            }
        };
        let mut draft = Draft::new(self, folder, facts, lock)?;
        draft.damage = damage;
        Ok(Lookup::Miss(draft))
    }

    /// A draft for a result that may be there already, and which it will take the place of.
    ///
    /// # Errors
    /// When the disk does not do what it should.
    pub fn open_anew(&self, facts: &Facts, patience: &mut dyn FnMut() -> bool) -> Result<Lookup<'_>, StoreError> {
        let Some((folder, lock)) = self.claim(Fingerprint::of(facts), patience)? else { return Ok(Lookup::Busy) };
        let mut draft = Draft::new(self, folder, facts, lock)?;
        draft.takes_over = true;
        Ok(Lookup::Miss(draft))
    }

    /// Looks for a result, as [`Store::find`] does, and clears away what is left of its draft.
    pub(crate) fn reuse(&self, fingerprint: Fingerprint) -> Result<Found, StoreError> {
        let mut found = self.find(fingerprint)?;
        if let Found::Whole(artifact) = &found
            && !gc::touch(&artifact.folder)
        {
            // Swept away between a look ahead and the caller's lease.
            found = self.find(fingerprint)?;
        }
        let folder = self.draft_folder(fingerprint);
        let leftovers = || entries(&self.root.join("drafts")).unwrap_or_default().into_iter().collect();
        // Left by a process that was killed between publishing and tidying up.
        if matches!(found, Found::Whole(_))
            && self.leftovers.get_or_init(leftovers).contains(&fingerprint.to_string())
            && folder.exists()
            && let Ok(Lock::Held(_held)) = lock(&folder, &mut || false)
        {
            let _ = remove_folder(&folder);
        }
        Ok(found)
    }

    /// Is there a draft that somebody began, with something in its scratch folder?
    #[must_use]
    pub fn is_begun(&self, fingerprint: Fingerprint) -> bool {
        has_entries(&self.draft_folder(fingerprint).join("scratch"))
    }

    /// Manifest and facts of a result, without a look at its data.
    #[must_use]
    pub fn recall(&self, fingerprint: Fingerprint) -> Option<(Manifest, Facts)> {
        let folder = self.artifact_folder(fingerprint);
        let facts = read_facts(&self.memo, &folder, fingerprint).ok()?;
        let manifest = read_manifest(&self.memo, &folder, fingerprint).ok()?;
        // Its names are joined to paths by whoever lists the files.
        manifest.contradiction().is_none().then_some((manifest, facts))
    }

    /// What a node had for its result last. It only serves to say why: one that was altered is as good as none.
    #[must_use]
    pub fn last(&self, pipeline: &str, node: &str) -> Option<Last> {
        let (folder, file) = (format!("nodes/{}", file_name(pipeline)), file_name(node) + ".json");
        let (place, name) = (self.root.join(&folder), format!("{folder}/{file}"));
        if let Some(lesson) = self.memo.lesson_of(&name, &place) {
            return serde_json::from_str(&lesson).ok();
        }
        let look = || {
            let last = read_pointer(&place.join(&file)).ok_or(())?;
            let lesson = serde_json::to_string(&last).expect("plain data with text for keys");
            Ok::<_, ()>((last, lesson))
        };
        self.memo.learn(&name, (&self.root, &folder), || Ok(vec![file.clone()]), look).ok()
    }

    /// Remembers the result that a node has now.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn remember(&self, pipeline: &str, node: &str, fingerprint: Fingerprint) -> Result<(), StoreError> {
        self.remember_after(self.last(pipeline, node), pipeline, node, fingerprint)
    }

    /// As [`Store::remember`], for who knows what the node had last.
    pub(crate) fn remember_after(
        &self,
        last: Option<Last>,
        pipeline: &str,
        node: &str,
        fingerprint: Fingerprint,
    ) -> Result<(), StoreError> {
        if last.as_ref().is_some_and(|last| last.fingerprint == fingerprint) {
            return Ok(());
        }
        let now = Last { fingerprint, before: last.map(|last| last.fingerprint) };
        make_folder(&self.root.join("nodes").join(file_name(pipeline)))?;
        replace(&self.last_path(pipeline, node), &sealed::to_bytes(POINTER, &now))
    }

    /// Digest of a file or folder outside the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest(&self, path: &Path) -> io::Result<Digest> {
        self.memo.digest(path)
    }

    /// Keeps the digests learnt so far for the next process.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_memo(&self) -> Result<(), StoreError> {
        if !self.root.exists() {
            return Ok(());
        }
        match self.memo.to_bytes_if_changed() {
            Some(bytes) => replace(&self.root.join("memo"), &bytes),
            None => Ok(()),
        }
    }

    /// Is the artifact what was published? Files whose stat is what it was are not read again.
    fn examine(memo: &Memo, fingerprint: Fingerprint, folder: &Path) -> Result<Artifact, Doubt> {
        let manifest = read_manifest(memo, folder, fingerprint)?;
        if let Some(what) = manifest.contradiction() {
            return Err(Doubt::Damage(what));
        }
        let facts = read_facts(memo, folder, fingerprint)?;
        let data = folder.join("data");
        let files = memo.digest_below(&data, Links::Refuse).map_err(|error| Doubt::of(error, &data))?;
        for (name, digest) in &files {
            match manifest.files.get(name) {
                Some(published) if published.digest == *digest => {}
                Some(_) => return Err(Doubt::Damage(format!("the bytes of `data/{name}` changed"))),
                None => return Err(Doubt::Damage(format!("`data/{name}` was added"))),
            }
        }
        if let Some(name) = manifest.files.keys().find(|name| !files.contains_key(*name)) {
            return Err(Doubt::Damage(format!("`data/{name}` is gone")));
        }
        Ok(Artifact::of(folder.into(), manifest, facts))
    }

    fn quarantine(&self, fingerprint: Fingerprint) -> Result<(), StoreError> {
        self.quarantine_path(&self.artifact_folder(fingerprint), &fingerprint.to_string())
    }

    /// Moves something out of the way, where a person may look at it.
    fn quarantine_path(&self, path: &Path, name: &str) -> Result<(), StoreError> {
        let place = self.root.join("quarantine");
        make_folder(&place)?;
        let mut number = 1;
        while place.join(format!("{name}-{number}")).exists() {
            number += 1;
        }
        rename(path, &place.join(format!("{name}-{number}")))
    }

    /// Folder and lock of a draft; none when patience ended. Without locks the folder is nobody else's.
    fn claim(
        &self,
        fingerprint: Fingerprint,
        patience: &mut dyn FnMut() -> bool,
    ) -> Result<Option<(PathBuf, Option<File>)>, StoreError> {
        self.lay_out()?;
        let folder = self.draft_folder(fingerprint);
        let outcome = match self.locks {
            Locks::Kept => lock(&folder, patience)?,
            #[cfg(test)]
            Locks::Missing => Lock::Unknown,
        };
        Ok(match outcome {
            Lock::Held(file) => Some((folder, Some(file))),
            Lock::Busy => None,
            Lock::Unknown => Some((self.root.join("drafts").join(format!("{fingerprint}-{}", unique_name())), None)),
        })
    }

    pub(crate) fn lay_out(&self) -> Result<(), StoreError> {
        for name in ["artifacts", "drafts", "nodes"] {
            make_folder(&self.root.join(name))?;
        }
        // Results are not for version control.
        for (name, text) in [(".gitignore", "*\n"), ("format", FORMAT)] {
            let path = self.root.join(name);
            if !path.exists() {
                replace(&path, text.as_bytes())?;
            }
        }
        Ok(())
    }

    fn artifact_folder(&self, fingerprint: Fingerprint) -> PathBuf {
        self.root.join("artifacts").join(fingerprint.to_string())
    }

    fn draft_folder(&self, fingerprint: Fingerprint) -> PathBuf {
        self.root.join("drafts").join(fingerprint.to_string())
    }

    fn last_path(&self, pipeline: &str, node: &str) -> PathBuf {
        self.root.join("nodes").join(file_name(pipeline)).join(file_name(node) + ".json")
    }

    /// Every result that is there, by name.
    fn fingerprints(&self) -> Result<BTreeSet<Fingerprint>, StoreError> {
        let folder = self.root.join("artifacts");
        Ok(entries(&folder)?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// A finished result: its files were what had been published when it was opened.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub folder: PathBuf,
    pub fingerprint: Fingerprint,
    pub brief: Brief,
    /// Read when somebody asks: a run that has nothing to do asks of none.
    documents: Arc<OnceLock<(Manifest, Facts)>>,
}

/// What the nodes behind a result, and a table of results, want to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    pub kind: String,
    /// Digest of the data folder.
    pub content: Digest,
    /// UTC, as `2026-11-23T18:06:56Z`.
    pub started: String,
    pub seconds: f64,
    /// The `run:` block that it was made with.
    pub settings: Value,
}

impl Artifact {
    pub(crate) fn of(folder: PathBuf, manifest: Manifest, facts: Facts) -> Self {
        let Provenance { started, seconds, settings, .. } = manifest.made.clone();
        let brief = Brief { kind: manifest.kind.clone(), content: manifest.content, started, seconds, settings };
        let fingerprint = manifest.fingerprint;
        Self { folder, fingerprint, brief, documents: Arc::new(OnceLock::from((manifest, facts))) }
    }

    fn documents(&self) -> Result<&(Manifest, Facts), StoreError> {
        if let Some(documents) = self.documents.get() {
            return Ok(documents);
        }
        // Once more from its seal: nothing is taken on trust that somebody is about to read.
        let memo = Memo::default();
        let read = || {
            let manifest = read_manifest(&memo, &self.folder, self.fingerprint)?;
            Ok((manifest, read_facts(&memo, &self.folder, self.fingerprint)?))
        };
        match read() {
            Ok(documents) => Ok(self.documents.get_or_init(|| documents)),
            Err(Doubt::Damage(_)) => Err(StoreError::Altered { path: self.folder.clone() }),
            Err(Doubt::Store(error)) => Err(error),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it can no longer be read as it was published.
    pub fn manifest(&self) -> Result<&Manifest, StoreError> {
        self.documents().map(|(manifest, _)| manifest)
    }

    /// What decided it.
    ///
    /// # Errors
    /// As [`Artifact::manifest`].
    pub fn facts(&self) -> Result<&Facts, StoreError> {
        self.documents().map(|(_, facts)| facts)
    }

    /// The folder that the stage wrote.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What was recorded beside the data under this name, such as `metrics.jsonl` or `log.txt`; none where there is no
    /// such record, or it is no longer what was published.
    #[must_use]
    pub fn record(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.folder.join(name)).ok()?;
        let records = &self.manifest().ok()?.records;
        // Results of early versions say nothing of their records.
        let is_known =
            records.is_empty() || records.get(name).is_some_and(|entry| entry.digest == Digest::of_bytes(&bytes));
        is_known.then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last line of what the stage recorded as metrics.
    #[must_use]
    pub fn last_metrics(&self) -> Option<serde_json::Map<String, Value>> {
        serde_json::from_str(self.record("metrics.jsonl")?.lines().last()?).ok()
    }
}

/// The result that a node had last, and the one before that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub fingerprint: Fingerprint,
    pub before: Option<Fingerprint>,
}

enum Doubt {
    Damage(String),
    Store(StoreError),
}

impl Doubt {
    fn of(error: io::Error, path: &Path) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::NotADirectory => {
                Self::Damage(format!("`{}`: {error}", path.display()))
            }
            _ => Self::Store(StoreError::Io { action: "read", path: path.into(), source: error }),
        }
    }
}

fn read_manifest(memo: &Memo, folder: &Path, fingerprint: Fingerprint) -> Result<Manifest, Doubt> {
    let path = folder.join("manifest.json");
    let read = memo.read_sealed(&path, Manifest::from_json, Manifest::from_checked_json);
    let manifest = read.map_err(|error| Doubt::of(error, &path))?.filter(|it| it.fingerprint == fingerprint);
    manifest.ok_or_else(|| Doubt::Damage("the bytes of `manifest.json` changed".into()))
}

/// Its seal is the fingerprint; that it lies in the folder of that name, its inode says.
fn read_facts(memo: &Memo, folder: &Path, fingerprint: Fingerprint) -> Result<Facts, Doubt> {
    let path = folder.join("facts.json");
    let parse = |bytes: &[u8]| serde_json::from_slice::<Facts>(bytes).ok();
    let check = |bytes: &[u8]| parse(bytes).filter(|facts| Fingerprint::of(facts) == fingerprint);
    let facts = memo.read_sealed(&path, check, parse).map_err(|error| Doubt::of(error, &path))?;
    facts.ok_or_else(|| Doubt::Damage("the bytes of `facts.json` changed".into()))
}

fn read_pointer(path: &Path) -> Option<Last> {
    let bytes = read_all(&File::open(path).ok()?).ok()?;
    // Early versions wrote it without a seal.
    sealed::from_bytes(POINTER, &bytes).or_else(|| serde_json::from_slice(&bytes).ok())
}

fn has_entries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Names of what is in a folder, which may be missing.
fn entries(folder: &Path) -> Result<Vec<String>, StoreError> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("read", folder)?,
    };
    let mut names = Vec::new();
    for entry in read {
        names.extend(entry.at("read", folder)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data with text for keys");
    bytes.push(b'\n');
    bytes
}

/// A name as a file name: letters, digits, `_` and `-` as they are, every other byte as `%2f`.
pub(crate) fn file_name(name: &str) -> String {
    let spell = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02x}"),
    };
    name.bytes().map(spell).collect()
}

#[cfg(test)]
mod tests;
