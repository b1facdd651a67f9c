//! The file-system seam: what the FUSE adapter asks of whatever it mounts. One request enum and one answer
//! enum, so that every call passes one door (deadline, counters, log) and implementations match exhaustively.

use bytes::Bytes;
use hydfs_types::{Attr, BoxFuture, DirEntry, FileKind, Ino, Time};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// An open file or directory of one mount. Handles encode nothing: the adapter hands them out.
pub type Handle = u64;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Lookup { parent: Ino, name: Vec<u8> },
    /// The kernel forgot this inode.
    Forget { ino: Ino },
    GetAttr { ino: Ino, handle: Option<Handle> },
    SetAttr { ino: Ino, handle: Option<Handle>, set: Change },
    ReadLink { ino: Ino },
    /// Mkdir, mknod and symlink in one; `target` is for symlinks.
    Make { parent: Ino, name: Vec<u8>, kind: FileKind, mode: u16, rdev: u32, target: Vec<u8> },
    Link { ino: Ino, parent: Ino, name: Vec<u8> },
    Unlink { parent: Ino, name: Vec<u8> },
    RemoveDir { parent: Ino, name: Vec<u8> },
    Rename { parent: Ino, name: Vec<u8>, to_parent: Ino, to_name: Vec<u8>, no_replace: bool, exchange: bool },
    /// Opens an existing file.
    Open { ino: Ino, how: How },
    /// Makes (or, without `how.exclusive`, opens) a regular file: `Answer::Created`.
    Create { parent: Ino, name: Vec<u8>, mode: u16, how: How },
    Read { ino: Ino, handle: Handle, offset: u64, len: u32 },
    /// `append` is the descriptor's O_APPEND at this write: the offset is then meaningless.
    Write { ino: Ino, handle: Handle, offset: u64, data: Bytes, append: bool },
    /// A descriptor was closed (there may be others): all that was written is received by every replica, or an error.
    Flush { ino: Ino, handle: Handle },
    /// The last descriptor is gone.
    Release { ino: Ino, handle: Handle },
    /// Everything written to this file so far, by this mount, is on disk on every replica.
    Sync { ino: Ino, handle: Handle },
    OpenDir { ino: Ino },
    /// Entries after `cookie` (0 is the start), as many as fit `limit` entries. `.` and `..` are the adapter's.
    ReadDir { ino: Ino, handle: Handle, cookie: u64, limit: usize },
    ReleaseDir { ino: Ino, handle: Handle },
    StatFs,
    GetXattr { ino: Ino, name: Vec<u8> },
    ListXattr { ino: Ino },
    SetXattr { ino: Ino, name: Vec<u8>, value: Vec<u8>, create: bool, replace: bool },
    RemoveXattr { ino: Ino, name: Vec<u8> },
    /// fallocate: zeroes or reserves. `keep_size`, `punch` as in fallocate(2).
    Allocate { ino: Ino, handle: Handle, offset: u64, len: u64, keep_size: bool, punch: bool },
    /// lseek with SEEK_DATA (`data`) or SEEK_HOLE.
    Seek { ino: Ino, handle: Handle, offset: u64, data: bool },
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
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub handle: Handle,
    /// No page cache: synthetic files.
    pub direct: bool,
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
    #[error("file too large")]
    TooLarge,
    #[error("stale file handle")]
    Stale,
    #[error("bad handle")]
    BadHandle,
    #[error("not supported here: {0}")]
    NotSupported(String),
    #[error("locks are not served: {0}")]
    NoLocks(String),
    #[error("past the end of data")]
    NoData,
    #[error("argument list or value too long")]
    TooBig,
    #[error("too much in flight")]
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

/// What a mount needs from a file system. Implementations bound every wait by their own deadline.
pub trait FileSystem: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, caller: Caller, request: Request) -> BoxFuture<'static, Result<Answer, FsError>>;
    /// The answer where it is in memory and needs no wait: called on the session thread (saves two context switches).
    fn call_now(&self, _caller: Caller, _request: &Request) -> Option<Result<Answer, FsError>> {
        None
    }
}

/// What a file system may tell the kernel of its mount: something changed elsewhere.
/// Called from a thread that serves no request.
pub trait KernelCache: Send + Sync + 'static {
    /// Data and attributes of this inode changed.
    fn invalidate_inode(&self, ino: Ino);
    /// This entry changed or is gone.
    fn invalidate_entry(&self, parent: Ino, name: &[u8]);
}
