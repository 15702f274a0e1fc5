//! Names of bytes: the digest of a file, of a folder, of a document; and a memo so that nothing is read twice.
//! Knows nothing of stages or results.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File, Metadata},
    io::{self, Read as _, Seek as _},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::encoding::encode;

/// Hash of bytes: identifies content.
///
/// A file's is plain BLAKE3, as `b3sum` prints it. A folder's is that of the sorted relative paths of its files,
/// each with its digest; empty folders, modes and times are not part of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes in memory, as if they were a file.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Of bytes that were hashed as they came, as if they were a file.
    pub(crate) fn of_hasher(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// Of a folder that holds `files`: relative path, with `/` between names, to the file's digest.
    #[must_use]
    pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a str, Digest)>) -> Self {
        let files = files.into_iter().map(|(path, digest)| (path.into(), Value::String(digest.to_string())));
        Self::of_document("mashbill 1 folder", &Value::Object(files.collect()))
    }

    /// Of a document, for one `purpose` alone.
    pub(crate) fn of_document(purpose: &str, document: &Value) -> Self {
        Self(blake3::derive_key(purpose, &encode(document)))
    }

    /// From 64 hexadecimal digits.
    pub(crate) fn read(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }

    /// The first eight letters, for people.
    #[must_use]
    pub fn short(self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not 64 hexadecimal digits")))
    }
}

/// Digests of files already read, trusted while the file's stat is what it was. Two names of one file are one file.
/// Folders that were found whole, trusted while the stat of all in them is.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    known: Mutex<HashMap<Identity, Known>>,
    whole: Mutex<HashMap<String, Whole>>,
    changed: AtomicBool,
}

/// A folder that was found to be what had been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Whole {
    /// All that was looked at, folders too, relative to the folder: in those nothing can be added unseen.
    paths: Vec<String>,
    /// Of the stat of each.
    stats: Digest,
    /// What was learnt from it.
    lesson: String,
    /// Below the folder that [`Memo::look_ahead`] is given.
    folder: String,
    #[serde(skip)]
    used: bool,
    /// When the stats were looked at ahead, and found to be the same.
    #[serde(skip)]
    seen: Option<Instant>,
}

/// What to do about symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// As whoever reads the folder will.
    Follow,
    /// A result must not depend on what lies outside it.
    Refuse,
}

/// Which file it is.
type Identity = (u64, u64);

#[derive(Debug, Clone, Copy)]
struct Known {
    stat: Stat,
    digest: Digest,
    /// It is a document of the store, and its seal was found right.
    is_sealed: bool,
    /// Somebody asked for it in this process.
    used: bool,
}

