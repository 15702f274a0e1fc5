//! Writes to the terminal: results to stdout, everything else to stderr, colour where it is wanted.
//! A reader that went away (`| head`) ends nothing.

use std::{
    fmt::Arguments,
    io::{self, IsTerminal as _, Write},
    sync::Mutex,
};

use indicatif::MultiProgress;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::args::Color;

pub const BOLD: &str = "\x1b[1m";
pub const DIM: &str = "\x1b[2m";
pub const RED: &str = "\x1b[1;31m";
pub const GREEN: &str = "\x1b[32m";
pub const YELLOW: &str = "\x1b[33m";
pub const RESET: &str = "\x1b[0m";

/// The lines that move, if there are any: whoever else writes must step over them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

pub fn set_up(color: Color) {
    match color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let filter = EnvFilter::try_from_env("MASHBILL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(|| Stderr)
        .init();
}

/// A line of the result, on stdout.
pub fn result(line: Arguments<'_>) {
    step_over(|| {
        let _ = writeln!(anstream::stdout().lock(), "{line}");
    });
}

/// A stretch of an answer that comes bit by bit, on stdout, at once. A terminal is not told to do anything by it.
pub fn part(text: &str) {
    let mut out = io::stdout().lock();
    let shown: String = if out.is_terminal() {
        text.chars()
            .map(|letter| if letter.is_control() && !"\n\t".contains(letter) { '\u{fffd}' } else { letter })
            .collect()
    } else {
        text.to_owned()
    };
    let _ = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
}

/// A line for whoever watches, on stderr.
pub fn note(line: &str) {
    step_over(|| {
        let _ = writeln!(anstream::stderr().lock(), "{line}");
    });
}

pub fn error(message: &str) {
    note(&format!("{RED}error{RESET}{BOLD}: {message}{RESET}"));
}

/// That something looks wrong with a node and stops nothing, on stderr.
pub fn warning(node: &str, text: &str) {
    note(&format!("{YELLOW}warning{RESET}: {BOLD}{node}{RESET}: {text}"));
}

pub fn set_bars(bars: MultiProgress) {
    *BARS.lock().expect("no holder of this lock panics") = Some(bars);
}

fn step_over(write: impl FnOnce()) {
    match &*BARS.lock().expect("no holder of this lock panics") {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// `say!("{node} is reused")`.
macro_rules! say {
    ($($words:tt)*) => { $crate::screen::result(format_args!($($words)*)) };
}
pub(crate) use say;

/// Columns side by side, the last one as wide as it wants to be.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width_of(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - width_of(cell) + 2));
        }
        line.trim_end().to_owned()
    };
    // At once: a thousand lines would each be written by themselves.
    if !rows.is_empty() {
        say!("{}", rows.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
}

/// Characters that show: all but escape codes.
fn width_of(cell: &str) -> usize {
    let mut in_escape = false;
    cell.chars()
        .filter(|letter| {
            let shows = !in_escape && *letter != '\x1b';
            in_escape = *letter == '\x1b' || in_escape && *letter != 'm';
            shows
        })
        .count()
}

/// At most `width` characters of the first line.
pub fn brief(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}

/// `1.2 MB`, as disks are sold.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Log lines of the libraries.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_take_no_room() {
        assert_eq!(width_of("plain"), 5);
        assert_eq!(width_of(&format!("{RED}é{RESET} b")), 3);
    }

    #[test]
    fn brief_keeps_the_first_line_within_its_width() {
        assert_eq!(brief("short\nsecond", 10), "short");
        assert_eq!(brief("0123456789", 10), "0123456789");
        assert_eq!(brief("0123456789a", 10), "0123456...");
    }
}
