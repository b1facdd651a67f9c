//! One task: takes lines from its source or inbox, works, passes on, and at each barrier saves and reports.

use crate::attempt::Context;
use crate::batch::Batch;
use crate::cell::Cell;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::event_time::EventMark;
use crate::exec::{Exec, Works};
use crate::given::{self, Given};
use crate::inbox::{Inbox, Item};
use crate::key::Keys;
use crate::links::Links;
use crate::load::Meter;
use crate::lookup::Index;
use crate::message::{Counters, Report, TaskId};
use crate::moment::{Moment, task_of};
use crate::operator::Operator;
use crate::paced::Paced;
use crate::plan::{Input, NodeId, Op};
use crate::planted::Planted;
use crate::position::TaskPosition;
use crate::process::Program;
use crate::receipt::Reads;
use crate::remembered::Remembered;
use crate::sink::Mark;
use crate::spec::{ExecSpec, Place};
use crate::state_log::{self, StateLog};
use crate::stateful::{Held, work_on};
use crate::stderr::Stderr;
use crate::{cache, sandbox};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::time::Instant;

/// Largest executable in bytes.
pub const EXECUTABLE_BYTES_MAX: usize = 256 << 20;

/// Runs task `id` from `start` until it ends or the attempt does.
pub async fn run(context: Arc<Context>, id: TaskId, start: TaskPosition) -> Result<()> {
    let mut operator = operator(&context, id, &start).await?;
    let state = operator.state().map(|_| {
        let target = context.target(context.state_path(id));
        StateLog::new(target, start.state, !start.inherits.is_empty())
    });
    let input = match &context.step(id.node).input {
        Input::Source(source) => In::Source(Box::new(Paced::new(&context, id, *source, &start)?)),
        Input::Nodes(nodes) => In::Tasks(context.inbox(id).ok_or(Error::Over)?, nodes.clone()),
    };
    let links = Links::open(context.clone(), id).await?;
    let task = Task {
        letters: Letters::new(context.plan.dead_letters),
        context,
        id,
        operator,
        state,
        links,
        position: start,
        counters: Counters::default(),
        meter: Meter::new(),
    };
    task.work(input).await
}

struct Task {
    context: Arc<Context>,
    id: TaskId,
    operator: Operator,
    state: Option<StateLog>,
    links: Links,
    position: TaskPosition,
    counters: Counters,
    letters: Letters,
    meter: Meter,
}

enum In {
    Source(Box<Paced>),
    /// And the nodes that feed it, in the order of the stage's `from`.
    Tasks(Arc<Inbox>, Vec<NodeId>),
}

