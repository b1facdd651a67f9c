//! Followed sources and event time: no line is lost or doubled because a file was read late, renamed, or not written wholly
//! when the job looked.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::JobPhase;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

/// Follows `/in`, or all that is in it.
fn source(more: &str) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
         time = 1\ntime_format = \"unix_ms\"\n{more}\n"
    )
}

const COUNT: &str = "[[stage]]\nname = \"n\"\nfrom = \"in\"\n\
    op = { count = { by = 2, window = { tumbling_ms = 10, time = 1, time_format = \"unix_ms\" } } }\n";

#[tokio::test(start_paused = true)]
async fn a_stage_takes_results_and_late_lines_of_the_same_stage() {
    for tasks in [1, 2] {
        let world = World::start(2, |_| {}).await;
        world.write("/in", b"1,a\n100,a\n", 0);
        let both = format!(
            "[[stage]]\nname = \"both\"\nfrom = [\"n\", \"n.late\"]\nop = {{ filter = {{ contains = \"\" }} }}\n\
             tasks = {tasks}\n"
        );
        world.spec("j.toml", &(source("") + COUNT + &both), 0);
        let output = "/.jobs/j/output";
        assert_eq!(world.grown(output, 1).await, ["0,10,a,1"]);
        world.extend("/in", b"2,late\n3,late\n200,a\n");
        let want = ["0,10,a,1", "100,110,a,1", "2,late", "3,late"];
        assert_eq!(world.grown(output, 4).await, want);
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_join_or_a_window_is_not_late_behind_it() {
    let time = "time = 1, time_format = \"unix_ms\"";
    let sinks = "[[sink]]\nfrom = \"n\"\npath = \"/out/n\"\n[[sink]]\nfrom = \"n.late\"\npath = \"/out/late\"\n";
    let joined = format!(
        "[[stage]]\nname = \"o\"\nfrom = \"in\"\nop = {{ filter = {{ column = 2, equals = \"o\" }} }}\n\
         [[stage]]\nname = \"p\"\nfrom = \"in\"\nop = {{ filter = {{ column = 2, equals = \"p\" }} }}\n\
         [[stage]]\nname = \"w\"\nfrom = [\"o\", \"p\"]\nop = {{ join = {{ on = 3, within_ms = 3600, {time} }} }}\n"
    );
    let windows = |cut: &str| {
        format!(
            "[[stage]]\nname = \"w\"\nfrom = \"in\"\nop = {{ count = {{ by = 2, window = {{ {cut}, {time} }} }} }}\n"
        )
    };
    for (before, size, input, want) in [
        (
            joined,
            600,
            &["0,o,1\n900,o,2\n", "1800,p,1\n", "9000,o,3\n"][..],
            &["0,600,1,1"][..],
        ),
        (
            windows("sliding_ms = 60, step_ms = 10, allowed_lateness_ms = 20"),
            60,
            &["5,a\n", "65,a\n", "200,a\n", "1000,b\n"],
            &[
                "-60,0,a,5",
                "0,60,a,6",
                "60,120,a,1",
                "120,180,a,3",
                "180,240,a,3",
            ],
        ),
        (
            windows("session_ms = 10"),
            5,
            &["0,a\n", "8,a\n", "16,a\n", "24,a\n90,b\n", "200,b\n"],
            &["0,5,a,1", "90,95,b,1"],
        ),
    ] {
        let world = World::start(2, |_| {}).await;
        world.write("/in", b"", 0);
        let n = format!(
            "[[stage]]\nname = \"n\"\nfrom = \"w\"\n\
             op = {{ count = {{ by = 3, window = {{ tumbling_ms = {size}, {time} }} }} }}\n"
        );
        world.spec("j.toml", &(source("") + &before + &n + sinks), 0);
        for lines in input {
            let epoch = world.job("j").map_or(0, |job| job.epoch.0);
            world.extend("/in", lines.as_bytes());
            // A barrier passes in between, and so does the event watermark.
            world.until("j", 20, |job| job.epoch.0 > epoch).await;
        }
        let mut want = want.to_vec();
        want.sort();
        assert_eq!(world.grown("/out/n", want.len()).await, want);
        assert_eq!(world.lines("/out/late"), [""; 0]);
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn lines_that_wait_in_a_file_are_not_late_however_slowly_they_are_read() {
    let world = World::start(1, |options| options.chunk_bytes = 16).await;
    // Each read takes longer than a file may be silent.
    world.knobs.read_delay_ms.store(500, Relaxed);
    let rows = |step: i64| -> String { (0..20).map(|n| format!("{},a\n", n * step)).collect() };
    world.write("/in/slow", rows(20).as_bytes(), 0);
    world.write("/in/fast", rows(1000).as_bytes(), 0);
    let sinks = "[[sink]]\nfrom = \"n\"\npath = \"/out/n\"\n[[sink]]\nfrom = \"n.late\"\npath = \"/out/late\"\n";
    world.spec("j.toml", &(source("idle_ms = 300") + COUNT + sinks), 0);
    // Each line has a window of its own, but the first of both files; the last one stays open.
    let counts = world.grown("/out/n", 38).await;
    assert_eq!(counts.len(), 38);
    assert!(counts.contains(&"0,10,a,2".to_owned()));
    assert_eq!(world.lines("/out/late"), [""; 0]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_renamed_while_directories_are_listed_is_read_once() {
    let world = World::start(2, |_| {}).await;
    world.write("/logs/live/a.log", b"a1\na2\n", 0);
    world.write("/logs/old/b.log", b"b1\n", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/logs/*/*.log\"\nfollow = true\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\ntasks = 2\n";
    world.spec("j.toml", spec, 0);
    let output = "/.jobs/j/output";
    assert_eq!(world.grown(output, 3).await, ["a1", "a2", "b1"]);
    let (mut from, mut to) = ("/logs/live/a.log", "/logs/old/a.log");
    for _ in 0..10 {
        sleep(Duration::from_millis(730)).await;
        // Never so long that two lists miss it.
        world
            .rename_slowly(from, to, Duration::from_millis(200))
            .await;
        (from, to) = (to, from);
    }
    world.extend(from, b"a3\n");
    assert_eq!(world.grown(output, 4).await, ["a1", "a2", "a3", "b1"]);
    // One that is removed is forgotten, and what stands in its place is another.
    world.unlink(from);
    sleep(Duration::from_secs(1)).await;
    world.write(from, b"new\n", 0);
    let want = ["a1", "a2", "a3", "b1", "new"];
    assert_eq!(world.grown(output, 5).await, want);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_header_counts_when_its_line_has_its_end() {
    let world = World::start(1, |_| {}).await;
    world.write("/in/a.csv", b"k,v\n1,a\n", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in/*.csv\"\nformat = \"csv\"\nfollow = true\n\
        [[stage]]\nname = \"v\"\nfrom = \"in\"\nop = { select = { columns = [\"v\"] } }\n";
    // Both a file that is there when the job begins and one that comes later are written piece by piece.
    world.write("/in/b.csv", b"k,", 0);
    world.spec("j.toml", spec, 0);
    let output = "/.jobs/j/output";
    assert_eq!(world.grown(output, 1).await, ["a"]);
    world.write("/in/c.csv", b"k", 0);
    sleep(Duration::from_secs(1)).await;
    world.extend("/in/b.csv", b"v\n2,b\n");
    world.extend("/in/c.csv", b",v");
    sleep(Duration::from_secs(1)).await;
    world.extend("/in/c.csv", b"\n3,c\n");
    assert_eq!(world.grown(output, 3).await, ["a", "b", "c"]);
    // No file has one yet: the columns have no names.
    world.write("/other.csv", b"k,v", 0);
    world.spec("o.toml", &spec.replace("/in/*.csv", "/other.csv"), 0);
    let job = world.ended("o").await;
    assert_eq!(job.phase, JobPhase::Failed);
    assert!(job.message.contains("with a line end"), "{}", job.message);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_begins_at_the_end_begins_with_a_whole_line() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"old\nhalf a ", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\nstart = \"end\"\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";
    world.spec("j.toml", spec, 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    world.extend("/in", b"line\nnew\n");
    let output = "/.jobs/j/output";
    assert_eq!(world.grown(output, 2).await, ["half a line", "new"]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn the_end_that_a_job_begins_at_is_the_one_at_its_start() {
    let spec =
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\nstart = \"end\"\n"
            .to_owned()
            + ALL;
    // The first attempts end before their first commit, with the leader or with a task.
    for victim in [1, 2] {
        let world = World::start(3, |_| {}).await;
        world.write("/in", b"old\n", 0);
        world.let_commits_through(Some(0));
        world.spec("j.toml", &spec, 0);
        world.until("j", 20, |job| !job.positions.is_empty()).await;
        for line in ["a", "b"] {
            sleep(Duration::from_millis(300)).await;
            world.extend("/in", format!("{line}\n").as_bytes());
            world.kill(hydfs_types::MemberId(victim)).await;
            // So long it is down: the second time it may have had no part in the job.
            sleep(Duration::from_secs(3)).await;
            world.revive(hydfs_types::MemberId(victim));
        }
        world.let_commits_through(None);
        world.extend("/in", b"c\n");
        let lines = world.grown("/.jobs/j/output", 3).await;
        assert_eq!(lines, ["a", "b", "c"], "{}", world.log("j"));
        world.check();
    }
}

const ALL: &str =
    "[[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";

fn pattern(path: &str) -> String {
    format!("version = 1\n[[source]]\nname = \"in\"\npath = \"{path}\"\nfollow = true\n")
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_called_otherwise_for_a_while_is_read_once() {
    let world = World::start(2, |_| {}).await;
    world.write("/logs/a.log", b"a1\na2\n", 0);
    world.spec("j.toml", &(pattern("/logs/*.log") + ALL), 0);
    let output = "/.jobs/j/output";
    assert_eq!(world.grown(output, 2).await, ["a1", "a2"]);
    let mut want = vec!["a1".to_owned(), "a2".to_owned()];
    for round in 3..6 {
        world
            .rename_slowly("/logs/a.log", "/logs/a.log", Duration::from_secs(3))
            .await;
        // Nor does a restart meanwhile forget it.
        world.rename("/logs/a.log", "/logs/.a.tmp");
        sleep(Duration::from_secs(2)).await;
        world.kill(hydfs_types::MemberId(2)).await;
        sleep(Duration::from_secs(5)).await;
        world.revive(hydfs_types::MemberId(2));
        world.rename("/logs/.a.tmp", "/logs/a.log");
        world.extend("/logs/a.log", format!("a{round}\n").as_bytes());
        want.push(format!("a{round}"));
        assert_eq!(world.grown(output, want.len()).await, want);
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_behind_the_removal_of_an_output_is_in_the_next() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", b"a\n", 0);
    world.spec("j.toml", &(pattern("/in") + ALL), 0);
    let output = "/.jobs/j/output";
    for round in 0..5 {
        let lines = world.grown(output, 1).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        world.unlink(output);
        world.extend("/in", format!("b{round}\n").as_bytes());
    }
    assert_eq!(world.grown(output, 1).await, ["b4"]);
    let log = world.log("j");
    assert!(log.contains("was removed: it is made anew"), "{log}");
    world.check();
}

#[tokio::test(start_paused = true)]
async fn files_whose_names_are_no_text_are_not_passed_over_in_silence() {
    let world = World::start(1, |_| {}).await;
    // As whoever lists names shows bytes that are none.
    world.write("/in/caf\u{fffd}.csv", b"lost\n", 0);
    world.write("/in/a.csv", b"a\n", 0);
    for (job, path) in [("d", "/in"), ("p", "/in/*.csv")] {
        world.spec(&format!("{job}.toml"), &(pattern(path) + ALL), 0);
        let failed = world.ended(job).await;
        let why = "/in/caf\u{fffd}.csv has a name that is no UTF-8; rename it";
        assert!(failed.message.contains(why), "{}", failed.message);
    }
    world.spec("a.toml", &(pattern("/in/a*") + ALL), 0);
    assert_eq!(world.grown("/.jobs/a/output", 1).await, ["a"]);
    // One that comes later than a job that follows the rest.
    world.write("/in/a\u{fffd}.csv", b"lost\n", 0);
    let why = "/in/a\u{fffd}.csv has a name that is no UTF-8, and is not read: rename it\n";
    world.soon(why, || world.log("a") == why).await;
    world.extend("/in/a.csv", b"b\n");
    assert_eq!(world.grown("/.jobs/a/output", 2).await, ["a", "b"]);
    assert_eq!(world.log("a"), why);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_read_its_own_files() {
    let world = World::start(1, |_| {}).await;
    world.write("/.jobs/other/output", b"other\n", 0);
    world.write("/.jobs/j/output", b"own\n", 0);
    let sink = "[[sink]]\nfrom = \"all\"\npath = \"/out/all\"\n";
    world.spec("j.toml", &(pattern("/.jobs/*/*t") + ALL + sink), 0);
    assert_eq!(world.grown("/out/all", 1).await, ["other"]);
    world.extend("/.jobs/other/output", b"more\n");
    assert_eq!(world.grown("/out/all", 2).await, ["more", "other"]);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.sorted("/out/all"), ["more", "other"]);
    world.check();
}
