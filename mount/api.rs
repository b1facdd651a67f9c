//! The file-system seam: what the FUSE adapter asks of whatever it mounts. One request enum and one answer
//! enum, so that every call passes one door (deadline, counters, log) and implementations match exhaustively.

use bytes::Bytes;
use hydfs_types::{Attr, BoxFuture, DirEntry, FileKind, Ino, Lock, ROOT_INO, Time};
use std::time::Duration;
use tokio::time::Instant;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// The kernel's number of the request, the same when it is sent again to another worker. 0: it never will be.
    pub unique: u64,
}

/// An open file or directory of one mount: issued by the file system in `Opened`, handed back as it is.
pub type Handle = u64;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Lookup {
        parent: Ino,
        name: Vec<u8>,
    },
    /// The kernel dropped this inode. Advice only: a lookup that is being answered may bring it back.
    Forget {
        ino: Ino,
    },
    GetAttr {
        ino: Ino,
        handle: Option<Handle>,
    },
    /// Set-id bits: the adapter asks for `clear_set_id` where Linux clears them (write, truncate, chown, allocate).
    SetAttr {
        ino: Ino,
        handle: Option<Handle>,
        set: Change,
    },
    ReadLink {
        ino: Ino,
    },
    /// Mkdir, mknod and symlink in one; `target` is for symlinks. `umask`: bits that the mode loses, here and in `Create`,
    /// where the directory has no default access control list; symlinks lose none.
    Make {
        parent: Ino,
        name: Vec<u8>,
        kind: FileKind,
        mode: u16,
        umask: u16,
        rdev: u32,
        target: Vec<u8>,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Vec<u8>,
    },
    Unlink {
        parent: Ino,
        name: Vec<u8>,
    },
    RemoveDir {
        parent: Ino,
        name: Vec<u8>,
    },
    Rename {
        parent: Ino,
        name: Vec<u8>,
        to_parent: Ino,
        to_name: Vec<u8>,
        no_replace: bool,
        exchange: bool,
    },
    /// Opens an existing file.
    Open {
        ino: Ino,
        how: How,
    },
    /// Makes (or, without `how.exclusive`, opens) a regular file: `Answer::Created`.
    Create {
        parent: Ino,
        name: Vec<u8>,
        mode: u16,
        umask: u16,
        how: How,
    },
    Read {
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    },
    /// `append` is the descriptor's O_APPEND at this write: the offset is then meaningless. `sync`: it is on disk before the
    /// answer, by the descriptor's flags or by those of this one write.
    Write {
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: Bytes,
        append: bool,
        sync: bool,
    },
    /// A descriptor was closed (there may be others): all that was written is received by every replica, or an error.
    /// And the locks of this owner on the file end.
    Flush {
        ino: Ino,
        handle: Handle,
        owner: Option<u64>,
    },
    /// The last descriptor is gone, and with it the locks that were taken through it.
    Release {
        ino: Ino,
        handle: Handle,
    },
    /// Everything written to this file so far, by this mount, is on disk on every replica.
    Sync {
        ino: Ino,
        handle: Handle,
    },
    /// Directories that are open at the same time have different handles.
    OpenDir {
        ino: Ino,
    },
    /// Entries after `cookie` (0 is the start), as many as fit `limit` entries. `.` and `..` are the adapter's.
    /// Cookies of entries lie in 1..=COOKIE_MAX. `attrs`: each with its attributes as `Lookup` would give them, where they
    /// are at hand; the adapter asks for those that are missing.
    ReadDir {
        ino: Ino,
        handle: Handle,
        cookie: u64,
        limit: usize,
        attrs: bool,
    },
    ReleaseDir {
        ino: Ino,
        handle: Handle,
    },
    StatFs,
    GetXattr {
        ino: Ino,
        name: Vec<u8>,
    },
    ListXattr {
        ino: Ino,
    },
    SetXattr {
        ino: Ino,
        name: Vec<u8>,
        value: Vec<u8>,
        create: bool,
        replace: bool,
    },
    RemoveXattr {
        ino: Ino,
        name: Vec<u8>,
    },
    /// fallocate: `punch` makes the range read as zeros, else room is reserved and content stays. Without `keep_size` the
    /// size grows to the range's end (so FALLOC_FL_ZERO_RANGE is `punch` without `keep_size`).
    Allocate {
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u64,
        keep_size: bool,
        punch: bool,
    },
    /// F_GETLK: the first lock in the way of this one, `Answer::Lock`.
    GetLock {
        ino: Ino,
        lock: Lock,
    },
    /// F_SETLK, F_SETLKW and flock(2): takes a lock; with `wait` it waits that long for others, then fails with
    /// `TimedOut`, without it fails with `TryAgain` at once. (EINTR would be the word for the first, but the kernel makes
    /// ERESTARTSYS of it, which callers without a signal then see as error 512.)
    SetLock {
        ino: Ino,
        handle: Handle,
        lock: Lock,
        wait: Option<Duration>,
    },
    /// Gives back what the owner holds from the first to the last byte.
    Unlock {
        ino: Ino,
        owner: u64,
        start: u64,
        end: u64,
    },
    /// copy_file_range: up to `len` bytes from one open file to another, or within one where the ranges do not meet.
    /// `Answer::Written` says how many; fewer than asked for is no error, 0 is the source's end. `NotSupported` makes the
    /// kernel read and write instead.
    Copy {
        from: Ino,
        from_handle: Handle,
        from_offset: u64,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u64,
    },
    /// poll(2): whether a read would find something, `Answer::Ready`. `wake`: by what number to tell the kernel of it later
    /// ([`KernelCache::wake`]), if somebody waits; it is the open file's, the same each time.
    Poll {
        ino: Ino,
        handle: Handle,
        wake: Option<u64>,
    },
    /// lseek with SEEK_DATA (`data`) or SEEK_HOLE. `NotSupported` makes the adapter answer as for a file without holes.
    Seek {
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: bool,
    },
}

