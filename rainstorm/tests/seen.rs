//! What is seen of a job's tasks: what each has done, what it does with its time, and who waits for whom.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::{JobInfo, Time};
use rainstorm::{StandIn, View};
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

fn json(job: &JobInfo) -> Value {
    serde_json::from_str(&world::status_json(job)).unwrap()
}

/// The sum of a counter over the tasks of a stage.
fn sum(job: &JobInfo, stage: &str, counter: &str) -> u64 {
    let json = json(job);
    let tasks = json["stages"][stage].as_array().unwrap().iter();
    tasks.map(|task| task[counter].as_u64().unwrap()).sum()
}

const COUNTS: &str = "version = 1\n[job]\nepoch_ms = 20\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
    [[stage]]\nname = \"some\"\nfrom = \"in\"\nop = { filter = { contains = \"7\" } }\ntasks = 2\n\
    [[stage]]\nname = \"once\"\nfrom = \"some\"\nop = { dedup = {} }\ntasks = 3\n";

fn lines(from: u64, to: u64) -> Vec<u8> {
    let all = (from..to).map(|n| format!("{n}\n"));
    all.collect::<String>().into_bytes()
}

#[tokio::test(start_paused = true)]
async fn what_tasks_have_done_adds_up_whoever_dies() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &[], 0);
    world.spec("counts.toml", COUNTS, 0);
    for round in 0..10 {
        world.extend("/in", &lines(1000 * round, 1000 * (round + 1)));
        let victim = world.alive()[round as usize % 3];
        world.kill(victim).await;
        world.revive(victim);
        let all = 1000 * (round + 1);
        let sevens = (0..all).filter(|n| n.to_string().contains('7')).count() as u64;
        let is_through = |job: &JobInfo| {
            let progress = rainstorm::progress(job).unwrap_or_default();
            progress.rows_in == all && progress.rows_out == sevens
        };
        let job = world.until("counts", 60, is_through).await;
        // Three tasks that keep state, two that read: what a commit carries of them stays small.
        assert!(job.progress.len() < 250, "{} bytes", job.progress.len());
        assert_eq!(sum(&job, "some", "lines_in"), all);
        assert_eq!(sum(&job, "some", "lines_out"), sevens);
        assert_eq!(sum(&job, "once", "lines_in"), sevens);
        assert_eq!(sum(&job, "once", "lines_out"), sevens);
        let text = world::progress_text(&job);
        for task in ["some-0", "some-1", "once-0", "once-1", "once-2"] {
            assert!(text.contains(&format!("task.{task} = on ")), "{text}");
        }
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_rests_has_no_rate_and_one_that_is_done_says_how_it_went() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &[], 0);
    world.spec("counts.toml", COUNTS, 0);
    // A look takes a second: lines come for longer.
    let mut fast = 0;
    for n in 0..100 {
        world.extend("/in", &lines(n, n + 1));
        sleep(Duration::from_millis(50)).await;
        let job = world.job("counts").unwrap();
        fast = fast.max(json(&job)["lines_per_second"].as_u64().unwrap());
    }
    assert!(
        (10..=30).contains(&fast),
        "20 lines a second came, not {fast}"
    );
    let job = world.job("counts").unwrap();
    let later = View {
        now: Time {
            sec: job.changed.sec + 5,
            ..job.changed
        },
        name: &|id| Some(format!("vm-{id}")),
    };
    let text = rainstorm::progress_text(&job, &later);
    assert!(text.contains("lines_per_second = 0\n"), "{text}");
    assert!(
        text.contains("on vm-m") && !text.contains("works"),
        "{text}"
    );
    world.write("/all", &lines(0, 1000), 0);
    let whole = COUNTS
        .replace("/in\"", "/all\"")
        .replace("follow = true", "");
    world.spec("whole.toml", &whole, 0);
    let job = world.done("whole").await;
    let text = rainstorm::status_text(&job);
    assert!(
        text.contains("summary = from ") && text.contains("; read 1000 lines (3890 bytes), "),
        "{text}"
    );
    let text = world::progress_text(&job);
    assert!(text.contains("task.once-2 = ended on "), "{text}");
    assert!(!text.contains("lines_per_second"), "{text}");
    assert_eq!(sum(&job, "some", "bytes_behind"), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_held_up_by_a_slow_stage_is_named() {
    let world = World::start(3, |options| {
        options.stand_in = Some(StandIn::new(|lines| {
            Box::pin(async {
                sleep(Duration::from_millis(200)).await;
                lines
            })
        }));
    })
    .await;
    world.write("/bin/slow", b"#!/bin/cat\n", 0);
    world.write("/in", &lines(0, 2_000_000), 0);
    let slow = "{ exec = { path = \"/bin/slow\", contract = \"batch\" } }";
    let spec = COUNTS.replace("{ dedup = {} }", slow);
    world.spec("slow.toml", &spec.replace("tasks = 3", "tasks = 1"), 0);
    let held = |job: &JobInfo| {
        let json = json(job);
        json["held_up"][0]["stage"] == "some" && json["held_up"][0]["by"] == "once"
    };
    let job = world.until("slow", 60, held).await;
    let text = world::progress_text(&job);
    assert!(text.contains("held_up.some.by.once = "), "{text}");
    assert!(
        text.contains(" % of the time; once works 100 %\n"),
        "{text}"
    );
    assert!(text.contains(", for once "), "{text}");
    // What is behind is what there is, not so many chunks.
    world.write("/short/1", &lines(0, 100), 0);
    world.write("/short/2", &lines(0, 100), 0);
    let short = spec
        .replace("/in\"", "/short\"")
        .replace("follow = true", "rate = \"10/s\"");
    world.spec("short.toml", &short, 0);
    let is_behind = |job: &JobInfo| {
        let progress = rainstorm::progress(job).unwrap_or_default();
        progress.tally.look_ms > 0 && progress.rows_in > 0
    };
    let job = world.until("short", 60, is_behind).await;
    let behind = sum(&job, "some", "bytes_behind");
    assert!(behind > 0 && behind <= 2 * 290, "{behind}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_keep_up_commits_all_the_same() {
    let world = World::start(3, |options| {
        options.stand_in = Some(StandIn::new(|lines| {
            let count = lines.split(|&byte| byte == b'\n').count() as u32;
            Box::pin(async move {
                sleep(Duration::from_millis(5) * count).await;
                lines
            })
        }));
    })
    .await;
    world.write("/bin/slow", b"#!/bin/cat\n", 0);
    // Work for hours, all of it there at once, and more of it than batches that wait between tasks hold.
    world.write("/in", &lines(0, 2_000_000), 0);
    let spec = COUNTS.replace("{ dedup = {} }", "{ exec = { path = \"/bin/slow\" } }");
    world.spec("slow.toml", &spec, 0);
    world.until("slow", 60, |job| job.epoch.0 > 0).await;
    let epoch = || world.job("slow").unwrap().epoch.0;
    sleep(Duration::from_secs(60)).await;
    for _ in 0..30 {
        let before = epoch();
        sleep(Duration::from_secs(10)).await;
        assert!(epoch() > before, "no job epoch in ten seconds");
    }
    let done = rainstorm::progress(&world.job("slow").unwrap()).unwrap();
    // 200 lines a second on each of three tasks.
    assert!(done.rows_out > 360 * 300, "{} lines", done.rows_out);
}
