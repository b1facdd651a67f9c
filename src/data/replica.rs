//! A replica: takes records, prepares cuts, serves bases.
//!
//! Cost of an append: one pwrite per record into the journal (page cache, survives the process), no copy of
//! the payload, no fsync; with `durable` one fdatasync that all waiting appends share.
//!
//! Invariants kept here: I1, I5, I6. A record is taken only after the gate (R3) at an epoch that was journaled
//! as promised; between the last check and the journal write there is no await.

use crate::{
    apply::PULLS_MAX,
    checkpoint::Checkpoint,
    context::Context,
    counters::Counters,
    health::Health,
    room::Room,
    segment::{Arrival, LocalSegment},
    throttle::Signal,
};
use bytes::Bytes;
use hydfs_store::{Bases, Journal, JournalEntry, StoreError};
use hydfs_types::{
    Append, AppendReply, DataRequest, DataResponse, Digest, Op, Planted, ReadBase, Record, Refusal,
    SegmentId, SegmentVersion, Seq, SlotConfig, SlotEpoch, SlotId, Then,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// How long a replica waits for its own base to reach a version that the state already has.
const BASE_WAIT: Duration = Duration::from_secs(4);
/// Pending bytes of one segment beyond which a replica takes no more until a merge.
const PENDING_BYTES_MAX: u64 = 512 << 20;
/// Payload bytes in one answer to a fetch.
pub const FETCH_BYTES_MAX: usize = 8 << 20;

/// Index of what this replica holds.
#[derive(Default)]
pub struct Index {
    pub segments: BTreeMap<SegmentId, LocalSegment>,
    /// Highest epoch promised per slot (R3), journaled before the first answer at it.
    pub fences: BTreeMap<SlotId, SlotEpoch>,
}

/// This member's replica of everything it holds.
pub struct Replica {
    pub ctx: Arc<Context>,
    pub journal: Journal,
    pub bases: Bases,
    pub(crate) room: Room,
    index: Mutex<Index>,
    /// One turn per segment for whoever changes its base.
    turns: Mutex<BTreeMap<SegmentId, Arc<tokio::sync::Mutex<()>>>>,
    /// Segments whose agreed version may be ahead of the base here.
    pub behind: Mutex<BTreeSet<SegmentId>>,
    pub behind_rung: tokio::sync::Notify,
    /// Of these, the ones whose turn somebody else has.
    pub(crate) waiting: Mutex<BTreeSet<SegmentId>>,
    /// Segments that are pulled aside, and places for those that are just now.
    pub(crate) pulled_aside: Mutex<BTreeSet<SegmentId>>,
    pub(crate) pulls: tokio::sync::Semaphore,
    /// A checkpoint that was held up.
    pub(crate) checkpoint: Mutex<Option<Checkpoint>>,
    /// Copies here that may be, or are, damaged.
    pub health: Health,
}

impl Replica {
    pub fn new(
        ctx: Arc<Context>,
        journal: Journal,
        bases: Bases,
        room: Room,
        index: Index,
    ) -> Self {
        Self {
            ctx,
            journal,
            bases,
            room,
            index: Mutex::new(index),
            turns: Mutex::default(),
            behind: Mutex::default(),
            behind_rung: tokio::sync::Notify::new(),
            waiting: Mutex::default(),
            pulled_aside: Mutex::default(),
            pulls: tokio::sync::Semaphore::new(PULLS_MAX),
            checkpoint: Mutex::default(),
            health: Health::default(),
        }
    }

    /// The index; never held over an await.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The turn of whoever changes this segment's base.
    pub fn turn(&self, segment: SegmentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self
            .turns
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if turns.len() > 4096 {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(segment).or_default().clone()
    }

    /// Answers a request of the data service that a replica (not the slot leader) is asked.
    pub async fn serve(
        &self,
        request: DataRequest,
        body: Bytes,
    ) -> Result<(DataResponse, Bytes), Refusal> {
        match request {
            DataRequest::Append(append) => Ok((
                DataResponse::Appended(self.append(append, body).await?),
                Bytes::new(),
            )),
            DataRequest::Sync { slot, epoch, map } => {
                self.sync(slot, epoch, map).await?;
                Ok((DataResponse::Synced, Bytes::new()))
            }
            DataRequest::Prepare(prepare) => {
                self.prepare(prepare).await?;
                Ok((DataResponse::Prepared, Bytes::new()))
            }
            DataRequest::ReadBase(read) => self.read(read).await,
            DataRequest::PullBase(read) => self.serve_piece(read).await,
            DataRequest::Fetch { segment, runs } => self.fetch(segment, &runs),
            DataRequest::Pending { segments } => {
                Ok((DataResponse::Pending(self.pending(&segments)), Bytes::new()))
            }
            DataRequest::Holdings => Ok((DataResponse::Holdings(self.holdings()), Bytes::new())),
            DataRequest::Sums(wanted) => Ok((self.sums(wanted).await?, Bytes::new())),
            DataRequest::Look(_)
            | DataRequest::Peek(_)
            | DataRequest::Cutoff(_)
            | DataRequest::PullSlots(_)
            | DataRequest::Promote { .. }
            | DataRequest::Recall { .. } => Err(Refusal::NotLeader),
        }
    }

    /// Takes records of one lane (R4).
    pub async fn append(&self, append: Append, body: Bytes) -> Result<AppendReply, Refusal> {
        self.ctx.gate(append.slot, append.epoch, append.map).await?;
        let lane = self.take(&append, body)?;
        if append.durable && !self.ctx.has(Planted::CommittedInMemory) {
            self.sync_journal().await?;
        }
        Ok(AppendReply {
            received: lane,
            durable: if append.durable { lane } else { Seq(0) },
        })
    }

    /// The synchronous heart of [`Replica::append`]: checks again, journals, indexes.
    fn take(&self, append: &Append, mut body: Bytes) -> Result<Seq, Refusal> {
        let config = self.ctx.check(append.slot, append.epoch)?;
        let Some(first) = append.records.first() else {
            return Err(Refusal::Malformed("no records".into()));
        };
        let (segment, writer) = (first.segment, first.writer);
        let synced = config
            .role(self.ctx.me())
            .filter(|_| !config.frozen)
            .ok_or(Refusal::NotActing)?;
        let merged = {
            let state = self.ctx.state();
            let anybody = self.ctx.has(Planted::UnlistedAccepted);
            if !anybody && !state.cluster.alive.contains_key(&append.from) {
                return Err(Refusal::WriterEnded(writer));
            }
            let known = state.segment(segment).ok_or(Refusal::Retired(segment))?;
            let open = state.writer(writer).is_some_and(|w| {
                w.ino == known.ino
                    && w.incarnation == append.from
                    && w.phase == hydfs_state::WriterPhase::Open
            });
            if !open && !anybody {
                return Err(Refusal::WriterEnded(writer));
            }
            if known.slot != append.slot {
                return Err(Refusal::Malformed("segment is not of this slot".into()));
            }
            let mut ops = append.records.iter().map(|record| record.op);
            if !known.takes_appends_of(writer) && ops.any(|op| op == Op::Append) {
                return Err(match known.is_full() {
                    true => Refusal::Full(segment),
                    false => Refusal::WriterEnded(writer),
                });
            }
            known.through.get(&writer).copied().unwrap_or_default()
        };
        let lane_start = if synced {
            merged
        } else {
            merged.max(append.acked_through)
        };
        self.admit(body.len(), || {
            self.index()
                .segments
                .values()
                .map(|local| local.pending_bytes)
                .sum()
        })?;
        self.promise(append.slot, append.epoch, &config)?;
        let mut index = self.index();
        let local = index
            .segments
            .entry(segment)
            .or_insert_with(|| LocalSegment::new(append.slot));
        if local.fenced {
            return Err(Refusal::Fenced(segment));
        }
        if local.pending_bytes > PENDING_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        for head in &append.records {
            let len = head.len as usize;
            if head.writer != writer
                || head.segment != segment
                || len > body.len()
                || len > hydfs_types::PAYLOAD_BYTES_MAX
            {
                return Err(Refusal::Malformed(
                    "records are not of one lane, or the payload is short".into(),
                ));
            }
            let record = Record {
                head: head.clone(),
                payload: body.split_to(len),
            };
            self.take_one(local, record, lane_start)?;
        }
        Ok(local
            .lanes
            .get(&writer)
            .map(|lane| lane.received)
            .unwrap_or_default())
    }

    fn take_one(
        &self,
        local: &mut LocalSegment,
        record: Record,
        lane_start: Seq,
    ) -> Result<(), Refusal> {
        match local.arrival(&record.head, lane_start) {
            Arrival::Known => Ok(()),
            Arrival::Refused(why) => {
                if matches!(why, Refusal::Mismatch { .. }) {
                    Counters::add(&self.ctx.counters.mismatches, 1);
                    tracing::error!(%why, segment = %record.head.segment, "a record came again with other bytes and was refused");
                }
                Err(why)
            }
            Arrival::New if !record.intact() => Err(Refusal::Malformed(
                "payload does not match its checksum".into(),
            )),
            Arrival::New => {
                let at = self
                    .journal
                    .append_record(&record.head, &record.payload)
                    .map_err(refusal)?;
                Counters::add(&self.ctx.counters.records, 1);
                Counters::add(&self.ctx.counters.record_bytes, record.payload.len() as u64);
                local.insert(record.head, at);
                Ok(())
            }
        }
    }

    /// R3: journals the highest epoch before the first answer at it, and refuses lower ones.
    pub fn promise(
        &self,
        slot: SlotId,
        epoch: SlotEpoch,
        config: &SlotConfig,
    ) -> Result<(), Refusal> {
        let promised = self.index().fences.get(&slot).copied().unwrap_or_default();
        if epoch < promised {
            return Err(Refusal::StaleEpoch(config.clone()));
        }
        if epoch > promised {
            if !self.ctx.has(Planted::FenceForgotten) {
                self.journal
                    .append(&JournalEntry::Fence { slot, epoch })
                    .map_err(refusal)?;
            }
            self.index().fences.insert(slot, epoch);
        }
        Ok(())
    }

    /// Makes everything received so far durable.
    pub async fn sync(
        &self,
        slot: SlotId,
        epoch: SlotEpoch,
        map: hydfs_types::MapVersion,
    ) -> Result<(), Refusal> {
        let config = self.ctx.gate(slot, epoch, map).await?;
        config.role(self.ctx.me()).ok_or(Refusal::NotActing)?;
        if self.ctx.has(Planted::CommittedInMemory) {
            return Ok(());
        }
        self.sync_journal().await
    }

    /// A sync that a caller waits for.
    async fn sync_journal(&self) -> Result<(), Refusal> {
        let began = Instant::now();
        self.journal.sync().await.map_err(refusal)?;
        self.ctx.throttle.note(Signal::Sync, began);
        Ok(())
    }

    /// Waits until the base here is at `version` or past it.
    pub async fn wait_version(
        &self,
        segment: SegmentId,
        version: SegmentVersion,
    ) -> Result<SegmentVersion, Refusal> {
        let reached = async {
            loop {
                let moved = self.ctx.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                let here = self.version(segment);
                if here >= version {
                    return here;
                }
                self.ring_behind(segment);
                moved.await;
            }
        };
        tokio::time::timeout(BASE_WAIT, reached)
            .await
            .map_err(|_| Refusal::Behind)
    }

    /// Asks the applier to look at this segment.
    pub fn ring_behind(&self, segment: SegmentId) {
        self.behind
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(segment);
        self.behind_rung.notify_one();
    }

    /// Version of the base here; 0 where there is none.
    pub fn version(&self, segment: SegmentId) -> SegmentVersion {
        self.index()
            .segments
            .get(&segment)
            .map(|local| local.version)
            .unwrap_or_default()
    }

    async fn read(&self, read: ReadBase) -> Result<(DataResponse, Bytes), Refusal> {
        self.may_read(&read).await?;
        let (version, len, bytes) = self
            .read_here(read.segment, read.version, read.offset, read.len)
            .await?;
        Ok((DataResponse::Bytes { version, len }, bytes))
    }

    /// Refuses where this member is no synced replica at the reader's map.
    pub(crate) async fn may_read(&self, read: &ReadBase) -> Result<(), Refusal> {
        self.ctx.catch_up(read.map).await?;
        let config = self
            .ctx
            .state()
            .config(read.slot)
            .cloned()
            .ok_or(Refusal::NotActing)?;
        let anybody = self.ctx.has(Planted::OldVersionServed);
        if config.role(self.ctx.me()) != Some(true) && !anybody {
            return Err(Refusal::StaleEpoch(config));
        }
        Ok(())
    }

    /// Bytes of the base here once it is at `version` or past it, that version, and the base's length.
    pub async fn read_here(
        &self,
        segment: SegmentId,
        version: SegmentVersion,
        offset: u64,
        len: u32,
    ) -> Result<(SegmentVersion, u64, Bytes), Refusal> {
        let version = if self.ctx.has(Planted::OldVersionServed) {
            self.version(segment)
        } else {
            self.wait_version(segment, version).await?
        };
        let (base_len, wanted) = self.span(segment, offset, len);
        if wanted == 0 {
            return Ok((version, base_len, Bytes::new()));
        }
        let bytes = self.judge(segment, wanted, self.bases.read(segment, offset, wanted))?;
        Ok((version, base_len, bytes))
    }

    /// As [`Replica::read_here`], where the base is at that version and its bytes are in memory. A look that finds anything
    /// else judges nothing.
    pub fn read_cached(
        &self,
        segment: SegmentId,
        version: SegmentVersion,
        offset: u64,
        len: u32,
    ) -> Option<Bytes> {
        if self.ctx.has(Planted::OldVersionServed) {
            return None;
        }
        let wanted = {
            let index = self.index.try_lock().ok()?;
            let local = index.segments.get(&segment)?;
            if local.version < version || len > FETCH_BYTES_MAX as u32 {
                return None;
            }
            u64::from(len).min(local.len.saturating_sub(offset)) as u32
        };
        if wanted == 0 {
            return Some(Bytes::new());
        }
        let bytes = self.bases.read_cached(segment, offset, wanted)?;
        (bytes.len() == wanted as usize).then_some(bytes)
    }

    /// Length of the base here, and how many of the bytes asked for it has.
    pub(crate) fn span(&self, segment: SegmentId, offset: u64, len: u32) -> (u64, u32) {
        let base_len = self
            .index()
            .segments
            .get(&segment)
            .map(|local| local.len)
            .unwrap_or_default();
        let len = u64::from(len.min(FETCH_BYTES_MAX as u32));
        (base_len, len.min(base_len.saturating_sub(offset)) as u32)
    }

    /// What a look at the base's file means, where the index says that `wanted` bytes are there.
    pub(crate) fn judge(
        &self,
        segment: SegmentId,
        wanted: u32,
        found: Result<Bytes, StoreError>,
    ) -> Result<Bytes, Refusal> {
        match found {
            Ok(bytes) if bytes.len() == wanted as usize => Ok(bytes),
            // A cut is on its way: the index says so next.
            Ok(_) if self.turn(segment).try_lock().is_err() => Err(Refusal::Behind),
            Ok(bytes) => {
                self.health.suspect(segment);
                Counters::add(&self.ctx.counters.damaged_reads, 1);
                Err(Refusal::Damaged(format!(
                    "the base of segment {segment} ends {} bytes early",
                    wanted as usize - bytes.len()
                )))
            }
            Err(error) => {
                if !error.is_no_space() {
                    self.health.suspect(segment);
                    Counters::add(&self.ctx.counters.damaged_reads, 1);
                }
                Err(refusal(error))
            }
        }
    }

    fn pending(&self, segments: &[SegmentId]) -> Vec<(SegmentId, u64, u64)> {
        let index = self.index();
        segments
            .iter()
            .filter_map(|id| {
                index
                    .segments
                    .get(id)
                    .map(|local| (*id, local.pending().count() as u64, local.pending_bytes))
            })
            .collect()
    }

    fn holdings(&self) -> Vec<(SegmentId, SegmentVersion, u64)> {
        self.index()
            .segments
            .iter()
            .map(|(id, local)| (*id, local.version, local.len))
            .collect()
    }
}

/// Digest and length of a cut after what it does besides.
pub fn finish((digest, len): (Digest, u64), then: Then) -> (Digest, u64) {
    match then {
        Then::SetLen(len) | Then::Grow(len) => (digest.after_set_len(len), len),
        Then::Nothing | Then::Full | Then::Retire => (digest, len),
    }
}

/// How a store error looks to whoever asked.
pub fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NoSpace { .. } => Refusal::NoSpace,
        StoreError::Poisoned(why) => Refusal::DiskFailed(why),
        other => {
            tracing::error!(error = %other, "this member's disk failed a request");
            Refusal::Damaged(other.to_string())
        }
    }
}
