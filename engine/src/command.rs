//! The stage that runs any program: its files are hashed, its environment is empty but for what is said here.
//! Knows nothing of what the program computes.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    context::{Cancelled, Context, LOG},
    stage::{Input, OtherInputs, Problem, Source, Stage},
};

/// Runs a program of yours. It reads the folders `$INPUT_<name>`, one for each input that the node gives under a name of
/// its own, writes below `$OUTPUT`, and may keep what it wants to continue from in `$SCRATCH`.
///
/// It runs in an empty folder that holds a copy of `files` and nothing else: what is not declared is not there. Of the
/// environment it sees `PATH`, `HOME`, `LANG`, `TMPDIR`, `SEED`, and the variables that the pipeline names under
/// `env:`. An input of several nodes is a folder with `0`, `1`, ... in it. A request to stop is a
/// SIGTERM, and a SIGKILL after `grace_s`. What it prints is kept beside the result, with the values of the variables
/// under `env:` struck out.
///
/// What is contained: on Linux all that the program started ends with it, what called `setsid` or forked twice included;
/// elsewhere its process group does. It cannot read the environment that mashbill itself was started with, unless it runs
/// as root: from the first program on, mashbill leaves no core dump, and no debugger of the same user reaches it. What is
/// not contained: it runs as the same user, with that user's files, network, memory and devices. It can kill the process
/// that guards it, and what it has other services start (cron, systemd, a container daemon) outlives it. Run programs of
/// people you do not trust in a container.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// What to run, for `/bin/sh -eu`: `python work.py --data $INPUT_rows --out $OUTPUT`.
    #[schemars(length(min = 1))]
    pub sh: String,
    /// Scripts and folders that it needs, relative to the project's root.
    #[serde(default)]
    pub files: Vec<Source>,
    /// The kind of artifact that it makes, such as `rows` or `text`, which decides which nodes can read it.
    #[serde(default = "files_kind")]
    pub kind: String,
    /// Where `files` lie: the program finds them by their paths, so the paths decide its result too.
    #[serde(default, skip_deserializing)]
    #[schemars(skip)]
    paths: Vec<PathBuf>,
}

fn files_kind() -> String {
    Command::OUTPUT.into()
}

/// What it may use of the machine, and how it is stopped.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Cores that no other node uses meanwhile.
    #[schemars(range(min = 1))]
    pub cores: u32,
    /// Memory that no other node uses meanwhile, in GB.
    #[schemars(range(min = 0.0))]
    pub memory_gb: f64,
    /// A device such as `cuda:0` that no other node uses meanwhile; the program sees it as `$DEVICE`.
    pub device: Option<String>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cores: 1, memory_gb: 0.0, device: None, grace_s: 30 }
    }
}

impl Stage for Command {
    const NAME: &'static str = "command";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OTHER_INPUTS: OtherInputs = OtherInputs::Taken;
    const OUTPUT: &'static str = "files";
    const KIND_PARAMETER: Option<&'static str> = Some("kind");
    type Settings = Settings;

    fn resolve(&mut self) {
        self.paths = self.files.iter().map(|file| place(&file.0)).collect();
    }

    fn check(&self) -> Vec<Problem> {
        let is_twice = |at: usize| self.paths[..at].contains(&self.paths[at]);
        let twice = (0..self.paths.len()).filter(|at| is_twice(*at)).map(|at| Problem {
            parameter: format!("files.{at}"),
            message: format!("two files would both be `{}` where the program runs", self.paths[at].display()),
            hint: Some("a file outside the project's root is found by its name alone".into()),
        });
        twice.collect()
    }

    fn run(&self, settings: &Settings, ctx: &Context) -> anyhow::Result<()> {
        let folder = ctx.temporary.join("here");
        fs::create_dir(&folder).context("making the folder that the program runs in")?;
        for (file, path) in self.files.iter().zip(&self.paths) {
            copy(&ctx.source(file), &folder.join(path)).with_context(|| format!("copying `{}`", file.0.display()))?;
        }
        let env = environment(settings, ctx)?;
        run(&self.sh, &folder, env, Duration::from_secs(settings.grace_s.into()), ctx)
    }
}

/// Where a file lies for the program: at its path below the root; by its name where it lies elsewhere.
fn place(path: &Path) -> PathBuf {
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_below {
        return path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    }
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::metadata(from)?.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).map(drop)
}

