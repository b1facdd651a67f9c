//! Commands of the agreed state and their answers. Each names the shards it touches by its parent inodes.
//! Enums only grow at the end.

use crate::{
    Admission, Admitted, Attempt, Attr, ClusterId, Digest, FileKind, Incarnation, Ino, JobCommand,
    JobId, Lock, LogIndex, MapVersion, SegmentId, SegmentVersion, Seq, SessionId, SlotChange,
    SlotEpoch, SlotId, Time, WriterId,
};
use serde::{Deserialize, Serialize};

/// A command with its identity: answered from a window, never applied twice (R15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub session: SessionId,
    /// From 1; 0 where there is no session (admission, bootstrap), whose commands are idempotent by content.
    pub seq: u64,
    /// Every answer up to here has been received: the window forgets them.
    pub done_through: u64,
    /// Whoever asks; refused if it has ended. `Incarnation(0)` where there is none yet.
    pub incarnation: Incarnation,
    /// Start count of the process that asks: refused once a later one of the same incarnation is admitted. 0 with
    /// `Incarnation(0)`.
    pub start: u64,
    /// Stamped by the leader; the state makes it strictly increasing.
    pub time: Time,
    pub command: Command,
}

/// A change of the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    // ---- cluster ----
    /// First command of a cluster; later ones are refused. The first member is admitted by its own `Admit`.
    Bootstrap {
        cluster: ClusterId,
        copies: u8,
    },
    Admit(Admission),
    /// Ends everything these incarnations held: writers, opens, slot places (R1).
    Expire {
        incarnations: Vec<Incarnation>,
        why: String,
    },
    /// A clean stop: as `Expire`, by the incarnation itself. `forever`: the member leaves the cluster.
    /// `kept`: the member has the agreement log on disk up to here, if it says so itself.
    Leave {
        incarnation: Incarnation,
        forever: bool,
        kept: LogIndex,
    },
    /// Compare-and-swap of slot configs (R2). Refused whole if one does not match.
    Configure {
        changes: Vec<SlotChange>,
    },
    /// Learners that hold everything become synced. Each is a compare-and-swap; stale ones are skipped and not answered.
    Promote {
        learners: Vec<(SlotId, SlotEpoch, Incarnation)>,
    },
    /// Cluster-wide settings (`suspicion = on|off`, …).
    Set {
        key: String,
        value: String,
    },
    MarkFull {
        incarnation: Incarnation,
        full: bool,
    },

    // ---- namespace ----
    /// Makes an inode and its entry. With `grant`, a regular file gets a writer for that incarnation and its first segment in the same command.
    Create {
        parent: Ino,
        name: Vec<u8>,
        kind: FileKind,
        mode: u16,
        uid: u32,
        gid: u32,
        rdev: u32,
        target: Vec<u8>,
        grant: Option<Incarnation>,
        /// Bits that the mode loses, unless the directory has a default access control list.
        umask: u16,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Vec<u8>,
    },
    /// Removes an entry; `dir` as for rmdir.
    Unlink {
        parent: Ino,
        name: Vec<u8>,
        dir: bool,
    },
    Rename {
        parent: Ino,
        name: Vec<u8>,
        to_parent: Ino,
        to_name: Vec<u8>,
        no_replace: bool,
        exchange: bool,
    },
    SetAttr {
        ino: Ino,
        set: SetAttr,
    },
    SetXattr {
        ino: Ino,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: SetXattrMode,
    },
    RemoveXattr {
        ino: Ino,
        name: Vec<u8>,
    },
    /// This incarnation holds none of these unlinked inodes open (any more).
    ReleaseOrphans {
        incarnation: Incarnation,
        inos: Vec<Ino>,
    },

    // ---- files ----
    /// Makes this incarnation a writer of the file (or finds the writer it has) and makes the file dirty (R9).
    Grant {
        ino: Ino,
        incarnation: Incarnation,
        job: Option<(JobId, Attempt)>,
    },
    /// Adds segments that begin at these offsets, where none covers them yet.
    Extend {
        ino: Ino,
        starts: Vec<u64>,
    },
    /// Ends writers; the file is clean again when nothing of theirs is pending. For a writer that was fenced it says that
    /// its owner has read what became of its records: until then that is kept (R5).
    End {
        ends: Vec<WriterEnd>,
    },
    /// Makes cuts final (R6): one command for many segments, each answered for itself.
    Merge {
        incarnation: Incarnation,
        items: Vec<MergeItem>,
    },
    /// Sets the size where no other writer lives: the fast path of truncate. `sole`: the caller's own writer and its last seq sent.
    /// Refused `Busy` if another writer is live, `Changed` if `versions` of the segments at or past `size` differ.
    /// Unless `size` is 0 the caller has first merged (a look) what it has pending in the segment that `size` falls into.
    Truncate {
        ino: Ino,
        size: u64,
        sole: Option<(WriterId, Seq)>,
        versions: Vec<(SegmentId, SegmentVersion)>,
    },

    // ---- jobs ----
    Job(JobCommand),
    /// Ends a writer whose last seq nobody can say, by its owner: records of it are lost to a truncate while others are on
    /// their way. As with an expire, the first merge listed after it fixes its end.
    Fence {
        writer: WriterId,
    },

    // ---- cluster ----
    /// Has the copies of a member moved to others, and its vote; or takes that back. The member goes on to serve.
    Drain {
        incarnation: Incarnation,
        on: bool,
    },

    // ---- locks ----
    /// Takes an advisory lock, or refuses with `Locked`: nobody waits in the agreed state.
    Lock {
        ino: Ino,
        incarnation: Incarnation,
        lock: Lock,
    },
    /// Gives back what an owner holds from the first to the last byte.
    Unlock {
        ino: Ino,
        incarnation: Incarnation,
        owner: u64,
        start: u64,
        end: u64,
    },

    // ---- cluster ----
    /// As `Admit`, by a worker that takes a living mount over from the one before: the locks of its incarnation stay, and
    /// what became of the records that were in flight is kept until it says that it knows (R5).
    TakeOver(Admission),

    // ---- namespace ----
    /// As `SetAttr`, for a user. What depends on the attributes that are agreed then is decided when it is applied, not by
    /// what the kernel of some mount had.
    SetAttrAs {
        ino: Ino,
        set: SetAttr,
        /// Refused `NotPermitted` unless it owns the inode; `None`: the owner's right is not needed.
        owner: Option<u32>,
        /// Set-id bits go as Linux clears them, unless a mode is set.
        clear_set_id: bool,
    },

    // ---- files ----
    /// As `Truncate`, where the file is shorter than `size`. Else it changes nothing.
    Grow {
        ino: Ino,
        size: u64,
        sole: Option<(WriterId, Seq)>,
        versions: Vec<(SegmentId, SegmentVersion)>,
    },

    // ---- quotas ----
    /// Sets a limit of what is below a directory, or takes it away.
    SetQuota {
        dir: Ino,
        limit: Limit,
        most: Option<u64>,
    },
    /// Promises a writer so many bytes of the quotas that its file is below, and up to `spare` more. `instead_of`: an ended
    /// writer of the same file gives its room up for that. Refused `OverQuota`; `Changed` where the writer has ended.
    Reserve {
        writer: WriterId,
        bytes: u64,
        spare: u64,
        instead_of: Option<WriterId>,
    },
    /// Ends the writers that have room below the quotas of this file: somebody was refused, and they may not need all of it.
    Reclaim {
        ino: Ino,
    },

    // ---- namespace ----
    /// Sets an access control list, and the mode along with it.
    SetAcl {
        ino: Ino,
        /// A directory's for what is made in it, else the one of the inode itself.
        default: bool,
        /// As the kernel writes it (`ACL_ACCESS`). Empty: there is none any more, and the mode stays.
        list: Vec<u8>,
        /// Refused `NotPermitted` unless it owns the inode; `None`: the owner's right is not needed.
        owner: Option<u32>,
        set_gid: SetGid,
    },
    /// As `Unlink`, for a user: refused `NotPermitted` where the directory is sticky and `caller` owns neither it nor what
    /// goes. Both owners are those that are agreed when it is applied.
    UnlinkAs {
        parent: Ino,
        name: Vec<u8>,
        dir: bool,
        caller: u32,
    },
    /// As `Rename`, for a user: refused in the same way, for what moves and for what is replaced.
    RenameAs {
        parent: Ino,
        name: Vec<u8>,
        to_parent: Ino,
        to_name: Vec<u8>,
        no_replace: bool,
        exchange: bool,
        caller: u32,
    },
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    Bytes,
    Inodes,
}

