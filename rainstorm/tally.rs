//! What each task of a job has done, and what it does with its time: added up by the coordinator from what tasks report at
//! barriers, committed with the counters of each job epoch, shown by `progress`, `status.json` and `tasks/STAGE-N/state`.
//!
//! Some twenty bytes a task travel with a commit; nothing is measured for them that a task would not measure anyway.

use crate::event_time::EventMark;
use crate::load::{Sum, percent};
use crate::message::{Report, TaskId};
use crate::plan::{NodeId, Plan};
use crate::position::Positions;
use crate::{reader, shares};
use hydfs_types::MemberId;
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

/// One task. What it has done counts from the begin of the job, or from when its plan was last changed.
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
    /// Goes on with the tally of the attempt before if it is of the same plan.
    pub fn new(plan: &Plan, places: &[Vec<MemberId>], before: &Tally) -> Self {
        let nodes = plan.steps.iter().zip(places).enumerate();
        let nodes = nodes.map(|(at, (step, places))| {
            let known = before.nodes.get(at);
            let same =
                |node: &&NodeTally| node.name == step.name && node.tasks.len() == places.len();
            let known = known.filter(same).map_or(&[][..], |node| &node.tasks[..]);
            let task = |(task, &member): (usize, &MemberId)| TaskTally {
                member,
                pace: Pace::default(),
                ..known
                    .get(task)
                    .cloned()
                    .unwrap_or_else(|| TaskTally::new(member))
            };
            NodeTally {
                name: step.name.clone(),
                next: step.next.iter().map(|next| next.node).collect(),
                tasks: places.iter().enumerate().map(task).collect(),
            }
        });
        Self {
            tally: Tally {
                nodes: nodes.collect(),
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
            let chunks = chunks(plan, positions, node);
            let positions = &positions.tasks[usize::from(node)];
            for (task, tally) in (0..).zip(&mut all.tasks) {
                let sum = self.sums.remove(&TaskId { node, task }).unwrap_or_default();
                tally.pace = Pace::of(&sum, took);
                tally.behind = match chunks {
                    Some((all, bytes)) => {
                        shares::left(&positions[task as usize].shares, all) * bytes
                    }
                    None => sum.load.behind,
                };
            }
        }
        self.tally.look_ms = took.as_millis() as u64;
        self.since = Instant::now();
    }
}

/// How many chunks the pinned source has that a node reads, and how many bytes each of them.
fn chunks(plan: &Plan, positions: &Positions, node: NodeId) -> Option<(u64, u64)> {
    let source = plan.steps[usize::from(node)].source()?;
    if plan.sources[source].follow {
        return None;
    }
    let bytes = positions.chunk_bytes;
    let all = *reader::firsts(&positions.sources[source], bytes).last()?;
    Some((all, bytes.into()))
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
        let mark = Some(report.mark.at());
        self.mark = mark.filter(|_| report.mark != EventMark::NONE);
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
