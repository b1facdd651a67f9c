//! What the leader proposes to bring slot configs to what the ring wants (R2).
//!
//! One call gives one step for each slot; learners then catch up, the next call goes on. The end state is: acting is the
//! wanted set, all synced, led by the first of it. A plan on the end state is empty. Never proposed: a config without a
//! live synced replica of its predecessor, a `synced` that was not one before, or fewer live synced replicas than there
//! are and than `copies` asks for.

use crate::Ring;
use hydfs_types::{Acting, Incarnation, SlotChange, SlotConfig, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// The changes to propose now, slots with the fewest live copies first, at most `limit`.
///
/// `ring` may name members that are not alive or full: they are passed over. A member that is alive but not on the ring
/// is being drained: it keeps its copies until others have them. Frozen slots are left alone.
pub fn plan(
    slots: &BTreeMap<SlotId, SlotConfig>,
    alive: &BTreeSet<Incarnation>,
    full: &BTreeSet<Incarnation>,
    ring: &Ring,
    copies: usize,
    limit: usize,
) -> Vec<SlotChange> {
    let planner = Planner::new(alive, full, ring, copies);
    let mut changes: Vec<(usize, SlotChange)> = slots
        .iter()
        .filter_map(|(slot, config)| planner.step(*slot, config))
        .collect();
    changes.sort_by_key(|(synced, change)| (*synced, change.slot));
    changes.truncate(limit);
    changes.into_iter().map(|(_, change)| change).collect()
}

struct Planner<'a> {
    alive: &'a BTreeSet<Incarnation>,
    ring: &'a Ring,
    /// The ring of those that may take data.
    takers: Ring,
    copies: usize,
    /// Live synced replicas below which none is dropped.
    least: usize,
}

impl<'a> Planner<'a> {
    fn new(
        alive: &'a BTreeSet<Incarnation>,
        full: &'a BTreeSet<Incarnation>,
        ring: &'a Ring,
        copies: usize,
    ) -> Self {
        let takes = |i: &Incarnation| alive.contains(i) && !full.contains(i);
        let excluded = ring
            .members()
            .iter()
            .map(|m| m.incarnation)
            .filter(|i| !takes(i))
            .collect();
        Self {
            alive,
            ring,
            takers: ring.without(&excluded),
            copies,
            least: copies.min(alive.len()),
        }
    }

    /// The next change of one slot, with its number of live synced replicas.
    fn step(&self, slot: SlotId, config: &SlotConfig) -> Option<(usize, SlotChange)> {
        let synced: Vec<Incarnation> = config.synced().filter(|i| self.alive.contains(i)).collect();
        if config.frozen || synced.is_empty() {
            return None;
        }
        let wanted = self.wanted(slot, config);
        let kept = self.kept(&synced, &wanted);
        let acting = self.acting(config, &kept, &wanted);
        let leader = Self::leader(config, &kept, &wanted);
        let same = acting == config.acting && leader == config.leader;
        let expected = config.epoch;
        (!same).then_some((
            synced.len(),
            SlotChange {
                slot,
                expected,
                acting,
                leader,
            },
        ))
    }

    /// The members that should keep the slot. Where too few can take data, full ones that keep it already stay.
    fn wanted(&self, slot: SlotId, config: &SlotConfig) -> Vec<Incarnation> {
        let mut wanted = self.takers.wanted(slot, self.copies);
        for incarnation in self.ring.wanted(slot, self.copies) {
            let keeps = self.alive.contains(&incarnation) && config.role(incarnation).is_some();
            if wanted.len() < self.copies && keeps && !wanted.contains(&incarnation) {
                wanted.push(incarnation);
            }
        }
        wanted
    }

    /// The live synced replicas that stay: all of them until every wanted one is synced, then the wanted ones and as
    /// many others as the copies need.
    fn kept(&self, synced: &[Incarnation], wanted: &[Incarnation]) -> Vec<Incarnation> {
        if wanted.is_empty() || !wanted.iter().all(|i| synced.contains(i)) {
            return synced.to_vec();
        }
        let mut spare = self.least.saturating_sub(wanted.len());
        let mut stays = |i: &Incarnation| {
            wanted.contains(i) || {
                let needed = spare > 0;
                spare = spare.saturating_sub(1);
                needed
            }
        };
        synced.iter().copied().filter(|i| stays(i)).collect()
    }

    /// Those kept in their order, the learners that go on, and new learners for who is missing.
    fn acting(
        &self,
        config: &SlotConfig,
        kept: &[Incarnation],
        wanted: &[Incarnation],
    ) -> Vec<Acting> {
        let learns = |a: &Acting| {
            !a.synced && self.alive.contains(&a.incarnation) && wanted.contains(&a.incarnation)
        };
        let mut acting: Vec<Acting> = config
            .acting
            .iter()
            .copied()
            .filter(|a| kept.contains(&a.incarnation) || learns(a))
            .collect();
        for incarnation in wanted {
            if !acting.iter().any(|a| a.incarnation == *incarnation) {
                acting.push(Acting {
                    incarnation: *incarnation,
                    synced: false,
                });
            }
        }
        acting
    }

    /// The first wanted one that is synced; else whoever leads, if it stays; else the first that stays.
    fn leader(config: &SlotConfig, kept: &[Incarnation], wanted: &[Incarnation]) -> Incarnation {
        let preferred = wanted.iter().find(|i| kept.contains(i));
        let current = kept.iter().find(|i| **i == config.leader);
        *preferred.or(current).unwrap_or(&kept[0])
    }
}
