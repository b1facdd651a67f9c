//! How even the ring is, and how little moves when members come and go.

#![allow(clippy::unwrap_used)]

use hydfs_ring::{Ring, RingMember, slot_of};
use hydfs_types::{Digest, Incarnation, SLOTS, SlotId};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

fn member(name: String, incarnation: u64) -> RingMember {
    RingMember {
        name,
        weight_percent: 100,
        zone: String::new(),
        incarnation: Incarnation(incarnation),
    }
}

fn members(prefix: &str, count: u64) -> Vec<RingMember> {
    (1..=count)
        .map(|at| member(format!("{prefix}{at:02}"), at))
        .collect()
}

/// Max over mean of the slots as first member and as any of three.
fn skew(ring: &Ring) -> (f64, f64) {
    let shares = ring.shares(3);
    let over_mean = |counts: Vec<u32>| {
        let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        f64::from(*counts.iter().max().unwrap()) / mean
    };
    (
        over_mean(shares.iter().map(|s| s.first).collect()),
        over_mean(shares.iter().map(|s| s.any).collect()),
    )
}

/// Pairs (slot, member) that are wanted now and were not before.
fn moved(before: &Ring, after: &Ring) -> usize {
    let news = |slot| {
        let old = before.wanted(SlotId(slot), 3);
        after
            .wanted(SlotId(slot), 3)
            .into_iter()
            .filter(|i| !old.contains(i))
            .count()
    };
    (0..SLOTS).map(news).sum()
}

#[test]
fn fault_s22_ring_skew() {
    let random = (0..12).map(|at| format!("{at}-rack/"));
    for prefix in ["vm", "fa24-cs425-80", "node-", "host.example.org/"]
        .map(String::from)
        .into_iter()
        .chain(random)
    {
        for count in [3, 4, 5, 7, 10, 16, 30] {
            let (first, any) = skew(&Ring::new(&members(&prefix, count)));
            println!("{prefix}{count}: first {first:.3}, any {any:.3}");
            assert!(
                first < 1.25 && any < 1.25,
                "{prefix}{count}: first {first:.3}, any {any:.3}"
            );
        }
    }
}

#[test]
fn fault_s22_like_named_files_spread() {
    let ring = Ring::new(&members("vm", 10));
    for pattern in ["file_{}.txt", "/logs/vm{}.log", "/data/part-{}"] {
        let mut first = BTreeMap::<Incarnation, u32>::new();
        let mut any = BTreeMap::<Incarnation, u32>::new();
        // Enough files that chance alone stays well below the bound that the ring has to meet.
        let files = 20_000;
        for at in 0..files {
            let path = pattern.replace("{}", &at.to_string());
            let key = Digest(Sha256::digest(&path).into());
            let wanted = ring.wanted(slot_of(&key), 3);
            *first.entry(wanted[0]).or_default() += 1;
            wanted.iter().for_each(|i| *any.entry(*i).or_default() += 1);
        }
        let mean = files / 10;
        let worst_first = f64::from(*first.values().max().unwrap()) / f64::from(mean);
        let worst_any = f64::from(*any.values().max().unwrap()) / f64::from(3 * mean);
        println!("{pattern}: first {worst_first:.3}, any {worst_any:.3}");
        assert!(
            worst_first < 1.25 && worst_any < 1.25,
            "{pattern}: first {worst_first:.3}, any {worst_any:.3}"
        );
    }
}

/// Slots whose preferred leader is another one now.
fn led_anew(before: &Ring, after: &Ring) -> usize {
    (0..SLOTS)
        .map(SlotId)
        .filter(|slot| before.wanted(*slot, 1) != after.wanted(*slot, 1))
        .count()
}

