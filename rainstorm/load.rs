//! What tasks do with their time: measured by each task, told with its reports, added up by the coordinator into looks at
//! the stages whose numbers of tasks may change.

use crate::message::{Report, TaskId};
use crate::plan::{Input, NodeId, Plan};
use crate::position::Positions;
use crate::scale::{Bounds, Look, Scaler, Seen, Waiting, Wish};
use crate::spec::Spec;
use crate::{rate, reader, shares};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What a task did since its report before, in microseconds. In what is left of the time it worked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    pub took: u64,
    /// It waited for input.
    pub idle: u64,
    /// It waited for room in front of each node that it feeds, in the order of its step.
    pub blocked: Vec<u64>,
    /// Of a followed source: bytes that are there and that it has not read.
    pub behind: u64,
}

/// One task's watch.
pub struct Meter {
    since: Instant,
    idle: Duration,
}

impl Meter {
    /// From now on.
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            idle: Duration::ZERO,
        }
    }

    /// It waited for input.
    pub fn rested(&mut self, time: Duration) {
        self.idle += time;
    }

    /// Since the last call.
    pub fn take(&mut self, blocked: Vec<u64>, behind: u64) -> Load {
        let Self { since, idle } = std::mem::replace(self, Self::new());
        Load {
            took: micros(self.since.duration_since(since)),
            idle: micros(idle),
            blocked,
            behind,
        }
    }
}

/// Whole microseconds.
pub fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// One task's reports since the last look.
#[derive(Debug, Clone, Default)]
struct Sum {
    load: Load,
    bytes_in: u64,
}

impl Sum {
    fn blocked(&self) -> u64 {
        self.load.blocked.iter().sum()
    }

    fn worked(&self) -> u64 {
        let waited = self.load.idle + self.blocked();
        self.load.took.saturating_sub(waited)
    }
}

/// What the coordinator knows of an attempt of a job whose spec leaves numbers of tasks open.
pub struct Loads {
    bounds: BTreeMap<String, Bounds>,
    every: Duration,
    sums: BTreeMap<TaskId, Sum>,
    since: Instant,
    scaler: Scaler,
}

impl Loads {
    /// Of an attempt that begins; one look takes `every`.
    pub fn new(spec: &Spec, every: Duration) -> Self {
        let stages = spec.stages.iter();
        Self {
            bounds: stages
                .filter_map(|stage| Some((stage.name.clone(), stage.scale?)))
                .collect(),
            every,
            sums: BTreeMap::new(),
            since: Instant::now(),
            scaler: Scaler::new(),
        }
    }

    /// A barrier was passed; what should be changed.
    pub fn barrier(&mut self, plan: &Plan, positions: &Positions, reports: &[Report]) -> Vec<Wish> {
        if self.bounds.is_empty() {
            return Vec::new();
        }
        for report in reports {
            let sum = self.sums.entry(report.id).or_default();
            sum.bytes_in += report.counters.bytes_in;
            let (all, load) = (&mut sum.load, &report.load);
            all.took += load.took;
            all.idle += load.idle;
            all.blocked.resize(load.blocked.len(), 0);
            for (all, blocked) in all.blocked.iter_mut().zip(&load.blocked) {
                *all += blocked;
            }
            all.behind = load.behind;
        }
        if self.since.elapsed() < self.every {
            return Vec::new();
        }
        let look = |(stage, &bounds): (&String, &Bounds)| {
            Some((stage.clone(), self.stage(plan, positions, stage, bounds)?))
        };
        let looks = self.bounds.iter().filter_map(look).collect();
        self.sums.clear();
        self.since = Instant::now();
        self.scaler.look(&looks)
    }

    /// These stages stay as they are for the rest of the attempt.
    pub fn give_up(&mut self, wishes: &[Wish]) {
        self.bounds
            .retain(|stage, _| !wishes.iter().any(|wish| wish.stage == *stage));
    }

    /// A look at a stage; `None` of one that has ended.
    fn stage(
        &self,
        plan: &Plan,
        positions: &Positions,
        stage: &str,
        bounds: Bounds,
    ) -> Option<Look> {
        // What puts results together has one task whatever the stage has.
        let read = format!("{stage}.read");
        let is_part = |name: &str| name == stage || name == read;
        let parts = (0..)
            .zip(&plan.steps)
            .filter(|(_, step)| is_part(&step.name));
        let nodes = parts.filter_map(|(node, step)| {
            let seen = self.node(plan, positions, node)?;
            Some((step.tasks, seen))
        });
        let (tasks, nodes): (Vec<u32>, Vec<Seen>) = nodes.unzip();
        Some(Look {
            bounds,
            tasks: *tasks.first()?,
            nodes,
        })
    }

    fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Sum> {
        let ids = |task| TaskId { node, task };
        self.sums.range(ids(0)..=ids(u32::MAX)).map(|(_, sum)| sum)
    }

    fn node(&self, plan: &Plan, positions: &Positions, node: NodeId) -> Option<Seen> {
        let took = self.of_node(node).map(|sum| sum.load.took).sum();
        let busiest = self
            .of_node(node)
            .map(|sum| percent(sum.worked(), sum.load.took))
            .max()?;
        let (useful, waiting) = match &plan.steps[usize::from(node)].input {
            Input::Source(source) => self.source(plan, positions, node, *source),
            Input::Nodes(feeders) => {
                let held = feeders.iter().map(|&from| self.held(plan, from, node));
                (u32::MAX, Waiting::Feeders(held.max().unwrap_or_default()))
            }
        };
        Some(Seen {
            useful,
            busy: percent(self.of_node(node).map(Sum::worked).sum(), took),
            busiest,
            blocked: percent(self.of_node(node).map(Sum::blocked).sum(), took),
            waiting,
        })
    }

    /// Percent of the time that the tasks of `from` waited for room in front of `node`.
    fn held(&self, plan: &Plan, from: NodeId, node: NodeId) -> u32 {
        let next = &plan.steps[usize::from(from)].next;
        let here = |sum: &Sum| -> u64 {
            let edges = next.iter().zip(&sum.load.blocked);
            let edges = edges.filter(|(next, _)| next.node == node);
            edges.map(|(_, blocked)| blocked).sum()
        };
        let took = self.of_node(from).map(|sum| sum.load.took).sum();
        percent(self.of_node(from).map(here).sum(), took)
    }

    /// How many tasks could read a source, and what waits in it.
    fn source(
        &self,
        plan: &Plan,
        positions: &Positions,
        node: NodeId,
        source: usize,
    ) -> (u32, Waiting) {
        let tasks = &positions.tasks[usize::from(node)];
        let (useful, behind) = if plan.sources[source].follow {
            let files: usize = tasks.iter().map(|task| task.files.len()).sum();
            let behind = self.of_node(node).map(|sum| sum.load.behind).sum();
            (files as u64, behind)
        } else {
            let (pinned, bytes) = (&positions.sources[source], positions.chunk_bytes);
            let all = reader::firsts(pinned, bytes).last().copied();
            let of_task = |task| shares::left(task, all.unwrap_or_default());
            let chunks: u64 = tasks.iter().map(|task| of_task(&task.shares)).sum();
            (chunks, chunks * u64::from(bytes))
        };
        let waiting = Waiting::Source {
            behind,
            read: self.of_node(node).map(|sum| sum.bytes_in).sum(),
            limited: rate::effective(plan.sources[source].rate, positions.rate).is_some(),
        };
        (u32::try_from(useful).unwrap_or(u32::MAX), waiting)
    }
}

fn percent(part: u64, whole: u64) -> u32 {
    (100 * part).checked_div(whole).unwrap_or_default() as u32
}
