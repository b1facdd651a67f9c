//! Files that one mount alone writes, while a machine far away joins: their writers end with a cut of their own, of which no
//! slot leader and no prepared list tells the learner.

use crate::{
    client::Habits,
    kernel::{Ask, call},
    net_state::Link,
    world::World,
};
use bytes::Bytes;
use hydfs_data::Trial;
use hydfs_mount::{Answer, FsError, How, Request};
use hydfs_node::Member;
use hydfs_types::ROOT_INO;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

const LONG: Duration = Duration::from_secs(60);
/// Users who make files, each of them one after the other.
const USERS: usize = 24;
/// Between a learner and the others: between what a pull names and the fetch of it writers end.
const LATENCY: Duration = Duration::from_millis(100);
const HABITS: Habits = Habits {
    pause_millis: 60,
    padding: 50,
    sync_one_in: 8,
    reopen_one_in: 30,
    others_millis: None,
};

/// Makes a file, writes it and closes it.
async fn write_one(mount: &Arc<Member>, name: String) -> Result<(), FsError> {
    let how = How {
        write: true,
        ..How::default()
    };
    let create = Request::Create {
        parent: ROOT_INO,
        name: name.clone().into_bytes(),
        mode: 0o644,
        umask: 0,
        how,
    };
    let Answer::Created(attr, opened) = call(mount, create).await? else {
        return Err(FsError::Invalid("no file was made".into()));
    };
    let (ino, handle) = (attr.ino, opened.handle);
    let write = Request::Write {
        ino,
        handle,
        offset: 0,
        data: Bytes::from(name),
        append: false,
        sync: false,
    };
    mount.ask(write).await?;
    mount.ask(Request::Release { ino, handle }).await?;
    Ok(())
}

async fn write_files(mount: Arc<Member>, user: usize, stop: Arc<AtomicBool>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let written = write_one(&mount, format!("file {number} of {user}")).await;
        written.expect("nothing is wrong");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn joins_while_one_writes(seed: u64) {
    let mut world = World::new(seed, 3, 1, HABITS, Trial::default());
    world.begin();
    assert!(world.wait_healthy(LONG).await.is_some());
    let far = Link {
        latency: LATENCY,
        ..Link::default()
    };
    let joins = world.hosts[3].addr;
    for other in 0..3 {
        let other = world.hosts[other].addr;
        world.net.set_link(joins, other, far);
        world.net.set_link(other, joins, far);
    }
    let mount = world.hosts[1].member().expect("it runs");
    let stop = Arc::new(AtomicBool::new(false));
    let users = (0..USERS).map(|user| tokio::spawn(write_files(mount.clone(), user, stop.clone())));
    let users: Vec<_> = users.collect();
    world.run(Duration::from_millis(500)).await;
    world.hosts[3].start();
    world.run(Duration::from_secs(2)).await;
    assert!(world.wait_healthy(LONG).await.is_some());
    stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.expect("it writes");
    }
    world.stop_users().await;
    world.check_quiet().await;
    assert_eq!(world.oracle.violations(), [""; 0]);
}

#[test]
fn who_learns_while_others_write_has_what_their_writers_ended_with() {
    for seed in [1, 2] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O always starts");
        runtime.block_on(joins_while_one_writes(seed));
    }
}
