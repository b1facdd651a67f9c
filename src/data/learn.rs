//! What a learner fetches of one slot: its pending records, then its bases (R11).
//!
//! Cuts go on meanwhile. A merge includes the learner. The end of a writer that is alone (R7) asks nobody: it may cut records
//! that the source has named and the learner has not fetched yet, and the source then has them no more. So each segment
//! is brought to the version that is *agreed* here, and where the source lacked what it had named, to what is agreed
//! after that. A slot is ready when all its segments are there at the same moment. Later cuts are made of records that
//! are here: those that the source named, or those sent since, which come directly.

use crate::{
    apply::Standing,
    error::DataError,
    repair::Repair,
    segment::{LocalSegment, runs},
};
use futures_util::future::join_all;
use hydfs_store::JournalEntry;
use hydfs_types::{
    Incarnation, PulledSegment, PulledSlot, RecordHead, Refusal, Run, SegmentId, SlotEpoch, SlotId,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of pending records that are fetched at once, if more than one.
const PENDING_BYTES: u64 = 1 << 20;

/// How often a slot's segments are brought to versions that move on meanwhile; then the pull is begun anew.
const TRIES: usize = 20;

/// What became of a slot that was pulled.
pub(crate) enum Learned {
    /// It may be promoted at this epoch.
    Ready(SlotId, SlotEpoch),
    /// Its config has changed since: what was fetched stays, the next pull asks for the rest.
    Superseded(SlotId),
}

impl Repair {
    /// Fetches what is missing here of one slot, a few segments at once.
    pub(crate) async fn learn_slot(
        &self,
        source: Incarnation,
        epoch: SlotEpoch,
        pulled: PulledSlot,
        places: &Semaphore,
    ) -> Result<Learned, DataError> {
        let slot = pulled.slot;
        let current = || self.ctx.check(slot, epoch).is_ok();
        let fetches = pulled.segments.iter().map(|segment| async {
            let _places = self.place(places).await?;
            match current() {
                true => self.learn_segment(source, slot, segment).await,
                false => Ok(()),
            }
        });
        join_all(fetches)
            .await
            .into_iter()
            .collect::<Result<(), DataError>>()?;
        for _ in 0..TRIES {
            if !current() {
                return Ok(Learned::Superseded(slot));
            }
            let behind = self.replica.behind_in(slot);
            if behind.is_empty() {
                return Ok(Learned::Ready(slot, epoch));
            }
            for segment in behind {
                let _places = self.place(places).await?;
                self.level(source, slot, segment).await?;
            }
        }
        Err(Refusal::Behind.into())
    }

    /// A place in the pull, then one of the member's.
    async fn place<'a>(
        &'a self,
        places: &'a Semaphore,
    ) -> Result<(SemaphorePermit<'a>, SemaphorePermit<'a>), DataError> {
        let closed = |_| DataError::Store("repair has ended".into());
        let of_pull = places.acquire().await.map_err(closed)?;
        let of_all = self.places.acquire().await.map_err(closed)?;
        Ok((of_pull, of_all))
    }

    async fn learn_segment(
        &self,
        source: Incarnation,
        slot: SlotId,
        pulled: &PulledSegment,
    ) -> Result<(), DataError> {
        if !self.learn_pending(source, slot, pulled).await? {
            // Whatever the source has no more is cut, or void, by a command that it has applied.
            self.ctx.agreement.barrier().await?;
        }
        self.level(source, slot, pulled.segment).await
    }

    /// Brings a base to its agreed version, and what was here through a power loss to what the source has.
    async fn level(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        match self.replica.reconcile(segment).await? {
            Standing::Current => self.replica.vouch_for(source, slot, segment).await,
            Standing::Missing => self.replica.learn_base(source, slot, segment).await,
            Standing::NotHeld => Ok(()),
        }
    }

    /// The source's pending records, before everything that came directly; whether all that it named are here now.
    async fn learn_pending(
        &self,
        source: Incarnation,
        slot: SlotId,
        pulled: &PulledSegment,
    ) -> Result<bool, DataError> {
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
                .collect()
        };
        for (runs, bytes) in portions(&missing) {
            self.ctx.throttle.pull(bytes).await;
            for record in self.replica.fetch_all(source, pulled.segment, runs).await? {
                self.replica.take_pulled(slot, record)?;
            }
        }
        let mut complete = true;
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
            match here {
                Some(position) => local.insert_pulled(head.clone(), position),
                // Cut since the source answered: the base that is pulled next has it.
                None => {
                    complete = false;
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
        Ok(complete)
    }
}

/// Cuts a list of records into portions that fit into memory many times over: runs, and their bytes.
fn portions(heads: &[&RecordHead]) -> Vec<(Vec<Run>, u64)> {
    let mut portions = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, head) in heads.iter().enumerate() {
        let len = u64::from(head.len);
        if at > from && bytes + len > PENDING_BYTES {
            portions.push((runs(heads[from..at].iter().copied()), bytes));
            (from, bytes) = (at, 0);
        }
        bytes += len;
    }
    if from < heads.len() {
        portions.push((runs(heads[from..].iter().copied()), bytes));
    }
    portions
}
