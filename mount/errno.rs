//! The one place where a `FsError` becomes an errno, and where it is logged. The shape is that of
//! mountpoint-s3's `fs/error.rs`: one error carries errno and log level, and the match is exhaustive.

use crate::FsError;
use tracing::Level;

/// The errno that a caller sees. EIO means damaged data and nothing else.
pub fn errno(error: &FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDirectory => libc::ENOTDIR,
        FsError::IsDirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::InUse(_) => libc::EBUSY,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::Invalid(_) => libc::EINVAL,
        FsError::NotPermitted(_) => libc::EPERM,
        FsError::Denied => libc::EACCES,
        FsError::NoAttribute => libc::ENODATA,
        FsError::NoSpace(_) => libc::ENOSPC,
        FsError::OverQuota(_) => libc::EDQUOT,
        FsError::CrossesDevice => libc::EXDEV,
        FsError::TooLarge => libc::EFBIG,
        // Path walks that meet ESTALE are repeated by the kernel with fresh lookups.
        FsError::Stale => libc::ESTALE,
        FsError::BadHandle => libc::EBADF,
        FsError::TooManyOpen => libc::ENFILE,
        // Never ENOSYS: the kernel would take it for a property of the mount and not ask again.
        FsError::NotSupported(_) => libc::EOPNOTSUPP,
        FsError::NoLocks(_) => libc::ENOLCK,
        // lseek(2): the offset is past the end of data.
        FsError::NoData => libc::ENXIO,
        FsError::TooBig => libc::E2BIG,
        FsError::TryAgain => libc::EAGAIN,
        FsError::ReadOnly(_) => libc::EROFS,
        FsError::Unreachable(_) => libc::EHOSTUNREACH,
        FsError::TimedOut(_) => libc::ETIMEDOUT,
        FsError::Damaged(_) => libc::EIO,
    }
}

/// How loud an error is: only damage is news, the rest is the caller's daily business (`ls` of a missing
/// file) or is reported where it arises (no majority, unreachable members).
pub fn level(error: &FsError) -> Level {
    match error {
        FsError::Damaged(_) => Level::WARN,
        _ => Level::DEBUG,
    }
}

/// Logs an error where it leaves for the kernel and gives its errno.
pub(crate) fn fail(operation: &'static str, error: &FsError) -> fuser::Errno {
    let errno = errno(error);
    match level(error) {
        Level::WARN => tracing::warn!(operation, errno, %error, "request failed"),
        _ => tracing::debug!(operation, errno, %error, "request failed"),
    }
    fuser::Errno::from_i32(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        "why".into()
    }

    macro_rules! arm {
        ($($name:ident: $error:expr => $errno:ident;)*) => {$(
            #[test]
            fn $name() {
                assert_eq!(errno(&$error), libc::$errno);
                let warns = matches!($error, FsError::Damaged(_));
                assert_eq!(level(&$error) == Level::WARN, warns);
            }
        )*};
    }

    arm! {
        not_found: FsError::NotFound => ENOENT;
        exists: FsError::Exists => EEXIST;
        not_directory: FsError::NotDirectory => ENOTDIR;
        is_directory: FsError::IsDirectory => EISDIR;
        not_empty: FsError::NotEmpty => ENOTEMPTY;
        in_use: FsError::InUse(text()) => EBUSY;
        name_too_long: FsError::NameTooLong => ENAMETOOLONG;
        too_many_links: FsError::TooManyLinks => EMLINK;
        invalid: FsError::Invalid(text()) => EINVAL;
        not_permitted: FsError::NotPermitted(text()) => EPERM;
        denied: FsError::Denied => EACCES;
        no_attribute: FsError::NoAttribute => ENODATA;
        no_space: FsError::NoSpace(text()) => ENOSPC;
        over_quota: FsError::OverQuota(text()) => EDQUOT;
        crosses_device: FsError::CrossesDevice => EXDEV;
        too_large: FsError::TooLarge => EFBIG;
        stale: FsError::Stale => ESTALE;
        bad_handle: FsError::BadHandle => EBADF;
        too_many_open: FsError::TooManyOpen => ENFILE;
        not_supported: FsError::NotSupported(text()) => EOPNOTSUPP;
        no_locks: FsError::NoLocks(text()) => ENOLCK;
        no_data: FsError::NoData => ENXIO;
        too_big: FsError::TooBig => E2BIG;
        try_again: FsError::TryAgain => EAGAIN;
        read_only: FsError::ReadOnly(text()) => EROFS;
        unreachable: FsError::Unreachable(text()) => EHOSTUNREACH;
        timed_out: FsError::TimedOut(text()) => ETIMEDOUT;
        damaged: FsError::Damaged(text()) => EIO;
    }
}
