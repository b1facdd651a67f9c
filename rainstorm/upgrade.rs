//! A job's positions under another plan: what kept its meaning keeps its state and its place in the sources, anything else
//! is a fault with its place in the new spec. No I/O; `docs/JOBS.md` has the rules.

use crate::follow::file_task;
use crate::meaning;
use crate::plan::{Input, NodeId, Plan, SinkPlan};
use crate::position::{Border, FilePosition, Inherited, Positions, Share, TaskPosition};
use crate::reader;
use crate::shares;
use crate::spec::{Spec, StageSpec};
use crate::spec_tree::Fault;
use std::collections::BTreeMap;

/// How to begin anew, where a job cannot go on.
pub const ANEW: &str = "or begin anew: cancel the job, remove its folder and save the spec again";

/// A spec with its plan.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    pub spec: &'a Spec,
    pub plan: &'a Plan,
}

/// Where the tasks of the new plan begin.
#[derive(Debug)]
pub struct Onto {
    pub tasks: Vec<Vec<TaskPosition>>,
    /// To the plan of the last committed job epoch.
    pub border: Border,
    /// What has changed, for the job's log.
    pub notes: Vec<String>,
}

struct Change<'a> {
    old: Version<'a>,
    new: Version<'a>,
    positions: &'a Positions,
    /// The files of state of a task.
    states: &'a dyn Fn(NodeId, u32) -> Vec<Inherited>,
    /// For each new source the old one.
    kept: Vec<Option<usize>>,
    notes: Vec<String>,
}

/// The positions of `new`, from those that `old` has come to.
pub fn onto(
    positions: &Positions,
    states: &dyn Fn(NodeId, u32) -> Vec<Inherited>,
    old: Version<'_>,
    new: Version<'_>,
) -> Result<Onto, Fault> {
    let mut change = Change {
        kept: meaning::sources(old.spec, new.spec)?,
        old,
        new,
        positions,
        states,
        notes: Vec::new(),
    };
    change.check_states()?;
    change.check_sinks()?;
    let goes_on = change.readers()?;
    let mut tasks: Vec<Vec<TaskPosition>> = Vec::new();
    for (node, reads) in (0..).zip(&goes_on) {
        let of_node = change.node(node, *reads, &tasks)?;
        tasks.push(of_node);
    }
    // A plan that has committed nothing was none.
    let border = match &positions.border {
        None => Border {
            goes_on,
            savepoint: None,
        },
        Some(border) => {
            let before = |node: Option<NodeId>| border.goes_on.get(node? as usize).copied()?;
            Border {
                goes_on: goes_on.into_iter().map(before).collect(),
                savepoint: border.savepoint.clone(),
            }
        }
    };
    Ok(Onto {
        tasks,
        border,
        notes: change.notes,
    })
}

