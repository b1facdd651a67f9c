//! What can go wrong on a member's own disk.

use crate::Position;
use std::io;

/// Result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why the store refuses. Messages are for the person who runs the member.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of the request was stored; what was there stays readable, and the same call may be tried again.
    #[error("no space left on the disk while writing {path}: free space or add a member")]
    NoSpace { path: String },
    #[error("cannot {op} {path}: {source}")]
    Io {
        op: &'static str,
        path: String,
        source: io::Error,
    },
    /// Bytes that were written are not what is read now.
    #[error("{path} is damaged at byte {offset}: {why}")]
    Damaged {
        path: String,
        offset: u64,
        why: String,
    },
    /// A write or sync failed before: what the disk holds is unknown until the log is opened again.
    #[error("writing stopped after a failure, check the disk and restart the member: {0}")]
    Poisoned(String),
    #[error("the disk did not finish a sync within {seconds} s")]
    SyncTimedOut { seconds: u64 },
    #[error("more than {limit} callers wait for a sync")]
    Overloaded { limit: usize },
    #[error("the log no longer holds {0}")]
    Dropped(Position),
    #[error("an entry of {bytes} bytes is over the log's limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// A checksum matches and the content still makes no sense: written by another version, or a bug.
    #[error("{what} cannot be read by this version of hydfs: {why}")]
    Malformed { what: String, why: String },
    #[error(
        "{path} is in use by another hydfs member: stop it first, or choose another data folder"
    )]
    InUse { path: String },
    #[error("{path} is not a usable data folder: {why}")]
    NotUsable { path: String, why: String },
    #[error("{path} has format {found}, this hydfs reads up to {supported}: upgrade hydfs")]
    Newer {
        path: String,
        found: u16,
        supported: u16,
    },
    #[error(
        "{path} belongs to cluster {found}, not {wanted}: choose another data folder, or empty this one to throw its copies away"
    )]
    OtherCluster {
        path: String,
        found: String,
        wanted: String,
    },
    #[error(
        "{path} belongs to the member \"{found}\", not \"{wanted}\": every member needs its own data folder"
    )]
    OtherMember {
        path: String,
        found: String,
        wanted: String,
    },
}

impl StoreError {
    /// Sorts an error of the disk: a full disk is told from a broken one.
    pub(crate) fn io(op: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace { path: path.into() },
            _ => Self::Io {
                op,
                path: path.into(),
                source,
            },
        }
    }

    /// Whether the same call may succeed later, once there is space.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}
