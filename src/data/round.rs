//! What one round carries, to whom, and what follows from its answers (R4). Whoever has a file's turn makes them, one after
//! the other; the queue is in `sender.rs`.

use crate::{
    context::{Context, ROUND},
    counters::Counters,
    error::DataError,
    replica::Replica,
    sender::{FileWriter, Target, WRITE},
    throttle::Signal,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use hydfs_types::{
    Acting, Append, AppendReply, DataRequest, DataResponse, LogIndex, RecordHead, Refusal,
    SegmentId, Seq, SlotConfig, SlotId,
};
use std::time::Duration;
use tokio::time::Instant;

/// Records and bytes that share one round.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// Rounds of this size tell how fast small ones are.
const SMALL_BYTES: usize = 64 << 10;
/// Heads kept for a sole writer's cut.
const HEADS_MAX: usize = 100_000;

/// Records of one segment that travel together.
struct Batch {
    segment: SegmentId,
    last: Seq,
    heads: Vec<RecordHead>,
    body: Bytes,
    durable: bool,
}

impl FileWriter {
    /// Sends what is queued first, for one segment, until every acting replica has it.
    pub(crate) async fn send_next(&self, deadline: Instant) -> Result<(), DataError> {
        loop {
            self.pass_roll()?;
            let Some(batch) = self.next_batch()? else {
                return Ok(());
            };
            let (segment, seen) = (batch.segment, self.ctx.configured());
            match self.round(&batch).await {
                Ok(()) => {
                    self.ctx.config_is_visible().await?;
                    self.settle(batch);
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
    fn next_batch(&self) -> Result<Option<Batch>, DataError> {
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
        Ok(Some(Batch {
            segment,
            last: prev,
            heads,
            body,
            durable,
        }))
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
    async fn round(&self, batch: &Batch) -> Result<(), DataError> {
        let (slot, config) =
            config_of(&self.ctx, batch.segment)?.ok_or(DataError::Retired(batch.segment))?;
        self.enough(&config)?;
        let acked_through = batch.heads.first().map(|head| head.prev);
        let append = Append {
            slot,
            epoch: config.epoch,
            map: self.ctx.map(),
            from: self.ctx.me(),
            records: batch.heads.clone(),
            acked_through: acked_through.unwrap_or_default(),
            durable: batch.durable,
        };
        let rounds = config
            .acting
            .iter()
            .map(|acting| self.append_at(*acting, append.clone(), batch.body.clone(), batch.last));
        let began = Instant::now();
        if let Some(error) = first_error(join_all(rounds).await) {
            return Err(error);
        }
        // Large ones take as long as their bytes do.
        if batch.body.len() <= SMALL_BYTES {
            let signal = match batch.durable {
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

    /// The round is acknowledged.
    fn settle(&self, batch: Batch) {
        let Batch {
            segment,
            last,
            heads,
            durable,
            ..
        } = batch;
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
        let Some((slot, config)) = config_of(ctx, segment)? else {
            return Ok(());
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

/// Where a segment is kept; `None` of one that is retired.
pub(crate) fn config_of(
    ctx: &Context,
    segment: SegmentId,
) -> Result<Option<(SlotId, SlotConfig)>, DataError> {
    let state = ctx.state();
    let Some(known) = state.segment(segment) else {
        return Ok(None);
    };
    let config = state.config(known.slot).cloned();
    Ok(Some((known.slot, config.ok_or(DataError::NoCluster)?)))
}

pub(crate) fn timed_out(why: &str) -> DataError {
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
