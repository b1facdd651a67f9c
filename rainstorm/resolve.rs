//! Makes the plan of a spec: names become nodes, columns numbers, stages by key get edges by key.

use crate::aggregate::{Aggregate, Kind};
use crate::columns::{Columns, aggregate, number, numbers, operator, project, select_names};
use crate::join::{JoinSpec, Side};
use crate::plan::{
    ClockPlan, Input, Lookup, Next, NodeId, Op, Parts, Pinned, Plan, Route, SinkPlan, SourcePlan,
    Step, default_output,
};
use crate::receipt::receipt_path;
use crate::spec::{Format, From, LookupSpec, OpSpec, Partition, SinkSpec, Spec, StageSpec};
use crate::spec_tree::{Fault, nearest};
use crate::window::{Cut, WindowSpec};
use std::collections::{BTreeMap, BTreeSet};

struct Builder<'a> {
    spec: &'a Spec,
    sources: &'a [Pinned],
    steps: Vec<Step>,
    /// Of what each node puts out.
    columns: Vec<Columns>,
    /// Sources that each node's lines come from.
    origins: Vec<BTreeSet<usize>>,
    /// The node whose results a stage's name means.
    by_name: BTreeMap<&'a str, NodeId>,
    /// The node with a stage's late lines, and their columns.
    late: BTreeMap<&'a str, (NodeId, Columns)>,
    clocks: Vec<Option<ClockPlan>>,
    /// Number of the next file that lines are joined with.
    file: usize,
}

/// What a `from` means.
struct Feed {
    input: FeedInput,
    columns: Columns,
    origins: BTreeSet<usize>,
}

#[derive(Clone, Copy)]
enum FeedInput {
    Source(usize),
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
                csv: source.format == Format::Csv,
                json: match source.format {
                    Format::Json => source.columns.clone(),
                    _ => None,
                },
                follow: source.follow,
                at_end: source.at_end,
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
            dead_letters: spec.dead_letters,
            sandbox_required: spec.sandbox_required,
            sources: plans,
            steps: builder.steps,
        })
    }
}

impl<'a> Builder<'a> {
    fn feed(&self, from: &From) -> Result<Feed, Fault> {
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
            let twice = |other: &From| (&other.name, other.late) == (&from.name, from.late);
            if stage.from[..at].iter().any(twice) {
                let what = format!("`{}` is named twice", from.name);
                return Err(Fault::new(from.at, what, "name each input once"));
            }
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
                // Results come as late as lines may: the stage puts them out when the watermark is that far past their end.
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

    fn add(
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

    fn link(&mut self, from: NodeId, node: NodeId, route: Route, late: bool) {
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

    fn sinks(&mut self, name: &str) -> Result<(), Fault> {
        let mut taken: BTreeSet<String> =
            self.spec.sources.iter().map(|s| s.path.clone()).collect();
        taken.insert(receipt_path(name));
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for sink in &self.spec.sinks {
            let path = sink.path.clone().unwrap_or_else(|| default_output(name));
            let inside = |outer: &str, inner: &str| {
                let rest = inner.strip_prefix(outer);
                rest.is_some_and(|rest| rest.starts_with('/'))
            };
            let holds = |other: &String| sink.folder && inside(&path, other);
            if taken.contains(&path)
                || taken.iter().any(holds)
                || folders.iter().any(|folder| inside(folder, &path))
            {
                let how = match taken.contains(&path) {
                    true => "is",
                    false => "holds, or is in,",
                };
                let what = format!("`{path}` {how} a source or another sink of this job");
                return Err(Fault::new(sink.at, what, "give each its own file"));
            }
            taken.insert(path.clone());
            if sink.folder {
                folders.insert(path.clone());
            }
            self.sink(sink, path)?;
        }
        if self.spec.sinks.is_empty() {
            let ends: Vec<NodeId> = (0..self.steps.len() as NodeId)
                .filter(|&n| !self.steps[n as usize].next.iter().any(|next| !next.late))
                .collect();
            let [end] = ends[..] else {
                let what = "several stages end the job and there is no [[sink]]";
                let at = self.spec.stages.last().map_or(0, |stage| stage.at);
                return Err(Fault::new(at, what, "add a [[sink]] for each"));
            };
            self.write(end, default_output(name), false, Parts::One);
        }
        self.mark_alone();
        let loose = self.steps.iter().find(|step| {
            let on = step.next.iter().any(|next| !next.late);
            !on && !step.sinks.iter().any(|sink| !sink.late)
        });
        let Some(loose) = loose else { return Ok(()) };
        let at = self
            .spec
            .stages
            .iter()
            .find(|stage| stage.name == loose.name)
            .map_or(0, |stage| stage.at);
        let what = format!("nothing uses the stage `{}`", loose.name);
        Err(Fault::new(at, what, "add a [[sink]] or leave it out"))
    }

    fn mark_alone(&mut self) {
        let mut writers: BTreeMap<String, u32> = BTreeMap::new();
        for step in &self.steps {
            for sink in &step.sinks {
                *writers.entry(sink.path.clone()).or_default() += step.tasks;
            }
        }
        let sinks = self.steps.iter_mut().flat_map(|step| &mut step.sinks);
        sinks.for_each(|sink| {
            sink.alone = writers[&sink.path] == 1 || sink.parts == Parts::Tasks;
        });
    }

    fn write(&mut self, node: NodeId, path: String, late: bool, parts: Parts) {
        let sink = SinkPlan {
            path,
            late,
            alone: false,
            parts,
        };
        self.steps[node as usize].sinks.push(sink);
    }

    fn sink(&mut self, sink: &SinkSpec, path: String) -> Result<(), Fault> {
        let mut nodes = Vec::new();
        let mut parts = Vec::new();
        for from in &sink.from {
            let feed = self.feed(from)?;
            match feed.input {
                FeedInput::Node(node, late) => nodes.push((node, late)),
                FeedInput::Source(_) => return Err(self.unknown(from)),
            }
            parts.push(match (&sink.by, sink.folder) {
                (Some(by), _) => Parts::Values(number(by, feed.columns.as_deref())?),
                (None, true) => Parts::Tasks,
                (None, false) => Parts::One,
            });
        }
        if !sink.json {
            for ((node, late), parts) in nodes.into_iter().zip(parts) {
                self.write(node, path.clone(), late, parts);
            }
            return Ok(());
        }
        let fits = match nodes[..] {
            [(node, false)] => match &self.steps[node as usize].op {
                Op::Aggregate(spec) => {
                    let plain = spec.window.is_none() && spec.best.is_none() && !spec.changelog;
                    (plain && spec.by.len() == 1).then_some(node)
                }
                _ => None,
            },
            _ => None,
        };
        let Some(node) = fits else {
            let what = "`format = \"json\"` needs one stage that works one result out for each value of one column";
            return Err(Fault::new(sink.at, what, "use \"lines\""));
        };
        // One task gathers every total and writes one document (fault R8).
        let gather = Aggregate {
            kind: Kind::Sum,
            by: vec![0],
            of: Some(1),
            best: None,
            window: None,
            json: true,
            changelog: false,
        };
        let name = format!("{}.json", self.steps[node as usize].name);
        let origins = self.origins[node as usize].clone();
        let input = Input::Nodes(vec![node]);
        let gather = self.add(&name, Op::Aggregate(gather), 1, input, origins, None);
        self.write(gather, path, false, Parts::One);
        self.link(node, gather, Route::Straight, false);
        Ok(())
    }

    fn unknown(&self, from: &From) -> Fault {
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
