//! What the FUSE operations (`operations`) work on: the door to the file system and how attributes are shown.

use crate::{
    Caller, FileSystem, Request, ServeConfig,
    answer::{self, Reply, Shape},
    catch_up::CatchingUp,
    convert::ino,
    directory,
    dispatch::Dispatch,
    listings::LISTED,
    notify::Kernel,
};
use fuser::{
    FileHandle, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, Request as Header,
};
use hydfs_types::{Attr, DirEntry, FileKind};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc, time::Duration};
use tokio::runtime::Handle as Runtime;

/// Serves any `FileSystem` to the kernel.
pub(crate) struct Adapter {
    pub dispatch: Arc<Dispatch>,
    pub shape: Shape,
    pub kernel: Arc<Kernel>,
    /// Longest wait for a lock.
    pub lock_timeout: Duration,
}

impl Adapter {
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        runtime: Runtime,
        config: &ServeConfig,
        kernel: Arc<Kernel>,
    ) -> Self {
        let catching_up = CatchingUp::new(match config.offer {
            Some(_) => config.threads.max(1),
            None => 0,
        });
        let shape = Shape {
            attr_ttl: config.attr_ttl,
            entry_ttl: config.entry_ttl,
            block_bytes: config.block_bytes,
        };
        Self {
            dispatch: Arc::new(Dispatch::new(
                fs,
                runtime,
                config.in_flight,
                config.op_timeout,
                catching_up,
            )),
            shape,
            kernel,
            lock_timeout: config.lock_timeout,
        }
    }

    pub(crate) fn ask(&self, header: &Header, request: Request, reply: impl Reply) {
        match &request {
            Request::Make { parent, .. }
            | Request::Link { parent, .. }
            | Request::Unlink { parent, .. }
            | Request::RemoveDir { parent, .. } => self.kernel.changes(*parent),
            Request::Rename {
                parent, to_parent, ..
            } => {
                self.kernel.changes(*parent);
                self.kernel.changes(*to_parent);
            }
            _ => {}
        }
        self.dispatch.submit(caller(header), request, false, reply);
    }

    pub(crate) fn list(
        &self,
        header: &Header,
        dir: INodeNo,
        handle: FileHandle,
        from: u64,
        reply: ReplyDirectory,
    ) {
        self.kernel.listed(handle.0);
        let request = directory::request(ino(dir), handle.0, from);
        self.ask(
            header,
            request,
            answer::listing("readdir", dir, from, reply),
        );
    }

    /// The same with attributes. What the kernel may keep of it is asked right before the answer goes out.
    pub(crate) fn list_plus(
        &self,
        header: &Header,
        dir: INodeNo,
        handle: FileHandle,
        from: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.kernel.listed(handle.0);
        let request = directory::request_plus(ino(dir), handle.0, from);
        let (fs, kernel) = (self.dispatch.file_system(), self.kernel.clone());
        let keep = move |entries: &[(DirEntry, Option<Attr>)]| {
            kernel.listing(ino(dir), handle.0, || {
                fs.keep_listed(ino(dir), entries, LISTED)
            })
        };
        let plus = answer::listing_plus("readdirplus", self.shape, keep, dir, from, reply);
        self.dispatch.submit_listing(caller(header), request, plus);
    }

    pub(crate) fn make(
        &self,
        header: &Header,
        parent: INodeNo,
        name: &OsStr,
        node: Node,
        reply: ReplyEntry,
    ) {
        let Node {
            operation,
            kind,
            mode,
            umask,
            rdev,
            target,
        } = node;
        let (mode, umask) = (permissions(mode), permissions(umask));
        let request = Request::Make {
            parent: ino(parent),
            name: bytes(name),
            kind,
            mode,
            umask,
            rdev,
            target,
        };
        self.ask(header, request, answer::entry(operation, self.shape, reply));
    }
}

/// What `make` makes.
pub(crate) struct Node {
    pub operation: &'static str,
    pub kind: FileKind,
    pub mode: u32,
    pub umask: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
}

pub(crate) fn caller(header: &Header) -> Caller {
    Caller {
        uid: header.uid(),
        gid: header.gid(),
        pid: header.pid(),
        unique: header.unique().0,
    }
}

pub(crate) fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Permission bits of a mode; 12 bits always fit.
pub(crate) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}