#[test]
fn a_join_or_leave_moves_little_more_than_it_must() {
    let mut worst = (0.0f64, 0.0f64);
    for prefix in ["vm", "node-", "fa24-cs425-80", "h"] {
        for count in [5, 10, 20] {
            let smaller = Ring::new(&members(prefix, count));
            let larger = Ring::new(&members(prefix, count + 1));
            let newcomer = Incarnation(count + 1);
            let share = larger
                .shares(3)
                .iter()
                .find(|s| s.incarnation == newcomer)
                .unwrap()
                .any as usize;
            // What the newcomer takes over, and what it leaves behind, has to move in any case.
            let join = moved(&smaller, &larger) as f64 / share as f64;
            let leave = moved(&larger, &smaller) as f64 / share as f64;
            let first = larger
                .shares(1)
                .iter()
                .find(|s| s.incarnation == newcomer)
                .unwrap()
                .first as usize;
            let led = led_anew(&smaller, &larger) as f64 / first as f64;
            println!(
                "{prefix} {count} -> {}: join {join:.3}, leave {leave:.3}, leaders {led:.3}",
                count + 1
            );
            assert!(
                led < 1.25,
                "{prefix}{count}: {led:.3} times the least number of leaders change"
            );
            worst = (worst.0.max(join), worst.1.max(leave));
        }
    }
    assert!(
        worst.0 < 1.25 && worst.1 < 1.25,
        "times the minimum: join {:.3}, leave {:.3}",
        worst.0,
        worst.1
    );
}

#[test]
fn fault_m9_one_host_counts_once() {
    let mut twice = members("vm", 4);
    twice.push(member("vm02".into(), 99));
    let ring = Ring::new(&twice);
    assert_eq!(ring.members().len(), 4);
    for slot in 0..SLOTS {
        let wanted = ring.wanted(SlotId(slot), 3);
        assert_eq!(wanted.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(
            !wanted.contains(&Incarnation(2)),
            "the older life of vm02 is gone"
        );
    }
}

#[test]
fn copies_are_a_prefix_and_as_many_as_there_are_members() {
    let ring = Ring::new(&members("vm", 4));
    for slot in (0..SLOTS).map(SlotId) {
        let all = ring.wanted(slot, 5);
        assert_eq!(all.len(), 4);
        (0..=4).for_each(|copies| assert_eq!(ring.wanted(slot, copies), all[..copies]));
    }
    assert!(Ring::new(&[]).wanted(SlotId(0), 3).is_empty());
}

#[test]
fn copies_stand_in_different_zones() {
    let mut all = members("vm", 9);
    // Zones of unequal size: one member, three, five.
    for (at, member) in all.iter_mut().enumerate() {
        member.zone = ["a", "b", "b", "b", "c", "c", "c", "c", "c"][at].into();
    }
    let zone = |i: &Incarnation| all[i.0 as usize - 1].zone.clone();
    let ring = Ring::new(&all);
    for slot in (0..SLOTS).map(SlotId) {
        let zones: BTreeSet<_> = ring.wanted(slot, 3).iter().map(zone).collect();
        assert_eq!(zones.len(), 3);
        let five: BTreeSet<_> = ring.wanted(slot, 5).into_iter().collect();
        assert_eq!(
            five.len(),
            5,
            "more copies than zones: zones repeat, members do not"
        );
    }
}

#[test]
fn weight_multiplies_the_share() {
    let mut all = members("vm", 10);
    all[0].weight_percent = 200;
    all[1].weight_percent = 50;
    let shares = Ring::new(&all).shares(3);
    let mean = f64::from(SLOTS) * 3.0 / 10.5;
    for share in shares {
        let part = f64::from(share.any) / mean * 100.0 / f64::from(share.weight_percent);
        assert!(
            (0.75..1.25).contains(&part),
            "{}: {part:.3} of its fair share",
            share.name
        );
    }
}

#[test]
fn the_ring_depends_on_its_members_alone() {
    let mut all = members("vm", 10);
    let ring = Ring::new(&all);
    all.reverse();
    let again = Ring::new(&all);
    let fewer = Ring::new(&all[1..]);
    let without = ring.without(&BTreeSet::from([all[0].incarnation]));
    for slot in (0..SLOTS).map(SlotId) {
        assert_eq!(ring.wanted(slot, 3), again.wanted(slot, 3));
        assert_eq!(fewer.wanted(slot, 5), without.wanted(slot, 5));
    }
}
