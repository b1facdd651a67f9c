//! Formats of sinks: CSV files begin with their header, once, however many tasks and attempts write them, and JSON lines hold what the
//! lines held.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{signs, split};
use hydfs_types::{JobInfo, JobPhase};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

const HEADER: &str = "OBJECTID,Category";

async fn world(members: u64) -> Arc<World> {
    World::start(members, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 12 << 10;
    })
    .await
}

/// Two stages over the signs that together put each of them out, with their number and category.
fn posts(head: &str, tasks: u32, sinks: &str) -> String {
    let filter = |name: &str, not: bool| {
        format!(
            "[[stage]]\nname = \"{name}-rows\"\nfrom = \"signs\"\ntasks = {tasks}\n\
             op = {{ filter = {{ column = \"Sign_Post\", contains = \"Telespar\", not = {not} }} }}\n\
             [[stage]]\nname = \"{name}\"\nfrom = \"{name}-rows\"\ntasks = {tasks}\n\
             partition = \"key\"\nkey = \"Category\"\n\
             op = {{ select = {{ columns = [\"OBJECTID\", \"Category\"] }} }}\n"
        )
    };
    format!(
        "version = 1\n{head}[[source]]\nname = \"signs\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n{}{}{sinks}",
        filter("some", false),
        filter("others", true)
    )
}

/// What these put out, sorted.
fn pairs(input: &str) -> Vec<String> {
    let rows = input.lines().skip(1).map(split);
    let mut pairs: Vec<String> = rows.map(|row| format!("{},{}", row[0], row[4])).collect();
    pairs.sort();
    pairs
}

/// The lines behind the header, sorted: there is one header.
fn behind_header(world: &World, path: &str, header: &str) -> Vec<String> {
    let mut lines = world.lines(path);
    assert_eq!(lines.first().map(String::as_str), Some(header), "{path}");
    lines.remove(0);
    assert!(!lines.iter().any(|line| line == header), "{path}");
    lines.sort();
    lines
}

