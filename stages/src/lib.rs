//! The stages: what a node of a pipeline can do, from drawing problems to reinforcement learning.
//! Knows nothing of stores, graphs or YAML.

pub mod random;
pub mod kernels;
