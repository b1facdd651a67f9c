//! The vocabulary of HyDFS: ids, wire frames, agreed commands, data-plane messages and the seams
//! (network, disk clock, agreement) that every other crate is written against.
//!
//! This crate decides nothing and does no I/O. One concept, one word: see `docs/ARCHITECTURE.md`.

mod agreement;
mod clock;
mod command;
mod data;
mod digest;
mod file;
mod frame;
#[cfg(test)]
mod garbage_tests;
mod ids;
mod job;
mod lock;
mod member;
mod net;
mod planted;
mod record;
mod slot;
pub mod suspend;

pub use agreement::{Agreement, AgreementError, AppliedWatch, CommandIdentity};
pub use clock::{Clock, SystemClock, Time};
pub use command::{
    Applied, Command, CommandError, Created, Envelope, Granted, Limit, MergeItem, MergeOutcome,
    Reply, SegmentCut, SetAttr, SetGid, SetXattrMode, Then, Touched, WriterEnd,
};
pub use data::{
    Append, AppendReply, Cutoff, DataRequest, DataResponse, FetchedRecord, Look, Looked, Peeked,
    Prepare, PullSlots, PulledSegment, PulledSlot, ReadBase, ReadSums, Refusal,
};
pub use file::{
    ACL_ACCESS, ACL_BYTES_MAX, ACL_DEFAULT, Attr, DirEntry, FileKind, JOBS_DIR, NAME_BYTES_MAX,
    SYMLINK_BYTES_MAX, XATTR_BYTES_MAX,
};
pub use frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEAD_BYTES_MAX, Frame, FrameError, PROTOCOL_MAX, PROTOCOL_MIN,
    Service, decode, encode,
};
pub use ids::{
    Attempt, BootId, ClusterId, Digest, Incarnation, Ino, JobEpoch, JobId, LogIndex, MapVersion,
    MemberId, ROOT_INO, SegmentId, SegmentVersion, Seq, SessionId, SlotEpoch, SlotId, StorageId,
    WriterId,
};
pub use job::{JobCommand, JobCommit, JobInfo, JobPhase};
pub use lock::{HeldLock, Lock, Locks};
pub use member::{Admission, Admitted, MemberInfo};
pub use net::{BoxFuture, Handler, Net, NetError, Peer};
pub use planted::Planted;
pub use record::{Op, PAYLOAD_BYTES_MAX, Record, RecordHead, Run, SEGMENT_BYTES};
pub use slot::{Acting, SLOTS, SlotChange, SlotConfig};
