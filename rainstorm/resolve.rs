//! Makes the plan of a spec: names become nodes, columns numbers, stages by key get edges by key.

use crate::aggregate::{Aggregate, Kind};
use crate::columns::{Columns, aggregate, number, numbers, operator, project, select_names};
use crate::ends;
use crate::extent::Extent;
use crate::join::{JoinSpec, Side};
use crate::plan::{
    ClockPlan, Input, Lookup, Next, NodeId, Op, Pinned, Plan, Route, SourcePlan, Step,
};
use crate::spec::{From, LookupSpec, OpSpec, Partition, Spec, StageSpec};
use crate::spec_ends::Format;
use crate::spec_tree::{Fault, nearest};
use crate::window::{Cut, WindowSpec};
use std::collections::{BTreeMap, BTreeSet};

/// A plan while it is made.
pub struct Builder<'a> {
    pub spec: &'a Spec,
    sources: &'a [Pinned],
    pub steps: Vec<Step>,
    /// Of what each node puts out.
    columns: Vec<Columns>,
    /// Sources that each node's lines come from.
    pub origins: Vec<BTreeSet<usize>>,
    /// The node whose results a stage's name means.
    by_name: BTreeMap<&'a str, NodeId>,
    /// The node with a stage's late lines, and their columns.
    late: BTreeMap<&'a str, (NodeId, Columns)>,
    clocks: Vec<Option<ClockPlan>>,
    /// Number of the next file that lines are joined with.
    file: usize,
}

/// What a `from` means.
pub struct Feed {
    pub input: FeedInput,
    pub columns: Columns,
    origins: BTreeSet<usize>,
}

/// Where it comes from.
#[derive(Clone, Copy)]
pub enum FeedInput {
    Source(usize),
    /// And whether what came too late there is meant.
    Node(NodeId, bool),
}

impl Plan {
    /// Resolves `spec` for the job called `name`. `sources`: those of the spec in its order, then the files that
    /// lines are joined with, in the order of the stages.
    pub fn resolve(spec: &Spec, name: &str, sources: &[Pinned]) -> Result<Self, Fault> {
        let mut names = BTreeSet::new();
        let sources_named = spec.sources.iter().map(|s| (&s.name, s.at));
        for (name, at) in sources_named.chain(spec.stages.iter().map(|s| (&s.name, s.at))) {
            if !names.insert(name) {
                let what = format!("the name `{name}` is used twice");
                return Err(Fault::new(at, what, "give each source and stage its own"));
            }
        }
        let mut plans = Vec::new();
        for (source, pinned) in spec.sources.iter().zip(sources) {
            let clock = match &source.clock {
                Some(clock) => Some(ClockPlan {
                    column: number(&clock.column, pinned.columns.as_deref())?,
                    format: clock.format,
                    out_of_order_ms: clock.out_of_order_ms,
                    idle_ms: clock.idle_ms,
                }),
                None => None,
            };
            plans.push(SourcePlan {
                name: source.name.clone(),
                path: source.path.clone(),
                own: ends::own_folder(name),
                csv: source.format == Format::Csv,
                json: match source.format {
                    Format::Json => source.columns.clone(),
                    _ => None,
                },
                framing: source.format.framing(),
                follow: source.follow,
                at_end: source.extent == Extent::End,
                bounds: source.extent.bounds(),
                rate: source.rate,
                clock,
            });
        }
        let mut builder = Builder {
            spec,
            sources,
            steps: Vec::new(),
            columns: Vec::new(),
            origins: Vec::new(),
            by_name: BTreeMap::new(),
            late: BTreeMap::new(),
            clocks: plans.iter().map(|plan| plan.clock).collect(),
            file: spec.sources.len(),
        };
        for stage in &spec.stages {
            builder.stage(stage)?;
        }
        builder.sinks(name)?;
        Ok(Self {
            epoch_ms: spec.epoch_ms,
            receipt: spec.receipt,
            exactly_once: spec.exactly_once,
            dead_letters: spec.dead_letters,
            sandbox_required: spec.sandbox_required,
            sources: plans,
            steps: builder.steps,
        })
    }
}