/// Largest cookie of a directory entry: the kernel's directory offsets are signed, and two are the adapter's.
pub const COOKIE_MAX: u64 = i64::MAX as u64 - 2;

impl Request {
    /// What it is about, for messages: an inode, or a name in a directory.
    pub fn about(&self) -> (Ino, Option<&[u8]>) {
        match self {
            Self::Lookup { parent, name }
            | Self::Make { parent, name, .. }
            | Self::Link { parent, name, .. }
            | Self::Unlink { parent, name }
            | Self::RemoveDir { parent, name }
            | Self::Rename { parent, name, .. }
            | Self::Create { parent, name, .. } => (*parent, Some(name)),
            Self::Forget { ino }
            | Self::GetAttr { ino, .. }
            | Self::SetAttr { ino, .. }
            | Self::ReadLink { ino }
            | Self::Open { ino, .. }
            | Self::Read { ino, .. }
            | Self::Write { ino, .. }
            | Self::Flush { ino, .. }
            | Self::Release { ino, .. }
            | Self::Sync { ino, .. }
            | Self::OpenDir { ino }
            | Self::ReadDir { ino, .. }
            | Self::ReleaseDir { ino, .. }
            | Self::GetXattr { ino, .. }
            | Self::ListXattr { ino }
            | Self::SetXattr { ino, .. }
            | Self::RemoveXattr { ino, .. }
            | Self::Allocate { ino, .. }
            | Self::Copy { ino, .. }
            | Self::GetLock { ino, .. }
            | Self::SetLock { ino, .. }
            | Self::Unlock { ino, .. }
            | Self::Poll { ino, .. }
            | Self::Seek { ino, .. } => (*ino, None),
            Self::StatFs => (ROOT_INO, None),
        }
    }

    /// The operation's name, for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "lookup",
            Self::Forget { .. } => "forget",
            Self::GetAttr { .. } => "getattr",
            Self::SetAttr { .. } => "setattr",
            Self::ReadLink { .. } => "readlink",
            Self::Make { .. } => "make",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::RemoveDir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Open { .. } => "open",
            Self::Create { .. } => "create",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush { .. } => "flush",
            Self::Release { .. } => "release",
            Self::Sync { .. } => "fsync",
            Self::OpenDir { .. } => "opendir",
            Self::ReadDir { attrs: false, .. } => "readdir",
            Self::ReadDir { attrs: true, .. } => "readdirplus",
            Self::ReleaseDir { .. } => "releasedir",
            Self::StatFs => "statfs",
            Self::GetXattr { .. } => "getxattr",
            Self::ListXattr { .. } => "listxattr",
            Self::SetXattr { .. } => "setxattr",
            Self::RemoveXattr { .. } => "removexattr",
            Self::Allocate { .. } => "fallocate",
            Self::GetLock { .. } => "getlk",
            Self::SetLock { .. } | Self::Unlock { .. } => "setlk",
            Self::Copy { .. } => "copy_file_range",
            Self::Poll { .. } => "poll",
            Self::Seek { .. } => "lseek",
        }
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    pub exclusive: bool,
    /// O_SYNC or O_DSYNC: each write answers only when durable.
    pub sync: bool,
}

/// Wanted attributes; `None` leaves as is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Without `mode`: the set-id bits go that the file has then (`Attr::mode_without_set_id`). Nothing changes if there
    /// are none.
    pub clear_set_id: bool,
}

/// A wanted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Time),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Attr(Attr),
    Target(Vec<u8>),
    Opened(Opened),
    Created(Attr, Opened),
    Data(Bytes),
    Written(u32),
    Entries(Vec<(DirEntry, Option<Attr>)>),
    Value(Vec<u8>),
    Names(Vec<Vec<u8>>),
    StatFs(StatFs),
    Offset(u64),
    Ready(bool),
    Lock(Option<Lock>),
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub handle: Handle,
    /// No page cache: synthetic files, and whatever others may change at any time.
    pub direct: bool,
    /// Programs may map it shared. A kernel that cannot do that without its page cache (before 6.6) gets to use it.
    pub mappable: bool,
    /// The pages that the kernel still has are good.
    pub keep_cache: bool,
}

/// As statvfs(3), in blocks of `block` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    pub block: u32,
    pub blocks: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u32,
}

