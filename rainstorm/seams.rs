//! What RainStorm needs from the world: a file system (`Storage`) and the other members (`Cluster`).
//!
//! Both are small on purpose. Production implements them over the file system in-process (never over the
//! mount); the tests implement them in memory. RainStorm knows nothing of segments, slots or replicas.
//! Paths begin with `/`, the file system's root, and never contain `..`.

use bytes::Bytes;
use hydfs_types::{
    AgreementError, Attempt, BoxFuture, FileKind, Frame, Ino, JobCommand, JobId, JobInfo, JobPhase,
    LogIndex, MemberId, Reply, Seq, WriterId,
};
use std::time::Duration;
use tokio::sync::watch;

/// On whose behalf a job reads and writes: the owner of its spec. Permissions are checked as for that user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// RainStorm itself: specs, folders of jobs, state files.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// An entry of a directory, or the answer to `stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// The name is UTF-8; else it shows about what it is, and no call finds it.
    pub is_text: bool,
    pub ino: Ino,
    pub kind: FileKind,
    /// Raised with each change of content or size.
    pub generation: u64,
    /// Bytes; of a file that is being written, at least what is merged.
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    /// A writer is live: the content may still grow.
    pub busy: bool,
}

/// A file pinned at one content: everything acknowledged or committed before the call, merged.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    pub ino: Ino,
    pub generation: u64,
    /// Bytes; reads never go past it, however much the file grows.
    pub len: u64,
}

/// One transactional writer of one file: what it appends becomes visible only through
/// `JobCommand::Commit`, up to the seq named there, and not at all if its attempt ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    pub id: WriterId,
    pub ino: Ino,
}

/// Why the file system did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error("{0}: no such file or directory")]
    NotFound(String),
    #[error("{0}: permission denied for the owner of the spec")]
    Denied(String),
    #[error("{0}: not of the needed kind, or too large")]
    Invalid(String),
    /// The pinned bytes were overwritten or truncated away since.
    #[error("{0}: changed since it was pinned")]
    Changed(String),
    /// The writer's attempt or this member's incarnation has ended.
    #[error("the writer has ended")]
    Ended,
    /// No answer within the deadline, effect unknown. A sink that answered so is not used again by its attempt.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
}

impl StorageError {
    /// Whether a new attempt of the job may fare better.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Ended | Self::Unavailable(_))
    }
}

/// Answer of [`Storage`].
pub type StorageResult<T> = Result<T, StorageError>;

/// The file system. Every call has a deadline of its own inside (at most 30 s) and then answers `Unavailable`.
pub trait Storage: Send + Sync + 'static {
    /// Entries of a directory.
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StorageResult<Vec<Entry>>>;
    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, StorageResult<Entry>>;
    /// Which of these inodes have a name, as of now or later: one without is gone, and never comes back.
    fn named<'a>(&'a self, inos: &'a [Ino]) -> BoxFuture<'a, StorageResult<Vec<bool>>>;
    /// Merges what is pending and fixes the content as of now. Needs read permission.
    fn pin<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<Source>>;
    /// Up to `len` bytes at `offset`; fewer only at the pinned end. `Changed` if those bytes are gone.
    fn read<'a>(
        &'a self,
        source: &'a Source,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'a, StorageResult<Bytes>>;
    /// A whole file of at most `limit` bytes, merged; `Invalid` if it is larger.
    fn read_small<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        limit: usize,
    ) -> BoxFuture<'a, StorageResult<Bytes>>;
    /// `Denied` unless `owner` may write this file or make files in this folder, or make it if it is missing. Makes nothing.
    fn may_write<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<()>>;
    /// Makes a directory and its parents; those that exist are fine.
    fn make_dir<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<()>>;
    /// A new writer of this attempt on a file, which is made (with its parents, owned by `owner`) if missing.
    /// `Ended` if the job's attempt is another one.
    fn open_sink<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        job: JobId,
        attempt: Attempt,
    ) -> BoxFuture<'a, StorageResult<Sink>>;
    /// Appends one record of at most 1 MiB and returns its seq once all acting replicas have received it.
    /// Callers append to one sink one at a time; order is kept.
    fn append<'a>(&'a self, sink: &'a Sink, payload: Bytes) -> BoxFuture<'a, StorageResult<Seq>>;
    /// Returns once every record of the sink up to `seq` is on disk on all acting replicas.
    fn durable<'a>(&'a self, sink: &'a Sink, seq: Seq) -> BoxFuture<'a, StorageResult<()>>;
    /// Frees what this member keeps for the sink. Changes nothing agreed: a writer of a job ends with its
    /// attempt, by `Restart`, `SetPhase` or the last `Commit`.
    fn close_sink(&self, sink: Sink) -> BoxFuture<'_, ()>;
    /// Appends a record of at most 1 MiB to a file that `owner` may write, visible at once, outside any job epoch. Made if
    /// missing. All acting replicas have received it then.
    fn append_visible<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        record: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>>;
    /// Appends text to the file with this inode, visible at once, outside any job epoch. `NotFound` if it has no name any more.
    fn append_to<'a>(
        &'a self,
        ino: Ino,
        owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>>;
    /// Appends text to an ordinary file (a job's log), visible at once, outside any job epoch. Made if missing.
    fn append_text<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>>;
    /// Removes a file, if `only` is given then only that inode. A missing or other file is fine.
    fn remove<'a>(&'a self, path: &'a str, only: Option<Ino>) -> BoxFuture<'a, StorageResult<()>>;
}

/// Why a member gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer from {to}: {why}")]
pub struct CallError {
    pub to: MemberId,
    pub why: String,
}

/// The other members and the agreed job table.
pub trait Cluster: Send + Sync + 'static {
    fn me(&self) -> MemberId;
    /// Members whose incarnation lives, in order of id, with their names.
    fn members(&self) -> Vec<(MemberId, String)>;
    /// One call of `Service::Streaming`, answered by the peer's [`crate::Rainstorm::serve`].
    fn call(
        &self,
        to: MemberId,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, CallError>>;
    /// The leader of the agreement group as far as known. It names *this* member only while [`Cluster::jobs`]
    /// holds everything that was committed before it became leader.
    fn leader(&self) -> watch::Receiver<Option<MemberId>>;
    /// The agreed job table as this member has it.
    fn jobs(&self) -> Vec<JobInfo>;
    /// One job of it. Asked often: implement it without copying the table.
    fn job(&self, id: JobId) -> Option<JobInfo> {
        self.jobs().into_iter().find(|job| job.id == id)
    }
    /// The jobs of it whose phase is `Running`. Asked often, as `job`.
    fn jobs_running(&self) -> Vec<JobInfo> {
        self.jobs()
            .into_iter()
            .filter(|job| job.phase == JobPhase::Running)
            .collect()
    }
    /// Changes whenever the job table or the set of living members did.
    fn changes(&self) -> watch::Receiver<LogIndex>;
    /// Proposes a command (retried inside under one identity) and returns once it is applied here too.
    fn propose(&self, command: JobCommand) -> BoxFuture<'_, Result<Reply, AgreementError>>;
}
