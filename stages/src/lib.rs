//! The stages: what a node of a pipeline can do, from drawing problems to reinforcement learning.
//! Knows nothing of stores, graphs or YAML.

pub mod data;
pub mod kernels;
pub mod nn;
pub mod random;
pub mod text;
