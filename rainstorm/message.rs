//! What members say to each other about jobs: heads of `Service::Streaming` frames. Enums grow at the end.

use crate::event_time::EventMark;
use crate::load::Load;
use crate::plan::NodeId;
use crate::position::{Positions, TaskPosition};
use crate::rate::Shares;
use crate::receipt::{Reads, Writes};
use crate::stateful::Held;
use hydfs_types::{Attempt, JobId, JobInfo, MemberId, Seq, WriterId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A task of a job: node and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    pub node: NodeId,
    pub task: u32,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.node, self.task)
    }
}

/// An attempt as its coordinator hands it out. `info.positions` and `info.progress` are left empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deploy {
    pub info: JobInfo,
    /// Where the attempt begins.
    pub positions: Positions,
    /// Per node, per task: the member that runs it.
    pub places: Vec<Vec<MemberId>>,
    /// The life of each of them. A member that started again never runs tasks of an attempt handed to its
    /// earlier life: their pushes and reports would repeat what others have taken already.
    pub lives: BTreeMap<MemberId, u64>,
    /// The life of the member that coordinates.
    pub coordinator: u64,
}

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Run the tasks of this attempt that are yours. Idempotent. Answer: `Done`, `Unknown` (deployed to an
    /// earlier life, or dropped since), `Over` or `Failed`.
    Deploy(Box<Deploy>),
    /// Let barrier `barrier` through and tell when all your tasks have passed it with everything durable.
    /// Also the sign of life of the coordinator. Answer: `Passed`, `Waiting`, `Unknown`, `Over` or `Failed`.
    Barrier {
        job: JobId,
        attempt: Attempt,
        barrier: u64,
        coordinator: u64,
    },
    /// Lines (the frame's body) or a barrier from one task to another. Idempotent by `seq`.
    /// Answer: `Done`, `Full` or `Unknown`.
    Push {
        job: JobId,
        attempt: Attempt,
        from: TaskId,
        to: TaskId,
        seq: u64,
        what: Push,
    },
    /// A spec was closed here; for the leader. Answer: `Done`.
    SpecClosed { path: String },
    /// Which life of the member is this? Answer: `Life`.
    Hello,
    /// From now on your tasks read so much, where they are named, and without a limit elsewhere. Idempotent, and repeated
    /// with each change. Answer: `Done`, `Unknown` or `Over`.
    Shares {
        job: JobId,
        attempt: Attempt,
        coordinator: u64,
        shares: Shares,
    },
}

/// What a push carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    /// The body: lines separated by `\n`.
    Lines,
    /// With the event watermark of its sender.
    Barrier {
        id: u64,
        last: bool,
        mark: EventMark,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Done,
    /// No room now; offer it again.
    Full,
    /// No such attempt here (yet, or any more).
    Unknown,
    /// A later attempt runs here, or this one has another coordinator.
    Over,
    /// Not yet; ask again.
    Waiting,
    Passed(Vec<Report>),
    Failed {
        /// Another attempt would fail alike.
        is_final: bool,
        why: String,
    },
    /// Not understood.
    Bad(String),
    Life(u64),
}

/// One task at one barrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub id: TaskId,
    pub position: TaskPosition,
    /// Durable through these seqs.
    pub watermarks: Vec<(WriterId, Seq)>,
    /// Since its report before.
    pub counters: Counters,
    /// Since its report before: what it read, and what it wrote to each of its step's sinks.
    pub reads: Vec<Reads>,
    pub writes: Vec<Writes>,
    /// SHA-256 of its executable.
    pub program: Option<String>,
    /// The files that it is given to read, each with the SHA-256 of its content.
    pub inputs: Vec<(String, String)>,
    /// Since its report before: what it wrote to each file of a sink that is a folder, by the sink's number.
    pub files: Vec<(u16, String, Writes)>,
    /// Since its report before.
    pub load: Load,
    /// Where its state is now.
    pub held: Held,
    /// Its event watermark.
    pub mark: EventMark,
}

/// Work of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    pub rows_in: u64,
    pub bytes_in: u64,
    pub rows_out: u64,
    pub retries: u64,
    /// Lines that became dead letters.
    pub dead: u64,
}
