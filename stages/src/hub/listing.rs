//! Which files a repository has, as the Hub or the cache tells it.
//! Knows nothing of how they are fetched.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::reference::is_path;

/// `/api/models/{name}/revision/{revision}?blobs=true`, of which only this is read.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub sha: String,
    pub siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub size: Option<u64>,
    /// What the cache calls its bytes: of a large file their SHA-256, of another what git calls them.
    pub blob: Option<String>,
}

impl Entry {
    pub fn named(name: String) -> Self {
        Self { name, size: None, blob: None }
    }

    /// # Errors
    /// When a name would lie outside the cache.
    pub fn checked(sibling: Sibling) -> Result<Self> {
        let Sibling { rfilename, size, blob_id, lfs } = sibling;
        let entry = match lfs {
            Some(lfs) => Self { name: rfilename, size: Some(lfs.size), blob: Some(lfs.sha256) },
            None => Self { name: rfilename, size, blob: blob_id },
        };
        entry.check()?;
        Ok(entry)
    }

    /// # Errors
    /// As [`Entry::checked`].
    pub fn check(&self) -> Result<()> {
        ensure!(is_path(&self.name), "the repository has a file `{}`, which would lie outside the cache", self.name);
        let is_plain = |blob: &String| is_path(blob) && !blob.contains('/');
        ensure!(
            self.blob.as_ref().is_none_or(is_plain),
            "the repository calls the bytes of `{}` by {:?}, which is no digest",
            self.name,
            self.blob
        );
        Ok(())
    }
}

/// The files below a folder of the cache, in order; none where it is not there. A link whose blob is gone is no file.
pub(super) fn below(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut ahead = vec![String::new()];
    while let Some(inside) = ahead.pop() {
        let path = folder.join(&inside);
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}", path.display()))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let name = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            match fs::metadata(entry.path()) {
                Ok(about) if about.is_dir() => ahead.push(name),
                Ok(_) => names.push(name),
                Err(_) => (),
            }
        }
    }
    names.sort();
    Ok(names)
}
