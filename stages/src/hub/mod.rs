//! Files of the Hugging Face Hub, through the cache that Python's `huggingface_hub` uses.
//! Knows nothing of what the files hold.
//!
//! The crate `hf-hub` gives the cache's layout, the endpoint, the token's header and a client whose token never follows
//! a redirect to another host. What it leaves out is here: `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`, one
//! commit for all files of a reference, sizes and digests of what arrives, going on where a connection was cut, and
//! stopping when asked.

mod listing;
mod part;
mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod transfer;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use engine::Context;
use hf_hub::{
    Cache, CacheRepo,
    api::sync::{Api, ApiBuilder, ApiRepo},
};
use serde_json::{Value, json};

pub use part::part;
pub use reference::{Kind, Place, Reference};
pub use settings::Settings;

use crate::data::regular;
use listing::{Entry, Info};

/// How long to wait for a connection, and for the next bytes of one that stands.
const PATIENCE: Duration = Duration::from_secs(30);

/// A repository at one commit.
pub struct Repository {
    reference: Reference,
    settings: Settings,
    /// In order of their names.
    files: Vec<Entry>,
    commit: String,
    cache: CacheRepo,
    /// None where only the cache is asked.
    remote: Option<(Api, ApiRepo)>,
}

impl Repository {
    /// Looks up which commit the reference means and which files it has: asks the Hub, or offline the cache.
    ///
    /// # Errors
    /// Says whether there is no such thing, a token is missing, or nobody answers, and what to do.
    pub fn open(reference: &Reference, settings: &Settings) -> Result<Self> {
        if settings.is_offline { Self::cached(reference, settings) } else { Self::remote(reference, settings) }
    }

    fn cached(reference: &Reference, settings: &Settings) -> Result<Self> {
        let cache = Cache::new(settings.cache.clone());
        let folder = settings.cache.join(reference.repo().folder_name());
        let commit = if reference.is_pinned() {
            reference.revision.clone()
        } else {
            let path = folder.join("refs").join(&reference.revision);
            let text = regular::text(&path, REFERENCE_BYTES).map_err(|_| uncached(reference, settings, "it"))?;
            text.trim().to_owned()
        };
        ensure!(is_commit(&commit), "{}: `{commit}` is no commit", folder.join("refs").display());
        let cache = cache.repo(reference.repo());
        let names = listing::below(&cache.pointer_path(&commit))?;
        ensure!(!names.is_empty(), uncached(reference, settings, "it"));
        let files = names.into_iter().map(Entry::named).collect();
        Ok(Self { reference: reference.clone(), settings: settings.clone(), files, commit, cache, remote: None })
    }

    fn remote(reference: &Reference, settings: &Settings) -> Result<Self> {
        let cache = Cache::new(settings.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_progress(false);
        let builder = builder.with_endpoint(settings.endpoint.clone()).with_token(settings.token.clone());
        let api = builder.with_user_agent("mashbill", env!("CARGO_PKG_VERSION")).build()?;
        let repo = api.repo(reference.repo());
        let request = repo.info_request().query("blobs", "true").config().http_status_as_error(false);
        let request = request.timeout_connect(Some(PATIENCE)).timeout_per_read(Some(PATIENCE)).build();
        let mut answer = request.call().map_err(|error| unreachable(settings, &error.to_string()))?;
        let status = answer.status().as_u16();
        if status != 200 {
            let code = answer.headers().get("x-error-code").and_then(|code| code.to_str().ok());
            return Err(refused(reference, settings, status, code, None));
        }
        let text = answer.body_mut().with_config().limit(LARGEST_LISTING).read_to_string();
        let text = text.map_err(|error| unreachable(settings, &error.to_string()))?;
        let Info { sha: commit, siblings } = serde_json::from_str(&text)
            .with_context(|| format!("the answer of {} on {reference}", settings.endpoint))?;
        ensure!(is_commit(&commit), "{} names `{commit}` as the commit of {reference}", settings.endpoint);
        let mut files = siblings.into_iter().map(Entry::checked).collect::<Result<Vec<_>>>()?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        // From here on by the commit, so that all files are of one state even while somebody uploads.
        let repo = api.repo(reference.at(&commit).repo());
        let cache = cache.repo(reference.repo());
        if !reference.is_pinned() {
            cache.create_ref(&commit).with_context(|| format!("writing below {}", settings.cache.display()))?;
        }
        let remote = Some((api, repo));
        Ok(Self { reference: reference.clone(), settings: settings.clone(), files, commit, cache, remote })
    }

    /// The commit, in 40 hexadecimal digits.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder in which the files lie by their names.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.cache.pointer_path(&self.commit)
    }

