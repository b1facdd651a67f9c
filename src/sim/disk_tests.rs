//! A member whose syncs fail, and whose machine lets go of what they could not write, or does not, before the next life has
//! read it.

use crate::{client::Habits, world::World};
use hydfs_data::Trial;
use hydfs_store::{Crash, DiskOp, Fault};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SEEDS: std::ops::Range<u64> = 1..9;
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 400,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};

/// Whether the member is still the same incarnation, after a restart of its worker alone or of its supervisor, too.
async fn goes_on(seed: u64, how: Restart) -> bool {
    let mut world = World::new(seed, 3, 0, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    world.run(Duration::from_secs(2)).await;
    let me = |world: &World| world.hosts[1].member().map(|member| member.ctx.me());
    let before = me(&world).expect("it serves");
    world.hosts[1].disk.inject(Fault {
        op: DiskOp::Sync,
        path: String::new(),
        skip: 0,
        times: u32::MAX,
        errno: libc::EIO,
    });
    while world.hosts[1].life.is_some() {
        world.run(Duration::from_millis(20)).await;
    }
    world.hosts[1].disk.heal();
    if how == Restart::Supervisor {
        world.crash(1, Crash::Kill).await;
    }
    world.hosts[1].start();
    assert!(world.wait_healthy(LONG).await.is_some(), "seed {seed}");
    world.stop_users().await;
    assert!(world.wait_healthy(LONG).await.is_some(), "seed {seed}");
    world.check_quiet().await;
    assert_eq!(world.oracle.violations(), [""; 0], "seed {seed}, {how:?}");
    me(&world) == Some(before)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    Worker,
    Supervisor,
}

fn those_that_go_on(how: Restart) -> usize {
    let run = |seed: &u64| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O always starts");
        runtime.block_on(goes_on(*seed, how))
    };
    SEEDS.filter(run).count()
}

#[test]
fn a_worker_whose_journal_lost_its_end_comes_back_as_somebody_else_and_one_that_has_all_goes_on() {
    let (went_on, all) = (those_that_go_on(Restart::Worker), SEEDS.count());
    assert!(went_on > 0 && went_on < all, "{went_on} of {all} went on");
}

#[test]
fn a_member_of_which_nobody_knows_how_far_its_journal_went_comes_back_as_somebody_else() {
    assert_eq!(those_that_go_on(Restart::Supervisor), 0);
}
