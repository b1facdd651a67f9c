//! Why a mount cannot be made, served or removed. Each text says what to do.

use std::{io, path::PathBuf};

/// An error of mounting; errors of requests are `FsError`.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the mount point {path} does not exist: mkdir -p {path}", path = .0.display())]
    Missing(PathBuf),
    #[error("the mount point {} is not a directory: name a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("{} is already a hydfs mount that a running member serves: stop that member, or name another mount point", .0.display())]
    Busy(PathBuf),
    #[error("{path} is a mount whose server does not answer: stop that process, then umount -l {path}", path = .0.display())]
    Silent(PathBuf),
    #[error("cannot open /dev/fuse ({why}): {remedy}")]
    Device { why: String, remedy: &'static str },
    #[error("cannot mount at {} ({why})", path.display())]
    Mount { path: PathBuf, why: String },
    #[error("fusermount3 failed: {why}")]
    Helper { why: String },
    #[error("cannot unmount {path} ({why}): umount -l {path}", path = path.display())]
    Unmount { path: PathBuf, why: String },
    #[error("the FUSE session failed: {0}")]
    Session(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}
