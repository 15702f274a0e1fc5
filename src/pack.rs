//! `mashbill pack` and `unpack`: a result as one file, to carry elsewhere.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Seek, Write},
    path::Path,
};

use engine::{Found, PackError};

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{say, size},
};

/// How a compressed archive begins.
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// A result may have so many times the bytes of its archive. Rows and logs are compressed to a tenth or a twentieth; what
/// is smaller than this by far is as good as empty.
const RATIO: u64 = 100;
/// And so many in any case, whatever the archive's size.
const ALWAYS: u64 = 256_000_000;
/// Memory that reading a compressed archive may take: 2^27 bytes, as `zstd` itself has it.
const WINDOW_LOG: u32 = 27;

pub fn pack(file: &Path, node: &str, to: &Path, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, node)?;
    let store = pipeline::store(&plan.root, global)?;
    let last = store.last(&plan.name, &node.name);
    let Some(Found::Whole(artifact)) = last.map(|last| store.find(last.fingerprint)).transpose()? else {
        let hint = format!("mashbill run {} --until {}", file.display(), node.name);
        return Err(Trouble::Usage { message: format!("`{}` has no result to pack", node.name), hint: Some(hint) });
    };
    let opened = File::create_new(to).map_err(|error| cannot("write", to, &error))?;
    let packed = if to.extension().is_some_and(|extension| extension == "zst") {
        zstd::Encoder::new(opened, 0).map_err(PackError::from_writing).and_then(|mut archive| {
            artifact.pack(&mut archive)?;
            archive.finish().and_then(|mut file| file.flush()).map_err(PackError::from_writing)
        })
    } else {
        artifact.pack(BufWriter::new(opened))
    };
    if let Err(error) = packed {
        // Half an archive is no archive.
        let _ = fs::remove_file(to);
        return Err(trouble(error, to));
    }
    let bytes = fs::metadata(to).map_or(0, |metadata| metadata.len());
    say!("{}: {} {}, {}", to.display(), node.name, artifact.fingerprint.short(), size(bytes));
    Ok(Code::Done)
}

pub fn unpack(from: &Path, max_size: Option<u64>, global: &Global) -> Result<Code, Trouble> {
    let root = pipeline::root(Path::new("."), global)?;
    let store = pipeline::store(&root, global)?;
    let metadata = fs::metadata(from).map_err(|error| cannot("read", from, &error))?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err(Trouble::usage(format!("cannot read `{}`: it is no plain file", from.display())));
    }
    let most = max_size.unwrap_or_else(|| metadata.len().saturating_mul(RATIO).max(ALWAYS));
    let mut file = File::open(from).map_err(|error| cannot("read", from, &error))?;
    let mut head = Vec::new();
    let read = (&file).take(4).read_to_end(&mut head).and_then(|_| file.rewind());
    read.map_err(|error| cannot("read", from, &error))?;
    let artifact = if head == ZSTD {
        let mut archive = zstd::Decoder::new(file).map_err(|error| cannot("read", from, &error))?;
        archive.window_log_max(WINDOW_LOG).map_err(|error| cannot("read", from, &error))?;
        store.unpack(archive, most)
    } else {
        store.unpack(BufReader::new(file), most)
    };
    let artifact = artifact.map_err(|error| trouble(error, from))?;
    let made = &artifact.manifest()?.made;
    say!("{} of {}, made {}: any pipeline that wants it reuses it", made.node, made.pipeline, made.started);
    say!("{}", artifact.data().display());
    Ok(Code::Done)
}

/// So many bytes as the flag reads them.
fn rounded_up(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{}M", bytes.div_ceil(1_000_000)),
        _ => format!("{}G", bytes.div_ceil(1_000_000_000)),
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::usage(format!("cannot {action} `{}`: {error}", path.display()))
}

fn trouble(error: PackError, path: &Path) -> Trouble {
    match error {
        PackError::Store(error) => Trouble::Store(error),
        PackError::TooLarge { declared, most } => Trouble::Usage {
            message: format!(
                "{}: the packed result has {} unpacked, and {} are the limit",
                path.display(),
                size(declared),
                size(most)
            ),
            hint: Some(format!("`--max-size {}` takes it, if you trust where it comes from", rounded_up(declared))),
        },
        other => Trouble::usage(format!("{}: {other}", path.display())),
    }
}
