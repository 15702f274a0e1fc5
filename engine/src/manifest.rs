//! What an artifact says of itself: what it holds, and how it came to be. Carries the digest of its own text.
//! Knows nothing of folders.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{digest::Digest, facts::Fingerprint};

/// What an artifact says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub fingerprint: Fingerprint,
    pub kind: String,
    /// Digest of the data folder: what the facts of later nodes hold.
    pub content: Digest,
    /// Every file below the data folder.
    pub files: BTreeMap<String, FileEntry>,
    /// Every file beside it that the stage recorded: metrics, samples, what a program printed.
    #[serde(default)]
    pub records: BTreeMap<String, FileEntry>,
    pub made: Provenance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub size: u64,
    pub digest: Digest,
}

/// How a result came to be. None of it decides the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub pipeline: String,
    pub node: String,
    /// UTC, as `2026-11-23T18:06:56Z`.
    pub started: String,
    pub seconds: f64,
    /// Version of this program.
    pub engine: String,
    /// Such as `linux x86_64`.
    pub platform: String,
    /// The `run:` block.
    pub settings: Value,
    /// Parameter to the paths that its bytes came from.
    pub sources: BTreeMap<String, Vec<PathBuf>>,
    pub inputs: BTreeMap<String, Vec<Origin>>,
}

/// Which result an input was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub node: String,
    pub fingerprint: Fingerprint,
}

impl Manifest {
    /// The file's bytes: the manifest, and the digest that tells whether it was altered.
    ///
    /// # Panics
    /// Never: a manifest is plain data.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let manifest = serde_json::to_value(self).expect("a manifest is plain data with text for keys");
        let sealed = json!({ "seal": seal(&manifest), "manifest": manifest });
        format!("{sealed:#}\n").into_bytes()
    }

    /// The manifest in a file's bytes, unless they were altered.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        let mut sealed: Value = serde_json::from_slice(bytes).ok()?;
        let manifest = sealed["manifest"].take();
        let is_unaltered = sealed["seal"] == seal(&manifest).to_string();
        if is_unaltered { serde_json::from_value(manifest).ok() } else { None }
    }

    /// What cannot be of what it says, if anything: whoever wrote it may have been no program of ours. Every name is one
    /// that can be joined to the result's folder, no file lies where another needs a folder, and the content is that of
    /// the files.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        for name in self.files.keys() {
            if !is_plain(name) {
                return Some(format!("`manifest.json` names a file `{}`", name.escape_debug()));
            }
            let folders = name.match_indices('/').map(|(at, _)| &name[..at]);
            if let Some(folder) = folders.into_iter().find(|folder| self.files.contains_key(*folder)) {
                return Some(format!("`manifest.json` names `{folder}` as a file and as a folder"));
            }
        }
        let taken = ["data", "facts.json", "manifest.json"];
        let is_odd = |name: &&String| !is_plain(name) || name.contains('/') || taken.contains(&name.as_str());
        if let Some(name) = self.records.keys().find(is_odd) {
            return Some(format!("`manifest.json` names a record `{}`", name.escape_debug()));
        }
        let files = self.files.iter().map(|(name, file)| (name.as_str(), file.digest));
        (Digest::of_files(files) != self.content)
            .then(|| "the content in `manifest.json` is not that of its files".into())
    }

    /// The manifest in bytes that [`Manifest::from_json`] found unaltered before.
    pub(crate) fn from_checked_json(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(|Sealed { manifest }| manifest)
    }
}

/// One name or several with `/` between, each of which a folder can hold: no root, no `..`, nothing empty.
fn is_plain(name: &str) -> bool {
    let parts = || name.split('/');
    let is_one = |part: &str| {
        let mut components = Path::new(part).components();
        let first = components.next();
        let is_same = matches!(first, Some(Component::Normal(first)) if first == part) && components.next().is_none();
        is_same && part.len() <= LONGEST_PART && !part.contains('\0')
    };
    name.len() <= LONGEST_NAME && parts().all(is_one)
}

/// Bytes of a name between two `/`: what file systems take.
const LONGEST_PART: usize = 255;
/// Bytes of a whole name: together with the store's own folder it has to fit the 4,096 of a path.
const LONGEST_NAME: usize = 2048;

/// A manifest whose seal need not be looked at again.
#[derive(Deserialize)]
struct Sealed {
    manifest: Manifest,
}

fn seal(manifest: &Value) -> Digest {
    Digest::of_document("mashbill 1 manifest", manifest)
}

/// A time as `2026-11-23T18:06:56Z`.
pub(crate) fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = if months_since_march < 10 { months_since_march + 3 } else { months_since_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_gnu_date_writes_them() {
        // date -u -d @N +%FT%TZ
        let published = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in published {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
