//! Sources of length-prefixed frames: each record is worked on once, by whoever it falls to, and only when it is there wholly.
#![allow(clippy::unwrap_used)]

mod world;

use data_encoding::{BASE64, HEXLOWER};
use hydfs_types::{JobInfo, JobPhase, MemberId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

const ALL: &str =
    "[[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";

fn spec(more: &str) -> String {
    format!("version = 1\n\n{}{ALL}", source("in", more))
}

fn source(name: &str, more: &str) -> String {
    format!("[[source]]\nname = \"{name}\"\npath = \"/in\"\nformat = \"binary\"\n{more}\n")
}

fn frame(record: &[u8]) -> Vec<u8> {
    [&(record.len() as u32).to_be_bytes()[..], record].concat()
}

fn frames<'a>(records: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    records
        .into_iter()
        .flat_map(|record| frame(record))
        .collect()
}

fn sorted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    lines
}

fn base64<'a>(records: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<String> {
    sorted(records.into_iter().map(|record| BASE64.encode(record)))
}

/// Random bytes, of random lengths up to `most`.
fn record(world: &World, most: u64) -> Vec<u8> {
    (0..world.random(most))
        .map(|_| world.random(256) as u8)
        .collect()
}

async fn audit(world: &Arc<World>, name: &str) -> rainstorm::Result<rainstorm::Audited> {
    world.rain(world.alive()[0]).unwrap().audit(name).await
}

async fn audited(world: &Arc<World>, name: &str, records: usize, bytes: usize) {
    let audited = audit(world, name).await.unwrap();
    let read = (audited.lines_in, audited.bytes_in);
    assert_eq!(read, (records as u64, bytes as u64));
}

