//! The steps that change the disk, each with the sentence for when it fails.
//! Knows nothing of what the files are. Tests stop a process, or fill the disk, before any of these steps.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::StoreError;

pub(super) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.into(), source })
    }
}

/// A folder and those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    fault::point().and_then(|()| fs::create_dir_all(path)).at("make", path)
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    try_rename(from, to).at("move", from)
}

/// For whom a name that is taken is no failure.
pub(super) fn try_rename(from: &Path, to: &Path) -> io::Result<()> {
    fault::point()?;
    fs::rename(from, to)
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    fault::point().and_then(|()| fs::copy(from, to)).map(drop).at("copy", from)
}

/// A second name for a file; for whom that is no failure.
pub(super) fn try_link(file: &Path, name: &Path) -> io::Result<()> {
    fault::point()?;
    fs::hard_link(file, name)
}

pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fault::point().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

/// A folder with all that is in it.
pub(super) fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fault::point().and_then(|()| fs::remove_dir_all(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().expect("a file below the store's root");
    let write = || {
        fault::point()?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".new-");
        // As any other file of the store, and not for its owner alone: what the umask leaves.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        fault::point()?;
        file.write_all(bytes)?;
        fault::point()?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).at("write", path)
}

/// Writes a file that nobody will change.
pub(super) fn write_sealed(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    fault::point().and_then(|()| fs::write(path, bytes)).at("write", path)?;
    seal(path)?;
    Ok(())
}

/// Makes a file read-only and puts it on the disk; gives its size.
pub(super) fn seal(path: &Path) -> Result<u64, StoreError> {
    let metadata = fs::metadata(path).at("read", path)?;
    let mut permissions = metadata.permissions();
    if !permissions.readonly() {
        permissions.set_readonly(true);
        fault::point().and_then(|()| fs::set_permissions(path, permissions)).at("make read-only", path)?;
    }
    sync(path)?;
    Ok(metadata.len())
}

/// Puts a folder and those below it on the disk.
pub(super) fn sync_folders(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    sync(folder)
}

pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    fault::point().and_then(|()| File::open(path)).and_then(|file| file.sync_all()).at("sync", path)
}

/// Outside tests there is nothing here.
#[cfg(not(test))]
mod fault {
    #[expect(clippy::unnecessary_wraps, reason = "in tests it may fail")]
    #[inline]
    pub fn point() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod fault {
    use std::{
        cell::Cell,
        io,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// The step before which a process of the crash storm kills itself, by this variable of its environment.
    pub const KILL: &str = "MASHBILL_TEST_KILL_AT";

    static KILL_AT: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(KILL).ok()?.parse().ok());
    static STEPS: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        /// Steps of this thread until the disk is full.
        static FULL_IN: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From the `steps`-th step of this thread on there is no room on the disk.
    pub fn fill_disk_in(steps: Option<u64>) {
        FULL_IN.set(steps);
    }

    /// As many as this process took.
    pub fn steps() -> u64 {
        STEPS.load(Ordering::SeqCst)
    }

    pub fn point() -> io::Result<()> {
        let step = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
        if *KILL_AT == Some(step) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        match FULL_IN.get() {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                FULL_IN.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
