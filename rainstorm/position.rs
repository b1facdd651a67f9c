//! What a committed job epoch remembers, beside the outputs: enough for any leader to go on with the job.
//! Stored opaquely in the agreed job table, with a version in front (`hydfs_types::encode`).

use crate::plan::{NodeId, Pinned};
use crate::rate::RateOrder;
use hydfs_types::{Attempt, FrameError, Ino, JobInfo};
use serde::{Deserialize, Serialize};

/// Positions of a job epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The spec's text: edits of the file never touch a job that runs.
    pub spec: String,
    pub json: bool,
    /// In the spec's order, then the files that lines are joined with.
    pub sources: Vec<Pinned>,
    /// Sources are cut into chunks of this size; task i of n reads the chunks i, i + n, ….
    pub chunk_bytes: u32,
    /// Per node, per task.
    pub tasks: Vec<Vec<TaskPosition>>,
    /// What `control` said about rates. Earlier versions end before it.
    pub rate: Option<RateOrder>,
}

impl Positions {
    /// As a job epoch has them. What an earlier version wrote lacks `rate`: the byte behind it stands for none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        hydfs_types::decode(&[bytes, &[0]].concat())
    }
}

/// Where one task stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskPosition {
    /// Next chunk to read, of a task that reads a source.
    pub chunk: u64,
    /// All its input is worked off and all its output passed on: it never runs again.
    pub ended: bool,
    pub state: Option<StateFile>,
    /// Of a followed source: the files that belong to the task. Of another: where its next chunk goes on, if part of it was
    /// passed on.
    pub files: Vec<FilePosition>,
}

/// How far a followed file has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    pub ino: Ino,
    /// When reading began: a file that was overwritten since is not the same.
    pub generation: u64,
    /// Next byte to read.
    pub at: u64,
}

/// A committed prefix of a state file. Each file has one writer ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    pub attempt: Attempt,
    /// Counts the files of one task in one attempt.
    pub number: u32,
    pub bytes: u64,
}

impl FilePosition {
    /// Of no file.
    pub const NONE: Self = Self {
        ino: Ino(0),
        generation: 0,
        at: 0,
    };
}

impl StateFile {
    /// Its path in the folder of job `info`.
    pub fn path(&self, info: &JobInfo, node: NodeId, task: u32) -> String {
        format!(
            "{}{node}-{task}.{}.{}",
            state_prefix(info),
            self.attempt.0,
            self.number
        )
    }
}

/// What the paths of a job's state files begin with.
pub fn state_prefix(info: &JobInfo) -> String {
    format!("/.jobs/{}/state/{}-", info.name, info.id.0)
}

/// Counters of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Lines and bytes read from sources.
    pub rows_in: u64,
    pub bytes_in: u64,
    /// Bytes of all sources.
    pub bytes_total: u64,
    /// Lines written to sinks.
    pub rows_out: u64,
    /// Batches of executables run again after a failure.
    pub retries: u64,
    pub tasks: u32,
    pub tasks_ended: u32,
    /// Lines on which executables failed for good.
    pub dead: u64,
}
