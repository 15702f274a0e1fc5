//! Keeps results: finished ones read-only under their fingerprint, unfinished ones as locked drafts.
//! Knows nothing of pipelines, stages or what the files hold.
//!
//! ```text
//! format                            layout of all below
//! artifacts/<fingerprint>/          there at once, by one rename, or not at all
//!   data/                           what the stage wrote
//!   metrics.jsonl, samples.jsonl    what it recorded beside that
//!   facts.json, manifest.json
//! drafts/<fingerprint>/             lock, output/, scratch/, records/, temporary/
//! nodes/<pipeline>/<node>.json      the result that a node had last, and the one before
//! quarantine/                       results that were no longer what had been published
//! memo.json                         digests of files whose stat is unchanged
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    digest::{Digest, Links, Memo, files_below},
    facts::{Facts, Fingerprint},
    manifest::{FileEntry, Manifest, Provenance},
};

const FORMAT: &str = "1";

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

trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.into(), source })
    }
}

/// A folder of results.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    memo: Memo,
}

/// What the store has for some facts.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Found {
    Whole(Artifact),
    Absent,
    /// Something is there that isn't what was published.
    Damaged(String),
}

/// What opening a result gives: the result, or the right to make it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
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
        match fs::read_to_string(&format) {
            Ok(found) if found.trim() != FORMAT => return Err(StoreError::Format { path: root, found }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &format),
        }
        let memo = Memo::load(&root.join("memo.json"));
        Ok(Self { root, memo })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks for a result and verifies it; changes nothing.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub fn find(&self, fingerprint: Fingerprint) -> Result<Found, StoreError> {
        let folder = self.artifact_folder(fingerprint);
        match fs::metadata(&folder) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(error) => return Err(error).at("read", &folder),
        }
        match self.verify(fingerprint, &folder) {
            Ok(artifact) => Ok(Found::Whole(artifact)),
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
        let folder = self.draft_folder(fingerprint);
        if let Found::Whole(artifact) = self.reuse(fingerprint)? {
            return Ok(Lookup::Hit(artifact));
        }
        self.lay_out()?;
        let Some(lock) = lock(&folder, patience)? else { return Ok(Lookup::Busy) };
        // Whoever held the lock may have published, and nobody else can now.
        let damage = match self.find(fingerprint)? {
            Found::Whole(artifact) => {
                // Another process may be waiting in there, and will find the same artifact.
                let _ = fs::remove_dir_all(&folder);
                return Ok(Lookup::Hit(artifact));
            }
            Found::Absent => None,
            Found::Damaged(what) => {
                self.quarantine(fingerprint)?;
                Some(what)
            }
        };
        let is_anew = false;
        let draft = Draft { store: self, folder, facts: facts.clone(), fingerprint, damage, is_anew, lock };
        draft.clear()?;
        Ok(Lookup::Miss(draft))
    }

    /// A draft for a result that may be there already, and which it will take the place of.
    ///
    /// # Errors
    /// When the disk does not do what it should.
    pub fn open_anew(&self, facts: &Facts, patience: &mut dyn FnMut() -> bool) -> Result<Lookup<'_>, StoreError> {
        let fingerprint = Fingerprint::of(facts);
        let folder = self.draft_folder(fingerprint);
        self.lay_out()?;
        let Some(lock) = lock(&folder, patience)? else { return Ok(Lookup::Busy) };
        let draft = Draft { store: self, folder, facts: facts.clone(), fingerprint, damage: None, is_anew: true, lock };
        draft.clear()?;
        Ok(Lookup::Miss(draft))
    }

    /// Looks for a result, as [`Store::find`] does, and clears away what is left of its draft.
    pub(crate) fn reuse(&self, fingerprint: Fingerprint) -> Result<Found, StoreError> {
        let found = self.find(fingerprint)?;
        let folder = self.draft_folder(fingerprint);
        // Left by a process that was killed between publishing and tidying up.
        if matches!(found, Found::Whole(_))
            && folder.exists()
            && let Ok(Some(_held)) = lock(&folder, &mut || false)
        {
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(found)
    }

    /// Is there a draft that somebody began, with something in its scratch folder?
    #[must_use]
    pub fn is_begun(&self, fingerprint: Fingerprint) -> bool {
        let scratch = self.draft_folder(fingerprint).join("scratch");
        fs::read_dir(scratch).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Manifest and facts of a result, without a look at its data.
    #[must_use]
    pub fn recall(&self, fingerprint: Fingerprint) -> Option<(Manifest, Facts)> {
        let folder = self.artifact_folder(fingerprint);
        let facts = read_facts(&folder, fingerprint).ok()?;
        Some((read_manifest(&folder, fingerprint).ok()?, facts))
    }

    /// What a node had for its result last.
    #[must_use]
    pub fn last(&self, pipeline: &str, node: &str) -> Option<Last> {
        let bytes = fs::read(self.last_path(pipeline, node)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Remembers the result that a node has now.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn remember(&self, pipeline: &str, node: &str, fingerprint: Fingerprint) -> Result<(), StoreError> {
        let last = self.last(pipeline, node);
        if last.as_ref().is_some_and(|last| last.fingerprint == fingerprint) {
            return Ok(());
        }
        let now = Last { fingerprint, before: last.map(|last| last.fingerprint) };
        let folder = self.root.join("nodes").join(file_name(pipeline));
        fs::create_dir_all(&folder).at("make", &folder)?;
        replace(&self.last_path(pipeline, node), &to_json(&now))
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
        match self.memo.to_json_if_changed() {
            Some(json) => replace(&self.root.join("memo.json"), &json),
            None => Ok(()),
        }
    }

    fn verify(&self, fingerprint: Fingerprint, folder: &Path) -> Result<Artifact, Doubt> {
        let manifest = read_manifest(folder, fingerprint)?;
        let facts = read_facts(folder, fingerprint)?;
        let data = folder.join("data");
        let files = self.memo.digest_below(&data, Links::Refuse).map_err(|error| Doubt::of(error, &data))?;
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
        Ok(Artifact { folder: folder.into(), manifest, facts })
    }

    fn quarantine(&self, fingerprint: Fingerprint) -> Result<(), StoreError> {
        let place = self.root.join("quarantine");
        fs::create_dir_all(&place).at("make", &place)?;
        let mut number = 1;
        while place.join(format!("{fingerprint}-{number}")).exists() {
            number += 1;
        }
        let folder = self.artifact_folder(fingerprint);
        fs::rename(&folder, place.join(format!("{fingerprint}-{number}"))).at("move to quarantine", &folder)
    }

    fn lay_out(&self) -> Result<(), StoreError> {
        for name in ["artifacts", "drafts", "nodes"] {
            let folder = self.root.join(name);
            fs::create_dir_all(&folder).at("make", &folder)?;
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
}

/// A result that can be made: a folder that nobody else writes to until this value is gone.
///
/// Dropped unpublished, it leaves its scratch folder and records to the next try.
#[derive(Debug)]
pub struct Draft<'a> {
    store: &'a Store,
    folder: PathBuf,
    facts: Facts,
    fingerprint: Fingerprint,
    /// What was wrong with the result that lay here before.
    pub damage: Option<String>,
    /// It takes the place of a result that is there.
    is_anew: bool,
    /// Held until the draft is dropped; the kernel lets go of it when the process dies.
    lock: File,
}

impl Draft<'_> {
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.folder.join("records")
    }

    /// Empty when the draft is opened, and of no meaning afterwards.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("temporary")
    }

    /// Keeps others out of the draft as long as any copy of it is open, in whichever process.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub(crate) fn lock(&self) -> Result<Option<File>, StoreError> {
        self.lock.try_clone().map(Some).at("share the lock of", &self.folder)
    }

    /// Makes what was written final. The manifest comes last, and all of it appears under its fingerprint by one
    /// rename, after every byte is on the disk.
    ///
    /// # Errors
    /// When the stage wrote nothing or no plain files, and when the disk does not do what it should.
    pub fn publish(self, kind: &str, made: Provenance) -> Result<Artifact, PublishError> {
        let (output, done) = (self.output(), self.done());
        let digests = match self.store.memo.digest_below(&output, Links::Refuse) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(PublishError::NotPlain(error.to_string()));
            }
            other => other.at("read", &output)?,
        };
        if digests.is_empty() {
            return Err(PublishError::Empty);
        }
        let mut files = BTreeMap::new();
        for (name, digest) in &digests {
            let size = seal_file(&output.join(name))?;
            files.insert(name.clone(), FileEntry { size, digest: *digest });
        }
        sync_folders(&output)?;

        fs::create_dir_all(&done).at("make", &done)?;
        fs::rename(&output, done.join("data")).at("move", &output)?;
        for name in files_below(&self.records(), Links::Refuse).at("read", &self.records())? {
            let (from, to) = (self.records().join(&name), done.join(&name));
            fs::rename(&from, &to).at("move", &from)?;
            seal_file(&to)?;
        }
        let content = Digest::of_files(digests.iter().map(|(name, digest)| (name.as_str(), *digest)));
        let manifest = Manifest { fingerprint: self.fingerprint, kind: kind.into(), content, files, made };
        write_sealed(&done.join("facts.json"), &to_json(&self.facts))?;
        write_sealed(&done.join("manifest.json"), &manifest.to_json())?;
        sync(&done)?;

        let artifacts = self.store.root.join("artifacts");
        let folder = self.store.artifact_folder(self.fingerprint);
        if self.is_anew && folder.exists() {
            self.store.quarantine(self.fingerprint)?;
        }
        fs::rename(&done, &folder).at("move", &done)?;
        sync(&artifacts)?;
        // Published is published: what is left of the draft is only in the way, and the next one clears it.
        let _ = fs::remove_dir_all(&self.folder);
        Ok(Artifact { folder, manifest, facts: self.facts })
    }

    /// Throws everything away, scratch included.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        fs::remove_dir_all(&self.folder).at("remove", &self.folder)
    }

    /// Where the artifact is put together, beside the draft's folders.
    fn done(&self) -> PathBuf {
        self.folder.join("done")
    }

    /// Clears away what a try that was killed left unfinished.
    fn clear(&self) -> Result<(), StoreError> {
        let mut stale = vec![self.output(), self.done(), self.temporary()];
        if !self.store.is_begun(self.fingerprint) {
            // Records belong to the scratch folder's state: without it there is nothing that they continue.
            stale.push(self.records());
        }
        for folder in stale {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("clear", &folder),
                _ => {}
            }
        }
        for folder in [self.output(), self.scratch(), self.records(), self.temporary()] {
            fs::create_dir_all(&folder).at("make", &folder)?;
        }
        Ok(())
    }
}

