//! The stages: what a node of a pipeline can do, from drawing problems to reinforcement learning.
//! Knows nothing of stores, graphs or YAML.

#[cfg(test)]
mod bench;
mod other_names;
mod registry;

pub mod answer;
pub mod bounded;
pub mod data;
pub mod decode;
pub mod device;
pub mod distill;
pub mod evaluate;
pub mod export;
pub mod filter;
pub mod footprint;
pub mod generate;
pub mod gguf;
pub mod grpo;
pub mod hub;
pub mod import;
pub mod init;
mod inspection;
pub mod kernels;
pub mod load;
pub mod logprobs;
pub mod map;
pub mod merge;
pub mod merge_adapter;
pub mod merge_models;
pub mod nn;
pub mod pretrain;
pub mod random;
pub mod reject;
pub mod rejection;
pub mod rl;
pub mod sample;
pub mod script;
pub mod sft;
pub mod split;
pub mod text;
pub mod tokenizer;
pub mod train;

pub use registry::registry;

/// As the program has it, so that tests of scripts meet the same limits.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: bounded::memory::Counted<std::alloc::System> = bounded::memory::Counted(std::alloc::System);
