//! State of executables: what they want remembered is committed with the job epoch, whatever dies, and moves with its keys.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobPhase, MemberId};
use rainstorm::Options;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

const PYTHON: &str = include_str!("../../scripts/operators/hydfs_lines.py");
const SHELL: &str = include_str!("../../scripts/operators/lines.sh");

/// Puts out the how manieth line of its key each line is. Now and then it dies with half of its answer written.
const COUNT: &[u8] = br#"#!/usr/bin/env python3
import csv, os, random, sys
counts = {}
for line in sys.stdin:
    if line.startswith("\x1f"):
        key, _, count = line[1:].rpartition("\t")
        counts[tuple(next(csv.reader([key])))] = int(count)
    elif line.startswith("\x1e"):
        if random.random() < 0.1:
            sys.stdout.flush()
            os._exit(3)
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        key = tuple(next(csv.reader([line]))[:2])
        counts[key] = counts.get(key, 0) + 1
        written = ",".join('"' + value.replace('"', '""') + '"' for value in key)
        sys.stdout.write(f"{written},{counts[key]}\n\x1f{written}\t{counts[key]}\n")
"#;

/// Lines that repeat the same few or many keys, some of which have to be quoted.
fn rows(from: u64, to: u64, keys: u64) -> String {
    let row = |n: u64| {
        let key = n * 7919 % keys;
        match key % 5 {
            0 => format!("\"k, {key}\",\"a\tb\",{n}\n"),
            1 => format!("k{key},\"say \"\"b\"\"\",{n}\n"),
            _ => format!("k{key},,{n}\n"),
        }
    };
    (from..to).map(row).collect()
}

/// What `COUNT` puts out for them.
fn counted(input: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut lines: Vec<String> = input
        .lines()
        .map(|line| {
            let fields = data::split(line);
            let quoted = |field: &String| match field.starts_with('"') {
                true => field.clone(),
                false => format!("\"{field}\""),
            };
            let key = format!("{},{}", quoted(&fields[0]), quoted(&fields[1]));
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            format!("{key},{count}")
        })
        .collect();
    lines.sort();
    lines
}

fn spec(exec: &str, tasks: u32, source: &str) -> String {
    format!(
        "version = 1\n[job]\nepoch_ms = 20\n[[source]]\nname = \"in\"\npath = \"/in\"\n{source}\
         [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ exec = {{ {exec}, state = true }} }}\n\
         partition = \"key\"\nkey = [1, 2]\ntasks = {tasks}\n"
    )
}

const EXEC: &str = "path = \"/bin/count\", max_attempts = 20";

async fn world(tune: impl FnOnce(&mut Options)) -> Arc<World> {
    let world = World::start(3, tune).await;
    world.write("/bin/count", COUNT, 0);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_an_executable_are_right_whatever_dies() {
    let world = world(|options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
        // Most of it is on disk.
        options.state_memory_bytes = 32 << 10;
    })
    .await;
    let input = rows(0, 20_000, 3_000);
    world.write("/in", input.as_bytes(), 0);
    world.spec("count.toml", &spec(EXEC, 3, ""), 0);
    world.kill_until_ended(&["count"]).await;
    let job = world.done("count").await;
    assert!(world.sorted("/.jobs/count/output") == counted(&input));
    let progress = rainstorm::progress(&job).unwrap();
    assert!(job.attempt.0 > 1, "{}", world.log("count"));
    assert!(progress.retries > 0);
    world.check();
}

