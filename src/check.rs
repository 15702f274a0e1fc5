//! `mashbill check`: every mistake at once, or one line that says there is none.

use std::path::Path;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::say,
};

pub fn check(file: &Path, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let count = match plan.nodes().len() {
        1 => "1 node".to_owned(),
        many => format!("{many} nodes"),
    };
    say!("{}: `{}` is right, {count}", file.display(), plan.name);
    Ok(Code::Done)
}
