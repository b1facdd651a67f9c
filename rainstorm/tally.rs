//! What each task of a job has done, and what it does with its time: added up by the coordinator from what tasks report at
//! barriers, committed with the counters of each job epoch, shown by `progress` and `status.json`.
//!
//! Some twenty bytes a task travel with a commit; nothing is measured for them that a task would not measure anyway.

use crate::load::{Sum, percent};
use crate::message::{Report, TaskId};
use crate::plan::{NodeId, Plan};
use crate::position::{Positions, Share, TaskPosition};
use crate::{reader, shares};
use hydfs_types::{Attempt, MemberId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A look at what tasks do takes at least so long.
const LOOK: Duration = Duration::from_secs(1);

/// All tasks of a job, by node. Empty before the first job epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub nodes: Vec<NodeTally>,
    /// The attempt that the last look was in, if there was one in it.
    pub attempt: Attempt,
    /// How long the last look took, in milliseconds.
    pub look_ms: u64,
}

/// The tasks of a node of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTally {
    /// Its stage, and behind a point its part where a stage has several.
    pub name: String,
    /// The nodes that it feeds.
    pub next: Vec<NodeId>,
    pub tasks: Vec<TaskTally>,
}

/// One task. What it has done counts from the begin of the job, or from when the number of its stage's tasks was last changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskTally {
    pub member: MemberId,
    pub ended: bool,
    /// Lines that came, and lines that it passed on or wrote.
    pub lines_in: u64,
    pub lines_out: u64,
    pub retries: u64,
    pub dead: u64,
    /// Bytes of its source that it had not read at the last look; 0 where it reads none.
    pub behind: u64,
    /// Its event watermark, if there is one: milliseconds since 1970.
    pub mark: Option<i64>,
    /// Bytes of state in memory and on disk.
    pub memory: u64,
    pub disk: u64,
    /// During the last look.
    pub pace: Pace,
}

/// What a task did during a look. Shares of time are in percent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pace {
    /// Lines that came, a second.
    pub lines: u64,
    /// It worked, which is what is left; of that it wrote to sinks, or waited for them.
    pub busy: u32,
    pub writing: u32,
    /// It waited for input.
    pub idle: u32,
    /// It waited for room in front of each node that it feeds.
    pub blocked: Vec<u32>,
}

/// The tally of an attempt, and what tasks did since the last look.
pub struct Tallying {
    tally: Tally,
    sums: BTreeMap<TaskId, Sum>,
    since: Instant,
}

impl Tallying {
    /// Of an attempt that begins at `positions`. Nodes of the plan before that have as many tasks now go on with what these have done.
    pub fn new(
        (plan, attempt): (&Plan, Attempt),
        places: &[Vec<MemberId>],
        positions: &Positions,
        before: &Tally,
    ) -> Self {
        let steps = plan.steps.iter().zip(places).zip(&positions.tasks);
        let nodes = steps.map(|((step, places), positions)| {
            let known = before.nodes.iter().find(|node| node.name == step.name);
            let known = known.map(|node| &node.tasks);
            let known = known.filter(|tasks| tasks.len() == places.len());
            let tasks = places.iter().zip(positions).enumerate();
            let task = |(at, (&member, position)): (usize, (&MemberId, &TaskPosition))| {
                let known = known.map(|tasks| tasks[at].clone());
                let known = known.unwrap_or_else(|| TaskTally::new(member));
                TaskTally {
                    // One that has ended is not run again.
                    member: if position.ended { known.member } else { member },
                    ended: position.ended,
                    pace: Pace::default(),
                    ..known
                }
            };
            NodeTally {
                name: step.name.clone(),
                next: step.next.iter().map(|next| next.node).collect(),
                tasks: tasks.map(task).collect(),
            }
        });
        Self {
            tally: Tally {
                nodes: nodes.collect(),
                attempt,
                look_ms: 0,
            },
            sums: BTreeMap::new(),
            since: Instant::now(),
        }
    }

    /// A barrier was passed, which led to `positions`.
    pub fn barrier(&mut self, plan: &Plan, positions: &Positions, reports: &[Report]) -> &Tally {
        for report in reports {
            let Some(task) = self.tally.task_mut(report.id) else {
                continue;
            };
            task.add(report);
            self.sums.entry(report.id).or_default().add(report);
        }
        let took = self.since.elapsed();
        let mut tasks = self.tally.nodes.iter().flat_map(|node| &node.tasks);
        if took >= LOOK || tasks.all(|task| task.ended) {
            self.look(plan, positions, took);
        }
        &self.tally
    }

