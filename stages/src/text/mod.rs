//! Text and tokens: tokenizers, chat templates, and how rows become tokens.
//! Knows nothing of models.

pub mod chat;
pub mod check;
pub mod complete;
pub mod date;
pub mod encode;
pub mod fields;
pub mod json;
pub mod python;
pub mod room;
pub mod stream;
pub mod template;
pub mod tokenizer;
pub mod train;
