//! Opens files that were written by somebody else: regular ones alone, and no more of them than is asked for.
//! Knows nothing of what they hold.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// The most bytes of a file that says how a model or an adapter is built: `config.json` and its like.
pub const CONFIG_BYTES: u64 = 4 << 20;
/// The most bytes of a chat template. The longest that are published have 20 kB.
pub const TEMPLATE_BYTES: u64 = 1 << 20;
/// The most bytes of a `tokenizer.json` and of the index of shards. The largest that are published have 35 MB.
pub const TOKENIZER_BYTES: u64 = 256 << 20;

/// Opens a file to read it. A pipe, a socket, a device or a folder is refused: opening a pipe would wait for whoever
/// writes into it, and a device may have no end.
///
/// # Errors
/// When there is no such file, or it is not a regular one.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened, since that alone waits where it is a pipe; and after, since another may lie there by then.
    ensure_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
}

fn ensure_regular(about: &fs::Metadata) -> io::Result<()> {
    if about.is_file() {
        return Ok(());
    }
    let what = if about.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
    Err(io::Error::other(format!("it is {what}, and only a regular file is read")))
}

/// The bytes of a file that has at most `most` of them.
///
/// # Errors
/// As [`open`]; when the file is larger.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let too_large = |size: u64| io::Error::other(format!("it has {size} bytes or more, and at most {most} are read"));
    if size > most {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    // What is appended meanwhile counts too.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The text of a file that has at most `most` bytes.
///
/// # Errors
/// As [`bytes`]; when they are not UTF-8.
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(bytes(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let bench = Bench::new();
        let path = bench.file("a", "12345");
        assert_eq!(text(&path, 5).unwrap(), "12345");
        assert_eq!(text(&path, 4).unwrap_err().to_string(), "it has 5 bytes or more, and at most 4 are read");
        bench.file("b", [0xff]);
        assert_eq!(text(&bench.path("b"), 5).unwrap_err().to_string(), "stream did not contain valid UTF-8");
        assert_eq!(text(&bench.path("c"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_not_a_file_is_refused_without_waiting() {
        let bench = Bench::new();
        bench.file("f/.keep", "");
        let message = open(&bench.path("f")).unwrap_err().to_string();
        assert_eq!(message, "it is a folder, and only a regular file is read");
        for path in ["/dev/zero", "/dev/null"] {
            let message = bytes(Path::new(path), 9).unwrap_err().to_string();
            assert_eq!(message, "it is a pipe, a socket or a device, and only a regular file is read");
        }
        let pipe = bench.path("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let message = open(&pipe).unwrap_err().to_string();
        assert_eq!(message, "it is a pipe, a socket or a device, and only a regular file is read");
    }
}
