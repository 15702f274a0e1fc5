//! What a user sees: files in, words out, by the real binary in a folder of its own.

mod chat;
mod client;
mod families;
mod file;
mod hub;
mod interrupt;
#[cfg(unix)]
mod limits;
mod lora;
mod memory;
mod messages;
mod pipelines;
mod project;
mod recipe;
mod records;
#[cfg(unix)]
mod resume;
mod reuse;
mod schema;
mod serve;
mod stories;