/// All that the program sees.
fn environment(settings: &Settings, ctx: &Context) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let names = ["PATH", "HOME", "LANG"].into_iter().chain(ctx.env.iter().map(String::as_str));
    let mut env: Vec<(OsString, OsString)> =
        names.filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
    let mut set = |name: String, value: OsString| env.push((name.into(), value));
    let temporary = ctx.temporary.join("tmp");
    fs::create_dir(&temporary).context("making the folder for temporary files")?;
    set("TMPDIR".into(), temporary.into());
    set("OUTPUT".into(), ctx.output().into());
    set("SCRATCH".into(), ctx.scratch().into());
    set("SEED".into(), ctx.seed.to_string().into());
    if let Some(device) = &settings.device {
        set("DEVICE".into(), device.into());
    }
    for (name, artifacts) in &ctx.inputs {
        let folder = match &artifacts[..] {
            [one] => one.path.clone(),
            many => {
                let folder = ctx.temporary.join("inputs").join(name);
                fs::create_dir_all(&folder).context("making the folder for a list of inputs")?;
                for (at, artifact) in many.iter().enumerate() {
                    link(&artifact.path, &folder.join(at.to_string())).context("listing inputs")?;
                }
                folder
            }
        };
        set(format!("INPUT_{name}"), folder.into());
    }
    Ok(env)
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn run(_: &str, _: &Path, _: Vec<(OsString, OsString)>, _: Duration, _: &Context) -> anyhow::Result<()> {
    bail!("programs can be run on Unix alone")
}

#[cfg(unix)]
fn run(
    script: &str,
    folder: &Path,
    env: Vec<(OsString, OsString)>,
    grace: Duration,
    ctx: &Context,
) -> anyhow::Result<()> {
    use crate::process::{self, End, Program};
    let mut log = Log::open(ctx)?;
    let program = Program { script, folder, env, lock: ctx.lock.as_ref() };
    let end = process::run(program, grace, &|| ctx.cancelled(), &mut |bytes| log.hear(bytes, ctx))
        .context("running the program")?;
    log.finish().context("writing the log")?;
    let status = match end {
        End::Stopped => return Err(Cancelled.into()),
        End::Exit(status) if status.success() => return Ok(()),
        End::Exit(status) => status,
    };
    let last = log.last_lines();
    let hint = "it runs in a folder that holds its `files` and nothing else, with the environment of `mashbill stages command`";
    bail!("the program ended with {status}\n{last}\n({hint})")
}

/// What a program writes, on its way to the records.
struct Log {
    file: File,
    /// Values that must not be written down.
    secrets: Vec<Vec<u8>>,
    /// Not written yet: a secret might begin in it.
    held: Vec<u8>,
    /// The end of what was written.
    tail: Vec<u8>,
    last_told: Option<Instant>,
}

impl Log {
    /// A secret may lie across two pieces, but not across two lines.
    const HELD: usize = 1 << 16;
    /// Shown of a program that failed.
    const TAIL: usize = 2_000;
    /// Of a line that shows how far it is.
    const SHOWN: usize = 100;
    const PAUSE: Duration = Duration::from_millis(200);
    /// Shorter ones are words that stand everywhere.
    const SHORTEST_SECRET: usize = 4;

    fn open(ctx: &Context) -> anyhow::Result<Self> {
        let path = ctx.records.join(LOG);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let secrets = ctx.env.iter().filter_map(std::env::var_os).map(OsString::into_encoded_bytes);
        Ok(Self {
            file: file.with_context(|| format!("opening {}", path.display()))?,
            secrets: secrets.filter(|secret| secret.len() >= Self::SHORTEST_SECRET).collect(),
            held: Vec::new(),
            tail: Vec::new(),
            last_told: None,
        })
    }

    fn hear(&mut self, bytes: &[u8], ctx: &Context) -> io::Result<()> {
        self.held.extend(bytes);
        let end = match self.held.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.held.len() > Self::HELD => self.held.len(),
            None => return Ok(()),
        };
        self.write(end)?;
        if self.last_told.is_none_or(|last| last.elapsed() >= Self::PAUSE) {
            self.last_told = Some(Instant::now());
            let tail = String::from_utf8_lossy(&self.tail);
            let line = tail.trim_end().rsplit(['\n', '\r']).next().unwrap_or_default();
            let shown: String = line.chars().filter(|letter| !letter.is_control()).take(Self::SHOWN).collect();
            ctx.progress(0, 0, shown);
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write(self.held.len())
    }

    /// Writes what is held up to `end`.
    fn write(&mut self, end: usize) -> io::Result<()> {
        let mut bytes: Vec<u8> = self.held.drain(..end).collect();
        for secret in &self.secrets {
            bytes = without(&bytes, secret);
        }
        self.file.write_all(&bytes)?;
        self.tail.extend(&bytes);
        let surplus = self.tail.len().saturating_sub(Self::TAIL);
        self.tail.drain(..surplus);
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let text = text.trim_end();
        // The first line is cut where there was more.
        let text =
            if self.tail.len() == Self::TAIL { text.split_once('\n').map_or(text, |(_, rest)| rest) } else { text };
        if text.is_empty() { "and wrote nothing".into() } else { format!("the last that it wrote:\n{text}") }
    }
}

/// The bytes with every `secret` in them struck out.
fn without(bytes: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(secret) {
            kept.extend(b"***");
            at += secret.len();
        } else {
            kept.push(bytes[at]);
            at += 1;
        }
    }
    kept
}
