//! Sources that are part of a file: every line belongs to one part, whoever reads it and whoever dies meanwhile.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobPhase, MemberId};
use std::sync::Arc;
use world::World;

const ALL: &str =
    "[[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";

fn source(name: &str, more: &str) -> String {
    format!("[[source]]\nname = \"{name}\"\npath = \"/in\"\n{more}\n")
}

async fn audit(world: &Arc<World>, name: &str) -> rainstorm::Result<rainstorm::Audited> {
    world.rain(world.alive()[0]).unwrap().audit(name).await
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_file_together_are_its_lines() {
    let world = World::start(2, |options| options.chunk_bytes = 16).await;
    for round in 0..60 {
        let mut text = String::new();
        for line in 0..world.random(40) {
            text.push_str(&format!(
                "{line}{}\n",
                "x".repeat(world.random(30) as usize)
            ));
        }
        if world.random(2) == 0 {
            text.push_str("no end");
        }
        let csv = world.random(2) == 0;
        let header = if csv { "name\n" } else { "" };
        let file = format!("{header}{text}");
        world.write("/in", file.as_bytes(), 0);
        let end = file.len() as u64;
        let (a, b) = (world.random(end + 1), world.random(end + 1));
        let (a, b) = (a.min(b), a.max(b));
        let last = match world.random(2) {
            0 => format!("start = {{ at = {b} }}"),
            _ => format!("range = [{b}, {end}]"),
        };
        let parts = [
            format!("range = [0, {a}]"),
            format!("range = [{a}, {b}]"),
            last,
        ];
        let mut spec = "version = 1\n".to_owned();
        for (number, part) in parts.iter().enumerate() {
            let format = if csv { "format = \"csv\"\n" } else { "" };
            spec += &source(&format!("p{number}"), &format!("{format}{part}"));
        }
        spec += &ALL.replace("\"in\"", "[\"p0\", \"p1\", \"p2\"]");
        let job = format!("j{round}");
        world.spec(&format!("{job}.toml"), &spec, 0);
        world.done(&job).await;
        let mut want: Vec<&str> = text.lines().collect();
        want.sort();
        let why = format!("round {round}: {parts:?} of {file:?}");
        assert_eq!(world.sorted(&format!("/.jobs/{job}/output")), want, "{why}");
        let audited = audit(&world, &job).await.unwrap();
        assert_eq!(audited.lines_in, want.len() as u64, "{why}");
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_read_once_while_members_die() {
    let world = World::start(4, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let text = data::numbers(60_000);
    world.write("/in", &text, 0);
    let (from, to) = (text.len() / 5 + 1, text.len() - 777);
    let part = format!("range = [{from}, {to}]");
    let spec = format!("version = 1\n{}{ALL}tasks = 3\n", source("in", &part));
    world.spec("j.toml", &spec, 0);
    world.kill_until_ended(&["j"]).await;
    world.done("j").await;
    let mut want = Vec::new();
    let mut at = 0;
    for line in String::from_utf8(text).unwrap().lines() {
        if (from..to).contains(&at) {
            want.push(line.to_owned());
        }
        at += line.len() + 1;
    }
    want.sort();
    assert!(
        world.sorted("/.jobs/j/output") == want,
        "{}",
        world.log("j")
    );
    let audited = audit(&world, "j").await.unwrap();
    assert_eq!(audited.lines_in, want.len() as u64);
    // A receipt whose part is another one than it says.
    let receipt = "/.jobs/j/receipt";
    let good = String::from_utf8(world.read(receipt).unwrap()).unwrap();
    for (other, why) in [
        (format!("[[{},{to}]]", from - 100), "begins at"),
        (format!("[[{from},{}]]", to - 100), "does not end at"),
        (format!("[[{from},{}]]", to + 100), "does not end at"),
    ] {
        let bad = good.replacen(&format!("[[{from},{to}]]"), &other, 1);
        assert_ne!(bad, good);
        world.write(receipt, bad.as_bytes(), 0);
        let error = audit(&world, "j").await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_followed_file_is_read_from_a_byte_on() {
    for (at, want) in [
        (0, &["one", "two", "three", "half"][..]),
        (1, &["two", "three", "half"]),
        (4, &["two", "three", "half"]),
        (5, &["three", "half"]),
        (14, &["half"]),
    ] {
        let world = World::start(2, |options| options.chunk_bytes = 4).await;
        world.write("/in", b"one\ntwo\nthree\nha", 0);
        let part = format!("follow = true\nstart = {{ at = {at} }}");
        let spec = format!("version = 1\n{}{ALL}", source("in", &part));
        world.let_commits_through(Some(0));
        world.spec("j.toml", &spec, 0);
        world.until("j", 20, |job| !job.positions.is_empty()).await;
        world.extend("/in", b"lf\n");
        world.kill(MemberId(2)).await;
        world.revive(MemberId(2));
        world.let_commits_through(None);
        let mut want = want.to_vec();
        want.sort();
        let output = "/.jobs/j/output";
        assert_eq!(world.grown(output, want.len()).await, want, "{at}");
        world.extend("/in", b"zoo\n");
        want.push("zoo");
        assert_eq!(world.grown(output, want.len()).await, want, "{at}");
        let audited = audit(&world, "j").await.unwrap();
        assert_eq!(audited.lines_in, want.len() as u64);
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn parts_that_cannot_be_are_refused_where_they_stand() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"one\ntwo\nha", 0);
    world.write("/dir/a", b"one\n", 0);
    let follow = |part: &str| format!("{part}\nfollow = true");
    for (number, (path, part, why)) in [
        ("/in", "range = [5, 4]".into(), "6:9: `range = [5, 4]` ends before it begins; write the smaller byte first"),
        ("/in", "range = [5]".into(), "6:9: `range` does not say two bytes of the file; write the first byte"),
        ("/in", "range = [-1, 4]".into(), "6:9: `range` does not say two bytes"),
        ("/in", "range = 5".into(), "6:9: `range` does not say two bytes"),
        ("/in", "range = [0, 11]".into(), "6:9: /in has 10 bytes, and none at 11; write 10 at most"),
        ("/in", "start = { at = 11 }".into(), "6:9: /in has 10 bytes, and none at 11; write 10 at most"),
        ("/i*", "range = [0, 1]".into(), "6:9: bytes of the pattern `/i*`, which may name several files; name one file"),
        ("/i*", "start = { at = 1 }".into(), "6:9: bytes of the pattern"),
        ("/dir", "range = [0, 1]".into(), "6:9: bytes of the directory /dir; name one file"),
        ("/in", follow("range = [0, 1]"), "6:9: `range` of a source that is followed, which has no end; leave `follow` out, or write `start"),
        ("/in", "range = [0, 1]\nstart = { at = 0 }".into(), "7:9: `start` of a source that has a `range`; leave `start` out"),
        ("/in", "start = 5".into(), "6:9: `start` is neither \"beginning\", \"end\" nor a byte of the file; write a byte as in `start = { at"),
        ("/in", "start = { at = \"5\" }".into(), "6:16: `start` is neither"),
        ("/in", "start = { from = 5 }".into(), "6:11: unknown key `from` in `start`"),
        ("/in", follow("start = { at = 9 }"), "6:9: nothing in /in begins at byte 9 or behind it yet; name a byte of what is whole, or write `start = \"end\"`"),
        ("/later", follow("start = { at = 0 }"), "6:9: there is nothing in /later yet; leave `start` out"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = source("in", &part).replace("\"/in\"", &format!("\"{path}\""));
        // The key stands in line 6.
        let spec = format!("version = 1\n\n{source}{ALL}");
        let job = format!("j{number}");
        world.spec(&format!("{job}.toml"), &spec, 0);
        let ended = world.ended(&job).await;
        assert_eq!(ended.phase, JobPhase::Failed, "{spec}");
        let place = format!("/.jobs/{job}.toml:{why}");
        assert!(ended.message.contains(&place), "{spec}{}", ended.message);
    }
    // Nor is a job changed from one part to another.
    let spec = |part: &str| format!("version = 1\n{}{ALL}", source("in", part));
    world.spec("c.toml", &spec("follow = true\nstart = { at = 4 }"), 0);
    assert_eq!(world.grown("/.jobs/c/output", 1).await, ["two"]);
    world.spec("c.toml", &spec("follow = true\nstart = { at = 0 }"), 0);
    let why =
        "reads something else than before; give `path`, `format`, `prefix`, `follow` and the bytes";
    let changed = |job: &hydfs_types::JobInfo| job.message.contains(why);
    world.until("c", 20, changed).await;
    world.check();
}
