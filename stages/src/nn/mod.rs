//! The model: its shape, its weights, and the decoder that computes with them.
//! Knows nothing of text, rows or training.

pub mod cache;
pub mod config;
pub mod decoder;
pub mod dropout;
#[cfg(test)]
mod golden;
pub mod gpt2;
pub mod lora;
pub mod precision;
pub mod recompute;
pub mod rope;
pub mod shape;
pub mod weights;
