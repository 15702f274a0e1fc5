//! Keeps two processes from doing the same work: the kernel's locks, which end with whoever holds them.
//! Knows nothing of the work. No result rests on them.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::store::{
    StoreError,
    disk::{At, make_folder},
    file_name,
};

pub(super) enum Lock {
    Held(File),
    /// Somebody else holds it.
    Busy,
    /// The file system has no locks.
    Unknown,
}

/// Locks a draft's folder, making it if need be.
pub(super) fn lock(folder: &Path, patience: &mut dyn FnMut() -> bool) -> Result<Lock, StoreError> {
    let path = folder.join("lock");
    loop {
        make_folder(folder)?;
        let file = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
            // Whoever published has just removed the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("open", &path)?,
        };
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if patience() => thread::sleep(Duration::from_millis(100)),
                Err(TryLockError::WouldBlock) => return Ok(Lock::Busy),
                Err(TryLockError::Error(error)) if is_without_locks(&error) => return Ok(Lock::Unknown),
                Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
        }
        // A lock on a file that was removed meanwhile keeps nobody out.
        if is_same_file(&file, &path) {
            return Ok(Lock::Held(file));
        }
    }
}

fn is_without_locks(error: &io::Error) -> bool {
    // ENOLCK has no kind of its own.
    error.kind() == io::ErrorKind::Unsupported || cfg!(target_os = "linux") && error.raw_os_error() == Some(37)
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

/// What the names of this machine's tries begin with: on a disk that machines share, locks may not reach the others.
#[cfg(unix)]
pub(super) fn host_prefix() -> String {
    format!("{}-", file_name(&rustix::system::uname().nodename().to_string_lossy()))
}

#[cfg(not(unix))]
pub(super) fn host_prefix() -> String {
    String::new()
}

/// A name that no other process and no other thread uses.
pub(super) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}{}-{}", host_prefix(), std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst))
}
