//! What the attempts of jobs come to, moment by moment, for whoever watches: a simulation ends members at the one that it
//! wants, and tests of real processes follow the log for it (`--log info,rainstorm::moment=debug`).

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

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Stages are divided by /, the members of their tasks by commas.
            Self::Placed(rows) => {
                f.write_str("placed ")?;
                for (at, row) in rows.iter().enumerate() {
                    f.write_str(if at > 0 { "/" } else { "" })?;
                    for (at, member) in row.iter().enumerate() {
                        write!(f, "{}{member}", if at > 0 { "," } else { "" })?;
                    }
                }
                Ok(())
            }
            Self::HandedOut => f.write_str("handed-out"),
            Self::LetIn { barrier, task } => write!(f, "let-in {barrier} {}-{}", task.0, task.1),
            Self::Reported { barrier, task } => {
                write!(f, "reported {barrier} {}-{}", task.0, task.1)
            }
            Self::Passed { barrier } => write!(f, "passed {barrier}"),
            Self::Proposed(epoch) => write!(f, "proposed {epoch}"),
            Self::Committed(epoch) => write!(f, "committed {epoch}"),
        }
    }
}

impl Seen {
    /// Tells the log and who looks on, if anybody does.
    pub(crate) fn tell(self, onlooker: Option<&Onlooker>) {
        tracing::debug!(job = %self.job, attempt = self.attempt.0, moment = %self.moment);
        if let Some(onlooker) = onlooker {
            (onlooker.0)(self);
        }
    }
}

/// Is told of each moment as it comes; it never waits.
#[derive(Clone)]
pub struct Onlooker(Arc<dyn Fn(Seen) + Send + Sync>);

impl Onlooker {
    pub fn new(told: impl Fn(Seen) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
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
