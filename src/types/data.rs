//! Messages of the data plane. Each carries slot epoch and map version: a replica that is behind catches up first,
//! one that is asked at an older epoch refuses (R3). Payloads travel in the frame's body, records back to back.

use crate::{
    Digest, Incarnation, Ino, MapVersion, RecordHead, Run, SegmentId, SegmentVersion, Seq,
    SlotConfig, SlotEpoch, SlotId, Then, Time, WriterId,
};
use serde::{Deserialize, Serialize};

/// A request to a replica or slot leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataRequest {
    Append(Append),
    /// Makes everything this replica has received so far durable.
    Sync {
        slot: SlotId,
        epoch: SlotEpoch,
        map: MapVersion,
    },
    Prepare(Prepare),
    /// R7: asks the slot leader to make everything eligible readable.
    Look(Look),
    /// R8: asks the slot leader to merge under a fence, then cut or retire.
    Cutoff(Cutoff),
    ReadBase(ReadBase),
    /// Records of these runs, as far as this replica has them.
    Fetch {
        segment: SegmentId,
        runs: Vec<Run>,
    },
    PullSlots(PullSlots),
    /// The learner holds everything that its pulls named: the slot leader, which has sent it every prepare since, proposes the promotion.
    Promote {
        map: MapVersion,
        from: Incarnation,
        slots: Vec<(SlotId, SlotEpoch)>,
    },
    /// What the replica has pending in a segment: (records, bytes). For status only.
    Pending {
        segments: Vec<SegmentId>,
    },
    /// Segments that this member holds on disk. For `ls` and `store`: the truth, not the plan.
    Holdings,
    /// Asks the slot leader how long segments are with everything eligible, without making it readable: for `stat`.
    Peek(Look),
    /// Checksums of a synced replica's base, block by block, for comparison with another's.
    Sums(ReadSums),
    /// As `ReadBase`, for a learner: the source serves it at the pace of repair, and says `Overloaded` where that would take long.
    PullBase(ReadBase),
    /// R10: asks the member of these writers of a file for what it has answered early. It answers once every acting
    /// replica has that, and these writers answer nothing early any more.
    Recall {
        ino: Ino,
        writers: Vec<WriterId>,
    },
}

/// Records of one writer for one segment, `prev` chained; answered cumulatively per lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    pub slot: SlotId,
    pub epoch: SlotEpoch,
    pub map: MapVersion,
    pub from: Incarnation,
    /// All of one writer and one segment, in order of seq.
    pub records: Vec<RecordHead>,
    /// Everything of this lane up to here is acknowledged: a fresh learner's lane starts after it.
    pub acked_through: Seq,
    /// Answer only when durable.
    pub durable: bool,
}

/// What the replica has of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendReply {
    pub received: Seq,
    pub durable: Seq,
}

/// A wanted cut (R6 b).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    pub slot: SlotId,
    pub epoch: SlotEpoch,
    pub map: MapVersion,
    pub from: Incarnation,
    pub segment: SegmentId,
    pub base: SegmentVersion,
    pub base_digest: Digest,
    /// The order of the cut.
    pub runs: Vec<Run>,
    pub digest: Digest,
    pub len: u64,
    pub then: Then,
}

/// See [`DataRequest::Look`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub slot: SlotId,
    pub epoch: SlotEpoch,
    pub map: MapVersion,
    pub segments: Vec<SegmentId>,
}

/// See [`DataRequest::Cutoff`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutoff {
    pub slot: SlotId,
    pub epoch: SlotEpoch,
    pub map: MapVersion,
    pub segment: SegmentId,
    /// The version that it is about: at any other it is refused, so that one that comes twice, or late, does nothing.
    pub base: SegmentVersion,
    pub then: Then,
}

/// Version and length that hold everything acknowledged before the look, and the log index that made them final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub segment: SegmentId,
    pub version: SegmentVersion,
    pub len: u64,
    /// The agreement log has this cut at or before this index.
    pub index: u64,
}