/// Writes an order, and waits until it is obeyed.
async fn order(world: &World, job: &str, text: &str) {
    let path = format!("/.jobs/{job}/control");
    world.write(&path, text.as_bytes(), 0);
    world.soon(text, || world.read(&path).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_moves_with_its_keys_and_is_in_savepoints() {
    let world = world(|_| {}).await;
    world.write("/in", b"", 0);
    world.spec("count.toml", &spec(EXEC, 2, "follow = true\n"), 0);
    let output = "/.jobs/count/output";
    let mut all = String::new();
    for (round, tasks) in [3, 1, 4].into_iter().enumerate() {
        let from = round as u64 * 1000;
        let some = rows(from, from + 1000, 40);
        world.extend("/in", some.as_bytes());
        all += &some;
        let victim = MemberId(1 + round as u64);
        world.kill(victim).await;
        world.revive(victim);
        assert!(world.grown(output, all.lines().count()).await == counted(&all));
        order(&world, "count", &format!("tasks.op={tasks}\n")).await;
        let job = world.job("count").unwrap();
        assert_eq!(job.phase, JobPhase::Running, "{}", job.message);
    }
    order(&world, "count", "savepoint three\n").await;
    let start = "version = 1\n[job]\nstart = { savepoint = \"count/three\" }\n";
    let again = spec(EXEC, 3, "follow = true\n").replace("version = 1\n[job]\n", start);
    world.spec("again.toml", &again, 0);
    let running = |job: &hydfs_types::JobInfo| job.phase == JobPhase::Running;
    world.until("again", 20, running).await;
    let some = rows(3000, 3500, 50);
    world.extend("/in", some.as_bytes());
    let want = counted(&(all.clone() + &some));
    assert!(world.grown(output, 3500).await == want);
    let mut both = world.grown("/.jobs/again/output", 500).await;
    both.extend(counted(&all));
    both.sort();
    assert!(both == want);
    world.check();
}

/// A program that does `at_state` at its first marker line, and `at_line` at each line.
fn program(at_state: &str, at_line: &str) -> Vec<u8> {
    format!(
        "#!/usr/bin/env python3\nimport sys\nfor line in sys.stdin:\n    if line.startswith('\\x1estate'):\n        {at_state}\n    \
         if line.startswith('\\x1e'):\n        sys.stdout.write(line)\n        sys.stdout.flush()\n    \
         elif not line.startswith('\\x1f'):\n        {at_line}\n"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_does_wrong_with_its_state_is_said() {
    let world = world(|_| {}).await;
    let lines: String = (0..40).map(|n| format!("k{n},x\n")).collect();
    world.write("/in", lines.as_bytes(), 0);
    for (name, at_state, at_line, why) in [
        (
            "deaf",
            "continue",
            "pass",
            "no marker line behind its state after timeout_ms = 2000; it has to repeat the first line",
        ),
        (
            "ends",
            "sys.exit('lost')",
            "pass",
            "it ended before its work was done (exit status: 1); stderr: lost",
        ),
        (
            "early",
            "print('hello')",
            "pass",
            "it wrote something before the marker line behind its state",
        ),
        (
            "foreign",
            "pass",
            "print('\\x1fk1,x\\t1')",
            "the key `k1,x` of a state line belongs to another task",
        ),
        (
            "fields",
            "pass",
            "print('\\x1fk1\\t1')",
            "the key `k1` of a state line has 1 fields, and the `key` of the stage 2",
        ),
        (
            "tabless",
            "pass",
            "print('\\x1fk1,x')",
            "without a tab behind its key, `k1,x`",
        ),
    ] {
        world.write(&format!("/bin/{name}"), &program(at_state, at_line), 0);
        let exec = format!("path = \"/bin/{name}\", max_attempts = 1, timeout_ms = 2000");
        world.spec(&format!("{name}.toml"), &spec(&exec, 2, ""), 0);
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(job.message.contains(why), "{name}: {}", job.message);
        assert!(job.message.contains(&format!("/bin/{name}")));
    }
    world.check();
}

/// Keys and values with all that may stand in them, by the helpers that are copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helpers_are_told_what_they_had_remembered() {
    let world = world(|_| {}).await;
    let python = "last = State()\ndef work(line):\n    key = tuple(next(csv.reader([line]))[:2])\n    \
                  yield last.get(key, 'none')\n    last[key] = line\n    \
                  if line.endswith('forget'): del last[key]\nrun(work, last)\n";
    world.write("/bin/python", [PYTHON, python].concat().as_bytes(), 0);
    // Of one key, the only one that there is.
    let shell = "before=none\ntold() { before=\"$1=$2\"; }\n\
                 work() { printf '%s\\n' \"$before\"; before=$1; remember 'a, \"b\"' \"$1\"; }\nrun\n";
    world.write("/bin/shell", [SHELL, shell].concat().as_bytes(), 0);
    let lines = [
        "\"a, \"\"b\"\"\",\"c\td\",\tone",
        "\"a, \"\"b\"\"\",\"c\td\",two",
        "\"a, \"\"b\"\"\",\"c\td\",forget",
        "\"a, \"\"b\"\"\",\"c\td\",four",
    ];
    world.write("/in", b"", 0);
    let job = |path: &str| spec(&format!("path = \"/bin/{path}\""), 1, "follow = true\n");
    world.spec("python.toml", &job("python"), 0);
    world.spec("shell.toml", &job("shell").replace("[1, 2]", "1"), 0);
    for (number, line) in (0..).zip(lines) {
        world.extend("/in", format!("{line}\n").as_bytes());
        world.grown("/.jobs/python/output", number + 1).await;
        world.grown("/.jobs/shell/output", number + 1).await;
        // Another process goes on.
        for name in ["python", "shell"] {
            let text = format!("tasks.op={}\n", 2 - number % 2);
            order(&world, name, &text).await;
        }
    }
    let python = world.lines("/.jobs/python/output");
    assert_eq!(python, ["none", lines[0], lines[1], "none"]);
    let shell = world.lines("/.jobs/shell/output");
    let told = |line: &str| format!("a, \"b\"={line}");
    assert_eq!(shell[0], "none");
    assert_eq!(shell[1..], [told(lines[0]), told(lines[1]), told(lines[2])]);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_look_like_state_are_dead_letters() {
    let world = world(|_| {}).await;
    world.write("/in", b"a,b\n\x1fa,b\t7\na,b\n", 0);
    let spec = spec(EXEC, 1, "").replace("[job]\n", "[job]\non_error = \"dead\"\n");
    world.spec("dead.toml", &spec, 0);
    world.done("dead").await;
    assert_eq!(
        world.sorted("/.jobs/dead/output"),
        ["\"a\",\"b\",1", "\"a\",\"b\",2"]
    );
    let letters = world.lines("/.jobs/dead/dead/op");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].contains("which marks state"), "{}", letters[0]);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_needs_a_key_and_the_contract_of_lines() {
    let world = world(|_| {}).await;
    world.write("/in", b"a,b\n", 0);
    let good = spec(EXEC, 2, "");
    let keyless = good.replace("partition = \"key\"\nkey = [1, 2]\n", "");
    let ranges = good.replace(
        "partition = \"key\"\nkey = [1, 2]",
        "partition = \"range\"\nkey = 1\nbounds = [7]",
    );
    let needs_key = "`state` of a stage without `partition = \"key\"`; add `partition = \"key\"` and `key = \"column\"`";
    for (name, text, why) in [
        ("keyless", keyless, needs_key),
        ("ranges", ranges, needs_key),
        (
            "batch",
            good.replace("state", "contract = \"batch\", state"),
            "`state` of an executable whose contract is not `lines`; leave `contract` out",
        ),
        (
            "unknown",
            good.replace("[1, 2]", "\"user\"")
                .replace("tasks = 2", "tasks = 1"),
            "column `user` is named, but nothing names the columns here",
        ),
    ] {
        world.spec(&format!("{name}.toml"), &text, 0);
        let job = world.ended(name).await;
        let column = |what: &str| {
            let line = text.lines().find(|line| line.contains(what)).unwrap();
            line.find(what).unwrap() + 1
        };
        let place = match name {
            "unknown" => format!("/.jobs/unknown.toml:12:{}", column("\"user\"")),
            _ => format!("/.jobs/{name}.toml:10:{}", column("true")),
        };
        assert!(job.message.contains(why), "{}", job.message);
        assert!(job.message.contains(&place), "{place}: {}", job.message);
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_does_not_get_the_state_of_the_one_before() {
    let world = world(|_| {}).await;
    world.write("/in", b"a,b\n", 0);
    let follow = "follow = true\n";
    world.spec("count.toml", &spec(EXEC, 2, follow), 0);
    world.grown("/.jobs/count/output", 1).await;
    let refused = |job: &hydfs_types::JobInfo| job.message.contains("refused");
    let state =
        "the stage `op` has state, which is of `exec of /bin/count by 1, 2`; leave that as it was";
    for (other, text) in [
        ("args", spec(&format!("{EXEC}, args = [\"-x\"]"), 2, follow)),
        ("key", spec(EXEC, 2, follow).replace("[1, 2]", "1")),
        (
            "none",
            spec(EXEC, 2, follow).replace("state = true", "state = false"),
        ),
    ] {
        let before = world.job("count").unwrap().generation;
        world.spec("count.toml", &text, 0);
        let noted = |job: &hydfs_types::JobInfo| refused(job) && job.generation != before;
        let job = world.until("count", 20, noted).await;
        assert!(job.message.contains(state), "{other}: {}", job.message);
    }
    // Limits are no part of what the state says.
    let wider = spec(&format!("{EXEC}, timeout_ms = 60000"), 3, follow);
    world.spec("count.toml", &wider, 0);
    world.extend("/in", b"a,b\n");
    let lines = world.grown("/.jobs/count/output", 2).await;
    assert_eq!(lines, ["\"a\",\"b\",1", "\"a\",\"b\",2"]);
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while !world.log("count").contains("3 tasks instead of 2") {
        assert!(
            tokio::time::Instant::now() < limit,
            "{}",
            world.log("count")
        );
        sleep(Duration::from_millis(20)).await;
    }
    world.check();
}
