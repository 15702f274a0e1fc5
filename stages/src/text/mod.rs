//! Text and tokens: tokenizers, chat templates, and how rows become tokens.
//! Knows nothing of models.

pub mod complete;
pub mod encode;
pub mod stream;
pub mod template;
pub mod tokenizer;
pub mod train;
