//! Slot configs (R2): every change is a compare-and-swap that keeps a synced replica of its predecessor.

use crate::{Event, Life, State};
use hydfs_types::{
    Acting, CommandError, Incarnation, Planted, Reply, SLOTS, SlotChange, SlotConfig, SlotEpoch,
    SlotId,
};
use std::collections::BTreeSet;

fn next(epoch: SlotEpoch) -> SlotEpoch {
    SlotEpoch(epoch.0 + 1)
}

/// A slot without segments begins anew with one replica, which has all of it: there is none whose records could be missing.
fn hand_over(config: &mut SlotConfig, to: Incarnation) {
    *config = SlotConfig {
        epoch: next(config.epoch),
        acting: vec![Acting {
            incarnation: to,
            synced: true,
        }],
        leader: to,
        frozen: false,
    };
}

impl State {
    /// The first member of a cluster holds every slot.
    pub(crate) fn first_configs(&mut self, incarnation: Incarnation) -> Vec<SlotId> {
        let first = SlotConfig {
            epoch: SlotEpoch(1),
            acting: vec![Acting {
                incarnation,
                synced: true,
            }],
            leader: incarnation,
            frozen: false,
        };
        self.cluster.slots = (0..SLOTS)
            .map(|slot| (SlotId(slot), first.clone()))
            .collect();
        self.cluster.slots.keys().copied().collect()
    }

    /// Ended incarnations lose their places. Where no live synced replica remains, the config freezes as it is, unless the
    /// slot holds nothing that anybody could lose: that goes to whoever lives.
    pub(crate) fn leave_slots(&mut self, ended: &BTreeSet<Incarnation>) -> Vec<SlotId> {
        let mut changed = Vec::new();
        for (slot, config) in &mut self.cluster.slots {
            if config.frozen || !config.acting.iter().any(|a| ended.contains(&a.incarnation)) {
                continue;
            }
            changed.push(*slot);
            let Some(heir) = config.synced().find(|i| !ended.contains(i)) else {
                config.frozen = true;
                let learns = |i: &&Incarnation| config.role(**i).is_some();
                let alive = &self.cluster.alive;
                let finder = alive.keys().find(learns).or_else(|| alive.keys().next());
                if let Some(finder) = finder.filter(|_| !self.names.by_slot.contains_key(slot)) {
                    hand_over(config, *finder);
                }
                continue;
            };
            if ended.contains(&config.leader) {
                config.leader = heir;
            }
            config.acting.retain(|a| !ended.contains(&a.incarnation));
            config.epoch = next(config.epoch);
        }
        changed
    }

    /// R12: a member that comes back to slots which froze with it takes its place again as synced, where it lost
    /// nothing (same boot), or is all there is, or the last that comes back of those that all lost something. A frozen slot
    /// that holds nothing is anybody's.
    pub(crate) fn readmit(&mut self, incarnation: Incarnation, life: Life) -> Vec<SlotId> {
        let cluster = &mut self.cluster;
        let mut changed = Vec::new();
        for (slot, config) in cluster.slots.iter_mut().filter(|(_, config)| config.frozen) {
            if !self.names.by_slot.contains_key(slot) {
                hand_over(config, incarnation);
                changed.push(*slot);
                continue;
            }
            let former = |i: &Incarnation| cluster.lives.get(i).filter(|l| l.member == life.member);
            let Some(old) = config.synced().find(|i| former(i).is_some()) else {
                continue;
            };
            let intact = former(&old).is_some_and(|l| l.boot == life.boot);
            let hopeless = |i: &Incarnation| {
                let boot = |l: &Life| cluster.members.get(&l.member).map(|m| m.said.boot);
                let life = cluster.lives.get(i);
                life.is_some_and(|l| boot(l).is_some_and(|boot| boot != l.boot))
            };
            if !intact && config.synced().any(|i| i != old && !hopeless(&i)) {
                continue;
            }
            let alive = &cluster.alive;
            config
                .acting
                .retain(|a| a.incarnation == old || alive.contains_key(&a.incarnation));
            for acting in config.acting.iter_mut().filter(|a| a.incarnation == old) {
                acting.incarnation = incarnation;
            }
            config.leader = incarnation;
            config.frozen = false;
            config.epoch = next(config.epoch);
            changed.push(*slot);
        }
        changed
    }

    pub(crate) fn configure(
        &mut self,
        changes: &[SlotChange],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let mut slots = BTreeSet::new();
        for change in changes {
            if !slots.insert(change.slot) {
                return Err(CommandError::Invalid(format!(
                    "{} is named twice",
                    change.slot
                )));
            }
            self.may_configure(change)?;
        }
        for change in changes {
            let config = self
                .cluster
                .slots
                .get_mut(&change.slot)
                .expect("checked above");
            config.acting.clone_from(&change.acting);
            config.leader = change.leader;
            config.epoch = next(config.epoch);
        }
        self.slots_changed(slots.into_iter().collect(), events);
        Ok(Reply::Done)
    }

    fn may_configure(&self, change: &SlotChange) -> Result<(), CommandError> {
        let old = self
            .cluster
            .slots
            .get(&change.slot)
            .ok_or(CommandError::Changed)?;
        if old.epoch != change.expected || old.frozen {
            return Err(CommandError::Changed);
        }
        let invalid = |why: &str| Err(CommandError::Invalid(format!("{}: {why}", change.slot)));
        let alive = &self.cluster.alive;
        let mut members = BTreeSet::new();
        for acting in &change.acting {
            let member = alive
                .get(&acting.incarnation)
                .ok_or(CommandError::Ended(acting.incarnation))?;
            if !members.insert(*member) {
                return invalid("a member is named twice");
            }
            if acting.synced && old.role(acting.incarnation) != Some(true) {
                return invalid("only a promotion makes a replica synced");
            }
        }
        let synced: BTreeSet<_> = change
            .acting
            .iter()
            .filter(|a| a.synced)
            .map(|a| a.incarnation)
            .collect();
        if !synced.contains(&change.leader) {
            return invalid("the slot leader has to be a synced replica");
        }
        let wanted = usize::from(self.cluster.copies).min(alive.len());
        let dropped = old
            .synced()
            .any(|i| alive.contains_key(&i) && !synced.contains(&i));
        let lax = self.planted == Some(Planted::DroppedBeforePromote);
        if dropped && synced.len() < wanted && !lax {
            return invalid("a live synced replica may go only when enough synced ones remain");
        }
        Ok(())
    }

    pub(crate) fn promote(
        &mut self,
        learners: &[(SlotId, SlotEpoch, Incarnation)],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let mut done = Vec::new();
        for (slot, epoch, incarnation) in learners {
            let Some(config) = self.cluster.slots.get_mut(slot) else {
                continue;
            };
            if config.epoch != *epoch
                || config.frozen
                || !self.cluster.alive.contains_key(incarnation)
            {
                continue;
            }
            let learner = config
                .acting
                .iter_mut()
                .find(|a| a.incarnation == *incarnation && !a.synced);
            let Some(learner) = learner else { continue };
            learner.synced = true;
            config.epoch = next(config.epoch);
            done.push(*slot);
        }
        self.slots_changed(done.clone(), events);
        Ok(Reply::Promoted(done))
    }

    fn slots_changed(&mut self, slots: Vec<SlotId>, events: &mut Vec<Event>) {
        if !slots.is_empty() {
            self.map_changed();
            self.prune_lives();
            events.push(Event::Slots(slots));
        }
    }
}
