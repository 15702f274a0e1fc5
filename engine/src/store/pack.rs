//! A result as one file: a tar archive, whose every byte is checked when it is read again.
//! Knows nothing of who carries it where, nor of compression.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use crate::{
    digest::Memo,
    facts::Fingerprint,
    manifest::Manifest,
    store::{
        Artifact, Doubt, Found, Store, StoreError,
        disk::{At, make_folder, remove_folder, seal, sync, sync_folders, try_rename},
        lock::unique_name,
    },
};

/// Why an archive gives no result.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("this is no packed result: {0}")]
    NoResult(String),
    #[error("the packed result was altered: {0}")]
    Altered(String),
    #[error("cannot {action} the archive: {source}")]
    Archive { action: &'static str, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Artifact {
    /// Writes the result as one archive. The same result gives the same bytes.
    ///
    /// # Errors
    /// When a file of the result cannot be read, or the archive not be written.
    pub fn pack(&self, to: impl Write) -> Result<(), PackError> {
        let mut archive = tar::Builder::new(to);
        let Manifest { files, records, .. } = self.manifest()?;
        let data = files.keys().map(|name| format!("data/{name}"));
        let records = records.keys().cloned();
        // The manifest first: whoever unpacks knows at once what comes.
        for name in ["manifest.json".to_owned(), "facts.json".to_owned()].into_iter().chain(records).chain(data) {
            let path = self.folder.join(&name);
            let file = File::open(&path).at("read", &path)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(file.metadata().at("read", &path)?.len());
            header.set_mode(0o444);
            archive.append_data(&mut header, &name, file).map_err(PackError::from_writing)?;
        }
        archive.into_inner().and_then(|mut to| to.flush()).map_err(PackError::from_writing)
    }
}

impl PackError {
    /// When the archive itself could not be written.
    #[must_use]
    pub fn from_writing(source: io::Error) -> Self {
        Self::Archive { action: "write", source }
    }
}

fn reading(source: io::Error) -> PackError {
    PackError::Archive { action: "read", source }
}

impl Store {
    /// Takes a packed result in, after every digest in it was found right.
    ///
    /// What a digest cannot say is whether the result was ever made as its facts say: take archives from those alone
    /// whom you would trust to run the pipeline for you.
    ///
    /// # Errors
    /// When it is no packed result or was altered, and when the disk does not do what it should.
    pub fn unpack(&self, from: impl Read) -> Result<Artifact, PackError> {
        self.lay_out()?;
        let folder = self.root.join("drafts").join(format!("unpacked-{}", unique_name()));
        let unpacked = self.unpack_in(&folder, from);
        let _ = remove_folder(&folder);
        unpacked
    }

    fn unpack_in(&self, folder: &Path, from: impl Read) -> Result<Artifact, PackError> {
        extract(folder, from)?;
        let fingerprint = fingerprint_in(folder)?;
        let artifact = match Self::examine(&Memo::default(), fingerprint, folder) {
            Ok(artifact) => artifact,
            Err(Doubt::Damage(what)) => return Err(PackError::Altered(what)),
            Err(Doubt::Store(error)) => return Err(error.into()),
        };
        let Manifest { files, records, .. } = artifact.manifest()?;
        for name in records.keys() {
            if artifact.record(name).is_none() {
                return Err(PackError::Altered(format!("the bytes of `{name}` changed")));
            }
        }
        let records = records.keys().map(String::as_str);
        let names = ["facts.json", "manifest.json"].into_iter().chain(records);
        for path in names.map(|name| folder.join(name)).chain(files.keys().map(|name| artifact.data().join(name))) {
            seal(&path)?;
        }
        sync_folders(folder)?;
        let to = self.artifact_folder(fingerprint);
        loop {
            match self.find(fingerprint)? {
                Found::Whole(there) => return Ok(there),
                Found::Damaged(_) => self.quarantine(fingerprint)?,
                Found::Absent => {}
            }
            match try_rename(folder, &to) {
                Ok(()) => break,
                // Somebody was faster.
                Err(_) if to.exists() => {}
                Err(error) => return Err(error).at("move", folder).map_err(Into::into),
            }
        }
        sync(&self.root.join("artifacts"))?;
        Ok(Artifact { folder: to, ..artifact })
    }
}

/// Files with plain names, and nothing else that an archive could hold.
fn extract(folder: &Path, from: impl Read) -> Result<(), PackError> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let name = entry.path().map_err(reading)?.into_owned();
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !entry.header().entry_type().is_file() || !is_plain {
            return Err(PackError::NoResult(format!("it holds `{}`", name.display())));
        }
        let path: PathBuf = folder.join(name);
        make_folder(path.parent().expect("it is below the folder"))?;
        let mut file = File::create_new(&path).at("write", &path)?;
        io::copy(&mut entry, &mut file).map_err(reading)?;
    }
    Ok(())
}

/// The fingerprint that the manifest says; whether it is true is seen later.
fn fingerprint_in(folder: &Path) -> Result<Fingerprint, PackError> {
    let path = folder.join("manifest.json");
    let bytes = fs::read(&path).map_err(|_| PackError::NoResult("it holds no `manifest.json`".into()))?;
    let altered = || PackError::Altered("the bytes of `manifest.json` changed".into());
    let manifest = Manifest::from_json(&bytes).ok_or_else(altered)?;
    Ok(manifest.fingerprint)
}
