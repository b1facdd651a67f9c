//! Why the group cannot start or go on at this member. What callers of a running group see is `AgreementError`.

use hydfs_store::StoreError;
use hydfs_types::{FrameError, LogIndex};
use std::io;

/// Errors of the group's own machinery. Messages are for the person who runs the member.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the agreement log: {0}")]
    Log(#[from] StoreError),
    #[error("{path}: {source}")]
    Disk { path: String, source: io::Error },
    #[error(
        "the snapshot {path} is damaged: {why}; empty the data folder and let the member join again"
    )]
    Snapshot { path: String, why: String },
    #[error("the agreement log holds a record that makes no sense: {0}")]
    Record(String),
    #[error(
        "the agreement log lacks the entries {from} to {to}; empty the data folder and let the member join again"
    )]
    Hole { from: LogIndex, to: LogIndex },
    #[error("entry {index} cannot be read by this version of hydfs: {source}")]
    Entry { index: LogIndex, source: FrameError },
    #[error("the snapshot at {index} cannot be restored: {why}")]
    Restore { index: LogIndex, why: String },
    #[error("wrong timing of the agreement group: {0}")]
    Timing(String),
    #[error("the agreement group could not start: {0}")]
    Start(String),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}
