//! The faults M1 to M12 on simulated clusters. Every failure names its seed.

#![allow(clippy::unwrap_used)]

mod world;

use bytes::Bytes;
use foca::Message;
use hydfs_membership::{Event, Expected, Options, SeenState};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{cell::Cell, rc::Rc, time::Duration};
use world::{World, message, ms};

/// Runs of a test: more of them by `HYDFS_RUNS=100000 cargo test`.
fn runs(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("HYDFS_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(usual)
}

/// Loses the answers to the next probe of `victim`, direct and indirect ones.
fn lose_one_answer(victim: usize) -> world::Filter {
    let lost = Rc::new(Cell::new(None));
    Box::new(move |from, to, datagram| match message(datagram) {
        Some(Message::Ack(probe))
            if from == victim && lost.get().is_none_or(|l| l == (to, probe)) =>
        {
            lost.set(Some((to, probe)));
            true
        }
        Some(Message::ForwardedAck {
            origin,
            probe_number,
        }) => *origin.name == *World::name(victim) && lost.get() == Some((to, probe_number)),
        _ => false,
    })
}

#[test]
fn fault_m1_suspicion_is_refuted_within_a_period() {
    let period = Options::default().probe_period;
    let mut suspected = 0;
    for seed in runs(2000) {
        let mut world = World::joined(seed, 4);
        let victim = world.rng.random_range(0..4);
        world.drop_if = Some(lose_one_answer(victim));
        world.run(ms(2200));
        assert_eq!(world.downs(), 0, "seed {seed}: removed");
        assert_eq!(
            world.renewals,
            [],
            "seed {seed}: gave up its life for nothing"
        );
        for at in 0..world.sights.len() {
            let sight = world.sights[at].clone();
            if sight.state == SeenState::Suspect {
                suspected += 1;
                let cleared = world.sights[at..].iter().find(|later| {
                    (later.observer, later.subject) == (sight.observer, sight.subject)
                        && later.state == SeenState::Alive
                });
                let cleared =
                    cleared.unwrap_or_else(|| panic!("seed {seed}: never refuted: {sight:?}"));
                assert!(
                    cleared.at - sight.at <= period,
                    "seed {seed}: {sight:?} refuted at {:?}",
                    cleared.at
                );
            }
        }
    }
    assert!(
        suspected >= runs(2000).end,
        "the fault has to bite: {suspected} suspicions"
    );
}

#[test]
fn fault_m2_an_answer_clears_the_suspicion() {
    for seed in runs(60) {
        let mut world = World::joined(seed, 5);
        let victim = world.rng.random_range(0..5);
        let mut lose = lose_one_answer(victim);
        // Nobody tells the accused, except whoever hears from it while suspecting it.
        let told = Rc::new(Cell::new(0));
        let count = told.clone();
        world.drop_if = Some(Box::new(move |from, to, datagram| {
            let gossip = matches!(message(datagram), Some(Message::Gossip));
            let first_notice =
                datagram[2] == 2 && to == victim && count.replace(count.get() + 1) == 0;
            gossip || first_notice || lose(from, to, datagram)
        }));
        world.run(ms(8000));
        assert!(
            world.sights.iter().any(|s| s.state == SeenState::Suspect),
            "seed {seed}: the fault has to bite"
        );
        assert!(told.get() > 1, "seed {seed}: told again");
        assert_eq!(world.downs(), 0, "seed {seed}: removed");
        assert_eq!(
            world.renewals,
            [],
            "seed {seed}: gave up its life for nothing"
        );
        assert!(world.all_agree(), "seed {seed}: {:?}", world.sights);
    }
}

#[test]
fn fault_m3_a_death_is_seen_in_time() {
    let options = Options::default();
    let members = 10u32;
    // A member is probed by each other one at least once in two of its rounds; the probe takes a period to fail, the
    // suspect has its time, and the news takes a few rounds of gossip to reach the last one.
    let rounds = 2 * (members - 1) + 1;
    let bound = options.probe_period * rounds + options.suspect_to_down + options.gossip_every * 6;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut world = World::joined(3, members as usize);
    for kill in runs(200) {
        let victim = world.rng.random_range(0..members as usize);
        let before = world.rng.random_range(0..400);
        world.run(ms(before));
        world.sights.clear();
        world.kill(victim);
        let killed = world.now;
        let all = world
            .run_until(bound, World::all_agree)
            .unwrap_or_else(|| panic!("kill {kill}: over {bound:?}"));
        assert!(
            world.sights.iter().all(|s| s.subject == victim),
            "kill {kill}: somebody else was accused"
        );
        first.push(
            world
                .sights
                .iter()
                .find(|s| s.state == SeenState::Down)
                .unwrap()
                .at
                - killed,
        );
        last.push(all);
        world.start(victim, &[(victim + 1) % members as usize]);
        assert!(
            world.run_until(ms(5000), World::all_agree).is_some(),
            "kill {kill}: came back"
        );
    }
    first.sort();
    last.sort();
    let part = |times: &[Duration], percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)]
    };
    println!(
        "first to see: p50 {:?}, p99 {:?}, max {:?}",
        part(&first, 50),
        part(&first, 99),
        first[first.len() - 1]
    );
    println!(
        "last to see: p50 {:?}, p99 {:?}, max {:?}",
        part(&last, 50),
        part(&last, 99),
        last[last.len() - 1]
    );
    assert!(part(&last, 99) <= ms(5000), "p99 {:?}", part(&last, 99));
    assert!(part(&last, 50) <= ms(3000), "p50 {:?}", part(&last, 50));
}

