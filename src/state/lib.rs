//! The agreed state: one deterministic state machine of members, slots, names, files and jobs.
//! `State::apply` is the only way it changes. No I/O, no clock, no randomness.

mod model;

pub use model::*;
