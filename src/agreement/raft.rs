//! The types that openraft is instantiated with. Nothing outside this crate sees them.

use crate::wire::Address;
use bytes::Bytes;
use hydfs_types::{CommandError, Reply};
use openraft::rt::deterministic_rng::DeterministicRng;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A command as it lies in the log: the versioned encoding of its `Envelope`. It is encoded once at the leader, travels and is
/// stored as is, and is decoded once where it is applied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(pub Bytes);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave; nothing for entries of the group's own (blank, membership).
pub type Outcome = Option<Result<Reply, CommandError>>;

openraft::declare_raft_types!(
    /// Terms have at most one leader (`leader_id_std`), so that a term identifies a leadership.
    pub Types:
        D = Sealed,
        R = Outcome,
        Node = Address,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

/// tokio, with election timeouts drawn from a seed that is handed in (the simulator repeats runs).
pub type Runtime = DeterministicRng<openraft::impls::TokioRuntime>;

pub type Raft = openraft::Raft<Types, crate::machine::Machine>;
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub type Membership = openraft::Membership<u64, Address>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Bytes>;
pub type Payload = openraft::type_config::alias::PayloadOf<Types>;
