//! A task's source with barriers in it: they are let through when they are asked for and due.

use crate::attempt::Context;
use crate::batch::Batch;
use crate::clock::Clock;
use crate::dead::{Letters, Origin, Starts};
use crate::error::{Error, Result};
use crate::event_time::EventMark;
use crate::follow::Follow;
use crate::inbox::Item;
use crate::json_lines;
use crate::message::{Counters, TaskId};
use crate::position::TaskPosition;
use crate::reader::Reader;
use crate::receipt::Reads;
use hydfs_types::Ino;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// A reader that lets barriers through.
pub struct Paced {
    reader: From,
    clock: Option<Clock>,
    /// Members of JSON lines that become columns.
    json: Option<Vec<String>>,
    asked: watch::Receiver<u64>,
    /// The last barrier let through, and when.
    passed: u64,
    at: Instant,
    epoch: Duration,
    /// Bytes read since.
    bytes: u64,
    bytes_max: u64,
    /// The file that was read last: its number, or its inode.
    file: u64,
    /// Its path, and where the lines that were read last stand in it; only of use where lines may be put aside.
    path: Option<Arc<str>>,
    origin: Option<Origin>,
    /// What was read since the last barrier: of the whole source, or by file.
    reads: BTreeMap<Option<Ino>, Reads>,
}

/// Lines of the file at `path` that begin at `start`. `known`: the path of the last file.
fn origin(known: &mut Option<Arc<str>>, path: &str, start: u64) -> Option<Origin> {
    let path = match known {
        Some(same) if **same == *path => same.clone(),
        _ => known.insert(path.into()).clone(),
    };
    let starts = Starts::Piece(start);
    Some(Origin { path, starts })
}

enum From {
    Whole(Reader),
    Growing(Box<Follow>),
}

impl Paced {
    /// The source of task `id`, from where `start` says.
    pub fn new(
        context: &Arc<Context>,
        id: TaskId,
        source: usize,
        start: &TaskPosition,
    ) -> Result<Self> {
        let pinned = context.sources.get(source).cloned().ok_or(Error::Over)?;
        let plan = context.plan.sources.get(source).ok_or(Error::Over)?;
        let tasks = context.step(id.node).tasks;
        let storage = context.storage.clone();
        let reader = match plan.follow {
            false => {
                // A task begins at the chunk of its own number.
                let chunk = start.chunk.max(id.task.into());
                From::Whole(Reader::new(
                    storage,
                    pinned,
                    context.chunk_bytes,
                    tasks,
                    chunk,
                ))
            }
            true => From::Growing(Box::new(Follow::new(
                storage,
                plan.clone(),
                pinned,
                context.owner(),
                (id.task, tasks),
                context.chunk_bytes,
                &start.files,
            ))),
        };
        Ok(Self {
            reader,
            clock: plan.clock.map(Clock::new),
            json: plan.json.clone(),
            asked: context.asked(),
            passed: 0,
            at: Instant::now(),
            epoch: Duration::from_millis(context.plan.epoch_ms),
            bytes: 0,
            bytes_max: context.options.uncommitted_bytes_max,
            file: 0,
            path: None,
            origin: None,
            reads: BTreeMap::new(),
        })
    }

    /// Writes down where it stands.
    pub fn save(&self, position: &mut TaskPosition) {
        match &self.reader {
            From::Whole(reader) => position.chunk = reader.position(),
            From::Growing(follow) => position.files = follow.positions(),
        }
    }

    /// What was read since the last call.
    pub fn take_reads(&mut self) -> Vec<Reads> {
        let mut reads: Vec<Reads> = std::mem::take(&mut self.reads).into_values().collect();
        reads.retain(|reads| reads.to > reads.from);
        reads
    }

    /// Lines, or a barrier.
    pub async fn next(&mut self, counters: &mut Counters, letters: &mut Letters) -> Result<Item> {
        loop {
            let done = matches!(&self.reader, From::Whole(reader) if reader.is_done());
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
                    mark: self.mark(),
                });
            }
            if must_wait {
                self.asked.changed().await.map_err(|_| Error::Over)?;
                continue;
            }
            if let Some(batch) = self.read(asked > self.passed).await? {
                let bytes = batch.bytes().len() as u64 + 1;
                self.bytes += bytes;
                counters.bytes_in += bytes;
                counters.rows_in += batch.count() as u64;
                letters.origin = self.origin.take();
                let batch = match &self.json {
                    Some(names) => {
                        let read = json_lines::to_csv(names, &batch, letters)?;
                        read.map(|(lines, kept)| {
                            let whole = letters.origin.as_ref();
                            letters.origin = whole.map(|all| all.of(&batch, &kept));
                            lines
                        })
                    }
                    None => Some(batch),
                };
                if let Some(batch) = batch {
                    return Ok(Item::Lines(self.seen(batch)));
                }
            }
        }
    }

    /// The next lines, or `None` when it is time to look at barriers again.
    async fn read(&mut self, barrier_waits: bool) -> Result<Option<Batch>> {
        match &mut self.reader {
            From::Whole(reader) => {
                self.file = reader.file() as u64;
                let from = reader.position();
                let batch = reader.next().await?;
                let reads = self.reads.entry(None);
                let reads = reads.or_insert_with(|| Reads::begin(None, 0, from));
                reads.to = reader.position();
                if let Some(batch) = &batch {
                    reads.add(reader.position(), batch);
                    let file = self.file as usize;
                    self.origin = origin(&mut self.path, reader.path(file), reader.start());
                }
                Ok(batch)
            }
            From::Growing(follow) => {
                if let Some((ino, batch)) = follow.next().await? {
                    self.file = ino.0;
                    if let Some(position) = follow.position(ino) {
                        let len = batch.bytes().len() as u64 + 1;
                        let from = position.at - len;
                        let reads = self
                            .reads
                            .entry(Some(ino))
                            .or_insert_with(|| Reads::begin(Some(ino), position.generation, from));
                        reads.add(position.at, &batch);
                        let path = follow.path(ino).unwrap_or_default();
                        self.origin = origin(&mut self.path, path, from);
                    }
                    return Ok(Some(batch));
                }
                let mut until = follow.look_at();
                if barrier_waits {
                    until = until.min(self.at + self.epoch);
                }
                tokio::select! {
                    biased;
                    changed = self.asked.changed() => changed.map_err(|_| Error::Over)?,
                    () = time::sleep_until(until) => {}
                }
                Ok(None)
            }
        }
    }

    fn seen(&mut self, batch: Batch) -> Batch {
        if let Some(clock) = &mut self.clock {
            clock.see(self.file, &batch);
        }
        batch
    }

    /// No line before it is to be expected. Of a source that ends, files that are still to be read hold it back.
    fn mark(&mut self) -> EventMark {
        let Some(clock) = &mut self.clock else {
            return EventMark::NONE;
        };
        match &self.reader {
            From::Whole(reader) => {
                clock.keep(|file| file >= reader.file() as u64);
                clock.expect(reader.file() as u64);
                match reader.is_last_file() {
                    true => clock.mark(false),
                    false => EventMark::Live(i64::MIN),
                }
            }
            From::Growing(follow) => {
                let Some(files) = follow.inodes() else {
                    return EventMark::Live(i64::MIN);
                };
                let files: BTreeSet<u64> = files.map(|ino| ino.0).collect();
                clock.keep(|file| files.contains(&file));
                files.into_iter().for_each(|file| clock.expect(file));
                clock.mark(true)
            }
        }
    }
}
