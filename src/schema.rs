//! `mashbill schema`: what can be written in a pipeline, for editors.

use crate::{outcome::Code, screen::say};

pub fn schema() -> Code {
    say!("{:#}", engine::pipeline_schema(&::stages::registry()));
    Code::Done
}
