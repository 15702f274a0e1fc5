//! What artifacts contain: rows, checkpoints and their adapters.
//! Knows nothing of stages.

pub mod adapter;
pub mod checkpoint;
pub mod conversation;
pub mod files;
pub mod rows;
