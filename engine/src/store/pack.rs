//! A result as one file: a tar archive, whose every byte is checked when it is read again.
//! Knows nothing of who carries it where, nor of compression.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use crate::{
    digest::Memo,
    manifest::Manifest,
    store::{
        Artifact, Doubt, Found, Store, StoreError,
        disk::{At, make_folder, remove_folder, seal, sync, sync_folders, try_rename},
        lock::unique_name,
    },
};

const MANIFEST: &str = "manifest.json";

/// Bytes of the manifest and of the facts, which are read into memory: room for a hundred thousand files and more.
const LARGEST_DOCUMENT: u64 = 16 << 20;
/// Files and records of a packed result. Each costs an entry of the file system, whatever its size.
const MOST_FILES: usize = 100_000;
/// Bytes of an entry that holds the long name of the next one: `data/` and the longest name of a manifest.
const LONGEST_NAME: u64 = 4096;

/// Why an archive gives no result.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("this is no packed result: {0}")]
    NoResult(String),
    #[error("the packed result was altered: {0}")]
    Altered(String),
    /// Bytes that the manifest declares, and that may be written.
    #[error("the packed result has {declared} bytes unpacked, and {most} are the limit")]
    TooLarge { declared: u64, most: u64 },
    #[error("the packed result has {0} files, and {MOST_FILES} are the limit")]
    TooMany(usize),
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
        if files.len() + records.len() > MOST_FILES {
            return Err(PackError::TooMany(files.len() + records.len()));
        }
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
    /// Takes a packed result in, after every digest in it was found right. Its files may have `most` bytes together:
    /// what the manifest declares beyond that is refused before anything of it is written.
    ///
    /// What a digest cannot say is whether the result was ever made as its facts say: take archives from those alone
    /// whom you would trust to run the pipeline for you.
    ///
    /// # Errors
    /// When it is no packed result, was altered or is too large, and when the disk does not do what it should.
    pub fn unpack(&self, from: impl Read, most: u64) -> Result<Artifact, PackError> {
        self.lay_out()?;
        let folder = self.root.join("drafts").join(format!("unpacked-{}", unique_name()));
        let unpacked = self.unpack_in(&folder, from, most);
        let _ = remove_folder(&folder);
        unpacked
    }

    fn unpack_in(&self, folder: &Path, from: impl Read, most: u64) -> Result<Artifact, PackError> {
        let manifest = extract(folder, from, most)?;
        let fingerprint = manifest.fingerprint;
        let artifact = match Self::examine(&Memo::default(), fingerprint, folder) {
            Ok(artifact) => artifact,
            Err(Doubt::Damage(what)) => return Err(PackError::Altered(what)),
            Err(Doubt::Store(error)) => return Err(error.into()),
        };
        let Manifest { files, records, .. } = artifact.manifest()?;
        for (name, entry) in records {
            let path = folder.join(name);
            if Memo::default().digest(&path).at("read", &path)? != entry.digest {
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

/// The files that the manifest declares, each once and of the size that it declares, and nothing else that an archive
/// could hold. The manifest comes first, and what it does not declare is refused before it is written.
fn extract(folder: &Path, from: impl Read, most: u64) -> Result<Manifest, PackError> {
    let mut archive = tar::Archive::new(from);
    // Raw: the reader's own handling of long names reads whatever size a header says into memory.
    let entries = archive.entries().map_err(reading)?.raw(true);
    let mut manifest: Option<Manifest> = None;
    let mut left: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut long_name: Option<Vec<u8>> = None;
    for entry in entries {
        let mut entry = entry.map_err(reading)?;
        let size = entry.header().entry_size().map_err(reading)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() && long_name.is_none() && size <= LONGEST_NAME {
            long_name = Some(small(&mut entry, "a name", LONGEST_NAME)?);
            continue;
        }
        let bytes = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let name = String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(&bytes)).into_owned();
        let shown = name.escape_debug().to_string();
        if kind != tar::EntryType::Regular {
            return Err(PackError::NoResult(format!("it holds `{shown}`, which is no plain file")));
        }
        if manifest.is_none() {
            if name != MANIFEST {
                return Err(PackError::NoResult(format!("it begins with `{shown}` and not with `{MANIFEST}`")));
            }
            let bytes = small(&mut entry, &name, LARGEST_DOCUMENT)?;
            let declared = declared(&bytes, most)?;
            left = wanted(&declared);
            manifest = Some(declared);
            write(folder, &name, &mut &bytes[..], bytes.len() as u64)?;
            continue;
        }
        // Gone after the first: no name comes twice.
        let Some(wanted) = left.remove(&name) else {
            return Err(PackError::NoResult(format!("it holds `{shown}`, which its manifest does not declare")));
        };
        match wanted {
            Wanted::Exactly(declared) if declared != size => {
                let message = format!("`{shown}` has {size} bytes, and its manifest declares {declared}");
                return Err(PackError::Altered(message));
            }
            Wanted::AtMost(limit) if size > limit => {
                return Err(PackError::NoResult(format!("`{shown}` has {size} bytes, and {limit} are the limit")));
            }
            Wanted::Exactly(_) | Wanted::AtMost(_) => write(folder, &name, &mut entry, size)?,
        }
    }
    let manifest = manifest.ok_or_else(|| PackError::NoResult(format!("it holds no `{MANIFEST}`")))?;
    match left.keys().next() {
        Some(name) => Err(PackError::Altered(format!("`{}` is not in it", name.escape_debug()))),
        None => Ok(manifest),
    }
}

/// What may still come, and how large.
enum Wanted {
    Exactly(u64),
    AtMost(u64),
}

fn wanted(manifest: &Manifest) -> BTreeMap<String, Wanted> {
    let records = manifest.records.iter().map(|(name, file)| (name.clone(), Wanted::Exactly(file.size)));
    let files = manifest.files.iter().map(|(name, file)| (format!("data/{name}"), Wanted::Exactly(file.size)));
    let facts = ("facts.json".to_owned(), Wanted::AtMost(LARGEST_DOCUMENT));
    records.chain(files).chain([facts]).collect()
}

/// The manifest in these bytes, if what it declares can be, and is not too much.
fn declared(bytes: &[u8], most: u64) -> Result<Manifest, PackError> {
    let altered = || PackError::Altered(format!("the bytes of `{MANIFEST}` changed"));
    let manifest = Manifest::from_json(bytes).ok_or_else(altered)?;
    if let Some(what) = manifest.contradiction() {
        return Err(PackError::Altered(what));
    }
    let all = || manifest.files.values().chain(manifest.records.values());
    if all().count() > MOST_FILES {
        return Err(PackError::TooMany(all().count()));
    }
    let declared = all().map(|file| file.size).fold(0, u64::saturating_add);
    if declared > most {
        return Err(PackError::TooLarge { declared, most });
    }
    Ok(manifest)
}

/// An entry that is read into memory.
fn small(entry: &mut impl Read, name: &str, limit: u64) -> Result<Vec<u8>, PackError> {
    let mut bytes = Vec::new();
    entry.take(limit + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > limit {
        let name = name.escape_debug();
        return Err(PackError::NoResult(format!("`{name}` has more than {limit} bytes, which is the limit")));
    }
    Ok(bytes)
}

/// Writes a file that is not there yet, below `folder`.
fn write(folder: &Path, name: &str, from: &mut impl Read, size: u64) -> Result<(), PackError> {
    let path = folder.join(name);
    make_folder(path.parent().expect("it is below the folder"))?;
    let mut file = File::create_new(&path).at("write", &path)?;
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    // Not `io::copy`: of an error it does not say which of the two files it is about.
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reading(error)),
        };
        file.write_all(&buffer[..count]).at("write", &path)?;
        written += count as u64;
    }
    if written == size { Ok(()) } else { Err(PackError::Altered(format!("it ends within `{}`", name.escape_debug()))) }
}
