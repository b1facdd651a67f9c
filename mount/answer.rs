//! Turns answers of the file system into replies to the kernel: one function a kind of reply. Each takes the
//! operation's name for the log; an answer of the wrong kind is a bug of the file system, reported and EIO.

use crate::{Answer, FsError, Keep, convert, directory, errno::fail, xattr};
use fuser::{
    Errno, FileHandle, FileType, INodeNo, PollEvents, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use hydfs_types::{Attr, DirEntry};
use std::{ffi::OsStr, iter::repeat, os::unix::ffi::OsStrExt, time::Duration};

type Outcome = Result<Answer, FsError>;

/// How attributes are shown, and how long the kernel may keep them at least.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub attr_ttl: Duration,
    pub entry_ttl: Duration,
    pub block_bytes: u32,
}

/// Gives an outcome to the kernel.
pub(crate) trait Reply: FnOnce(Outcome) + Send + 'static {}
impl<F: FnOnce(Outcome) + Send + 'static> Reply for F {}

/// The errno of an error, or of an answer that does not belong to the question.
fn refuse(name: &'static str, outcome: Outcome) -> Errno {
    match outcome {
        Err(error) => fail(name, &error),
        Ok(answer) => {
            tracing::error!(operation = name, ?answer, "answer of the wrong kind");
            Errno::EIO
        }
    }
}

/// An entry that was just made.
pub(crate) fn entry(name: &'static str, shape: Shape, reply: ReplyEntry) -> impl Reply {
    looked_up(name, shape, |_| Keep::default(), reply)
}

/// An entry that was looked up, for the kernel to keep as long as `keep` says of its attributes.
pub(crate) fn looked_up(
    name: &'static str,
    shape: Shape,
    keep: impl FnOnce(&Attr) -> Keep + Send + 'static,
    reply: ReplyEntry,
) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Attr(found)) => {
            let attr = convert::attr(&found, shape.block_bytes);
            let keep = keep(&found);
            reply.entry_with_ttls(
                &shape.attr_ttl.max(keep.attr),
                &shape.entry_ttl.max(keep.entry),
                &attr,
                convert::GENERATION,
            );
        }
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn attr(
    name: &'static str,
    shape: Shape,
    keep: impl FnOnce(&Attr) -> Keep + Send + 'static,
    reply: ReplyAttr,
) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Attr(found)) => {
            let attr = convert::attr(&found, shape.block_bytes);
            reply.attr(&shape.attr_ttl.max(keep(&found).attr), &attr);
        }
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn empty(name: &'static str, reply: ReplyEmpty) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Done) => reply.ok(),
        other => reply.error(refuse(name, other)),
    }
}