/// Why a request failed. Only this crate maps it to errno (`errno.rs`, one exhaustive match).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("in use: {0}")]
    InUse(String),
    #[error("name too long")]
    NameTooLong,
    #[error("too many links")]
    TooManyLinks,
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("operation not permitted: {0}")]
    NotPermitted(String),
    #[error("permission denied")]
    Denied,
    #[error("no such extended attribute")]
    NoAttribute,
    #[error("no space left: {0}")]
    NoSpace(String),
    /// EDQUOT.
    #[error("over quota: {0}")]
    OverQuota(String),
    /// EXDEV: programs copy instead.
    #[error("it is below another quota")]
    CrossesDevice,
    #[error("file too large")]
    TooLarge,
    #[error("stale file handle")]
    Stale,
    #[error("bad handle")]
    BadHandle,
    #[error("too many open files on this mount")]
    TooManyOpen,
    #[error("not supported here: {0}")]
    NotSupported(String),
    #[error("locks are not served: {0}")]
    NoLocks(String),
    #[error("past the end of data")]
    NoData,
    #[error("argument list or value too long")]
    TooBig,
    #[error("too much in flight, or locked")]
    TryAgain,
    /// No majority: nothing can be agreed (EROFS for writes).
    #[error("read only for now: {0}")]
    ReadOnly(String),
    /// The members that are needed cannot be reached (EHOSTUNREACH).
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("timed out: {0}")]
    TimedOut(String),
    /// Damaged data only.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// How long the kernel may keep an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    pub attr: Duration,
    pub entry: Duration,
}

/// What a mount needs from a file system. Implementations bound every wait by their own deadline.
pub trait FileSystem: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, caller: Caller, request: Request)
    -> BoxFuture<'static, Result<Answer, FsError>>;
    /// A request failed in the end, or had no answer in time; for whoever keeps account of that.
    fn failed(&self, _operation: &'static str, _about: (Ino, Option<&[u8]>), _error: &FsError) {}
    /// How long the kernel may keep what it was answered: attributes, and the entry (directory, name) where they were
    /// looked up by name. Asked right before the answer goes out; from then on, and as long as it may be kept, whoever
    /// changes it tells the kernel ([`KernelCache`]).
    fn keep(&self, _entry: Option<(Ino, &[u8])>, _attr: &Attr) -> Keep {
        Keep::default()
    }
    /// The same for the entries of a listing, one time for entry and attributes of each, `most` at most. An empty answer
    /// keeps none.
    fn keep_listed(
        &self,
        _dir: Ino,
        _entries: &[(DirEntry, Option<Attr>)],
        _most: Duration,
    ) -> Vec<Duration> {
        Vec::new()
    }
    /// Whether a file may carry set-id bits that go when somebody writes to it. Asked before each write of an ordinary user,
    /// and of no effect on what others change meanwhile: false only if it carried none at some moment of the call.
    fn may_have_set_id(&self, _ino: Ino) -> bool {
        true
    }
    /// The kernel has asked for this; for whoever counts.
    fn asked(&self, _operation: &'static str) {}
    /// The kernel has sent this request. Called on the session thread, before it reads the next one.
    fn arrived(&self, _unique: u64) {}
    /// The kernel has its reply to this request: it will not be sent again.
    fn replied(&self, _unique: u64) {}
    /// The mount was taken over, and every request that the kernel sends again has been.
    fn caught_up(&self) {}
    /// The answer where it is in memory and needs no wait: called on the session thread (saves two context switches).
    fn call_now(&self, _caller: Caller, _request: &Request) -> Option<Result<Answer, FsError>> {
        None
    }
}

/// What a file system may tell the kernel of its mount: something changed. The notices go out by themselves.
pub trait KernelCache: Send + Sync + 'static {
    /// Content of this inode changed: its pages go. Resolves when they have gone. Never wait for it while a read or write of
    /// this inode is held back: the kernel may need the answer first.
    fn invalidate_pages(&self, ino: Ino) -> BoxFuture<'static, ()>;
    /// The attributes of this inode changed, which the kernel was given last at `given`.
    fn invalidate_attr(&self, ino: Ino, given: Instant);
    /// The access control lists of this inode changed, or it is not known which of them the kernel has.
    fn forget_acls(&self, ino: Ino);
    /// Whether that is on its way still. The kernel must not be let keep attributes of the inode meanwhile: it would go on to
    /// use the lists that it has.
    fn forgets_acls(&self, ino: Ino) -> bool;
    /// Entries changed, of this directory or of any: the kernel looks all that it keeps up again.
    fn invalidate_entries(&self, dir: Option<Ino>);
    /// Whether the kernel can do that (Linux 6.16). Otherwise it must keep no entries: it forgets a single one only when
    /// it gets the lock of the directory, which a request of this mount may hold.
    fn keeps_entries(&self) -> bool;
    /// Whoever polls this open file asks again.
    fn wake(&self, poller: u64);
    /// Resolves when the kernel uses no attributes and no entries any more that were invalidated before this call. That
    /// waits for no request.
    fn settled(&self) -> BoxFuture<'static, ()>;
}
