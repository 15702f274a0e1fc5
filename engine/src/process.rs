//! A program with all that it starts: it ends when the program does, and with this process however this process ends.
//! Knows nothing of stages, nor of what the program does.
//!
//! Every program has a guard above it: a shell that starts it and leads its process group. On Linux the guard is also the
//! parent that the kernel gives to whatever loses its own (`PR_SET_CHILD_SUBREAPER`), so that what forks twice and calls
//! `setsid` is still the guard's. When the program has ended, the guard kills its children until none is left. When this
//! process is gone, for whatever reason, a pipe ends whose other end is held here and nowhere else, and the guard does the
//! same. It also holds the draft's lock, so that nobody touches the draft while the program is alive.
//!
//! The guard begins with the environment that the program may see, and with no more.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

const SHELL: &str = "/bin/sh";

/// Standard input is the pipe, standard output the program's, and standard error the lock. `$1` is the program.
///
/// The program runs in the foreground: a shell makes what runs in the background deaf to SIGINT. `$$` is the guard in
/// subshells too. A child that was killed may leave children behind, which are the guard's from then on, so that only two
/// looks without finding any show that none is left.
const GUARD: &str = r#"
trap '' HUP INT TERM USR1 PIPE
exec 3>&2 2>/dev/null 4<&0 </dev/null
end_children() {
  calm=0
  while [ $calm -lt 2 ]; do
    calm=$((calm + 1))
    children=; candidates=/proc/$$/task/$$/children
    if [ -r $candidates ]; then read -r children <$candidates
    else for stat in /proc/[0-9]*; do children="$children ${stat#/proc/}"; done
    fi
    for child in $children; do
      stat=; read -r stat </proc/$child/stat || continue
      stat=${stat##*) }; state=${stat%% *}; stat=${stat#* }; parent=${stat%% *}
      case $state$parent in [ZX]*) continue;; ?$$) ;; *) continue;; esac
      [ $child = "$1" ] || { kill -KILL $child; calm=0; }
    done
    [ $calm -gt 0 ] || sleep 0.01
  done
}
( exec >/dev/null; cd /; read -r _ <&4
  [ -d /proc/$$ ] || kill -KILL 0
  read -r watcher _ </proc/self/stat
  end_children $watcher ) &
( trap - HUP INT TERM USR1 PIPE; exec /bin/sh -euc "$1" sh 2>&1 3>&- 4<&- )
code=$?
cd /
kill -KILL $!; wait $!
end_children
exit $code
"#;

/// Longest wait between two looks at the program.
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// How long the guard may take to end what the program started. Processes that hang in the kernel are not waited for.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// What to start.
pub(crate) struct Program<'a> {
    /// For `/bin/sh -eu`.
    pub script: &'a str,
    pub folder: &'a Path,
    /// All that it sees of the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Held until all that it started is dead.
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
    hide_environment();
    let mut guard = Guard::start(program)?;
    let mut nap = Duration::from_micros(200);
    let mut asked: Option<Instant> = None;
    let written = listen(&mut guard.process);
    while !guard.has_ended()? {
        match written.recv_timeout(nap) {
            Ok(bytes) => hear(&bytes)?,
            Err(RecvTimeoutError::Timeout) => nap = (nap * 2).min(LONGEST_NAP),
            // It may close its output long before it ends.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
        }
        match asked {
            None if is_cancelled() => {
                guard.signal(Signal::TERM);
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > grace + LAST_WAIT => guard.signal(Signal::KILL),
            Some(since) if since.elapsed() > grace => drop(guard.leash.take()),
            _ => {}
        }
    }
    let status = guard.end()?;
    // What it wrote last is still in the pipe; something that got away may hold the other end for ever.
    let until = Instant::now() + Duration::from_secs(1);
    while let Ok(bytes) = written.recv_timeout(until.saturating_duration_since(Instant::now())) {
        hear(&bytes)?;
    }
    Ok(if asked.is_some() { End::Stopped } else { End::Exit(status) })
}

/// From now on other processes of the same user cannot read this one's environment, where secrets may be that a program
/// was not given. Root can, and this process leaves no core dump.
fn hide_environment() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
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

/// A shell that leads the program's process group.
struct Guard {
    process: Child,
    /// When it is dropped, the guard ends everything.
    leash: Option<ChildStdin>,
    status: Option<ExitStatus>,
}

impl Guard {
    fn start(program: Program<'_>) -> io::Result<Self> {
        let lock = match program.lock {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(SHELL);
        command
            .args(["-c", GUARD, "sh", program.script])
            .env_clear()
            .envs(program.env)
            .current_dir(program.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(lock)
            .process_group(0);
        #[cfg(target_os = "linux")]
        {
            let adopt = || -> io::Result<()> {
                rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
            };
            // SAFETY: between fork and exec two system calls are made, and nothing is allocated or locked.
            unsafe { command.pre_exec(adopt) };
        }
        let mut process = command.spawn()?;
        let leash = process.stdin.take();
        Ok(Self { process, leash, status: None })
    }

    fn id(&self) -> io::Result<Pid> {
        Pid::from_raw(self.process.id().cast_signed()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Has it ended? It is not reaped here, so that its number cannot have become another group's.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(self.status.is_some() || waitid(WaitId::Pid(self.id()?), options)?.is_some())
    }

    fn signal(&self, signal: Signal) {
        if let Ok(id) = self.id() {
            // Nobody left to hear it is what it is for.
            let _ = kill_process_group(id, signal);
        }
    }

    /// Ends all of it, and says how the program ended.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        drop(self.leash.take());
        let until = Instant::now() + LAST_WAIT;
        while !self.has_ended()? && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        // Whoever killed the guard has not killed its group.
        self.signal(Signal::KILL);
        let ended = self.process.wait()?;
        // A shell tells of a signal by a code.
        let signal = ended.code().map(|code| code - 128).filter(|signal| (1..32).contains(signal));
        let status = signal.map_or(ended, ExitStatus::from_raw);
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
