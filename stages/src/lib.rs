//! The stages: what a node of a pipeline can do, from drawing problems to reinforcement learning.
//! Knows nothing of stores, graphs or YAML.

mod registry;

pub mod data;
pub mod decode;
pub mod device;
pub mod export;
pub mod import;
pub mod init;
pub mod kernels;
pub mod load;
pub mod merge;
pub mod nn;
pub mod random;
pub mod rl;
pub mod script;
pub mod split;
pub mod text;
pub mod tokenizer;
pub mod train;

pub use registry::registry;
