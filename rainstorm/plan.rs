//! A spec resolved against its sources: a graph of nodes, each with its operator, tasks and edges. Every member
//! makes the same plan from the same spec text and pinned sources.

use crate::seams::Source;
use crate::spec::{Column, ExecSpec, Mapping, OpSpec, Spec, StageSpec, Test};
use crate::spec_tree::{Fault, nearest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of a node in its plan.
pub type NodeId = u16;

/// A source fixed for the whole job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    pub source: Source,
    /// Where the data begins: behind the header of CSV.
    pub data_at: u64,
    /// Names in the header of CSV.
    pub columns: Option<Vec<String>>,
}

/// An operator with its columns as numbers from 0.
#[derive(Debug, Clone)]
pub enum Op {
    /// Hands lines on: reads a source for a node that is fed by key.
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
    Sum {
        by: usize,
        of: Option<usize>,
        json: bool,
    },
    Exec(ExecSpec),
}

/// Where a node's lines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Its tasks read this source.
    Source(usize),
    Node(NodeId),
}

/// How lines find their task in the next node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Task i feeds task i.
    Straight,
    /// Batches go to each task in turn.
    RoundRobin,
    /// Lines go by the hash of this column.
    Key(usize),
}

/// A node.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    pub op: Op,
    pub tasks: u32,
    pub input: Input,
    pub next: Vec<(NodeId, Route)>,
    /// Files that its tasks append to.
    pub sinks: Vec<String>,
}

/// The graph. A node's input comes before it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub epoch_ms: u64,
    pub steps: Vec<Step>,
}

struct Builder {
    steps: Vec<Step>,
    columns: Vec<Option<Vec<String>>>,
    by_name: BTreeMap<String, NodeId>,
}

impl Plan {
    /// Resolves `spec` for the job called `name`; `sources` in the spec's order.
    pub fn resolve(spec: &Spec, name: &str, sources: &[Pinned]) -> Result<Self, Fault> {
        let mut names = BTreeMap::new();
        for (name, at) in spec
            .sources
            .iter()
            .map(|s| (&s.name, s.at))
            .chain(spec.stages.iter().map(|s| (&s.name, s.at)))
        {
            if names.insert(name.clone(), at).is_some() {
                return Err(Fault::new(
                    at,
                    format!("the name `{name}` is used twice"),
                    "give each source and stage its own",
                ));
            }
        }
        let mut builder = Builder {
            steps: Vec::new(),
            columns: Vec::new(),
            by_name: BTreeMap::new(),
        };
        for stage in &spec.stages {
            builder.stage(spec, stage, sources)?;
        }
        builder.sinks(spec, name)?;
        Ok(Self {
            epoch_ms: spec.epoch_ms,
            steps: builder.steps,
        })
    }

    /// The files that the job writes.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.steps
            .iter()
            .flat_map(|step| step.sinks.iter().map(String::as_str))
    }

    /// Tasks that feed task `task` of node `node`: none if it reads a source.
    pub fn feeders(&self, node: NodeId, task: u32) -> Vec<(NodeId, u32)> {
        let Input::Node(from) = self.steps[node as usize].input else {
            return Vec::new();
        };
        let straight = self.steps[from as usize]
            .next
            .contains(&(node, Route::Straight));
        match straight {
            true => vec![(from, task)],
            false => (0..self.steps[from as usize].tasks)
                .map(|other| (from, other))
                .collect(),
        }
    }
}

/// The default output of a job.
pub fn default_output(name: &str) -> String {
    format!("/.jobs/{name}/output")
}

