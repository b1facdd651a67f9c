//! Learners (R11): a replica that was named learner pulls what the slot holds from the slot leader, and is promoted.
//!
//! The order of steps closes every gap: the config that names the learner makes writers send to it (so everything from
//! that epoch on arrives directly); the pull makes the slot leader include it in every prepare and waits for merges that
//! run without it; what the pull names is fetched; then the learner asks for its promotion. What the source's answer
//! lacks was sent after its config, hence directly; what it has precedes that (insert_pulled).
//!
//! A change of the map begins new pulls at once, beside those that run. One pull names many slots of one source; a few
//! of its segments are fetched at once, and each slot is promoted when it is ready, with others that are ready then. What
//! is in memory is bounded by [`SEGMENTS_MAX`] pieces, the speed by [`crate::throttle`]. A pull that ends early has lost
//! nothing: bases in place stay, and the next one fetches only what is missing.

use crate::{context::Context, error::DataError, learn::Learned, pull::refused, replica::Replica};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hydfs_types::{
    DataRequest, DataResponse, Incarnation, Planted, PullSlots, SegmentId, SlotEpoch, SlotId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

/// Slots that one pull names.
const SLOTS_PER_PULL: usize = 512;
/// Pulls at once. Most only wait for a place to fetch.
const PULLS_MAX: usize = 64;
/// Segments fetched at once, of one pull and of all.
const SEGMENTS_PER_PULL: usize = 4;
const SEGMENTS_MAX: usize = 16;
/// Between two pulls from one source, so that one that has nothing to say yet is not asked without end.
const BREATH: Duration = Duration::from_millis(50);
/// Pause between looks for slots to learn, unless rung; and before a source that failed is asked again.
const IDLE: Duration = Duration::from_millis(500);
/// Surplus copies are looked for this often.
const GARBAGE_EVERY: Duration = Duration::from_millis(500);
/// Slots that get ready within this are promoted together: each promotion costs every writer a look at the map.
const PROMOTE_EVERY: Duration = Duration::from_millis(200);
/// Deadline of a source's answer.
pub(crate) const PULL: Duration = Duration::from_secs(20);

type Wanted = BTreeMap<Incarnation, Vec<(SlotId, SlotEpoch)>>;

/// The learning side of one member.
pub struct Repair {
    pub(crate) ctx: Arc<Context>,
    pub(crate) replica: Arc<Replica>,
    pub rung: tokio::sync::Notify,
    /// Places for segments that are fetched.
    pub(crate) places: Semaphore,
    /// Slots that a pull has in hand.
    busy: Mutex<BTreeSet<SlotId>>,
}

/// The slots that one pull has in hand, until it lets go of them.
struct Held<'a> {
    repair: &'a Repair,
    slots: BTreeSet<SlotId>,
}

impl Held<'_> {
    fn let_go(&mut self, slot: SlotId) {
        if self.slots.remove(&slot) {
            self.repair.busy().remove(&slot);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut busy = self.repair.busy();
        self.slots.iter().for_each(|slot| {
            busy.remove(slot);
        });
    }
}

impl Repair {
    pub fn new(ctx: Arc<Context>, replica: Arc<Replica>) -> Self {
        Self {
            ctx,
            replica,
            rung: tokio::sync::Notify::new(),
            places: Semaphore::new(SEGMENTS_MAX),
            busy: Mutex::default(),
        }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<SlotId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns for ever. One task per member runs it.
    pub async fn run(self: Arc<Self>) {
        let mut pulls = FuturesUnordered::new();
        // Sources that are left alone for a moment.
        let mut resting: BTreeMap<Incarnation, Instant> = BTreeMap::new();
        let mut swept = Instant::now();
        // Nothing is to be learned at this map by this incarnation, which may be another one's successor at the same map: the
        // configs of thousands of slots need not be looked at again before the next.
        let mut done_at = None;
        loop {
            resting.retain(|_, until| *until > Instant::now());
            let (map, me) = (self.ctx.state().cluster.map, self.ctx.me());
            let wanted = if done_at == Some((map, me)) {
                Wanted::new()
            } else {
                self.wanted(me)
            };
            done_at = (wanted.is_empty() && pulls.is_empty()).then_some((map, me));
            for (source, slots) in wanted {
                for some in slots.chunks(SLOTS_PER_PULL) {
                    if pulls.len() < PULLS_MAX && !resting.contains_key(&source) {
                        pulls.push(self.pull(source, self.hold(some), some.to_vec()));
                    }
                }
            }
            let idle = Instant::now() + IDLE;
            let rested = resting.values().copied().fold(idle, Instant::min);
            tokio::select! {
                biased;
                Some((source, slots, outcome)) = pulls.next(), if !pulls.is_empty() => {
                    let rest = match outcome {
                        Ok(left_out) => {
                            tracing::debug!(%source, slots, left_out, "a pull is done");
                            if left_out < slots { BREATH } else { IDLE }
                        }
                        Err(error) => {
                            tracing::info!(%source, slots, %error, "could not learn these slots yet; trying again");
                            IDLE
                        }
                    };
                    resting.insert(source, Instant::now() + rest);
                }
                () = self.rung.notified() => {}
                () = sleep_until(rested) => {}
            }
            if swept.elapsed() >= GARBAGE_EVERY {
                swept = Instant::now();
                if let Err(error) = self.collect_garbage() {
                    tracing::warn!(%error, "could not drop copies that are not wanted here");
                }
            }
        }
    }

    /// Slots where this member is a learner and that no pull has in hand, by slot leader.
    fn wanted(&self, me: Incarnation) -> Wanted {
        let state = self.ctx.state();
        let busy = self.busy();
        let mut wanted = Wanted::new();
        for (slot, config) in &state.cluster.slots {
            if config.role(me) == Some(false) && !config.frozen && !busy.contains(slot) {
                wanted
                    .entry(config.leader)
                    .or_default()
                    .push((*slot, config.epoch));
            }
        }
        wanted
    }

    fn hold(&self, slots: &[(SlotId, SlotEpoch)]) -> Held<'_> {
        let slots: BTreeSet<_> = slots.iter().map(|(slot, _)| *slot).collect();
        self.busy().extend(&slots);
        Held {
            repair: self,
            slots,
        }
    }

