//! A task's source with barriers in it: they are let through when they are asked for and due.

use crate::attempt::Context;
use crate::batch::Batch;
use crate::clock::Clock;
use crate::csv;
use crate::dead::{Letters, Origin, Starts};
use crate::error::{Error, Result};
use crate::event_time::EventMark;
use crate::follow::Follow;
use crate::frames::Encoding;
use crate::held::{AllReads, File, Held, of_share};
use crate::inbox::Item;
use crate::json_lines;
use crate::message::{Counters, TaskId};
use crate::piece::Piece;
use crate::position::TaskPosition;
use crate::rate::{Bucket, Shares};
use crate::reader::Reader;
use crate::receipt::Reads;
use crate::records::Records;
use hydfs_types::Ino;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// Lines that go on at once in the first job epoch. What lies between tasks is a number of batches: where those behind are slow
/// these have to be small, or a job epoch waits for minutes of work.
const FIRST_LINES: usize = 1024;
/// Never fewer: what makes a job epoch take long may be something else, as the saving of much state.
const LEAST_LINES: usize = 64;
/// A barrier that is through so soon asks for larger batches, and one that takes so long for smaller ones.
const THROUGH_SOON: Duration = Duration::from_millis(200);
const THROUGH_LATE: Duration = Duration::from_secs(1);

