//! Pairs that are cut for good while everybody else sees both: SWIM has nobody down, and everybody waits for the pair.

use crate::{client::Habits, world::World};
use hydfs_data::Trial;
use hydfs_types::{Agreement, Command};
use std::{future::Future, time::Duration};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 50,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};

fn simulate(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O always starts");
    runtime.block_on(run);
}

async fn healthy(seed: u64, members: u8) -> World {
    let mut world = World::new(seed, members, 0, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    assert_eq!(world.leader(), Some(0));
    world.run(Duration::from_secs(4)).await;
    world
}

fn cut(world: &World, one: usize, other: usize) {
    let (one, other) = (world.hosts[one].addr, world.hosts[other].addr);
    world.net.cut(one, other);
    world.net.cut(other, one);
}

fn status(world: &World, host: usize) -> String {
    let member = world.hosts[host].member().expect("it serves");
    let text = member.volume.control_text("cluster/status");
    String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
}

/// Lines that the user of a machine has begun. A call that waits for the pair takes half a minute.
fn begun(world: &World, host: usize) -> u64 {
    world.oracle.attempted(&format!("w{}.1", host + 1))
}

async fn all_is_well(mut world: World) {
    world.net.heal();
    assert!(world.wait_healthy(LONG).await.is_some());
    world.stop_users().await;
    world.check_quiet().await;
    assert_eq!(world.oracle.violations(), [""; 0]);
}

#[test]
fn a_leader_that_is_cut_off_from_one_member_hands_over_to_who_reaches_all() {
    simulate(async {
        let mut world = healthy(1, 3).await;
        cut(&world, 0, 2);
        world.run(Duration::from_secs(20)).await;
        assert_eq!(world.leader(), Some(1), "the one between the two");
        let said = status(&world, 0);
        assert!(said.contains("n1 and n3 cannot reach each other"), "{said}");
        let before = begun(&world, 1);
        for _ in 0..4 {
            world.run(Duration::from_secs(10)).await;
            for member in world.members() {
                let command = Command::Set {
                    key: "k".into(),
                    value: member.config.name.clone(),
                };
                let done = timeout(Duration::from_secs(2), member.group.propose(command)).await;
                assert!(
                    matches!(done, Ok(Ok(_))),
                    "{}: {done:?}",
                    member.config.name
                );
            }
        }
        assert_eq!(world.leader(), Some(1), "leadership stays");
        let lines = begun(&world, 1) - before;
        assert!(lines > 100, "{lines} lines by the one between");
        let alive = world.members()[0].ctx.state().cluster.alive.len();
        assert_eq!(alive, 3, "nobody was expired");
        all_is_well(world).await;
    });
}

#[test]
fn a_member_that_no_voter_could_lead_better_is_expired() {
    simulate(async {
        let mut world = healthy(2, 4).await;
        // Everybody reaches two of the three others.
        cut(&world, 0, 3);
        cut(&world, 1, 2);
        world.run(Duration::from_secs(25)).await;
        let leader = world.leader().expect("somebody leads");
        assert_eq!(leader, 0);
        let member = world.hosts[0].member().expect("it serves");
        let alive = |name: &str| {
            let state = member.ctx.state();
            state.member_named(name).is_some_and(|one| one.alive)
        };
        assert!(!alive("n4") && alive("n2") && alive("n3"));
        let before = begun(&world, 0);
        world.run(Duration::from_secs(35)).await;
        let lines = begun(&world, 0) - before;
        assert!(lines > 100, "{lines} lines by the leader");
        all_is_well(world).await;
    });
}
