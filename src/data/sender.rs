//! The writing side: one file's writer on this member (R4, R9).
//!
//! Every write becomes a record with the next seq and joins a queue. Whoever has the turn sends what is queued for one
//! segment in one parallel round to all acting replicas: concurrent writes share rounds. A record whose round failed
//! stays queued under its identity and goes out again first; nothing overtakes it.
//!
//! Cost: one parallel round; no copy of a payload that travels alone; no agreement.

use crate::{
    behind::Behind,
    context::{Context, ROUND},
    counters::Counters,
    error::DataError,
    own::Own,
    replica::Replica,
    room::refuse_full,
    segment::after,
    throttle::Signal,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use hydfs_state::{State, WriterPhase};
use hydfs_types::{
    Acting, Append, AppendReply, DataRequest, DataResponse, Digest, LogIndex, Op, RecordHead,
    Refusal, SegmentCut, SegmentId, Seq, SlotConfig, Time, Touched, WriterEnd, WriterId,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// Records and bytes that share one round.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// Records that may wait in one writer's queue.
const QUEUE_MAX: usize = 4096;
/// Longest a write tries before it answers "unknown".
const WRITE: Duration = Duration::from_secs(25);
/// Rounds of this size tell how fast small ones are.
const SMALL_BYTES: usize = 64 << 10;
/// Heads kept for a sole writer's cut.
const HEADS_MAX: usize = 100_000;

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
    fn set_done(&self) {
        if let Some(note) = &self.note {
            note.done();
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Lane {
    last: Seq,
    pub(crate) heads: VecDeque<RecordHead>,
    pub(crate) overflow: bool,
    durable: bool,
    pub(crate) own: Own,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) last: Seq,
    pub(crate) acked: Seq,
    /// Last seq that was sent to anybody.
    pub(crate) sent: Seq,
    durable_wanted: Seq,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) behind: Behind,
    pub(crate) lanes: BTreeMap<SegmentId, Lane>,
    /// The segment that the last round to the file's end went to, answered or not.
    tail: Option<SegmentId>,
    mtime: Option<Time>,
    pub(crate) ended: bool,
    given_up: bool,
}

/// A live writer of one file on this member.
pub struct FileWriter {
    pub(crate) ctx: Arc<Context>,
    replica: Arc<Replica>,
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

    /// Sends what is queued first, for one segment, until every acting replica has it.
    async fn send_next(&self, deadline: Instant) -> Result<(), DataError> {
        loop {
            self.pass_roll()?;
            let Some((segment, heads, body, durable)) = self.next_batch()? else {
                return Ok(());
            };
            let Some(last) = heads.last().map(|head| head.seq) else {
                return Ok(());
            };
            let seen = self.ctx.configured();
            match self.round(segment, &heads, body, durable).await {
                Ok(()) => {
                    self.ctx.config_is_visible().await?;
                    self.settle(segment, heads, last, durable);
                    return Ok(());
                }
                Err(DataError::Refused(Refusal::Full(_))) => {
                    // The refusing replica has the roll; with the barrier we have it too, and know what of ours it took.
                    self.ctx.agreement.barrier().await?;
                    self.drop_merged(segment);
                }
                Err(error) => self.wait_for_change(error, seen, deadline).await?,
            }
        }
    }

    /// Where the file's end has moved on since the last round there, that round may have come through before the roll
    /// though nobody said so: what the roll took must not go to the next segment as well.
    fn pass_roll(&self) -> Result<(), DataError> {
        let before = {
            let inner = self.inner();
            let front = inner.queue.front();
            let appends = front.is_some_and(|queued| queued.target == Target::Tail);
            inner.tail.filter(|_| appends)
        };
        let Some(before) = before else { return Ok(()) };
        if self.resolve(Target::Tail)? != before {
            self.drop_merged(before);
        }
        Ok(())
    }

    /// The longest prefix of the queue that goes to one segment.
    fn next_batch(&self) -> Result<Option<(SegmentId, Vec<RecordHead>, Bytes, bool)>, DataError> {
        let mut inner = self.inner();
        let gathered = inner.gather();
        Counters::add(&self.ctx.counters.gathered, gathered);
        let Some(first) = inner.queue.front() else {
            return Ok(None);
        };
        let segment = self.resolve(first.target)?;
        let lane_last = inner
            .lanes
            .get(&segment)
            .map(|lane| lane.last)
            .unwrap_or_default();
        let (mut prev, mut bytes, mut heads, mut payloads) = (lane_last, 0, Vec::new(), Vec::new());
        let mut to_end = false;
        for queued in inner.queue.iter().take(BATCH_RECORDS) {
            if queued.target != first.target && self.resolve(queued.target)? != segment
                || bytes > 0 && bytes + queued.payload.len() > BATCH_BYTES
            {
                break;
            }
            bytes += queued.payload.len();
            heads.push(RecordHead {
                writer: self.writer,
                segment,
                seq: queued.seq,
                prev,
                op: queued.op,
                time: queued.time,
                len: queued.payload.len() as u32,
                crc: queued.crc,
            });
            payloads.push(queued.payload.clone());
            prev = queued.seq;
            to_end |= queued.target == Target::Tail;
        }
        if to_end {
            inner.tail = Some(segment);
        }
        inner.sent = inner.sent.max(prev);
        let durable = heads.iter().any(|head| head.seq <= inner.durable_wanted);
        let body = match payloads.len() {
            1 => payloads.swap_remove(0),
            _ => payloads
                .iter()
                .fold(BytesMut::with_capacity(bytes), |mut all, one| {
                    all.extend_from_slice(one);
                    all
                })
                .freeze(),
        };
        Ok(Some((segment, heads, body, durable)))
    }

    /// The segment that a target means now.
    pub(crate) fn resolve(&self, target: Target) -> Result<SegmentId, DataError> {
        match target {
            Target::Segment(segment) => Ok(segment),
            Target::Tail => {
                let state = self.ctx.state();
                let (_, file) = state
                    .file(self.ino)
                    .map_err(|error| DataError::Agreement(error.into()))?;
                file.segments
                    .values()
                    .next_back()
                    .copied()
                    .ok_or(DataError::WriterEnded(self.writer))
            }
        }
    }

    /// One parallel round to every acting replica. All must answer at the same epoch, and there must be enough of them.
    async fn round(
        &self,
        segment: SegmentId,
        heads: &[RecordHead],
        body: Bytes,
        durable: bool,
    ) -> Result<(), DataError> {
        let Some(config) = self.config_of(segment)? else {
            return Err(DataError::Retired(segment));
        };
        self.enough(&config)?;
        let acked_through = heads.first().map(|head| head.prev).unwrap_or_default();
        let append = Append {
            slot: slot_of(&self.ctx, segment)?,
            epoch: config.epoch,
            map: self.ctx.map(),
            from: self.ctx.me(),
            records: heads.to_vec(),
            acked_through,
            durable,
        };
        let last = heads.last().map(|head| head.seq).unwrap_or_default();
        let small = body.len() <= SMALL_BYTES;
        let rounds = config
            .acting
            .iter()
            .map(|acting| self.append_at(*acting, append.clone(), body.clone(), last));
        let began = Instant::now();
        if let Some(error) = first_error(join_all(rounds).await) {
            return Err(error);
        }
        // Large ones take as long as their bytes do.
        if small {
            let signal = match durable {
                true => Signal::DurableRound,
                false => Signal::Round,
            };
            self.ctx.throttle.note(signal, began);
        }
        Ok(())
    }

    async fn append_at(
        &self,
        acting: Acting,
        append: Append,
        body: Bytes,
        last: Seq,
    ) -> Result<(), DataError> {
        let reply = if acting.incarnation == self.ctx.me() {
            self.replica.append(append, body).await?
        } else {
            let answer = self
                .ctx
                .call(
                    acting.incarnation,
                    &DataRequest::Append(append),
                    body,
                    ROUND,
                )
                .await?
                .0;
            expect(answer, |answer| {
                if let DataResponse::Appended(reply) = answer {
                    Some(*reply)
                } else {
                    None
                }
            })?
        };
        let AppendReply { received, .. } = reply;
        if received < last {
            return Err(Refusal::Gap { have: received }.into());
        }
        Ok(())
    }

    /// R4: at least min(copies, members up) holders.
    fn enough(&self, config: &SlotConfig) -> Result<(), DataError> {
        let state = self.ctx.state();
        let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
        if config.frozen || config.acting.len() < wanted {
            return Err(Refusal::NotActing.into());
        }
        Ok(())
    }

    fn config_of(&self, segment: SegmentId) -> Result<Option<SlotConfig>, DataError> {
        let state = self.ctx.state();
        let Some(known) = state.segment(segment) else {
            return Ok(None);
        };
        Ok(state.config(known.slot).cloned())
    }

    /// The round is acknowledged.
    fn settle(&self, segment: SegmentId, heads: Vec<RecordHead>, last: Seq, durable: bool) {
        let through = self.merged_through(segment);
        let mut inner = self.inner();
        while inner.queue.front().is_some_and(|queued| queued.seq <= last) {
            if let Some(queued) = inner.pop_front() {
                queued.set_done();
            }
        }
        self.shortened.notify_waiters();
        inner.acked = inner.acked.max(last);
        let lane = inner.lanes.entry(segment).or_default();
        lane.last = last;
        lane.durable = durable && (lane.durable || lane.heads.is_empty());
        lane.heads.extend(heads);
        if lane.heads.len() > 256
            && let Some(through) = through
        {
            lane.heads.retain(|head| head.seq > through);
        }
        if lane.heads.len() > HEADS_MAX {
            lane.heads.clear();
            lane.overflow = true;
        }
    }

    fn merged_through(&self, segment: SegmentId) -> Option<Seq> {
        self.ctx
            .state()
            .segment(segment)?
            .through
            .get(&self.writer)
            .copied()
    }

    /// What a roll took of the queue is acknowledged; the rest goes on in the next segment under the same identity.
    fn drop_merged(&self, segment: SegmentId) {
        let Some(through) = self.merged_through(segment) else {
            return;
        };
        let mut inner = self.inner();
        let mut last = Seq(0);
        while inner
            .queue
            .front()
            .is_some_and(|queued| queued.seq <= through && queued.target == Target::Tail)
        {
            if let Some(queued) = inner.pop_front() {
                queued.set_done();
                last = queued.seq;
            }
        }
        self.shortened.notify_waiters();
        inner.acked = inner.acked.max(last);
        let lane = inner.lanes.entry(segment).or_default();
        lane.last = lane.last.max(last);
    }

    /// Waits until something may have changed since a failed round, which began with the configs of `seen`, or says why
    /// it cannot be helped.
    async fn wait_for_change(
        &self,
        error: DataError,
        seen: LogIndex,
        deadline: Instant,
    ) -> Result<(), DataError> {
        let pause = match &error {
            DataError::Refused(Refusal::WriterEnded(_)) | DataError::WriterEnded(_) => {
                return Err(DataError::WriterEnded(self.writer));
            }
            DataError::Refused(Refusal::Retired(segment)) | DataError::Retired(segment) => {
                return Err(DataError::Retired(*segment));
            }
            DataError::Refused(Refusal::NoSpace) | DataError::NoSpace => {
                // Where others have room the slot moves to them: worth waiting for.
                self.room(self.inner().queue.front().map(|queued| queued.target))?;
                40
            }
            DataError::Refused(
                Refusal::Mismatch { .. } | Refusal::Damaged(_) | Refusal::Malformed(_),
            ) => return Err(error),
            DataError::Agreement(hydfs_types::AgreementError::Expired) => {
                return Err(DataError::WriterEnded(self.writer));
            }
            DataError::Refused(Refusal::Fenced(_)) => 5,
            _ => 40,
        };
        if Instant::now() >= deadline {
            return Err(timed_out(&error.to_string()));
        }
        if !self.is_open() {
            return Err(DataError::WriterEnded(self.writer));
        }
        tracing::debug!(writer = %self.writer, %error, "a round failed; trying again under the same identity");
        self.ctx
            .reconfigured(seen, Duration::from_millis(pause))
            .await;
        if matches!(
            error,
            DataError::Refused(Refusal::StaleEpoch(_) | Refusal::NotActing | Refusal::Behind)
        ) {
            // The replica knows more than we do: catch up with it.
            drop(self.ctx.agreement.barrier().await);
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

    /// Records that a fenced writer could not get acknowledged, for a new writer to send again (R5). Those whose fate
    /// is fixed as merged are left out. The caller has had the segments looked at, so that every end is fixed.
    pub fn salvage(&self) -> Vec<Queued> {
        let queue = {
            let mut inner = self.inner();
            inner.ended = true;
            std::mem::take(&mut inner.queue)
        };
        let merged = self.merged_anywhere();
        let (taken, left): (Vec<Queued>, Vec<Queued>) =
            queue.into_iter().partition(|queued| queued.seq <= merged);
        taken.iter().for_each(Queued::set_done);
        for note in left.iter().filter_map(|queued| queued.note.as_ref()) {
            note.withdrawn();
        }
        left
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

    /// The file's time was set after the last write: the end of this writer leaves it alone.
    pub fn forget_time(&self) {
        self.inner().mtime = None;
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
        match self.config_of(segment)? {
            Some(config) => refuse_full(&self.ctx.state(), &config),
            None => Ok(()),
        }
    }

    /// Gives up what is not acknowledged: that ends the writer (R5). Nothing of it is merged later, unless it was already.
    pub fn give_up(&self) -> WriterEnd {
        let left = {
            let mut inner = self.inner();
            inner.given_up = true;
            std::mem::take(&mut inner.queue)
        };
        for note in left.iter().filter_map(|queued| queued.note.as_ref()) {
            note.given_up();
        }
        self.shortened.notify_waiters();
        self.finish(false)
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

/// Everything acknowledged in a segment is on disk on every acting replica. Tries until the deadline of a write.
/// Cost: one parallel round, one group-committed fsync each.
pub async fn sync_segment(
    ctx: &Context,
    replica: &Replica,
    segment: SegmentId,
) -> Result<(), DataError> {
    let deadline = Instant::now() + WRITE;
    loop {
        let seen = ctx.configured();
        let (slot, config) = {
            let state = ctx.state();
            let Some(known) = state.segment(segment) else {
                return Ok(());
            };
            (
                known.slot,
                state
                    .config(known.slot)
                    .cloned()
                    .ok_or(DataError::NoCluster)?,
            )
        };
        let map = ctx.map();
        let rounds = config.acting.iter().map(|acting| async {
            if acting.incarnation == ctx.me() {
                return replica
                    .sync(slot, config.epoch, map)
                    .await
                    .map_err(DataError::from);
            }
            let request = DataRequest::Sync {
                slot,
                epoch: config.epoch,
                map,
            };
            expect(
                ctx.call(acting.incarnation, &request, Bytes::new(), ROUND)
                    .await?
                    .0,
                |answer| matches!(answer, DataResponse::Synced).then_some(()),
            )
        });
        let Some(error) = first_error(join_all(rounds).await) else {
            return ctx.config_is_visible().await;
        };
        if Instant::now() >= deadline {
            return Err(timed_out(&error.to_string()));
        }
        if matches!(
            error,
            DataError::NoSpace | DataError::Refused(Refusal::NoSpace | Refusal::Damaged(_))
        ) {
            return Err(error);
        }
        ctx.reconfigured(seen, Duration::from_millis(40)).await;
        drop(ctx.agreement.barrier().await);
    }
}

fn slot_of(ctx: &Context, segment: SegmentId) -> Result<hydfs_types::SlotId, DataError> {
    ctx.state()
        .segment(segment)
        .map(|known| known.slot)
        .ok_or(DataError::Retired(segment))
}

fn timed_out(why: &str) -> DataError {
    DataError::TimedOut {
        millis: WRITE.as_millis() as u64,
        why: why.to_owned(),
    }
}

/// The wanted part of an answer, or its refusal.
pub fn expect<T>(
    answer: DataResponse,
    wanted: impl Fn(&DataResponse) -> Option<T>,
) -> Result<T, DataError> {
    match (wanted(&answer), answer) {
        (Some(value), _) => Ok(value),
        (None, DataResponse::Refused(refusal)) => Err(refusal.into()),
        (None, _) => Err(DataError::Malformed("not an answer to this request".into())),
    }
}

/// The error that says most: one that ends the writer or the segment before one that only says "not now".
fn first_error(results: Vec<Result<(), DataError>>) -> Option<DataError> {
    let rank = |error: &DataError| match error {
        DataError::Refused(Refusal::Full(_)) => 0,
        DataError::Refused(Refusal::Retired(_) | Refusal::WriterEnded(_)) => 1,
        DataError::Refused(Refusal::NoSpace) => 2,
        DataError::Refused(_) => 3,
        _ => 4,
    };
    results.into_iter().filter_map(Result::err).min_by_key(rank)
}
