//! Sinks that are folders: a file for each value of a column, or for each task. In virtual time, so that a look at all
//! files is a look at one moment.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::numbers;
use hydfs_types::{JobInfo, JobPhase, MemberId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

fn spec(head: &str, stage: &str, sinks: &str) -> String {
    format!(
        "version = 1\n{head}[[source]]\nname = \"in\"\npath = \"/in\"\ncolumns = [\"day\", \"n\"]\n\
         [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"\" }} }}\n{stage}\n{sinks}"
    )
}

const BY_DAY: &str = "[[sink]]\nfrom = \"all\"\npath = \"/out/by-day/\"\nby = \"day\"\n";

/// `day,n` over so many days.
fn days(rows: u64, days: u64) -> String {
    let line = |n: u64| format!("2026-11-{:02},{n}\n", 1 + (n * 7) % days);
    (0..rows).map(line).collect()
}

/// The files below a folder, each with its lines, sorted.
fn files(world: &World, folder: &str) -> BTreeMap<String, Vec<String>> {
    let paths = world.paths().into_iter();
    paths
        .filter_map(|path| {
            let name = path.strip_prefix(folder)?.to_owned();
            Some((name, world.sorted(&path)))
        })
        .collect()
}

/// What the files should be: the lines by their first column.
fn by_day(input: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in input.lines() {
        let day = line.split_once(',').unwrap().0;
        all.entry(day.to_owned()).or_default().push(line.to_owned());
    }
    all.values_mut().for_each(|lines| lines.sort());
    all
}

async fn failed(world: &Arc<World>, name: &str) -> JobInfo {
    let job = world.ended(name).await;
    assert_eq!(job.phase, JobPhase::Failed, "{job:?}");
    job
}

#[tokio::test(start_paused = true)]
async fn lines_go_to_the_file_of_their_value_and_no_reader_sees_part_of_a_job_epoch() {
    for stage in ["tasks = 3", "tasks = 2\npartition = \"key\"\nkey = \"day\""] {
        let world = World::start(3, |options| {
            options.chunk_bytes = 1 << 10;
            options.uncommitted_bytes_max = 2 << 10;
        })
        .await;
        let input = days(6_000, 20);
        world.write("/in", input.as_bytes(), 0);
        world.knobs.failed_appends.store(3, Relaxed);
        world.knobs.read_delay_ms.store(2, Relaxed);
        let sinks = format!("{BY_DAY}[[sink]]\nfrom = \"all\"\npath = \"/out/all\"\n");
        world.spec("days.toml", &spec("", stage, &sinks), 0);
        let (mut looks, mut kills) = (0, 0);
        while world
            .job("days")
            .is_none_or(|job| job.phase == JobPhase::Running)
        {
            sleep(Duration::from_millis(7)).await;
            let whole = world.read("/out/all").unwrap_or_default();
            let in_all = whole.iter().filter(|&&byte| byte == b'\n').count();
            let in_files: usize = files(&world, "/out/by-day/").values().map(Vec::len).sum();
            assert_eq!(in_files, in_all);
            looks += usize::from(in_all > 0 && in_all < 6_000);
            if looks % 10 == 5 && kills < 3 {
                kills += 1;
                let victim = MemberId(1 + world.random(3));
                world.kill(victim).await;
                world.revive(victim);
            }
        }
        world.done("days").await;
        assert!(looks > 10 && kills == 3, "{looks} looks, {kills} kills");
        assert_eq!(files(&world, "/out/by-day/"), by_day(&input));
        let rain = world.rain(world.alive()[0]).unwrap();
        let audited = rain.audit("days").await.unwrap();
        assert_eq!((audited.lines_in, audited.lines_out), (6_000, 12_000));
        let day = "/out/by-day/2026-11-05";
        let mut other = world.read(day).unwrap();
        other[0] ^= 1;
        world.write(day, &other, 0);
        let error = rain.audit("days").await.unwrap_err().to_string();
        assert!(error.contains(day), "{error}");
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_without_a_column_has_a_file_for_each_task() {
    let world = World::start(2, |options| options.chunk_bytes = 256).await;
    world.write("/in", &numbers(1_000), 0);
    let sink = "[[sink]]\nfrom = \"all\"\npath = \"/out/parts/\"\n";
    world.spec("parts.toml", &spec("", "tasks = 3", sink), 0);
    world.done("parts").await;
    let files = files(&world, "/out/parts/");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["all-0", "all-1", "all-2"]);
    let mut got: Vec<u64> = files
        .values()
        .flatten()
        .map(|line| line.parse().unwrap())
        .collect();
    got.sort_unstable();
    assert!(got == (1..=1_000).collect::<Vec<_>>());
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("parts").await.unwrap().lines_out, 1_000);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_value_is_a_name_and_never_a_path() {
    let world = World::start(1, |_| {}).await;
    let long = "x".repeat(400);
    let input = format!("../../etc/passwd,1\n,2\n..,3\n\"a/b, c\",4\n{long},5\n{long}y,6\n/,7\n");
    world.write("/in", input.as_bytes(), 0);
    world.spec("names.toml", &spec("", "", BY_DAY), 0);
    world.done("names").await;
    let files = files(&world, "/out/by-day/");
    let mut names: Vec<&str> = files.keys().map(String::as_str).collect();
    let long: Vec<&str> = names
        .extract_if(.., |name| name.starts_with("xxx"))
        .collect();
    let want = ["%", "%2E.", "%2E.%2F..%2Fetc%2Fpasswd", "%2F", "a%2Fb, c"];
    assert_eq!(names, want);
    assert_eq!((long.len(), long[0].len()), (2, 200));
    assert!(world.paths().iter().all(|path| !path.contains("/etc/")));
    assert_eq!(files["%"], [",2"]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn more_values_than_a_job_epoch_can_have_fail_with_a_remedy_and_others_go_on_with_fresh_files()
 {
    let world = World::start(2, |options| options.chunk_bytes = 1 << 10).await;
    let input: String = (0..1_500).map(|n| format!("v{n},{n}\n")).collect();
    world.write("/in", input.as_bytes(), 0);
    world.spec(
        "slow.toml",
        &spec("[job]\nepoch_ms = 60000\n", "", BY_DAY),
        0,
    );
    let message = failed(&world, "slow").await.message;
    for words in [
        "/out/by-day/",
        "more than 512 files",
        "`by` a column with fewer values",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert!(files(&world, "/out/by-day/").values().all(Vec::is_empty));
    let paced = spec("[job]\nepoch_ms = 20\n", "", BY_DAY)
        .replace("/out/by-day/", "/out/by-value/")
        .replace("path = \"/in\"\n", "path = \"/in\"\nrate = \"2000/s\"\n");
    world.spec("paced.toml", &paced, 0);
    let job = world.done("paced").await;
    assert!((3..=5).contains(&job.attempt.0), "{job:?}");
    let log = world.log("paced");
    assert!(
        log.contains("has 512 files of the sink /out/by-value/ open"),
        "{log}"
    );
    assert_eq!(files(&world, "/out/by-value/"), by_day(&input));
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("paced").await.unwrap().lines_out, 1_500);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn folders_that_cannot_be_are_refused_where_they_stand() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"x,1\n", 0);
    let sink = |more: &str| format!("[[sink]]\nfrom = \"all\"\n{more}\n");
    for (name, sinks, words) in [
        (
            "plain",
            sink("path = \"/out/x\"\nby = \"day\""),
            "14:6: `by` of a sink that is no folder; end its `path` with `/`",
        ),
        (
            "json",
            sink("path = \"/out/x/\"\nformat = \"json\""),
            "14:10: `format = \"json\"` of a sink that is a folder",
        ),
        (
            "column",
            sink("path = \"/out/x/\"\nby = \"dya\""),
            "14:6: there is no column `dya`; did you mean `day`?",
        ),
        (
            "inside",
            sink("path = \"/out/x/\"") + &sink("path = \"/out/x/y\""),
            "holds, or is in, a source or another sink",
        ),
        (
            "outside",
            sink("path = \"/out/x/y\"") + &sink("path = \"/out/x/\""),
            "holds, or is in, a source or another sink",
        ),
    ] {
        world.spec(&format!("{name}.toml"), &spec("", "", &sinks), 0);
        let message = failed(&world, name).await.message;
        assert!(message.contains(words), "{name}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_by_range_sorts_lines_out_by_value() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 512;
        options.uncommitted_bytes_max = 2 << 10;
    })
    .await;
    let input: String = (0..2_000)
        .map(|n| format!("d,{}\n", n * 37 % 2_000))
        .collect();
    world.write("/in", input.as_bytes(), 0);
    let stage = "tasks = 3\npartition = \"range\"\nkey = \"n\"\nbounds = [500, 1500.5]";
    let sink = "[[sink]]\nfrom = \"all\"\npath = \"/out/ranges/\"\n";
    world.knobs.read_delay_ms.store(2, Relaxed);
    world.spec("range.toml", &spec("", stage, sink), 0);
    world.kill_until_ended(&["range"]).await;
    world.done("range").await;
    let got = files(&world, "/out/ranges/");
    let numbers = |name: &str| {
        let mut numbers: Vec<u64> = got[name].iter().map(|l| l[2..].parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert!(numbers("all-0") == (0..500).collect::<Vec<_>>());
    assert!(numbers("all-1") == (500..1_501).collect::<Vec<_>>());
    assert!(numbers("all-2") == (1_501..2_000).collect::<Vec<_>>());
    for (name, stage, words) in [
        (
            "tasks",
            stage.replace("tasks = 3", "tasks = 2"),
            "10:9: 2 bounds make 3 ranges for 2 tasks; write `tasks = 3`",
        ),
        (
            "order",
            stage.replace("500, 1500.5", "500, 500"),
            "13:10: `bounds` do not ascend",
        ),
        (
            "mixed",
            stage.replace("1500.5", "\"x\""),
            "`bounds` do not ascend",
        ),
        (
            "none",
            stage.replace("bounds = [500, 1500.5]", ""),
            "without `key` or `bounds`",
        ),
        (
            "other",
            stage.replace("range", "key"),
            "13:10: `bounds` without `partition = \"range\"`",
        ),
    ] {
        world.spec(&format!("{name}.toml"), &spec("", &stage, sink), 0);
        let message = failed(&world, name).await.message;
        assert!(message.contains(words), "{name}: {message}");
    }
    world.check();
}
