//! Starts that must not come up, since the folder was rolled back or the disk fails meanwhile, and one that has to, though
//! nobody knows where the member is.

use crate::{client::Habits, host::address, world::World};
use hydfs_data::Trial;
use hydfs_node::Error;
use hydfs_store::{Crash, DiskOp, Fault};
use hydfs_types::AgreementError;
use std::{future::Future, time::Duration};

const LONG: Duration = Duration::from_secs(60);
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 50,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};
/// The member that is hurt. The first one leads.
const LAST: usize = 2;

async fn healthy(seed: u64) -> World {
    let mut world = World::new(seed, 3, 0, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    world.run(Duration::from_secs(1)).await;
    world
}

/// Why the member gave up, as it has.
fn gave_up(world: &World) -> Option<&Error> {
    world.hosts[LAST]
        .life
        .as_ref()?
        .member
        .get()?
        .as_ref()
        .err()
}

fn simulate(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O always starts");
    runtime.block_on(run);
}

/// A copy of the run that goes on: it counts as many starts as the cluster expects of the next one.
#[test]
fn a_folder_that_was_rolled_back_within_a_run_neither_votes_nor_comes_up() {
    simulate(async {
        let mut world = healthy(1).await;
        let copy = world.hosts[LAST].disk.fork();
        world.run(Duration::from_secs(2)).await;
        world.crash(LAST, Crash::Kill).await;
        copy.crash(Crash::Kill);
        let newest = std::mem::replace(&mut world.hosts[LAST].disk, copy);
        world.hosts[LAST].start();
        world.run(Duration::from_secs(2)).await;
        let why = gave_up(&world);
        assert!(matches!(why, Some(Error::RolledBack { .. })), "{why:?}");
        // What it should have been comes up.
        world.crash(LAST, Crash::Kill).await;
        world.hosts[LAST].disk = newest;
        world.hosts[LAST].start();
        assert!(world.wait_healthy(LONG).await.is_some());
        world.stop_users().await;
        world.check_quiet().await;
        assert_eq!(world.oracle.violations(), [""; 0]);
    });
}

/// Found by reading: it asked for admission for ever, and its supervisor waited for it.
#[test]
fn a_start_whose_agreement_log_stops_ends() {
    simulate(async {
        let mut world = healthy(2).await;
        world.kill_worker(LAST).await;
        let addr = world.hosts[LAST].addr;
        world.net.partition(&[&[addr]]);
        world.hosts[LAST].start();
        world.run(Duration::from_secs(3)).await;
        assert!(gave_up(&world).is_none() && world.hosts[LAST].member().is_none());
        world.hosts[LAST].disk.inject(Fault {
            op: DiskOp::Write,
            path: String::new(),
            skip: 0,
            times: u32::MAX,
            errno: libc::EIO,
        });
        world.net.heal();
        world.run(Duration::from_secs(5)).await;
        let why = gave_up(&world);
        assert!(
            matches!(why, Some(Error::Agreement(AgreementError::Stopped(_)))),
            "{why:?}"
        );
    });
}

/// It made the cluster, so it was told of nobody whom it could ask, and all the others call it where it was.
#[test]
fn a_member_with_another_address_finds_the_others_by_its_own_state() {
    simulate(async {
        let mut world = healthy(3).await;
        world.crash(0, Crash::Kill).await;
        world.hosts[0].addr = address(9);
        world.run(Duration::from_secs(5)).await;
        world.hosts[0].start();
        assert!(world.wait_healthy(LONG).await.is_some());
        world.stop_users().await;
        assert_eq!(world.oracle.violations(), [""; 0]);
    });
}
