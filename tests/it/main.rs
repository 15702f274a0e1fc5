//! What a user sees: files in, words out, by the real binary in a folder of its own.

mod chat;
mod check;
mod client;
mod defaults;
mod families;
mod file;
#[cfg(unix)]
mod hostile_archives;
mod hostile_files;
#[cfg(target_os = "linux")]
mod hostile_requests;
mod hostile_scripts;
mod hub;
mod interrupt;
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
mod warnings;
