//! Rates of sources, in virtual time: how fast a job reads, whoever changes it and whatever dies meanwhile.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::numbers;
use hydfs_types::{JobInfo, JobPhase};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

fn spec(source: &str, tasks: u32) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n{source}\n\
         [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"\" }} }}\ntasks = {tasks}\n"
    )
}

fn rows(job: &JobInfo) -> u64 {
    rainstorm::progress(job).map_or(0, |progress| progress.rows_in)
}

fn sorted(world: &World, job: &str) -> Vec<u64> {
    let lines = world.lines(&format!("/.jobs/{job}/output"));
    let mut got: Vec<u64> = lines.iter().map(|line| line.parse().unwrap()).collect();
    got.sort_unstable();
    got
}

/// What is read in each of some seconds, as committed.
async fn speeds(world: &World, job: &str, seconds: u64) -> Vec<u64> {
    let mut speeds = Vec::new();
    let mut before = rows(&world.job(job).unwrap());
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        let now = rows(&world.job(job).unwrap());
        speeds.push(now - before);
        before = now;
    }
    speeds
}

async fn order(world: &Arc<World>, job: &str, text: &str) {
    let path = format!("/.jobs/{job}/control");
    world.write(&path, text.as_bytes(), 0);
    let limit = Instant::now() + Duration::from_secs(60);
    while world.read(&path).is_some() {
        assert!(Instant::now() < limit, "{text} is not obeyed");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_read_at_its_rate_by_all_tasks_together() {
    for tasks in [1, 3] {
        let world = World::start(3, |options| options.chunk_bytes = 1 << 10).await;
        world.write("/in", &numbers(5_000), 0);
        let began = Instant::now();
        world.spec("paced.toml", &spec("rate = \"1000/s\"", tasks), 0);
        world.until("paced", 20, |job| job.epoch.0 >= 1).await;
        for speed in speeds(&world, "paced", 3).await {
            assert!((800..=1_150).contains(&speed), "{speed} lines in a second");
        }
        let text = world::progress_text(&world.job("paced").unwrap());
        assert!(text.contains("rate.in = 1000/s\n"), "{text}");
        world.done("paced").await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(4_900), "{took:?}");
        assert!(took <= Duration::from_millis(7_500), "{took:?}");
        assert!(sorted(&world, "paced") == (1..=5_000).collect::<Vec<_>>());
        world.check();
    }
}

/// All the input is one chunk: every position lies inside it.
#[tokio::test(start_paused = true)]
async fn members_that_die_between_two_portions_of_a_chunk_lose_and_double_nothing() {
    let world = World::start(3, |options| options.chunk_bytes = 1 << 20).await;
    world.write("/in", &numbers(3_000), 0);
    world.spec("paced.toml", &spec("rate = \"600/s\"", 2), 0);
    world.kill_until_ended(&["paced"]).await;
    let job = world.done("paced").await;
    assert!(job.attempt.0 >= 3, "{job:?}");
    assert_eq!(rows(&job), 3_000);
    assert!(sorted(&world, "paced") == (1..=3_000).collect::<Vec<_>>());
    let rain = world.rain(world.alive()[0]).unwrap();
    let audited = rain.audit("paced").await.unwrap();
    assert_eq!((audited.lines_in, audited.lines_out), (3_000, 3_000));
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_order_changes_the_rate_of_a_running_job_and_outlives_its_leader() {
    let world = World::start(3, |options| options.chunk_bytes = 1 << 10).await;
    world.write("/in", &numbers(20_000), 0);
    world.spec("paced.toml", &spec("rate = \"100/s\"", 3), 0);
    world.until("paced", 20, |job| job.epoch.0 >= 1).await;
    order(&world, "paced", "rate=fast\nrate = 700/s\n").await;
    assert!(world.log("paced").contains("`rate=fast` is no order"));
    for speed in speeds(&world, "paced", 3).await {
        assert!((560..=800).contains(&speed), "{speed} lines in a second");
    }
    let leader = world.leader.borrow().unwrap();
    let attempt = world.job("paced").unwrap().attempt;
    world.kill(leader).await;
    world.revive(leader);
    let again = |job: &JobInfo| job.attempt > attempt && job.phase == JobPhase::Running;
    world.until("paced", 60, again).await;
    sleep(Duration::from_secs(1)).await;
    for speed in speeds(&world, "paced", 3).await {
        assert!((560..=800).contains(&speed), "{speed} lines in a second");
    }
    let text = world::progress_text(&world.job("paced").unwrap());
    assert!(text.contains("rate.in = 700/s\n"), "{text}");
    order(&world, "paced", "pause").await;
    order(&world, "paced", "rate=1/s").await;
    assert!(world.log("paced").contains("resume it first"));
    order(&world, "paced", "resume").await;
    world
        .until("paced", 60, |job| job.phase == JobPhase::Running)
        .await;
    let began = Instant::now();
    order(&world, "paced", "rate=off").await;
    world.done("paced").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(sorted(&world, "paced") == (1..=20_000).collect::<Vec<_>>());
    world.check();
}

#[tokio::test(start_paused = true)]
async fn of_a_followed_source_the_tasks_with_lines_get_the_shares_of_those_without() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &numbers(9_000), 0);
    world.spec("paced.toml", &spec("follow = true\nrate = \"900/s\"", 3), 0);
    world.until("paced", 20, |job| job.epoch.0 >= 1).await;
    sleep(Duration::from_secs(1)).await;
    for speed in speeds(&world, "paced", 4).await {
        assert!((600..=990).contains(&speed), "{speed} lines in a second");
    }
    world.until("paced", 30, |job| rows(job) == 9_000).await;
    world.extend("/in", b"9001\n");
    world.until("paced", 30, |job| rows(job) == 9_001).await;
    assert!(sorted(&world, "paced") == (1..=9_001).collect::<Vec<_>>());
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("paced").await.unwrap().lines_in, 9_001);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_none_is_refused_where_it_stands() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"x\n", 0);
    world.spec("wrong.toml", &spec("rate = \"fast\"", 1), 0);
    let job = world.ended("wrong").await;
    assert_eq!(job.phase, JobPhase::Failed);
    let want = "/.jobs/wrong.toml:5:8: `rate = \"fast\"` is no rate; write lines a second, as in \"10000/s\"";
    assert_eq!(job.message, want);
}
