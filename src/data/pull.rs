//! Bases on their way from one member to another: a base is pulled piece by piece, made durable beside the old one, and
//! put in place whole.
//!
//! The source may move on meanwhile: some of the bytes are then of a later version. All cuts from the pulled version on
//! are redone here in order, each at fixed offsets, so the outcome is the same, and a busy segment does not starve its
//! learner.

use crate::{
    context::ROUND,
    counters::Counters,
    error::DataError,
    repair::PULL,
    replica::{FETCH_BYTES_MAX, Replica},
    segment::LocalSegment,
};
use bytes::Bytes;
use hydfs_state::Segment;
use hydfs_store::{Adoption, JournalEntry, blocking};
use hydfs_types::{
    DataRequest, DataResponse, Incarnation, ReadBase, Record, Refusal, SegmentId, SlotId,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Bytes asked for at once by a learner: the core threads of both ends are busy with no more than this before they turn
/// to other calls.
const PIECE_BYTES: u64 = 512 << 10;
/// What is written of a base is made durable this often, so that no sync has much to do and others wait for none.
const SYNC_EVERY_BYTES: u64 = 8 << 20;
/// What a base costs besides its bytes: files made, synced and renamed.
const BASE_COSTS_BYTES: u64 = 64 << 10;
/// A source that turns a learner away is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// Looks at a piece of a base that is made shorter meanwhile; then its learner begins anew.
const LOOKS: usize = 5;

impl Replica {
    /// Pulls one base from any other synced replica: for a synced replica that a snapshot carried past its prepared lists.
    /// Readers wait for it, so it is neither throttled nor done in small pieces.
    pub(crate) async fn pull_base(
        &self,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        let config = self.ctx.config(slot)?;
        let mut why = DataError::Frozen(segment);
        for source in config.synced().filter(|one| *one != self.ctx.me()) {
            match self.pull_now(source, slot, segment).await {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn pull_now(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        let Some((target, mut adopting)) = self.begin(segment)? else {
            return Ok(());
        };
        let mut offset = 0;
        while offset < target.len {
            let len = (target.len - offset).min(FETCH_BYTES_MAX as u64 / 2);
            let read = DataRequest::ReadBase(self.piece(slot, segment, &target, offset, len)?);
            let answer = self.ctx.call(source, &read, Bytes::new(), ROUND).await?;
            let Some(bytes) = judged(answer, &target)? else {
                break;
            };
            adopting.write(offset, &bytes)?;
            offset += bytes.len() as u64;
            Counters::add(&self.ctx.counters.repaired_bytes, bytes.len() as u64);
        }
        // No await between this and the index: nobody reads the new base as the old version.
        blocking(|| adopting.finish(target.len))?;
        self.placed(slot, segment, &target)
    }

    /// Pulls one base as a learner, at the pace of repair: calls in the foreground wait neither for the network, nor for
    /// the disk, nor for this thread.
    pub(crate) async fn learn_base(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        let Some((target, mut adopting)) = self.begin(segment)? else {
            return Ok(());
        };
        self.ctx.throttle.pull(BASE_COSTS_BYTES).await;
        let (mut offset, mut unsynced) = (0, 0);
        while offset < target.len {
            let len = (target.len - offset).min(PIECE_BYTES);
            let piece = self.piece(slot, segment, &target, offset, len)?;
            self.ctx.throttle.pull(len).await;
            let Some(bytes) = judged(self.ask_piece(source, piece).await?, &target)? else {
                break;
            };
            adopting.write(offset, &bytes)?;
            offset += bytes.len() as u64;
            unsynced += bytes.len() as u64;
            Counters::add(&self.ctx.counters.repaired_bytes, bytes.len() as u64);
            if unsynced >= SYNC_EVERY_BYTES {
                adopting.sync().await?;
                unsynced = 0;
            }
        }
        adopting.finish_aside(target.len).await?;
        self.placed(slot, segment, &target)
    }

    /// Journals a pulled record and puts it into the index at once: a checkpoint carries forward only what it finds there,
    /// and the file with everything else goes. Where it belongs in the order is said when all of them are here.
    pub(crate) fn take_pulled(&self, slot: SlotId, record: Record) -> Result<(), DataError> {
        let mut index = self.index();
        let local = index
            .segments
            .entry(record.head.segment)
            .or_insert_with(|| LocalSegment::new(slot));
        let at = self.journal.append_record(&record.head, &record.payload)?;
        local.insert_pulled(record.head, at);
        Ok(())
    }

    /// Asks until the source has time for it.
    async fn ask_piece(
        &self,
        source: Incarnation,
        piece: ReadBase,
    ) -> Result<(DataResponse, Bytes), DataError> {
        let request = DataRequest::PullBase(piece);
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ctx.call(source, &request, Bytes::new(), PULL).await?;
            let busy = matches!(answer.0, DataResponse::Refused(Refusal::Overloaded));
            if !busy || Instant::now() >= until {
                return Ok(answer);
            }
            sleep(AGAIN).await;
        }
    }

    /// What is to be pulled and where it goes; `None` if there is nothing to pull. The caller has the segment's turn.
    fn begin(&self, segment: SegmentId) -> Result<Option<(Segment, Adoption)>, DataError> {
        let Some(target) = self.ctx.state().segment(segment).cloned() else {
            return Ok(None);
        };
        // A base that cannot be opened is none, whatever the index says: it is replaced without a look at it.
        if self.version(segment) >= target.version && self.bases.len(segment).is_ok() {
            return Ok(None);
        }
        Ok(Some((target, self.bases.adopt(segment)?)))
    }

    fn piece(
        &self,
        slot: SlotId,
        segment: SegmentId,
        target: &Segment,
        offset: u64,
        len: u64,
    ) -> Result<ReadBase, DataError> {
        Ok(ReadBase {
            slot,
            epoch: self.ctx.config(slot)?.epoch,
            map: self.ctx.map(),
            segment,
            version: target.version,
            offset,
            len: len as u32,
        })
    }

    /// The base is in place: says so in journal and index.
    fn placed(&self, slot: SlotId, segment: SegmentId, target: &Segment) -> Result<(), DataError> {
        self.journal.append(&JournalEntry::Adopted {
            segment,
            version: target.version,
            len: target.len,
            digest: target.digest,
        })?;
        {
            let mut index = self.index();
            let local = index
                .segments
                .entry(segment)
                .or_insert_with(|| LocalSegment::new(slot));
            local.advance(
                target.version,
                target.digest,
                target.len,
                target.through.clone().into_iter(),
            );
        }
        Counters::add(&self.ctx.counters.repaired_segments, 1);
        self.ctx.moved.notify_waiters();
        self.ring_behind(segment);
        Ok(())
    }

    /// Serves a piece to a learner, at the pace of repair and off the core thread.
    pub(crate) async fn serve_piece(
        &self,
        read: ReadBase,
    ) -> Result<(DataResponse, Bytes), Refusal> {
        self.ctx
            .throttle
            .serve(u64::from(read.len).min(FETCH_BYTES_MAX as u64))
            .await?;
        self.may_read(&read).await?;
        let version = self.wait_version(read.segment, read.version).await?;
        for _ in 0..LOOKS {
            let (len, wanted) = self.span(read.segment, read.offset, read.len);
            let found = self
                .bases
                .read_aside(read.segment, read.offset, wanted)
                .await;
            let is_whole = found
                .as_ref()
                .is_ok_and(|bytes| bytes.len() == wanted as usize);
            // Whatever was cut meanwhile, these are the bytes of this version or a later one. Where fewer were found, a cut
            // may have made the base shorter since, which is no damage.
            if is_whole || self.span(read.segment, read.offset, read.len) == (len, wanted) {
                let bytes = self.judge(read.segment, wanted, found)?;
                Counters::add(&self.ctx.counters.repair_served_bytes, bytes.len() as u64);
                return Ok((DataResponse::Bytes { version, len }, bytes));
            }
        }
        Err(Refusal::Behind)
    }
}

/// The bytes of a piece; `None` where the base has ended here since, so that the redo of that cut will say so here, too.
fn judged(
    (answer, bytes): (DataResponse, Bytes),
    target: &Segment,
) -> Result<Option<Bytes>, DataError> {
    let DataResponse::Bytes { version, .. } = answer else {
        return Err(refused(answer));
    };
    if version < target.version {
        return Err(Refusal::Behind.into());
    }
    if bytes.is_empty() && version == target.version {
        return Err(DataError::Malformed("a base ended early".into()));
    }
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// Why an answer is none to a pull.
pub(crate) fn refused(answer: DataResponse) -> DataError {
    match answer {
        DataResponse::Refused(refusal) => refusal.into(),
        _ => DataError::Malformed("not an answer to a pull".into()),
    }
}