impl<'a> Builder<'a> {
    pub fn feed(&self, from: &From) -> Result<Feed, Fault> {
        if from.late {
            let Some((node, columns)) = self.late.get(from.name.as_str()) else {
                let what = format!("`{}.late` is nothing", from.name);
                let remedy =
                    "only stages above with a window, or that join two streams, have late lines";
                return Err(Fault::new(from.at, what, remedy));
            };
            return Ok(Feed {
                input: FeedInput::Node(*node, true),
                columns: columns.clone(),
                origins: self.origins[*node as usize].clone(),
            });
        }
        let source = self.spec.sources.iter().position(|s| s.name == from.name);
        match (source, self.by_name.get(from.name.as_str())) {
            (Some(at), _) => Ok(Feed {
                input: FeedInput::Source(at),
                columns: self.sources[at].columns.clone(),
                origins: BTreeSet::from([at]),
            }),
            (None, Some(&node)) => Ok(Feed {
                input: FeedInput::Node(node, false),
                columns: self.columns[node as usize].clone(),
                origins: self.origins[node as usize].clone(),
            }),
            (None, None) => Err(self.unknown(from)),
        }
    }

    fn feeds(&self, stage: &StageSpec) -> Result<Vec<Feed>, Fault> {
        let joins = matches!(stage.op, OpSpec::Join { .. });
        if joins && stage.from.len() != 2 {
            let what = "`join` of streams needs two";
            let remedy = "write `from = [\"left\", \"right\"]`";
            return Err(Fault::new(stage.at, what, remedy));
        }
        for (at, from) in stage.from.iter().enumerate() {
            once(&stage.from[..at], from)?;
        }
        let feeds: Vec<Feed> = stage
            .from
            .iter()
            .map(|from| self.feed(from))
            .collect::<Result<_, _>>()?;
        if !joins {
            for (feed, from) in feeds.iter().zip(&stage.from).skip(1) {
                if let (Some(a), Some(b)) = (&feeds[0].columns, &feed.columns)
                    && a != b
                {
                    let what = format!(
                        "`{}` has the columns `{}`, but `{}` has `{}`",
                        from.name,
                        b.join("`, `"),
                        stage.from[0].name,
                        a.join("`, `")
                    );
                    let remedy = "make them alike with `select` or `map`";
                    return Err(Fault::new(from.at, what, remedy));
                }
            }
        }
        Ok(feeds)
    }

    fn stage(&mut self, stage: &'a StageSpec) -> Result<(), Fault> {
        let feeds = self.feeds(stage)?;
        let all_named = feeds.iter().all(|feed| feed.columns.is_some());
        let columns = feeds[0].columns.clone().filter(|_| all_named);
        let right = feeds.last().and_then(|feed| feed.columns.clone());
        let origins: BTreeSet<usize> = feeds
            .iter()
            .flat_map(|feed| &feed.origins)
            .copied()
            .collect();
        self.check_clocks(stage, &origins)?;
        let (mut op, after) = self.operator(stage, columns.as_deref(), right.as_deref())?;
        let mut routes = self.routes(stage, columns.as_deref(), right.as_deref())?;
        // A line that is put aside is shown whole.
        let whole = self.late_is_used(&stage.name) || self.spec.dead_letters;
        if stage.tasks > 1 && !whole {
            project(&mut op, &mut routes);
        }
        let has_late = match &op {
            Op::Aggregate(spec) => spec.window.is_some(),
            Op::Join(_) => true,
            _ => false,
        };
        let input = self.input(stage, &feeds);
        let best = match &op {
            Op::Aggregate(spec) if spec.best.is_some() && stage.tasks > 1 => Some(spec.clone()),
            _ => None,
        };
        let node = self.add(&stage.name, op, stage.tasks, input.clone(), origins, after);
        if let Input::Nodes(nodes) = input {
            for ((from, route), feed) in nodes.into_iter().zip(routes).zip(&feeds) {
                let late = matches!(feed.input, FeedInput::Node(of, true) if of == from);
                self.link(from, node, route, late);
            }
        }
        if has_late {
            let columns = match &stage.op {
                OpSpec::Join { .. } => None,
                _ => columns,
            };
            self.late.insert(&stage.name, (node, columns));
        }
        let named = match best {
            Some(spec) => self.gather_best(node, &stage.name, spec),
            None => node,
        };
        self.by_name.insert(&stage.name, named);
        Ok(())
    }

