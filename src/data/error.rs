//! Why something of the data plane could not be done.

use hydfs_types::{AgreementError, Incarnation, NetError, Refusal, SegmentId, WriterId};

/// An error of the data plane. Nothing acknowledged is undone by any of them; a write that timed out is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    #[error("this member is in no cluster yet")]
    NoCluster,
    #[error("incarnation {0} is gone")]
    Gone(Incarnation),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    #[error("a replica refused: {0}")]
    Refused(#[from] Refusal),
    #[error("malformed answer: {0}")]
    Malformed(String),
    #[error("not done within {millis} ms: {why}")]
    TimedOut { millis: u64, why: String },
    #[error("segment {0} is gone")]
    Retired(SegmentId),
    /// The writer was ended by the cluster; the caller takes a new one and sends again what is not merged.
    #[error("writer {0} was ended by the cluster")]
    WriterEnded(WriterId),
    #[error("no space left on a replica")]
    NoSpace,
    #[error("{0}")]
    Store(String),
    #[error("no live synced replica of {0}: a member that holds it must return")]
    Frozen(SegmentId),
}

impl From<hydfs_store::StoreError> for DataError {
    fn from(error: hydfs_store::StoreError) -> Self {
        match error {
            hydfs_store::StoreError::NoSpace { .. } => Self::NoSpace,
            hydfs_store::StoreError::Poisoned(why) => Self::Refused(Refusal::DiskFailed(why)),
            other => Self::Store(other.to_string()),
        }
    }
}

/// What of a member's disk failed for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskFailure {
    #[error("the record journal: {0}")]
    Journal(String),
    #[error("a base: {0}")]
    Base(String),
}
