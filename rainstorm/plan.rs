//! A spec resolved against its sources: a graph of nodes, each with its operator, tasks and edges. Every member
//! makes the same plan from the same spec text and pinned sources (`build`).

use crate::aggregate::Aggregate;
use crate::compute::Compute;
use crate::dedup::DedupSpec;
use crate::event_time::TimeFormat;
use crate::frames::{Framing, Prefix};
use crate::join::JoinSpec;
use crate::layout::Layout;
use crate::range::Ranges;
use crate::seams::Source;
use crate::spec::{ExecSpec, Mapping, Test};
use crate::split;
use serde::{Deserialize, Serialize};

/// Number of a node in its plan.
pub type NodeId = u16;

/// A source as it was when the job began; one that is followed goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// In order of their paths.
    pub files: Vec<PinnedFile>,
    /// Names of the columns.
    pub columns: Option<Vec<String>>,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedFile {
    pub path: String,
    pub source: Source,
    /// Where the data begins: behind the header of CSV.
    pub data_at: u64,
}

impl Pinned {
    /// Bytes of data.
    pub fn bytes(&self) -> u64 {
        let data = |file: &PinnedFile| file.source.len.saturating_sub(file.data_at);
        self.files.iter().map(data).sum()
    }
}

/// How a source is read, beside what is pinned.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    pub name: String,
    /// As the spec names it: a file, a directory or a pattern.
    pub path: String,
    /// The folder of the job itself, whose files are none of the source's.
    pub own: String,
    pub csv: bool,
    /// Members of JSON lines that become columns.
    pub json: Option<Vec<String>>,
    /// Its records are frames.
    pub framing: Option<Framing>,
    pub follow: bool,
    pub at_end: bool,
    /// The first byte that is read of its file, and the first one behind what is read.
    pub bounds: Option<(u64, Option<u64>)>,
    /// Lines a second.
    pub rate: Option<u64>,
    pub clock: Option<ClockPlan>,
}

impl SourcePlan {
    /// How the lengths of its records are written, if they are frames.
    pub fn prefix(&self) -> Option<Prefix> {
        self.framing.map(|framing| framing.prefix)
    }
}

/// Where lines say when they happened.
#[derive(Debug, Clone, Copy)]
pub struct ClockPlan {
    pub column: usize,
    pub format: TimeFormat,
    pub out_of_order_ms: i64,
    pub idle_ms: u64,
}

/// A join with a file.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Number of the pinned file among the sources.
    pub source: usize,
    pub on: Vec<usize>,
    pub file_on: Vec<usize>,
    /// Columns of the file that are added.
    pub add: Vec<usize>,
    /// Lines without a partner pass, with empty fields.
    pub keep_all: bool,
}

/// An operator with its columns as numbers from 0.
#[derive(Debug, Clone)]
pub enum Op {
    /// Hands lines on: reads a source for a node that is fed by key, or with others.
    Pass,
    Filter {
        column: Option<usize>,
        test: Test,
        not: bool,
    },
    Select(Vec<usize>),
    Template(Vec<(Vec<u8>, Option<usize>)>),
    Map {
        column: Option<usize>,
        mapping: Mapping,
    },
    Split {
        column: Option<usize>,
        pieces: split::Pieces,
    },
    Compute(Compute),
    Aggregate(Aggregate),
    Dedup(DedupSpec),
    Join(JoinSpec),
    Lookup(Lookup),
    /// An executable; with state, the columns of its stage's key.
    Exec {
        spec: ExecSpec,
        state: Option<Vec<usize>>,
    },
}

impl Op {
    /// Whether its tasks remember something from one job epoch to the next.
    pub fn has_state(&self) -> bool {
        match self {
            Self::Aggregate(_) | Self::Dedup(_) | Self::Join(_) => true,
            Self::Exec { state, .. } => state.is_some(),
            _ => false,
        }
    }
}

/// Where a node's lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Its tasks read this source.
    Source(usize),
    /// In the order of the stage's `from`.
    Nodes(Vec<NodeId>),
}

