//! Reads every byte of the store and sets aside what is no longer what was published.
//! Knows nothing of memos: nothing is taken on trust here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    digest::{Digest, Memo},
    facts::Fingerprint,
    manifest::Manifest,
    runs::Runs,
    store::{Artifact, Doubt, Last, POINTER, Store, StoreError, disk::At, entries, sealed},
};

/// What a look at everything found.
#[derive(Debug, Default)]
pub struct Examined {
    pub artifacts: usize,
    pub files: usize,
    pub bytes: u64,
    pub damages: Vec<Damage>,
}

/// Something that was altered, and is in quarantine now.
#[derive(Debug)]
pub struct Damage {
    /// Relative to the store.
    pub path: PathBuf,
    pub what: String,
    /// What comes of it.
    pub remedy: &'static str,
    /// Node and pipeline that made it, where that is still known.
    pub made_by: Option<(String, String)>,
}

/// What early versions recorded, without a word of it in the manifest.
const EARLY_RECORDS: [&str; 3] = ["metrics.jsonl", "samples.jsonl", "log.txt"];

const REBUILT: &str = "the next run that needs it makes it again";
const RECORD: &str = "the result itself is whole";
const RECORD_OF_RUN: &str = "the results of the run are whole";
const FORGOTTEN: &str = "what was saved in it is found out again";

impl Store {
    /// Reads everything. `tell` hears the name of each result before it is read.
    ///
    /// # Errors
    /// When the disk does not answer, or what is damaged can't be set aside.
    pub fn verify(&self, tell: &mut dyn FnMut(Fingerprint)) -> Result<Examined, StoreError> {
        let mut examined = Examined::default();
        for fingerprint in self.fingerprints()? {
            tell(fingerprint);
            examined.artifacts += 1;
            let folder = self.artifact_folder(fingerprint);
            match Self::examine(&Memo::default(), fingerprint, &folder) {
                Ok(artifact) => {
                    let Manifest { files, records, .. } = artifact.manifest()?;
                    examined.bytes += files.values().chain(records.values()).map(|file| file.size).sum::<u64>();
                    examined.files += files.len() + records.len();
                    self.verify_records(&artifact, &mut examined)?;
                }
                // It was swept away meanwhile.
                Err(Doubt::Damage(_)) if !folder.exists() => {}
                Err(Doubt::Damage(what)) => {
                    let made_by = self.recall(fingerprint).map(|(manifest, _)| maker(&manifest.made));
                    self.quarantine(fingerprint)?;
                    examined.damages.push(Damage { path: self.relative(&folder), what, remedy: REBUILT, made_by });
                }
                Err(Doubt::Store(error)) => return Err(error),
            }
        }
        self.verify_names(&mut examined)?;
        self.verify_objects(&mut examined)?;
        self.verify_pointers(&mut examined)?;
        self.verify_memo(&mut examined)?;
        self.verify_runs(&mut examined)?;
        Ok(examined)
    }

    /// What was written down of runs.
    fn verify_runs(&self, examined: &mut Examined) -> Result<(), StoreError> {
        for (id, what) in Runs::of(self)?.verify(self) {
            let path = self.root.join("runs").join(id.to_string());
            self.quarantine_path(&path, &format!("run-{id}"))?;
            examined.damages.push(Damage { path: self.relative(&path), what, remedy: RECORD_OF_RUN, made_by: None });
        }
        Ok(())
    }

