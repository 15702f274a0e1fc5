//! `mashbill verify`: reads every byte of the store, and sets aside what is not what was published.

use engine::Damage;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{self, BOLD, GREEN, RED, RESET, say, size},
};

pub fn verify(global: &Global) -> Result<Code, Trouble> {
    let root = pipeline::root(std::path::Path::new("."), global)?;
    let store = pipeline::store(&root, global)?;
    let examined = store.verify(&mut |fingerprint| tracing::info!(%fingerprint, "reading"))?;
    for Damage { path, what, remedy, made_by } in &examined.damages {
        let made_by = made_by.as_ref().map_or(String::new(), |(node, pipeline)| format!(" ({node} of {pipeline})"));
        say!("{RED}damaged{RESET} {}{made_by}: {what}; {remedy}", path.display());
    }
    let count = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        many => format!("{many} {noun}s"),
    };
    let read = [count(examined.artifacts, "result"), count(examined.files, "file"), size(examined.bytes)].join(", ");
    if examined.damages.is_empty() {
        say!("{GREEN}whole{RESET}: {BOLD}{read}{RESET}");
        return Ok(Code::Done);
    }
    say!("{BOLD}{read}, {} damaged{RESET}", examined.damages.len());
    screen::note(&format!("what was damaged lies in {}", store.root().join("quarantine").display()));
    Ok(Code::Failed)
}