/// What changes whenever a file's bytes do. The change time can't be set back by who writes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    identity: Identity,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Memo {
    /// More than these are kept only where they were asked for.
    const MANY: usize = 200_000;
    /// A smaller file is read again in less time than it takes to remember it.
    const SMALL: u64 = 1 << 14;
    /// What was looked at ahead is worth nothing after it.
    const MOMENT: Duration = Duration::from_secs(1);

    /// The memo kept at `path`; an empty one where it can't be read or was altered, since it only saves time.
    pub(crate) fn load(path: &Path) -> Self {
        let (known, whole) = fs::read_to_string(path).ok().and_then(|text| read_memo(&text)).unwrap_or_default();
        Self { known: Mutex::new(known), whole: Mutex::new(whole), changed: AtomicBool::new(false) }
    }

    /// Is what is kept at `path` what was written there?
    pub(crate) fn is_whole(path: &Path) -> bool {
        fs::read_to_string(path).ok().and_then(|text| read_memo(&text)).is_some()
    }

    /// The memo as a text that carries its own digest, if there is news.
    pub(crate) fn to_bytes_if_changed(&self) -> Option<Vec<u8>> {
        if !self.changed.swap(false, Ordering::SeqCst) {
            return None;
        }
        let mut known = self.known.lock().expect("no holder of this lock panics");
        if known.len() > Self::MANY {
            known.retain(|_, known| known.used);
        }
        let is_worth_it = |known: &&Known| known.stat.size >= Self::SMALL;
        let mut lines: Vec<String> = known.values().filter(is_worth_it).map(Known::line).collect();
        let mut whole = self.whole.lock().expect("no holder of this lock panics");
        if whole.len() > Self::MANY {
            whole.retain(|_, whole| whole.used);
        }
        lines.extend(whole.iter().map(|(name, whole)| {
            let whole = serde_json::to_string(whole).expect("plain data with text for keys");
            format!("{name} {whole}\n")
        }));
        lines.sort_unstable();
        let body = lines.concat();
        Some(format!("{}\n{body}", Digest::of_bytes(body.as_bytes())).into_bytes())
    }

    /// Looks at the stats of all folders that were found whole before, so that who asks of one within the next moment
    /// need not wait for the disk.
    pub(crate) fn look_ahead(&self, root: &Path) {
        let all = |whole: &HashMap<String, Whole>| -> Vec<_> {
            let asked = |(name, Whole { folder, paths, stats, .. }): (&String, &Whole)| {
                (name.clone(), root.join(folder), paths.clone(), *stats)
            };
            whole.iter().map(asked).collect()
        };
        let all = all(&self.whole.lock().expect("no holder of this lock panics"));
        for (name, folder, paths, stats) in all {
            let seen = Instant::now();
            if stats_of(&folder, &paths).is_ok_and(|now| now.digest() == stats)
                && let Some(whole) = self.whole.lock().expect("no holder of this lock panics").get_mut(&name)
            {
                whole.seen = Some(seen);
            }
        }
    }

    /// What was learnt from a folder the last time it was found whole, if nothing in it was touched since. `name` is
    /// one word that names the folder's content.
    pub(crate) fn lesson_of(&self, name: &str, folder: &Path) -> Option<String> {
        let mut all = self.whole.lock().expect("no holder of this lock panics");
        let whole = all.get_mut(name)?;
        // Once: who asks again wants to know how it is now.
        let is_seen = whole.seen.take().is_some_and(|seen| seen.elapsed() < Self::MOMENT);
        if is_seen || stats_of(folder, &whole.paths).ok()?.digest() == whole.stats {
            whole.used = true;
            return Some(whole.lesson.clone());
        }
        all.remove(name);
        self.changed.store(true, Ordering::SeqCst);
        None
    }

    /// Looks into a folder below `root` with `look`, and remembers what it learnt of it where nothing was touched
    /// meanwhile. `paths` are all files and folders that matter.
    pub(crate) fn learn<T, E>(
        &self,
        name: &str,
        (root, folder): (&Path, &str),
        paths: impl FnOnce() -> io::Result<Vec<String>>,
        look: impl FnOnce() -> Result<(T, String), E>,
    ) -> Result<T, E> {
        let place = root.join(folder);
        let before = paths().and_then(|paths| Ok((stats_of(&place, &paths)?, paths)));
        let (seen, lesson) = look()?;
        if let Ok((before, paths)) = before
            && before.0.iter().all(Stat::is_settled)
            && stats_of(&place, &paths).is_ok_and(|after| after == before)
        {
            let (stats, folder) = (before.digest(), folder.to_owned());
            let whole = Whole { paths, stats, lesson, folder, used: true, seen: None };
            self.whole.lock().expect("no holder of this lock panics").insert(name.into(), whole);
            self.changed.store(true, Ordering::SeqCst);
        }
        Ok(seen)
    }

    /// Digest of a file, or of a folder with all below it.
    pub(crate) fn digest(&self, path: &Path) -> io::Result<Digest> {
        if fs::metadata(path)?.is_dir() {
            let files = self.digest_below(path, Links::Follow)?;
            return Ok(Digest::of_files(files.iter().map(|(name, digest)| (name.as_str(), *digest))));
        }
        self.digest_file(path)
    }

    /// Relative path, with `/` between names, and digest of every file below `folder`.
    pub(crate) fn digest_below(&self, folder: &Path, links: Links) -> io::Result<BTreeMap<String, Digest>> {
        let mut files = BTreeMap::new();
        for name in files_below(folder, links)? {
            let digest = self.digest_file(&folder.join(&name))?;
            files.insert(name, digest);
        }
        Ok(files)
    }

    fn digest_file(&self, path: &Path) -> io::Result<Digest> {
        let metadata = fs::metadata(path)?;
        // A pipe is waited for, and a device has no end.
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is neither a file nor a folder"));
        }
        let stat = Stat::of(&metadata);
        if let Some(known) = self.known.lock().expect("no holder of this lock panics").get_mut(&stat.identity)
            && known.stat == stat
        {
            known.used = true;
            return Ok(known.digest);
        }
        let file = File::open(path)?;
        let stat = Stat::of(&file.metadata()?);
        // Read, not mapped: a mapped file that somebody truncates kills the process.
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file)?;
        let digest = Digest(*hasher.finalize().as_bytes());
        let after = Stat::of(&file.metadata()?);
        let mut known = self.known.lock().expect("no holder of this lock panics");
        if stat == after && stat.is_settled() {
            known.insert(stat.identity, Known { stat, digest, is_sealed: false, used: true });
            self.changed.fetch_or(stat.size >= Self::SMALL, Ordering::SeqCst);
        } else {
            known.remove(&stat.identity);
        }
        Ok(digest)
    }

    /// The bytes of a document that says itself whether it was altered: `check` finds that out, `trust` takes it as it
    /// is, because it was found right before and its stat is what it was then.
    pub(crate) fn read_sealed<T>(
        &self,
        path: &Path,
        check: impl FnOnce(&[u8]) -> Option<T>,
        trust: impl FnOnce(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut file = File::open(path)?;
        let bytes = read_all(&file)?;
        // A write before this stat, or during the read, would show in it.
        let stat = Stat::of(&file.metadata()?);
        if let Some(known) = self.known.lock().expect("no holder of this lock panics").get_mut(&stat.identity)
            && known.is_sealed
            && known.stat == stat
        {
            known.used = true;
            return Ok(trust(&bytes));
        }
        file.rewind()?;
        let bytes = read_all(&file)?;
        let is_still = Stat::of(&file.metadata()?) == stat;
        let document = check(&bytes);
        if document.is_some() && is_still && stat.is_settled() {
            let known = Known { stat, digest: Digest::of_bytes(&bytes), is_sealed: true, used: true };
            self.known.lock().expect("no holder of this lock panics").insert(stat.identity, known);
            self.changed.fetch_or(stat.size >= Self::SMALL, Ordering::SeqCst);
        }
        Ok(document)
    }
}

