//! Where a task's lines go: tasks of the next nodes, here or on other members, and output files.
//!
//! Each pair of tasks has one numbered channel with a bounded window. A push is repeated until it is taken or the
//! attempt fails (fault R2): nothing is ever sent and forgotten.

use crate::attempt::Context;
use crate::batch::{BATCH_BYTES, Batch, LINE_BYTES_MAX, Lines};
use crate::csv;
use crate::dead::{Dead, Letters};
use crate::error::{Error, Result};
use crate::event_time::EventMark;
use crate::inbox::{Inbox, Item, Offer, window};
use crate::key::{task_of, write_key};
use crate::load::micros;
use crate::message::{Push, Request, Response, TaskId};
use crate::operator::select;
use crate::outlet::{Folder, Outlet};
use crate::plan::{Parts, Route, SinkPlan};
use crate::receipt::Writes;
use crate::sink::{Mark, Output};
use bytes::Bytes;
use hydfs_types::{Frame, MemberId, Service};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};

/// Deadline of one push; the receiver answers `Full` well before it.
const PUSH_DEADLINE: Duration = Duration::from_secs(5);
/// What a dead letter shows of its line: a JSON string of it always fits into a record.
const DEAD_LINE_BYTES: usize = 128 << 10;
/// A peer that gives no sign of life for so long fails the attempt.
const PEER_SILENCE: Duration = Duration::from_secs(8);

/// Everything behind one task.
pub struct Links {
    context: Arc<Context>,
    me: TaskId,
    edges: Vec<Edge>,
    /// Each with whether it takes what came too late.
    outputs: Vec<(bool, Outlet)>,
    /// The file of dead letters, made with the first of them.
    dead: Output,
    pub rows_out: u64,
    /// How long it took to write to `outputs`.
    writing: Duration,
}

struct Edge {
    route: Route,
    late: bool,
    channels: Vec<Channel>,
    /// Lines per channel, where the route is by key.
    pending: Vec<Lines>,
    turn: usize,
    /// How long lines waited for room behind it.
    blocked: Duration,
}

struct Channel {
    to: TaskId,
    seq: u64,
    peer: Peer,
}

enum Peer {
    Here(Arc<Inbox>),
    There {
        member: MemberId,
        window: Arc<Semaphore>,
    },
}

impl Links {
    /// The links of task `me`.
    pub async fn open(context: Arc<Context>, me: TaskId) -> Result<Self> {
        let step = context.step(me.node);
        let mut edges = Vec::new();
        for next in &step.next {
            let (node, route) = (next.node, &next.route);
            let tasks = context.step(node).tasks;
            let all = (0..tasks).filter(|&task| *route != Route::Straight || task == me.task);
            let channels: Vec<Channel> = all
                .map(|task| channel(&context, me, TaskId { node, task }))
                .collect::<Result<_>>()?;
            let pending = channels.iter().map(|_| Lines::default()).collect();
            edges.push(Edge {
                route: route.clone(),
                late: next.late,
                turn: me.task as usize % channels.len().max(1),
                channels,
                pending,
                blocked: Duration::ZERO,
            });
        }
        let mut outputs = Vec::new();
        for sink in &step.sinks {
            outputs.push((sink.late, outlet(&context, me, sink).await?));
        }
        let path = format!("/.jobs/{}/dead/{}", context.info.name, step.stage());
        Ok(Self {
            edges,
            outputs,
            dead: Output::new(context.output(path), false),
            me,
            context,
            rows_out: 0,
            writing: Duration::ZERO,
        })
    }

    /// Passes a batch of results on. Lines that a sink cannot write are put aside.
    pub async fn send(&mut self, batch: Batch, letters: &mut Letters) -> Result<()> {
        self.pass(batch, false, letters).await
    }

    /// Passes on what came too late.
    pub async fn send_late(&mut self, batch: Batch, letters: &mut Letters) -> Result<()> {
        self.pass(batch, true, letters).await
    }

    /// Writes dead letters, one JSON object a line.
    pub async fn bury(&mut self, dead: Vec<Dead>) -> Result<()> {
        let mut lines = Lines::default();
        let step = self.context.step(self.me.node);
        let stage = step.stage();
        for Dead { line, why, origin } in dead {
            let kept = &line[..line.len().min(DEAD_LINE_BYTES)];
            let mut letter = serde_json::json!({
                "stage": stage,
                "task": self.me.task,
                "attempt": self.context.info.attempt.0,
                "why": &*why,
                "bytes": line.len(),
                "line": String::from_utf8_lossy(kept),
            });
            match origin {
                Some((path, offset)) => {
                    letter["source"] = (*path).into();
                    letter["offset"] = offset.into();
                }
                // Lines of several tasks are mixed on their way: only the sources are known.
                None => letter["source"] = self.context.plan.origins(step).into(),
            }
            lines.push(letter.to_string().as_bytes());
        }
        match lines.take() {
            Some(batch) => self.dead.write(&batch).await,
            None => Ok(()),
        }
    }

