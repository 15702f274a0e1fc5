//! What artifacts contain: rows, checkpoints and their adapters; and how files are opened.
//! Knows nothing of stages.

pub mod adapter;
pub mod checkpoint;
pub mod conversation;
pub mod files;
pub mod regular;
pub mod rows;
