//! Plans against a small model of what the agreed state refuses (R2).

#![allow(clippy::unwrap_used)]

use hydfs_ring::{Ring, RingMember, plan};
use hydfs_types::{Acting, Incarnation, SLOTS, SlotChange, SlotConfig, SlotEpoch, SlotId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Set = BTreeSet<Incarnation>;
type Slots = BTreeMap<SlotId, SlotConfig>;

/// The model: slots and who is alive.
#[derive(Debug, Clone)]
struct World {
    slots: Slots,
    alive: Set,
    copies: usize,
}

impl World {
    /// Applies a change if R2 allows it; says why if not.
    fn configure(&mut self, change: &SlotChange) -> Result<(), String> {
        let least = self.copies.min(self.alive.len());
        let config = self.slots.get_mut(&change.slot).ok_or("no such slot")?;
        let refuse = |why: &str| Err(format!("{why}: {config:?} -> {change:?}"));
        let distinct: Set = change.acting.iter().map(|a| a.incarnation).collect();
        let synced: Set = change
            .acting
            .iter()
            .filter(|a| a.synced)
            .map(|a| a.incarnation)
            .collect();
        let live = |set: &Set| set.intersection(&self.alive).count();
        let before: Set = config.synced().collect();
        let dropped = before
            .iter()
            .any(|i| self.alive.contains(i) && !synced.contains(i));
        if config.epoch != change.expected {
            return refuse("another epoch");
        } else if config.frozen {
            return refuse("frozen");
        } else if distinct.len() != change.acting.len() {
            return refuse("a member twice");
        } else if !synced.is_subset(&before) {
            return refuse("synced out of nothing");
        } else if live(&synced) == 0 {
            return refuse("no live synced replica");
        } else if dropped && live(&synced) < least {
            return refuse("a live copy is dropped that is needed");
        } else if !synced.contains(&change.leader) || !self.alive.contains(&change.leader) {
            return refuse("the leader is not a live synced one");
        } else if !distinct.is_subset(&self.alive) {
            return refuse("a dead member acts");
        }
        *config = SlotConfig {
            epoch: SlotEpoch(config.epoch.0 + 1),
            acting: change.acting.clone(),
            leader: change.leader,
            frozen: false,
        };
        Ok(())
    }

    /// Learners that are alive catch up.
    fn promote(&mut self) {
        for config in self.slots.values_mut() {
            for acting in &mut config.acting {
                acting.synced |= self.alive.contains(&acting.incarnation);
            }
        }
    }

    /// Ends an incarnation as the agreed state does: its places go; a slot without a live synced replica freezes.
    fn expire(&mut self, gone: Incarnation) {
        self.alive.remove(&gone);
        for config in self.slots.values_mut() {
            let heir = config.synced().find(|i| self.alive.contains(i));
            if let Some(heir) = heir {
                config.acting.retain(|a| a.incarnation != gone);
                if config.leader == gone {
                    config.leader = heir;
                }
            } else {
                config.frozen = true;
            }
        }
    }
}

fn ring(of: impl IntoIterator<Item = Incarnation>) -> Ring {
    let member = |i: Incarnation| RingMember {
        name: format!("vm{}", i.0),
        weight_percent: 100,
        zone: String::new(),
        incarnation: i,
    };
    Ring::new(&of.into_iter().map(member).collect::<Vec<_>>())
}

fn config(acting: &[(u64, bool)], leader: u64) -> SlotConfig {
    let acting = acting
        .iter()
        .map(|(i, synced)| Acting {
            incarnation: Incarnation(*i),
            synced: *synced,
        })
        .collect();
    SlotConfig {
        epoch: SlotEpoch(1),
        acting,
        leader: Incarnation(leader),
        frozen: false,
    }
}

fn set(of: &[u64]) -> Set {
    of.iter().copied().map(Incarnation).collect()
}

/// Runs promote, plan, apply until nothing is proposed; the rounds it took.
fn settle(world: &mut World, full: &Set, ring: &Ring, limit: usize) -> Result<usize, String> {
    for round in 0.. {
        world.promote();
        let changes = plan(&world.slots, &world.alive, full, ring, world.copies, limit);
        if changes.is_empty() {
            return Ok(round);
        }
        if round > 6 + 4 * world.slots.len() / limit {
            return Err(format!("does not settle: {changes:?}"));
        }
        assert!(changes.len() <= limit);
        changes
            .iter()
            .try_for_each(|change| world.configure(change))?;
    }
    unreachable!()
}

prop_compose! {
    /// A config that the agreed state can hold: someone alive and synced leads, unless it is frozen.
    fn legal(members: u64)(
        acting in proptest::collection::btree_map(1..=members, any::<bool>(), 1..6),
        lead in any::<prop::sample::Index>(),
        frozen in proptest::bool::weighted(0.1),
    ) -> SlotConfig {
        let mut acting: Vec<(u64, bool)> = acting.into_iter().collect();
        let at = lead.index(acting.len());
        acting[at].1 = true;
        SlotConfig { frozen, ..config(&acting, acting[at].0) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// From any config and membership the plans settle in few rounds on what the ring wants, and R2 refuses none.
    #[test]
    fn plans_settle_and_keep_r2(
        configs in proptest::collection::vec(legal(8), 1..12),
        alive in proptest::collection::btree_set(1u64..=8, 1..8),
        drained in proptest::collection::btree_set(1u64..=8, 0..3),
        full in proptest::collection::btree_set(1u64..=8, 0..2),
        copies in 1usize..=5,
        limit in prop_oneof![Just(3usize), Just(4096)],
        deaths in proptest::collection::vec(1u64..=8, 0..3),
    ) {
        let stride = SLOTS / 16;
        let slots = configs.into_iter().enumerate().map(|(at, c)| (SlotId(at as u32 * stride), c)).collect();
        let mut world = World { slots, alive: (1..=8).map(Incarnation).collect(), copies };
        (1..=8).filter(|i| !alive.contains(i)).for_each(|i| world.expire(Incarnation(i)));
        let full: Set = full.into_iter().map(Incarnation).collect();
        let on_ring = |world: &World| ring(world.alive.iter().copied().filter(|i| !drained.contains(&i.0)));

        // Deaths between two plans, while learners are on their way.
        for death in deaths {
            for change in plan(&world.slots, &world.alive, &full, &on_ring(&world), copies, limit) {
                world.configure(&change).map_err(TestCaseError::fail)?;
            }
            if world.alive.len() > 1 {
                world.expire(Incarnation(death));
            }
        }
        let ring = on_ring(&world);
        settle(&mut world, &full, &ring, limit).map_err(TestCaseError::fail)?;

        let takers = ring.without(&full);
        for (slot, config) in world.slots.iter().filter(|(_, c)| !c.frozen) {
            let wanted = takers.wanted(*slot, copies);
            prop_assert!(wanted.iter().all(|i| config.role(*i) == Some(true)), "{slot}: {config:?}, wanted {wanted:?}");
            if let Some(first) = wanted.first() {
                prop_assert_eq!(config.leader, *first);
            }
            prop_assert!(config.acting.iter().all(|a| a.synced));
            let spare = config.acting.len() - wanted.len();
            let needed = copies.min(world.alive.len()).saturating_sub(wanted.len());
            prop_assert!(spare <= needed, "{slot}: {config:?} keeps more than {wanted:?}");
        }
    }
}

#[test]
fn a_dead_replica_is_replaced_and_the_most_endangered_slots_come_first() {
    let alive = set(&[1, 2, 3, 4]);
    let ring = ring(alive.iter().copied());
    let slots = Slots::from([
        (SlotId(1), config(&[(1, true), (2, true)], 1)),
        (SlotId(2), config(&[(3, true)], 3)),
    ]);
    let changes = plan(&slots, &alive, &Set::new(), &ring, 3, 4096);
    assert_eq!(
        changes.iter().map(|c| c.slot).collect::<Vec<_>>(),
        [SlotId(2), SlotId(1)]
    );
    assert_eq!(plan(&slots, &alive, &Set::new(), &ring, 3, 1), changes[..1]);
    for change in &changes {
        let learners: Vec<_> = change
            .acting
            .iter()
            .filter(|a| !a.synced)
            .map(|a| a.incarnation)
            .collect();
        assert!(
            !learners.is_empty()
                && learners
                    .iter()
                    .all(|i| ring.wanted(change.slot, 3).contains(i))
        );
    }
}

#[test]
fn a_drained_member_keeps_its_copy_until_others_have_it() {
    let alive = set(&[1, 2, 3, 4]);
    let ring = ring([1, 2, 3].map(Incarnation));
    let mut world = World {
        slots: Slots::from([(SlotId(0), config(&[(4, true), (1, true), (2, true)], 4))]),
        alive,
        copies: 3,
    };
    let first = plan(&world.slots, &world.alive, &Set::new(), &ring, 3, 4096).remove(0);
    assert!(first.acting.contains(&Acting {
        incarnation: Incarnation(4),
        synced: true
    }));
    assert!(first.acting.contains(&Acting {
        incarnation: Incarnation(3),
        synced: false
    }));
    settle(&mut world, &Set::new(), &ring, 4096).unwrap();
    assert_eq!(world.slots[&SlotId(0)].role(Incarnation(4)), None);
    assert_eq!(world.slots[&SlotId(0)].role(Incarnation(3)), Some(true));
}

#[test]
fn a_full_member_gets_no_new_copy_but_keeps_one_that_is_needed() {
    let alive = set(&[1, 2, 3]);
    let ring = ring(alive.iter().copied());
    let full = set(&[3]);
    let keeps = Slots::from([(
        SlotId(0),
        config(
            &[(1, true), (2, true), (3, true)],
            ring.wanted(SlotId(0), 1)[0].0,
        ),
    )]);
    for change in plan(&keeps, &alive, &full, &ring, 3, 4096) {
        assert!(change.acting.contains(&Acting {
            incarnation: Incarnation(3),
            synced: true
        }));
    }
    let lacks = Slots::from([(SlotId(0), config(&[(1, true), (2, true)], 1))]);
    for change in plan(&lacks, &alive, &full, &ring, 3, 4096) {
        assert!(
            change
                .acting
                .iter()
                .all(|a| a.incarnation != Incarnation(3))
        );
    }
}

#[test]
fn a_frozen_slot_and_one_without_a_live_copy_are_left_alone() {
    let alive = set(&[1, 2]);
    let ring = ring(alive.iter().copied());
    let frozen = SlotConfig {
        frozen: true,
        ..config(&[(1, true)], 1)
    };
    let slots = Slots::from([
        (SlotId(0), frozen),
        (SlotId(1), config(&[(7, true), (2, false)], 7)),
    ]);
    assert!(plan(&slots, &alive, &Set::new(), &ring, 3, 4096).is_empty());
}