    fn look(&mut self, plan: &Plan, positions: &Positions, took: Duration) {
        for (node, all) in (0..).zip(&mut self.tally.nodes) {
            let chunks = Chunks::of(plan, positions, node);
            let positions = &positions.tasks[usize::from(node)];
            for (task, tally) in (0..).zip(&mut all.tasks) {
                let sum = self.sums.remove(&TaskId { node, task }).unwrap_or_default();
                tally.pace = Pace::of(&sum, took);
                tally.behind = match &chunks {
                    Some(chunks) => chunks.left(&positions[task as usize].shares),
                    None => sum.load.behind,
                };
            }
        }
        self.tally.look_ms = took.as_millis() as u64;
        self.since = Instant::now();
    }
}

/// The chunks of a pinned source.
struct Chunks {
    /// Number of the first one of each file, and of all.
    firsts: Vec<u64>,
    bytes: u64,
    /// Of each file: what its last chunk lacks.
    short: Vec<u64>,
}

impl Chunks {
    /// Of the source that a node reads, if it is pinned.
    fn of(plan: &Plan, positions: &Positions, node: NodeId) -> Option<Self> {
        let source = plan.steps[usize::from(node)].source()?;
        if plan.sources[source].follow {
            return None;
        }
        let pinned = &positions.sources[source];
        let bytes = u64::from(positions.chunk_bytes.max(1));
        let short = pinned.files.iter().map(|file| {
            let data = file.source.len.saturating_sub(file.data_at);
            data.next_multiple_of(bytes) - data
        });
        Some(Self {
            firsts: reader::firsts(pinned, positions.chunk_bytes),
            bytes,
            short: short.collect(),
        })
    }

    /// Bytes of them that are in these shares. Of a chunk that is begun all of them count.
    fn left(&self, shares: &[Share]) -> u64 {
        let all = self.firsts.last().copied().unwrap_or_default();
        let files = self.firsts.windows(2).zip(&self.short);
        let short = files.filter(|(file, _)| {
            let has_last = |share: &Share| share.has(file[1] - 1);
            file[0] < file[1] && shares.iter().any(has_last)
        });
        let short: u64 = short.map(|(_, short)| short).sum();
        shares::left(shares, all) * self.bytes - short
    }
}

impl Tally {
    fn task_mut(&mut self, id: TaskId) -> Option<&mut TaskTally> {
        let node = self.nodes.get_mut(usize::from(id.node))?;
        node.tasks.get_mut(id.task as usize)
    }
}

impl NodeTally {
    /// Percent of the time that its tasks waited for room in front of the node that stands at `at` in `next`.
    pub fn blocked(&self, at: usize) -> u32 {
        self.mean(|pace| pace.blocked.get(at).copied().unwrap_or_default())
    }

    /// How much its busiest task works.
    pub fn busiest(&self) -> u32 {
        let busy = self.tasks.iter().map(|task| task.pace.busy);
        busy.max().unwrap_or_default()
    }

    /// The mean over its tasks that have not ended.
    pub fn mean(&self, of: impl Fn(&Pace) -> u32) -> u32 {
        let live = || self.tasks.iter().filter(|task| !task.ended);
        let sum: u32 = live().map(|task| of(&task.pace)).sum();
        sum.checked_div(live().count() as u32).unwrap_or_default()
    }
}

impl TaskTally {
    fn new(member: MemberId) -> Self {
        Self {
            member,
            ended: false,
            lines_in: 0,
            lines_out: 0,
            retries: 0,
            dead: 0,
            behind: 0,
            mark: None,
            memory: 0,
            disk: 0,
            pace: Pace::default(),
        }
    }

    fn add(&mut self, report: &Report) {
        self.ended = report.position.ended;
        self.lines_in += report.load.lines_in;
        self.lines_out += report.load.lines_out;
        self.retries += report.counters.retries;
        self.dead += report.counters.dead;
        // As long as nobody knows a time it is the least there is.
        self.mark = Some(report.mark.at()).filter(|&mark| mark != i64::MIN);
        (self.memory, self.disk) = (report.held.memory, report.held.disk);
    }
}

impl Pace {
    fn of(sum: &Sum, took: Duration) -> Self {
        let load = &sum.load;
        let share = |part| percent(part, load.took);
        Self {
            lines: (load.lines_in * 1000)
                .checked_div(took.as_millis() as u64)
                .unwrap_or(load.lines_in * 1000),
            busy: share(sum.worked()),
            writing: share(load.writing),
            idle: share(load.idle),
            blocked: load.blocked.iter().map(|&blocked| share(blocked)).collect(),
        }
    }
}