    /// What lies beside the data of a result.
    fn verify_records(&self, artifact: &Artifact, examined: &mut Examined) -> Result<(), StoreError> {
        let (folder, manifest) = (&artifact.folder, artifact.manifest()?);
        let fingerprint = manifest.fingerprint;
        for name in entries(folder)? {
            if ["data", "facts.json", "manifest.json"].contains(&name.as_str()) {
                continue;
            }
            let path = folder.join(&name);
            // A pipe is not opened, and a link not followed.
            let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
            let what = match manifest.records.get(&name) {
                Some(entry) if is_file && entry.digest == digest(&path)? => continue,
                Some(_) => format!("the bytes of `{name}` changed"),
                // Results of early versions say nothing of their records.
                None if manifest.records.is_empty() && is_file && EARLY_RECORDS.contains(&name.as_str()) => continue,
                None => format!("`{name}` was added"),
            };
            self.quarantine_path(&path, &format!("{fingerprint}-{name}"))?;
            let made_by = Some(maker(&manifest.made));
            examined.damages.push(Damage { path: self.relative(&path), what, remedy: RECORD, made_by });
        }
        for name in manifest.records.keys().filter(|name| !folder.join(name).exists()) {
            let path = self.relative(&folder.join(name));
            // One that was set aside is told above.
            if !examined.damages.iter().any(|damage| damage.path == path) {
                let made_by = Some(maker(&manifest.made));
                examined.damages.push(Damage { path, what: format!("`{name}` is gone"), remedy: RECORD, made_by });
            }
        }
        Ok(())
    }

    /// What no result is called.
    fn verify_names(&self, examined: &mut Examined) -> Result<(), StoreError> {
        let folder = self.root.join("artifacts");
        for name in entries(&folder)?.into_iter().filter(|name| name.parse::<Fingerprint>().is_err()) {
            let path = folder.join(&name);
            self.quarantine_path(&path, &name)?;
            let what = "no result has such a name".into();
            examined.damages.push(Damage { path: self.relative(&path), what, remedy: FORGOTTEN, made_by: None });
        }
        Ok(())
    }

    fn verify_objects(&self, examined: &mut Examined) -> Result<(), StoreError> {
        let objects = self.root.join("objects");
        for prefix in entries(&objects)? {
            for name in entries(&objects.join(&prefix))? {
                let path = objects.join(&prefix).join(&name);
                let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
                let found = match digest(&path) {
                    Ok(found) if is_file => Some(found),
                    Ok(_) => None,
                    Err(_) if !path.exists() => continue,
                    Err(_) if !is_file => None,
                    Err(error) => return Err(error),
                };
                if found.is_none_or(|found| found.to_string() != name) {
                    self.quarantine_path(&path, &format!("object-{name}"))?;
                    let what = "its bytes are not those of its name".into();
                    examined.damages.push(Damage {
                        path: self.relative(&path),
                        what,
                        remedy: FORGOTTEN,
                        made_by: None,
                    });
                }
            }
        }
        Ok(())
    }

    fn verify_pointers(&self, examined: &mut Examined) -> Result<(), StoreError> {
        for path in self.pointers()? {
            let Ok(bytes) = fs::read(&path) else { continue };
            let is_early = serde_json::from_slice::<Last>(&bytes).is_ok();
            if sealed::from_bytes::<Last>(POINTER, &bytes).is_none() && !is_early {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.quarantine_path(&path, &format!("node-{name}"))?;
                let what = "it is not what was written".into();
                let remedy = "the next run writes it again";
                examined.damages.push(Damage { path: self.relative(&path), what, remedy, made_by: None });
            }
        }
        Ok(())
    }

    fn verify_memo(&self, examined: &mut Examined) -> Result<(), StoreError> {
        let path = self.root.join("memo");
        if path.exists() && !Memo::is_whole(&path) {
            self.quarantine_path(&path, "memo")?;
            let what = "it is not what was written".into();
            examined.damages.push(Damage { path: self.relative(&path), what, remedy: FORGOTTEN, made_by: None });
        }
        Ok(())
    }

    /// The file of every node's last result.
    pub(super) fn pointers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let nodes = self.root.join("nodes");
        let mut paths = Vec::new();
        for pipeline in entries(&nodes)? {
            let folder = nodes.join(pipeline);
            let names = entries(&folder)?.into_iter().filter(|name| !name.starts_with(".new-"));
            paths.extend(names.map(|name| folder.join(name)));
        }
        Ok(paths)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).into()
    }
}

fn maker(made: &crate::manifest::Provenance) -> (String, String) {
    (made.node.clone(), made.pipeline.clone())
}

/// Of a file's bytes as they are on the disk now.
fn digest(path: &Path) -> Result<Digest, StoreError> {
    match Memo::default().digest(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(Digest::of_bytes(b"")),
        other => other.at("read", path),
    }
}
