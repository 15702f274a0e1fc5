//! The list of stages that pipelines may name.
//! Knows nothing of what they do.

use engine::Registry;

use crate::{
    export::Export, import::Import, init::Init, load::Load, merge::Merge, split::Split, tokenizer::Tokenizer,
};

/// Every stage of this crate.
#[must_use]
pub fn registry() -> Registry {
    Registry::new()
        .with::<Export>()
        .with::<Import>()
        .with::<Init>()
        .with::<Load>()
        .with::<Merge>()
        .with::<Split>()
        .with::<Tokenizer>()
}
