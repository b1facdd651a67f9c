//! What may go wrong between the command line and a member. Errors travel: the member's words reach the user.

use hydfs_mount::FsError;
use serde::{Deserialize, Serialize};

/// What sort of failure it is; the exit code and errno of the command line follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// No such file, member or segment (ENOENT).
    NotFound,
    /// It is there already (EEXIST).
    Exists,
    /// The request makes no sense as it stands (EINVAL).
    Invalid,
    /// Not allowed (EACCES).
    Denied,
    /// No space or over a limit (ENOSPC).
    NoSpace,
    /// No majority, or the members needed cannot be reached (EHOSTUNREACH).
    Unreachable,
    /// No answer in time: the effect is unknown (ETIMEDOUT).
    TimedOut,
    /// Too much at once: try again (EAGAIN).
    Busy,
    /// Not offered here (EOPNOTSUPP).
    NotSupported,
    /// Damaged data or a broken connection (EIO).
    Io,
}

/// A failure in words for a person: what failed, on what, what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

impl Error {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The same failure, with what it was about in front.
    pub fn on(self, what: impl std::fmt::Display) -> Self {
        Self {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }
}

impl From<FsError> for Error {
    fn from(error: FsError) -> Self {
        Self::new(kind_of(&error), error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            std::io::ErrorKind::TimedOut => Kind::TimedOut,
            _ => Kind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

fn kind_of(error: &FsError) -> Kind {
    match error {
        FsError::NotFound | FsError::NoAttribute | FsError::NoData | FsError::Stale => {
            Kind::NotFound
        }
        FsError::Exists => Kind::Exists,
        FsError::NotDirectory
        | FsError::IsDirectory
        | FsError::NotEmpty
        | FsError::NameTooLong
        | FsError::TooManyLinks
        | FsError::Invalid(_)
        | FsError::BadHandle
        | FsError::TooManyOpen
        | FsError::CrossesDevice
        | FsError::TooBig => Kind::Invalid,
        FsError::NotPermitted(_) | FsError::Denied => Kind::Denied,
        FsError::NoSpace(_) | FsError::TooLarge | FsError::OverQuota(_) => Kind::NoSpace,
        FsError::NotSupported(_) | FsError::NoLocks(_) => Kind::NotSupported,
        FsError::TryAgain | FsError::InUse(_) => Kind::Busy,
        FsError::ReadOnly(_) | FsError::Unreachable(_) => Kind::Unreachable,
        FsError::TimedOut(_) => Kind::TimedOut,
        FsError::Damaged(_) => Kind::Io,
    }
}
