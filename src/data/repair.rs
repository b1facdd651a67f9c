//! Learners (R11): a replica that was named learner pulls what the slot holds from the slot leader, and is promoted.
//!
//! The order of steps closes every gap: the config that names the learner makes writers send to it (so everything from
//! that epoch on arrives directly); the pull makes the slot leader include it in every prepare and waits for merges that
//! run without it; what the pull names is fetched; then the learner asks for its promotion. What the source's answer
//! lacks was sent after its config, hence directly; what it has precedes that (insert_pulled).

use crate::{
    context::{Context, ROUND},
    counters::Counters,
    error::DataError,
    merge::SlotLeader,
    replica::{FETCH_BYTES_MAX, Replica},
    segment::{LocalSegment, runs},
};
use bytes::Bytes;
use hydfs_store::{JournalEntry, blocking};
use hydfs_types::{
    Command, DataRequest, DataResponse, Incarnation, MapVersion, Planted, PullSlots, PulledSegment,
    PulledSlot, ReadBase, Refusal, Reply, SegmentId, SlotEpoch, SlotId,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Slots that one pull names.
const SLOTS_PER_PULL: usize = 512;
/// Pause between looks for slots to learn, unless rung.
const IDLE: Duration = Duration::from_millis(500);
const PULL: Duration = Duration::from_secs(20);

type Wanted = BTreeMap<Incarnation, Vec<(SlotId, SlotEpoch)>>;

/// The learning side of one member.
pub struct Repair {
    ctx: Arc<Context>,
    replica: Arc<Replica>,
    leader: Arc<SlotLeader>,
    pub rung: tokio::sync::Notify,
}

impl Repair {
    pub fn new(ctx: Arc<Context>, replica: Arc<Replica>, leader: Arc<SlotLeader>) -> Self {
        Self {
            ctx,
            replica,
            leader,
            rung: tokio::sync::Notify::new(),
        }
    }

    /// Learns for ever. One task per member runs it.
    pub async fn run(self: Arc<Self>) {
        loop {
            drop(tokio::time::timeout(IDLE, self.rung.notified()).await);
            let wanted = self.wanted();
            for (source, slots) in wanted {
                for some in slots.chunks(SLOTS_PER_PULL) {
                    if let Err(error) = self.learn(source, some).await {
                        tracing::info!(%source, slots = some.len(), %error, "could not learn these slots yet; trying again");
                    }
                }
            }
            if let Err(error) = self.collect_garbage() {
                tracing::warn!(%error, "could not drop copies that are not wanted here");
            }
        }
    }

    /// Slots where this member is a learner, by slot leader.
    fn wanted(&self) -> Wanted {
        let me = self.ctx.me();
        let state = self.ctx.state();
        let mut wanted = Wanted::new();
        for (slot, config) in &state.cluster.slots {
            if config.role(me) == Some(false) && !config.frozen {
                wanted
                    .entry(config.leader)
                    .or_default()
                    .push((*slot, config.epoch));
            }
        }
        wanted
    }

    async fn learn(
        &self,
        source: Incarnation,
        slots: &[(SlotId, SlotEpoch)],
    ) -> Result<(), DataError> {
        let request = DataRequest::PullSlots(PullSlots {
            map: self.ctx.map(),
            from: self.ctx.me(),
            slots: slots.to_vec(),
        });
        let (answer, _) = self.ctx.call(source, &request, Bytes::new(), PULL).await?;
        let DataResponse::Pulled(pulled) = answer else {
            return Err(refused(answer));
        };
        let mut ready = Vec::new();
        for slot in pulled {
            let Some((_, epoch)) = slots.iter().find(|(wanted, _)| *wanted == slot.slot) else {
                continue;
            };
            match self.learn_slot(source, &slot).await {
                Ok(()) => ready.push((slot.slot, *epoch)),
                Err(error) => {
                    tracing::info!(slot = %slot.slot, %error, "could not learn this slot yet")
                }
            }
        }
        self.replica.journal.sync().await?;
        if ready.is_empty() {
            return Ok(());
        }
        let request = DataRequest::Promote {
            map: self.ctx.map(),
            from: self.ctx.me(),
            slots: ready,
        };
        expect_promoted(self.ctx.call(source, &request, Bytes::new(), PULL).await?.0)
    }

    async fn learn_slot(&self, source: Incarnation, slot: &PulledSlot) -> Result<(), DataError> {
        for segment in &slot.segments {
            self.learn_segment(source, slot.slot, segment).await?;
        }
        Ok(())
    }

    async fn learn_segment(
        &self,
        source: Incarnation,
        slot: SlotId,
        pulled: &PulledSegment,
    ) -> Result<(), DataError> {
        self.learn_pending(source, slot, pulled).await?;
        let (version, digest) = {
            let index = self.replica.index();
            index
                .segments
                .get(&pulled.segment)
                .map(|local| (local.version, local.digest))
                .unwrap_or_default()
        };
        if version == pulled.version && digest == pulled.digest || version > pulled.version {
            return Ok(());
        }
        self.replica.pull_from(source, slot, pulled.segment).await
    }

    /// The source's pending records, before everything that came directly.
    async fn learn_pending(
        &self,
        source: Incarnation,
        slot: SlotId,
        pulled: &PulledSegment,
    ) -> Result<(), DataError> {
        let missing: Vec<_> = {
            let mut index = self.replica.index();
            let local = index
                .segments
                .entry(pulled.segment)
                .or_insert_with(|| LocalSegment::new(slot));
            pulled
                .pending
                .iter()
                .filter(|head| {
                    local
                        .lanes
                        .get(&head.writer)
                        .is_none_or(|lane| !lane.records.contains_key(&head.seq))
                })
                .cloned()
                .collect()
        };
        let fetched = self
            .replica
            .fetch_all(source, pulled.segment, runs(missing.iter()))
            .await?;
        let mut at: BTreeMap<_, _> = BTreeMap::new();
        for record in fetched {
            let position = self
                .replica
                .journal
                .append_record(&record.head, &record.payload)?;
            at.insert((record.head.writer, record.head.seq), position);
        }
        let mut index = self.replica.index();
        let local = index
            .segments
            .entry(pulled.segment)
            .or_insert_with(|| LocalSegment::new(slot));
        for head in &pulled.pending {
            let here = local
                .lanes
                .get(&head.writer)
                .and_then(|lane| lane.records.get(&head.seq))
                .map(|pending| pending.at);
            match at.get(&(head.writer, head.seq)).copied().or(here) {
                Some(position) => local.insert_pulled(head.clone(), position),
                // Merged since the source answered: the base that is pulled next has it.
                None => {
                    tracing::debug!(writer = %head.writer, seq = %head.seq, "a pending record was merged while it was pulled")
                }
            }
        }
        if !pulled.pending.is_empty() {
            let entry = JournalEntry::Order {
                segment: pulled.segment,
                slot,
                pending: local.names(),
            };
            drop(index);
            self.replica.journal.append(&entry)?;
        }
        Ok(())
    }

    /// Answers a learner (slot leader's side): includes it in prepares, then says what the slots hold.
    pub async fn pulled(&self, pull: PullSlots) -> Result<Vec<PulledSlot>, Refusal> {
        self.ctx.catch_up(pull.map).await?;
        let mut answer = Vec::with_capacity(pull.slots.len());
        let unasked: Vec<_> = if self.ctx.has(Planted::PromotedBySource) {
            let wanted = pull.slots.iter();
            wanted
                .map(|(slot, epoch)| (*slot, *epoch, pull.from))
                .collect()
        } else {
            Vec::new()
        };
        for (slot, epoch) in pull.slots {
            let Ok(config) = self.ctx.check(slot, epoch) else {
                continue;
            };
            if config.leader != self.ctx.me()
                || config.role(pull.from) != Some(false)
                || config.frozen
            {
                continue;
            }
            self.leader.include(slot, epoch, pull.from).await;
            let segments: Vec<SegmentId> = self
                .ctx
                .state()
                .names
                .by_slot
                .get(&slot)
                .into_iter()
                .flatten()
                .copied()
                .collect();
            if segments.is_empty() {
                answer.push(PulledSlot {
                    slot,
                    segments: Vec::new(),
                });
                continue;
            }
            self.replica.promise(slot, epoch, &config)?;
            let mut pulled = Vec::with_capacity(segments.len());
            for segment in segments {
                if self.replica.reconcile(segment).await.is_err() {
                    return Err(Refusal::Behind);
                }
                let index = self.replica.index();
                let local = index
                    .segments
                    .get(&segment)
                    .cloned()
                    .unwrap_or_else(|| LocalSegment::new(slot));
                drop(index);
                pulled.push(PulledSegment {
                    segment,
                    version: local.version,
                    len: local.len,
                    digest: local.digest,
                    pending: local
                        .pending()
                        .map(|pending| pending.head.clone())
                        .collect(),
                });
            }
            answer.push(PulledSlot {
                slot,
                segments: pulled,
            });
        }
        if !unasked.is_empty() {
            let command = Command::Promote { learners: unasked };
            drop(self.ctx.agreement.propose(command).await);
        }
        Ok(answer)
    }

    /// A learner says that it holds what its pull named: proposes its promotion (slot leader's side).
    pub async fn promote(
        &self,
        map: MapVersion,
        from: Incarnation,
        slots: Vec<(SlotId, SlotEpoch)>,
    ) -> Result<Vec<SlotId>, Refusal> {
        self.ctx.catch_up(map).await?;
        let learners: Vec<_> = slots
            .into_iter()
            .filter(|(slot, epoch)| {
                self.ctx
                    .check(*slot, *epoch)
                    .is_ok_and(|config| config.leader == self.ctx.me() && !config.frozen)
                    && self.leader.includes(*slot, *epoch, from)
            })
            .map(|(slot, epoch)| (slot, epoch, from))
            .collect();
        if learners.is_empty() {
            return Ok(Vec::new());
        }
        match self
            .ctx
            .agreement
            .propose(Command::Promote { learners })
            .await
        {
            Ok(Reply::Promoted(slots)) => Ok(slots),
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(Refusal::NoMerge(error.to_string())),
        }
    }

    /// Drops copies of slots whose acting replicas are complete without this member.
    fn collect_garbage(&self) -> Result<(), DataError> {
        let surplus: Vec<SegmentId> = {
            let state = self.ctx.state();
            let me = self.ctx.me();
            let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
            let index = self.replica.index();
            let complete = |slot: SlotId| {
                state.config(slot).is_some_and(|config| {
                    let live = config
                        .synced()
                        .filter(|one| state.cluster.alive.contains_key(one));
                    let whole =
                        config.acting.iter().all(|acting| acting.synced) && live.count() >= wanted;
                    config.role(me).is_none() && (whole || self.ctx.has(Planted::DeletedByAbsence))
                })
            };
            let known = state.cluster.id.is_some() && state.cluster.alive.contains_key(&me);
            index
                .segments
                .iter()
                .filter(|(segment, local)| {
                    known && (complete(local.slot) || state.segment(**segment).is_none())
                })
                .map(|(segment, _)| *segment)
                .collect()
        };
        surplus
            .into_iter()
            .try_for_each(|segment| self.replica.drop_segment(segment))
    }
}

impl Replica {
    /// Pulls one base from any other synced replica: for a synced replica that a snapshot carried past its prepared lists.
    pub(crate) async fn pull_base(
        &self,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        let config = self.ctx.config(slot)?;
        let mut why = DataError::Frozen(segment);
        for source in config.synced().filter(|one| *one != self.ctx.me()) {
            match self.pull_from(source, slot, segment).await {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Pulls the base of a segment at the version that the state has now, and puts it in place when it is whole and on disk.
    ///
    /// The source may move on meanwhile: some of the bytes are then of a later version. All cuts from the pulled version on
    /// are redone here in order, each at fixed offsets, so the outcome is the same, and a busy segment does not starve its
    /// learner.
    pub(crate) async fn pull_from(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        let Some(target) = self.ctx.state().segment(segment).cloned() else {
            return Ok(());
        };
        if self.version(segment) >= target.version {
            return Ok(());
        }
        let epoch = self.ctx.config(slot)?.epoch;
        let mut adopting = self.bases.adopt(segment)?;
        let mut offset = 0;
        while offset < target.len {
            let len = (target.len - offset).min(FETCH_BYTES_MAX as u64 / 2) as u32;
            let read = ReadBase {
                slot,
                epoch,
                map: self.ctx.map(),
                segment,
                version: target.version,
                offset,
                len,
            };
            let (answer, bytes) = self
                .ctx
                .call(source, &DataRequest::ReadBase(read), Bytes::new(), ROUND)
                .await?;
            let DataResponse::Bytes { version, .. } = answer else {
                return Err(refused(answer));
            };
            if version < target.version {
                return Err(Refusal::Behind.into());
            }
            if bytes.is_empty() && version == target.version {
                return Err(DataError::Malformed("a base ended early".into()));
            }
            if bytes.is_empty() {
                // It was cut since: the redo of that cut will say so here, too.
                break;
            }
            adopting.write(offset, &bytes)?;
            offset += bytes.len() as u64;
            Counters::add(&self.ctx.counters.repaired_bytes, bytes.len() as u64);
        }
        blocking(|| adopting.finish(target.len))?;
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
}

fn refused(answer: DataResponse) -> DataError {
    match answer {
        DataResponse::Refused(refusal) => refusal.into(),
        _ => DataError::Malformed("not an answer to a pull".into()),
    }
}

fn expect_promoted(answer: DataResponse) -> Result<(), DataError> {
    match answer {
        DataResponse::Promoted(_) => Ok(()),
        other => Err(refused(other)),
    }
}
