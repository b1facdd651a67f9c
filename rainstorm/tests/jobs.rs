//! The sample jobs over a cluster in memory: right without faults, and byte for byte as right with them.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{COUNT, FILTER, counted, filtered, signs};
use hydfs_types::JobPhase;
use std::sync::atomic::Ordering::Relaxed;
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sample_jobs_over_100_000_rows_equal_the_reference() {
    let world = World::start(4, |_| {}).await;
    let input = signs(100_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.spec("filter.toml", FILTER, 0);
    world.spec("count.toml", COUNT, 0);
    world.spec("again.toml", COUNT, 0);
    let job = world.done("filter").await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    let progress = rainstorm::progress(&job).unwrap();
    assert_eq!(
        (progress.rows_in, progress.rows_out),
        (100_000, filtered(&input).len() as u64)
    );
    assert!(
        world::progress_text(&job).starts_with("percent = 100\n"),
        "{}",
        world::progress_text(&job)
    );
    for name in ["count", "again"] {
        world.done(name).await;
        assert_eq!(
            world.sorted(&format!("/.jobs/{name}/output")),
            counted(&input)
        );
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_spec_a_small_input_and_an_empty_one() {
    let world = World::start(1, |_| {}).await;
    world.write("/in.csv", b"a,b\n1,\"x, y\"\n2,z", 0);
    world.write("/empty.csv", b"a,b\n", 0);
    let spec = |path: &str| {
        format!(
            r#"{{"version": 1, "source": [{{"name": "in", "path": "{path}", "format": "csv"}}],
            "stage": [{{"name": "s", "from": "in", "op": {{"select": {{"columns": ["b", 1]}}}}, "tasks": 2}}]}}"#
        )
    };
    world.spec("small.json", &spec("/in.csv"), 0);
    world.spec("empty.json", &spec("/empty.csv"), 0);
    world.done("small").await;
    assert_eq!(world.sorted("/.jobs/small/output"), ["\"x, y\",1", "z,2"]);
    let job = world.done("empty").await;
    assert_eq!(world.lines("/.jobs/empty/output"), [""; 0]);
    assert!(rainstorm::status_text(&job).starts_with("status = done\n"));
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r1_the_leader_dies_twenty_times_and_the_output_is_the_same() {
    let world = World::start(4, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let input = signs(40_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.spec("filter.toml", FILTER, 0);
    world.spec("count.toml", COUNT, 0);
    let mut kills = 0;
    while kills < 20 {
        let before = world.until("filter", 60, |_| true).await.epoch;
        let job = world
            .until("filter", 60, |job| {
                job.epoch > before || job.phase != JobPhase::Running
            })
            .await;
        if job.phase != JobPhase::Running {
            break;
        }
        let Some(leader) = *world.leader.borrow() else {
            continue;
        };
        world.kill(leader).await;
        world.revive(leader);
        kills += 1;
    }
    assert_eq!(kills, 20, "the job was over too soon");
    let job = world.done("filter").await;
    assert!(job.attempt.0 > 10, "{job:?}");
    world.done("count").await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    assert_eq!(world.sorted("/.jobs/count/output"), counted(&input));
    assert!(
        !world.paths().iter().any(|path| path.contains("/state/")),
        "{:?}",
        world.paths()
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r2_members_die_at_random_points_and_no_line_is_missing() {
    for seed in 1..=3 {
        let world = World::start(5, |options| {
            options.chunk_bytes = 4 << 10;
            options.uncommitted_bytes_max = 12 << 10;
        })
        .await;
        world.seed(seed);
        let input = signs(20_000);
        world.write("/data/signs.csv", input.as_bytes(), 0);
        world.knobs.lost_calls.store(20, Relaxed);
        world.knobs.lost_proposals.store(20, Relaxed);
        world.spec("filter.toml", FILTER, 0);
        world.spec("count.toml", COUNT, 0);
        world.kill_until_ended(&["filter", "count"]).await;
        world.done("filter").await;
        world.done("count").await;
        data::check_order(&world, "/.jobs/filter/output", &input, 3);
        assert_eq!(
            world.sorted("/.jobs/count/output"),
            counted(&input),
            "seed {seed}"
        );
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_nobody_needs_make_room_for_others() {
    let world = World::start(2, |_| {}).await;
    world.write("/in.csv", b"a\n1\n", 0);
    world.limit_jobs(3);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in.csv\"\n\
        [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = { filter = { contains = \"1\" } }\n";
    // The same job again and again: only its last run is remembered.
    for run in 1..=8 {
        world.spec("again.toml", spec, 0);
        let ran = |job: &hydfs_types::JobInfo| job.phase == JobPhase::Done && job.id.0 == run;
        world.until("again", 60, ran).await;
        assert_eq!(world.lines("/.jobs/again/output"), ["1"]);
    }
    // As many as the table takes: the next one waits, and its log says why.
    world.spec("b.toml", spec, 0);
    world.done("b").await;
    while world.jobs_count() > 2 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    world.spec("c.toml", spec, 0);
    world.done("c").await;
    world.spec("d.toml", spec, 0);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(world.job("d").is_none());
    assert_eq!(world.log("d").matches("too many jobs").count(), 1);
    // Until nothing is left of another.
    world.unlink("/.jobs/b.toml");
    for path in world.paths() {
        if path.starts_with("/.jobs/b/") {
            world.unlink(&path);
        }
    }
    world.done("d").await;
    assert!(world.job("b").is_none());
    // None of those that are remembered, or forgotten, ran again.
    assert_eq!(world.job("again").unwrap().id.0, 8);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_lines_are_joined_with_is_read_once_on_each_member() {
    let world = World::start(2, |_| {}).await;
    let names: String = (0..50_000).map(|n| format!("{n},name of {n}\n")).collect();
    world.write("/names", format!("id,name\n{names}").as_bytes(), 0);
    world.write("/in", b"7\n49999\n", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n[[stage]]\nname = \"s\"\nfrom = \"in\"\n\
        op = { join = { file = \"/names\", on = 1, file_on = \"id\" } }\ntasks = 8\n";
    world.spec("j.toml", spec, 0);
    world.done("j").await;
    let want = ["49999,name of 49999", "7,name of 7"];
    assert_eq!(world.sorted("/.jobs/j/output"), want);
    let read = world.counts.read_bytes.load(Relaxed);
    assert!(read < 3 * names.len() as u64, "{read} of {}", names.len());
}
