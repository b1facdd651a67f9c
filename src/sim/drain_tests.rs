//! One moment that seeds rarely meet: a leader that drains dies when it has handed its office over and still has its vote.

use crate::{client::Habits, world::World};
use hydfs_data::Trial;
use hydfs_store::Crash;
use std::time::Duration;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);
/// One of so many has to meet the moment.
const SEEDS: u64 = 10;
const STEP: Duration = Duration::from_millis(1);
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 50,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};

/// Whether another member leads; then, whether the one that drains still votes in its group.
fn handed_over(world: &World, old: usize) -> Option<bool> {
    let leader = world.leader().filter(|leader| *leader != old)?;
    let (leader, old) = (world.hosts[leader].member()?, world.hosts[old].member()?);
    Some(leader.group.metrics().voters.contains(&old.id()))
}

/// False where the moment was over before anybody could look.
async fn dies_between(seed: u64, how: Crash) -> bool {
    let mut world = World::new(seed, 5, 0, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    let old = world.leader().expect("a healthy cluster has a leader");
    assert!(world.drain(old, true).await, "the drain is not agreed");
    let until = Instant::now() + LONG;
    loop {
        match handed_over(&world, old) {
            Some(true) => break,
            Some(false) => return false,
            None => assert!(Instant::now() < until, "the leader hands nothing over"),
        }
        world.run(STEP).await;
    }
    world.crash(old, how).await;
    world.run(Duration::from_secs(6)).await;
    world.hosts[old].start();
    let until = Instant::now() + LONG;
    while !world.is_drained(old).await {
        assert!(Instant::now() < until, "it is never drained");
        world.run(100 * STEP).await;
    }
    assert!(world.leave_drained(old).await, "it cannot leave");
    assert!(world.wait_healthy(LONG).await.is_some());
    world.stop_users().await;
    world.check_quiet().await;
    let newest = world.members().into_iter().next();
    let alive = newest.map(|member| member.ctx.state().cluster.alive.len());
    assert_eq!(alive, Some(4));
    assert_eq!(world.oracle.violations(), [""; 0]);
    true
}

#[test]
fn a_draining_leader_that_dies_with_its_vote_leaves_the_others_and_leaves_later() {
    for how in [Crash::Kill, Crash::PowerCut] {
        let met = (1..=SEEDS).any(|seed| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without I/O always starts");
            runtime.block_on(dies_between(seed, how))
        });
        assert!(met, "{how:?}: no seed has met the moment");
    }
}
