//! The FUSE operations: each becomes a `Request` and has an explicit answer. No operation answers ENOSYS for a
//! passing or per-file condition (the kernel remembers ENOSYS for the life of the mount, which outlives us).

use crate::{
    Caller, Change, FileSystem, FsError, Request, ServeConfig,
    answer::{self, Shape},
    convert::{self, ino},
    directory,
    dispatch::Dispatch,
    errno::fail,
    kernel, xattr,
};
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request as Header, TimeOrNow, WriteFlags,
};
use hydfs_types::FileKind;
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::SystemTime};
use tokio::runtime::Handle as Runtime;

/// Serves any `FileSystem` to the kernel.
pub(crate) struct Adapter {
    dispatch: Arc<Dispatch>,
    shape: Shape,
}

impl Adapter {
    pub(crate) fn new(fs: Arc<dyn FileSystem>, runtime: Runtime, config: &ServeConfig) -> Self {
        let shape = Shape { attr_ttl: config.attr_ttl, entry_ttl: config.entry_ttl, block_bytes: config.block_bytes };
        Self { dispatch: Arc::new(Dispatch::new(fs, runtime, config.in_flight, config.op_timeout)), shape }
    }

    fn ask<F>(&self, header: &Header, request: Request, reply: F)
    where
        F: FnOnce(Result<crate::Answer, FsError>) + Send + 'static,
    {
        self.dispatch.submit(caller(header), request, false, reply);
    }

    fn make(&self, header: &Header, parent: INodeNo, name: &OsStr, node: Node, reply: ReplyEntry) {
        let Node { operation, kind, mode, rdev, target } = node;
        let mode = permissions(mode);
        let request = Request::Make { parent: ino(parent), name: bytes(name), kind, mode, rdev, target };
        let shape = self.shape;
        self.ask(header, request, move |outcome| answer::entry(operation, shape, reply, outcome));
    }
}

/// What `make` makes.
struct Node {
    operation: &'static str,
    kind: FileKind,
    mode: u32,
    rdev: u32,
    target: Vec<u8>,
}

