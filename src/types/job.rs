//! Jobs as the agreed state knows them (R13). What positions and progress mean is RainStorm's alone.

use crate::{Attempt, Ino, JobEpoch, JobId, Seq, Time, WriterId};
use serde::{Deserialize, Serialize};

/// Life of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobPhase {
    Running,
    Paused,
    Done,
    Failed,
    Cancelled,
}

/// A job in the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    pub id: JobId,
    /// The spec's name without its ending.
    pub name: String,
    /// The spec's inode; with `generation` the identity of what was dropped.
    pub spec: Ino,
    /// Data version of the spec when it was read.
    pub generation: u64,
    /// Owner of the spec.
    pub uid: u32,
    pub gid: u32,
    pub phase: JobPhase,
    /// Words for a person: why it failed, what it waits for.
    pub message: String,
    pub attempt: Attempt,
    /// Last committed job epoch; 0 before the first.
    pub epoch: JobEpoch,
    /// Source positions and task states of that epoch, opaque.
    pub positions: Vec<u8>,
    /// Counters of that epoch, opaque.
    pub progress: Vec<u8>,
    pub started: Time,
    /// Time of the last change.
    pub changed: Time,
}

/// Commands on jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobCommand {
    /// Registers a job; answered with the existing one if (spec, generation) is known.
    Start {
        name: String,
        spec: Ino,
        generation: u64,
        uid: u32,
        gid: u32,
        phase: JobPhase,
        message: String,
    },
    /// Raises the attempt from `from` and fences the writers of older attempts at their watermarks.
    Restart {
        job: JobId,
        from: Attempt,
        why: String,
    },
    /// Makes a job epoch visible.
    Commit(JobCommit),
    /// Changes phase and message; writers are ended at their watermarks when the phase is an end.
    SetPhase {
        job: JobId,
        /// What is said of one attempt is refused once there is another.
        attempt: Option<Attempt>,
        phase: JobPhase,
        message: String,
    },
    /// Forgets a job that has ended.
    Forget { job: JobId },
    /// Another version of the spec, or of what was ordered, seen at attempt `from` in `phase`: refused at any other. With positions the job takes it: it goes on
    /// from them under the next attempt, the writers of older ones are fenced, and one that failed or was cancelled runs again.
    /// They were made from this job epoch, and refused unless it is still the last: whoever proposed them makes others.
    /// Without, only the spec's identity and the message change.
    Change {
        job: JobId,
        from: Attempt,
        phase: JobPhase,
        spec: Ino,
        generation: u64,
        positions: Option<(JobEpoch, Vec<u8>)>,
        /// Owner of the spec, for a job that takes it.
        uid: u32,
        gid: u32,
        message: String,
    },
}

/// One job epoch: refused unless attempt matches and `epoch` follows the last committed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCommit {
    pub job: JobId,
    pub attempt: Attempt,
    pub epoch: JobEpoch,
    /// Records of these writers up to these seqs become mergeable.
    pub watermarks: Vec<(WriterId, Seq)>,
    pub positions: Vec<u8>,
    pub progress: Vec<u8>,
    /// The last epoch: the job is done with it.
    pub done: bool,
}