/// `read` and `readlink`.
pub(crate) fn data(name: &'static str, reply: ReplyData) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Data(data)) => reply.data(&data),
        Ok(Answer::Target(target)) => reply.data(&target),
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn opened(name: &'static str, reply: ReplyOpen) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Opened(opened)) => {
            reply.opened(FileHandle(opened.handle), convert::open_flags(&opened))
        }
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn created(name: &'static str, shape: Shape, reply: ReplyCreate) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Created(attr, opened)) => {
            // One time-out serves both here, so the shorter.
            let ttl = shape.attr_ttl.min(shape.entry_ttl);
            let attr = convert::attr(&attr, shape.block_bytes);
            reply.created(
                &ttl,
                &attr,
                convert::GENERATION,
                FileHandle(opened.handle),
                convert::open_flags(&opened),
            );
        }
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn written(name: &'static str, reply: ReplyWrite) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Written(bytes)) => reply.written(bytes),
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn lock(name: &'static str, reply: ReplyLock) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Lock(None)) => reply.locked(0, 0, libc::F_UNLCK, 0),
        Ok(Answer::Lock(Some(lock))) => {
            let kind = match lock.exclusive {
                true => libc::F_WRLCK,
                false => libc::F_RDLCK,
            };
            reply.locked(lock.start, lock.end, kind, lock.pid);
        }
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn offset(name: &'static str, reply: ReplyLseek) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::Offset(offset)) => match i64::try_from(offset) {
            Ok(offset) => reply.offset(offset),
            Err(_) => reply.error(Errno::EOVERFLOW),
        },
        other => reply.error(refuse(name, other)),
    }
}

/// What is ready of `wanted`. What cannot be written is ready for it, too: a write fails at once.
pub(crate) fn polled(name: &'static str, wanted: PollEvents, reply: ReplyPoll) -> impl Reply {
    let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
    let writable = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
    move |outcome| match outcome {
        Ok(Answer::Ready(true)) => reply.poll(wanted & (readable | writable)),
        Ok(Answer::Ready(false)) => reply.poll(wanted & writable),
        other => reply.error(refuse(name, other)),
    }
}

pub(crate) fn statfs(name: &'static str, reply: ReplyStatfs) -> impl Reply {
    move |outcome| match outcome {
        Ok(Answer::StatFs(s)) => reply.statfs(
            s.blocks,
            s.free,
            s.free,
            s.files,
            s.files_free,
            s.block,
            s.name_max,
            s.block,
        ),
        other => reply.error(refuse(name, other)),
    }
}

/// `getxattr` and `listxattr`, for a caller with room for `room` bytes.
pub(crate) fn value(name: &'static str, room: u32, reply: ReplyXattr) -> impl Reply {
    move |outcome| {
        let value = match outcome {
            Ok(Answer::Value(value)) => value,
            Ok(Answer::Names(names)) => xattr::list(&names),
            other => return reply.error(refuse(name, other)),
        };
        match xattr::fit(value.len(), room) {
            xattr::Fit::Size(size) => reply.size(size),
            xattr::Fit::Whole => reply.data(&value),
            xattr::Fit::TooSmall => reply.error(Errno::ERANGE),
        }
    }
}

/// A listing of `dir` from the kernel's `from`: what does not fit is asked for again.
pub(crate) fn listing(
    name: &'static str,
    dir: INodeNo,
    from: u64,
    mut reply: ReplyDirectory,
) -> impl Reply {
    move |outcome| {
        let entries = match outcome {
            Ok(Answer::Entries(entries)) => entries,
            other => return reply.error(refuse(name, other)),
        };
        for (ino, offset, dot) in directory::dots(dir, from) {
            if reply.add(ino, offset, FileType::Directory, dot) {
                return reply.ok();
            }
        }
        for (entry, _) in &entries {
            let offset = directory::offset_after(entry.cookie);
            if reply.add(
                INodeNo(entry.ino.0),
                offset,
                convert::kind(entry.kind),
                OsStr::from_bytes(&entry.name),
            ) {
                break;
            }
        }
        reply.ok();
    }
}

/// As `listing`, with attributes. All entries must have them: fuser takes inode number and node id from the
/// same field, so "an entry without attributes" cannot be said.
pub(crate) fn listing_plus(
    name: &'static str,
    shape: Shape,
    keep: impl FnOnce(&[(DirEntry, Option<Attr>)]) -> Vec<Duration> + Send + 'static,
    dir: INodeNo,
    from: u64,
    mut reply: ReplyDirectoryPlus,
) -> impl Reply {
    move |outcome| {
        let entries = match outcome {
            Ok(Answer::Entries(entries)) => entries,
            other => return reply.error(refuse(name, other)),
        };
        for (ino, offset, dot) in directory::dots(dir, from) {
            // The kernel takes nothing but number and kind from these two.
            if reply.add(
                ino,
                offset,
                dot,
                &Duration::ZERO,
                &convert::bare_directory(ino),
                convert::GENERATION,
            ) {
                return reply.ok();
            }
        }
        let least = shape.attr_ttl.min(shape.entry_ttl);
        let kept = keep(&entries).into_iter().chain(repeat(Duration::ZERO));
        for ((entry, attr), kept) in entries.iter().zip(kept) {
            let Some(attr) = attr else { continue };
            let offset = directory::offset_after(entry.cookie);
            let attr = convert::attr(attr, shape.block_bytes);
            if reply.add(
                attr.ino,
                offset,
                OsStr::from_bytes(&entry.name),
                &least.max(kept),
                &attr,
                convert::GENERATION,
            ) {
                break;
            }
        }
        reply.ok();
    }
}
