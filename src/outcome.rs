//! How a verb ends: an exit code, and the sentence for it where it is not a good one.

use std::process::ExitCode;

use engine::{Colour, Diagnostic, SelectError, StoreError};

use crate::{
    args::MessageFormat,
    screen::{self, say},
};

/// What the process tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Done = 0,
    /// A node or a test failed.
    Failed = 1,
    /// The command line or the pipeline is wrong.
    Mistake = 2,
    /// The disk or the store failed.
    Infrastructure = 3,
    /// `plan --exit-code`: a run would have work.
    WouldRun = 10,
    /// Stopped by Ctrl-C, as shells count signals.
    Interrupted = 130,
    /// Stopped by SIGUSR1.
    Preempted = 138,
    /// Stopped by SIGTERM.
    Terminated = 143,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// Why a verb could not do what it was asked.
#[derive(Debug)]
pub enum Trouble {
    Mistakes(Vec<Diagnostic>),
    Usage {
        message: String,
        hint: Option<String>,
    },
    /// What was asked for is right, and did not come about.
    Failed {
        message: String,
        hint: Option<String>,
    },
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SelectError> for Trouble {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Unknown { message, hint } => Self::Usage { message, hint },
            SelectError::Store(error) => Self::Store(error),
        }
    }
}

impl Trouble {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Prints it and says with which code to end.
    pub fn tell(&self, format: MessageFormat) -> Code {
        match self {
            Trouble::Mistakes(mistakes) if format == MessageFormat::Json => {
                for mistake in mistakes {
                    say!("{}", mistake.to_json());
                }
                Code::Mistake
            }
            Trouble::Mistakes(mistakes) => {
                for mistake in mistakes {
                    screen::note(&format!("{}\n", mistake.render(Colour::Always)));
                }
                let count = match mistakes.len() {
                    1 => "one mistake".to_owned(),
                    many => format!("{many} mistakes"),
                };
                screen::error(&format!("{count} in the pipeline; nothing was run"));
                Code::Mistake
            }
            Trouble::Usage { message, hint } => {
                tell(message, hint.as_deref());
                Code::Mistake
            }
            Trouble::Failed { message, hint } => {
                tell(message, hint.as_deref());
                Code::Failed
            }
            Trouble::Store(error) => {
                screen::error(&error.to_string());
                Code::Infrastructure
            }
        }
    }
}

fn tell(message: &str, hint: Option<&str>) {
    screen::error(message);
    if let Some(hint) = hint {
        screen::note(&format!("  hint: {hint}"));
    }
}