impl Builder {
    fn stage(&mut self, spec: &Spec, stage: &StageSpec, sources: &[Pinned]) -> Result<(), Fault> {
        let source = spec
            .sources
            .iter()
            .position(|source| source.name == stage.from);
        let (mut input, columns) = match (source, self.by_name.get(&stage.from)) {
            (Some(at), _) => (Input::Source(at), sources[at].columns.clone()),
            (None, Some(&node)) => (Input::Node(node), self.columns[node as usize].clone()),
            (None, None) => return Err(self.unknown(spec, &stage.from, stage.from_at)),
        };
        let columns = columns.as_deref();
        let key = stage
            .by_key
            .as_ref()
            .map(|key| number(key, columns))
            .transpose()?;
        if let (Input::Source(_), Some(_), 2..) = (input, key, stage.tasks) {
            let reader = Step {
                name: format!("{}.read", stage.name),
                op: Op::Pass,
                tasks: stage.tasks,
                input,
                next: Vec::new(),
                sinks: Vec::new(),
            };
            input = Input::Node(self.add(reader, columns.map(<[String]>::to_vec)));
        }
        let (op, after) = operator(&stage.op, columns)?;
        let node = self.add(
            Step {
                name: stage.name.clone(),
                op,
                tasks: stage.tasks,
                input,
                next: Vec::new(),
                sinks: Vec::new(),
            },
            after,
        );
        self.by_name.insert(stage.name.clone(), node);
        if let Input::Node(from) = input {
            self.link(from, node, key);
        }
        Ok(())
    }

    fn add(&mut self, step: Step, columns: Option<Vec<String>>) -> NodeId {
        self.steps.push(step);
        self.columns.push(columns);
        (self.steps.len() - 1) as NodeId
    }

    fn link(&mut self, from: NodeId, to: NodeId, key: Option<usize>) {
        let (before, after) = (
            self.steps[from as usize].tasks,
            self.steps[to as usize].tasks,
        );
        let route = match key {
            Some(column) if after > 1 => Route::Key(column),
            _ if before == after => Route::Straight,
            _ => Route::RoundRobin,
        };
        self.steps[from as usize].next.push((to, route));
    }

    fn sinks(&mut self, spec: &Spec, name: &str) -> Result<(), Fault> {
        let mut taken: BTreeMap<String, usize> = spec
            .sources
            .iter()
            .map(|s| (s.path.clone(), s.at))
            .collect();
        for sink in &spec.sinks {
            let Some(&node) = self.by_name.get(&sink.from) else {
                return Err(self.unknown(spec, &sink.from, sink.from_at));
            };
            let path = sink.path.clone().unwrap_or_else(|| default_output(name));
            if taken.insert(path.clone(), sink.at).is_some() {
                let what = format!("`{path}` is a source or another sink of this job");
                return Err(Fault::new(sink.at, what, "give each its own file"));
            }
            self.sink(node, path, sink.json, sink.at)?;
        }
        if spec.sinks.is_empty() {
            let ends: Vec<NodeId> = (0..self.steps.len() as NodeId)
                .filter(|&n| self.steps[n as usize].next.is_empty())
                .collect();
            let [end] = ends[..] else {
                let what = "several stages end the job and there is no [[sink]]";
                return Err(Fault::new(
                    spec.stages.last().map_or(0, |stage| stage.at),
                    what,
                    "add a [[sink]] for each",
                ));
            };
            self.sink(end, default_output(name), false, 0)?;
        }
        match self
            .steps
            .iter()
            .find(|step| step.next.is_empty() && step.sinks.is_empty())
        {
            None => Ok(()),
            Some(loose) => {
                let at = spec
                    .stages
                    .iter()
                    .find(|stage| stage.name == loose.name)
                    .map_or(0, |stage| stage.at);
                Err(Fault::new(
                    at,
                    format!("nothing uses the stage `{}`", loose.name),
                    "add a [[sink]] or leave it out",
                ))
            }
        }
    }

    fn sink(&mut self, node: NodeId, path: String, json: bool, at: usize) -> Result<(), Fault> {
        if !json {
            self.steps[node as usize].sinks.push(path);
            return Ok(());
        }
        if !matches!(self.steps[node as usize].op, Op::Sum { .. }) {
            let what = "`format = \"json\"` of a stage that neither counts nor sums";
            return Err(Fault::new(at, what, "use \"lines\""));
        }
        // One task gathers every total and writes one document (fault R8).
        let gather = Step {
            name: format!("{}.json", self.steps[node as usize].name),
            op: Op::Sum {
                by: 0,
                of: Some(1),
                json: true,
            },
            tasks: 1,
            input: Input::Node(node),
            next: Vec::new(),
            sinks: vec![path],
        };
        let gather = self.add(gather, None);
        self.link(node, gather, None);
        Ok(())
    }

