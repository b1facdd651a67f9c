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
    /// It wrote to sinks, or waited for them; this is part of its work.
    pub writing: u64,
    /// Lines that came, and lines that it passed on or wrote.
    pub lines_in: u64,
    pub lines_out: u64,
    /// Of a followed source: bytes that are there and that it has not read.
    pub behind: u64,
}

/// One task's watch.
pub struct Meter {
    since: Instant,
    idle: Duration,
    lines_in: u64,
    lines_out: u64,
}

impl Meter {
    /// From now on.
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            idle: Duration::ZERO,
            lines_in: 0,
            lines_out: 0,
        }
    }

    /// It waited for input.
    pub fn rested(&mut self, time: Duration) {
        self.idle += time;
    }

    /// So many lines came.
    pub fn came(&mut self, lines: usize) {
        self.lines_in += lines as u64;
    }

    /// So many lines go on.
    pub fn passed(&mut self, lines: usize) {
        self.lines_out += lines as u64;
    }

    /// Since the last call; `behind`, and what its links have measured: `blocked` and `writing`.
    pub fn take(&mut self, behind: u64, blocked: Vec<u64>, writing: u64) -> Load {
        let Self {
            since,
            idle,
            lines_in,
            lines_out,
        } = std::mem::replace(self, Self::new());
        Load {
            took: micros(self.since.duration_since(since)),
            idle: micros(idle),
            blocked,
            writing,
            lines_in,
            lines_out,
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
pub struct Sum {
    pub load: Load,
    bytes_in: u64,
}

impl Sum {
    pub fn add(&mut self, report: &Report) {
        self.bytes_in += report.counters.bytes_in;
        let (all, load) = (&mut self.load, &report.load);
        all.took += load.took;
        all.idle += load.idle;
        all.blocked.resize(load.blocked.len(), 0);
        for (all, blocked) in all.blocked.iter_mut().zip(&load.blocked) {
            *all += blocked;
        }
        all.writing += load.writing;
        all.lines_in += load.lines_in;
        all.lines_out += load.lines_out;
        all.behind = load.behind;
    }

    fn blocked(&self) -> u64 {
        self.load.blocked.iter().sum()
    }

    /// Microseconds.
    pub fn worked(&self) -> u64 {
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
            self.sums.entry(report.id).or_default().add(report);
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

pub fn percent(part: u64, whole: u64) -> u32 {
    (100 * part).checked_div(whole).unwrap_or_default() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_time::EventMark;
    use crate::message::Counters;
    use crate::plan::Pinned;
    use crate::position::{Border, TaskPosition};
    use crate::stateful::Held;

    const SPEC: &str = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"some\"\nfrom = \"in\"\nop = { filter = { contains = \"a\" } }\n\
        [[stage]]\nname = \"once\"\nfrom = \"some\"\nop = { dedup = {} }\ntasks = { min = 2, max = 8 }\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { dedup = {} }\ntasks = { max = 4 }\n\
        [[sink]]\nfrom = \"once\"\npath = \"/once\"\n[[sink]]\nfrom = \"all\"\npath = \"/all\"\n";

    fn positions() -> (Spec, Plan, Positions) {
        let pinned = Pinned {
            files: Vec::new(),
            columns: None,
        };
        let spec = Spec::parse(SPEC, false).unwrap();
        let plan = Plan::resolve(&spec, "job", std::slice::from_ref(&pinned)).unwrap();
        let tasks = |step: &crate::plan::Step| vec![TaskPosition::default(); step.tasks as usize];
        let positions = Positions {
            spec: SPEC.to_owned(),
            json: false,
            sources: vec![pinned],
            chunk_bytes: 1,
            tasks: plan.steps.iter().map(tasks).collect(),
            rate: None,
            counts: BTreeMap::new(),
            border: Some(Border::default()),
            scaled: BTreeMap::new(),
        };
        (spec, plan, positions)
    }

    fn report(node: NodeId, task: u32, idle: u64, blocked: &[u64]) -> Report {
        Report {
            id: TaskId { node, task },
            position: TaskPosition::default(),
            watermarks: Vec::new(),
            counters: Counters::default(),
            reads: Vec::new(),
            writes: Vec::new(),
            program: None,
            inputs: Vec::new(),
            files: Vec::new(),
            held: Held::default(),
            mark: EventMark::NONE,
            load: Load {
                took: 1000,
                idle,
                blocked: blocked.to_vec(),
                ..Load::default()
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_tasks_do_adds_up_to_looks_at_their_stages() {
        let (spec, plan, positions) = positions();
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["some", "once", "all"]);
        let every = Duration::from_secs(1);
        let mut loads = Loads::new(&spec, every);
        let mut wishes = Vec::new();
        for barrier in 0.. {
            // Two barriers make a look: what one says counts for half.
            tokio::time::advance(every / 2).await;
            let idle = if barrier % 2 == 0 { 0 } else { 100 };
            let reports = [
                report(0, 0, 100, &[4 * idle]),
                report(1, 0, idle, &[]),
                report(1, 1, 0, &[]),
                report(2, 0, 0, &[]),
            ];
            wishes = loads.barrier(&plan, &positions, &reports);
            if !wishes.is_empty() {
                assert_eq!(barrier, 15, "five looks of rest, and three");
                break;
            }
        }
        let why =
            "its tasks worked 97 % of the time, and who feeds them waited 20 % of it".to_owned();
        // `all` keeps up with its source.
        let (stage, from, to) = ("once".to_owned(), 2, 4);
        let wish = Wish {
            stage,
            from,
            to,
            why,
        };
        assert_eq!(wishes, [wish]);
        loads.give_up(&wishes);
        for _ in 0..100 {
            tokio::time::advance(every).await;
            let reports = [report(0, 0, 0, &[900]), report(1, 0, 0, &[])];
            assert_eq!(loads.barrier(&plan, &positions, &reports), []);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_meter_tells_how_long_a_task_rested() {
        let mut meter = Meter::new();
        for _ in 0..2 {
            tokio::time::advance(Duration::from_millis(5)).await;
            meter.rested(Duration::from_millis(2));
            let load = meter.take(7, vec![1], 0);
            assert_eq!((load.took, load.idle, load.behind), (5000, 2000, 7));
        }
    }
}
