//! The sinks of a plan: which node writes which file, each file once.

use crate::aggregate::{Aggregate, Kind};
use crate::columns::{Columns, number, numbers};
use crate::glob;
use crate::json_rows::Members;
use crate::layout::{HEADER_BYTES_MAX, Layout};
use crate::plan::{Input, NodeId, Op, Parts, Route, SinkPlan, default_output};
use crate::receipt::receipt_path;
use crate::resolve::{Builder, FeedInput, once};
use crate::spec::{From, Partition, SinkFormat, SinkSpec};
use crate::spec_tree::Fault;
use std::collections::{BTreeMap, BTreeSet};

/// A node, and whether what came too late there is meant.
type Output = (NodeId, bool);

impl Builder<'_> {
    /// What stages put out is written where the spec says, or to the job's default output.
    pub fn sinks(&mut self, name: &str) -> Result<(), Fault> {
        // What patterns name is looked at elsewhere.
        let files = self.spec.sources.iter().map(|source| &source.path);
        let files = files.filter(|path| !glob::is_pattern(path));
        let mut taken: BTreeSet<String> = files.cloned().collect();
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
            self.write(
                (end, false),
                default_output(name),
                Parts::One,
                Layout::Lines,
            );
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

    fn write(&mut self, (node, late): Output, path: String, parts: Parts, layout: Layout) {
        let sink = SinkPlan {
            path,
            late,
            alone: false,
            parts,
            layout,
        };
        self.steps[node as usize].sinks.push(sink);
    }

    fn sink(&mut self, sink: &SinkSpec, path: String) -> Result<(), Fault> {
        let mut nodes = Vec::new();
        let mut parts = Vec::new();
        let mut layouts: Vec<Layout> = Vec::new();
        for (at, from) in sink.from.iter().enumerate() {
            once(&sink.from[..at], from)?;
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
            layouts.push(layout(sink, from, feed.columns)?);
            if sink.format == SinkFormat::Csv && layouts[0] != layouts[at] {
                let what = format!(
                    "`{}` has other columns than `{}`, but a CSV file has one header",
                    from.name, sink.from[0].name
                );
                let remedy = "make them alike with `select` or `map`, or give each its own sink";
                return Err(Fault::new(from.at, what, remedy));
            }
        }
        if let (Some(by), SinkFormat::Csv) = (&sink.by, sink.format) {
            let one = match (&nodes[..], &parts[..]) {
                (&[output], &[Parts::Values(column)]) => self.one_task_each(output, column)?,
                _ => false,
            };
            if !one {
                let what = "several tasks may write a file of this CSV sink, which one of them has to begin with its header";
                let remedy = "let one stage write it, with `tasks = 1`, or with `partition = \"key\"` and the column of `by` as `key`";
                return Err(Fault::new(by.at, what, remedy));
            }
        }
        if sink.format != SinkFormat::Json {
            for ((output, parts), layout) in nodes.into_iter().zip(parts).zip(layouts) {
                self.write(output, path.clone(), parts, layout);
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
        self.write((gather, false), path, Parts::One, Layout::Lines);
        self.link(node, gather, Route::Straight, false);
        Ok(())
    }

    /// Whether lines with equal values in that column of what a node puts out always come from the same of its tasks.
    fn one_task_each(&self, (node, late): Output, column: usize) -> Result<bool, Fault> {
        let step = &self.steps[node as usize];
        let stage = self.spec.stages.iter().find(|s| s.name == step.stage());
        let Some(stage) = stage.filter(|stage| stage.name == step.name) else {
            return Ok(step.tasks == 1);
        };
        if stage.scale.map_or(step.tasks, |bounds| bounds.max) == 1 {
            return Ok(true);
        }
        let key = match &stage.partition {
            Partition::Key(by) if by.len() == 1 => &by[0],
            Partition::Range(by, _) => by,
            _ => return Ok(false),
        };
        let key = number(key, self.feed(&stage.from[0])?.columns.as_deref())?;
        Ok(match (&step.op, late) {
            (Op::Aggregate(spec), false) => column == if spec.window.is_some() { 2 } else { 0 },
            (Op::Select(columns), false) => columns.get(column) == Some(&key),
            (Op::Filter { .. } | Op::Dedup(_) | Op::Lookup(_) | Op::Join(_), false) | (_, true) => {
                column == key
            }
            _ => false,
        })
    }
}

/// How a sink writes what comes `from` a stage with these columns.
fn layout(sink: &SinkSpec, from: &From, columns: Columns) -> Result<Layout, Fault> {
    let (format, columns) = match (sink.format, columns) {
        (SinkFormat::Lines | SinkFormat::Json, _) => return Ok(Layout::Lines),
        (SinkFormat::Csv, columns) => ("csv", columns),
        (SinkFormat::JsonLines, columns) => ("json-lines", columns),
    };
    let Some(columns) = columns else {
        let what = format!(
            "`format = \"{format}\"` needs names of columns, and nothing names those of `{}`",
            from.name
        );
        let remedy = "add `columns = […]` to the stage or its source, or use `format = \"lines\"`";
        return Err(Fault::new(from.at, what, remedy));
    };
    let remedy = "name the columns otherwise, with `columns = […]`, or use `format = \"lines\"`";
    if sink.format == SinkFormat::Csv {
        let unfit = columns.iter().find(|name| name.contains(['\n', '\r']));
        let layout = Layout::Csv(columns.clone());
        let bytes = layout.header().map_or(0, |header| header.len());
        let what = match unfit {
            Some(name) => format!("the name {name:?} of a column holds a line end"),
            None if bytes > HEADER_BYTES_MAX => {
                format!("a header of {bytes} bytes is longer than {HEADER_BYTES_MAX}")
            }
            None => return Ok(layout),
        };
        return Err(Fault::new(from.at, what, remedy));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
        let what = format!("two columns of `{}` have the name `{twice}`", from.name);
        return Err(Fault::new(from.at, what, remedy));
    }
    let numbers = numbers(&sink.numbers, Some(&columns))?;
    Ok(Layout::JsonLines(Members::new(columns, &numbers)))
}
