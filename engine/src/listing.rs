//! What lies in a store, without a look at its data.
//! Knows nothing of plans.

use std::{fs, io, path::PathBuf};

use serde_json::{Map, Value};

use crate::{
    context,
    facts::Fingerprint,
    manifest::Manifest,
    store::{Artifact, Store, StoreError},
};

impl Manifest {
    /// Bytes of all its files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

impl Store {
    /// Every result whose manifest is whole, the newest first. Whether its data are is not asked.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn artifacts(&self) -> Result<Vec<Artifact>, StoreError> {
        let folder = self.root().join("artifacts");
        let failed = |source| StoreError::Io { action: "read", path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut artifacts = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            artifacts.extend(name.to_str().and_then(|name| self.recall_artifact(name.parse().ok()?)));
        }
        artifacts.sort_by(|a: &Artifact, b| b.brief.started.cmp(&a.brief.started));
        Ok(artifacts)
    }

    /// A result as it says of itself.
    #[must_use]
    pub fn recall_artifact(&self, fingerprint: Fingerprint) -> Option<Artifact> {
        let (manifest, facts) = self.recall(fingerprint)?;
        let folder = self.root().join("artifacts").join(fingerprint.to_string());
        Some(Artifact::of(folder, manifest, facts))
    }
}

/// What a stage recorded beside its result, or has so far.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Artifact {
    #[must_use]
    pub fn records(&self) -> Records {
        Records { folder: self.folder.clone() }
    }

    /// What the stage found wrong with this result, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.record(context::WARNINGS).map(|text| context::warnings(&text)).unwrap_or_default()
    }
}

impl Store {
    /// What was recorded of a result that is not finished: somebody makes it now, or failed or was stopped.
    #[must_use]
    pub fn unfinished(&self, fingerprint: Fingerprint) -> Option<Records> {
        let folder = self.root().join("drafts").join(fingerprint.to_string()).join("records");
        let mut entries = fs::read_dir(&folder).ok()?;
        entries.next().is_some().then_some(Records { folder })
    }
}

impl Records {
    /// Every line of what the stage recorded as metrics.
    #[must_use]
    pub fn metrics(&self) -> Vec<Map<String, Value>> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl")).unwrap_or_default();
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What the programs wrote that the stage ran.
    #[must_use]
    pub fn log(&self) -> Option<String> {
        let bytes = fs::read(self.folder.join(context::LOG)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}