    async fn pass(&mut self, batch: Batch, late: bool, letters: &mut Letters) -> Result<()> {
        for (_, output) in self.outputs.iter_mut().filter(|(of, _)| *of == late) {
            let began = Instant::now();
            self.rows_out += output.write(&batch, letters).await?;
            self.writing += began.elapsed();
        }
        for edge in self.edges.iter_mut().filter(|edge| edge.late == late) {
            match &edge.route {
                Route::Key { .. } | Route::Range { .. } => {
                    edge.scatter(&self.context, self.me, &batch).await?
                }
                Route::Straight | Route::RoundRobin => {
                    let turn = edge.turn;
                    edge.turn = (turn + 1) % edge.channels.len();
                    edge.hand_over(&self.context, self.me, turn, &batch).await?;
                }
                Route::Broadcast => {
                    for at in 0..edge.channels.len() {
                        edge.hand_over(&self.context, self.me, at, &batch).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Passes everything held back and the barrier on; returns what has to become durable.
    pub async fn barrier(&mut self, id: u64, last: bool, mark: EventMark) -> Result<Vec<Mark>> {
        for edge in &mut self.edges {
            for (channel, pending) in edge.channels.iter_mut().zip(&mut edge.pending) {
                if let Some(batch) = pending.take() {
                    for piece in fit(batch)? {
                        edge.blocked += channel
                            .send(&self.context, self.me, Item::Lines(piece))
                            .await?;
                    }
                }
                edge.blocked += channel
                    .send(&self.context, self.me, Item::Barrier { id, last, mark })
                    .await?;
            }
        }
        let mut marks = Vec::new();
        for (_, output) in &mut self.outputs {
            let began = Instant::now();
            marks.extend(output.barrier().await?);
            self.writing += began.elapsed();
        }
        marks.extend(self.dead.barrier().await?);
        Ok(marks)
    }

    /// What was written to each sink of the step since the last call.
    pub fn take_writes(&mut self) -> Vec<Writes> {
        let outputs = self.outputs.iter_mut();
        outputs.map(|(_, output)| output.take_writes()).collect()
    }

    /// What was written to each file of the step's folders since the last call, by the number of their sink.
    pub fn take_files(&mut self) -> Vec<(u16, String, Writes)> {
        let mut files = Vec::new();
        for (at, (_, outlet)) in (0..).zip(&mut self.outputs) {
            let of_sink = outlet.take_files().into_iter();
            files.extend(of_sink.map(|(path, writes)| (at, path, writes)));
        }
        files
    }

    /// How long each edge had no room since the last call, in microseconds.
    pub fn take_blocked(&mut self) -> Vec<u64> {
        let edges = self.edges.iter_mut();
        edges
            .map(|edge| micros(std::mem::take(&mut edge.blocked)))
            .collect()
    }

    /// How long it wrote to sinks since the last call, in microseconds.
    pub fn take_writing(&mut self) -> u64 {
        micros(std::mem::take(&mut self.writing))
    }

    pub async fn close(self) {
        for (_, output) in self.outputs {
            output.close().await;
        }
        self.dead.close().await;
    }
}

impl Edge {
    async fn hand_over(
        &mut self,
        context: &Arc<Context>,
        me: TaskId,
        at: usize,
        batch: &Batch,
    ) -> Result<()> {
        for piece in fit(batch.clone())? {
            self.blocked += self.channels[at]
                .send(context, me, Item::Lines(piece))
                .await?;
        }
        Ok(())
    }

    async fn scatter(&mut self, context: &Arc<Context>, me: TaskId, batch: &Batch) -> Result<()> {
        let enough = (BATCH_BYTES * 4 / self.channels.len()).min(BATCH_BYTES);
        let (mut kept, mut key) = (Vec::new(), Vec::new());
        for whole in batch.lines() {
            let mut line = whole;
            let at = match &self.route {
                Route::Key { by, keep } => {
                    if let Some(columns) = keep {
                        kept.clear();
                        select(columns, whole, &mut kept);
                        line = &kept[..];
                    }
                    key.clear();
                    write_key(line, by, &mut key);
                    task_of(&key, self.channels.len() as u32) as usize
                }
                Route::Range { column, ranges } => {
                    let raw = csv::field(line, *column).unwrap_or_default();
                    ranges.task_of(&csv::value(raw))
                }
                Route::Straight | Route::RoundRobin | Route::Broadcast => return Ok(()),
            };
            self.pending[at].push(line);
            if self.pending[at].bytes() >= enough
                && let Some(batch) = self.pending[at].take()
            {
                for piece in fit(batch)? {
                    self.blocked += self.channels[at]
                        .send(context, me, Item::Lines(piece))
                        .await?;
                }
            }
        }
        Ok(())
    }
}

/// The batch, cut so that each piece fits into a frame.
fn fit(batch: Batch) -> Result<Vec<Batch>> {
    if batch.bytes().len() <= LINE_BYTES_MAX {
        return Ok(vec![batch]);
    }
    let mut pieces = Vec::new();
    let mut lines = Lines::default();
    for line in batch.lines() {
        if line.len() > LINE_BYTES_MAX {
            let what = format!(
                "a line of {} bytes is longer than {LINE_BYTES_MAX}",
                line.len()
            );
            return Err(Error::Job(format!("{what}; cut it into shorter lines")));
        }
        if lines.bytes() + line.len() >= LINE_BYTES_MAX {
            pieces.extend(lines.take());
        }
        lines.push(line);
    }
    pieces.extend(lines.take());
    Ok(pieces)
}

/// A sink of task `me`. A file is made even if nothing is ever written: by one task, if several share it.
async fn outlet(context: &Arc<Context>, me: TaskId, sink: &SinkPlan) -> Result<Outlet> {
    let path = match sink.parts {
        Parts::Values(column) => {
            let target = context.output(sink.path.clone());
            return Ok(Outlet::Folder(Folder::new(
                target,
                column,
                sink.layout.clone(),
            )));
        }
        Parts::Tasks => sink.task_path(context.step(me.node), me.task),
        Parts::One => sink.path.clone(),
    };
    let mut output = Output::new(context.output(path), sink.alone);
    if me.task == 0 || sink.parts == Parts::Tasks {
        output.open().await?;
    }
    Ok(Outlet::File(Box::new(output), sink.layout.clone()))
}

fn channel(context: &Arc<Context>, me: TaskId, to: TaskId) -> Result<Channel> {
    let member = context.place(to)?;
    let peer = match context.inbox(to) {
        Some(inbox) => Peer::Here(inbox),
        None => {
            let window = window(context.plan.feeders(to.node, to.task).len());
            Peer::There {
                member,
                window: Arc::new(Semaphore::new(window as usize)),
            }
        }
    };
    debug_assert_ne!(me, to);
    Ok(Channel { to, seq: 0, peer })
}

impl Channel {
    /// Hands an item over; how long that waited for room.
    async fn send(&mut self, context: &Arc<Context>, me: TaskId, item: Item) -> Result<Duration> {
        let began = Instant::now();
        let seq = self.seq;
        self.seq += 1;
        match &self.peer {
            Peer::Here(inbox) => match inbox.put(me, seq, item).await {
                Offer::Taken => Ok(began.elapsed()),
                Offer::Full | Offer::Stranger => Err(Error::Attempt(format!(
                    "task {} does not know task {me}",
                    self.to
                ))),
            },
            Peer::There { member, window } => {
                let permit = window
                    .clone()
                    .acquire_owned()
                    .await
                    .map_err(|_| Error::Over)?;
                let waited = began.elapsed();
                let (context, to, member) = (context.clone(), self.to, *member);
                context.clone().spawn(async move {
                    let pushed = push(&context, me, to, member, seq, item).await;
                    drop(permit);
                    pushed
                });
                Ok(waited)
            }
        }
    }
}

async fn push(
    context: &Context,
    from: TaskId,
    to: TaskId,
    member: MemberId,
    seq: u64,
    item: Item,
) -> Result<()> {
    let (what, body) = match item {
        Item::Lines(batch) => (Push::Lines, batch.bytes().clone()),
        Item::Barrier { id, last, mark } => (Push::Barrier { id, last, mark }, Bytes::new()),
    };
    let request = Request::Push {
        job: context.info.id,
        attempt: context.info.attempt,
        from,
        to,
        seq,
        what,
    };
    let frame = Frame::new(Service::Streaming, &request, body);
    let mut heard = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let why = match context.call(member, frame.clone(), PUSH_DEADLINE).await {
            Ok(Response::Done) => return Ok(()),
            Ok(Response::Full) => {
                heard = Instant::now();
                "it is full".to_owned()
            }
            Ok(Response::Failed { why, .. } | Response::Bad(why)) => {
                return Err(Error::Attempt(why));
            }
            Ok(other) => format!("it answered {other:?}"),
            Err(error) => error.to_string(),
        };
        if heard.elapsed() > PEER_SILENCE {
            return Err(Error::Attempt(format!(
                "task {from} cannot reach task {to} on {member}: {why}"
            )));
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_batches_are_cut_at_line_ends_and_longer_lines_refused() {
        let mut lines = Lines::default();
        let long = vec![b'x'; LINE_BYTES_MAX];
        lines.push(b"a");
        lines.push(&long);
        lines.push(b"b");
        let pieces = fit(lines.take().unwrap()).unwrap();
        assert_eq!(
            pieces.iter().map(Batch::count).collect::<Vec<_>>(),
            [1, 1, 1]
        );
        assert!(
            pieces
                .iter()
                .all(|piece| piece.bytes().len() <= hydfs_types::FRAME_BODY_BYTES_MAX)
        );
        let mut over = long;
        over.push(b'x');
        assert!(fit(Batch::from_lines(over.into())).unwrap_err().is_final());
    }
}
