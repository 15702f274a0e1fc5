//! What people and machines do to a pipeline engine, and what this one makes of it.
//! Every test is a pipeline in YAML with programs in it, run as a user runs it.

#![cfg(unix)]

mod archives;
mod command;
mod damage;
mod peers;
mod project;
mod schedule;
