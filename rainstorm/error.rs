//! Why an attempt, a job or a call of RainStorm failed.

use crate::seams::{CallError, StorageError};
use hydfs_types::{AgreementError, FrameError};

/// Errors of this crate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The spec is wrong: nothing is started. The text names file, line, column and remedy.
    #[error("{0}")]
    Spec(String),
    /// The data or an operator is at fault: another attempt would fail alike.
    #[error("{0}")]
    Job(String),
    /// One line is at fault: the job fails with it, or puts it aside.
    #[error("{0}")]
    Line(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// This attempt is over: another one runs, or the job has ended.
    #[error("the attempt is over")]
    Over,
    /// This attempt cannot go on; a new one may.
    #[error("{0}")]
    Attempt(String),
}

impl Error {
    /// Whether the job fails with it, rather than being tried again.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Spec(_) | Self::Job(_) | Self::Line(_) => true,
            Self::Storage(error) => !error.is_temporary(),
            Self::Call(_) | Self::Agreement(_) | Self::Frame(_) | Self::Over | Self::Attempt(_) => {
                false
            }
        }
    }
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
