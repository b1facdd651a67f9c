//! What a slot leader keeps in mind besides its merges: which learners get every prepare (R11), and which segments are to
//! be merged though nobody reads them.

use crate::{checkpoint::FILES_OVERDUE, merge::SlotLeader};
use hydfs_store::Position;
use hydfs_types::{Incarnation, SegmentId, SlotConfig, SlotEpoch, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// Pending bytes or records of a segment beyond which its leader merges without a reader.
const PENDING_BYTES_MERGED: u64 = 24 << 20;
const PENDING_RECORDS_MERGED: usize = 50_000;
/// Pending bytes from which on a segment is merged rather than copied by the journal's next checkpoint.
const OLD_BYTES_MERGED: u64 = 256 << 10;

/// Learners that pulled a slot at this epoch: they get every prepare.
pub(crate) type Promoting = BTreeMap<SlotId, (SlotEpoch, BTreeSet<Incarnation>)>;

impl SlotLeader {
    pub(crate) fn promoting(&self, config: &SlotConfig, slot: SlotId) -> BTreeSet<Incarnation> {
        let promoting = self
            .promoting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        promoting
            .get(&slot)
            .filter(|(epoch, _)| *epoch == config.epoch)
            .map(|(_, learners)| learners.clone())
            .unwrap_or_default()
    }

    /// A learner begins to pull: from now on it gets every prepare. Returns once no merge runs that began without it.
    pub async fn include(&self, slot: SlotId, epoch: SlotEpoch, learner: Incarnation) {
        {
            let mut promoting = self
                .promoting
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let entry = promoting.entry(slot).or_insert((epoch, BTreeSet::new()));
            if entry.0 != epoch {
                *entry = (epoch, BTreeSet::new());
            }
            entry.1.insert(learner);
        }
        let running: Vec<_> = {
            let state = self.ctx.state();
            let turns = self
                .turns
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let of_slot = state.names.by_slot.get(&slot);
            of_slot
                .into_iter()
                .flatten()
                .filter_map(|segment| turns.get(segment).cloned())
                .collect()
        };
        for turn in running {
            drop(turn.lock().await);
        }
    }

    /// Whether this learner has been sent every prepare since it began to pull at this epoch.
    pub fn includes(&self, slot: SlotId, epoch: SlotEpoch, learner: Incarnation) -> bool {
        let promoting = self
            .promoting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        promoting
            .get(&slot)
            .is_some_and(|(at, learners)| *at == epoch && learners.contains(&learner))
    }

    /// Segments led here that have so much pending, or have had it for so long, that they are merged without a reader:
    /// bounded journals, bounded memory.
    pub fn overdue(&self) -> Vec<(SlotId, SegmentId)> {
        let state = self.ctx.state();
        let index = self.replica.index();
        let me = self.ctx.me();
        let tail = self.replica.journal.log().tail().file();
        let is_old = |at: Position| at.file() + FILES_OVERDUE <= tail;
        index
            .segments
            .iter()
            .filter(|(_, local)| {
                local.pending_bytes > PENDING_BYTES_MERGED
                    || local.pending_bytes > OLD_BYTES_MERGED && local.oldest().is_some_and(is_old)
                    || local
                        .lanes
                        .values()
                        .map(|lane| lane.records.len())
                        .sum::<usize>()
                        > PENDING_RECORDS_MERGED
            })
            .filter(|(_, local)| {
                state
                    .config(local.slot)
                    .is_some_and(|config| config.leader == me && !config.frozen)
            })
            .map(|(segment, local)| (local.slot, *segment))
            .collect()
    }
}
