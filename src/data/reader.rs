//! The reading side (R7). The caller has passed the agreement's barrier: everything acknowledged before the read began
//! is in the local state, or pending at slot leaders that the state names. So no answer needs a clock.
//!
//! Cost: a clean segment that is held here: no message. Held elsewhere: one round. A dirty one: one round to its slot
//! leader, which merges if anything is pending.

use crate::{
    context::{Context, ROUND},
    counters::Counters,
    error::DataError,
    merge::SlotLeader,
    replica::Replica,
    round::expect,
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_state::{Segment, State};
use hydfs_types::{
    Cutoff, DataRequest, DataResponse, Incarnation, LogIndex, Look, Looked, Peeked, ReadBase,
    Refusal, SegmentId, SegmentVersion, SlotConfig, SlotId, Then,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Longest a read waits for slot leaders and replicas.
const READ: Duration = Duration::from_secs(20);
/// A segment that every replica calls damaged is given this long to be healed before the read fails.
const HEALING: Duration = Duration::from_secs(3);
/// Deadline of one look: a slot leader may have to wait for an expire.
const LOOK: Duration = Duration::from_secs(16);
const AGAIN: Duration = Duration::from_millis(40);

/// This member as a reader.
pub struct Reader {
    ctx: Arc<Context>,
    replica: Arc<Replica>,
    leader: Arc<SlotLeader>,
}

impl Reader {
    pub fn new(ctx: Arc<Context>, replica: Arc<Replica>, leader: Arc<SlotLeader>) -> Self {
        Self {
            ctx,
            replica,
            leader,
        }
    }

    /// Makes everything acknowledged in these segments part of their agreed versions, and waits until the local state has them.
    pub async fn look(&self, segments: &[SegmentId]) -> Result<(), DataError> {
        let by_slot = self.by_slot(segments);
        let looks = by_slot
            .into_iter()
            .map(|(slot, segments)| self.look_slot(slot, segments));
        let mut index = 0;
        for looked in join_all(looks).await {
            index = looked?
                .into_iter()
                .map(|one| one.index)
                .fold(index, u64::max);
        }
        self.ctx.agreement.wait_applied(LogIndex(index)).await?;
        Ok(())
    }

    /// How long segments are with everything acknowledged so far, which stays pending; the local state is as far as the
    /// answers. Cost: one parallel round to the slot leaders.
    pub async fn peek(&self, segments: &[SegmentId]) -> Result<Vec<Peeked>, DataError> {
        let peeks = self
            .by_slot(segments)
            .into_iter()
            .map(|(slot, segments)| async move {
                let request = |config: &SlotConfig| {
                    DataRequest::Peek(Look {
                        slot,
                        epoch: config.epoch,
                        map: self.ctx.map(),
                        segments: segments.clone(),
                    })
                };
                self.ask_leader(slot, request, |answer| {
                    if let DataResponse::Peeked(peeked) = answer {
                        Some(peeked.clone())
                    } else {
                        None
                    }
                })
                .await
            });
        let mut all = Vec::new();
        for peeked in join_all(peeks).await {
            all.extend(peeked?);
        }
        let index = all.iter().map(|one| one.index).max().unwrap_or_default();
        self.ctx.agreement.wait_applied(LogIndex(index)).await?;
        Ok(all)
    }

    fn by_slot(&self, segments: &[SegmentId]) -> BTreeMap<SlotId, Vec<SegmentId>> {
        let mut by_slot: BTreeMap<SlotId, Vec<SegmentId>> = BTreeMap::new();
        let state = self.ctx.state();
        for segment in segments {
            if let Some(known) = state.segment(*segment) {
                by_slot.entry(known.slot).or_default().push(*segment);
            }
        }
        by_slot
    }

    async fn look_slot(
        &self,
        slot: SlotId,
        segments: Vec<SegmentId>,
    ) -> Result<Vec<Looked>, DataError> {
        let request = |config: &SlotConfig| {
            DataRequest::Look(Look {
                slot,
                epoch: config.epoch,
                map: self.ctx.map(),
                segments: segments.clone(),
            })
        };
        self.ask_leader(slot, request, looked).await
    }

    /// R8: has the slot leader merge under the fence and then cut or retire, once. What was written and acknowledged after
    /// a cut that was made must not be cut again: so where an answer was lost and the segment has moved on since, this
    /// ends with `TimedOut`, which says that it may have been done. `asked`: the version at which somebody who is gone may
    /// have asked for the same; `ask` is told of each before it is asked.
    pub async fn cutoff(
        &self,
        segment: SegmentId,
        then: Then,
        asked: Option<SegmentVersion>,
        ask: impl Fn(SegmentVersion),
    ) -> Result<(), DataError> {
        let deadline = tokio::time::Instant::now() + READ;
        let mut unsure = asked;
        loop {
            let known = self.ctx.state().segment(segment).cloned();
            let known = match known {
                None if then == Then::Retire => return Ok(()),
                Some(known) if then == Then::Full && known.is_full() => return Ok(()),
                known => known.ok_or(DataError::Retired(segment))?,
            };
            let late = |why: String| {
                let millis = READ.as_millis() as u64;
                Err(DataError::TimedOut { millis, why })
            };
            if unsure.is_some_and(|base| is_cut(&known, base, then)) {
                return Ok(());
            }
            if unsure.is_some_and(|base| base != known.version) {
                return late("whether it was cut is not known: it was changed meanwhile".into());
            }
            ask(known.version);
            let error = match self.cutoff_once(&known, segment, then).await {
                Ok(looked) => {
                    let index = looked.iter().map(|one| one.index).max().unwrap_or_default();
                    return Ok(self.ctx.agreement.wait_applied(LogIndex(index)).await?);
                }
                // It is gone already: that is what was wanted of a retire.
                Err(DataError::Refused(Refusal::Retired(_))) if then == Then::Retire => {
                    return Ok(());
                }
                Err(error) => error,
            };
            if tokio::time::Instant::now() >= deadline {
                return late(error.to_string());
            }
            let refused =
                matches!(&error, DataError::Refused(why) if !matches!(why, Refusal::NoMerge(_)));
            // To grow it again does no harm.
            if !refused && !matches!(then, Then::Grow(_)) {
                unsure = Some(known.version);
            }
            tokio::time::sleep(AGAIN).await;
            self.ctx.agreement.barrier().await?;
        }
    }

    async fn cutoff_once(
        &self,
        known: &Segment,
        segment: SegmentId,
        then: Then,
    ) -> Result<Vec<Looked>, DataError> {
        let config = self.ctx.config(known.slot)?;
        let request = DataRequest::Cutoff(Cutoff {
            slot: known.slot,
            epoch: config.epoch,
            map: self.ctx.map(),
            segment,
            base: known.version,
            then,
        });
        let answer = if config.leader == self.ctx.me() {
            self.here(request).await?
        } else {
            let call = self.ctx.call(config.leader, &request, Bytes::new(), LOOK);
            call.await?.0
        };
        expect(answer, looked)
    }

    /// Asks a slot's leader until one answers at the config it has.
    async fn ask_leader<T>(
        &self,
        slot: SlotId,
        request: impl Fn(&SlotConfig) -> DataRequest,
        wanted: impl Fn(&DataResponse) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, DataError> {
        let deadline = tokio::time::Instant::now() + READ;
        loop {
            let config = self.ctx.config(slot)?;
            let answer = if config.leader == self.ctx.me() {
                self.here(request(&config)).await
            } else {
                self.ctx
                    .call(config.leader, &request(&config), Bytes::new(), LOOK)
                    .await
                    .map(|(answer, _)| answer)
            };
            match answer.and_then(|answer| expect(answer, &wanted)) {
                Ok(answer) => return Ok(answer),
                Err(error @ DataError::Refused(Refusal::Retired(_))) => return Err(error),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(DataError::TimedOut {
                        millis: READ.as_millis() as u64,
                        why: error.to_string(),
                    });
                }
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    self.ctx.agreement.barrier().await?;
                }
            }
        }
    }

    async fn here(&self, request: DataRequest) -> Result<DataResponse, DataError> {
        Ok(match request {
            DataRequest::Look(look) => DataResponse::Looked(self.leader.look(look).await?),
            DataRequest::Peek(look) => DataResponse::Peeked(self.leader.peek(look).await?),
            DataRequest::Cutoff(cutoff) => DataResponse::CutOff(self.leader.cutoff(cutoff).await?),
            _ => {
                return Err(DataError::Malformed(
                    "not a request to a slot leader".into(),
                ));
            }
        })
    }

    /// Bytes of a segment at its agreed version: from here where it is held here, else from a synced replica. Fewer than
    /// asked only at the segment's end.
    pub async fn read(
        &self,
        segment: SegmentId,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, DataError> {
        let began = tokio::time::Instant::now();
        let deadline = began + READ;
        loop {
            let (slot, version, config) = {
                let state = self.ctx.state();
                let known = state.segment(segment).ok_or(DataError::Retired(segment))?;
                let config = state
                    .config(known.slot)
                    .cloned()
                    .ok_or(DataError::NoCluster)?;
                (known.slot, known.version, config)
            };
            let mut why = DataError::Frozen(segment);
            let mut damaged = 0;
            if config.role(self.ctx.me()) == Some(true) {
                match self.replica.read_here(segment, version, offset, len).await {
                    Ok((_, _, bytes)) => {
                        Counters::add(&self.ctx.counters.local_reads, 1);
                        return Ok(bytes);
                    }
                    Err(error) => {
                        damaged += usize::from(matches!(error, Refusal::Damaged(_)));
                        why = error.into();
                    }
                }
            }
            let read = DataRequest::ReadBase(ReadBase {
                slot,
                epoch: config.epoch,
                map: self.ctx.map(),
                segment,
                version,
                offset,
                len,
            });
            for replica in self.in_turn(&config, segment) {
                match self.ctx.call(replica, &read, Bytes::new(), ROUND).await {
                    Ok((DataResponse::Bytes { .. }, bytes)) => return Ok(bytes),
                    Ok((DataResponse::Refused(refusal), _)) => {
                        damaged += usize::from(matches!(refusal, Refusal::Damaged(_)));
                        why = refusal.into();
                    }
                    Ok(_) => why = DataError::Malformed("not an answer to a read".into()),
                    Err(error) => why = error,
                }
            }
            let no_good_copy = damaged > 0 && damaged == config.synced().count();
            if no_good_copy && began.elapsed() >= HEALING {
                return Err(why);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(why);
            }
            tokio::time::sleep(AGAIN).await;
            self.ctx.agreement.barrier().await?;
        }
    }

    /// The segment at its agreed version, if this member is a synced replica of it.
    pub fn at_hand(
        &self,
        state: &State,
        segment: SegmentId,
    ) -> Option<(SegmentId, SegmentVersion)> {
        let known = state.segment(segment)?;
        let synced = state.config(known.slot)?.role(self.ctx.me()) == Some(true);
        synced.then_some((segment, known.version))
    }

    /// As [`Reader::read`], of what [`Reader::at_hand`] named, where nothing has to be waited for.
    pub fn read_at_hand(
        &self,
        (segment, version): (SegmentId, SegmentVersion),
        offset: u64,
        len: u32,
    ) -> Option<Bytes> {
        let bytes = self.replica.read_cached(segment, version, offset, len)?;
        Counters::add(&self.ctx.counters.local_reads, 1);
        Some(bytes)
    }

    /// The other live synced replicas, starting at one that depends on the segment: reads spread.
    fn in_turn(&self, config: &SlotConfig, segment: SegmentId) -> Vec<Incarnation> {
        let state = self.ctx.state();
        let mut replicas: Vec<_> = config
            .synced()
            .filter(|one| *one != self.ctx.me() && state.cluster.alive.contains_key(one))
            .collect();
        if !replicas.is_empty() {
            let first = segment.0 as usize % replicas.len();
            replicas.rotate_left(first);
        }
        replicas
    }
}

/// Whether a segment is as a cut of this version left it.
fn is_cut(known: &Segment, base: SegmentVersion, then: Then) -> bool {
    known.version == base.next() && then == Then::SetLen(known.len)
}

fn looked(answer: &DataResponse) -> Option<Vec<Looked>> {
    match answer {
        DataResponse::Looked(looked) => Some(looked.clone()),
        DataResponse::CutOff(looked) => Some(vec![*looked]),
        _ => None,
    }
}
