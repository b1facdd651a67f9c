//! The shapes of the agreed state. Plain data: `apply` changes it, everybody else reads it.

use crate::Quota;
use hydfs_types::{
    Applied, Attempt, Attr, BootId, ClusterId, Digest, Incarnation, Ino, JobId, JobInfo, Locks,
    LogIndex, MapVersion, MemberId, MemberInfo, Planted, SegmentId, SegmentVersion, Seq, SessionId,
    SlotConfig, SlotId, Time, WriterId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that the agreement group agrees on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Last entry applied.
    pub index: LogIndex,
    /// Time of the last command: strictly increasing.
    pub time: Time,
    pub cluster: Cluster,
    pub names: Namespace,
    pub jobs: BTreeMap<JobId, JobInfo>,
    pub next_job: u64,
    pub sessions: BTreeMap<SessionId, Session>,
    /// Files below a quota that the command in hand made shorter.
    #[serde(skip)]
    pub shrunk: BTreeSet<Ino>,
    /// A bug for the simulator to find, handed in like the clock; none of what is agreed.
    #[serde(skip)]
    pub planted: Option<Planted>,
}

/// Members, slots and settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// `None` before bootstrap.
    pub id: Option<ClusterId>,
    pub copies: u8,
    pub map: MapVersion,
    pub members: BTreeMap<MemberId, MemberInfo>,
    /// Incarnations that are admitted and not ended.
    pub alive: BTreeMap<Incarnation, MemberId>,
    /// One per slot once the first member is admitted.
    pub slots: BTreeMap<SlotId, SlotConfig>,
    pub settings: BTreeMap<String, String>,
    /// Every live incarnation, the latest of every member, and those that a slot config or a writer still names (R12).
    pub lives: BTreeMap<Incarnation, Life>,
    /// Next id to issue; 0 stands for 1 (here and in the other counters).
    pub next_member: u64,
    pub next_incarnation: u64,
}

/// What stays known of an incarnation after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub member: MemberId,
    /// Boot of the machine when it was admitted: after another one its page cache is gone.
    pub boot: BootId,
    /// Start count of the data folder when it was first admitted.
    pub started: u64,
    /// Its latest admission, resumes included.
    pub admitted: LogIndex,
}

/// Inodes, segments and writers (shard 0).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    pub inodes: BTreeMap<Ino, Inode>,
    pub segments: BTreeMap<SegmentId, Segment>,
    pub writers: BTreeMap<WriterId, Writer>,
    /// Segments per slot, for repair.
    pub by_slot: BTreeMap<SlotId, BTreeSet<SegmentId>>,
    /// Unlinked files that somebody may still hold open.
    pub orphans: BTreeSet<Ino>,
    /// Advisory locks; files without one are not in it.
    pub locks: BTreeMap<Ino, Locks>,
    /// Bytes held by all files (`attr.stored`).
    pub bytes: u64,
    /// Directories with a quota.
    pub quotas: u64,
    pub next_ino: u64,
    pub next_segment: u64,
    pub next_writer: u64,
}

/// An inode. `attr.size` and `attr.mtime` of a file are exact while it is clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inode {
    pub attr: Attr,
    /// Raised with each change of content or size, past a mark where the file became shorter (`was_cut`).
    pub data_version: u64,
    /// SHA-256 of the path or (parent, name) at creation: where its segments stand on the ring.
    pub key: Digest,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
    /// Where it is named: (directory, cookie of the entry). Empty for the root and for orphans.
    pub names: BTreeSet<(Ino, u64)>,
    /// Unlinked: incarnations that may still hold it open. Data goes when it is empty.
    pub orphan: Option<BTreeSet<Incarnation>>,
}

/// What an inode is, besides its attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    File(FileBody),
    Directory(DirectoryBody),
    Symlink(Vec<u8>),
    Special,
}

/// A regular file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileBody {
    /// Segments by the file offset where they begin. Between them, and past the last, are holes.
    pub segments: BTreeMap<u64, SegmentId>,
    /// The size is at least this (grown by truncate).
    pub size_min: u64,
    /// Live writers.
    pub writers: BTreeSet<WriterId>,
    /// Fenced writers whose owners have not read yet what became of them (R5): such a one may have answered writes that go
    /// on under another writer (R10).
    pub unread: BTreeSet<WriterId>,
    /// Of all its writers.
    pub room: u64,
}

/// A directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DirectoryBody {
    pub parent: Ino,
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// Names by cookie: a stable order for readdir.
    pub order: BTreeMap<u64, Vec<u8>>,
    pub next_cookie: u64,
    pub quota: Option<Quota>,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub ino: Ino,
    pub cookie: u64,
}