impl Change<'_> {
    fn has_ended(&self, old: NodeId) -> bool {
        self.positions.tasks[old as usize]
            .iter()
            .all(|task| task.ended)
    }

    fn old_node(&self, name: &str) -> Option<NodeId> {
        let at = self
            .old
            .plan
            .steps
            .iter()
            .position(|step| step.name == name)?;
        Some(at as NodeId)
    }

    fn old_state(&self, stage: &StageSpec) -> Option<String> {
        let name = |at: usize| self.old.spec.sources.get(at).map(|s| s.name.clone());
        meaning::of_state(stage, self.old.plan, |at| name(at).unwrap_or_default())
    }

    /// Sources are called as they were before.
    fn new_state(&self, stage: &StageSpec) -> Option<String> {
        let name = |at: usize| match self.kept.get(at).copied().flatten() {
            Some(old) => self.old.spec.sources[old].name.clone(),
            None => format!("new {at}"),
        };
        meaning::of_state(stage, self.new.plan, name)
    }

    /// Every stage with state means what it meant, or is gone without another in its place.
    fn check_states(&mut self) -> Result<(), Fault> {
        let (old, new) = (self.old.spec, self.new.spec);
        let mut gone = Vec::new();
        for stage in &old.stages {
            let Some(state) = self.old_state(stage) else {
                continue;
            };
            let Some(now) = new.stages.iter().find(|other| other.name == stage.name) else {
                gone.push(&stage.name);
                continue;
            };
            if self.new_state(now).as_ref() != Some(&state) {
                let what = format!(
                    "the stage `{}` has state, which is of `{state}`",
                    stage.name
                );
                let remedy = format!("leave that as it was, {ANEW}");
                return Err(Fault::new(now.at, what, remedy));
            }
        }
        let begun = new.stages.iter().find(|stage| {
            let was = old.stages.iter().find(|other| other.name == stage.name);
            self.new_state(stage).is_some() && was.is_none_or(|was| self.old_state(was).is_none())
        });
        if let (Some(lost), Some(begun)) = (gone.first(), begun) {
            let what = format!(
                "`{}` begins without state, and the state of `{lost}` is lost",
                begun.name
            );
            let remedy = format!(
                "call it `{lost}` if it is the same, remove the one before the other is added, {ANEW}"
            );
            return Err(Fault::new(begun.at, what, remedy));
        }
        let words = |name: &&String| format!("stage `{name}` and its state are gone");
        self.notes.extend(gone.iter().map(words));
        Ok(())
    }

    /// A file goes on as it began.
    fn check_sinks(&self) -> Result<(), Fault> {
        let sinks = |plan: &'_ Plan| -> Vec<SinkPlan> {
            let steps = plan.steps.iter();
            steps.flat_map(|step| step.sinks.clone()).collect()
        };
        let old = sinks(self.old.plan);
        for sink in sinks(self.new.plan) {
            let mut same = old.iter().filter(|old| old.path == sink.path);
            if same.any(|old| !old.layout.goes_on_as(&sink.layout)) {
                let what = format!(
                    "the sink `{}` would go on in another format, or with other columns in its header",
                    sink.path
                );
                let remedy = format!("give it another `path`, leave it as it was, {ANEW}");
                return Err(Fault::new(self.new.spec.sink_at(&sink.path), what, remedy));
            }
        }
        Ok(())
    }

    /// For each new node that reads a source: the old one whose input it goes on with.
    fn readers(&self) -> Result<Vec<Option<NodeId>>, Fault> {
        let all = |version: Version<'_>| -> BTreeMap<(usize, String), NodeId> {
            let steps = version.plan.steps.iter().enumerate();
            let readers = steps.filter_map(|(node, step)| {
                Some(((step.source()?, step.stage().to_owned()), node as NodeId))
            });
            readers.collect()
        };
        let (old, new) = (all(self.old), all(self.new));
        let mut goes_on = vec![None; self.new.plan.steps.len()];
        for (at, source) in self.new.spec.sources.iter().enumerate() {
            let Some(before) = self.kept[at] else {
                continue;
            };
            let mut left: Vec<NodeId> = Vec::new();
            for ((of, stage), &node) in &old {
                match new.get(&(at, stage.clone())) {
                    _ if *of != before => {}
                    Some(&same) => goes_on[same as usize] = Some(node),
                    None => left.push(node),
                }
            }
            let begun = new.iter().filter(|((of, stage), _)| {
                *of == at && !old.contains_key(&(before, stage.clone()))
            });
            let begun: Vec<NodeId> = begun.map(|(_, &node)| node).collect();
            match (&left[..], &begun[..]) {
                ([], _) | (_, []) => {}
                // What now reads the source goes on where the stage stood that did.
                ([left], [begun]) => goes_on[*begun as usize] = Some(*left),
                _ => {
                    let what = format!(
                        "several stages begin and cease to read the source `{}`: which goes on for which cannot be told",
                        source.name
                    );
                    let remedy = format!("change one of them at a time, {ANEW}");
                    return Err(Fault::new(source.at, what, remedy));
                }
            }
        }
        Ok(goes_on)
    }

    /// The tasks of a new node; those of nodes before it are known.
    fn node(
        &mut self,
        node: NodeId,
        reads: Option<NodeId>,
        known: &[Vec<TaskPosition>],
    ) -> Result<Vec<TaskPosition>, Fault> {
        let step = &self.new.plan.steps[node as usize];
        let mut tasks: Vec<TaskPosition> = match reads {
            Some(old) => self.share_out(old, node),
            None => (0..step.tasks)
                .map(|task| TaskPosition::first(self.new.plan, step, task))
                .collect(),
        };
        if let Input::Nodes(_) = step.input {
            for (number, task) in (0..).zip(&mut tasks) {
                let mut feeders = self.new.plan.feeders(node, number).into_iter();
                task.ended = feeders.all(|(node, task)| known[node as usize][task as usize].ended);
            }
        }
        let same = self.old_node(&step.name);
        self.note_tasks(node, same);
        let Some(old) = same.filter(|_| step.op.has_state()) else {
            return Ok(tasks);
        };
        if self.has_ended(old) {
            if tasks.iter().all(|task| task.ended) {
                return Ok(tasks);
            }
            let stage = self.new.spec.stages.iter().find(|s| s.name == step.stage());
            let what = format!(
                "the stage `{}` has put its result out already",
                step.stage()
            );
            let remedy = format!("give what comes to it now to another stage, {ANEW}");
            return Err(Fault::new(stage.map_or(0, |stage| stage.at), what, remedy));
        }
        let before = &self.positions.tasks[old as usize];
        let is_open = |number: usize| match before.get(number) {
            Some(was) if before.len() == step.tasks as usize => !was.ended,
            _ => true,
        };
        if (0..)
            .zip(&tasks)
            .any(|(number, task)| task.ended && is_open(number))
        {
            let stage = self.new.spec.stages.iter().find(|s| s.name == step.stage());
            let what = format!(
                "what comes to the stage `{}` has ended; its state would never be put out",
                step.stage()
            );
            let remedy = format!("leave it an input that goes on, {ANEW}");
            return Err(Fault::new(stage.map_or(0, |stage| stage.at), what, remedy));
        }
        let all: Vec<Inherited> = (0..before.len() as u32)
            .flat_map(|task| (self.states)(old, task))
            .collect();
        for (number, task) in tasks.iter_mut().enumerate().filter(|(_, task)| !task.ended) {
            match before.get(number) {
                // Its file is called by its node and number.
                Some(was) if before.len() == step.tasks as usize && old == node => {
                    task.state = was.state;
                    task.inherits.clone_from(&was.inherits);
                }
                Some(_) if before.len() == step.tasks as usize => {
                    task.inherits = (self.states)(old, number as u32);
                }
                _ => task.inherits.clone_from(&all),
            }
        }
        // The same file may have been inherited by several tasks.
        for task in &mut tasks {
            task.inherits.sort();
            task.inherits.dedup();
        }
        Ok(tasks)
    }

    fn note_tasks(&mut self, node: NodeId, old: Option<NodeId>) {
        let step = &self.new.plan.steps[node as usize];
        if step.name != step.stage() {
            return;
        }
        let before = old.map(|old| self.old.plan.steps[old as usize].tasks);
        self.notes.extend(match before {
            None => Some(format!("stage `{}` is new", step.name)),
            Some(before) if before != step.tasks => Some(format!(
                "stage `{}` has {} tasks instead of {before}",
                step.name, step.tasks
            )),
            Some(_) => None,
        });
    }

    /// What the tasks of node `old` have still to read, for those of `node`.
    fn share_out(&self, old: NodeId, node: NodeId) -> Vec<TaskPosition> {
        let step = &self.new.plan.steps[node as usize];
        let before = &self.positions.tasks[old as usize];
        let ended = self.has_ended(old);
        let bare = |shares: Vec<Share>, files: Vec<FilePosition>| TaskPosition {
            ended,
            shares,
            files,
            ..TaskPosition::default()
        };
        if before.len() == step.tasks as usize {
            let same = |task: &TaskPosition| TaskPosition {
                ended: task.ended,
                ..bare(task.shares.clone(), task.files.clone())
            };
            return before.iter().map(same).collect();
        }
        let source = self.old.plan.steps[old as usize]
            .source()
            .unwrap_or_default();
        if self.old.plan.sources[source].follow {
            let files = before.iter().flat_map(|task| &task.files);
            let of_task = |number: u32| {
                let mine = |file: &&FilePosition| file_task(file.ino, step.tasks) == number;
                bare(Vec::new(), files.clone().filter(mine).copied().collect())
            };
            return (0..step.tasks).map(of_task).collect();
        }
        let pinned = &self.positions.sources[source];
        let firsts = reader::firsts(pinned, self.positions.chunk_bytes);
        let all: Vec<Share> = before
            .iter()
            .flat_map(|task| &task.shares)
            .copied()
            .collect();
        let chunks = firsts.last().copied().unwrap_or_default();
        let dealt = shares::deal(&all, chunks, step.tasks).into_iter();
        dealt.map(|shares| bare(shares, Vec::new())).collect()
    }
}
