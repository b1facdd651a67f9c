//! Between the kernel's words and ours: attributes, times, open flags, names. No decisions, no I/O.

use crate::{FsError, How, Opened, SetTime, kernel};
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, LockOwner, OpenFlags, TimeOrNow};
use hydfs_types::{Attr, FileKind, Ino, Lock, Time};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Inode numbers are never used twice, so one generation serves for ever.
pub(crate) const GENERATION: fuser::Generation = fuser::Generation(0);

/// `stat` with this st_blksize.
pub(crate) fn attr(from: &Attr, block_bytes: u32) -> FileAttr {
    FileAttr {
        ino: INodeNo(from.ino.0),
        size: from.size,
        blocks: from.stored.div_ceil(512),
        atime: system_time(from.atime),
        mtime: system_time(from.mtime),
        ctime: system_time(from.ctime),
        crtime: system_time(from.btime),
        kind: kind(from.kind),
        perm: from.mode & 0o7777,
        nlink: from.nlink,
        uid: from.uid,
        gid: from.gid,
        rdev: from.rdev,
        blksize: block_bytes,
        flags: 0,
    }
}

/// A directory of which only the number is known.
pub(crate) fn bare_directory(ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(crate) fn kind(from: FileKind) -> FileType {
    match from {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that mknod(2) asks for; `None` for kinds that mknod does not make.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(FileKind::Regular),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// What the machine cannot express becomes 1970 instead of a panic.
fn system_time(from: Time) -> SystemTime {
    let nsec = Duration::from_nanos(u64::from(from.nsec.min(999_999_999)));
    let whole = Duration::from_secs(from.sec.unsigned_abs());
    let base = if from.sec >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|base| base.checked_add(nsec))
        .unwrap_or(UNIX_EPOCH)
}

/// Undoes fuser's conversion: before 1970 it subtracts the nanoseconds instead of adding them
/// (`time.rs`, "TODO: 1_000_000_000 - nsec"), so the distance to 1970 holds both fields as the kernel sent them.
fn time(from: SystemTime) -> Time {
    match from.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nsec: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                sec: 0i64
                    .checked_sub_unsigned(before.as_secs())
                    .unwrap_or(i64::MIN),
                nsec: before.subsec_nanos(),
            }
        }
    }
}

pub(crate) fn set_time(from: TimeOrNow) -> SetTime {
    match from {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    }
}

/// A lock that is wanted; `None` for a kind that there is not. The kernel's last byte of all is `i64::MAX`.
pub(crate) fn lock(owner: LockOwner, start: u64, end: u64, kind: i32, pid: u32) -> Option<Lock> {
    let exclusive = match kind {
        libc::F_RDLCK => false,
        libc::F_WRLCK => true,
        _ => return None,
    };
    Some(Lock {
        start,
        end,
        owner: owner.0,
        pid,
        exclusive,
    })
}

/// open(2) and creat(2) flags.
pub(crate) fn how(flags: i32) -> How {
    let access = flags & libc::O_ACCMODE;
    How {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
        // O_SYNC contains O_DSYNC's bit.
        sync: flags & libc::O_DSYNC != 0,
    }
}

pub(crate) fn open_flags(from: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    let direct = from.direct && (!from.mappable || kernel::maps_direct_handles());
    flags.set(FopenFlags::FOPEN_DIRECT_IO, direct);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, from.keep_cache && !direct);
    flags
}

/// Whether a write goes to the end wherever that is. The flags are the descriptor's at this write, so
/// fcntl(F_SETFL) counts. Pages of a shared mapping are written where they belong, whatever the flags say.
pub(crate) fn appends(flags: OpenFlags, from_page_cache: bool) -> bool {
    flags.0 & libc::O_APPEND != 0 && !from_page_cache
}

/// Whether a write is on disk before its answer: the descriptor's O_DSYNC or O_SYNC, or RWF_DSYNC or RWF_SYNC of this one
/// write, which the kernel names alike.
pub(crate) fn syncs(flags: OpenFlags) -> bool {
    flags.0 & libc::O_DSYNC != 0
}

/// `keep_size` and `zero` (called `punch` in requests) of fallocate(2)'s mode.
pub(crate) fn allocation(mode: i32) -> Result<(bool, bool), FsError> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Ok((false, false)),
        KEEP => Ok((true, false)),
        PUNCH_KEEP | ZERO_KEEP => Ok((true, true)),
        ZERO => Ok((false, true)),
        _ => Err(FsError::NotSupported(format!("fallocate mode {mode:#x}"))),
    }
}

pub(crate) fn ino(from: INodeNo) -> Ino {
    Ino(from.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive() {
        // What fuser hands us for the kernel's (-1, 500_000_000), which is half a second before 1970.
        let handed = UNIX_EPOCH - Duration::new(1, 500_000_000);
        assert_eq!(
            time(handed),
            Time {
                sec: -1,
                nsec: 500_000_000
            }
        );
        assert_eq!(
            system_time(Time {
                sec: -1,
                nsec: 500_000_000
            }),
            UNIX_EPOCH - Duration::from_millis(500)
        );
        assert_eq!(
            time(UNIX_EPOCH + Duration::new(7, 9)),
            Time { sec: 7, nsec: 9 }
        );
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for sec in [i64::MIN, i64::MAX, 0] {
            for nsec in [0, 999_999_999, u32::MAX] {
                system_time(Time { sec, nsec });
            }
        }
    }

    #[test]
    fn flags_of_open() {
        let how =
            how(libc::O_WRONLY | libc::O_APPEND | libc::O_SYNC | libc::O_CREAT | libc::O_EXCL);
        assert!(!how.read && how.write && how.append && how.sync && how.exclusive && !how.truncate);
        assert!(super::how(libc::O_RDWR | libc::O_DSYNC | libc::O_TRUNC).sync);
        assert!(appends(OpenFlags(libc::O_APPEND), false));
        assert!(!appends(OpenFlags(libc::O_APPEND), true));
        assert!(syncs(OpenFlags(libc::O_SYNC)) && syncs(OpenFlags(libc::O_DSYNC)));
        assert!(!syncs(OpenFlags(libc::O_APPEND)));
    }

    #[test]
    fn modes_of_fallocate() {
        assert_eq!(allocation(0), Ok((false, false)));
        assert_eq!(allocation(1), Ok((true, false)));
        assert_eq!(allocation(3), Ok((true, true)));
        assert_eq!(allocation(0x10), Ok((false, true)));
        assert_eq!(allocation(0x11), Ok((true, true)));
        assert!(matches!(allocation(8), Err(FsError::NotSupported(_))));
        assert!(matches!(allocation(2), Err(FsError::NotSupported(_))));
    }
}