/// A segment. Clean when no writer of its file is live and `ended` and `fenced` are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    pub ino: Ino,
    /// File offset where it begins.
    pub start: u64,
    pub slot: SlotId,
    pub version: SegmentVersion,
    pub len: u64,
    pub digest: Digest,
    /// Appends of writers that are older than this one are void here unless the base has them: each filling of the
    /// segment ends them for all that write to it, also when it takes appends again.
    pub appends_from: WriterId,
    /// Per writer the last seq that is in the base; writers that are gone are dropped from it.
    pub through: BTreeMap<WriterId, Seq>,
    /// Writers that closed cleanly with records here that are not in the base yet: their last seq.
    pub ended: BTreeMap<WriterId, Seq>,
    /// Fenced writers whose end here is not fixed yet; the next merge that was listed at a map at or past the fence fixes it.
    pub fenced: BTreeSet<WriterId>,
    /// Lengths that were set without a prepare since the last merge, in order. Replicas that all lost power before their
    /// disks had them make them again from here. Whoever prepared a merge has all before it on disk.
    pub lengths: Vec<LengthSet>,
}

/// No writer is as new as that.
const NOBODY: WriterId = WriterId(u64::MAX);

impl Segment {
    /// Whether it takes no more appends.
    pub fn is_full(&self) -> bool {
        self.appends_from == NOBODY
    }

    /// Whether an append of this writer may still get into the base.
    pub fn takes_appends_of(&self, writer: WriterId) -> bool {
        writer >= self.appends_from
    }

    pub(crate) fn set_full(&mut self) {
        self.appends_from = NOBODY;
    }
}

/// A segment was cut or grown without a round to its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthSet {
    /// The version that it made.
    pub version: SegmentVersion,
    pub len: u64,
    /// Digest of that version.
    pub digest: Digest,
    /// Records that it made void: of each writer all up to this one.
    pub dropped: Vec<(WriterId, Seq)>,
}

/// A writer. It stays while it is live, while a segment of its file waits for it, and while its owner may want to read
/// where a fence ended it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Writer {
    pub ino: Ino,
    pub incarnation: Incarnation,
    pub job: Option<JobWriter>,
    pub phase: WriterPhase,
    /// The file's time was set after records up to this seq: merging them does not move it.
    pub timed: Seq,
    /// It was fenced, and its owner has read what became of its records.
    pub read: bool,
    /// Bytes of quotas that it was promised (`quota.rs`).
    pub room: u64,
}

/// What makes a writer transactional.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JobWriter {
    pub job: JobId,
    pub attempt: Attempt,
    /// Records up to here are committed; those above are invisible.
    pub watermark: Seq,
}

/// Life of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriterPhase {
    Open,
    /// Everything up to `last` was acknowledged.
    Closed {
        last: Seq,
    },
    /// Ended by an expire (or a job restart) at this index. Records up to the merge that fixes it, or the watermark, count.
    Fenced {
        at: LogIndex,
    },
}

/// Answers that a client may ask for again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub incarnation: Incarnation,
    pub answers: BTreeMap<u64, Applied>,
    pub done_through: u64,
}

/// What a command changed, for those who follow the state on this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Members, liveness or settings changed.
    Members,
    /// Configs of these slots changed.
    Slots(Vec<SlotId>),
    /// An entry appeared, changed or went.
    Entry {
        parent: Ino,
        name: Vec<u8>,
    },
    /// Attributes changed.
    Inode(Ino),
    /// An access control list changed, the one of the inode or what it passes on.
    Acl(Ino),
    /// Content or size changed.
    Data(Ino),
    /// Somebody who waits for a lock on this file may try again.
    Unlocked(Ino),
    /// A writer became live on this file, or ended.
    Writers(Ino),
    /// A segment has a new version.
    Cut {
        segment: SegmentId,
        slot: SlotId,
        version: SegmentVersion,
        how: Cut,
    },
    /// A segment and everything pending in it is gone.
    Retired {
        segment: SegmentId,
        slot: SlotId,
    },
    /// A file lost its last name; members without it open should release it.
    Orphan(Ino),
    /// An inode is gone.
    Gone(Ino),
    Job(JobId),
    /// The whole state was replaced by a snapshot.
    Replaced,
}

/// How a segment got its new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// As every synced replica has prepared: find the list by (segment, base version, digest).
    Prepared { digest: Digest },
    /// All records of this lane up to `last`, in order of seq.
    Sole {
        writer: WriterId,
        last: Seq,
        digest: Digest,
    },
    /// Cut or grown to `len` without merging; pending records of `dropped` writers up to the seq are gone.
    SetLen {
        len: u64,
        dropped: Vec<(WriterId, Seq)>,
        digest: Digest,
    },
}
