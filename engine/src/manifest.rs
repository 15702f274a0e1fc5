//! What an artifact says of itself: what it holds, and how it came to be. Carries the digest of its own text.
//! Knows nothing of folders.

use std::{collections::BTreeMap, path::PathBuf};

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
}

fn seal(manifest: &Value) -> Digest {
    Digest::of_document("mashbill 1 manifest", manifest)
}
