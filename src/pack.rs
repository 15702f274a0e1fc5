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

pub fn unpack(from: &Path, global: &Global) -> Result<Code, Trouble> {
    let root = pipeline::root(Path::new("."), global)?;
    let store = pipeline::store(&root, global)?;
    let mut file = File::open(from).map_err(|error| cannot("read", from, &error))?;
    let mut head = Vec::new();
    let read = (&file).take(4).read_to_end(&mut head).and_then(|_| file.rewind());
    read.map_err(|error| cannot("read", from, &error))?;
    let artifact = if head == ZSTD {
        let archive = zstd::Decoder::new(file).map_err(|error| cannot("read", from, &error))?;
        store.unpack(archive)
    } else {
        store.unpack(BufReader::new(file))
    };
    let artifact = artifact.map_err(|error| trouble(error, from))?;
    let made = &artifact.manifest()?.made;
    say!("{} of {}, made {}: any pipeline that wants it reuses it", made.node, made.pipeline, made.started);
    say!("{}", artifact.data().display());
    Ok(Code::Done)
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::usage(format!("cannot {action} `{}`: {error}", path.display()))
}

fn trouble(error: PackError, path: &Path) -> Trouble {
    match error {
        PackError::Store(error) => Trouble::Store(error),
        other => Trouble::usage(format!("{}: {other}", path.display())),
    }
}
