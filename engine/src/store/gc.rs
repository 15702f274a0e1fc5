//! Finds out what nobody needs any more, and removes it: whole results, never parts of them.
//! Knows nothing of pipelines but the names of their results.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    facts::Fingerprint,
    store::{
        Store, StoreError,
        disk::{At, make_folder, remove_file, remove_folder, rename, replace},
        entries,
        lock::{Lock, lock, unique_name},
        read_pointer,
    },
};

/// What must stay.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Results that are needed, besides those that are pinned and those that runs use now.
    pub roots: BTreeSet<Fingerprint>,
    /// Also what every node of every pipeline that was ever run here had last.
    pub last_results: bool,
    /// What was used so recently stays.
    pub grace: Duration,
    /// So long does what a run left unfinished wait to be continued.
    pub unfinished: Duration,
    /// What nobody needs may stay, what was used last first, as long as the store is not larger than this.
    pub size: Option<u64>,
}

/// What to remove, and what that leaves.
#[derive(Debug, Default)]
pub struct Sweep {
    /// What was used longest ago first.
    pub remove: Vec<Candidate>,
    /// Results that stay, each with the reason.
    pub keep: Vec<(Candidate, Why)>,
    /// Size of the store now.
    pub bytes: u64,
}

/// Why a result stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Pinned,
    InUse,
    Needed,
    Recent,
    /// Nobody needs it, and there is room.
    Room,
}

/// Something that could be removed.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Relative to the store.
    pub path: PathBuf,
    /// Such as `cold_start of r1_tiny`.
    pub about: String,
    /// What removing it sets free.
    pub bytes: u64,
    pub unused_for: Duration,
    fingerprint: Option<Fingerprint>,
}

impl Store {
    /// What would be removed; removes nothing.
    ///
    /// # Errors
    /// When the disk does not answer, or a file that says what is needed was altered.
    pub fn survey(&self, keep: &Keep) -> Result<Sweep, StoreError> {
        let (pinned, leased) = (self.pinned()?, self.leased()?);
        let mut needed = keep.roots.clone();
        if keep.last_results {
            needed.extend(self.last_results()?);
        }
        let mut sweep = Sweep { bytes: size_below(&self.root)?, ..Sweep::default() };
        let mut unneeded = Vec::new();
        for fingerprint in self.fingerprints()? {
            let candidate = self.artifact_candidate(fingerprint)?;
            let why = if pinned.contains(&fingerprint) {
                Why::Pinned
            } else if leased.contains(&fingerprint) {
                Why::InUse
            } else if needed.contains(&fingerprint) {
                Why::Needed
            } else if candidate.unused_for < keep.grace {
                Why::Recent
            } else {
                unneeded.push(candidate);
                continue;
            };
            sweep.keep.push((candidate, why));
        }
        unneeded.extend(self.leftovers(keep)?);
        unneeded.sort_by_key(|candidate| std::cmp::Reverse(candidate.unused_for));
        let mut left = sweep.bytes;
        for candidate in unneeded {
            if keep.size.is_some_and(|size| left <= size) && candidate.fingerprint.is_some() {
                sweep.keep.push((candidate, Why::Room));
            } else {
                left = left.saturating_sub(candidate.bytes);
                sweep.remove.push(candidate);
            }
        }
        Ok(sweep)
    }

