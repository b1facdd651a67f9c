//! Executables as operators: the predecessor's faults with them, each shown absent.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{exec_job, numbers};
use hydfs_types::{JobPhase, MemberId};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use world::World;

const ECHO: &str = r#"#!/bin/sh
while IFS= read -r line; do
  case "$line" in
    "$(printf '\036')"*) printf '%s\n' "$line" ;;
    *) printf '%s %s\n' "$$" "$line" ;;
  esac
done
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r4_a_failing_operator_is_retried_and_then_fails_the_job_with_its_stderr() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &numbers(100), 0);
    world.write(
        "/bin/bad.sh",
        b"#!/bin/sh\ncat >/dev/null\necho half\necho no such luck >&2\nexit 3\n",
        0,
    );
    world.write(
        "/bin/dies.sh",
        b"#!/bin/sh\nread line\necho gone >&2\nkill -9 $$\n",
        0,
    );
    world.write("/bin/slow.sh", b"#!/bin/sh\nexec sleep 60\n", 0);
    world.spec(
        "bad.toml",
        &exec_job("path = \"/bin/bad.sh\", contract = \"batch\"", 1),
        0,
    );
    world.spec("dies.toml", &exec_job("path = \"/bin/dies.sh\"", 2), 0);
    world.spec(
        "slow.toml",
        &exec_job("path = \"/bin/slow.sh\", timeout_ms = 50", 1),
        0,
    );
    for (name, words) in [
        (
            "bad",
            &["failed 4 times", "exit status: 3", "no such luck"][..],
        ),
        ("dies", &["failed 4 times", "signal: 9", "gone"]),
        ("slow", &["timeout_ms = 50"]),
    ] {
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        words
            .iter()
            .for_each(|word| assert!(job.message.contains(word), "{}", job.message));
        assert!(
            world.log(name).contains(&job.message),
            "{}",
            world.log(name)
        );
        assert!(rainstorm::status_text(&job).contains("status = failed\n"));
        assert_eq!(
            world
                .read(&format!("/.jobs/{name}/output"))
                .unwrap_or_default(),
            b"",
            "half results are never seen"
        );
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r4_an_operator_that_fails_once_loses_and_doubles_nothing() {
    let world = World::start(3, |options| options.chunk_bytes = 4 << 10).await;
    world.write("/in", &numbers(20_000), 0);
    // Writes half of its answer, then dies; from the second run of a task on it goes well.
    let script = b"#!/bin/sh\nif [ -e ran ]; then exec cat; fi\n: >ran\nhead -n 10\nexit 1\n";
    world.write("/bin/flaky.sh", script, 0);
    world.spec(
        "flaky.toml",
        &exec_job("path = \"/bin/flaky.sh\", contract = \"batch\"", 3),
        0,
    );
    let job = world.done("flaky").await;
    let mut got: Vec<u64> = world
        .lines("/.jobs/flaky/output")
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    got.sort_unstable();
    assert!(got == (1..=20_000).collect::<Vec<_>>());
    assert_eq!(rainstorm::progress(&job).unwrap().retries, 3);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r11_the_next_job_runs_the_new_code() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", b"x\n", 0);
    for (name, word) in [("one", "old"), ("two", "new")] {
        world.write(
            "/bin/op",
            format!("#!/bin/sh\ncat >/dev/null\necho {word}\n").as_bytes(),
            0,
        );
        world.spec(
            &format!("{name}.toml"),
            &exec_job("path = \"/bin/op\", contract = \"batch\"", 1),
            0,
        );
        world.done(name).await;
        assert_eq!(world.lines(&format!("/.jobs/{name}/output")), [word]);
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r12_a_record_of_16_mib_passes_an_operator_and_the_network() {
    let world = World::start(3, |_| {}).await;
    // The long line begins in the second chunk: its task is not on the member that writes.
    let mut input = b"short\n".repeat(11_000);
    input.resize(input.len() + (16 << 20), b'x');
    input.extend_from_slice(b"\nnul \0 byte\n");
    world.write("/in", &input, 0);
    world.write("/bin/cat", b"#!/bin/sh\nexec cat\n", 0);
    let text = exec_job("path = \"/bin/cat\", contract = \"lines\"", 2)
        + "[[stage]]\nname = \"one\"\nfrom = \"op\"\nop = { filter = { contains = \"\" } }\n";
    world.spec("big.toml", &text, 0);
    world.done("big").await;
    let output = world.read("/.jobs/big/output").unwrap();
    assert_eq!(output.len(), input.len());
    let mut lines: Vec<usize> = output
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::len)
        .collect();
    lines.sort_unstable();
    assert_eq!(
        (lines.len(), &lines[11_000..]),
        (11_003, &[5, 10, 16 << 20][..])
    );
    assert!(world.counts.wire_bytes.load(Relaxed) >= 16 << 20);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r12_an_argument_that_is_too_long_is_refused_with_a_remedy() {
    let world = World::start(1, |_| {}).await;
    world.write("/bin/op", b"#!/bin/sh\nprintf '%s\\n' \"$1\" | tr a b\n", 0);
    world.write("/in", &[vec![b'a'; 200_000], b"\n".to_vec()].concat(), 0);
    world.spec(
        "long.toml",
        &exec_job("path = \"/bin/op\", contract = \"argv\"", 1),
        0,
    );
    let job = world.ended("long").await;
    assert!(
        job.message.contains("use `contract = \"batch\"`"),
        "{}",
        job.message
    );
    world.write("/in", &b"aaa\nca\n".repeat(30_000), 0);
    world.spec(
        "short.toml",
        &exec_job("path = \"/bin/op\", contract = \"argv\"", 1),
        0,
    );
    world.done("short").await;
    assert!(world.read("/.jobs/short/output").unwrap() == b"bbb\ncb\n".repeat(30_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r13_one_process_works_for_all_batches_of_a_task() {
    let world = World::start(2, |options| options.chunk_bytes = 1 << 10).await;
    world.write("/in", &numbers(3_000), 0);
    world.write("/bin/echo.sh", ECHO.as_bytes(), 0);
    world.spec("echo.toml", &exec_job("path = \"/bin/echo.sh\"", 2), 0);
    world.done("echo").await;
    let lines = world.lines("/.jobs/echo/output");
    let processes: BTreeSet<&str> = lines
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!((lines.len(), processes.len()), (3_000, 2));
    world.check();
}

/// Fails on lines that hold `bad`, puts the others out in upper case.
const PICKY: &[u8] = b"#!/usr/bin/env python3
import sys
lines = sys.stdin.read().splitlines()
if any('bad' in line for line in lines):
    print('cannot digest it', file=sys.stderr)
    sys.exit(3)
print('\\n'.join(line.upper() for line in lines))
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r4_poison_goes_to_dead_letters_once_and_everything_else_through() {
    let world = World::start(3, |options| options.chunk_bytes = 1 << 10).await;
    world.write("/bin/picky", PICKY, 0);
    let line = |n: u64| match n % 97 {
        50 => format!("bad {n}"),
        _ => format!("good {n}"),
    };
    let input: Vec<String> = (0..400).map(line).collect();
    world.write("/in", (input.join("\n") + "\n").as_bytes(), 0);
    let exec = "path = \"/bin/picky\", contract = \"batch\", max_attempts = 1";
    let spec = exec_job(exec, 2);
    let dead = spec.replace("version = 1\n", "version = 1\n[job]\non_error = \"dead\"\n");
    world.spec("dead.toml", &dead, 0);
    world.spec("fails.toml", &spec, 0);
    world.until("dead", 20, |job| job.epoch.0 >= 1).await;
    world.kill(MemberId(2)).await;
    world.revive(MemberId(2));
    let job = world.done("dead").await;
    let (bad, good): (Vec<String>, Vec<String>) =
        input.into_iter().partition(|line| line.starts_with("bad"));
    let mut want: Vec<String> = good.iter().map(|line| line.to_uppercase()).collect();
    want.sort();
    assert_eq!(world.sorted("/.jobs/dead/output"), want);
    let letters: Vec<serde_json::Value> = world
        .lines("/.jobs/dead/dead/op")
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut lines: Vec<&str> = letters
        .iter()
        .map(|l| l["line"].as_str().unwrap())
        .collect();
    lines.sort_by_key(|line| line[4..].parse::<u64>().unwrap());
    assert_eq!(lines, bad);
    let why = letters[0]["why"].as_str().unwrap();
    assert!(
        why.contains("cannot digest it") && why.contains("exit status: 3"),
        "{why}"
    );
    assert!(rainstorm::status_text(&job).contains("degraded = "));
    assert!(world::progress_text(&job).contains("dead = 4\n"));
    let failed = world.ended("fails").await;
    assert_eq!(failed.phase, JobPhase::Failed);
    assert!(
        failed.message.contains("failed 1 times on one batch"),
        "{}",
        failed.message
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_put_together_where_processes_end_soon() {
    let world = World::start(1, |_| {}).await;
    let input = numbers(400_000);
    let chunks = input.len() / (256 << 10);
    world.write("/in", &input, 0);
    world.write("/bin/wc", b"#!/bin/sh\nexec wc -l\n", 0);
    let spec = exec_job("path = \"/bin/wc\", contract = \"batch\"", 1);
    let spec = spec.replacen("version = 1\n", "version = 1\n[job]\nepoch_ms = 60000\n", 1);
    world.spec("wc.toml", &spec, 0);
    world.done("wc").await;
    let counts = world.lines("/.jobs/wc/output");
    let lines: u64 = counts
        .iter()
        .map(|count| count.trim().parse::<u64>().unwrap())
        .sum();
    assert_eq!(lines, 400_000);
    assert!(
        counts.len() < chunks,
        "{} processes for {chunks} chunks",
        counts.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_the_members_are_operators_as_they_are() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &numbers(5_000), 0);
    // Some batches hold no line with both: `grep` then ends with status 1.
    let grep =
        "command = \"grep\", args = [\"-e\", \"4999\"], contract = \"batch\", exit_ok = [0, 1]";
    world.spec("grep.toml", &exec_job(grep, 3), 0);
    world.spec(
        "none.toml",
        &exec_job("command = \"no-such-program\"", 1),
        0,
    );
    let job = world.ended("grep").await;
    assert_eq!(job.phase, JobPhase::Done, "{}", job.message);
    let input = String::from_utf8(numbers(5_000)).unwrap();
    let want: Vec<&str> = input.lines().filter(|line| line.contains("4999")).collect();
    assert_eq!(world.sorted("/.jobs/grep/output"), want);
    let receipt = world.lines("/.jobs/grep/receipt").join("\n");
    let program = ["/usr/local/bin", "/usr/bin", "/bin"].map(|dir| format!("{dir}/grep"));
    let program = program.iter().find_map(|path| std::fs::read(path).ok());
    let digest = <sha2::Sha256 as sha2::Digest>::digest(program.unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(receipt.contains(&digest), "{receipt}");
    let job = world.ended("none").await;
    assert_eq!(job.phase, JobPhase::Failed);
    let want = "has no program no-such-program in /usr/local/bin, /usr/bin, /bin: install it there, or store";
    assert!(job.message.contains(want), "{}", job.message);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_an_operator_runs_as_the_owner_of_its_spec() {
    let world = World::start(1, |options| options.allow_root_jobs = false).await;
    world.write("/in", b"x\n", 0);
    let script = b"#!/bin/sh\ncat >/dev/null\nid -u; id -g; id -G; ulimit -n; ulimit -c\n";
    world.write("/bin/who", script, 0);
    world.spec(
        "who.toml",
        &exec_job("path = \"/bin/who\", contract = \"batch\"", 1),
        65_534,
    );
    let job = world.ended("who").await;
    match is_root() {
        true => {
            assert_eq!(job.phase, JobPhase::Done, "{}", job.message);
            assert_eq!(
                world.lines("/.jobs/who/output"),
                ["65534", "65534", "65534", "256", "0"]
            );
        }
        false => assert!(
            job.message.contains("cannot run programs as user 65534"),
            "{}",
            job.message
        ),
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_wait_for_a_slow_one_are_not_forgotten() {
    let world = World::start(3, |options| {
        options.contact_timeout = Duration::from_millis(700)
    })
    .await;
    world.write("/in", &numbers(3), 0);
    world.write("/bin/slow", b"#!/bin/sh\nsleep 2\nexec cat\n", 0);
    // Of three tasks one has all the lines.
    world.spec(
        "slow.toml",
        &exec_job("path = \"/bin/slow\", contract = \"batch\"", 3),
        0,
    );
    let job = world.done("slow").await;
    assert_eq!(
        (job.attempt.0, world.lines("/.jobs/slow/output").len()),
        (1, 3)
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_lacks_is_said() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"a\n", 0);
    world.write("/bin/dos", b"#!/bin/sh\r\ncat\r\n", 0);
    world.write("/bin/lost", b"#! /opt/none -x\n", 0);
    world.write("/bin/plain", b"#!/bin/sh\nexec tr a-z A-Z\n", 0);
    world.write("/bin/wrong", b"#!/bin/sh\nread line\necho mark\n", 0);
    for (name, why) in [
        (
            "dos",
            "lines end with CR LF, so its interpreter would be `/bin/sh\\r`",
        ),
        ("lost", "its interpreter `/opt/none` is not on this member"),
        (
            "plain",
            "no marker line behind the batch after timeout_ms = 400",
        ),
        ("wrong", "it ended without the marker line behind the batch"),
    ] {
        let exec = format!("path = \"/bin/{name}\", max_attempts = 1, timeout_ms = 400");
        world.spec(&format!("{name}.toml"), &exec_job(&exec, 1), 0);
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(job.message.contains(why), "{name}: {}", job.message);
        let of_marker = job.message.contains("needs `contract = \"batch\"`");
        assert_eq!(
            of_marker,
            ["plain", "wrong"].contains(&name),
            "{}",
            job.message
        );
    }
    world.check();
}
