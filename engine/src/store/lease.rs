//! Says which results a run uses while it goes on, so that nobody sweeps them away.
//! Knows nothing of sweeping.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::Mutex,
};

use crate::{
    facts::Fingerprint,
    store::{Store, StoreError, disk::make_folder, entries, lock::unique_name},
};

/// Held by a run from its beginning to its end; of a run that was killed, the kernel lets go.
///
/// A store that can't be written to grants none, and is swept by nobody either.
#[derive(Debug)]
pub struct Lease {
    file: Option<Mutex<File>>,
    path: PathBuf,
}

impl Lease {
    /// From now on the run uses this result.
    pub fn add(&self, fingerprint: Fingerprint) {
        if let Some(file) = &self.file {
            let mut file = file.lock().expect("no holder of this lock panics");
            let _ = file.write_all(format!("{fingerprint}\n").as_bytes());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// A lease without results yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        let folder = self.root.join("leases");
        let path = folder.join(unique_name());
        let open = || {
            // A store that is not there yet has nothing to sweep.
            make_folder(&folder).ok()?;
            let file = OpenOptions::new().create_new(true).append(true).open(&path).ok()?;
            file.try_lock().ok()?;
            Some(Mutex::new(file))
        };
        let file = open();
        Lease { file, path }
    }

    /// All results that runs use now. Leases that nobody holds any more are removed.
    pub(super) fn leased(&self) -> Result<BTreeSet<Fingerprint>, StoreError> {
        let folder = self.root.join("leases");
        let mut leased = BTreeSet::new();
        for name in entries(&folder)? {
            let path = folder.join(name);
            // One that is gone has just been given back.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(&path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            leased.extend(text.lines().filter_map(|line| line.parse::<Fingerprint>().ok()));
        }
        Ok(leased)
    }
}