impl Task {
    async fn work(mut self, mut input: In) -> Result<()> {
        let mut out = Vec::new();
        loop {
            let (number, item) = match &mut input {
                In::Source(paced) => {
                    let next = paced.next(&mut self.counters, &mut self.letters).await?;
                    self.meter.rested(paced.take_rested());
                    (0, next)
                }
                In::Tasks(inbox, nodes) => {
                    let began = Instant::now();
                    let (from, item) = inbox.next().await.map_err(Error::Attempt)?;
                    self.meter.rested(began.elapsed());
                    let number = nodes.iter().position(|&node| node == from);
                    (number.unwrap_or_default(), item)
                }
            };
            match item {
                Item::Lines(batch) => {
                    self.meter.came(batch.count());
                    let letters = &mut self.letters;
                    let applied = self.operator.apply(number, batch, &mut out, letters);
                    applied.await?;
                    self.pass(&mut out).await?;
                    while self.operator.go_on(&mut out, &mut self.letters)? {
                        self.pass(&mut out).await?;
                        tokio::task::yield_now().await;
                    }
                }
                Item::Barrier { id, last, mark } => {
                    self.operator.flush(&mut out, &mut self.letters).await?;
                    loop {
                        let more = match last {
                            true => self.operator.finish(&mut out)?,
                            false => self.operator.barrier(mark.at(), &mut out)?,
                        };
                        self.pass(&mut out).await?;
                        if !more {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    let (mut reads, mut behind) = (Vec::new(), 0);
                    if let In::Source(paced) = &mut input {
                        let (barrier, task) = (id, task_of(self.id));
                        self.context.tell(Moment::LetIn { barrier, task });
                        paced.save(&mut self.position);
                        reads = paced.take_reads();
                        behind = paced.behind().await?;
                    }
                    let concluded = self.barrier((id, last, mark), reads, behind).await?;
                    if last {
                        concluded.await?;
                        self.links.close().await;
                        return Ok(());
                    }
                    // The task works on while the disks do.
                    self.context.spawn(concluded);
                }
            }
            // Built-in operators never wait: give the member's other work its turn.
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&mut self, out: &mut Vec<Batch>) -> Result<()> {
        for batch in out.drain(..) {
            self.meter.passed(batch.count());
            self.links.send(batch, &mut self.letters).await?;
        }
        if let Some(late) = self.operator.take_late() {
            self.meter.passed(late.count());
            self.links.send_late(late, &mut self.letters).await?;
        }
        let dead = self.letters.take();
        if !dead.is_empty() {
            self.counters.dead += dead.len() as u64;
            self.links.bury(dead).await?;
        }
        Ok(())
    }

    /// Saves and passes the barrier on; what is returned reports it once everything is durable.
    async fn barrier(
        &mut self,
        (id, last, mark): (u64, bool, EventMark),
        reads: Vec<Reads>,
        behind: u64,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let mark = self.operator.holds(mark);
        let mut marks = self.links.barrier(id, last, mark).await?;
        if last {
            // A task that has ended never runs again: its state is not needed.
            self.position = TaskPosition {
                ended: true,
                state: None,
                inherits: Vec::new(),
                ..std::mem::take(&mut self.position)
            };
            if let Some(state) = self.state.take() {
                state.close().await;
            }
        } else if let (Some(log), Some(state)) = (&mut self.state, self.operator.state()) {
            let (file, mark) = log.save(state).await?;
            self.position.state = file;
            self.position.inherits.clear();
            marks.extend(mark);
        }
        let mut counters = std::mem::take(&mut self.counters);
        counters.rows_out = std::mem::take(&mut self.links.rows_out);
        if let Operator::Exec(exec) = &mut self.operator {
            counters.retries = exec.take_retries();
        }
        let report = Report {
            id: self.id,
            position: self.position.clone(),
            watermarks: Vec::new(),
            counters,
            reads,
            writes: self.links.take_writes(),
            files: self.links.take_files(),
            held: match self.operator.state() {
                Some(state) if !last => state.held(),
                _ => Held::default(),
            },
            load: self
                .meter
                .take(behind, self.links.take_blocked(), self.links.take_writing()),
            mark,
            program: match &self.operator {
                Operator::Exec(exec) => Some(exec.digest()),
                _ => None,
            },
            inputs: match &self.operator {
                Operator::Exec(exec) => exec.inputs(),
                _ => Vec::new(),
            },
        };
        Ok(conclude(self.context.clone(), id, report, marks))
    }
}

async fn conclude(
    context: Arc<Context>,
    barrier: u64,
    mut report: Report,
    marks: Vec<Mark>,
) -> Result<()> {
    report.watermarks = futures_util::future::try_join_all(marks.iter().map(Mark::durable)).await?;
    context.report(barrier, report);
    Ok(())
}

async fn operator(context: &Arc<Context>, id: TaskId, start: &TaskPosition) -> Result<Operator> {
    let op = &context.step(id.node).op;
    let room = || context.rooms.room();
    let keys = Keys {
        task: id.task,
        tasks: context.step(id.node).tasks,
    };
    let mut operator = match (op, Operator::built_in(op, room)) {
        (_, Some(operator)) => operator,
        (Op::Exec { spec, state }, None) => {
            let works = match &context.options.stand_in {
                Some(_) if state.is_some() => {
                    let what = format!("operator {}: what stands in for it here", spec.place);
                    return Err(Error::Job(format!("{what} keeps no state")));
                }
                Some(stand_in) => Works::StandIn(stand_in.clone()),
                None => Works::Program(program(context, id, spec).await?),
            };
            let columns = state.as_ref().map(Vec::len);
            let remembered = columns.map(|columns| Remembered::new(keys, columns, room()));
            Operator::Exec(Box::new(Exec::new(spec.clone(), works, remembered)))
        }
        (Op::Lookup(spec), None) => {
            Operator::Lookup(Box::new(Index::load(context, id.node, spec.clone()).await?))
        }
        (_, None) => return Err(Error::Job(format!("task {id} has no operator"))),
    };
    if let Some(state) = operator.state() {
        let mut states = start.states(&context.info, id.node, id.task);
        if context.options.planted == Some(Planted::StateForgotten) {
            states.clear();
        }
        for file in states {
            state_log::restore(&*context.storage, &file, keys, state).await?;
        }
        work_on(state, |state| state.restored())?;
    }
    Ok(operator)
}

async fn program(context: &Context, id: TaskId, spec: &ExecSpec) -> Result<Program> {
    let (owner, place) = (context.owner(), &spec.place);
    if !sandbox::can_become(owner) {
        let what = format!(
            "operator {place}: this member cannot run programs as user {}",
            owner.uid
        );
        return Err(Error::Job(format!(
            "{what}; run it as root, or drop the spec as the user that it runs as"
        )));
    }
    let (path, digest) = match place {
        Place::Stored(path) => {
            let stored = context
                .storage
                .read_small(path, owner, EXECUTABLE_BYTES_MAX);
            let (content, dir) = (stored.await?, context.options.cache_dir.clone());
            local(place, move || cache::publish(&dir, &content)).await?
        }
        Place::Member(name) => {
            let found = name.clone();
            let found = local(place, move || cache::find(&found, EXECUTABLE_BYTES_MAX)).await?;
            found.ok_or_else(|| {
                let (member, dirs) = (context.member_name(), cache::PATH.join(", "));
                let what = format!("member {member} has no program {name} in {dirs}");
                let remedy = "install it there, or store the executable and name its `path`";
                Error::Job(format!("{what}: {remedy}"))
            })?
        }
    };
    let env = vec![
        ("HYDFS_JOB", context.info.name.clone()),
        ("HYDFS_STAGE", context.step(id.node).name.clone()),
        ("HYDFS_TASK", id.task.to_string()),
    ];
    let inputs = given::fetch(context, spec).await?;
    Ok(Program {
        cell: cell(context, spec, &path, &inputs).await?.into(),
        inputs,
        path,
        digest,
        env,
        stderr: Stderr::open(context.stderr(id), speaker(context)),
    })
}

/// This member and the attempt, in words.
fn speaker(context: &Context) -> String {
    let attempt = context.info.attempt.0;
    format!("{}, attempt {attempt}", context.member_name())
}

/// What blocking work on the executable answers.
async fn local<T: Send + 'static>(
    place: &Place,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |why: String| Error::Attempt(format!("cannot prepare operator {place}: {why}"));
    done.map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))
}