/// How lines find their task in the next node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Task i feeds task i.
    Straight,
    /// Batches go to each task in turn.
    RoundRobin,
    /// Every task gets every line.
    Broadcast,
    /// Lines go by the hash of the values of `by`. With `keep` only these columns go, and `by` counts among them.
    Key {
        by: Vec<usize>,
        keep: Option<Vec<usize>>,
    },
    /// Lines go by where the value of a column lies.
    Range { column: usize, ranges: Ranges },
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    pub node: NodeId,
    pub route: Route,
    /// It takes what came too late, instead of the results.
    pub late: bool,
}

/// A file that the tasks of a node append to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkPlan {
    pub path: String,
    pub late: bool,
    /// One task writes it, and nobody else of the job.
    pub alone: bool,
    pub parts: Parts,
    pub layout: Layout,
}

impl SinkPlan {
    /// The file of a task in a folder with one for each.
    pub fn task_path(&self, step: &Step, task: u32) -> String {
        format!("{}/{}", self.path, task_file(step.stage(), self.late, task))
    }
}

/// What a sink's path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// A file.
    One,
    /// A folder with a file for each task.
    Tasks,
    /// A folder with a file for each value of this column.
    Values(usize),
}

/// A node.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    pub op: Op,
    pub tasks: u32,
    pub input: Input,
    pub next: Vec<Next>,
    pub sinks: Vec<SinkPlan>,
    /// Numbers of the sources that its lines come from.
    pub origins: Vec<usize>,
}

impl Step {
    /// The source that its tasks read, if they read one.
    pub fn source(&self) -> Option<usize> {
        match self.input {
            Input::Source(source) => Some(source),
            Input::Nodes(_) => None,
        }
    }

    /// The stage that it is part of. Names of stages hold no points.
    pub fn stage(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// The graph. A node's inputs come before it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub epoch_ms: u64,
    pub receipt: bool,
    pub exactly_once: bool,
    pub dead_letters: bool,
    /// Executables run nowhere where they are not confined wholly.
    pub sandbox_required: bool,
    pub sources: Vec<SourcePlan>,
    pub steps: Vec<Step>,
}

impl Plan {
    /// The files that the job writes.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.steps
            .iter()
            .flat_map(|step| step.sinks.iter().map(|sink| sink.path.as_str()))
    }

    /// The files of its sinks that are there from the beginning on: not those that come with values. One may be named several times.
    pub fn files(&self) -> impl Iterator<Item = (String, &Layout)> {
        let all = self.steps.iter().flat_map(|step| {
            let sinks = step.sinks.iter();
            sinks.map(move |sink| (step, sink))
        });
        all.flat_map(|(step, sink)| {
            let paths = match sink.parts {
                Parts::One => vec![sink.path.clone()],
                Parts::Tasks => (0..step.tasks)
                    .map(|task| sink.task_path(step, task))
                    .collect(),
                Parts::Values(_) => Vec::new(),
            };
            paths.into_iter().map(|path| (path, &sink.layout))
        })
    }

    /// The paths of the sources that a node's lines come from, as the spec has them.
    pub fn origins(&self, step: &Step) -> String {
        let paths = step.origins.iter().filter_map(|&at| self.sources.get(at));
        let paths: Vec<&str> = paths.map(|source| &*source.path).collect();
        paths.join(", ")
    }

    /// Tasks that feed task `task` of node `node`: none if it reads a source.
    pub fn feeders(&self, node: NodeId, task: u32) -> Vec<(NodeId, u32)> {
        let Input::Nodes(inputs) = &self.steps[node as usize].input else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for &from in inputs {
            let step = &self.steps[from as usize];
            let straight = step
                .next
                .iter()
                .any(|next| next.node == node && next.route == Route::Straight);
            match straight {
                true => all.push((from, task)),
                false => all.extend((0..step.tasks).map(|other| (from, other))),
            }
        }
        all
    }
}

/// What a task's file is called in a folder with one for each.
pub fn task_file(stage: &str, late: bool, task: u32) -> String {
    let late = if late { ".late" } else { "" };
    format!("{stage}{late}-{task}")
}

/// The default output of a job.
pub fn default_output(name: &str) -> String {
    format!("/.jobs/{name}/output")
}