/// Where set-group-id outlives a change of rights, by whoever makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetGid {
    Anywhere,
    /// On inodes of this group.
    OfGroup(u32),
    Nowhere,
}

/// Wanted attribute changes; `None` leaves as is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetAttr {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    /// atime/mtime to the command's own time.
    pub atime_now: bool,
    pub mtime_now: bool,
    /// With mtime: records of the caller's own writer up to this seq were written before; merging them leaves the time alone.
    pub settled: Option<(WriterId, Seq)>,
}

/// As setxattr(2)'s flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetXattrMode {
    Any,
    Create,
    Replace,
}

/// The end of one writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterEnd {
    pub writer: WriterId,
    /// Its last seq, every record up to it acknowledged.
    pub last: Seq,
    /// Segments that hold records of it.
    pub touched: Vec<Touched>,
    /// The time of its last write, if it wrote.
    pub mtime: Option<Time>,
}

/// What an ending writer left in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    pub segment: SegmentId,
    /// The writer was alone and its records are durable everywhere: they become the next version without a prepare.
    /// Ignored (the records stay pending) unless the base version matches and no other writer has anything pending or live.
    pub cut: Option<SegmentCut>,
}

/// A new base of a segment. `digest = SHA-256(previous digest ‖ op, offset, len, crc of each record in order)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCut {
    pub base: SegmentVersion,
    pub digest: Digest,
    /// Bytes of the segment after the cut.
    pub len: u64,
}

