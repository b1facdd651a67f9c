//! The agreed state: one deterministic state machine of members, slots, names, files and jobs.
//!
//! [`State::apply`] is the only way it changes: the same commands at the same indexes give the same state, answers
//! and events on every member. No I/O, no clock, no randomness, no floating point, no hash-ordered maps.
//! A refused command changes nothing but the index, the time and its stored answer.

mod acl;
mod admit;
mod apply;
mod audit;
mod cluster;
mod expire;
mod files;
mod jobs;
mod locks;
mod model;
mod moving;
mod namespace;
mod quota;
mod read;
mod sessions;
mod slots;
mod snapshot;

pub use acl::Acl;
pub use files::{FILE_BYTES_MAX, Place, segment_index, slot_of, was_cut};
pub use jobs::{JOBS_MAX, POSITIONS_BYTES_MAX};
pub use locks::LOCKS_PER_FILE_MAX;
pub use model::*;
pub use moving::Moving;
pub use namespace::{LINKS_MAX, XATTR_TOTAL_BYTES_MAX};
pub use quota::{COUNTED_MAX, Quota, Usage};
pub use read::Totals;
pub use sessions::{SESSIONS_PER_INCARNATION_MAX, WINDOW_ANSWERS_MAX};
pub use snapshot::SnapshotError;
