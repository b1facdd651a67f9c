//! Jobs that find out by themselves how many tasks their stages need, while members die.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobInfo, MemberId};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

/// Tasks of a stage, as `status.json` has them.
fn tasks(job: &JobInfo, stage: &str) -> u64 {
    let json: serde_json::Value = serde_json::from_str(&world::status_json(job)).unwrap();
    json["scales"][stage]["tasks"].as_u64().unwrap_or_default()
}

/// Waits until the job was `good` once; kills and revives a member now and then meanwhile, two to six times, so that a slow
/// machine comes to an end, too.
async fn until_while_members_die(
    world: &Arc<World>,
    name: &str,
    every_ms: u64,
    good: impl Fn(&JobInfo) -> bool,
) {
    let limit = Instant::now() + Duration::from_secs(300);
    let is_good = async {
        while !world.job(name).is_some_and(|job| good(&job)) {
            let log = world.log(name);
            assert!(Instant::now() < limit, "not in time:\n{log}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let was_good = AtomicBool::new(false);
    let deaths = async {
        let mut deaths = 0;
        sleep(Duration::from_millis(world.random(every_ms))).await;
        while deaths < 2 || deaths < 6 && !was_good.load(Relaxed) {
            let victim = MemberId(1 + world.random(3));
            world.kill(victim).await;
            sleep(Duration::from_millis(world.random(50))).await;
            world.revive(victim);
            deaths += 1;
            sleep(Duration::from_millis(every_ms + world.random(every_ms))).await;
        }
    };
    tokio::join!(
        async {
            is_good.await;
            was_good.store(true, Relaxed);
        },
        deaths
    );
}

async fn put_out(world: &World, job: &str, want: &[String]) {
    let path = format!("/.jobs/{job}/output");
    let limit = Instant::now() + Duration::from_secs(300);
    while world.read(&path).is_none() || world.lines(&path).len() < want.len() {
        assert!(Instant::now() < limit, "{}", world.log(job));
        sleep(Duration::from_millis(20)).await;
    }
    assert!(world.sorted(&path) == want, "{job}");
}

async fn order(world: &World, job: &str, text: &str) {
    let path = format!("/.jobs/{job}/control");
    world.write(&path, text.as_bytes(), 0);
    let limit = Instant::now() + Duration::from_secs(60);
    while world.read(&path).is_some() {
        assert!(Instant::now() < limit, "{text}: {}", world.log(job));
        sleep(Duration::from_millis(20)).await;
    }
}

async fn has_logged(world: &World, job: &str, words: &str) {
    let limit = Instant::now() + Duration::from_secs(300);
    while !world.log(job).contains(words) {
        assert!(Instant::now() < limit, "{words}: {}", world.log(job));
        sleep(Duration::from_millis(20)).await;
    }
}

fn first(tasks: &str) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in/*\"\nfollow = true\n\
         [[stage]]\nname = \"first\"\nfrom = \"in\"\nop = {{ dedup = {{}} }}\ntasks = {tasks}\n"
    )
}

/// Appends so many lines to each of eight files; every other one is in two of them.
fn extend(world: &World, wave: u64, lines: u64) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for file in 0..8 {
        let mut text = String::new();
        for n in 0..lines {
            let of = if n % 2 == 0 { file } else { file / 2 };
            let line = format!("wave {wave} of file {of} line {n}");
            text += &format!("{line}\n");
            all.insert(line);
        }
        world.extend(&format!("/in/{file}"), text.as_bytes());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_stage_with_state_grows_under_lag_and_shrinks_when_idle_whatever_dies() {
    for seed in 0..2 {
        let world = World::start(3, |options| {
            options.chunk_bytes = 1 << 10;
            options.scale_every = Duration::from_millis(50);
        })
        .await;
        world.seed(seed);
        // What takes its time is to read.
        world.knobs.read_delay_ms.store(20, Relaxed);
        world.knobs.lost_calls.store(5, Relaxed);
        world.knobs.lost_proposals.store(20, Relaxed);
        let mut want = extend(&world, 0, 2_000);
        world.spec("first.toml", &first("{ min = 1, max = 8 }"), 0);
        until_while_members_die(&world, "first", 500, |job| tasks(job, "first") >= 4).await;
        want.extend(extend(&world, 1, 500));
        until_while_members_die(&world, "first", 1_000, |job| {
            let progress = rainstorm::progress(job).unwrap();
            tasks(job, "first") == 1 && progress.rows_in == 8 * 2_500
        })
        .await;
        want.extend(extend(&world, 2, 10));
        world.spec("plain.toml", &first("2"), 0);
        let want: Vec<String> = want.into_iter().collect();
        put_out(&world, "first", &want).await;
        put_out(&world, "plain", &want).await;
        let log = world.log("first");
        for words in [
            "stage `first` has 2 tasks instead of 1; its tasks worked",
            "KiB of the source waited",
            "stage `first` has 1 tasks instead of 2; its busiest task worked",
        ] {
            assert!(log.contains(words), "{words}: {log}");
        }
        let rain = world.rain(world.alive()[0]).unwrap();
        let audited = rain.audit("first").await.unwrap();
        assert_eq!(audited.lines_in, 8 * 2_510);
        world.check();
    }
}

/// Passes lines on, and takes 30 ms for each batch.
const SLOW: &[u8] = b"#!/bin/sh\nmark=$(printf '\\036')\nwhile IFS= read -r line; do\n\
    case \"$line\" in \"$mark\"*) sleep 0.03 ;; esac\n    printf '%s\\n' \"$line\"\ndone\n";

fn slow(tasks: &str) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
         [[stage]]\nname = \"some\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"7\" }} }}\n\
         [[stage]]\nname = \"slow\"\nfrom = \"some\"\nop = {{ exec = {{ path = \"/bin/slow\" }} }}\ntasks = {tasks}\n\
         [[stage]]\nname = \"once\"\nfrom = \"slow\"\nop = {{ dedup = {{}} }}\ntasks = 2\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_executable_gets_more_tasks_while_lines_wait_for_it_and_fewer_later_whatever_dies() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 1 << 10;
        options.scale_every = Duration::from_millis(100);
        // Whoever is dead is gone from the list soon; a busy machine is no death.
        options.contact_timeout = Duration::from_secs(10);
        options.member_timeout = Duration::from_secs(8);
    })
    .await;
    world.write("/bin/slow", SLOW, 0);
    let lines = |from: u64, to: u64| -> Vec<u8> {
        let all = (from..to).map(|n| format!("{n}\n"));
        all.collect::<String>().into_bytes()
    };
    world.write("/in", &lines(0, 20_000), 0);
    world.spec("slow.toml", &slow("{ max = 4 }"), 0);
    let end = Cell::new(20_000);
    // There is always more to do than one task or two could in some seconds.
    let more = async {
        loop {
            sleep(Duration::from_millis(100)).await;
            let progress = world.job("slow").and_then(|job| rainstorm::progress(&job));
            if progress.is_some_and(|progress| progress.rows_in + 40_000 > end.get()) {
                world.extend("/in", &lines(end.get(), end.get() + 10_000));
                end.set(end.get() + 10_000);
            }
        }
    };
    tokio::select! {
        () = until_while_members_die(&world, "slow", 1_500, |job| tasks(job, "slow") == 4) => {}
        () = more => {}
    }
    until_while_members_die(&world, "slow", 3_000, |job| tasks(job, "slow") == 1).await;
    // Lines that were seen before come again.
    let end = end.get();
    world.extend("/in", &lines(end - 1_000, end + 1_000));
    world.spec("plain.toml", &slow("4"), 0);
    let mut want: Vec<String> = (0..end + 1_000).map(|n| n.to_string()).collect();
    want.retain(|line| line.contains('7'));
    want.sort();
    put_out(&world, "plain", &want).await;
    put_out(&world, "slow", &want).await;
    let log = world.log("slow");
    for words in [
        "stage `slow` has 2 tasks instead of 1; its tasks worked",
        "% of the time, and who feeds them waited",
        "stage `slow` has 1 tasks instead of 2; its busiest task worked",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let rain = world.rain(world.alive()[0]).unwrap();
    let audited = rain.audit("slow").await.unwrap();
    assert_eq!(audited.lines_in, end + 2_000);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn orders_within_the_bounds_are_obeyed_and_a_rewritten_spec_keeps_what_is_known() {
    let world = World::start(2, |options| options.scale_every = Duration::from_millis(50)).await;
    world.write("/in/1", b"a\n", 0);
    world.spec("first.toml", &first("{ min = 2, max = 6 }"), 0);
    put_out(&world, "first", &["a".to_owned()]).await;
    order(
        &world,
        "first",
        "tasks.first=7\ntasks.first=1\ntasks.first=5",
    )
    .await;
    let job = world.job("first").unwrap();
    assert_eq!(tasks(&job, "first"), 5);
    let text = world::progress_text(&job);
    assert!(text.contains("tasks.first = 5 of 2 to 6\n"), "{text}");
    let log = world.log("first");
    for order in [7, 1] {
        let words = format!(
            "`tasks.first={order}`: the spec lets `first` have 2 to 6 tasks; use one of these, or rewrite the spec"
        );
        assert!(log.contains(&words), "{words}: {log}");
    }
    // Nothing is to be done: what was ordered does not last.
    world
        .until("first", 60, |job| tasks(job, "first") == 3)
        .await;
    let scaled = "scaled.first = 3 instead of 5 tasks behind job epoch ";
    let text = world::progress_text(&world.job("first").unwrap());
    let why = ": its busiest task worked 0 % of the time, and nothing waited\n";
    assert!(text.contains(scaled) && text.contains(why), "{text}");
    has_logged(
        &world,
        "first",
        "stage `first` has 3 tasks instead of 5; its busiest task worked",
    )
    .await;
    // A spec that is refused stays so, whatever the number of tasks is.
    world.spec(
        "first.toml",
        &first("{ min = 2, max = 6 }").replace("dedup = {}", "dedup = { by = 1 }"),
        0,
    );
    let refused = |job: &JobInfo| job.message.contains("the new spec was refused");
    world.until("first", 60, refused).await;
    let job = world
        .until("first", 60, |job| tasks(job, "first") == 2)
        .await;
    assert!(refused(&job), "{}", job.message);
    for (bounds, want) in [
        ("{ min = 4, max = 8 }", 4),
        ("{ max = 4 }", 4),
        ("{ max = 3 }", 3),
    ] {
        let generation = world.job("first").unwrap().generation;
        world.spec("first.toml", &first(bounds), 0);
        let job = world
            .until("first", 60, |job| job.generation != generation)
            .await;
        assert!(!refused(&job), "{}", job.message);
        assert_eq!(tasks(&job, "first"), want, "{bounds}");
    }
    order(&world, "first", "pause\ntasks.first=2\nsavepoint two").await;
    assert_eq!(tasks(&world.job("first").unwrap(), "first"), 2);
    let from = first("{ max = 8 }").replace(
        "version = 1",
        "version = 1\n[job]\nstart = { savepoint = \"first/two\" }",
    );
    world.spec("again.toml", &from, 0);
    let job = world.until("again", 60, |job| job.epoch.0 > 0).await;
    assert_eq!(tasks(&job, "first"), 2);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn bounds_that_cannot_be_are_refused_where_they_stand() {
    let world = World::start(1, |_| {}).await;
    world.write("/in/1", b"a\n", 0);
    let ranges = "partition = \"range\"\nkey = 1\nbounds = [5]\n";
    let filter = first("{ max = 2 }").replace("dedup = {}", "filter = { contains = \"\" }");
    let cases = [
        (
            first("{ min = 3, max = 2 }"),
            "10:26: `max = 2` of `tasks` is below `min = 3`; exchange them, or write one number",
        ),
        (
            first("{ min = 0, max = 2 }"),
            "10:17: `min = 0` of `tasks` is out of range; use 1 to 64",
        ),
        (
            first("{ min = 1, max = 65 }"),
            "10:26: `max = 65` of `tasks` is out of range; use 1 to 64",
        ),
        (
            first("{ min = 1 }"),
            "10:9: `tasks` has no `max`; add for example `max = 8`, or write a number",
        ),
        (
            first("{ max = 2, most = 3 }"),
            "10:20: unknown key `most` in `tasks`; it may be one of `min`, `max`",
        ),
        (
            first("\"auto\""),
            "10:9: `tasks` of [[stage]] is a string; write a number, or for example `{ min = 1, max = 8 }`",
        ),
        (
            format!("{filter}{ranges}"),
            "10:9: `tasks` of this stage is no single number, but its `bounds` say how many tasks it has; write a number",
        ),
        (
            format!("{filter}partition = \"broadcast\"\n"),
            "10:9: `tasks` of this stage is no single number, but each task gets every line",
        ),
    ];
    for (at, (spec, message)) in cases.iter().enumerate() {
        let name = format!("case{at}");
        world.spec(&format!("{name}.toml"), spec, 0);
        let job = world.ended(&name).await;
        let want = format!("/.jobs/{name}.toml:{message}");
        assert!(job.message.starts_with(&want), "{}\n{want}", job.message);
    }
    let json = r#"{"version": 1, "source": [{"name": "in", "path": "/in/1"}],
        "stage": [{"name": "one", "from": "in", "op": {"dedup": {}}, "tasks": {"min": 2, "max": 4}}]}"#;
    world.spec("json.json", json, 0);
    let job = world.done("json").await;
    assert_eq!(tasks(&job, "one"), 2);
    world.spec("wrong.json", &json.replace("\"min\": 2", "\"min\": 5"), 0);
    let job = world.ended("wrong").await;
    assert!(
        job.message.contains(":2:97: `max = 4` of `tasks` is below"),
        "{}",
        job.message
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_stage_that_reads_short_lines_grows_with_what_comes_meanwhile() {
    let world = World::start(2, |options| {
        options.scale_every = Duration::from_millis(100)
    })
    .await;
    let slow = b"#!/bin/sh\nwhile IFS= read -r line; do\n    sleep 0.005\n    printf '%s\\n' \"$line\"\ndone\n";
    world.write("/bin/slow", slow, 0);
    let paths = ["/in/1", "/in/2", "/in/3", "/in/4"];
    paths.iter().for_each(|path| world.write(path, b"a\n", 0));
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"slow\"\nfrom = \"in\"\nop = { exec = { path = \"/bin/slow\" } }\ntasks = { max = 4 }\n";
    world.spec("slow.toml", spec, 0);
    let more = async {
        loop {
            sleep(Duration::from_millis(100)).await;
            paths
                .iter()
                .for_each(|path| world.extend(path, &b"b\n".repeat(10)));
        }
    };
    tokio::select! {
        job = world.until("slow", 60, |job| tasks(job, "slow") >= 2) => assert!(job.epoch.0 > 0),
        () = more => {}
    }
    world.check();
}