impl Known {
    fn line(&self) -> String {
        let Stat { identity: (device, inode), size, modified_ns, changed_ns } = self.stat;
        let is_sealed = u8::from(self.is_sealed);
        format!("{device} {inode} {size} {modified_ns} {changed_ns} {} {is_sealed}\n", self.digest)
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let identity = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let size = words.next()?.parse().ok()?;
        let (modified_ns, changed_ns) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let digest = Digest::read(words.next()?)?;
        let is_sealed = words.next()? == "1";
        Some(Self { stat: Stat { identity, size, modified_ns, changed_ns }, digest, is_sealed, used: false })
    }
}

type Memories = (HashMap<Identity, Known>, HashMap<String, Whole>);

/// None where it is not what was written.
fn read_memo(text: &str) -> Option<Memories> {
    let (seal, body) = text.split_once('\n')?;
    if seal != Digest::of_bytes(body.as_bytes()).to_string() {
        return None;
    }
    let (mut known, mut whole) = Memories::default();
    // Folders have the longer lines, and are the most.
    whole.reserve(body.len() / 512);
    for line in body.lines() {
        if let Some((name, json)) = line.split_once(' ').filter(|(_, rest)| rest.starts_with('{')) {
            whole.insert(name.to_owned(), serde_json::from_str(json).ok()?);
        } else {
            let one = Known::read(line)?;
            known.insert(one.stat.identity, one);
        }
    }
    Some((known, whole))
}

/// The stat of several files and folders.
#[derive(PartialEq, Eq)]
struct Stats(Vec<Stat>);

impl Stats {
    fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for Stat { identity: (device, inode), size, modified_ns, changed_ns } in &self.0 {
            for number in [*device, *inode, *size] {
                hasher.update(&number.to_le_bytes());
            }
            hasher.update(&modified_ns.to_le_bytes());
            hasher.update(&changed_ns.to_le_bytes());
        }
        Digest::of_hasher(&hasher)
    }
}

