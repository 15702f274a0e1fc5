//! A program with all that it starts: one group, which ends with this process however this process ends.
//! Knows nothing of stages, nor of what the program does.
//!
//! Every program has a guard beside it, the leader of their group: a shell that reads from a pipe whose other end is
//! held here and nowhere else. When this process is gone, for whatever reason, the pipe ends, and the guard kills
//! the group. The guard also holds the draft's lock, so that nobody touches the draft while the group is alive.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

const SHELL: &str = "/bin/sh";

/// Standard input is the pipe.
const GUARD: &str = "trap '' HUP INT TERM USR1; read -r _; kill -KILL 0";

/// If this process died before the guard could see the program, nobody would kill it later.
const PROGRAM: &str = "[ \"$PPID\" = \"$2\" ] || exit 1; exec 2>&1; exec /bin/sh -euc \"$1\" sh";

/// Longest wait between two looks at the program.
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// What to start.
pub(crate) struct Program<'a> {
    /// For `/bin/sh -eu`.
    pub script: &'a str,
    pub folder: &'a Path,
    /// All that it sees of the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Held until all of the group is dead.
    pub lock: Option<&'a File>,
}

/// How it ended.
pub(crate) enum End {
    Exit(ExitStatus),
    /// It was asked to stop, and did, by itself or by force.
    Stopped,
}

/// Runs the program to its end and tells `hear` what it writes. After `is_cancelled` it is sent SIGTERM, and SIGKILL
/// when it has not ended within `grace`. Nothing that it started is left.
pub(crate) fn run(
    program: Program<'_>,
    grace: Duration,
    is_cancelled: &dyn Fn() -> bool,
    hear: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<End> {
    let mut group = Group::start(program.lock)?;
    let id = std::process::id().to_string();
    let mut child = Command::new(SHELL)
        .args(["-c", PROGRAM, "sh", program.script, &id])
        .env_clear()
        .envs(program.env)
        .current_dir(program.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(group.id())
        .spawn()?;
    let end = follow(&mut child, &mut group, grace, is_cancelled, hear);
    group.end();
    child.wait()?;
    end
}

fn follow(
    child: &mut Child,
    group: &mut Group,
    grace: Duration,
    is_cancelled: &dyn Fn() -> bool,
    hear: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<End> {
    let written = listen(child);
    let mut nap = Duration::from_micros(200);
    let mut asked: Option<Instant> = None;
    let status = loop {
        match written.recv_timeout(nap) {
            Ok(bytes) => hear(&bytes)?,
            Err(RecvTimeoutError::Timeout) => nap = (nap * 2).min(LONGEST_NAP),
            // It may close its output long before it ends.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        match asked {
            None if is_cancelled() => {
                group.signal(Signal::TERM);
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > grace => group.signal(Signal::KILL),
            _ => {}
        }
    };
    group.end();
    // What it wrote last is still in the pipe; something that left the group may hold the other end for ever.
    let until = Instant::now() + Duration::from_secs(1);
    while let Ok(bytes) = written.recv_timeout(until.saturating_duration_since(Instant::now())) {
        hear(&bytes)?;
    }
    Ok(if asked.is_some() { End::Stopped } else { End::Exit(status) })
}

/// All that the program writes, in pieces.
fn listen(child: &mut Child) -> Receiver<Vec<u8>> {
    let mut pipe = child.stdout.take().expect("it was piped");
    let (tell, written) = sync_channel(16);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) if tell.send(buffer[..count].to_vec()).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    written
}

/// A process group whose leader is the guard.
struct Group {
    guard: Child,
    has_ended: bool,
}

impl Group {
    fn start(lock: Option<&File>) -> io::Result<Self> {
        let lock = match lock {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        let guard = Command::new(SHELL)
            .args(["-c", GUARD])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(lock)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { guard, has_ended: false })
    }

    fn id(&self) -> i32 {
        self.guard.id().cast_signed()
    }

    /// The guard is not reaped before the end, so that the number can't have become another group's.
    fn signal(&self, signal: Signal) {
        if let Some(id) = Pid::from_raw(self.id()) {
            // Nobody left to hear it is what it is for.
            let _ = kill_process_group(id, signal);
        }
    }

    fn end(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            self.signal(Signal::KILL);
            let _ = self.guard.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