fn caller(header: &Header) -> Caller {
    Caller { uid: header.uid(), gid: header.gid(), pid: header.pid() }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Permission bits of a mode; 12 bits always fit.
fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Header, config: &mut KernelConfig) -> io::Result<()> {
        kernel::negotiate(config, self.shape);
        Ok(())
    }

    // ---- names ----

    fn lookup(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let shape = self.shape;
        let request = Request::Lookup { parent: ino(parent), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::entry("lookup", shape, reply, outcome));
    }

    fn forget(&self, header: &Header, inode: INodeNo, _nlookup: u64) {
        self.dispatch.forget(caller(header), ino(inode));
    }

    fn mknod(&self, header: &Header, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        self.make(header, parent, name, Node { operation: "mknod", kind, mode, rdev, target: Vec::new() }, reply);
    }

    fn mkdir(&self, header: &Header, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let node = Node { operation: "mkdir", kind: FileKind::Directory, mode, rdev: 0, target: Vec::new() };
        self.make(header, parent, name, node, reply);
    }

    fn symlink(&self, header: &Header, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = bytes(target.as_os_str());
        let node = Node { operation: "symlink", kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
        self.make(header, parent, name, node, reply);
    }

    fn link(&self, header: &Header, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let shape = self.shape;
        let request = Request::Link { ino: ino(inode), parent: ino(parent), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::entry("link", shape, reply, outcome));
    }

    fn unlink(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = Request::Unlink { parent: ino(parent), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::empty("unlink", reply, outcome));
    }

    fn rmdir(&self, header: &Header, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = Request::RemoveDir { parent: ino(parent), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::empty("rmdir", reply, outcome));
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
        let request = Request::Rename { parent, name: bytes(name), to_parent, to_name: bytes(to_name), no_replace, exchange };
        self.ask(header, request, move |outcome| answer::empty("rename", reply, outcome));
    }

    fn readlink(&self, header: &Header, inode: INodeNo, reply: ReplyData) {
        let request = Request::ReadLink { ino: ino(inode) };
        self.ask(header, request, move |outcome| answer::data("readlink", reply, outcome));
    }

    // ---- attributes ----

    fn getattr(&self, header: &Header, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let shape = self.shape;
        let request = Request::GetAttr { ino: ino(inode), handle: handle.map(u64::from) };
        self.ask(header, request, move |outcome| answer::attr("getattr", shape, reply, outcome));
    }

    fn setattr(
        &self,
        header: &Header,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(header);
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = Change { mode: mode.map(permissions), uid, gid, size, atime, mtime };
        // A change of owner clears set-id bits whoever makes it, a truncation that of an ordinary user.
        let strip = set.mode.is_none() && (uid.is_some() || gid.is_some() || (size.is_some() && caller.uid != 0));
        let shape = self.shape;
        let request = Request::SetAttr { ino: ino(inode), handle: handle.map(u64::from), set };
        self.dispatch.submit(caller, request, strip, move |outcome| answer::attr("setattr", shape, reply, outcome));
    }

    /// Permissions are the kernel's business (`default_permissions`), which then never asks.
    fn access(&self, _: &Header, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, header: &Header, _: INodeNo, reply: ReplyStatfs) {
        self.ask(header, Request::StatFs, move |outcome| answer::statfs("statfs", reply, outcome));
    }

    // ---- files ----

    fn create(&self, header: &Header, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let shape = self.shape;
        let (mode, how) = (permissions(mode), convert::how(flags));
        let request = Request::Create { parent: ino(parent), name: bytes(name), mode, how };
        self.ask(header, request, move |outcome| answer::created("create", shape, reply, outcome));
    }

    fn open(&self, header: &Header, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let how = convert::how(flags.0);
        let caller = caller(header);
        let strip = how.truncate && caller.uid != 0;
        let request = Request::Open { ino: ino(inode), how };
        self.dispatch.submit(caller, request, strip, move |outcome| answer::opened("open", reply, outcome));
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
        let request = Request::Read { ino: ino(inode), handle: handle.0, offset, len };
        self.ask(header, request, move |outcome| answer::data("read", reply, outcome));
    }

    fn write(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let append = convert::appends(flags, write_flags.contains(WriteFlags::FUSE_WRITE_CACHE));
        // The only copy: the session thread's buffer is reused for the next request.
        let data = Bytes::copy_from_slice(data);
        let request = Request::Write { ino: ino(inode), handle: handle.0, offset, data, append };
        let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.dispatch.submit(caller(header), request, strip, move |outcome| answer::written("write", reply, outcome));
    }

    fn flush(&self, header: &Header, inode: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let request = Request::Flush { ino: ino(inode), handle: handle.0 };
        self.ask(header, request, move |outcome| answer::empty("flush", reply, outcome));
    }

    fn release(
        &self,
        header: &Header,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let request = Request::Release { ino: ino(inode), handle: handle.0 };
        self.ask(header, request, move |outcome| answer::empty("release", reply, outcome));
    }

    fn fsync(&self, header: &Header, inode: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let request = Request::Sync { ino: ino(inode), handle: handle.0 };
        self.ask(header, request, move |outcome| answer::empty("fsync", reply, outcome));
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
        let request = Request::Allocate { ino: ino(inode), handle: handle.0, offset, len, keep_size, punch };
        let strip = caller.uid != 0;
        self.dispatch.submit(caller, request, strip, move |outcome| answer::empty("fallocate", reply, outcome));
    }

    fn lseek(&self, header: &Header, inode: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // Only these two reach us; the kernel does the others itself.
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let request = Request::Seek { ino: ino(inode), handle: handle.0, offset, data };
        self.ask(header, request, move |outcome| answer::offset("lseek", reply, outcome));
    }

    /// The kernel copies by itself then. Not ENOSYS: a later worker below the same mount may know better.
    fn copy_file_range(
        &self,
        _: &Header,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    // ---- directories ----

    fn opendir(&self, header: &Header, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let request = Request::OpenDir { ino: ino(inode) };
        self.ask(header, request, move |outcome| answer::opened("opendir", reply, outcome));
    }

    fn readdir(&self, header: &Header, inode: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let request = directory::request(ino(inode), handle.0, offset, directory::PLAIN_ENTRIES);
        self.ask(header, request, move |outcome| answer::listing("readdir", inode, offset, reply, outcome));
    }

    fn readdirplus(&self, header: &Header, inode: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let shape = self.shape;
        let request = directory::request(ino(inode), handle.0, offset, directory::PLUS_ENTRIES);
        let plus = move |outcome| answer::listing_plus("readdirplus", shape, inode, offset, reply, outcome);
        self.dispatch.submit_listing(caller(header), request, plus);
    }

    fn releasedir(&self, header: &Header, inode: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let request = Request::ReleaseDir { ino: ino(inode), handle: handle.0 };
        self.ask(header, request, move |outcome| answer::empty("releasedir", reply, outcome));
    }

    /// Changes of the namespace are durable when they are answered: nothing is left to do.
    fn fsyncdir(&self, _: &Header, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    // ---- extended attributes ----

    fn getxattr(&self, header: &Header, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if let Some(error) = xattr::refused(name.as_bytes(), true) {
            return reply.error(fail("getxattr", &error));
        }
        let request = Request::GetXattr { ino: ino(inode), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::value("getxattr", size, reply, outcome));
    }

    fn listxattr(&self, header: &Header, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let request = Request::ListXattr { ino: ino(inode) };
        self.ask(header, request, move |outcome| answer::value("listxattr", size, reply, outcome));
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
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        let request = Request::SetXattr { ino: ino(inode), name: bytes(name), value: value.to_vec(), create, replace };
        self.ask(header, request, move |outcome| answer::empty("setxattr", reply, outcome));
    }

    fn removexattr(&self, header: &Header, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some(error) = xattr::refused(name.as_bytes(), true) {
            return reply.error(fail("removexattr", &error));
        }
        let request = Request::RemoveXattr { ino: ino(inode), name: bytes(name) };
        self.ask(header, request, move |outcome| answer::empty("removexattr", reply, outcome));
    }

    // ---- not served ----

    /// Locks are asked of us (see `kernel`), so that they are never silently local to one member.
    fn getlk(&self, _: &Header, _: INodeNo, _: FileHandle, _: LockOwner, _: u64, _: u64, _: i32, _: u32, reply: ReplyLock) {
        reply.error(fail("getlk", &FsError::NoLocks("not yet".into())));
    }

    fn setlk(
        &self,
        _: &Header,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        kind: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // Nothing is ever locked, so unlocking succeeds.
        if kind == libc::F_UNLCK {
            return reply.ok();
        }
        reply.error(fail("setlk", &FsError::NoLocks("not yet".into())));
    }

    fn ioctl(&self, _: &Header, _: INodeNo, _: FileHandle, _: IoctlFlags, _: u32, _: &[u8], _: u32, reply: ReplyIoctl) {
        reply.error(Errno::ENOTTY);
    }

    /// There is no block device below: the kernel need not ask again.
    fn bmap(&self, _: &Header, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel answers "always ready" from then on, which is what poll(2) says of files.
    fn poll(&self, _: &Header, _: INodeNo, _: FileHandle, _: PollNotifier, _: PollEvents, _: PollFlags, reply: ReplyPoll) {
        reply.error(Errno::ENOSYS);
    }
}