    fn unknown(&self, spec: &Spec, name: &str, at: usize) -> Fault {
        let mut known: Vec<&str> = spec
            .sources
            .iter()
            .map(|source| source.name.as_str())
            .collect();
        known.extend(self.by_name.keys().map(String::as_str));
        let remedy = nearest(name, &known);
        Fault::new(
            at,
            format!("`from = \"{name}\"` names no source, and no stage above"),
            remedy,
        )
    }
}

type Columns = Option<Vec<String>>;

/// The operator and the columns of what it puts out.
fn operator(op: &OpSpec, columns: Option<&[String]>) -> Result<(Op, Columns), Fault> {
    let same = || columns.map(<[String]>::to_vec);
    Ok(match op {
        OpSpec::Filter { column, test, not } => {
            let column = column
                .as_ref()
                .map(|column| number(column, columns))
                .transpose()?;
            (
                Op::Filter {
                    column,
                    test: test.clone(),
                    not: *not,
                },
                same(),
            )
        }
        OpSpec::Select(wanted) => {
            let numbers = wanted
                .iter()
                .map(|column| number(column, columns))
                .collect::<Result<Vec<_>, _>>()?;
            let names = columns.map(|all| {
                numbers
                    .iter()
                    .map(|&at| all.get(at).cloned().unwrap_or_default())
                    .collect()
            });
            (Op::Select(numbers), names)
        }
        OpSpec::Map {
            mapping: Mapping::Template(pieces),
            columns: after,
            ..
        } => {
            let piece = |(text, column): &(Vec<u8>, Option<Column>)| {
                Ok((
                    text.clone(),
                    column
                        .as_ref()
                        .map(|column| number(column, columns))
                        .transpose()?,
                ))
            };
            (
                Op::Template(pieces.iter().map(piece).collect::<Result<_, Fault>>()?),
                after.clone(),
            )
        }
        OpSpec::Map {
            column,
            mapping,
            columns: after,
        } => {
            let column = column
                .as_ref()
                .map(|column| number(column, columns))
                .transpose()?;
            (
                Op::Map {
                    column,
                    mapping: mapping.clone(),
                },
                after.clone().or_else(same),
            )
        }
        OpSpec::Sum { by, of } => {
            let after = vec![
                by.name.clone().unwrap_or_else(|at| at.to_string()),
                "count".to_owned(),
            ];
            let of = of.as_ref().map(|of| number(of, columns)).transpose()?;
            (
                Op::Sum {
                    by: number(by, columns)?,
                    of,
                    json: false,
                },
                Some(after),
            )
        }
        OpSpec::Exec {
            exec,
            columns: after,
        } => (Op::Exec(exec.clone()), after.clone()),
    })
}

fn number(column: &Column, columns: Option<&[String]>) -> Result<usize, Fault> {
    match (&column.name, columns) {
        (Err(number), Some(all)) if *number > all.len() => {
            let what = format!("there is no column {number}");
            Err(Fault::new(
                column.at,
                what,
                format!("there are {}: `{}`", all.len(), all.join("`, `")),
            ))
        }
        (Err(number), _) => Ok(number - 1),
        (Ok(name), Some(all)) => {
            let known: Vec<&str> = all.iter().map(String::as_str).collect();
            let missing = || {
                Fault::new(
                    column.at,
                    format!("there is no column `{name}`"),
                    nearest(name, &known),
                )
            };
            all.iter()
                .position(|other| other == name)
                .ok_or_else(missing)
        }
        (Ok(name), None) => {
            let what = format!("column `{name}` is named, but nothing names the columns here");
            Err(Fault::new(
                column.at,
                what,
                "use its number from 1, `format = \"csv\"`, or `columns = […]` of the operator before",
            ))
        }
    }
}