    /// Windows need to know how far event time is, from all their sources or (at their end) from none.
    fn check_clocks(&self, stage: &StageSpec, origins: &BTreeSet<usize>) -> Result<(), Fault> {
        let timed = match &stage.op {
            OpSpec::Aggregate(spec) => spec.window.is_some(),
            OpSpec::Join { .. } => true,
            OpSpec::Dedup { within, .. } => within.is_some(),
            _ => false,
        };
        let some = origins.iter().any(|&at| self.clocks[at].is_some());
        for &at in origins {
            let source = &self.spec.sources[at];
            if timed && self.clocks[at].is_none() && (some || source.follow) {
                let what = format!(
                    "the stage `{}` works by event time, but the source `{}` does not say when its lines happened",
                    stage.name, source.name
                );
                let remedy = "add `time = \"column\"` (and `time_format`) to the source";
                return Err(Fault::new(source.at, what, remedy));
            }
        }
        Ok(())
    }

    fn late_is_used(&self, name: &str) -> bool {
        let stages = self.spec.stages.iter().flat_map(|stage| &stage.from);
        let sinks = self.spec.sinks.iter().flat_map(|sink| &sink.from);
        stages
            .chain(sinks)
            .any(|from| from.late && from.name == name)
    }

    /// One route per input; `Straight` stands for "whatever fits".
    fn routes(
        &self,
        stage: &StageSpec,
        columns: Option<&[String]>,
        right: Option<&[String]>,
    ) -> Result<Vec<Route>, Fault> {
        let route = match &stage.partition {
            Partition::Key(by) if stage.tasks > 1 => Route::Key {
                by: numbers(by, columns)?,
                keep: None,
            },
            Partition::Broadcast => Route::Broadcast,
            Partition::Range(key, ranges) => Route::Range {
                column: number(key, columns)?,
                ranges: ranges.clone(),
            },
            _ => Route::Straight,
        };
        let mut routes = vec![route; stage.from.len()];
        if let (OpSpec::Join { on, .. }, Some(Route::Key { by, .. })) =
            (&stage.op, routes.last_mut())
        {
            *by = numbers(&on[1], right)?;
        }
        // Without columns to name in the line, a key of none is the whole line.
        Ok(routes)
    }

    /// Reads its source itself, or is fed by nodes that do.
    fn input(&mut self, stage: &StageSpec, feeds: &[Feed]) -> Input {
        let spread = stage.tasks > 1 && matches!(stage.partition, Partition::Key(_))
            || matches!(stage.partition, Partition::Broadcast | Partition::Range(..));
        if let (
            [
                Feed {
                    input: FeedInput::Source(at),
                    ..
                },
            ],
            false,
        ) = (feeds, spread)
        {
            return Input::Source(*at);
        }
        let results = |node: NodeId| {
            let of_node =
                |feed: &Feed| matches!(feed.input, FeedInput::Node(of, false) if of == node);
            feeds.iter().any(of_node)
        };
        let nodes = feeds
            .iter()
            .map(|feed| match feed.input {
                // Between two tasks there is one channel: what a node puts out and what came too late there take two ways.
                FeedInput::Node(node, true) if results(node) => {
                    let late = self.add(
                        &format!("{}.late", stage.name),
                        Op::Pass,
                        self.steps[node as usize].tasks,
                        Input::Nodes(vec![node]),
                        feed.origins.clone(),
                        feed.columns.clone(),
                    );
                    self.link(node, late, Route::Straight, true);
                    late
                }
                FeedInput::Node(node, _) => node,
                FeedInput::Source(at) => self.add(
                    &format!("{}.read", stage.name),
                    Op::Pass,
                    stage.tasks,
                    Input::Source(at),
                    feed.origins.clone(),
                    feed.columns.clone(),
                ),
            })
            .collect();
        Input::Nodes(nodes)
    }

    fn operator(
        &mut self,
        stage: &StageSpec,
        columns: Option<&[String]>,
        right: Option<&[String]>,
    ) -> Result<(Op, Columns), Fault> {
        match &stage.op {
            OpSpec::Aggregate(spec) => aggregate(spec, columns),
            OpSpec::Lookup(spec) => self.lookup(spec, columns),
            OpSpec::Exec {
                exec,
                columns: after,
            } => {
                let state = match (exec.state, &stage.partition) {
                    (Some(_), Partition::Key(by)) => Some(numbers(by, columns)?),
                    _ => None,
                };
                let spec = exec.clone();
                Ok((Op::Exec { spec, state }, after.clone()))
            }
            OpSpec::Join {
                on,
                time,
                within_ms,
            } => {
                let (left, other) = (self.columns_of(stage, 0), self.columns_of(stage, 1));
                let side = |at: usize, columns: Option<&[String]>| {
                    Ok(Side {
                        on: numbers(&on[at], columns)?,
                        time: number(&time[at].column, columns)?,
                        format: time[at].format,
                    })
                };
                let sides = [side(0, left.as_deref())?, side(1, other.as_deref())?];
                let after = columns
                    .zip(right)
                    .map(|(left, right)| [left, right].concat());
                let spec = JoinSpec {
                    sides,
                    columns: [left, other],
                    within_ms: *within_ms,
                };
                Ok((Op::Join(spec), after))
            }
            other => operator(other, columns),
        }
    }

