//! Ctrl-C, SIGTERM and SIGUSR1: the first asks the running stages to save and stop, the second ends at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use engine::Cancel;
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use crate::{outcome::Code, screen};

/// Which signal came, if any.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicI32>);

impl Stop {
    /// The exit code that belongs to the signal.
    pub fn code(&self) -> Option<Code> {
        code_of(self.0.load(Ordering::SeqCst))
    }
}

fn code_of(signal: i32) -> Option<Code> {
    match signal {
        SIGINT => Some(Code::Interrupted),
        SIGTERM => Some(Code::Terminated),
        // What schedulers of clusters send before they take the machine away.
        SIGUSR1 => Some(Code::Preempted),
        _ => None,
    }
}

/// Listens from now on, for a run.
pub fn listen(cancel: Cancel) -> std::io::Result<Stop> {
    let said = "stopping as soon as the running stages have saved what they have; once more ends at once";
    listen_and_say(cancel, said)
}

/// Listens from now on. The first signal cancels, and this is said of it.
pub fn listen_and_say(cancel: Cancel, said: &'static str) -> std::io::Result<Stop> {
    let stop = Stop::default();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let heard = stop.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if cancel.is_cancelled() {
                // Locks are the kernel's, and drafts are thrown away or continued: nothing is left to tidy.
                std::process::exit(code_of(signal).map_or(1, |code| code as i32));
            }
            heard.0.store(signal, Ordering::SeqCst);
            cancel.cancel();
            screen::note(said);
        }
    });
    Ok(stop)
}