    /// One pull: its source, how many slots it named, and how many of them the source left out, because it knows another
    /// config of them or is itself behind in them.
    async fn pull(
        &self,
        source: Incarnation,
        held: Held<'_>,
        slots: Vec<(SlotId, SlotEpoch)>,
    ) -> (Incarnation, usize, Result<usize, DataError>) {
        let outcome = self.learn(source, held, &slots).await;
        (source, slots.len(), outcome)
    }

    async fn learn(
        &self,
        source: Incarnation,
        mut held: Held<'_>,
        slots: &[(SlotId, SlotEpoch)],
    ) -> Result<usize, DataError> {
        let request = DataRequest::PullSlots(PullSlots {
            map: self.ctx.map(),
            from: self.ctx.me(),
            slots: slots.to_vec(),
        });
        let (answer, _) = self.ctx.call(source, &request, Bytes::new(), PULL).await?;
        let DataResponse::Pulled(pulled) = answer else {
            return Err(refused(answer));
        };
        // What the source has applied is applied here, too: else there would be nothing to pull of a version that it has and
        // nobody here knows of yet.
        self.ctx.agreement.barrier().await?;
        let wanted: BTreeMap<_, _> = slots.iter().copied().collect();
        let places = Semaphore::new(SEGMENTS_PER_PULL);
        // What holds nothing is ready.
        let (empty, full): (Vec<_>, Vec<_>) = pulled
            .into_iter()
            .filter_map(|slot| Some((*wanted.get(&slot.slot)?, slot)))
            .partition(|(_, slot)| slot.segments.is_empty());
        let mut ready: Vec<_> = empty
            .into_iter()
            .map(|(epoch, slot)| (slot.slot, epoch))
            .collect();
        let mut learning: FuturesUnordered<_> = full
            .into_iter()
            .map(|(epoch, slot)| self.learn_slot(source, epoch, slot, &places))
            .collect();
        let mut promoting = FuturesUnordered::new();
        let (mut next, mut outcome) = (Instant::now(), Ok(()));
        loop {
            if promoting.is_empty() && !ready.is_empty() && Instant::now() >= next {
                promoting.push(self.promote(source, std::mem::take(&mut ready)));
                next = Instant::now() + PROMOTE_EVERY;
            }
            tokio::select! {
                biased;
                Some((slots, promoted)) = promoting.next(), if !promoting.is_empty() => {
                    slots.into_iter().for_each(|slot| held.let_go(slot));
                    outcome = outcome.and(promoted);
                }
                Some(learned) = learning.next(), if !learning.is_empty() => match learned {
                    Ok(Learned::Ready(slot, epoch)) => ready.push((slot, epoch)),
                    Ok(Learned::Superseded(slot)) => {
                        held.let_go(slot);
                        self.rung.notify_one();
                    }
                    Err(error) => outcome = outcome.and(Err(error)),
                },
                () = sleep_until(next), if !ready.is_empty() && promoting.is_empty() => {}
                else => break,
            }
        }
        outcome.map(|()| held.slots.len())
    }

    /// Asks for the promotion of slots that this member holds.
    async fn promote(
        &self,
        source: Incarnation,
        slots: Vec<(SlotId, SlotEpoch)>,
    ) -> (Vec<SlotId>, Result<(), DataError>) {
        let ids = slots.iter().map(|(slot, _)| *slot).collect();
        let ask = async {
            self.replica.journal.sync().await?;
            let request = DataRequest::Promote {
                map: self.ctx.map(),
                from: self.ctx.me(),
                slots,
            };
            match self.ctx.call(source, &request, Bytes::new(), PULL).await?.0 {
                DataResponse::Promoted(_) => Ok(()),
                other => Err(refused(other)),
            }
        };
        (ids, ask.await)
    }

    /// Drops copies of slots whose acting replicas are complete without this member.
    pub(crate) fn collect_garbage(&self) -> Result<(), DataError> {
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
        let mut dropped = Ok(());
        for segment in surplus {
            // Whoever is in the middle of a step would go on in a base made anew. It goes the next time.
            let turn = self.replica.turn(segment);
            if let Ok(_turn) = turn.try_lock() {
                // One that stays, for want of room, keeps no other from going, which may make room.
                dropped = self.replica.drop_segment(segment).and(dropped);
            }
        }
        dropped
    }
}