async fn failed(world: &Arc<World>, name: &str) -> JobInfo {
    let job = world.ended(name).await;
    assert_eq!(job.phase, JobPhase::Failed, "{job:?}");
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_die_and_each_file_begins_with_its_header_once() {
    for seed in 1..=3 {
        let world = world(5).await;
        world.seed(seed);
        let input = signs(12_000);
        world.write("/data/signs.csv", input.as_bytes(), 0);
        world.knobs.lost_calls.store(20, Relaxed);
        world.knobs.lost_proposals.store(20, Relaxed);
        world.knobs.failed_appends.store(5, Relaxed);
        let sinks = "[[sink]]\nfrom = [\"some\", \"others\"]\npath = \"/out/all.csv\"\nformat = \"csv\"\n\
            [[sink]]\nfrom = [\"some\", \"others\"]\npath = \"/out/tasks/\"\nformat = \"csv\"\n\
            [[sink]]\nfrom = \"some\"\npath = \"/out/some/\"\nformat = \"csv\"\nby = \"Category\"\n\
            [[sink]]\nfrom = \"others\"\npath = \"/out/others/\"\nformat = \"csv\"\nby = \"Category\"\n\
            [[sink]]\nfrom = [\"some\", \"others\"]\npath = \"/out/all.jsonl\"\nformat = \"json-lines\"\nnumbers = \"OBJECTID\"\n";
        world.spec("posts.toml", &posts("", 3, sinks), 0);
        let looks = async {
            loop {
                let bytes = world.read("/out/all.csv").unwrap_or_default();
                assert!(bytes.is_empty() || bytes.starts_with(format!("{HEADER}\n").as_bytes()));
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = world.kill_until_ended(&["posts"]) => {}
            () = looks => {}
        }
        let job = world.done("posts").await;
        assert!(job.attempt.0 > 1, "{job:?}");
        let want = pairs(&input);
        assert!(
            behind_header(&world, "/out/all.csv", HEADER) == want,
            "seed {seed}"
        );
        let (mut by_task, mut by_value) = (Vec::new(), Vec::new());
        let (mut files, mut categories) = (0, BTreeMap::new());
        for path in world.paths() {
            if path.starts_with("/out/tasks/") {
                by_task.extend(behind_header(&world, &path, HEADER));
                files += 1;
            }
            if path.starts_with("/out/some/") || path.starts_with("/out/others/") {
                let lines = behind_header(&world, &path, HEADER);
                let category = split(&lines[0])[1].clone();
                assert!(
                    lines.iter().all(|line| split(line)[1] == category),
                    "{path}"
                );
                *categories.entry(category).or_insert(0) += 1;
                by_value.extend(lines);
            }
        }
        by_task.sort();
        by_value.sort();
        assert!(by_task == want && by_value == want, "seed {seed}");
        assert_eq!((files, categories.values().sum::<u32>()), (6, 12));
        let objects: Vec<Value> = world
            .lines("/out/all.jsonl")
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut got: Vec<(u64, String)> = objects
            .iter()
            .map(|object| {
                let category = object["Category"].as_str().unwrap().to_owned();
                (object["OBJECTID"].as_u64().unwrap(), category)
            })
            .collect();
        got.sort();
        let rows = input.lines().skip(1).map(split);
        let mut rows: Vec<(u64, String)> = rows
            .map(|row| {
                let raw = &row[4];
                let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
                let category = inner.unwrap_or(raw).replace("\"\"", "\"");
                (row[0].parse().unwrap(), category)
            })
            .collect();
        rows.sort();
        assert!(got == rows, "seed {seed}");
        let rain = world.rain(world.alive()[0]).unwrap();
        let audited = rain.audit("posts").await.unwrap();
        assert_eq!(audited.lines_out, 4 * 12_000 + 1 + 6 + 12);
        let rows_out = rainstorm::progress(&job).unwrap().rows_out;
        assert_eq!(rows_out, 4 * 12_000);
        world.check();
    }
}

fn one(head: &str, source: &str, sink: &str) -> String {
    format!(
        "version = 1\n{head}[[source]]\nname = \"in\"\npath = \"/in\"\n{source}\n\
         [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"\" }} }}\n\
         [[sink]]\nfrom = \"all\"\n{sink}\n"
    )
}

const CSV: &str = "format = \"csv\"";
const NAMED: &str = "columns = [\"a\", \"b, c\"]";

#[tokio::test(start_paused = true)]
async fn what_is_there_is_gone_on_with_and_what_was_removed_begins_anew() {
    let world = world(2).await;
    world.write("/in", b"1,x\n", 0);
    let sink = "path = \"/out\"\nformat = \"csv\"";
    // An empty file is begun; the next run of the job finds the header.
    world.write("/out", b"", 0);
    for run in 1..=2 {
        world.spec("j.toml", &one("", NAMED, sink), 0);
        let ran = |job: &JobInfo| job.id.0 == run && job.phase == JobPhase::Done;
        world.until("j", 20, ran).await;
    }
    assert_eq!(world.lines("/out"), ["a,\"b, c\"", "1,x", "1,x"]);
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("j").await.unwrap().lines_out, 1);
    // Another header, or none, is never followed by these lines.
    for (number, text) in ["a,b\n1,2\n", "1,x\n", "a"].iter().enumerate() {
        world.write("/out", text.as_bytes(), 0);
        let name = format!("other{number}");
        world.spec(&format!("{name}.toml"), &one("", NAMED, sink), 0);
        let message = failed(&world, &name).await.message;
        let why = "10:1: `/out` holds something that does not begin with the header `a,b, c`; write to another file";
        assert!(message.contains(why), "{message}");
        assert_eq!(world.read("/out").unwrap(), text.as_bytes());
    }
    // The default output is another one with each run.
    for (run, source) in [NAMED, "columns = [\"x\", \"y\"]"].iter().enumerate() {
        world.spec("default.toml", &one("", source, CSV), 0);
        let before = world.job("default").map(|job| job.id);
        let ran = |job: &JobInfo| Some(job.id) != before && job.phase == JobPhase::Done;
        world.until("default", 20, ran).await;
        let header = ["a,\"b, c\"", "x,y"][run];
        assert_eq!(world.lines("/.jobs/default/output"), [header, "1,x"]);
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_removed_while_its_job_runs_gets_its_header_again() {
    let world = world(2).await;
    world.write("/in", b"1,x\n", 0);
    let source = format!("{NAMED}\nfollow = true");
    let sinks = "path = \"/out/one\"\nformat = \"csv\"\n\
        [[sink]]\nfrom = \"all\"\npath = \"/out/by/\"\nformat = \"csv\"\nby = 2";
    world.spec("j.toml", &one("[job]\nepoch_ms = 5\n", &source, sinks), 0);
    let files = ["/out/one", "/out/by/x"];
    for path in files {
        assert_eq!(world.grown(path, 2).await, ["1,x", "a,\"b, c\""]);
    }
    files.iter().for_each(|path| world.unlink(path));
    world.extend("/in", b"2,x\n");
    for path in files {
        world.grown(path, 2).await;
        assert_eq!(world.lines(path), ["a,\"b, c\"", "2,x"]);
    }
    let rain = world.rain(world.alive()[0]).unwrap();
    let audited = rain.audit("j").await.unwrap();
    assert!(
        audited.anew.keys().eq(["/out/by/x", "/out/one"]),
        "{audited:?}"
    );
    assert_eq!(audited.lines_out, 4);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_closes_its_files_and_opens_them_again_writes_no_second_header() {
    let world = world(2).await;
    let line = |n: u64| format!("{n},v{}\n", n % 600);
    world.write(
        "/in",
        (0..1_800).map(line).collect::<String>().as_bytes(),
        0,
    );
    let source = format!("{NAMED}\nrate = \"2000/s\"");
    let sink = "path = \"/out/by/\"\nformat = \"csv\"\nby = 2";
    world.spec("j.toml", &one("[job]\nepoch_ms = 20\n", &source, sink), 0);
    let job = world.done("j").await;
    assert!(job.attempt.0 >= 3, "{job:?}");
    for value in 0..600 {
        let lines = behind_header(&world, &format!("/out/by/v{value}"), "a,\"b, c\"");
        let mut want: Vec<String> = (0..3)
            .map(|n| format!("{},v{value}", value + n * 600))
            .collect();
        want.sort();
        assert_eq!(lines, want);
    }
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("j").await.unwrap().lines_out, 2_400);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_result_of_no_line_is_a_header() {
    let world = world(2).await;
    world.write("/in", b"", 0);
    world.spec("j.toml", &one("", NAMED, CSV), 0);
    world.done("j").await;
    assert_eq!(world.lines("/.jobs/j/output"), ["a,\"b, c\""]);
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("j").await.unwrap().lines_out, 1);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_changed_job_goes_on_with_a_file_as_it_began() {
    let world = world(2).await;
    world.write("/in", b"1,x\n", 0);
    let spec = |columns: &str, sink: &str| {
        let source = format!("columns = {columns}\nfollow = true");
        one("[job]\nepoch_ms = 5\n", &source, sink)
    };
    let (two, other) = ("[\"a\", \"b\"]", "[\"a\", \"c\"]");
    let csv = "path = \"/out\"\nformat = \"csv\"";
    world.spec("j.toml", &spec(two, csv), 0);
    world.grown("/out", 2).await;
    for (columns, sink) in [
        (other, csv),
        (two, "path = \"/out\""),
        (two, "path = \"/out\"\nformat = \"json-lines\""),
    ] {
        world.spec("j.toml", &spec(columns, sink), 0);
        let refused = |job: &JobInfo| job.message.contains("refused");
        let message = world.until("j", 20, refused).await.message;
        let why = "j.toml:13:1: the sink `/out` would go on in another format, or with other columns in its header; \
            give it another `path`";
        assert!(message.contains(why), "{message}");
        // The same spec as ever is taken, and the header stays alone.
        let log = world.log("j").matches("changed behind").count();
        world.spec("j.toml", &(spec(two, csv) + "# again\n"), 0);
        let taken = || world.log("j").matches("changed behind").count() > log;
        world.soon("the change", taken).await;
    }
    world.extend("/in", b"2,y\n");
    world.grown("/out", 3).await;
    assert_eq!(world.lines("/out"), ["a,b", "1,x", "2,y"]);
    world.spec(
        "j.toml",
        &spec(other, "path = \"/other\"\nformat = \"csv\""),
        0,
    );
    world.grown("/other", 1).await;
    world.extend("/in", b"3,z\n");
    world.grown("/other", 2).await;
    assert_eq!(world.lines("/other"), ["a,c", "3,z"]);
    // Objects name their members themselves.
    let rows = "path = \"/rows\"\nformat = \"json-lines\"";
    world.spec("j.toml", &spec(two, rows), 0);
    world
        .soon("the file", || world.read("/rows").is_some())
        .await;
    world.extend("/in", b"4,z\n");
    world.grown("/rows", 1).await;
    world.spec(
        "j.toml",
        &spec(other, &format!("{rows}\nnumbers = \"a\"")),
        0,
    );
    let changed = || world.log("j").matches("changed behind").count() == 6;
    world.soon("the change", changed).await;
    world.extend("/in", b"5,z\n");
    world.grown("/rows", 2).await;
    let want = [r#"{"a":"4","b":"z"}"#, r#"{"a":5,"c":"z"}"#];
    assert_eq!(world.lines("/rows"), want);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn lines_that_json_cannot_hold_are_put_aside_or_fail_the_job() {
    let world = world(3).await;
    world.write("/in", b"1,x\n2,\xff\nnone,y\n4,z,more\n5\n", 0);
    let sinks = "path = \"/rows\"\nformat = \"json-lines\"\nnumbers = [\"a\"]\n\
        [[sink]]\nfrom = \"all\"\npath = \"/lines\"";
    let source = "columns = [\"a\", \"b\"]";
    world.spec(
        "dead.toml",
        &one("[job]\non_error = \"dead\"\n", source, sinks),
        0,
    );
    let job = world.done("dead").await;
    let want = [r#"{"a":1,"b":"x"}"#, r#"{"a":5,"b":""}"#];
    assert_eq!(world.lines("/rows"), want);
    // The other sink holds them, too.
    assert_eq!(world.read("/lines"), world.read("/in"));
    let letters: Vec<Value> = world
        .lines("/.jobs/dead/dead/all")
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let whys = [
        "`\\xff` in column `b` is no UTF-8, as JSON must be; filter such lines out",
        "`none` in column `a` is not a number",
        "a line has 3 fields, and 2 names",
    ];
    assert_eq!(letters.len(), whys.len());
    for (letter, why) in letters.iter().zip(whys) {
        assert!(letter["why"].as_str().unwrap().contains(why), "{letter}");
        // As the stage put it out: where that was read is not known.
        assert_eq!(
            (&letter["source"], &letter["offset"]),
            (&json!("/in"), &Value::Null)
        );
    }
    assert_eq!(letters[1]["line"], "none,y");
    let progress = rainstorm::progress(&job).unwrap();
    assert_eq!((progress.rows_out, progress.dead), (7, 3));
    let rain = world.rain(world.alive()[0]).unwrap();
    assert_eq!(rain.audit("dead").await.unwrap().lines_out, 7);
    world.spec("fail.toml", &one("", source, sinks), 0);
    let message = failed(&world, "fail").await.message;
    assert!(message.contains(whys[0]), "{message}");
    world.check();
}

#[tokio::test(start_paused = true)]
async fn formats_that_cannot_be_are_refused_where_they_stand() {
    let world = world(1).await;
    world.write("/in", b"1,x\n", 0);
    let by = "path = \"/out/\"\nformat = \"csv\"\nby = 1";
    let several =
        format!("{by}\n[[stage]]\nname = \"more\"\nfrom = \"in\"\nop = {{ dedup = {{}} }}")
            .replace("from = \"all\"", "from = [\"all\", \"more\"]");
    for (number, (spec, words)) in [
        (
            one("", "", CSV),
            "11:8: `format = \"csv\"` needs names of columns, and nothing names those of `all`; add `columns = […]`",
        ),
        (
            one("", "", "format = \"json-lines\""),
            "11:8: `format = \"json-lines\"` needs names of columns",
        ),
        (
            one("", NAMED, "format = \"jsonlines\""),
            "12:10: `format = \"jsonlines\"` is unknown; did you mean `json-lines`?",
        ),
        (
            one("", "columns = [\"a\", \"a\"]", "format = \"json-lines\""),
            "11:8: two columns of `all` have the name `a`",
        ),
        (
            one("", "columns = [\"a\\nb\"]", CSV),
            "11:8: the name \"a\\nb\" of a column holds a line end",
        ),
        (
            one("", NAMED, "numbers = \"a\""),
            "12:11: `numbers` of a sink whose `format` is not \"json-lines\"; leave it out",
        ),
        (
            one("", NAMED, "format = \"json-lines\"\nnumbers = \"d\""),
            "13:11: there is no column `d`",
        ),
        (
            one("", NAMED, by).replace("\"in\"\nop", "\"in\"\ntasks = 2\nop"),
            "15:6: several tasks may write a file of this CSV sink",
        ),
        (
            one("", NAMED, by).replace("\"in\"\nop", "\"in\"\ntasks = { max = 2 }\nop"),
            "several tasks may write a file of this CSV sink",
        ),
        (
            one("", NAMED, by)
                .replace("\"in\"\nop", "\"in\"\ntasks = 2\npartition = \"key\"\nkey = 2\nop"),
            "several tasks may write a file of this CSV sink",
        ),
        (
            one("", NAMED, &several).replace("[[sink]]\nfrom = \"all\"", "[[sink]]\nfrom = [\"all\", \"more\"]"),
            "several tasks may write a file of this CSV sink",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("j{number}");
        world.spec(&format!("{name}.toml"), &spec, 0);
        let message = failed(&world, &name).await.message;
        assert!(message.contains(words), "{spec}\n{message}");
    }
    // Stages whose columns differ have no header together.
    let other =
        "[[stage]]\nname = \"b\"\nfrom = \"in\"\nop = { select = { columns = [1] } }\n[[sink]]";
    let spec = one("", NAMED, CSV)
        .replace("[[sink]]", other)
        .replace("from = \"all\"\nformat", "from = [\"all\", \"b\"]\nformat");
    world.spec("two.toml", &spec, 0);
    let message = failed(&world, "two").await.message;
    assert!(
        message.contains("`b` has other columns than `all`, but a CSV file has one header"),
        "{message}"
    );
    // Where the key of the stage is the column, each file has one writer.
    for (name, op, by) in [
        ("filter", "filter = { contains = \"\" }", "b, c"),
        ("select", "select = { columns = [2] }", "b, c"),
        ("count", "count = { by = 2 }", "2"),
        ("top", "top = { by = \"a\" }", "count"),
    ] {
        let key = match name {
            "filter" | "select" => "partition = \"key\"\nkey = 2\n",
            _ => "",
        };
        let sink = format!("path = \"/good/{name}/\"\nformat = \"csv\"\nby = \"{by}\"");
        let spec = one("", NAMED, &sink)
            .replace("filter = { contains = \"\" }", op)
            .replace("\nop =", &format!("\ntasks = 3\n{key}op ="));
        world.spec(&format!("{name}.toml"), &spec, 0);
        world.done(name).await;
    }
    assert_eq!(world.lines("/good/select/x"), ["\"b, c\"", "x"]);
    assert_eq!(world.lines("/good/count/x"), ["2,count", "x,1"]);
    assert_eq!(world.lines("/good/top/1"), ["a,count", "1,1"]);
    world.check();
}
