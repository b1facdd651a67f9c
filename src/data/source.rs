//! Repair as the slot leader sees it (R11): it includes a learner in its merges, says what slots hold, and proposes promotions.

use crate::{
    apply::Standing, context::Context, merge::SlotLeader, replica::Replica, segment::LocalSegment,
};
use hydfs_types::{
    Command, Incarnation, MapVersion, Planted, PullSlots, PulledSegment, PulledSlot, Refusal,
    Reply, SegmentId, SlotEpoch, SlotId, encode,
};
use std::sync::Arc;

/// Bytes of an answer to a pull beyond which no more slots are put into it: what names all their segments and pending
/// records has to fit into the head of a frame.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The slot leader's part in repair.
pub struct Source {
    ctx: Arc<Context>,
    replica: Arc<Replica>,
    leader: Arc<SlotLeader>,
}

impl Source {
    pub fn new(ctx: Arc<Context>, replica: Arc<Replica>, leader: Arc<SlotLeader>) -> Self {
        Self {
            ctx,
            replica,
            leader,
        }
    }

    /// Answers a learner: includes it in prepares, then says what the slots hold. Slots that it knows another config of, or
    /// cannot teach now, are left out; so are those that would make the answer too long.
    pub async fn pulled(&self, pull: PullSlots) -> Result<Vec<PulledSlot>, Refusal> {
        self.ctx.catch_up(pull.map).await?;
        let mut answer = Vec::with_capacity(pull.slots.len());
        let mut bytes = 0;
        let unasked: Vec<_> = if self.ctx.has(Planted::PromotedBySource) {
            let wanted = pull.slots.iter();
            wanted
                .map(|(slot, epoch)| (*slot, *epoch, pull.from))
                .collect()
        } else {
            Vec::new()
        };
        'slots: for (slot, epoch) in pull.slots {
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
            if self.replica.promise(slot, epoch, &config).is_err() {
                continue;
            }
            let mut pulled = Vec::with_capacity(segments.len());
            for segment in segments {
                // Whoever is behind itself has neither the base nor all records of the versions before: nobody may learn
                // that there is nothing. That slot is left out, so that it is asked for again; the others go on.
                match self.replica.reconcile(segment).await {
                    Ok(Standing::Current) => {}
                    Ok(Standing::NotHeld) => continue,
                    Ok(Standing::Missing) | Err(_) => {
                        self.replica.ring_behind(segment);
                        continue 'slots;
                    }
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
            let pulled = PulledSlot {
                slot,
                segments: pulled,
            };
            bytes += encode(&pulled).len();
            if bytes > ANSWER_BYTES_MAX && !answer.is_empty() {
                break;
            }
            answer.push(pulled);
        }
        if !unasked.is_empty() {
            let command = Command::Promote { learners: unasked };
            drop(self.ctx.agreement.propose(command).await);
        }
        Ok(answer)
    }

    /// A learner says that it holds what its pull named: proposes its promotion.
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
}
