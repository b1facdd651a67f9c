//! Copies that are still to be made: what whoever repairs or drains waits for.

use crate::State;
use hydfs_types::{Incarnation, SlotConfig, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// Copies to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moving {
    pub slots: usize,
    /// Merged bytes of them, once for each copy that is missing.
    pub bytes: u64,
}

impl State {
    /// What is missing until every slot has its copies on members that stay; with `of`, in that member's slots alone.
    /// Members that are draining do not count. Slots without a live copy are not in it: nobody can make theirs.
    pub fn moving(&self, of: Option<Incarnation>) -> Moving {
        let staying = self.staying();
        let wanted = usize::from(self.cluster.copies).min(staying.len());
        let missing = |config: &SlotConfig| {
            let kept = config.synced().filter(|one| staying.contains(one)).count();
            wanted.saturating_sub(kept)
        };
        let concerns =
            |config: &SlotConfig| !config.frozen && of.is_none_or(|of| config.role(of).is_some());
        let slots: BTreeMap<SlotId, usize> = self
            .cluster
            .slots
            .iter()
            .filter(|(_, config)| concerns(config))
            .map(|(slot, config)| (*slot, missing(config)))
            .filter(|(_, missing)| *missing > 0)
            .collect();
        let bytes = slots.iter().flat_map(|(slot, missing)| {
            let segments = self.names.by_slot.get(slot).into_iter().flatten();
            segments.map(|id| self.names.segments[id].len * *missing as u64)
        });
        Moving {
            bytes: bytes.sum(),
            slots: slots.len(),
        }
    }

    /// Live members that are not draining.
    pub fn staying(&self) -> BTreeSet<Incarnation> {
        let members = self.cluster.members.values();
        members
            .filter(|one| one.alive && !one.draining)
            .map(|one| one.incarnation)
            .collect()
    }
}
