//! The writing side: one file's writer on this member (R4, R9).
//!
//! Every write becomes a record with the next seq and joins a queue. Whoever has the turn sends what is queued for one
//! segment in one parallel round to all acting replicas: concurrent writes share rounds. A record whose round failed
//! stays queued under its identity and goes out again first; nothing overtakes it.
//!
//! Cost: one parallel round; no copy of a payload that travels alone; no agreement.

use crate::{
    behind::Behind,
    context::Context,
    error::DataError,
    own::Own,
    replica::Replica,
    room::refuse_full,
    round::{config_of, sync_segment, timed_out},
    segment::after,
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_state::{State, WriterPhase};
use hydfs_types::{
    Digest, Op, RecordHead, Refusal, SegmentCut, SegmentId, Seq, Time, Touched, WriterEnd, WriterId,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// Records that may wait in one writer's queue.
const QUEUE_MAX: usize = 4096;
/// Longest a write tries before it answers "unknown".
pub(crate) const WRITE: Duration = Duration::from_secs(25);

/// Where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Into this segment.
    Segment(SegmentId),
    /// At the end of the file, wherever that is when it is sent.
    Tail,
}

/// Where the identity of a record is kept, if it outlives the process.
pub trait Note: Send + Sync {
    /// Before it may go out: under this writer and seq, towards this segment as things stand.
    fn sent(&self, writer: WriterId, seq: Seq, segment: Option<SegmentId>);
    /// It is received by every acting replica, or merged.
    fn done(&self);
    /// No replica has it, nor will under that identity.
    fn withdrawn(&self);
    /// It was given up: nobody will send it again.
    fn given_up(&self);
}

/// A record that is to be made of a write.
pub struct Draft {
    pub target: Target,
    pub op: Op,
    pub payload: Bytes,
    pub time: Time,
    /// Acknowledged only when it is on disk.
    pub durable: bool,
    /// Told of its identity before it can go out.
    pub note: Option<Arc<dyn Note>>,
    /// Its write is answered when it is queued.
    pub behind: bool,
}

impl Draft {
    /// Of a write that is answered when every acting replica has it.
    pub fn new(target: Target, op: Op, payload: Bytes, time: Time) -> Self {
        Self {
            target,
            op,
            payload,
            time,
            durable: false,
            note: None,
            behind: false,
        }
    }

    pub fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    pub fn noted(self, note: Option<Arc<dyn Note>>) -> Self {
        Self { note, ..self }
    }

    pub fn behind(self, behind: bool) -> Self {
        Self { behind, ..self }
    }
}

/// A record that is not acknowledged yet.
#[derive(Clone)]
pub struct Queued {
    pub seq: Seq,
    pub target: Target,
    pub op: Op,
    pub payload: Bytes,
    pub time: Time,
    /// Where its segment begins in the file.
    pub start: u64,
    pub note: Option<Arc<dyn Note>>,
    /// Its write was answered when it was queued.
    pub behind: bool,
    /// Writes that it is of.
    pub(crate) writes: usize,
    pub(crate) crc: u32,
}

impl Queued {
    pub(crate) fn set_done(&self) {
        if let Some(note) = &self.note {
            note.done();
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Lane {
    pub(crate) last: Seq,
    pub(crate) heads: VecDeque<RecordHead>,
    pub(crate) overflow: bool,
    pub(crate) durable: bool,
    pub(crate) own: Own,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) last: Seq,
    pub(crate) acked: Seq,
    /// Last seq that was sent to anybody.
    pub(crate) sent: Seq,
    pub(crate) durable_wanted: Seq,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) behind: Behind,
    pub(crate) lanes: BTreeMap<SegmentId, Lane>,
    /// The segment that the last round to the file's end went to, answered or not.
    pub(crate) tail: Option<SegmentId>,
    mtime: Option<Time>,
    pub(crate) ended: bool,
    given_up: bool,
}

/// A live writer of one file on this member.
pub struct FileWriter {
    pub(crate) ctx: Arc<Context>,
    pub(crate) replica: Arc<Replica>,
    pub ino: hydfs_types::Ino,
    pub writer: WriterId,
    pub(crate) inner: Mutex<Inner>,
    turn: tokio::sync::Mutex<()>,
    /// Rung whenever the queue became shorter.
    pub(crate) shortened: tokio::sync::Notify,
}

impl FileWriter {
    pub fn new(
        ctx: Arc<Context>,
        replica: Arc<Replica>,
        ino: hydfs_types::Ino,
        writer: WriterId,
    ) -> Self {
        Self {
            ctx,
            replica,
            ino,
            writer,
            inner: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            shortened: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Queues a record. Its seq is its place among this writer's records for ever.
    pub fn push(&self, draft: Draft) -> Result<Seq, DataError> {
        let crc = crc32c::crc32c(&draft.payload);
        let (towards, start) = self.place_of(&draft)?;
        let mut inner = self.inner();
        self.enqueue(&mut inner, draft, (towards, start), crc)
    }

    /// Where a record is to go as things stand, for its note, and where its segment begins in the file.
    pub(crate) fn place_of(&self, draft: &Draft) -> Result<(Option<SegmentId>, u64), DataError> {
        let noted = draft.note.is_some();
        let towards = noted.then(|| self.resolve(draft.target).ok()).flatten();
        let start = match draft.target {
            Target::Segment(segment) => {
                self.ctx
                    .state()
                    .segment(segment)
                    .ok_or(DataError::Retired(segment))?
                    .start
            }
            Target::Tail => 0,
        };
        Ok((towards, start))
    }

    pub(crate) fn enqueue(
        &self,
        inner: &mut Inner,
        draft: Draft,
        (towards, start): (Option<SegmentId>, u64),
        crc: u32,
    ) -> Result<Seq, DataError> {
        if inner.ended {
            return Err(DataError::WriterEnded(self.writer));
        }
        if inner.queue.len() >= QUEUE_MAX {
            return Err(Refusal::Overloaded.into());
        }
        let seq = inner.last.next();
        inner.last = seq;
        inner.mtime = Some(draft.time);
        if draft.durable {
            inner.durable_wanted = seq;
        }
        if let Some(note) = &draft.note {
            note.sent(self.writer, seq, towards);
        }
        inner.queue.push_back(Queued {
            seq,
            target: draft.target,
            op: draft.op,
            payload: draft.payload,
            time: draft.time,
            start,
            note: draft.note,
            behind: draft.behind,
            writes: 1,
            crc,
        });
        inner.joined();
        Ok(seq)
    }

    /// Returns when everything up to `seq` is acknowledged: received by every acting replica, or durable there if it was pushed so.
    pub async fn acknowledged(&self, seq: Seq) -> Result<(), DataError> {
        let deadline = Instant::now() + WRITE;
        loop {
            let _turn = tokio::time::timeout_at(deadline, self.turn.lock())
                .await
                .map_err(|_| timed_out("its turn"))?;
            {
                let inner = self.inner();
                if inner.acked >= seq {
                    return Ok(());
                }
                if inner.given_up {
                    return Err(DataError::NoSpace);
                }
                if inner.ended && inner.queue.is_empty() {
                    // Another call has taken this record to the next writer.
                    return Err(DataError::WriterEnded(self.writer));
                }
            }
            self.send_next(deadline).await?;
        }
    }

    /// Everything queued is acknowledged.
    pub async fn flush(&self) -> Result<(), DataError> {
        let last = self.inner().last;
        self.acknowledged(last).await
    }

    /// Everything written is on disk on every acting replica.
    pub async fn sync(&self) -> Result<(), DataError> {
        self.sync_written().await.map(drop)
    }

    /// The same; says for which segments that took a round: what others had acknowledged there is on disk with it.
    pub async fn sync_written(&self) -> Result<Vec<SegmentId>, DataError> {
        self.flush().await?;
        let wanted: Vec<SegmentId> = self
            .inner()
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.durable)
            .map(|(segment, _)| *segment)
            .collect();
        for done in join_all(wanted.iter().map(|segment| self.sync_lane(*segment))).await {
            done?;
        }
        Ok(wanted)
    }

    async fn sync_lane(&self, segment: SegmentId) -> Result<(), DataError> {
        let before = self
            .inner()
            .lanes
            .get(&segment)
            .map(|lane| lane.last)
            .unwrap_or_default();
        sync_segment(&self.ctx, &self.replica, segment).await?;
        if let Some(lane) = self.inner().lanes.get_mut(&segment)
            && lane.last == before
        {
            lane.durable = true;
        }
        Ok(())
    }

    /// Whether the agreed state still has this writer open, as far as this member knows.
    pub fn is_open(&self) -> bool {
        self.is_live_in(&self.ctx.state())
    }

    /// Whether everything queued was acknowledged.
    pub fn is_idle(&self) -> bool {
        self.inner().queue.is_empty()
    }

    /// Whether everything given out so far is acknowledged, where that can be said without a wait.
    pub fn is_flushed(&self) -> bool {
        self.inner
            .try_lock()
            .is_ok_and(|inner| inner.acked >= inner.last)
    }

    /// The turn of whoever sends.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether every record that was sent to anybody is acknowledged. Stays so while the caller has the turn.
    pub(crate) fn is_quiet(&self) -> bool {
        let inner = self.inner();
        inner.sent <= inner.acked && !inner.ended && !inner.given_up
    }

    /// Last seq that was sent to anybody: what is behind it may still become part of a record under a later one.
    pub fn last_sent(&self) -> Seq {
        let inner = self.inner();
        inner.sent.max(inner.acked)
    }

    /// Last seq that this segment acknowledged; 0 where nothing was sent there.
    pub fn last_in(&self, segment: SegmentId) -> Seq {
        let inner = self.inner();
        inner
            .lanes
            .get(&segment)
            .map(|lane| lane.last)
            .unwrap_or_default()
    }

    /// Records that a fenced writer could not get acknowledged, for a new writer to send again (R5). Those whose fate
    /// is fixed as merged are left out. The caller has had the segments looked at, so that every end is fixed.
    pub fn salvage(&self) -> Vec<Queued> {
        let queue = {
            let mut inner = self.inner();
            inner.ended = true;
            std::mem::take(&mut inner.queue)
        };
        self.shortened.notify_waiters();
        let merged = self.merged_anywhere();
        let (taken, left): (Vec<Queued>, Vec<Queued>) =
            queue.into_iter().partition(|queued| queued.seq <= merged);
        taken.iter().for_each(Queued::set_done);
        for note in left.iter().filter_map(|queued| queued.note.as_ref()) {
            note.withdrawn();
        }
        left
    }

    /// Bytes of the records that are not acknowledged, those that may be merged included.
    pub fn queued_bytes(&self) -> u64 {
        let inner = self.inner();
        inner.queue.iter().map(|one| one.payload.len() as u64).sum()
    }

    /// What became of its records is not known any more: nobody will send them again, nor say that they are merged.
    pub fn abandon(&self) {
        for queued in &self.inner().queue {
            if let Some(note) = &queued.note {
                note.given_up();
            }
        }
    }

    /// The file is gone, and what is queued with it.
    pub fn forget(&self) {
        let left = self.salvage();
        for note in left.iter().filter_map(|queued| queued.note.as_ref()) {
            note.given_up();
        }
    }

    /// File ranges of queued writes whose segments were retired.
    pub fn cut_off_ranges(&self) -> Vec<(u64, u64)> {
        let state = self.ctx.state();
        let inner = self.inner();
        let cut_off = |queued: &&Queued| matches!(queued.target, Target::Segment(segment) if state.segment(segment).is_none());
        let range = |queued: &Queued| match queued.op {
            Op::WriteAt(at) => Some((
                queued.start + at,
                queued.start + at + queued.payload.len() as u64,
            )),
            Op::Append | Op::Zero { .. } => None,
        };
        inner
            .queue
            .iter()
            .filter(cut_off)
            .filter_map(range)
            .collect()
    }

    /// Last seq of an ended writer that any segment of a file has merged, once every end is fixed: the caller has had the
    /// segments looked at. `None` where the agreed state does not know any more.
    pub fn merged_of(state: &State, ino: hydfs_types::Ino, writer: WriterId) -> Option<Seq> {
        state.writer(writer)?;
        let (_, file) = state.file(ino).ok()?;
        let through = |segment: &SegmentId| state.segment(*segment)?.through.get(&writer).copied();
        let merged = file.segments.values().filter_map(through).max();
        Some(merged.unwrap_or_default())
    }

    /// Last seq that any segment of the file has merged. Of what is queued, all up to it is: nothing is sent before all
    /// that was queued before it went to the same segment or was acknowledged; and a roll may have moved the tail on.
    fn merged_anywhere(&self) -> Seq {
        let state = self.ctx.state();
        let Ok((_, file)) = state.file(self.ino) else {
            return Seq(0);
        };
        let through =
            |segment: &SegmentId| state.segment(*segment)?.through.get(&self.writer).copied();
        file.segments
            .values()
            .filter_map(through)
            .max()
            .unwrap_or_default()
    }

    /// Bytes that one segment has with this writer's records on top of the agreed base. Only meaningful for a sole writer.
    pub fn local_len_in(&self, state: &State, segment: SegmentId) -> Option<u64> {
        let known = state.segment(segment)?;
        let through = known.through.get(&self.writer).copied().unwrap_or_default();
        let inner = self.inner();
        let lane = inner.lanes.get(&segment).filter(|lane| !lane.overflow)?;
        Some(
            lane.heads
                .iter()
                .filter(|head| head.seq > through)
                .fold(known.len, after),
        )
    }

    /// Time of the last write, while any of this writer's records are not in their base.
    pub fn unmerged_time(&self, state: &State) -> Option<Time> {
        let inner = self.inner();
        let unmerged = inner.lanes.iter().any(|(segment, lane)| {
            let through = state
                .segment(*segment)
                .and_then(|known| known.through.get(&self.writer))
                .copied()
                .unwrap_or_default();
            lane.last > through
        });
        inner.mtime.filter(|_| unmerged)
    }

    /// Time of the last write, unless the file's time was set since.
    pub fn time(&self) -> Option<Time> {
        self.inner().mtime
    }

    /// The file's time was set after the write of this time: the end of this writer leaves it alone, unless one came since.
    pub fn forget_time(&self, time: Option<Time>) {
        let mut inner = self.inner();
        if inner.mtime == time {
            inner.mtime = None;
        }
    }

    /// Whether this state has the writer open.
    pub fn is_live_in(&self, state: &State) -> bool {
        state
            .writer(self.writer)
            .is_some_and(|writer| writer.phase == WriterPhase::Open)
    }

    /// Whether the agreed state still knows what became of this (ended) writer's records.
    pub fn fate_is_known(&self) -> bool {
        self.ctx.state().writer(self.writer).is_some()
    }

    /// Segments that this writer has written to.
    pub fn touched(&self) -> Vec<SegmentId> {
        self.inner().lanes.keys().copied().collect()
    }

    /// Refuses where a write to this target could only wait for a full disk.
    pub fn room(&self, target: Option<Target>) -> Result<(), DataError> {
        let Some(Ok(segment)) = target.map(|target| self.resolve(target)) else {
            return Ok(());
        };
        match config_of(&self.ctx, segment)? {
            Some((_, config)) => refuse_full(&self.ctx.state(), &config),
            None => Ok(()),
        }
    }

    /// Gives up what is not acknowledged: that ends the writer (R5). Nothing of it is merged later, unless it was already.
    /// Says whether any of it was answered.
    pub fn give_up(&self) -> (WriterEnd, bool) {
        let left = {
            let mut inner = self.inner();
            inner.given_up = true;
            inner.ended = true;
            std::mem::take(&mut inner.queue)
        };
        let behind = left.iter().any(|queued| queued.behind);
        for note in left.iter().filter_map(|queued| queued.note.as_ref()) {
            note.given_up();
        }
        self.shortened.notify_waiters();
        (self.finish(false), behind)
    }

    /// Closes the writer for good and says what its end is. With `cut`, segments that it alone wrote get their next
    /// version by the end itself; the caller has made them durable.
    pub fn finish(&self, cut: bool) -> WriterEnd {
        let mut inner = self.inner();
        inner.ended = true;
        let touched = inner
            .lanes
            .iter()
            .map(|(segment, lane)| Touched {
                segment: *segment,
                cut: if cut {
                    self.sole_cut(*segment, lane)
                } else {
                    None
                },
            })
            .collect();
        WriterEnd {
            writer: self.writer,
            last: inner.acked,
            touched,
            mtime: inner.mtime,
        }
    }

    fn sole_cut(&self, segment: SegmentId, lane: &Lane) -> Option<SegmentCut> {
        if lane.overflow || !lane.durable {
            return None;
        }
        let state = self.ctx.state();
        let known = state.segment(segment)?;
        let through = known.through.get(&self.writer).copied().unwrap_or_default();
        let left = lane.heads.iter().filter(|head| head.seq > through);
        let start: (Digest, u64) = (known.digest, known.len);
        let (digest, len) = left.fold(start, |(digest, len), head| {
            (digest.after_record(head), after(len, head))
        });
        (digest != known.digest).then_some(SegmentCut {
            base: known.version,
            digest,
            len,
        })
    }
}