#[tokio::test(start_paused = true)]
async fn records_become_lines_as_the_spec_says() {
    let world = World::start(2, |options| options.chunk_bytes = 16).await;
    let text = ["one", "", "two, and more than a chunk has", "\u{fc}", "e\r"];
    let records = text.map(|text| text.as_bytes().to_vec());
    world.write("/in", &frames(&records), 0);
    let hex = records.iter().map(|record| HEXLOWER.encode(record));
    for (job, more, want) in [
        ("a", "", base64(&records)),
        (
            "b",
            "encoding = \"base64\"\nprefix = \"u32be\"",
            base64(&records),
        ),
        ("c", "encoding = \"hex\"", sorted(hex)),
        ("d", "encoding = \"text\"", sorted(text.map(str::to_owned))),
    ] {
        world.spec(&format!("{job}.toml"), &(spec(more) + "tasks = 3\n"), 0);
        let done = world.done(job).await;
        let output = world.read(&format!("/.jobs/{job}/output")).unwrap();
        let output = String::from_utf8(output).unwrap();
        let lines = output.split_terminator('\n').map(str::to_owned);
        assert_eq!(sorted(lines), want, "{more}");
        let progress = rainstorm::progress(&done).unwrap();
        assert_eq!((progress.bytes_in, progress.rows_in), (57, 5));
        audited(&world, job, 5, 57).await;
    }
    let little = b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!";
    world.write("/little", little, 0);
    let more = "prefix = \"u32le\"\nencoding = \"text\"\ncolumns = [\"word\"]";
    let little = spec(more).replace("\"/in\"", "\"/little\"");
    world.spec("little.toml", &little, 0);
    world.done("little").await;
    assert_eq!(world.lines("/.jobs/little/output"), ["hi", "", "!"]);
    // What was read is no more what it was.
    let mut other = frames(&records);
    other[5] ^= 1;
    world.write("/in", &other, 0);
    let error = audit(&world, "a").await.unwrap_err().to_string();
    assert!(error.contains("changed"), "{error}");
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_counts_once_while_members_die() {
    let world = World::start(4, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let mut records = Vec::new();
    let mut counts = BTreeMap::new();
    for number in 0..20_000_u64 {
        // Some are longer than several chunks.
        let most = if number % 500 == 0 { 30_000 } else { 40 };
        let key = world.random(13);
        let rest = "x".repeat(world.random(most) as usize);
        records.push(format!("k{key},{number},{rest}").into_bytes());
        *counts.entry(key).or_insert(0_u64) += 1;
    }
    let all = frames(&records);
    // Half of it is in a second file, which begins with a whole record.
    let at = frame_from(&all, all.len() / 2);
    world.write("/in/a", &all[..at], 0);
    world.write("/in/b", &all[at..], 0);
    world.knobs.failed_appends.store(5, Relaxed);
    let text = spec("encoding = \"text\"");
    let count = "[[stage]]\nname = \"n\"\nfrom = \"in\"\nop = { count = { by = 1 } }\ntasks = 2\n";
    let sinks = "[[sink]]\nfrom = \"all\"\npath = \"/out/all\"\n[[sink]]\nfrom = \"n\"\npath = \"/out/n\"\n";
    world.spec("j.toml", &format!("{text}tasks = 3\n{count}{sinks}"), 0);
    // One whose portions are smaller than its chunks.
    let paced = spec("rate = \"20000/s\"");
    world.spec("paced.toml", &format!("{paced}tasks = 2\n"), 0);
    world.kill_until_ended(&["j"]).await;
    world.knobs.failed_appends.store(0, Relaxed);
    world.done("j").await;
    let want = records
        .iter()
        .map(|record| String::from_utf8(record.clone()).unwrap());
    assert!(
        world.sorted("/out/all") == sorted(want),
        "{}",
        world.log("j")
    );
    let counts = counts.iter().map(|(key, count)| format!("k{key},{count}"));
    assert_eq!(world.sorted("/out/n"), sorted(counts));
    // Two stages read it.
    audited(&world, "j", 2 * records.len(), 2 * all.len()).await;
    world.done("paced").await;
    assert!(world.sorted("/.jobs/paced/output") == base64(&records));
    audited(&world, "paced", records.len(), all.len()).await;
    world.check();
}

/// The first place at `byte` or behind it where a frame begins.
fn frame_from(all: &[u8], byte: usize) -> usize {
    let mut at = 0;
    while at < byte {
        let length = all[at..at + 4].try_into().unwrap();
        at += 4 + u32::from_be_bytes(length) as usize;
    }
    at
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_file_together_are_its_records() {
    let world = World::start(2, |options| options.chunk_bytes = 16).await;
    for round in 0..60 {
        let records: Vec<Vec<u8>> = (0..world.random(40)).map(|_| record(&world, 40)).collect();
        let file = frames(&records);
        world.write("/in", &file, 0);
        let end = file.len() as u64;
        let (a, b) = (world.random(end + 1), world.random(end + 1));
        let (a, b) = (a.min(b), a.max(b));
        let parts = [
            format!("range = [0, {a}]"),
            format!("range = [{a}, {b}]"),
            format!("start = {{ at = {b} }}"),
        ];
        let mut spec = "version = 1\n".to_owned();
        for (number, part) in parts.iter().enumerate() {
            spec += &source(&format!("p{number}"), part);
        }
        spec += &ALL.replace("\"in\"", "[\"p0\", \"p1\", \"p2\"]");
        let job = format!("j{round}");
        world.spec(&format!("{job}.toml"), &spec, 0);
        world.done(&job).await;
        let why = format!("round {round}: {parts:?} of {file:?}");
        let lines = world.sorted(&format!("/.jobs/{job}/output"));
        assert_eq!(lines, base64(&records), "{why}");
        audited(&world, &job, records.len(), file.len()).await;
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_grows_is_followed_frame_by_frame() {
    for (tasks, more) in [(1, ""), (2, "rate = \"100/s\"\n")] {
        let world = World::start(3, |options| options.chunk_bytes = 16).await;
        let mut records: Vec<Vec<u8>> = (0..5).map(|_| record(&world, 40)).collect();
        let mut file = frames(&records);
        // Of the next one only a part is there, once not even its whole length.
        let next = record(&world, 30);
        file.extend(&frame(&next)[..2]);
        world.write("/in", &file, 0);
        let follow = format!(
            "{}tasks = {tasks}\n",
            spec(&format!("follow = true\n{more}"))
        );
        world.spec("j.toml", &follow, 0);
        let end = spec("follow = true\nstart = \"end\"");
        world.spec("end.toml", &end, 0);
        world.until("end", 20, |job| job.epoch.0 > 0).await;
        world.extend("/in", &frame(&next)[2..]);
        records.push(next);
        let output = "/.jobs/j/output";
        assert_eq!(world.grown(output, 6).await, base64(&records));
        for round in 0..20 {
            let record = record(&world, 100);
            let frame = frame(&record);
            let (one, other) = frame.split_at(world.random(frame.len() as u64) as usize);
            world.extend("/in", one);
            if round % 4 == 0 {
                let victim = MemberId(1 + world.random(3));
                world.kill(victim).await;
                world.revive(victim);
            }
            // Time for it to be looked at while it is a half.
            sleep(Duration::from_millis(world.random(100))).await;
            world.extend("/in", other);
            records.push(record);
            let lines = world.grown(output, records.len()).await;
            assert_eq!(lines, base64(&records), "{}", world.log("j"));
        }
        // Who began at the end has what was whole from then on.
        let late = world.grown("/.jobs/end/output", records.len() - 5).await;
        assert_eq!(late, base64(&records[5..]));
        let bytes = frames(&records).len();
        audited(&world, "j", records.len(), bytes).await;
        let late = frames(&records[5..]).len();
        audited(&world, "end", records.len() - 5, late).await;
        // A receipt that begins elsewhere than a frame does.
        let receipt = "/.jobs/end/receipt";
        let good = String::from_utf8(world.read(receipt).unwrap()).unwrap();
        let from = format!("\"from\":{},", bytes - late);
        let bad = good.replacen(&from, "\"from\":0,", 1);
        assert_ne!(good, bad);
        world.write(receipt, bad.as_bytes(), 0);
        let error = audit(&world, "end").await.unwrap_err().to_string();
        assert!(error.contains("which is not its beginning"), "{error}");
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_come_later_and_changes_of_the_spec() {
    let world = World::start(2, |_| {}).await;
    world.write("/in/a", &frame(b"one"), 0);
    let text = |encoding: &str| spec(&format!("follow = true\n{encoding}"));
    world.spec("j.toml", &text("encoding = \"text\""), 0);
    let output = "/.jobs/j/output";
    assert_eq!(world.grown(output, 1).await, ["one"]);
    world.write("/in/b", &frame(b"two"), 0);
    assert_eq!(world.grown(output, 2).await, ["one", "two"]);
    // Records are where they were, whatever lines are made of them.
    world.spec("j.toml", &text("encoding = \"hex\""), 0);
    let changed = |job: &JobInfo| job.positions.windows(3).any(|bytes| bytes == b"hex");
    world.until("j", 20, changed).await;
    world.extend("/in/a", &frame(b"\n"));
    assert_eq!(world.grown(output, 3).await, ["0a", "one", "two"]);
    for other in ["prefix = \"u32le\"", "columns = [\"a\"]"] {
        let other = match other.starts_with("prefix") {
            true => text(other),
            false => text(other).replace("binary", "lines"),
        };
        world.spec("j.toml", &other, 0);
        let why = "reads something else than before";
        let refused = |job: &JobInfo| job.message.contains(why);
        world.until("j", 20, refused).await;
        world.spec("j.toml", &text("encoding = \"hex\""), 0);
        let again = |job: &JobInfo| !job.message.contains(why);
        world.until("j", 20, again).await;
    }
    audited(&world, "j", 3, 7 + 7 + 5).await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_no_line_is_put_aside_or_fails_the_job() {
    let world = World::start(1, |_| {}).await;
    world.write(
        "/in",
        &frames([&b"a".to_vec(), &b"b\nc".to_vec(), &b"d".to_vec()]),
        0,
    );
    let fails = spec("encoding = \"text\"");
    let dead = fails.replace("version = 1\n", "version = 1\n[job]\non_error = \"dead\"\n");
    world.spec("fails.toml", &fails, 0);
    world.spec("dead.toml", &dead, 0);
    let failed = world.ended("fails").await;
    assert_eq!(failed.phase, JobPhase::Failed);
    let why = "/in at byte 5: the record holds a line end, and is no line as `encoding = \"text\"`; read it as \"base64\" or \"hex\"";
    assert!(failed.message.contains(why), "{}", failed.message);
    world.done("dead").await;
    assert_eq!(world.lines("/.jobs/dead/output"), ["a", "d"]);
    let letters = world.lines("/.jobs/dead/dead/all");
    let letter: serde_json::Value = serde_json::from_str(&letters[0]).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letter["line"], &letter["offset"]),
        (&"b\nc".into(), &5.into())
    );
    assert_eq!(
        (&letter["source"], &letter["why"]),
        (&"/in".into(), &why.into())
    );
    audited(&world, "dead", 3, 17).await;
    // A line of it would be longer than lines may be.
    world.write("/in", &frame(&vec![0; 13 << 20]), 0);
    world.spec("long.toml", &spec(""), 0);
    let failed = world.ended("long").await;
    let why =
        "/in at byte 0: the record of 13631488 bytes makes a line of 18175320, more than 16777216";
    assert!(failed.message.contains(why), "{}", failed.message);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_named_with_its_place() {
    let world = World::start(1, |_| {}).await;
    let whole = frame(b"one");
    let half = [&whole[..], &frame(b"two")[..5]].concat();
    let length = [&whole[..], b"\x01\0\0\x01more"].concat();
    let long = "the record of /in at byte 7 says that it has 16777217 bytes, more than 16777216; see whether the file is as `prefix` says";
    let ends = "/in ends at byte 12 within the record that begins at byte 7; follow the file if it is still written, or cut it there";
    for (number, (file, more, why)) in [
        (&half, "", ends),
        (
            &half[..9].to_vec(),
            "",
            "/in ends at byte 9 within the record that begins at byte 7",
        ),
        (&half, "range = [0, 12]", ends),
        (&length, "", long),
        (&length, "follow = true", long),
        (&length, "range = [0, 12]", long),
        (&length, "follow = true\nstart = \"end\"", long),
        (
            &whole,
            "prefix = \"u32le\"",
            "the record of /in at byte 0 says that it has 50331648 bytes",
        ),
        (
            &half,
            "follow = true\nstart = { at = 8 }",
            ":8:9: nothing in /in begins at byte 8 or behind it yet; name a byte of what is whole",
        ),
        (
            &whole,
            "range = [0, 8]",
            ":7:9: /in has 7 bytes, and none at 8; write 7 at most",
        ),
        (
            &whole,
            "encoding = \"base32\"",
            ":7:12: `encoding = \"base32\"` is unknown; did you mean `base64`?",
        ),
        (
            &whole,
            "prefix = \"u16be\"",
            ":7:10: `prefix = \"u16be\"` is unknown; did you mean `u32be`?",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        world.write("/in", file, 0);
        let job = format!("j{number}");
        world.spec(&format!("{job}.toml"), &spec(more), 0);
        let failed = world.ended(&job).await;
        assert_eq!(failed.phase, JobPhase::Failed, "{more}");
        assert!(failed.message.contains(why), "{more}: {}", failed.message);
    }
    let lines = spec("encoding = \"hex\"").replace("binary", "lines");
    world.spec("lines.toml", &lines, 0);
    let failed = world.ended("lines").await;
    let why = ":7:12: `encoding` of a source whose `format` is not \"binary\"; leave it out, or write `format = \"binary\"`";
    assert!(failed.message.contains(why), "{}", failed.message);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn nobody_begins_at_the_beginning_again_and_again() {
    let world = World::start(1, |options| options.uncommitted_bytes_max = 256 << 10).await;
    let records: Vec<Vec<u8>> = (0..40_000).map(|_| record(&world, 200)).collect();
    let file = frames(&records);
    world.write("/in", &file, 0);
    let read = &world.counts.read_bytes;
    for (job, tasks) in [("one", 1), ("three", 3)] {
        read.store(0, Relaxed);
        world.spec(
            &format!("{job}.toml"),
            &format!("{}tasks = {tasks}\n", spec("")),
            0,
        );
        world.done(job).await;
        // What crosses the ends of chunks is read twice, and each task goes through the lengths of all.
        let most = (file.len() * tasks) as u64 * 7 / 4;
        assert!(
            read.load(Relaxed) < most,
            "{} of {most}",
            read.load(Relaxed)
        );
        read.store(0, Relaxed);
        audited(&world, job, records.len(), file.len()).await;
        let most = most + 2 * world.read(&format!("/.jobs/{job}/output")).unwrap().len() as u64;
        assert!(
            read.load(Relaxed) < most,
            "{} of {most}",
            read.load(Relaxed)
        );
    }
    world.check();
}