    fn columns_of(&self, stage: &StageSpec, at: usize) -> Columns {
        let from = stage.from.get(at)?;
        self.feed(from).ok()?.columns
    }

    fn lookup(
        &mut self,
        spec: &LookupSpec,
        columns: Option<&[String]>,
    ) -> Result<(Op, Columns), Fault> {
        let source = self.file;
        self.file += 1;
        let of_file = self.sources[source].columns.clone().unwrap_or_default();
        let file_on = numbers(&spec.file_on, Some(&of_file))?;
        let add: Vec<usize> = (0..of_file.len())
            .filter(|at| !file_on.contains(at))
            .collect();
        let after = columns.map(|columns| {
            let added = select_names(&add, Some(&of_file)).unwrap_or_default();
            [columns, &added].concat()
        });
        let lookup = Lookup {
            source,
            on: numbers(&spec.on, columns)?,
            file_on,
            add,
            keep_all: spec.keep_all,
        };
        Ok((Op::Lookup(lookup), after))
    }

    /// One task puts the best of all tasks together.
    fn gather_best(&mut self, from: NodeId, name: &str, spec: Aggregate) -> NodeId {
        let first = if spec.window.is_some() { 2 } else { 0 };
        let keys = spec.by.len();
        let gather = Aggregate {
            kind: Kind::Sum,
            by: (first..first + keys).collect(),
            of: Some(first + keys),
            window: spec.window.map(|window| WindowSpec {
                cut: Cut::Given,
                // The stage before it has waited for late lines.
                lateness_ms: 0,
                ..window
            }),
            ..spec
        };
        let origins = self.origins[from as usize].clone();
        let columns = self.columns[from as usize].clone();
        let input = Input::Nodes(vec![from]);
        let name = format!("{name}.best");
        let node = self.add(&name, Op::Aggregate(gather), 1, input, origins, columns);
        self.link(from, node, Route::Straight, false);
        node
    }

    pub fn add(
        &mut self,
        name: &str,
        op: Op,
        tasks: u32,
        input: Input,
        origins: BTreeSet<usize>,
        columns: Columns,
    ) -> NodeId {
        self.steps.push(Step {
            name: name.to_owned(),
            op,
            tasks,
            input,
            next: Vec::new(),
            sinks: Vec::new(),
            origins: origins.iter().copied().collect(),
        });
        self.columns.push(columns);
        self.origins.push(origins);
        (self.steps.len() - 1) as NodeId
    }

    pub fn link(&mut self, from: NodeId, node: NodeId, route: Route, late: bool) {
        let (before, after) = (
            self.steps[from as usize].tasks,
            self.steps[node as usize].tasks,
        );
        let route = match route {
            Route::Straight if before != after => Route::RoundRobin,
            other => other,
        };
        let next = Next { node, route, late };
        self.steps[from as usize].next.push(next);
    }

    pub fn unknown(&self, from: &From) -> Fault {
        let mut known: Vec<&str> = self.spec.sources.iter().map(|s| s.name.as_str()).collect();
        known.extend(self.by_name.keys());
        let remedy = nearest(&from.name, &known);
        let what = format!(
            "`from = \"{}\"` names no source, and no stage above",
            from.name
        );
        Fault::new(from.at, what, remedy)
    }
}

/// Refuses an input that is one of those `before`.
pub fn once(before: &[From], from: &From) -> Result<(), Fault> {
    let same = |other: &From| (&other.name, other.late) == (&from.name, from.late);
    match before.iter().any(same) {
        true => {
            let what = format!("`{}` is named twice", from.name);
            Err(Fault::new(from.at, what, "name each input once"))
        }
        false => Ok(()),
    }
}
