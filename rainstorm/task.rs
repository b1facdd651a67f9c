//! One task: takes lines from its source or inbox, works, passes on, and at each barrier saves and reports.

use crate::attempt::Context;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::inbox::{Inbox, Item};
use crate::links::Links;
use crate::message::{Counters, Report, TaskId};
use crate::operator::Operator;
use crate::plan::{Input, Op};
use crate::position::TaskPosition;
use crate::process::Program;
use crate::reader::Reader;
use crate::sink::Mark;
use crate::state_log::{self, StateLog};
use crate::{cache, sandbox};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Largest executable in bytes.
pub const EXECUTABLE_BYTES_MAX: usize = 256 << 20;

/// Runs task `id` from `start` until it ends or the attempt does.
pub async fn run(context: Arc<Context>, id: TaskId, start: TaskPosition) -> Result<()> {
    let operator = operator(&context, id, start).await?;
    let state = matches!(operator, Operator::Sum(_))
        .then(|| StateLog::new(context.target(context.state_path(id)), start.state));
    let input = match context.step(id.node).input {
        Input::Source(source) => In::Source(Paced::new(&context, id, source, start)?),
        Input::Node(_) => In::Tasks(context.inbox(id).ok_or(Error::Over)?),
    };
    let links = Links::open(context.clone(), id).await?;
    let task = Task {
        context,
        id,
        operator,
        state,
        links,
        position: start,
        counters: Counters::default(),
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
}

enum In {
    Source(Paced),
    Tasks(Arc<Inbox>),
}

impl Task {
    async fn work(mut self, mut input: In) -> Result<()> {
        let mut out = Vec::new();
        loop {
            let item = match &mut input {
                In::Source(paced) => paced.next(&mut self.counters).await?,
                In::Tasks(inbox) => inbox.next().await.map_err(Error::Attempt)?,
            };
            match item {
                Item::Lines(batch) => {
                    self.operator.apply(batch, &mut out).await?;
                    self.pass(&mut out).await?;
                }
                Item::Barrier { id, last } => {
                    if last {
                        self.operator.finish(&mut out);
                        self.pass(&mut out).await?;
                    }
                    if let In::Source(paced) = &input {
                        self.position.chunk = paced.reader.position();
                    }
                    let concluded = self.barrier(id, last).await?;
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
            self.links.send(batch).await?;
        }
        Ok(())
    }

    /// Saves and passes the barrier on; what is returned reports it once everything is durable.
    async fn barrier(
        &mut self,
        id: u64,
        last: bool,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let mut marks = self.links.barrier(id, last).await?;
        if last {
            // A task that has ended never runs again: its state is not needed.
            self.position = TaskPosition {
                ended: true,
                state: None,
                ..self.position
            };
            if let Some(state) = self.state.take() {
                state.close().await;
            }
        } else if let (Some(state), Operator::Sum(sum)) = (&mut self.state, &mut self.operator) {
            let (file, mark) = state.save(sum).await?;
            self.position.state = file;
            marks.extend(mark);
        }
        let mut counters = std::mem::take(&mut self.counters);
        counters.rows_out = std::mem::take(&mut self.links.rows_out);
        if let Operator::Exec(exec) = &mut self.operator {
            counters.retries = exec.take_retries();
        }
        let report = Report {
            id: self.id,
            position: self.position,
            watermarks: Vec::new(),
            counters,
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

async fn operator(context: &Arc<Context>, id: TaskId, start: TaskPosition) -> Result<Operator> {
    let op = &context.step(id.node).op;
    let mut operator = match (op, Operator::built_in(op)) {
        (_, Some(operator)) => operator,
        (Op::Exec(spec), None) => Operator::Exec(Box::new(Exec::new(
            spec.clone(),
            program(context, id, &spec.path).await?,
        ))),
        (_, None) => return Err(Error::Job(format!("task {id} has no operator"))),
    };
    if let (Operator::Sum(sum), Some(file)) = (&mut operator, start.state) {
        let path = file.path(&context.info, id.node, id.task);
        state_log::restore(&*context.storage, &path, file, sum).await?;
    }
    Ok(operator)
}

async fn program(context: &Context, id: TaskId, path: &str) -> Result<Program> {
    let owner = context.owner();
    if !sandbox::can_become(owner) {
        let what = format!(
            "operator {path}: this member cannot run programs as user {}",
            owner.uid
        );
        return Err(Error::Job(format!(
            "{what}; run it as root, or drop the spec as the user that it runs as"
        )));
    }
    let content = context
        .storage
        .read_small(path, owner, EXECUTABLE_BYTES_MAX)
        .await?;
    let dir = context.options.cache_dir.clone();
    let published = tokio::task::spawn_blocking(move || cache::publish(&dir, &content)).await;
    let failed =
        |why: String| Error::Attempt(format!("cannot keep a copy of operator {path}: {why}"));
    let local = published
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let env = vec![
        ("HYDFS_JOB", context.info.name.clone()),
        ("HYDFS_STAGE", context.step(id.node).name.clone()),
        ("HYDFS_TASK", id.task.to_string()),
    ];
    Ok(Program {
        path: local,
        owner,
        env,
    })
}

/// A reader that lets barriers through when they are asked for and due.
struct Paced {
    reader: Reader,
    asked: watch::Receiver<u64>,
    /// The last barrier let through, and when.
    passed: u64,
    at: Instant,
    epoch: Duration,
    /// Bytes read since.
    bytes: u64,
    bytes_max: u64,
}

impl Paced {
    fn new(context: &Arc<Context>, id: TaskId, source: usize, start: TaskPosition) -> Result<Self> {
        let pinned = context.sources.get(source).cloned().ok_or(Error::Over)?;
        let tasks = context.step(id.node).tasks;
        // A task begins at the chunk of its own number.
        let chunk = start.chunk.max(id.task.into());
        Ok(Self {
            reader: Reader::new(
                context.storage.clone(),
                pinned,
                context.chunk_bytes,
                tasks,
                chunk,
            ),
            asked: context.asked(),
            passed: 0,
            at: Instant::now(),
            epoch: Duration::from_millis(context.plan.epoch_ms),
            bytes: 0,
            bytes_max: context.options.uncommitted_bytes_max,
        })
    }

    async fn next(&mut self, counters: &mut Counters) -> Result<Item> {
        loop {
            let done = self.reader.is_done();
            // Too much uncommitted input waits for the barrier: memory and pending output stay bounded (fault R6).
            let must_wait = done || self.bytes >= self.bytes_max;
            let asked = *self.asked.borrow_and_update();
            if asked > self.passed && (must_wait || self.at.elapsed() >= self.epoch) {
                self.passed = asked;
                self.at = Instant::now();
                self.bytes = 0;
                return Ok(Item::Barrier {
                    id: asked,
                    last: done,
                });
            }
            if must_wait {
                self.asked.changed().await.map_err(|_| Error::Over)?;
                continue;
            }
            if let Some(batch) = self.reader.next().await? {
                let bytes = batch.bytes().len() as u64 + 1;
                self.bytes += bytes;
                counters.bytes_in += bytes;
                counters.rows_in += batch.count() as u64;
                return Ok(Item::Lines(batch));
            }
        }
    }
}