/// The cell that the task's processes run in. What it should have and this kernel lacks is said once in the job's log, or
/// fails the job.
async fn cell(
    context: &Context,
    spec: &ExecSpec,
    program: &Path,
    inputs: &[Given],
) -> Result<Cell> {
    let (cells, owner) = (context.cells.clone(), context.owner());
    let (spec, program, inputs) = (spec.clone(), program.to_owned(), inputs.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let missing = cells.missing();
        cells
            .make(owner, &spec, &program, &inputs)
            .map(|cell| (cell, missing))
    });
    let failed = |why: String| Error::Attempt(format!("cannot confine an operator: {why}"));
    let (cell, missing) = made
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    if missing.is_empty() {
        return Ok(cell);
    }
    let missing = missing.join("; ");
    let member = context.cluster.me();
    if context.plan.sandbox_required {
        let what = format!("`sandbox = \"required\"`, but on member {member}: {missing}");
        let remedy = "run it on other kernels, or leave `sandbox` out";
        return Err(Error::Job(format!("{what}; {remedy}")));
    }
    if context.cells.tell_once(context.info.id) {
        let line = format!("the sandbox of member {member} is not whole: {missing}\n");
        let path = format!("/.jobs/{}/log", context.info.name);
        let storage = &context.storage;
        storage.append_text(&path, owner, line.into()).await?;
    }
    Ok(cell)
}
