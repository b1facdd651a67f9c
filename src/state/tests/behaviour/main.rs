//! The agreed state from outside: commands in, answers, events and reads out.
#![allow(clippy::unwrap_used)]

mod acls;
mod bench;
mod cluster;
mod files;
mod jobs;
mod locks;
mod names;
mod owners;
mod quotas;
mod random;
mod sessions;
mod truncate;
