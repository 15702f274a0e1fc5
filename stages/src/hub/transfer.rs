//! Bytes from the Hub into a file: in stretches, going on where a connection was cut, and checked at the end.
//! Knows nothing of the cache's layout.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use engine::{Cancelled, Context};
use hf_hub::api::sync::ApiRepo;
use ring::digest;

use super::{PATIENCE, listing::Entry};

/// So often in a row a connection may break without a byte having come.
const TRIES: u32 = 4;
const MEGABYTE: u64 = 1_000_000;

/// Files on their way, and how far they are.
pub(super) struct Transfer<'a> {
    repo: &'a ApiRepo,
    ctx: &'a Context,
    done: u64,
    total: u64,
}

/// Why a file did not arrive.
pub(super) enum Trouble {
    Refused { status: u16, code: Option<String> },
    Unreachable(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl<'a> Transfer<'a> {
    pub fn new(entries: &[Entry], repo: &'a ApiRepo, ctx: &'a Context) -> Self {
        Self { repo, ctx, done: 0, total: entries.iter().filter_map(|entry| entry.size).sum() }
    }

    /// Keeps other programs from writing the same file, by the lock that Python's `huggingface_hub` takes.
    pub fn lock(&self, path: &Path) -> Result<File> {
        let place = || format!("locking {}", path.display());
        let file = File::create(path).with_context(place)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    ensure!(!self.ctx.cancelled(), Cancelled);
                    self.ctx.progress(0, 0, "waiting for another program that fetches the same file");
                    thread::sleep(Duration::from_millis(200));
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(place),
            }
        }
    }

    /// Completes `path`, of which a part may be there.
    pub fn run(&mut self, entry: &Entry, path: &Path) -> Result<(), Trouble> {
        let size = entry.size.context("a file without a size")?;
        let before = self.done;
        let mut tries = 0;
        loop {
            let have = fs::metadata(path).map_or(0, |about| about.len());
            self.done = before + have.min(size);
            if have == size && path.exists() {
                break;
            }
            if have > size {
                fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
                continue;
            }
            match self.stretch(entry, path, have, size) {
                Ok(()) => (),
                Err(Trouble::Unreachable(why)) => {
                    let came = fs::metadata(path).map_or(0, |about| about.len()) > have;
                    tries = if came { 0 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(Trouble::Unreachable(why));
                    }
                    tracing::info!(file = entry.name, have, why, "the connection was cut");
                    if !came {
                        thread::sleep(Duration::from_millis(250 << tries));
                    }
                }
                Err(other) => return Err(other),
            }
        }
        verify(entry, path, size)?;
        Ok(())
    }

    /// One request: appends what comes.
    fn stretch(&mut self, entry: &Entry, path: &Path, have: u64, size: u64) -> Result<(), Trouble> {
        let cut = |why: &dyn std::fmt::Display| Trouble::Unreachable(why.to_string());
        // The library gives requests of its own to the listing alone: this is one of them, sent to the file.
        let request = self.repo.info_request().uri(url(self.repo, &entry.name)).header("Accept-Encoding", "identity");
        let request = if have > 0 { request.header("Range", format!("bytes={have}-")) } else { request };
        let request = request.config().http_status_as_error(false).timeout_connect(Some(PATIENCE));
        let request = request.timeout_recv_response(Some(PATIENCE)).timeout_per_read(Some(PATIENCE)).build();
        let answer = request.call().map_err(|error| cut(&error))?;
        let status = answer.status().as_u16();
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        let from = match status {
            206 if header("Content-Range").is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) => have,
            // The whole file, asked for or not.
            200 => 0,
            206 | 416 => {
                fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
                return Err(cut(&format!("status {status} for the bytes from {have} on")));
            }
            429 | 500..600 => return Err(cut(&format!("status {status}"))),
            _ => return Err(Trouble::Refused { status, code: header("x-error-code") }),
        };
        let place = || format!("writing {}", path.display());
        let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(place)?;
        if from < have {
            file.set_len(from).with_context(place)?;
            self.done -= have - from;
        }
        let (mut at, mut buffer) = (from, vec![0; 1 << 18]);
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        while at < size {
            if self.ctx.cancelled() {
                return Err(Trouble::Other(Cancelled.into()));
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => return Err(cut(&format!("the connection ended after {at} of {size} bytes"))),
                Ok(count) => count,
                Err(error) => return Err(cut(&error)),
            };
            file.write_all(&buffer[..count]).with_context(place)?;
            at += count as u64;
            self.done += count as u64;
            self.ctx.progress(self.done / MEGABYTE, self.total.div_ceil(MEGABYTE), format!("MB, {}", entry.name));
        }
        file.sync_all().with_context(place)?;
        Ok(())
    }
}

/// Where the file lies, every byte that is not plain in its name escaped.
pub(super) fn url(repo: &ApiRepo, name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => escaped.push(byte.into()),
            other => {
                let _ = write!(escaped, "%{other:02X}");
            }
        }
    }
    repo.url(&escaped)
}

/// A digest as the Hub writes it.
pub(super) fn hexadecimal(digest: &digest::Digest) -> String {
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Compares the bytes with what names them. A file that differs is removed: nothing could be appended to mend it.
fn verify(entry: &Entry, path: &Path, size: u64) -> Result<()> {
    let blob = entry.blob.as_deref().unwrap_or_default();
    let mut context = match blob.len() {
        64 => digest::Context::new(&digest::SHA256),
        // What git calls a file: the SHA-1 of its length and bytes.
        40 => {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {size}\0").as_bytes());
            context
        }
        // A mirror's own name: the size has to do.
        _ => return Ok(()),
    };
    let place = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(place)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).with_context(place)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    let found = hexadecimal(&context.finish());
    if found != blob {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        return Err(anyhow!(
            "it arrived damaged: its digest is {found} where the Hub says {blob}; run again to fetch it anew"
        ));
    }
    Ok(())
}