/// What a merge does besides (R6, R8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    Nothing,
    /// No more appends here; the next segment begins at this one's end.
    Full,
    /// The segment is cut to or grows to this length after the cut.
    SetLen(u64),
    /// The segment and what is pending in it are gone.
    Retire,
    /// The segment grows to this length after the cut, if it is shorter. The file's size never shrinks by it.
    Grow(u64),
}

/// A prepared cut of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeItem {
    pub segment: SegmentId,
    pub slot_epoch: SlotEpoch,
    /// Map version at which the slot leader listed: refused if a writer in it was fenced since.
    pub map: MapVersion,
    /// Per writer the last seq that is in the base now; everything of that lane up to it.
    pub through: Vec<(WriterId, Seq)>,
    /// The latest time of the records that this adds.
    pub time: Time,
    pub cut: SegmentCut,
    /// Fixes the end of fenced writers of which nothing or no more is left.
    pub then: Then,
}

/// Answer to one merge item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MergeOutcome {
    Merged(SegmentVersion),
    /// Nothing changed; list again.
    Refused,
}

/// A new inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    pub attr: Attr,
    pub grant: Option<Granted>,
}

/// A writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub writer: WriterId,
    /// False if the incarnation already had this writer.
    pub new: bool,
}

/// An answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Admitted(Admitted),
    Promoted(Vec<SlotId>),
    Created(Created),
    Attr(Attr),
    Granted(Granted),
    Merged(Vec<MergeOutcome>),
    Job(JobId),
    /// Bytes of room that were promised.
    Reserved(u64),
}

/// A reply with the entry it was decided at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub index: LogIndex,
    pub reply: Result<Reply, CommandError>,
}

/// Why the state machine refused a command. Deterministic, and never changes anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CommandError {
    #[error("no such file or directory")]
    NotFound,
    #[error("it exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory is not empty")]
    NotEmpty,
    #[error("name is longer than 255 bytes")]
    NameTooLong,
    #[error("too many links")]
    TooManyLinks,
    #[error("a directory cannot move into itself, and the name or value must be valid: {0}")]
    Invalid(String),
    #[error("not permitted: {0}")]
    NotPermitted(String),
    #[error("no such attribute")]
    NoAttribute,
    #[error("attributes of this inode are over the limit")]
    NoSpace,
    #[error("inode {0} is gone")]
    Stale(Ino),
    #[error("another writer is live")]
    Busy,
    #[error("changed meanwhile")]
    Changed,
    #[error("incarnation {0} has ended")]
    Ended(Incarnation),
    #[error("the cluster exists already")]
    Bootstrapped,
    #[error("admission refused: {0}")]
    Admission(String),
    #[error("the answer of this retry is no longer known")]
    WindowPassed,
    #[error("no such job, or it has ended")]
    NoJob,
    #[error("somebody else holds a lock there")]
    Locked,
    #[error("there are too many locks on this file")]
    TooManyLocks,
    #[error("it is needed where it is: {0}")]
    InUse(String),
    #[error("the quota is used up: {0}")]
    OverQuota(String),
    #[error("it is below another quota")]
    CrossesQuota,
    #[error("permission denied")]
    Denied,
}
