//! Lines that operators cannot read become dead letters, once, with where they came from; everything else goes through.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobPhase, MemberId};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

const DEAD: &str = "version = 1\n[job]\non_error = \"dead\"\nepoch_ms = 10\n";

async fn world() -> Arc<World> {
    World::start(3, |options| {
        options.chunk_bytes = 1 << 10;
        options.uncommitted_bytes_max = 4 << 10;
    })
    .await
}

fn letters(world: &World, job: &str, stage: &str) -> Vec<Value> {
    world
        .lines(&format!("/.jobs/{job}/dead/{stage}"))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The offset of each letter is where its line begins in the file that it names.
fn check_offsets(world: &World, letters: &[Value]) {
    for letter in letters {
        let file = world.read(letter["source"].as_str().unwrap()).unwrap();
        let offset = letter["offset"].as_u64().unwrap() as usize;
        let line = letter["line"].as_str().unwrap().as_bytes();
        assert_eq!(&file[offset..offset + line.len()], line, "{letter}");
        assert!(offset == 0 || file[offset - 1] == b'\n', "{letter}");
        assert_eq!(file[offset + line.len()], b'\n', "{letter}");
    }
}

/// `k,n` with every 97th number unreadable.
fn amounts(count: u64) -> (String, Vec<String>, u64) {
    let (mut text, mut bad, mut sum) = (String::from("key,amount,more\n"), Vec::new(), 0);
    for n in 0..count {
        let line = match n % 97 {
            50 => format!("k{},n/a {n},\"x, y\"", n % 5),
            _ => format!("k{},{n},z", n % 5),
        };
        match n % 97 {
            50 => bad.push(line.clone()),
            _ => sum += n,
        }
        text.push_str(&line);
        text.push('\n');
    }
    (text, bad, sum)
}

fn total(lines: &[String]) -> u64 {
    let number = |line: &String| line.split_once(',').unwrap().1.parse::<u64>().unwrap();
    lines.iter().map(number).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_cannot_be_read_are_put_aside_once_while_members_die() {
    for tasks in [1, 3] {
        let world = world().await;
        let (text, bad, sum) = amounts(4_000);
        world.write("/in", text.as_bytes(), 0);
        world.knobs.failed_appends.store(5, Relaxed);
        let spec = format!(
            "{DEAD}[[source]]\nname = \"in\"\npath = \"/in\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"sums\"\nfrom = \"in\"\ntasks = {tasks}\nop = {{ sum = {{ by = \"key\", of = \"amount\" }} }}\n"
        );
        world.spec("sums.toml", &spec, 0);
        world.kill_until_ended(&["sums"]).await;
        let job = world.done("sums").await;
        assert_eq!(total(&world.lines("/.jobs/sums/output")), sum);
        let letters = letters(&world, "sums", "sums");
        let mut lines: Vec<&str> = letters
            .iter()
            .map(|l| l["line"].as_str().unwrap())
            .collect();
        lines.sort_unstable();
        let mut want: Vec<&str> = bad.iter().map(String::as_str).collect();
        want.sort_unstable();
        assert_eq!(lines, want, "each once, and whole");
        assert!(
            letters[0]["why"]
                .as_str()
                .unwrap()
                .contains("is not a number")
        );
        match tasks {
            1 => check_offsets(&world, &letters),
            _ => assert!(
                letters
                    .iter()
                    .all(|l| l["source"] == "/in" && l["offset"].is_null())
            ),
        }
        assert!(rainstorm::status_text(&job).contains("degraded = "));
        let dead = format!("dead = {}\n", bad.len());
        assert!(world::progress_text(&job).contains(&dead));
        world.check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_and_objects_that_cannot_be_read_are_put_aside_in_every_operator_that_reads_them() {
    let world = world().await;
    let time = "time = \"at\", time_format = \"unix_ms\"";
    world.write("/a", b"at,id\n1,x\nnever,y\n3,z\n3,z\n", 0);
    world.write("/b", b"at,id\n2,x\n\"1,5\",z\n4,z\n", 0);
    world.write(
        "/json",
        b"{\"id\": \"p\"}\nnone\n\n[1]\n{\"id\": \"q\"}\n",
        0,
    );
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\npath = \"/{name}\"\nformat = \"csv\"\ntime = \"at\"\ntime_format = \"unix_ms\"\nout_of_order_ms = 10\n"
        )
    };
    let stage = |name: &str, from: &str, op: &str| {
        format!(
            "[[stage]]\nname = \"{name}\"\nfrom = {from}\nop = {{ {op} }}\n[[sink]]\nfrom = \"{name}\"\npath = \"/out/{name}\"\n"
        )
    };
    let spec = [
        DEAD.to_owned(),
        source("a"),
        source("b"),
        "[[source]]\nname = \"json\"\npath = \"/json\"\nformat = \"json\"\ncolumns = [\"id\"]\n"
            .to_owned(),
        stage(
            "windows",
            "\"a\"",
            &format!("count = {{ by = \"id\", window = {{ tumbling_ms = 10, {time} }} }}"),
        ),
        stage(
            "once",
            "\"a\"",
            &format!("dedup = {{ by = \"id\", within_ms = 5, {time} }}"),
        ),
        stage(
            "both",
            "[\"a\", \"b\"]",
            &format!("join = {{ on = \"id\", within_ms = 5, {time} }}"),
        ),
        stage("objects", "\"json\"", "filter = { contains = \"\" }"),
    ]
    .concat();
    world.spec("all.toml", &spec, 0);
    world.done("all").await;
    assert_eq!(world.sorted("/out/windows"), ["0,10,x,1", "0,10,z,2"]);
    assert_eq!(world.sorted("/out/once"), ["1,x", "3,z"]);
    assert_eq!(world.sorted("/out/both"), ["1,x,2,x", "3,z,4,z", "3,z,4,z"]);
    assert_eq!(world.sorted("/out/objects"), ["p", "q"]);
    let lines = |stage: &str| {
        let letters = letters(&world, "all", stage);
        let mut lines: Vec<String> = letters
            .iter()
            .map(|l| l["line"].as_str().unwrap().to_owned())
            .collect();
        lines.sort();
        (lines, letters)
    };
    for stage in ["windows", "once"] {
        let (found, letters) = lines(stage);
        assert_eq!(found, ["never,y"]);
        check_offsets(&world, &letters);
        let why = letters[0]["why"].as_str().unwrap();
        assert!(why.contains("is not a time"), "{why}");
    }
    let (found, letters) = lines("both");
    assert_eq!(found, ["\"1,5\",z", "never,y"]);
    assert_eq!(letters[0]["source"], "/a, /b");
    let (found, letters) = lines("objects");
    assert_eq!(found, ["[1]", "none"]);
    check_offsets(&world, &letters);
    let job = world.job("all").unwrap();
    assert_eq!(rainstorm::progress(&job).unwrap().dead, 6);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_files_and_lines_that_a_contract_cannot_carry_have_their_places_too() {
    let world = world().await;
    world.write("/logs/a", b"one\n\x1etwo\n", 0);
    world.write("/bin/cat", b"#!/bin/sh\nexec cat\n", 0);
    let spec = format!(
        "{DEAD}[[source]]\nname = \"in\"\npath = \"/logs/*\"\nfollow = true\n\
         [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ exec = {{ path = \"/bin/cat\" }} }}\ntasks = 2\n"
    );
    world.spec("follow.toml", &spec, 0);
    let dead = |count: u64| {
        let world = world.clone();
        async move {
            let enough = |job: &hydfs_types::JobInfo| {
                rainstorm::progress(job).is_some_and(|progress| progress.dead >= count)
            };
            world.until("follow", 30, enough).await;
        }
    };
    dead(1).await;
    world.kill(MemberId(1)).await;
    world.revive(MemberId(1));
    world.extend("/logs/a", b"three\n\x1efour\nfive\n");
    dead(2).await;
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while world.sorted("/.jobs/follow/output").len() < 3 {
        assert!(tokio::time::Instant::now() < limit);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        world.sorted("/.jobs/follow/output"),
        ["five", "one", "three"]
    );
    let letters = letters(&world, "follow", "op");
    assert_eq!(letters.len(), 2);
    check_offsets(&world, &letters);
    assert!(letters[0]["why"].as_str().unwrap().contains("0x1e"));
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_it_such_a_line_fails_the_job_and_so_does_what_is_no_lines_fault() {
    let world = world().await;
    world.write("/in", b"key,amount\nk,none\n", 0);
    world.write(
        "/huge",
        ("key,amount\n".to_owned() + &"k,9999999999999999999999999999\n".repeat(20)).as_bytes(),
        0,
    );
    let sum = |head: &str, path: &str| {
        format!(
            "{head}[[source]]\nname = \"in\"\npath = \"{path}\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"sums\"\nfrom = \"in\"\nop = {{ sum = {{ by = \"key\", of = \"amount\" }} }}\n"
        )
    };
    world.spec("plain.toml", &sum("version = 1\n", "/in"), 0);
    world.spec("huge.toml", &sum(DEAD, "/huge"), 0);
    for (name, words) in [("plain", "is not a number"), ("huge", "does not fit into")] {
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(job.message.contains(words), "{}", job.message);
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_without_the_letters_of_the_one_before() {
    let world = world().await;
    world.write("/in", b"1\nno number\n", 0);
    let spec = format!(
        "{DEAD}[[source]]\nname = \"in\"\npath = \"/in\"\n\
         [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = {{ sum = {{ by = 1, of = 1 }} }}\n"
    );
    for _ in 0..2 {
        world.spec("j.toml", &spec, 0);
        let before = world.job("j").map(|job| job.id);
        let is_next =
            |job: &hydfs_types::JobInfo| Some(job.id) != before && job.phase == JobPhase::Done;
        world.until("j", 20, is_next).await;
        assert_eq!(letters(&world, "j", "s").len(), 1);
    }
    world.check();
}