    /// The files' names, in order. Offline those that are cached.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|other| other == name)
    }

    /// Writes down what was read: whoever looks at the result sees which commit a branch stood for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, step: u64, ctx: &Context) -> Result<()> {
        let Value::Object(sample) = json!({
            "repository": self.reference.repo().url(),
            "revision": self.reference.revision,
            "commit": self.commit,
        }) else {
            unreachable!("an object is written above");
        };
        ctx.sample(step, sample)
    }

    /// Brings files into the cache, those that are not there yet, and says where they lie.
    ///
    /// # Errors
    /// Names the file that is not there or does not arrive; [`engine::Cancelled`] when asked to stop. What arrived
    /// stays, and the next try goes on behind it.
    pub fn fetch(&self, names: &[String], ctx: &Context) -> Result<Vec<PathBuf>> {
        let mut wanted = Vec::new();
        for name in names {
            let Some(entry) = self.files.iter().find(|file| file.name == *name) else {
                bail!(match self.remote {
                    None => uncached(&self.reference, &self.settings, &format!("`{name}`")),
                    Some(_) => refused(&self.reference, &self.settings, 404, Some("EntryNotFound"), Some(name)),
                });
            };
            wanted.push(entry);
        }
        let folder = self.folder();
        if let Some((api, repo)) = &self.remote {
            let is_absent = |entry: &&Entry| !folder.join(&entry.name).exists();
            let absent = wanted.iter().copied().filter(is_absent).cloned().map(|entry| self.measured(api, repo, entry));
            let absent = absent.collect::<Result<Vec<_>>>()?;
            let mut transfer = transfer::Transfer::new(&absent, repo, ctx);
            for entry in &absent {
                self.bring(entry, &mut transfer).with_context(|| format!("fetching {} of {self}", entry.name))?;
            }
        }
        Ok(names.iter().map(|name| folder.join(name)).collect())
    }

    /// The entry with its size and digest: asks for them where the listing had none, as that of a mirror may.
    fn measured(&self, api: &Api, repo: &ApiRepo, mut entry: Entry) -> Result<Entry> {
        if entry.blob.is_none() || entry.size.is_none() {
            let about = api.metadata(&transfer::url(repo, &entry.name));
            let about = about.map_err(|error| unreachable(&self.settings, &error.to_string()))?;
            entry.size = Some(about.size() as u64);
            entry.blob = Some(about.etag().trim_start_matches("W/").to_owned());
            entry.check()?;
        }
        Ok(entry)
    }

    fn bring(&self, entry: &Entry, transfer: &mut transfer::Transfer) -> Result<()> {
        let blob_name = entry.blob.as_deref().context("a file without a digest")?;
        let blob = self.cache.blob_path(blob_name);
        let locks = self.settings.cache.join(".locks").join(self.reference.repo().folder_name());
        for folder in [blob.parent().unwrap_or(&blob), &locks] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let _lock = transfer.lock(&locks.join(format!("{blob_name}.lock")))?;
        if !blob.exists() {
            let incomplete = blob.with_file_name(format!("{blob_name}.incomplete"));
            transfer.run(entry, &incomplete).map_err(|trouble| match trouble {
                transfer::Trouble::Refused { status, code } => {
                    refused(&self.reference, &self.settings, status, code.as_deref(), Some(&entry.name))
                }
                transfer::Trouble::Unreachable(why) => unreachable(&self.settings, &why),
                transfer::Trouble::Other(error) => error,
            })?;
            fs::rename(&incomplete, &blob).with_context(|| format!("making {}", blob.display()))?;
        }
        link(&blob, &self.folder(), &entry.name)
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{}", self.reference.at(&self.commit))
    }
}

/// Most bytes of a file of the cache that holds a commit.
const REFERENCE_BYTES: u64 = 1024;
/// Most bytes of a listing: some collections have a hundred thousand files.
const LARGEST_LISTING: u64 = 256 << 20;

/// A file of a snapshot is a relative link to its blob; a copy where the disk has no links.
fn link(blob: &Path, snapshot: &Path, name: &str) -> Result<()> {
    let path = snapshot.join(name);
    let folder = path.parent().unwrap_or(snapshot);
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if path.exists() {
        return Ok(());
    }
    let blob_name = blob.file_name().unwrap_or_default();
    let target = Path::new(&"../".repeat(2 + name.matches('/').count())).join("blobs").join(blob_name);
    // One that dangles, since its blob was removed.
    let _ = fs::remove_file(&path);
    std::os::unix::fs::symlink(target, &path)
        .or_else(|_| fs::copy(blob, &path).map(drop))
        .with_context(|| format!("making {}", path.display()))
}

pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn uncached(reference: &Reference, settings: &Settings, what: &str) -> anyhow::Error {
    anyhow!(
        "{reference}: {what} is not in the cache {}, and `HF_HUB_OFFLINE` forbids to ask for it\n  hint: run once without `HF_HUB_OFFLINE`, or `hf download {}` where the network can be reached",
        settings.cache.display(),
        reference.as_words()
    )
}

fn unreachable(settings: &Settings, why: &str) -> anyhow::Error {
    anyhow!(
        "{} does not answer: {why}\n  hint: what is in the cache is used without asking if `HF_HUB_OFFLINE=1` is set",
        settings.endpoint
    )
}

/// What a status means to whoever reads it. The Hub's `X-Error-Code` says more than the status where it is given.
fn refused(
    reference: &Reference,
    settings: &Settings,
    status: u16,
    code: Option<&str>,
    file: Option<&str>,
) -> anyhow::Error {
    let page = format!("{}/{}", settings.endpoint, reference.repo().url());
    let token = match &settings.token {
        None => "no token was sent: set `HF_TOKEN` to one that may read it".to_owned(),
        Some(_) => format!("the token of {} may not read it: set `HF_TOKEN` to one that may", settings.token_from),
    };
    let text = match (status, code) {
        (_, Some("GatedRepo")) => {
            format!("{reference} is gated\n  hint: accept its conditions at {page}; {token}")
        }
        (_, Some("RevisionNotFound")) => format!("{reference} has no revision `{}`", reference.revision),
        (_, Some("EntryNotFound")) => format!("{reference} has no file `{}`", file.unwrap_or_default()),
        (401 | 403, _) => format!("{reference} is not there, or is private\n  hint: {token}"),
        (404, _) => format!("{reference} is not there: {page} answers 404"),
        (429, _) => format!("{} asks for fewer requests\n  hint: wait a little; {token}", settings.endpoint),
        (other, _) => format!("{page} answers {other}"),
    };
    anyhow!(text)
}
