//! The list of stages that pipelines may name.
//! Knows nothing of what they do.

use engine::{Command, Registry};

use crate::{
    distill::Distill, evaluate::Evaluate, export::Export, filter::Filter, generate::Generate, gguf::Gguf, grpo::Grpo,
    import::Import, init::Init, load::Load, logprobs::Logprobs, map::Map, merge::Merge, merge_adapter::MergeAdapter,
    merge_models::MergeModels, pretrain::Pretrain, reject::Reject, sample::Sample, script, sft::Sft, split::Split,
    tokenizer::Tokenizer,
};

/// Every stage of this crate, and the engine's own that runs any program.
#[must_use]
pub fn registry() -> Registry {
    Registry::new()
        .with::<Command>()
        .with::<Distill>()
        .with::<Evaluate>()
        .with::<Export>()
        .with::<Filter>()
        .with::<Generate>()
        .with::<Gguf>()
        .with::<Grpo>()
        .with::<Import>()
        .with::<Init>()
        .with::<Load>()
        .with::<Logprobs>()
        .with::<Map>()
        .with::<Merge>()
        .with::<MergeAdapter>()
        .with::<MergeModels>()
        .with::<Pretrain>()
        .with::<Reject>()
        .with::<Sample>()
        .with::<Sft>()
        .with::<Split>()
        .with::<Tokenizer>()
        .expand("rhai", script::imports)
}
