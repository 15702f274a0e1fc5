//! What artifacts contain: rows and checkpoints.
//! Knows nothing of stages.

pub mod checkpoint;
pub mod files;
pub mod rows;