    /// Removes what a survey found, but for what somebody has begun to use since. Gives the bytes set free.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep(&self, sweep: &Sweep) -> Result<u64, StoreError> {
        let before = size_below(&self.root)?;
        let trash = self.root.join("trash");
        for candidate in &sweep.remove {
            let path = self.root.join(&candidate.path);
            let Some(fingerprint) = candidate.fingerprint else {
                sweep_leftover(&path)?;
                continue;
            };
            make_folder(&trash)?;
            // Record and bytes vanish together, by one rename.
            let out = trash.join(unique_name());
            match rename(&path, &out) {
                Ok(()) => {}
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(error),
            }
            if self.leased()?.contains(&fingerprint) && !path.exists() {
                rename(&out, &path)?;
                continue;
            }
            remove_folder(&out)?;
        }
        remove_folder(&trash)?;
        self.sweep_objects()?;
        self.sweep_pointers()?;
        Ok(before.saturating_sub(size_below(&self.root)?))
    }

    /// Keeps a result whatever happens.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn pin(&self, fingerprint: Fingerprint, about: &str) -> Result<(), StoreError> {
        make_folder(&self.root.join("pins"))?;
        replace(&self.root.join("pins").join(fingerprint.to_string()), format!("{about}\n").as_bytes())
    }

    /// Takes a pin away.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn unpin(&self, fingerprint: Fingerprint) -> Result<(), StoreError> {
        remove_file(&self.root.join("pins").join(fingerprint.to_string()))
    }

    fn pinned(&self) -> Result<BTreeSet<Fingerprint>, StoreError> {
        Ok(entries(&self.root.join("pins"))?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn last_results(&self) -> Result<BTreeSet<Fingerprint>, StoreError> {
        let last = |path: PathBuf| read_pointer(&path).ok_or(StoreError::Altered { path });
        self.pointers()?.into_iter().map(|path| last(path).map(|last| last.fingerprint)).collect()
    }

    fn artifact_candidate(&self, fingerprint: Fingerprint) -> Result<Candidate, StoreError> {
        let folder = self.artifact_folder(fingerprint);
        let about = match self.recall(fingerprint) {
            Some((manifest, _)) => format!("{} of {}", manifest.made.node, manifest.made.pipeline),
            None => "a damaged result".into(),
        };
        let unused_for = fs::metadata(&folder).and_then(|metadata| metadata.modified()).map_or(Duration::ZERO, since);
        let (path, bytes) = (self.relative_path(&folder), freed_below(&folder)?);
        Ok(Candidate { path, about, bytes, unused_for, fingerprint: Some(fingerprint) })
    }

    /// Drafts that nobody works on, what is in quarantine, and names that nothing else has.
    fn leftovers(&self, keep: &Keep) -> Result<Vec<Candidate>, StoreError> {
        let mut leftovers = Vec::new();
        let kinds =
            [("drafts", "an unfinished result", keep.unfinished), ("quarantine", "a damaged result", keep.grace)];
        for (folder, about, grace) in kinds {
            for name in entries(&self.root.join(folder))? {
                let path = self.root.join(folder).join(name);
                let unused_for = newest(&path).map_or(Duration::ZERO, since);
                if unused_for >= grace {
                    let (path, bytes) = (self.relative_path(&path), freed_below(&path)?);
                    leftovers.push(Candidate { path, about: about.into(), bytes, unused_for, fingerprint: None });
                }
            }
        }
        Ok(leftovers)
    }

    /// Objects whose only name is their own.
    fn sweep_objects(&self) -> Result<(), StoreError> {
        let objects = self.root.join("objects");
        for prefix in entries(&objects)? {
            for name in entries(&objects.join(&prefix))? {
                let path = objects.join(&prefix).join(name);
                if fs::symlink_metadata(&path).is_ok_and(|metadata| links(&metadata) == 1) {
                    remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    /// A pointer does not outlive what it points to.
    fn sweep_pointers(&self) -> Result<(), StoreError> {
        let left = self.fingerprints()?;
        for path in self.pointers()? {
            if read_pointer(&path).is_some_and(|last| !left.contains(&last.fingerprint)) {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn relative_path(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).into()
    }
}

/// From now on it counts as just used. Is it there?
pub(super) fn touch(folder: &Path) -> bool {
    const OFTEN_ENOUGH: Duration = Duration::from_mins(10);
    let Ok(metadata) = fs::metadata(folder) else { return false };
    if metadata.modified().is_ok_and(|modified| since(modified) > OFTEN_ENOUGH) {
        let now = fs::FileTimes::new().set_modified(SystemTime::now());
        // A store that can't be written to is swept by nobody.
        let _ = File::open(folder).and_then(|file| file.set_times(now));
    }
    true
}

fn sweep_leftover(path: &Path) -> Result<(), StoreError> {
    if path.is_file() {
        return remove_file(path);
    }
    let is_draft = path.parent().is_some_and(|folder| folder.ends_with("drafts"));
    if !is_draft {
        return remove_folder(path);
    }
    match lock(path, &mut || false)? {
        Lock::Held(_held) => remove_folder(path),
        Lock::Busy | Lock::Unknown => Ok(()),
    }
}

fn since(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// What takes up room below a folder: a file with several names once.
fn size_below(folder: &Path) -> Result<u64, StoreError> {
    let mut sizes = BTreeMap::new();
    walk(folder, &mut |metadata| {
        sizes.insert(identity(metadata), metadata.len());
    })?;
    Ok(sizes.values().sum())
}

/// What removing a folder sets free: files that nothing but an object shares with it.
fn freed_below(folder: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    walk(folder, &mut |metadata| {
        if links(metadata) <= 2 {
            bytes += metadata.len();
        }
    })?;
    Ok(bytes)
}

fn newest(path: &Path) -> Option<SystemTime> {
    let mut newest = fs::symlink_metadata(path).ok()?.modified().ok()?;
    let _ = walk(path, &mut |metadata| {
        newest = newest.max(metadata.modified().unwrap_or(newest));
    });
    Some(newest)
}

/// Every file below a path, which may vanish meanwhile.
fn walk(path: &Path, see: &mut dyn FnMut(&fs::Metadata)) -> Result<(), StoreError> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if gone(&error) => return Ok(()),
        other => other.at("read", path)?,
    };
    if !metadata.is_dir() {
        see(&metadata);
        return Ok(());
    }
    for name in entries(path)? {
        walk(&path.join(name), see)?;
    }
    Ok(())
}

#[cfg(unix)]
fn links(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &fs::Metadata) -> u64 {
    1
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> (u64, u64) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (0, COUNT.fetch_add(1, Ordering::Relaxed))
}