#[test]
fn fault_m4_a_one_way_cut_removes_nobody() {
    for seed in runs(10) {
        let mut world = World::joined(seed, 10);
        world.cuts.insert((2, 7));
        world.run(ms(20_000));
        assert_eq!((world.downs(), world.renewals.len()), (0, 0), "seed {seed}");
    }
}

#[test]
fn fault_m5_three_deaths_at_once() {
    let options = Options::default();
    let (members, limit) = (10u32, ms(6000));
    // Each survivor: per period a probe and its answer, at worst three requests and what they lead to (four each); per
    // gossip interval its fan-out; per second a view and two greetings with their answers. Log N rounds of refutation
    // and warnings are far below that.
    let periods = (limit.as_millis() / options.probe_period.as_millis()) as u32 + 1;
    let gossips = (limit.as_millis() / options.gossip_every.as_millis()) as u32 + 1;
    let bound = u64::from(
        members * (periods * (2 + 3 * 4) + gossips * options.gossip_fanout as u32 + 6 * 6),
    );
    let mut worst = (ms(0), 0);
    for seed in runs(25) {
        let mut world = World::joined(seed, members as usize);
        let sent = world.sent;
        [1, 4, 8].into_iter().for_each(|victim| world.kill(victim));
        let agreed = world.run_until(limit, World::all_agree);
        let agreed = agreed.unwrap_or_else(|| panic!("seed {seed}: views differ after {limit:?}"));
        assert!(
            world.sights.iter().all(|s| [1, 4, 8].contains(&s.subject)),
            "seed {seed}: a survivor was accused"
        );
        worst = (worst.0.max(agreed), worst.1.max(world.sent - sent));
    }
    println!(
        "views agree after {:?} at most, {} of {bound} datagrams",
        worst.0, worst.1
    );
    assert!(worst.1 <= bound, "{} datagrams, bound {bound}", worst.1);
}

#[test]
fn fault_m7_garbage_changes_nothing() {
    let mut world = World::joined(7, 4);
    let mut rng = SmallRng::seed_from_u64(77);
    let before = world.swim(0).view(world.now);
    let malformed = world.swim(0).counters().malformed;
    let count = runs(50_000).end;
    for at in 0..count {
        let mut bytes = vec![0u8; rng.random_range(0..1200)];
        rng.fill(&mut bytes[..]);
        // Half of them get past the prefix.
        if at % 2 == 0 && bytes.len() > 3 {
            bytes[..3].copy_from_slice(&[1, 0, 1 + (at / 2 % 2) as u8]);
        }
        world.handle(
            0,
            Event::Datagram {
                from: World::addr(1),
                payload: bytes.into(),
            },
        );
    }
    let states = |view: Vec<hydfs_membership::Seen>| {
        view.into_iter()
            .map(|s| (s.name, s.state))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(world.swim(0).view(world.now)), states(before));
    assert_eq!(world.swim(0).counters().malformed - malformed, count);
    world.run(ms(5000));
    assert_eq!(world.downs(), 0, "it still answers");
}

