//! Members that were cut off long enough to be expired, and come back when nothing else happens any more.

use crate::{client::Habits, net_state::Link, world::World};
use hydfs_data::Trial;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
/// Long enough that a member that is cut off is expired.
const CUT_OFF: Duration = Duration::from_secs(15);
const ROUNDS: u64 = 12;
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 50,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};

/// What is agreed about a member that comes back may reach it before the answer to its request: messages overtake.
async fn comes_back(seed: u64) {
    let mut world = World::new(seed, 4, 0, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    world.run(Duration::from_secs(1)).await;
    world.stop_users().await;
    for round in 0..ROUNDS {
        let addr = world.hosts[3].addr;
        let others: Vec<_> = world.hosts[..3].iter().map(|host| host.addr).collect();
        world.net.partition(&[&[addr], &others]);
        world.run(CUT_OFF).await;
        world.net.heal();
        let jitter = Duration::from_millis(40 * round);
        for other in others {
            let link = Link {
                jitter,
                ..Link::default()
            };
            world.net.set_link(other, addr, link);
            world.net.set_link(addr, other, link);
        }
        assert!(world.wait_healthy(LONG).await.is_some(), "round {round}");
    }
    assert_eq!(world.oracle.violations(), [""; 0]);
}

#[test]
fn who_comes_back_learns_its_slots_though_nothing_else_changes() {
    for seed in [1, 2] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O always starts");
        runtime.block_on(comes_back(seed));
    }
}
