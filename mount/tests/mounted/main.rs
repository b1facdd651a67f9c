//! A real mount over the model in memory, used as programs use it: one file per family of calls. Needs root and
//! `/dev/fuse`; without them each test says so and passes.
// Calls that std has no words for: mmap, fallocate, renameat2, extended attributes.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod append;
mod attributes;
mod directories;
mod exclusive;
mod execute;
mod files;
mod harness;
mod limits;
mod links;
mod listings;
mod mapping;
mod notices;
mod sparse;
mod supervise;
mod sync;
mod tools;
mod xattrs;
