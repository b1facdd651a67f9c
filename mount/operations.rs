//! The FUSE operations: each becomes a `Request` and has an explicit answer. No operation answers ENOSYS for a
//! passing or per-file condition (the kernel remembers ENOSYS for the life of the mount, which outlives us).

use crate::{
    Answer, Change, Keep, Request,
    adapter::{Adapter, Node, bytes, caller, permissions},
    answer,
    convert::{self, ino},
    errno::fail,
    kernel, xattr,
};
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request as Header, TimeOrNow, WriteFlags,
};
use hydfs_types::{Attr, FileKind};
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, time::SystemTime};

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Header, config: &mut KernelConfig) -> io::Result<()> {
        kernel::negotiate(config, self.shape);
        Ok(())
    }

    // ---- names ----

    fn lookup(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (ino(parent), bytes(name));
        let fs = self.dispatch.file_system();
        let entry = name.clone();
        let keep = move |attr: &Attr| fs.keep(Some((parent, &entry)), attr);
        let request = Request::Lookup { parent, name };
        let answer = answer::looked_up("lookup", self.shape, keep, reply);
        self.ask(header, request, answer);
    }

    fn forget(&self, header: &Header, inode: INodeNo, _nlookup: u64) {
        self.dispatch.forget(caller(header), ino(inode));
    }

    fn mknod(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = convert::kind_of_mode(mode) else {
            return reply.error(Errno::EINVAL);
        };
        self.make(
            header,
            parent,
            name,
            Node {
                operation: "mknod",
                kind,
                mode,
                umask,
                rdev,
                target: Vec::new(),
            },
            reply,
        );
    }

    fn mkdir(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let node = Node {
            operation: "mkdir",
            kind: FileKind::Directory,
            mode,
            umask,
            rdev: 0,
            target: Vec::new(),
        };
        self.make(header, parent, name, node, reply);
    }

    fn symlink(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = bytes(target.as_os_str());
        let node = Node {
            operation: "symlink",
            kind: FileKind::Symlink,
            mode: 0o777,
            umask: 0,
            rdev: 0,
            target,
        };
        self.make(header, parent, name, node, reply);
    }

    fn link(
        &self,
        header: &Header,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let request = Request::Link {
            ino: ino(inode),
            parent: ino(parent),
            name: bytes(name),
        };
        self.ask(header, request, answer::entry("link", self.shape, reply));
    }

    fn unlink(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = Request::Unlink {
            parent: ino(parent),
            name: bytes(name),
        };
        self.ask(header, request, answer::empty("unlink", reply));
    }

    fn rmdir(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = Request::RemoveDir {
            parent: ino(parent),
            name: bytes(name),
        };
        self.ask(header, request, answer::empty("rmdir", reply));
    }

    fn rename(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (no_replace, exchange) = match flags.bits() {
            0 => (false, false),
            libc::RENAME_NOREPLACE => (true, false),
            libc::RENAME_EXCHANGE => (false, true),
            _ => return reply.error(Errno::EINVAL),
        };
        let (parent, to_parent) = (ino(parent), ino(to_parent));
        let request = Request::Rename {
            parent,
            name: bytes(name),
            to_parent,
            to_name: bytes(to_name),
            no_replace,
            exchange,
        };
        self.ask(header, request, answer::empty("rename", reply));
    }

    fn readlink(&self, header: &Header, inode: INodeNo, reply: ReplyData) {
        let request = Request::ReadLink { ino: ino(inode) };
        self.ask(header, request, answer::data("readlink", reply));
    }

    // ---- attributes ----

    fn getattr(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let request = Request::GetAttr {
            ino: ino(inode),
            handle: handle.map(u64::from),
        };
        let fs = self.dispatch.file_system();
        let keep = move |attr: &Attr| fs.keep(None, attr);
        let answer = answer::attr("getattr", self.shape, keep, reply);
        self.ask(header, request, answer);
    }

    #[rustfmt::skip]
    fn setattr(
        &self, header: &Header, inode: INodeNo, mode: Option<u32>, uid: Option<u32>,
        gid: Option<u32>, size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>, handle: Option<FileHandle>, _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>, _bkuptime: Option<SystemTime>, _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(header);
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = Change {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime,
            mtime,
            clear_set_id: false,
        };
        // A change of owner clears set-id bits whoever makes it, a truncation that of an ordinary user.
        let strip = set.mode.is_none()
            && (uid.is_some() || gid.is_some() || (size.is_some() && caller.uid != 0));
        let request = Request::SetAttr {
            ino: ino(inode),
            handle: handle.map(u64::from),
            set,
        };
        self.dispatch.submit(
            caller,
            request,
            strip,
            answer::attr("setattr", self.shape, |_| Keep::default(), reply),
        );
    }

    /// Permissions are the kernel's business (`default_permissions`), which then never asks.
    fn access(&self, _: &Header, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, header: &Header, _: INodeNo, reply: ReplyStatfs) {
        self.ask(header, Request::StatFs, answer::statfs("statfs", reply));
    }

    // ---- files ----

    fn create(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (mode, umask) = (permissions(mode), permissions(umask));
        let how = convert::how(flags);
        let request = Request::Create {
            parent: ino(parent),
            name: bytes(name),
            mode,
            umask,
            how,
        };
        self.ask(
            header,
            request,
            answer::created("create", self.shape, reply),
        );
    }

    fn open(&self, header: &Header, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let how = convert::how(flags.0);
        let caller = caller(header);
        let strip = how.truncate && caller.uid != 0;
        let request = Request::Open {
            ino: ino(inode),
            how,
        };
        self.dispatch
            .submit(caller, request, strip, answer::opened("open", reply));
    }

    fn read(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let request = Request::Read {
            ino: ino(inode),
            handle: handle.0,
            offset,
            len,
        };
        self.ask(header, request, answer::data("read", reply));
    }

    #[rustfmt::skip]
    fn write(
        &self, header: &Header, inode: INodeNo, handle: FileHandle, offset: u64, data: &[u8],
        write_flags: WriteFlags, flags: OpenFlags, _owner: Option<LockOwner>, reply: ReplyWrite,
    ) {
        let append = convert::appends(flags, write_flags.contains(WriteFlags::FUSE_WRITE_CACHE));
        // The only copy: the session thread's buffer is reused for the next request.
        let data = Bytes::copy_from_slice(data);
        let request = Request::Write {
            ino: ino(inode),
            handle: handle.0,
            offset,
            data,
            append,
            sync: convert::syncs(flags),
        };
        let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.dispatch.submit(
            caller(header),
            request,
            strip,
            answer::written("write", reply),
        );
    }

    fn flush(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let request = Request::Flush {
            ino: ino(inode),
            handle: handle.0,
            owner: Some(owner.0),
        };
        self.ask(header, request, answer::empty("flush", reply));
    }

    #[rustfmt::skip]
    fn release(
        &self, header: &Header, inode: INodeNo, handle: FileHandle, _flags: OpenFlags,
        _owner: Option<LockOwner>, _flush: bool, reply: ReplyEmpty,
    ) {
        let request = Request::Release {
            ino: ino(inode),
            handle: handle.0,
        };
        self.ask(header, request, answer::empty("release", reply));
    }

    fn fsync(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let request = Request::Sync {
            ino: ino(inode),
            handle: handle.0,
        };
        self.ask(header, request, answer::empty("fsync", reply));
    }

    fn fallocate(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (keep_size, punch) = match convert::allocation(mode) {
            Ok(mode) => mode,
            Err(error) => return reply.error(fail("fallocate", &error)),
        };
        let caller = caller(header);
        let request = Request::Allocate {
            ino: ino(inode),
            handle: handle.0,
            offset,
            len,
            keep_size,
            punch,
        };
        let strip = caller.uid != 0;
        self.dispatch
            .submit(caller, request, strip, answer::empty("fallocate", reply));
    }

    fn lseek(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // Only these two reach us; the kernel does the others itself.
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let request = Request::Seek {
            ino: ino(inode),
            handle: handle.0,
            offset,
            data,
        };
        self.ask(header, request, answer::offset("lseek", reply));
    }

    /// The kernel has written back mapped pages of both ranges, and drops those of the target afterwards.
    #[rustfmt::skip]
    fn copy_file_range(
        &self, header: &Header, from: INodeNo, from_handle: FileHandle, from_offset: u64,
        to: INodeNo, to_handle: FileHandle, to_offset: u64, len: u64, _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(header);
        let request = Request::Copy {
            from: ino(from),
            from_handle: from_handle.0,
            from_offset,
            ino: ino(to),
            handle: to_handle.0,
            offset: to_offset,
            len,
        };
        let strip = caller.uid != 0;
        self.dispatch.submit(
            caller,
            request,
            strip,
            answer::written("copy_file_range", reply),
        );
    }

    // ---- directories ----

    fn opendir(&self, header: &Header, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let request = Request::OpenDir { ino: ino(inode) };
        self.ask(header, request, answer::opened("opendir", reply));
    }

    fn readdir(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(header, inode, handle, offset, reply);
    }

    fn readdirplus(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_plus(header, inode, handle, offset, reply);
    }

    fn releasedir(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.kernel.listed(handle.0);
        let request = Request::ReleaseDir {
            ino: ino(inode),
            handle: handle.0,
        };
        self.ask(header, request, answer::empty("releasedir", reply));
    }

    /// Changes of the namespace are durable when they are answered: nothing is left to do.
    fn fsyncdir(&self, _: &Header, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    // ---- extended attributes ----

    fn getxattr(
        &self,
        header: &Header,
        inode: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        if let Some(error) = xattr::refused(name.as_bytes(), true) {
            return reply.error(fail("getxattr", &error));
        }
        let request = Request::GetXattr {
            ino: ino(inode),
            name: bytes(name),
        };
        self.ask(header, request, answer::value("getxattr", size, reply));
    }

    fn listxattr(&self, header: &Header, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let request = Request::ListXattr { ino: ino(inode) };
        let (caller, answer) = (caller(header), answer::value("listxattr", size, reply));
        self.ask(header, request, move |outcome| {
            answer(match outcome {
                Ok(Answer::Names(names)) => Ok(Answer::Names(xattr::visible(names, caller))),
                other => other,
            });
        });
    }

    fn setxattr(
        &self,
        header: &Header,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if let Some(error) = xattr::refused(name.as_bytes(), false) {
            return reply.error(fail("setxattr", &error));
        }
        let (create, replace) = (
            flags & libc::XATTR_CREATE != 0,
            flags & libc::XATTR_REPLACE != 0,
        );
        let request = Request::SetXattr {
            ino: ino(inode),
            name: bytes(name),
            value: value.to_vec(),
            create,
            replace,
        };
        self.ask(header, request, answer::empty("setxattr", reply));
    }

    fn removexattr(&self, header: &Header, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some(error) = xattr::refused(name.as_bytes(), true) {
            return reply.error(fail("removexattr", &error));
        }
        let request = Request::RemoveXattr {
            ino: ino(inode),
            name: bytes(name),
        };
        self.ask(header, request, answer::empty("removexattr", reply));
    }

    // ---- locks ----

    #[rustfmt::skip]
    fn getlk(
        &self, header: &Header, inode: INodeNo, _: FileHandle, owner: LockOwner, start: u64,
        end: u64, kind: i32, pid: u32, reply: ReplyLock,
    ) {
        let Some(lock) = convert::lock(owner, start, end, kind, pid) else {
            return reply.error(Errno::EINVAL);
        };
        let request = Request::GetLock { ino: ino(inode), lock };
        self.ask(header, request, answer::lock("getlk", reply));
    }

    /// `flock` comes here, too, as a lock on the whole file.
    #[rustfmt::skip]
    fn setlk(
        &self, header: &Header, inode: INodeNo, handle: FileHandle, owner: LockOwner, start: u64,
        end: u64, kind: i32, pid: u32, sleep: bool, reply: ReplyEmpty,
    ) {
        let request = if kind == libc::F_UNLCK {
            Request::Unlock { ino: ino(inode), owner: owner.0, start, end }
        } else if let Some(lock) = convert::lock(owner, start, end, kind, pid) {
            let wait = sleep.then_some(self.lock_timeout);
            Request::SetLock { ino: ino(inode), handle: handle.0, lock, wait }
        } else {
            return reply.error(Errno::EINVAL);
        };
        self.ask(header, request, answer::empty("setlk", reply));
    }

    #[rustfmt::skip]
    fn poll(
        &self, header: &Header, inode: INodeNo, handle: FileHandle, notifier: PollNotifier,
        events: PollEvents, flags: PollFlags, reply: ReplyPoll,
    ) {
        let waits = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let wake = waits.then(|| notifier.handle().0);
        let request = Request::Poll { ino: ino(inode), handle: handle.0, wake };
        self.ask(header, request, answer::polled("poll", events, reply));
    }

    // ---- not served ----

    #[rustfmt::skip]
    fn ioctl(
        &self, _: &Header, _: INodeNo, _: FileHandle, _: IoctlFlags, _: u32, _: &[u8], _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// There is no block device below: the kernel need not ask again.
    #[rustfmt::skip]
    fn bmap(
        &self, _: &Header, _: INodeNo, _: u32, _: u64, reply: ReplyBmap,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
