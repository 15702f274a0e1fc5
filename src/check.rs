//! `mashbill check`: every mistake at once, or one line that says there is none.

use std::path::Path;

use engine::Inspected;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::say,
};

pub fn check(file: &Path, global: &Global) -> Result<Code, Trouble> {
    let Inspected { plan, unable } = pipeline::inspected(file, global)?;
    if !unable.is_empty() {
        return Err(Trouble::Mistakes(unable.into_values().flatten().collect()));
    }
    let count = match plan.nodes().len() {
        1 => "1 node".to_owned(),
        many => format!("{many} nodes"),
    };
    say!("{}: `{}` is right, {count}", file.display(), plan.name);
    Ok(Code::Done)
}
