//! What a user sees: files in, words out, by the real binary in a folder of its own.

mod interrupt;
mod messages;
mod project;
mod reuse;