/// How long a segment is with everything eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    pub segment: SegmentId,
    /// The version that the pending records are on top of.
    pub version: SegmentVersion,
    /// `None`: not only appends are pending, so the content changes and a look must tell.
    pub len: Option<u64>,
    /// Of the newest pending record that no set time has settled.
    pub time: Option<Time>,
    /// The agreement log has this version at or before this index.
    pub index: u64,
}

/// Bytes of a base at or past `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBase {
    pub slot: SlotId,
    pub epoch: SlotEpoch,
    pub map: MapVersion,
    pub segment: SegmentId,
    pub version: SegmentVersion,
    pub offset: u64,
    pub len: u32,
}

/// See [`DataRequest::Sums`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSums {
    pub slot: SlotId,
    pub map: MapVersion,
    pub segment: SegmentId,
}

/// A learner asks the slot leader what the slots hold (R11). From then on, at this epoch, the slot leader sends it every
/// prepare and needs its answer; merges that run are waited for first. Bases and payloads are fetched after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSlots {
    pub map: MapVersion,
    pub from: Incarnation,
    pub slots: Vec<(SlotId, SlotEpoch)>,
}

/// One slot of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledSlot {
    pub slot: SlotId,
    pub segments: Vec<PulledSegment>,
}

/// One segment of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledSegment {
    pub segment: SegmentId,
    pub version: SegmentVersion,
    pub len: u64,
    pub digest: Digest,
    /// In the source's journal order.
    pub pending: Vec<RecordHead>,
}

/// A fetched record's head; payloads follow in the body in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedRecord {
    pub head: RecordHead,
}

/// An answer of a replica or slot leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataResponse {
    Appended(AppendReply),
    Synced,
    Prepared,
    Promoted(Vec<SlotId>),
    Looked(Vec<Looked>),
    CutOff(Looked),
    /// The bytes are in the body; fewer than asked at the base's end.
    Bytes {
        version: SegmentVersion,
        len: u64,
    },
    Fetched(Vec<FetchedRecord>),
    Pulled(Vec<PulledSlot>),
    Pending(Vec<(SegmentId, u64, u64)>),
    Holdings(Vec<(SegmentId, SegmentVersion, u64)>),
    Refused(Refusal),
    Peeked(Vec<Peeked>),
    /// CRC-32C of each 64 KiB of the base, at this version and length.
    Sums {
        version: SegmentVersion,
        len: u64,
        sums: Vec<u32>,
    },
    /// The same of a base that went through a power loss and was not compared with another since: it decides nothing.
    DoubtedSums {
        version: SegmentVersion,
        len: u64,
        sums: Vec<u32>,
    },
    Recalled,
}

/// Why a replica refuses. None of them has stored anything of the request, except records before a `Gap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("slot is at epoch {}", .0.epoch)]
    StaleEpoch(SlotConfig),
    /// Could not reach the named map version in time.
    #[error("replica is behind the map")]
    Behind,
    #[error("not an acting replica of this slot")]
    NotActing,
    #[error("not the slot's leader")]
    NotLeader,
    #[error("writer {0} is not open")]
    WriterEnded(WriterId),
    #[error("segment {0} is retired")]
    Retired(SegmentId),
    /// Appends go on in the next segment.
    #[error("segment {0} takes no more appends")]
    Full(SegmentId),
    #[error("segment {0} is fenced for a moment")]
    Fenced(SegmentId),
    #[error("records after {have} are missing here")]
    Gap { have: Seq },
    /// Another payload under the same identity: never stored, always reported.
    #[error("record {writer}/{seq} came with another checksum")]
    Mismatch { writer: WriterId, seq: Seq },
    #[error("no space left on the replica's disk")]
    NoSpace,
    #[error("damaged or unreadable data on the replica: {0}")]
    Damaged(String),
    #[error("too much in flight")]
    Overloaded,
    #[error("malformed request: {0}")]
    Malformed(String),
    /// It may come through yet.
    #[error("the merge did not come through: {0}")]
    NoMerge(String),
    #[error("the segment is at {0} by now")]
    Moved(SegmentVersion),
    /// What was answered early could not be sent yet.
    #[error("what was answered early is not on its replicas yet: {0}")]
    NotSent(String),
    /// It takes nothing any more, and leaves or is expired.
    #[error("the replica's disk failed: {0}")]
    DiskFailed(String),
}
