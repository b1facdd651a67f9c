//! The protocol of one slot as a model: configs (R2), fence (R3), append (R4), merge (R6), roll and truncate (R8), repair
//! (R11), restart (R12). Every order of events is tried by `stateright`; nothing here runs production's code, and nothing in
//! production knows of it.
//!
//! The agreement group is a log of commands; every member has applied a prefix of it. Two writers write one record each into
//! one file of at most two segments, both of the same slot. Time is only order: whatever waits may wait for ever.

mod action;
mod agreed;
mod append;
mod check;
mod config;
mod explore;
mod list;
mod merge;
mod model;
mod pairs;
mod plan;
mod plant;
mod repair;
mod restart;
mod state;
mod wide;

pub use action::Action;
pub use check::Broken;
pub use config::Config;
pub use explore::{Bounds, Outcome, explore};
pub use model::Slot;
pub use pairs::PAIRS;
pub use plant::Plant;
pub use state::State;
pub use wide::{MORE, WIDE};

/// Members that a state has room for.
pub const MEMBERS: usize = 4;
/// Records, each of a writer of its own.
pub const RECORDS: usize = 2;
/// Segments of the file.
pub const SEGMENTS: usize = 2;
/// Cuts of one segment.
const CUTS: usize = 3;
/// Slot epochs, from 1 on.
const EPOCHS: usize = 12;
