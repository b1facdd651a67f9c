//! Identifiers. Each is a newtype, so that a writer is never taken for a segment.
//!
//! Ids of the agreed state (inodes, segments, writers, incarnations, jobs) are issued by the state
//! machine from counters whose top 16 bits are the shard (0 for now); they are never reused.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident($int:ty), $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $int);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
    )*};
}

number_id! {
    /// A storage identity in the cluster (stable over incarnations); also the Raft node id.
    MemberId(u64), "m";
    /// One admitted life of a member.
    Incarnation(u64), "i";
    /// Pool number in the upper 16 bits (0 for now), slot 0..4096 in the lower.
    SlotId(u32), "slot";
    /// Raised by one with each config of a slot.
    SlotEpoch(u64), "e";
    /// Log index at which the members or a slot config last changed, or writers were fenced.
    MapVersion(u64), "map";
    /// Index of an entry of the agreement log.
    LogIndex(u64), "#";
    /// An inode.
    Ino(u64), "ino";
    /// A segment of a file.
    SegmentId(u64), "seg";
    /// Raised by one with each change of a segment's base; 0 is the empty base.
    SegmentVersion(u64), "v";
    /// One granted writer of one file.
    WriterId(u64), "w";
    /// Position of a record in its writer, from 1.
    Seq(u64), "s";
    /// A job.
    JobId(u64), "job";
    /// One try of a job, from 1.
    Attempt(u32), "a";
    /// One committed step of a job, from 1.
    JobEpoch(u64), "je";
    /// One worker life of a member as a client of the agreement group; 0 is "no session".
    SessionId(u64), "session";
}

/// The root directory's inode.
pub const ROOT_INO: Ino = Ino(1);

macro_rules! byte_id {
    ($($(#[$doc:meta])* $name:ident($len:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{self}") }
        }
        impl std::str::FromStr for $name {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let text = text.as_bytes();
                if text.len() != 2 * $len { return Err("wrong number of hex digits"); }
                let mut out = [0u8; $len];
                for (at, pair) in text.chunks_exact(2).enumerate() {
                    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
                    match (digit(pair[0]), digit(pair[1])) {
                        (Some(high), Some(low)) => out[at] = high << 4 | low,
                        _ => return Err("not a hex digit"),
                    }
                }
                Ok(Self(out))
            }
        }
    )*};
}

byte_id! {
    /// The cluster, drawn at bootstrap.
    ClusterId(16);
    /// A data folder, drawn when it is made.
    StorageId(16);
    /// One boot of the machine below a member (`/proc/sys/kernel/random/boot_id`).
    BootId(16);
    /// SHA-256 chain over the operations that made a segment's base, see `SegmentCut`.
    Digest(32);
}

impl Seq {
    /// The seq after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl SegmentVersion {
    /// The version after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
