//! What the attempts of jobs come to, moment by moment, for whoever watches: a simulation ends members at the one that it wants.

use crate::message::TaskId;
use crate::plan::NodeId;
use hydfs_types::{Attempt, JobEpoch, JobId, MemberId};
use std::fmt;
use std::sync::Arc;

/// A moment of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// Coordinator: its tasks go to these members, a row for each stage.
    Placed(Vec<Vec<MemberId>>),
    /// Coordinator: all of these members have their tasks.
    HandedOut,
    /// A task that reads a source lets a barrier in.
    LetIn { barrier: u64, task: (NodeId, u32) },
    /// A task has passed a barrier, and all it wrote before is durable.
    Reported { barrier: u64, task: (NodeId, u32) },
    /// Coordinator: every task has reported.
    Passed { barrier: u64 },
    /// Coordinator: the commit of a job epoch is asked for.
    Proposed(JobEpoch),
    /// Coordinator: it is agreed.
    Committed(JobEpoch),
}

/// Whose moment it is, and of which attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub job: JobId,
    pub attempt: Attempt,
    pub by: MemberId,
    pub moment: Moment,
}

/// Is told of each moment as it comes; it never waits.
#[derive(Clone)]
pub struct Onlooker(Arc<dyn Fn(Seen) + Send + Sync>);

impl Onlooker {
    pub fn new(told: impl Fn(Seen) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, seen: Seen) {
        (self.0)(seen);
    }
}

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Onlooker")
    }
}

/// As moments name a task.
pub(crate) fn task_of(id: TaskId) -> (NodeId, u32) {
    (id.node, id.task)
}
