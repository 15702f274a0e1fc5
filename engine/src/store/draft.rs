//! A result in the making: folders that nobody else writes to, and the steps that make them final.
//! Knows nothing of who writes what.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    digest::{Digest, Links, files_below},
    facts::{Facts, Fingerprint},
    manifest::{FileEntry, Manifest, Provenance},
    store::{
        Artifact, Found, PublishError, Store, StoreError,
        disk::{
            At, copy, make_folder, remove_folder, rename, seal, sync, sync_folders, try_link, try_rename, write_sealed,
        },
        entries, has_entries,
        lock::{host_prefix, unique_name},
        to_json,
    },
};

/// Smaller files are copied: a second name costs more than it saves.
const SHARED_FROM: u64 = 4096;

/// A result that can be made: a folder that nobody else writes to until this value is gone.
///
/// Dropped unpublished, it leaves its scratch folder and records to the next try.
#[derive(Debug)]
pub struct Draft<'a> {
    store: &'a Store,
    folder: PathBuf,
    /// This try's own part of the folder: what an earlier one left running can't reach it.
    attempt: PathBuf,
    facts: Facts,
    fingerprint: Fingerprint,
    /// What was wrong with the result that lay here before.
    pub damage: Option<String>,
    /// It takes the place of a result that is there.
    pub(super) takes_over: bool,
    /// Held until the draft is dropped; the kernel lets go of it when the process dies. None where there are no locks.
    lock: Option<File>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        store: &'a Store,
        folder: PathBuf,
        facts: &Facts,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let attempt = folder.join(format!("try-{}", unique_name()));
        let fingerprint = Fingerprint::of(facts);
        let draft =
            Self { store, folder, attempt, facts: facts.clone(), fingerprint, damage: None, takes_over: false, lock };
        draft.clear()?;
        for folder in [draft.output(), draft.scratch(), draft.records(), draft.temporary()] {
            make_folder(&folder)?;
        }
        Ok(draft)
    }

    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.attempt.join("output")
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
        self.attempt.join("temporary")
    }

    /// Keeps others out of the draft as long as any copy of it is open, in whichever process.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub(crate) fn lock(&self) -> Result<Option<File>, StoreError> {
        self.lock.as_ref().map(File::try_clone).transpose().at("share the lock of", &self.folder)
    }

    /// Makes what was written final. The manifest comes last, and all of it appears under its fingerprint by one
    /// rename, after every byte is on the disk. Where somebody else was faster, theirs is the result.
    ///
    /// # Errors
    /// When the stage wrote nothing or no plain files, and when the disk does not do what it should.
    pub fn publish(self, kind: &str, made: Provenance) -> Result<Artifact, PublishError> {
        let (output, done) = (self.output(), self.attempt.join("done"));
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
            let size = seal(&output.join(name))?;
            self.share(&output.join(name), *digest, size)?;
            files.insert(name.clone(), FileEntry { size, digest: *digest });
        }
        sync_folders(&output)?;

        make_folder(&done)?;
        rename(&output, &done.join("data"))?;
        let mut records = BTreeMap::new();
        for name in files_below(&self.records(), Links::Refuse).at("read", &self.records())? {
            // Not moved: who is killed before the end continues with them.
            let to = done.join(&name);
            copy(&self.records().join(&name), &to)?;
            let size = seal(&to)?;
            let digest = self.store.digest(&to).at("read", &to)?;
            records.insert(name, FileEntry { size, digest });
        }
        let content = Digest::of_files(digests.iter().map(|(name, digest)| (name.as_str(), *digest)));
        let manifest = Manifest { fingerprint: self.fingerprint, kind: kind.into(), content, files, records, made };
        write_sealed(&done.join("facts.json"), &to_json(&self.facts))?;
        write_sealed(&done.join("manifest.json"), &manifest.to_json())?;
        sync(&done)?;
        let artifact = self.appear(&done, manifest)?;
        // Published is published: what is left of the draft is only in the way, and the next one clears it.
        let _ = remove_folder(&self.folder);
        Ok(artifact)
    }

    /// The rename, and what to do where the name is taken.
    fn appear(&self, done: &Path, manifest: Manifest) -> Result<Artifact, StoreError> {
        let folder = self.store.artifact_folder(self.fingerprint);
        if self.takes_over && folder.exists() {
            self.store.quarantine(self.fingerprint)?;
        }
        loop {
            match try_rename(done, &folder) {
                Ok(()) => {
                    sync(&self.store.root.join("artifacts"))?;
                    return Ok(Artifact::of(folder, manifest, self.facts.clone()));
                }
                Err(error) if !is_taken(&error) => return Err(error).at("move", done),
                Err(_) => match self.store.find(self.fingerprint)? {
                    Found::Whole(theirs) => return Ok(theirs),
                    Found::Damaged(_) => self.store.quarantine(self.fingerprint)?,
                    Found::Absent => {}
                },
            }
        }
    }

    /// Lets a file be the one with the same bytes that is there already; else it is the one for those to come.
    /// It only saves room: where files can't have two names, each is its own.
    fn share(&self, path: &Path, digest: Digest, size: u64) -> Result<(), StoreError> {
        if size < SHARED_FROM {
            return Ok(());
        }
        let object = self.store.object(digest);
        match self.store.digest(&object) {
            Ok(found) if found == digest => {
                let twin = self.attempt.join("twin");
                if try_link(&object, &twin).is_ok() {
                    return rename(&twin, path);
                }
                return Ok(());
            }
            // What is no longer what its name says helps nobody.
            Ok(_) => self.store.quarantine_path(&object, &format!("object-{digest}"))?,
            Err(_) => {}
        }
        if let Some(folder) = object.parent() {
            make_folder(folder)?;
        }
        let _ = try_link(path, &object);
        Ok(())
    }

    /// Throws everything away, scratch included.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        remove_folder(&self.folder)
    }

    /// Clears away what a try that was killed left unfinished. Tries of other machines are left alone: whether those
    /// have ended, a lock here need not say.
    fn clear(&self) -> Result<(), StoreError> {
        let mine = format!("try-{}", host_prefix());
        for name in entries(&self.folder)?.iter().filter(|name| name.starts_with(&mine)) {
            remove_folder(&self.folder.join(name))?;
        }
        // Records belong to the scratch folder's state: without it there is nothing that they continue.
        if !has_entries(&self.scratch()) {
            remove_folder(&self.records())?;
        }
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // What was not published is worth nothing; after a kill the next try does this.
        let _ = fs::remove_dir_all(&self.attempt);
        if self.lock.is_none() {
            // Nobody else will ever look here.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Store {
    pub(super) fn object(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("objects").join(&name[..2]).join(name)
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}