/// A finished result: its files were what had been published when it was opened.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub facts: Facts,
}

impl Artifact {
    /// The folder that the stage wrote.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The last line of what the stage recorded as metrics.
    #[must_use]
    pub fn last_metrics(&self) -> Option<serde_json::Map<String, Value>> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl")).ok()?;
        serde_json::from_str(text.lines().last()?).ok()
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

fn read_manifest(folder: &Path, fingerprint: Fingerprint) -> Result<Manifest, Doubt> {
    let path = folder.join("manifest.json");
    let bytes = fs::read(&path).map_err(|error| Doubt::of(error, &path))?;
    let manifest = Manifest::from_json(&bytes).filter(|manifest| manifest.fingerprint == fingerprint);
    manifest.ok_or_else(|| Doubt::Damage("the bytes of `manifest.json` changed".into()))
}

fn read_facts(folder: &Path, fingerprint: Fingerprint) -> Result<Facts, Doubt> {
    let path = folder.join("facts.json");
    let bytes = fs::read(&path).map_err(|error| Doubt::of(error, &path))?;
    let facts = serde_json::from_slice(&bytes).ok().filter(|facts| Fingerprint::of(facts) == fingerprint);
    facts.ok_or_else(|| Doubt::Damage("the bytes of `facts.json` changed".into()))
}

/// Locks a draft's folder, making it if need be; `None` when patience ended.
fn lock(folder: &Path, patience: &mut dyn FnMut() -> bool) -> Result<Option<File>, StoreError> {
    let path = folder.join("lock");
    loop {
        fs::create_dir_all(folder).at("make", folder)?;
        let file = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
            // Whoever published has just removed the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("open", &path)?,
        };
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if patience() => thread::sleep(Duration::from_millis(100)),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
        }
        // A lock on a file that was removed meanwhile keeps nobody out.
        if is_same_file(&file, &path) {
            return Ok(Some(file));
        }
    }
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(opened), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (there.dev(), there.ino())
}

#[cfg(not(unix))]
fn is_same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().expect("a file below the store's root");
    let mut file = tempfile::NamedTempFile::new_in(folder).at("write in", folder)?;
    io::Write::write_all(&mut file, bytes).at("write", path)?;
    file.persist(path).map_err(|error| error.error).at("write", path)?;
    Ok(())
}

fn write_sealed(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    fs::write(path, bytes).at("write", path)?;
    seal_file(path)?;
    Ok(())
}

/// Makes a file read-only and puts it on the disk; gives its size.
fn seal_file(path: &Path) -> Result<u64, StoreError> {
    let metadata = fs::metadata(path).at("read", path)?;
    let mut permissions = metadata.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions).at("make read-only", path)?;
    sync(path)?;
    Ok(metadata.len())
}

fn sync_folders(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).at("sync", path)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data with text for keys");
    bytes.push(b'\n');
    bytes
}

/// A name as a file name: letters, digits, `_` and `-` as they are, every other byte as `%2f`.
fn file_name(name: &str) -> String {
    let spell = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02x}"),
    };
    name.bytes().map(spell).collect()
}

#[cfg(test)]
mod tests;
