//! Errors of agreement and data as a file system's caller meets them.

use hydfs_data::DataError;
use hydfs_mount::FsError;
use hydfs_types::{AgreementError, CommandError, Refusal};

/// A refused command as an error of a file-system call.
pub fn of_command(error: CommandError) -> FsError {
    match error {
        CommandError::NotFound => FsError::NotFound,
        CommandError::Exists => FsError::Exists,
        CommandError::NotDirectory => FsError::NotDirectory,
        CommandError::IsDirectory => FsError::IsDirectory,
        CommandError::NotEmpty => FsError::NotEmpty,
        CommandError::NameTooLong => FsError::NameTooLong,
        CommandError::TooManyLinks => FsError::TooManyLinks,
        CommandError::Invalid(why) => FsError::Invalid(why),
        CommandError::NotPermitted(why) => FsError::NotPermitted(why),
        CommandError::NoAttribute => FsError::NoAttribute,
        CommandError::NoSpace => {
            FsError::NoSpace("extended attributes of one inode are limited".into())
        }
        CommandError::Stale(_) => FsError::Stale,
        CommandError::Busy | CommandError::Changed => FsError::TryAgain,
        CommandError::Ended(_) | CommandError::Bootstrapped | CommandError::Admission(_) => {
            FsError::Unreachable("this member is rejoining the cluster".into())
        }
        CommandError::WindowPassed => {
            FsError::TimedOut("the answer came too late to be known".into())
        }
        CommandError::NoJob => FsError::NotFound,
        CommandError::Locked => FsError::TryAgain,
        CommandError::TooManyLocks => FsError::NoLocks(error.to_string()),
        CommandError::InUse(why) => FsError::InUse(why),
        CommandError::OverQuota(why) => FsError::OverQuota(why),
        CommandError::CrossesQuota => FsError::CrossesDevice,
        CommandError::Denied => FsError::Denied,
    }
}

/// An agreement error as an error of a file-system call: without a majority nothing can be changed.
pub fn of_agreement(error: AgreementError) -> FsError {
    match error {
        AgreementError::Refused(refused) => of_command(refused),
        AgreementError::NoQuorum { .. } => FsError::ReadOnly(error.to_string()),
        AgreementError::InDoubt { .. } => FsError::TimedOut(error.to_string()),
        AgreementError::Expired => {
            FsError::Unreachable("this member is rejoining the cluster".into())
        }
        AgreementError::Stopped(why) => FsError::Unreachable(why),
    }
}

/// A data-plane error as an error of a file-system call.
pub fn of_data(error: DataError) -> FsError {
    match error {
        DataError::Agreement(error) => of_agreement(error),
        DataError::NoSpace | DataError::Refused(Refusal::NoSpace) => {
            FsError::NoSpace("a replica's disk is full".into())
        }
        DataError::Refused(Refusal::Overloaded) => FsError::TryAgain,
        DataError::Refused(Refusal::Damaged(why)) | DataError::Store(why) => FsError::Damaged(why),
        DataError::Refused(Refusal::Mismatch { .. }) => FsError::Damaged(error.to_string()),
        DataError::Retired(_) => FsError::Stale,
        DataError::TimedOut { .. } => FsError::TimedOut(error.to_string()),
        DataError::NoCluster
        | DataError::Gone(_)
        | DataError::Net(_)
        | DataError::Refused(_)
        | DataError::Malformed(_)
        | DataError::WriterEnded(_)
        | DataError::Frozen(_) => FsError::Unreachable(error.to_string()),
    }
}
