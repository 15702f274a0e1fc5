//! `mashbill completions`: what a shell needs to complete verbs and flags.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::{args::Command, outcome::Code, screen::say};

pub fn completions(shell: Shell) -> Code {
    let mut script = Vec::new();
    generate(shell, &mut Command::command(), "mashbill", &mut script);
    say!("{}", String::from_utf8_lossy(&script).trim_end());
    Code::Done
}
