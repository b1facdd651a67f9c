//! The agreed state from outside: commands in, answers, events and reads out.

mod bench;
mod cluster;
mod files;
mod jobs;
mod names;
mod random;
mod sessions;
mod truncate;