#[test]
fn fault_m7_damaged_datagrams_do_no_harm_for_long() {
    let mut world = World::joined(8, 4);
    let mut rng = SmallRng::seed_from_u64(88);
    let heard: Rc<std::cell::RefCell<Vec<Bytes>>> = Rc::default();
    let tap = heard.clone();
    world.drop_if = Some(Box::new(move |_, to, datagram| {
        if to == 0 {
            tap.borrow_mut().push(datagram.clone());
        }
        false
    }));
    world.run(ms(5000));
    let heard = heard.take();
    for _ in 0..5000 {
        let mut bytes = heard[rng.random_range(0..heard.len())].to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(3..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        bytes.truncate(rng.random_range(3..=bytes.len()));
        world.handle(
            0,
            Event::Datagram {
                from: World::addr(1),
                payload: bytes.into(),
            },
        );
    }
    // Strangers that the damage made up go the way of all dead; the real ones find together again.
    let agree = |world: &World| {
        let running = world.running();
        let alive = |a: &usize, b: &usize| a == b || world.state(*a, *b) == Some(SeenState::Alive);
        running.iter().all(|a| running.iter().all(|b| alive(a, b)))
    };
    world.run(ms(20_000));
    assert!(
        world.run_until(ms(10_000), agree).is_some(),
        "{:?}",
        world.swim(0).view(world.now)
    );
}

#[test]
fn fault_m8_an_evicted_member_learns_it_and_renews() {
    for seed in runs(20) {
        let mut world = World::joined(seed, 10);
        let generation = world.swim(4).identity().generation;
        world.isolate(4);
        let evicted = |world: &World| {
            (0..10).all(|at| at == 4 || world.state(at, 4) == Some(SeenState::Down))
        };
        assert!(
            world.run_until(ms(12_000), evicted).is_some(),
            "seed {seed}: evicted"
        );
        world.run(ms(8000));
        world.cuts.clear();
        world.sights.clear();
        let back = world.run_until(ms(5000), World::all_agree);
        assert!(
            back.is_some(),
            "seed {seed}: {:?}",
            world.swim(4).view(world.now)
        );
        assert!(
            world.swim(4).identity().generation > generation,
            "seed {seed}: a new life"
        );
        let healthy = |s: &&world::Sight| s.state == SeenState::Down && s.subject != 4;
        assert_eq!(
            world.sights.iter().find(healthy),
            None,
            "seed {seed}: what it believed stays with it"
        );
    }
}

#[test]
fn fault_m8_a_stopped_member_blames_nobody() {
    for seed in runs(20) {
        let mut world = World::joined(seed, 6);
        world.stop_for(3, ms(7000));
        world.run(ms(12_000));
        let blamed = world
            .sights
            .iter()
            .find(|s| s.state == SeenState::Down && s.subject != 3);
        assert_eq!(blamed, None, "seed {seed}");
        assert!(world.swim(3).counters().stalls > 0);
        assert!(
            world.run_until(ms(3000), World::all_agree).is_some(),
            "seed {seed}: back again"
        );
    }
}

#[test]
fn fault_m10_views_are_equal_soon_after_heavy_loss() {
    for seed in runs(3) {
        let mut world = World::joined(seed, 10);
        world.loss = 0.3;
        world.run(ms(60_000));
        world.loss = 0.0;
        let equal = world.run_until(ms(5000), World::all_agree);
        println!(
            "seed {seed}: {} removals under loss, equal after {equal:?}",
            world.downs()
        );
        assert!(
            equal.is_some(),
            "seed {seed}: views differ 5 s after the loss ended"
        );
    }
}

#[test]
fn fault_m10_a_split_cluster_finds_together() {
    for seed in runs(5) {
        let mut world = World::joined(seed, 6);
        for a in 0..3 {
            for b in 3..6 {
                world.cuts.extend([(a, b), (b, a)]);
            }
        }
        world.run(ms(15_000));
        assert_eq!(world.state(0, 5), Some(SeenState::Down), "seed {seed}");
        world.cuts.clear();
        assert!(
            world.run_until(ms(8000), World::all_agree).is_some(),
            "seed {seed}"
        );
    }
}

#[test]
fn fault_m12_join_through_any_of_the_seeds() {
    for seed in 0..10 {
        let mut world = World::new(seed, 8);
        (0..4).for_each(|at| world.start(at, &[0, 1, 2, 3]));
        assert!(
            world.run_until(ms(5000), World::all_agree).is_some(),
            "seed {seed}: first four"
        );
        // The first introducers are gone: the fourth is door enough.
        world.kill(0);
        world.kill(1);
        world.start(4, &[0, 1, 7, 3]);
        assert!(
            world.run_until(ms(12_000), World::all_agree).is_some(),
            "seed {seed}: through one of four"
        );
        // Nobody answers yet: the door opens later.
        world.start(5, &[6]);
        world.run(ms(4000));
        world.start(6, &[2]);
        assert!(
            world.run_until(ms(6000), World::all_agree).is_some(),
            "seed {seed}: the door opened later"
        );
    }
}

#[test]
fn a_goodbye_is_heard_at_once() {
    let mut world = World::joined(1, 10);
    world.handle(6, Event::Leave);
    world.kill(6);
    let known = world.run_until(ms(1000), World::all_agree);
    assert!(known.is_some_and(|time| time < ms(50)), "{known:?}");
    let evidence = world.swim(0).opinion(world.now, &World::name(6)).evidence;
    assert_eq!(evidence, "said that it leaves");
}

#[test]
fn two_members_part_and_meet_again() {
    let mut world = World::joined(2, 2);
    world.kill(1);
    assert!(world.run_until(ms(5000), World::all_agree).is_some());
    assert_eq!(
        world.state(0, 1),
        Some(SeenState::Down),
        "the lonely one remembers"
    );
    assert!(world.swim(0).opinion(world.now, &World::name(1)).direct);
    world.run(ms(5000));
    world.start(1, &[]);
    assert!(
        world.run_until(ms(3000), World::all_agree).is_some(),
        "greeted where it was"
    );
}

#[test]
fn a_listed_member_that_never_came_counts_as_down() {
    let mut world = World::joined(4, 3);
    world.kill(2);
    let expected = |at| Expected {
        name: World::name(at).into(),
        addr: World::addr(at),
    };
    let mut alone = World::new(5, 3);
    alone.start(0, &[]);
    alone.handle(0, Event::Expect((0..3).map(expected).collect()));
    assert_eq!(alone.state(0, 1), Some(SeenState::Suspect));
    alone.start(2, &[]);
    alone.run(ms(6000));
    assert_eq!(alone.state(0, 1), Some(SeenState::Down));
    assert_eq!(
        alone.state(0, 2),
        Some(SeenState::Alive),
        "greeted by the one who expected it"
    );
    // No longer listed: forgotten, and not gossiped back in.
    world.run(ms(6000));
    for at in 0..2 {
        world.handle(at, Event::Expect((0..2).map(expected).collect()));
    }
    world.run(ms(5000));
    assert_eq!((world.state(0, 2), world.state(1, 2)), (None, None));
}

#[test]
fn several_observers_testify() {
    let mut world = World::joined(9, 10);
    world.kill(3);
    world.run(ms(6000));
    let opinions = (0..10)
        .filter(|at| *at != 3)
        .map(|at| world.swim(at).opinion(world.now, &World::name(3)));
    let opinions: Vec<_> = opinions.collect();
    assert!(opinions.iter().all(|o| o.down && o.by >= 1));
    assert!(opinions.iter().filter(|o| o.direct).count() >= 1);
    assert!(!world.swim(0).opinion(world.now, &World::name(5)).down);
    assert_eq!(world.swim(0).opinion(world.now, "nobody").state, None);
}

#[test]
fn suspicion_can_be_switched_live() {
    let death = |world: &mut World| {
        world.kill(5);
        let time = world.run_until(ms(12_000), World::all_agree).unwrap();
        world.start(5, &[0]);
        world.run_until(ms(5000), World::all_agree).unwrap();
        world.run(ms(1000));
        time
    };
    let mut world = World::joined(6, 10);
    let (mut with, mut without) = (ms(0), ms(0));
    for _ in 0..5 {
        with += death(&mut world);
        (0..10).for_each(|at| world.handle(at, Event::Suspicion(false)));
        without += death(&mut world);
        (0..10).for_each(|at| world.handle(at, Event::Suspicion(true)));
    }
    println!(
        "seen by all after {:?} with suspicion, {:?} without",
        with / 5,
        without / 5
    );
    assert!(
        without + ms(5000) < with,
        "{with:?} with, {without:?} without"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::joined(seed, 8);
        world.loss = 0.1;
        world.kill(2);
        world.run(ms(10_000));
        (world.trace(), world.sent)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn fifty_members_find_together_from_one_seed() {
    let mut world = World::new(13, 50);
    (0..50).for_each(|at| world.start(at, &[0]));
    let time = world.run_until(ms(10_000), World::all_agree);
    println!("{time:?}, {} datagrams", world.sent);
    assert!(time.is_some());
}
