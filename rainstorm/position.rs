//! What a committed job epoch remembers, beside the outputs: enough for any leader to go on with the job.
//! Stored opaquely in the agreed job table, with a version in front.

use crate::earlier;
use crate::plan::{Input, NodeId, Pinned, Plan, Step};
use crate::rate::RateOrder;
use crate::scale::Scaled;
use crate::spec::Spec;
use crate::spec_tree::Fault;
use crate::tally::Tally;
use bytes::Bytes;
use hydfs_types::{Attempt, FrameError, Ino, JobInfo};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Positions of a job epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The spec's text, as it was read.
    pub spec: String,
    pub json: bool,
    /// In the spec's order, then the files that lines are joined with.
    pub sources: Vec<Pinned>,
    /// Pinned sources are cut into chunks of this size.
    pub chunk_bytes: u32,
    /// Per node, per task.
    pub tasks: Vec<Vec<TaskPosition>>,
    /// What `control` said about rates.
    pub rate: Option<RateOrder>,
    /// Numbers of tasks that are others than the spec's, by stage: `control` said so, or the job found out.
    pub counts: BTreeMap<String, u32>,
    /// Until the first job epoch of this plan is committed.
    pub border: Option<Border>,
    /// The last change of each stage whose number of tasks the job finds out.
    pub scaled: BTreeMap<String, Scaled>,
}

/// Where a plan begins: what the receipt has to say of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Border {
    /// For each node: the node of the plan before whose input it goes on with.
    pub goes_on: Vec<Option<NodeId>>,
    /// The savepoint that the job began from.
    pub savepoint: Option<String>,
}

/// Stands where the spec's text stood in the first version of positions, which it never is: the version follows.
const MARKER: u8 = 0;
const VERSION: u8 = 3;
/// It ends before `scaled`.
const VERSION_BEFORE: u8 = 2;

/// Most bytes of the positions that a job begins with or is changed to. A command of the agreed state, in which they travel with each commit,
/// takes 2 MiB: what is left is for files that are written, and for those that come later.
pub const POSITIONS_BYTES_MAX: usize = 3 << 19;

impl Positions {
    /// With its version.
    pub fn encode(&self) -> Bytes {
        hydfs_types::encode(&(MARKER, VERSION, self))
    }

    /// As a job epoch has them, of this version or an earlier one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        match bytes.get(2..4) {
            Some([MARKER, VERSION]) => {
                let (_, _, positions): (u8, u8, Self) = hydfs_types::decode(bytes)?;
                Ok(positions)
            }
            Some([MARKER, VERSION_BEFORE]) => {
                // The byte behind the end stands for none.
                let (_, _, positions): (u8, u8, Self) =
                    hydfs_types::decode(&[bytes, &[0]].concat())?;
                Ok(positions)
            }
            Some([MARKER, other]) => Err(FrameError::Malformed(format!(
                "positions of version {other}, {VERSION} is known here"
            ))),
            _ => earlier::decode(bytes),
        }
    }

    /// Why no job begins or goes on with them, if they are too large.
    pub fn too_large(&self) -> Option<String> {
        let bytes = self.encode().len();
        (bytes > POSITIONS_BYTES_MAX).then(|| {
            format!(
                "the job would have to remember {bytes} bytes with each job epoch, more than {POSITIONS_BYTES_MAX}: \
                 read fewer files, or files with shorter paths, or use fewer tasks"
            )
        })
    }

    /// Paths of all files of state.
    pub fn states(&self, info: &JobInfo) -> BTreeSet<String> {
        let nodes = (0..).zip(&self.tasks);
        let all = nodes.flat_map(|(node, tasks)| {
            let tasks = (0..).zip(tasks);
            tasks.flat_map(move |(task, position)| position.states(info, node, task))
        });
        all.map(|file| file.path).collect()
    }

    /// The spec, with the numbers of tasks that are in force.
    pub fn parse(&self) -> Result<Spec, Fault> {
        let mut spec = Spec::parse(&self.spec, self.json)?;
        for stage in &mut spec.stages {
            if let Some(&tasks) = self.counts.get(&stage.name) {
                stage.tasks = tasks;
            }
        }
        Ok(spec)
    }
}

/// Where one task stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskPosition {
    /// All its input is worked off and all its output passed on: it never runs again.
    pub ended: bool,
    /// Of a task that reads a pinned source: the chunks that it has still to read.
    pub shares: Vec<Share>,
    /// Of a followed source: the files that belong to the task.
    pub files: Vec<FilePosition>,
    /// Its own file of state.
    pub state: Option<StateFile>,
    /// Files that its state is in as well (of its keys, what they say), until it has written it anew.
    pub inherits: Vec<Inherited>,
}

impl TaskPosition {
    /// Of a task of a node, before anything was read.
    pub fn first(plan: &Plan, node: &Step, task: u32) -> Self {
        let whole = matches!(node.input, Input::Source(at) if !plan.sources[at].follow);
        let share = whole.then(|| Share::of_task(task, node.tasks));
        Self {
            shares: share.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Paths of its files of state, and how many bytes of each count.
    pub fn states(&self, info: &JobInfo, node: NodeId, task: u32) -> Vec<Inherited> {
        let own = self.state.map(|file| Inherited {
            path: file.path(info, node, task),
            bytes: file.bytes,
        });
        self.inherits.iter().cloned().chain(own).collect()
    }
}

/// Chunks of a pinned source: `next`, `next + step`, … below `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub next: u64,
    pub step: u64,
    /// `u64::MAX`: as many as there are.
    pub end: u64,
    /// The byte of its file where chunk `next` goes on; 0: it was not begun.
    pub at: u64,
}

impl Share {
    /// Task i of n reads the chunks i, i + n, i + 2n, ….
    pub fn of_task(task: u32, tasks: u32) -> Self {
        Self {
            next: task.into(),
            step: tasks.max(1).into(),
            end: u64::MAX,
            at: 0,
        }
    }
}

/// A committed prefix of a file of state that somebody else wrote: another task, another plan, a savepoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inherited {
    pub path: String,
    pub bytes: u64,
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

/// The attempt that wrote a state file of this name.
pub fn attempt_of(name: &str) -> Option<Attempt> {
    let attempt = name.rsplit('.').nth(1)?;
    attempt.parse().ok().map(Attempt)
}

/// Counters of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Bytes of state in the memory of tasks, and in scratch files.
    pub state_memory: u64,
    pub state_disk: u64,
    pub tally: Tally,
}

impl Progress {
    /// As a job epoch has it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        // Earlier versions end before the tally, or before what is said of state: bytes behind their end stand for none.
        let padded = |zeros: &[u8]| hydfs_types::decode(&[bytes, zeros].concat());
        hydfs_types::decode(bytes)
            .or_else(|_| padded(&[0; 3]))
            .or_else(|_| padded(&[0; 5]))
    }
}
