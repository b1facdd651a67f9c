//! hydfs-agreement: the Raft group that agrees on members, slots, names, writers and jobs.
//!
//! openraft lives in this crate and nowhere else; the rest of a member sees [`hydfs_types::Agreement`] and [`Group`]. Every member
//! takes part, as a voter or as a learner, and so has a copy of the agreed state at hand. The crate never looks into a command and
//! decides nothing about members: the leader's node does, through [`Group::set_voters`] and its like.
//!
//! - Durability: an entry is acknowledged when a majority of voters has it on disk. Appends are group-committed.
//! - Commands keep one identity through all retries; that they are applied once is the state machine's part (R15).
//! - Barriers: the leader answers from its lease; callers of one member share rounds.
//! - Time is tokio's, randomness a seed, disk and network are handed in: a simulator repeats runs.

mod barrier;
mod check;
mod error;
mod group;
mod index;
mod leases;
mod log;
mod machine;
mod members;
mod network;
mod options;
mod progress;
mod propose;
mod raft;
mod record;
mod serve;
mod session;
mod snapshots;
#[cfg(test)]
mod storage_tests;
mod wire;

pub use barrier::BARRIERS_MAX;
pub use check::{Checked, check};
pub use error::Error;
pub use group::{Group, Leadership, Onlooker, PROPOSALS_MAX};
pub use machine::StateMachine;
pub use members::{ChangeError, Metrics};
pub use network::Resolve;
pub use options::{Options, Retention, Timing};
pub use propose::propose_via;
pub use serve::{member_payload, member_request, member_response};
pub use session::{KeptSession, Resumed, SessionKeeper};
pub use wire::COMMAND_BYTES_MAX;
