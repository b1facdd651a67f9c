//! The memory file: what a worker has in hand, kept by the supervisor for the worker after it.
//!
//! A file in memory (memfd) that the supervisor makes and holds and every worker maps. It has the member's session with the
//! agreement group, the requests in flight with the identities of what they caused, the open handles, who asked for locks
//! through them, how far the record journal went, and writes that were answered before every replica had them. It outlives the worker, not the supervisor and not the machine.
//!
//! A record becomes true with the store of its first word, after all others: a worker that is killed between two stores
//! leaves the record as it was. Content of another version, size or shape is refused whole, never repaired.

mod behind;
#[cfg(test)]
mod behind_tests;
mod handles;
mod layout;
mod lockers;
mod map;
mod memory;
mod pollers;
mod requests;

pub use behind::{Behind, Kept, Left};
pub use handles::OpenFile;
pub use layout::{
    BEHIND_BYTES, BEHIND_MAX, HANDLES_MAX, LOCKERS_MAX, PIECES_MAX, REQUESTS_MAX, VERSION,
};
pub use lockers::Locker;
pub use memory::{KeptSession, Memory, begun, create, journal_end, ready};
pub use requests::{Asked, Piece, Slot};

/// Why a memory file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the memory file cannot be mapped: {0}")]
    Map(#[from] std::io::Error),
    #[error("no memory file: {0}")]
    Foreign(&'static str),
    #[error(
        "a memory file of version {found}, this program speaks {VERSION}: stop the member and start it again"
    )]
    Version { found: u64 },
    #[error("the memory file is damaged: {0}")]
    Damaged(&'static str),
}

/// No place is left for another record of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory file has no place left")]
pub struct Full;