/// A reader that lets barriers through, and no more lines than the source's rate says.
pub struct Paced {
    reader: From,
    clock: Option<Clock>,
    /// A followed file that is silent for so long holds no event watermark back.
    idle: Duration,
    /// Members of JSON lines that become columns.
    json: Option<Vec<String>>,
    /// How frames become lines.
    encoding: Option<Encoding>,
    asked: watch::Receiver<u64>,
    /// The last barrier let through, and when.
    passed: u64,
    at: Instant,
    epoch: Duration,
    /// Bytes passed on since.
    bytes: u64,
    bytes_max: u64,
    /// What was read and is not passed on yet.
    held: Option<Held>,
    /// The file that lines were passed on of last: its number, or its inode, and its path.
    file: u64,
    path: Arc<str>,
    reads: AllReads,
    me: TaskId,
    shares: watch::Receiver<Shares>,
    bucket: Bucket,
    /// It had nothing to read, or might not.
    rested: Duration,
    /// So many lines go on at once.
    piece: Piece,
    /// The most that did in this job epoch.
    most: usize,
    /// The last barrier asked for.
    heard: u64,
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
                let cut = (context.chunk_bytes, plan.prefix());
                From::Whole(Reader::new(storage, pinned, cut, start.shares.clone()))
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
            idle: Duration::from_millis(plan.clock.map_or(0, |clock| clock.idle_ms)),
            json: plan.json.clone(),
            encoding: plan.framing.map(|framing| framing.encoding),
            asked: context.asked(),
            passed: 0,
            at: Instant::now(),
            epoch: Duration::from_millis(context.plan.epoch_ms),
            bytes: 0,
            bytes_max: context.options.uncommitted_bytes_max,
            held: None,
            file: 0,
            path: "".into(),
            reads: BTreeMap::new(),
            me: id,
            shares: context.shares(),
            bucket: Bucket::new(),
            rested: Duration::ZERO,
            piece: Piece::new((FIRST_LINES, LEAST_LINES), THROUGH_SOON, THROUGH_LATE),
            most: 0,
            heard: 0,
        })
    }

    /// Writes down where it stands.
    pub fn save(&self, position: &mut TaskPosition) {
        match &self.reader {
            From::Whole(reader) => {
                position.shares = reader.shares().to_vec();
                let Some((held, chunk)) = self.held.as_ref().and_then(|h| Some((h, h.chunk()?)))
                else {
                    return;
                };
                let share = &mut position.shares[chunk.share];
                share.next = chunk.number;
                share.at = match held.is_begun() {
                    true => held.position().1,
                    false => chunk.at,
                };
            }
            From::Growing(follow) => {
                position.files = follow.positions();
                let Some((ino, at)) = self.held.as_ref().map(Held::position) else {
                    return;
                };
                let mut files = position.files.iter_mut();
                if let Some(file) = files.find(|file| file.ino == ino) {
                    file.at = at;
                }
            }
        }
    }

    /// What was read since the last call.
    pub fn take_reads(&mut self) -> Vec<Reads> {
        let mut reads: Vec<Reads> = std::mem::take(&mut self.reads).into_values().collect();
        reads.retain(|reads| reads.to > reads.from);
        reads
    }

    /// How long it had nothing to read, or might not, since the last call.
    pub fn take_rested(&mut self) -> Duration {
        std::mem::take(&mut self.rested)
    }

    /// Of a followed source: bytes that are there and were not read.
    pub async fn behind(&mut self) -> Result<u64> {
        match &mut self.reader {
            From::Whole(_) => Ok(0),
            From::Growing(follow) => follow.behind().await,
        }
    }

    /// Lines, or a barrier. Lines that are none of the source's format go to `letters`.
    pub async fn next(&mut self, counters: &mut Counters, letters: &mut Letters) -> Result<Item> {
        loop {
            let ended = matches!(&self.reader, From::Whole(reader) if reader.is_done());
            let done = ended && self.held.is_none();
            // Too much uncommitted input waits for the barrier: memory and pending output stay bounded (fault R6).
            let must_wait = done || self.bytes >= self.bytes_max;
            let asked = *self.asked.borrow_and_update();
            if std::mem::replace(&mut self.heard, asked) < asked && self.passed > 0 {
                // Barriers are asked for when the one before is through.
                self.piece
                    .took(std::mem::take(&mut self.most), self.at.elapsed());
            }
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
                let began = Instant::now();
                self.asked.changed().await.map_err(|_| Error::Over)?;
                self.rested += began.elapsed();
                continue;
            }
            let share = self.shares.borrow_and_update().get(&self.me).copied();
            self.bucket.set(share);
            let lines = match self.bucket.ready() {
                Ok(lines) => lines,
                Err(until) => {
                    self.rest(until, asked > self.passed).await?;
                    continue;
                }
            };
            if self.held.is_none() {
                self.held = self.read(asked > self.passed).await?;
            }
            let lines = lines.min(self.piece.lines());
            if let Some(batch) = self.release(lines, counters, letters)? {
                return Ok(Item::Lines(batch));
            }
        }
    }

    /// Passes on what is held, so many lines at most; `None` if that is nothing.
    fn release(
        &mut self,
        lines: usize,
        counters: &mut Counters,
        letters: &mut Letters,
    ) -> Result<Option<Batch>> {
        let Some(held) = self.held.take() else {
            return Ok(None);
        };
        if held.is_empty() {
            held.conclude(&mut self.reads);
            return Ok(None);
        }
        self.file = held.file;
        let (records, origin, rest) = held.release(lines, &mut self.reads);
        self.held = rest;
        self.bucket.spend(records.count());
        self.most = self.most.max(records.count());
        self.bytes += records.bytes();
        counters.bytes_in += records.bytes();
        counters.rows_in += records.count() as u64;
        let batch = match (records, self.encoding) {
            (Records::Frames(frames), Some(encoding)) => {
                frames.to_lines(encoding, origin, letters)?
            }
            (Records::Lines(batch), _) => self.fields(batch, origin, letters)?,
            (Records::Frames(_), None) => return Err(Error::Over),
        };
        Ok(batch.map(|batch| self.seen(batch)))
    }

    /// The lines as their stage takes them; `None` if it takes none of them.
    fn fields(&self, batch: Batch, origin: Origin, letters: &mut Letters) -> Result<Option<Batch>> {
        let (batch, origin) = without_bom(batch, origin);
        letters.origin = Some(origin);
        let Some(names) = &self.json else {
            return Ok(Some(batch));
        };
        let read = json_lines::to_csv(names, &batch, letters)?;
        Ok(read.map(|(lines, kept)| {
            let whole = letters.origin.as_ref();
            letters.origin = whole.map(|all| all.of(&batch, &kept));
            lines
        }))
    }

    /// Waits until then, or until it is time to look at barriers or shares again.
    async fn rest(&mut self, mut until: Instant, barrier_waits: bool) -> Result<()> {
        if barrier_waits {
            until = until.min(self.at + self.epoch);
        }
        let began = Instant::now();
        let waited = tokio::select! {
            biased;
            changed = self.asked.changed() => changed.map_err(|_| Error::Over),
            changed = self.shares.changed() => changed.map_err(|_| Error::Over),
            () = time::sleep_until(until) => Ok(()),
        };
        self.rested += began.elapsed();
        waited
    }

    /// The next lines, or `None` when it is time to look at barriers again.
    async fn read(&mut self, barrier_waits: bool) -> Result<Option<Held>> {
        let until = match &mut self.reader {
            From::Whole(reader) => {
                let number = reader.file();
                let (chunk, records) = reader.next().await?;
                let Some(records) = records else {
                    of_share(&mut self.reads, chunk).to = chunk.after();
                    return Ok(None);
                };
                let pinned = reader.pinned(number).ok_or(Error::Over)?;
                let file = File {
                    number: number as u64,
                    path: same_path(&mut self.path, &pinned.path),
                    ino: pinned.source.ino,
                    generation: pinned.source.generation,
                };
                let mut held = Held::new(records, file, reader.start(), Some(chunk));
                held.skip_to(chunk.at);
                return Ok(Some(held));
            }
            From::Growing(follow) => {
                let began = Instant::now();
                if let Some((ino, records)) = follow.next().await? {
                    let position = follow.position(ino).ok_or(Error::Over)?;
                    let start = position.at - records.bytes();
                    let file = File {
                        number: ino.0,
                        path: same_path(&mut self.path, follow.path(ino).unwrap_or_default()),
                        ino,
                        generation: position.generation,
                    };
                    return Ok(Some(Held::new(records, file, start, None)));
                }
                // To look in vain is no work.
                self.rested += began.elapsed();
                follow.look_at()
            }
        };
        self.rest(until, barrier_waits).await?;
        Ok(None)
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
                let held = self.held.as_ref().map(|held| held.file as usize);
                let now = held.unwrap_or_else(|| reader.file());
                clock.keep(|file| file >= now as u64);
                clock.expect(now as u64);
                match reader.is_last_file(now) {
                    true => clock.mark(|_| false),
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
                let now = Instant::now();
                // Lines of a file that is read up may still wait here for what the rate allows.
                let waits = self.held.as_ref().filter(|held| !held.is_empty());
                let waits = waits.map(|held| held.file);
                let is_silent =
                    |file| waits != Some(file) && follow.is_silent(Ino(file), self.idle, now);
                clock.mark(is_silent)
            }
        }
    }
}

/// The byte order mark at the beginning of a file is none of its lines' text; behind a header it stands nowhere.
fn without_bom(batch: Batch, mut origin: Origin) -> (Batch, Origin) {
    match (&origin.starts, batch.bytes().strip_prefix(csv::BOM)) {
        (Starts::Piece(0), Some(rest)) => {
            let rest = batch.bytes().slice_ref(rest);
            origin.starts = Starts::Piece(csv::BOM.len() as u64);
            (Batch::from_lines(rest), origin)
        }
        _ => (batch, origin),
    }
}

/// The path as it is known already, or anew.
fn same_path(known: &mut Arc<str>, path: &str) -> Arc<str> {
    if **known != *path {
        *known = path.into();
    }
    known.clone()
}
