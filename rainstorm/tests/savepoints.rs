//! Savepoints of large state, from several leaders and damaged ones; and files of state that nobody needs.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::{JobPhase, MemberId};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

/// The first of each line, by `tasks` tasks.
fn once(tasks: u32) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
         [[stage]]\nname = \"first\"\nfrom = \"in\"\nop = {{ dedup = {{}} }}\ntasks = {tasks}\n"
    )
}

fn from(savepoint: &str, tasks: u32) -> String {
    let start = format!("version = 1\n[job]\nstart = {{ savepoint = \"{savepoint}\" }}\n");
    once(tasks).replace("version = 1\n", &start)
}

async fn running(tasks: u32) -> Arc<World> {
    let world = World::start(3, |_| {}).await;
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    world.write("/in", lines.as_bytes(), 0);
    world.spec("once.toml", &once(tasks), 0);
    put_out(&world, "once", 100).await;
    world
}

/// Waits until the output has so many lines.
async fn put_out(world: &World, job: &str, count: usize) {
    let path = format!("/.jobs/{job}/output");
    let limit = Instant::now() + Duration::from_secs(60);
    while world.read(&path).is_none() || world.lines(&path).len() < count {
        assert!(Instant::now() < limit, "{job}: {}", world.log(job));
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.lines(&path).len(), count);
}

/// Waits until the log says so.
async fn logged(world: &World, job: &str, words: &str) {
    let limit = Instant::now() + Duration::from_secs(600);
    while !world.log(job).contains(words) {
        assert!(Instant::now() < limit, "{words}: {}", world.log(job));
        sleep(Duration::from_millis(100)).await;
    }
}

fn below(world: &World, folder: &str) -> Vec<String> {
    let mut paths = world.paths();
    paths.retain(|path| path.starts_with(folder));
    paths
}

#[tokio::test(start_paused = true)]
async fn a_savepoint_that_takes_minutes_is_made_and_begun_from() {
    let world = running(6).await;
    // Each file of state takes as long as storage may take: together more than the look at an order.
    world.knobs.read_delay_ms.store(20_000, Relaxed);
    world.write("/.jobs/once/control", b"savepoint slow\n", 0);
    logged(&world, "once", "savepoint `slow` is made").await;
    assert_eq!(below(&world, "/.jobs/once/savepoints/slow/").len(), 7);
    world.knobs.read_delay_ms.store(4_000, Relaxed);
    world.spec("again.toml", &from("once/slow", 6), 0);
    world
        .until("again", 300, |job| job.phase == JobPhase::Running)
        .await;
    world.knobs.read_delay_ms.store(0, Relaxed);
    world.extend("/in", b"7\nnew\n");
    put_out(&world, "again", 1).await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_place_of_the_order_ends_a_savepoint() {
    let world = running(6).await;
    world.knobs.read_delay_ms.store(20_000, Relaxed);
    let control = "/.jobs/once/control";
    world.write(control, b"savepoint slow\ncancel\n", 0);
    sleep(Duration::from_secs(50)).await;
    // Behind the order it waits.
    assert_eq!(world.job("once").unwrap().phase, JobPhase::Running);
    world.write(control, b"cancel\n", 0);
    let job = world.until("once", 70, |job| job.phase == JobPhase::Cancelled);
    job.await;
    assert!(!world.log("once").contains("is made"));
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_other_leaders_have_left_of_a_savepoint_does_no_harm() {
    let world = running(2).await;
    let folder = "/.jobs/once/savepoints/one/";
    // A leader that died while it published, and one that does not know yet that it leads no more.
    world.write(&format!("{folder}savepoint"), b"\x10\0\0\0half", 0);
    world.write(&format!("{folder}0.3e9"), b"half a file", 0);
    world.write("/.jobs/once/control", b"savepoint one\n", 0);
    logged(&world, "once", "savepoint `one` is made").await;
    let made = below(&world, folder);
    assert_eq!(made.len(), 3, "{made:?}");
    // What the other publishes now counts no more.
    world.extend(&format!("{folder}savepoint"), b"\x01\0\0\0\0\0\0\0x");
    world.spec("again.toml", &from("once/one", 2), 0);
    world.extend("/in", b"7\nnew\n");
    put_out(&world, "again", 1).await;
    // One of whose files some are gone is made anew.
    world.unlink(
        made.iter()
            .find(|path| !path.ends_with("savepoint"))
            .unwrap(),
    );
    world.write("/.jobs/once/control", b"savepoint one\n", 0);
    let limit = Instant::now() + Duration::from_secs(60);
    while world.log("once").matches("`one` is made").count() < 2 {
        assert!(Instant::now() < limit, "{}", world.log("once"));
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(below(&world, folder).len(), 3);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_from_a_damaged_savepoint() {
    let world = running(1).await;
    world.write("/.jobs/once/control", b"savepoint one\n", 0);
    logged(&world, "once", "savepoint `one` is made").await;
    let made = below(&world, "/.jobs/once/savepoints/one/");
    let state = made
        .iter()
        .find(|path| !path.ends_with("savepoint"))
        .unwrap();
    let mut bytes = world.read(state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    world.write(state, &bytes, 0);
    world.spec("again.toml", &from("once/one", 1), 0);
    let job = world.ended("again").await;
    let why = format!("{state} is not what was written there; take another savepoint");
    assert!(job.message.contains(&why), "{}", job.message);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn attempts_that_commit_nothing_leave_no_files_of_state() {
    let world = running(2).await;
    for round in 0..5 {
        // The tasks write their state, and its job epoch is never committed.
        world.let_commits_through(Some(0));
        world.extend("/in", format!("round {round}\n").as_bytes());
        sleep(Duration::from_millis(500)).await;
        let victim = MemberId(1 + round % 3);
        world.kill(victim).await;
        world.revive(victim);
    }
    world.let_commits_through(None);
    put_out(&world, "once", 105).await;
    world.extend("/in", b"last\n");
    put_out(&world, "once", 106).await;
    sleep(Duration::from_secs(1)).await;
    let left = below(&world, "/.jobs/once/state/");
    assert!(left.len() <= 2, "{left:?}");
    world.check();
}