/// Of links, not of what they point to: a result holds none.
fn stats_of(folder: &Path, paths: &[String]) -> io::Result<Stats> {
    paths
        .iter()
        .map(|path| Ok(Stat::of(&fs::symlink_metadata(folder.join(path))?)))
        .collect::<io::Result<_>>()
        .map(Stats)
}

impl Stat {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let modified_ns = modified.and_then(|since| i128::try_from(since.as_nanos()).ok()).unwrap_or(i128::MAX);
        Self { identity: (0, 0), size: metadata.len(), modified_ns, changed_ns: modified_ns }
    }

    /// Two writes within one tick of the file system's clock leave the same stat, so that a file touched just now
    /// proves nothing (git calls it racily clean).
    fn is_settled(&self) -> bool {
        const TICK: Duration = Duration::from_secs(2);
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let settled_ns = i128::try_from(now.saturating_sub(TICK).as_nanos());
        // Elsewhere there is no number that tells files apart.
        cfg!(unix) && settled_ns.is_ok_and(|settled_ns| self.modified_ns.max(self.changed_ns) < settled_ns)
    }
}

/// All of a small file. `read_to_end` of the file itself would ask for its size before.
pub(crate) fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1 << 12);
    file.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Relative paths, with `/` between names, of all files below `folder`, sorted.
pub(crate) fn files_below(folder: &Path, links: Links) -> io::Result<Vec<String>> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    collect_files(folder, "", links, &mut files, &mut folders)?;
    files.sort();
    Ok(files)
}

/// Relative paths of all files below `folder`, and of all folders.
pub(crate) fn all_below(folder: &Path) -> io::Result<Vec<String>> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    collect_files(folder, "", Links::Refuse, &mut files, &mut folders)?;
    folders.append(&mut files);
    Ok(folders)
}

fn collect_files(
    folder: &Path,
    prefix: &str,
    links: Links,
    files: &mut Vec<String>,
    folders: &mut Vec<String>,
) -> io::Result<()> {
    let refuse = |message| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            return refuse(format!("the name of `{}` is not UTF-8", entry.path().display()));
        };
        let name = format!("{prefix}{name}");
        let kind = match links {
            Links::Follow => fs::metadata(entry.path())?.file_type(),
            Links::Refuse => entry.file_type()?,
        };
        if kind.is_dir() {
            collect_files(&entry.path(), &format!("{name}/"), links, files, folders)?;
            folders.push(name);
        } else if kind.is_file() {
            files.push(name);
        } else {
            return refuse(format!("`{name}` is neither a file nor a folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    fn age(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::now() - Duration::from_mins(1))).unwrap();
    }

    #[test]
    fn digest_of_a_file_is_what_b3sum_prints() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("abc");
        fs::write(&file, "abc").unwrap();
        let published = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Memo::default().digest(&file).unwrap().to_string(), published);
        assert_eq!(Digest::of_bytes(b"abc").to_string(), published);
    }

    #[test]
    fn digest_of_a_folder_sees_names_and_bytes_but_not_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, files: &[(&str, &str)]| {
            for (path, text) in files {
                let path = folder.path().join(name).join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Memo::default().digest(&folder.path().join(name)).unwrap()
        };
        let first = make("first", &[("a", "1"), ("deep/b", "2")]);
        assert_eq!(first, make("second", &[("deep/b", "2"), ("a", "1")]));
        assert_ne!(first, make("renamed", &[("a", "1"), ("deep/c", "2")]));
        assert_ne!(first, make("edited", &[("a", "1"), ("deep/b", "3")]));
        assert_ne!(first, make("flat", &[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn memo_sees_a_write_that_kept_size_and_modification_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let memo = Memo::default();
        fs::write(&file, "old").unwrap();
        age(&file);
        let before = memo.digest(&file).unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "new").unwrap();
        File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        assert_ne!(memo.digest(&file).unwrap(), before);
    }

    #[test]
    fn memo_does_not_trust_a_file_written_just_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        let memo = Memo::default();
        memo.digest(&file).unwrap();
        assert!(memo.to_bytes_if_changed().is_none());
    }
}
