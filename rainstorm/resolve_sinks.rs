//! The sinks of a plan: which node writes which file, each file once.

use crate::aggregate::{Aggregate, Kind};
use crate::columns::number;
use crate::glob;
use crate::plan::{Input, NodeId, Op, Parts, Route, SinkPlan, default_output};
use crate::receipt::receipt_path;
use crate::resolve::{Builder, FeedInput, once};
use crate::spec::SinkSpec;
use crate::spec_tree::Fault;
use std::collections::{BTreeMap, BTreeSet};

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
}
