//! The predecessor's faults that a job's author would notice, each shown absent.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{COUNT, FILTER, counted, exec_job, filtered, numbers, signs};
use hydfs_types::{Frame, JobPhase, MemberId, Service};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r3_done_means_that_everything_is_readable() {
    let world = World::start(3, |_| {}).await;
    let input = signs(5_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.spec("filter.toml", FILTER, 0);
    let running = world.until("filter", 10, |_| true).await;
    assert!(matches!(running.phase, JobPhase::Running | JobPhase::Done));
    world.done("filter").await;
    assert_eq!(
        world.lines("/.jobs/filter/output").len(),
        filtered(&input).len()
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r5_results_that_could_not_be_stored_are_never_counted() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 4 << 10;
    })
    .await;
    let input = signs(20_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.failed_appends.store(40, Relaxed);
    world.spec("filter.toml", FILTER, 0);
    world.spec("count.toml", COUNT, 0);
    world.done("filter").await;
    world.done("count").await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    assert_eq!(world.sorted("/.jobs/count/output"), counted(&input));
    assert!(world.counts.failed_appends.load(Relaxed) > 0);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r6_without_a_leader_work_stops_bounded_and_goes_on_later() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
        options.contact_timeout = Duration::from_millis(400);
    })
    .await;
    let input = signs(30_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.read_delay_ms.store(2, Relaxed);
    world.spec("filter.toml", FILTER, 0);
    world.until("filter", 10, |job| job.epoch.0 >= 2).await;
    let leader = world.leader.borrow().unwrap();
    world.leader.send_replace(None);
    // Whatever was under way comes to rest.
    sleep(Duration::from_millis(600)).await;
    let rest = (
        world.counts.read_bytes.load(Relaxed),
        world.counts.appended_bytes.load(Relaxed),
    );
    sleep(Duration::from_millis(1000)).await;
    let later = (
        world.counts.read_bytes.load(Relaxed),
        world.counts.appended_bytes.load(Relaxed),
    );
    assert_eq!(rest, later, "members go on without a coordinator");
    assert_eq!(world.job("filter").unwrap().phase, JobPhase::Running);
    world.leader.send_replace(Some(leader));
    world.done("filter").await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r7_eight_jobs_at_once_never_mix() {
    let world = World::start(4, |options| options.chunk_bytes = 8 << 10).await;
    let inputs: Vec<String> = (0..8).map(|job| signs(2_000 + 500 * job)).collect();
    for (job, input) in inputs.iter().enumerate() {
        world.write(&format!("/data/{job}.csv"), input.as_bytes(), 0);
        let sample = if job % 2 == 0 { FILTER } else { COUNT };
        world.spec(
            &format!("job{job}.toml"),
            &sample.replace("/data/signs.csv", &format!("/data/{job}.csv")),
            0,
        );
    }
    for (job, input) in inputs.iter().enumerate() {
        world.done(&format!("job{job}")).await;
        let path = format!("/.jobs/job{job}/output");
        match job % 2 {
            0 => data::check_order(&world, &path, input, 3),
            _ => assert_eq!(world.sorted(&path), counted(input), "job{job}"),
        }
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r8_the_result_is_one_json_document_and_nothing_partial() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let input = signs(10_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    let text = format!(
        "{COUNT}\n[[sink]]\nfrom = \"categories\"\npath = \"/out/counts.json\"\nformat = \"json\"\n"
    );
    world.spec("json.toml", &text, 0);
    world.until("json", 20, |job| job.epoch.0 >= 3).await;
    assert_eq!(
        world.read("/out/counts.json").unwrap_or_default(),
        b"",
        "a partial answer is visible"
    );
    world.done("json").await;
    let document: serde_json::Value =
        serde_json::from_slice(&world.read("/out/counts.json").unwrap()).unwrap();
    let rows = input
        .lines()
        .skip(1)
        .map(data::split)
        .filter(|row| row[3].contains("Telespar"));
    let keys: BTreeSet<String> = rows.map(|row| row[4].clone()).map(unquoted).collect();
    assert_eq!(
        document
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>(),
        keys
    );
    let total: u64 = document
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    let want: u64 = counted(&input)
        .iter()
        .map(|line| line.rsplit(',').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(total, want);
    world.check();
}

fn unquoted(field: String) -> String {
    let inner = field
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.map_or(field.clone(), |inner| inner.replace("\"\"", "\""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r9_a_broken_spec_says_where_and_what_to_do_and_starts_nothing() {
    let world = World::start(2, |options| options.allow_root_jobs = false).await;
    world.write("/data/signs.csv", signs(10).as_bytes(), 0);
    world.write("/in", b"x\n", 0);
    world.write("/bin/op", b"#!/bin/sh\n", 0);
    let with = |from: &str, to: &str| FILTER.replace(from, to);
    let cases = [
        (
            "key",
            with("tasks = 3\n\n", "tsks = 3\n\n"),
            ".toml:13:1: unknown key `tsks` in [[stage]]; did you mean `tasks`?",
        ),
        (
            "zero",
            with("tasks = 3\n\n", "tasks = 0\n\n"),
            ".toml:13:9: `tasks = 0` of [[stage]] is out of range; use 1 to 64",
        ),
        (
            "many",
            with("tasks = 3\n\n", "tasks = 85013\n\n"),
            "use 1 to 64",
        ),
        (
            "column",
            with("\"Sign_Post\"", "\"Sing_Post\""),
            ".toml:12:28: there is no column `Sing_Post`; did you mean `Sign_Post`?",
        ),
        (
            "from",
            with("from = \"posts\"", "from = \"post\""),
            ".toml:17:8: `from = \"post\"` names no source, and no stage above; did you mean `posts`?",
        ),
        (
            "file",
            with("signs.csv", "sings.csv"),
            ".toml:6:8: /data/sings.csv: no such file or directory; name a file",
        ),
        ("syntax", with("version = 1", "version = "), ".toml:2:"),
        ("version", with("version = 1", "version = 2"), "use 1 to 1"),
        ("op", with("{ filter", "{ filtre"), "did you mean `filter`?"),
        (
            "regex",
            with("equals = \"Punched Telespar\"", "regex = \"(\""),
            "not a valid regular expression",
        ),
        (
            "path",
            with("/data/signs.csv", "/data/../x"),
            "without `..`",
        ),
        (
            "own",
            format!("{FILTER}[[sink]]\nfrom = \"columns\"\npath = \"data/signs.csv\"\n"),
            "is a source or another sink",
        ),
        (
            "root",
            exec_job("path = \"/bin/op\"", 1),
            "may not run as root",
        ),
        (
            "noexec",
            exec_job("path = \"/bin/none\"", 1),
            "no such file",
        ),
        ("binary", "version = 1\n\u{0}".to_owned(), "not valid TOML"),
        (
            "empty",
            "version = 1\n".to_owned(),
            "the spec has no source",
        ),
    ];
    for (name, text, _) in &cases {
        world.spec(
            &format!("{name}.toml"),
            text,
            if *name == "noexec" { 7 } else { 0 },
        );
    }
    world.spec(
        "json.json",
        "{\"version\": 1,\n \"stage\": [{\"nam\": 1}]}",
        0,
    );
    world.spec(".hidden.toml", "x", 0);
    world.spec("backup.toml~", "x", 0);
    world.spec("4913", "x", 0);
    for (name, _, words) in &cases {
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed, "{name}");
        assert!(job.message.contains(words), "{name}: {}", job.message);
        assert!(
            job.message.starts_with(&format!("/.jobs/{name}.toml:")),
            "{}",
            job.message
        );
        assert!(
            !world
                .paths()
                .iter()
                .any(|path| path.starts_with(&format!("/.jobs/{name}/"))),
            "{:?}",
            world.paths()
        );
    }
    let job = world.ended("json").await;
    assert!(
        job.message
            .starts_with("/.jobs/json.json:2:13: unknown key `nam`"),
        "{}",
        job.message
    );
    assert_eq!(world.jobs_count(), cases.len() + 1);
    world.spec("key.toml", FILTER, 0);
    world
        .until("key", 10, |job| job.phase == JobPhase::Done)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r10_the_source_is_read_as_it_was_and_in_ranges() {
    let world = World::start(3, |options| options.chunk_bytes = 4 << 10).await;
    let input = signs(20_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.read_delay_ms.store(3, Relaxed);
    world.spec("filter.toml", FILTER, 0);
    world.until("filter", 10, |_| true).await;
    for row in 0..200 {
        world.extend(
            "/data/signs.csv",
            format!("{row},late,1,Punched Telespar,late,late\n").as_bytes(),
        );
    }
    world.done("filter").await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    let read = world.counts.read_bytes.load(Relaxed);
    // Each chunk once, with its overlap: no worker reads the whole file.
    assert!(
        read < 8 * input.len() as u64,
        "{read} bytes read of {}",
        input.len()
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r15_a_stage_passes_on_what_it_puts_out_and_no_more() {
    let world = World::start(3, |_| {}).await;
    let input = signs(20_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.spec("count.toml", COUNT, 0);
    world.done("count").await;
    let passed: usize = input
        .lines()
        .skip(1)
        .filter(|line| data::split(line)[3].contains("Telespar"))
        .map(|line| line.len() + 1)
        .sum();
    let wire = world.counts.wire_bytes.load(Relaxed);
    assert!(
        wire <= passed as u64,
        "{wire} bytes on the wire, {passed} in lines that pass the filter"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r16_a_new_attempt_repeats_only_what_was_not_committed() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 8 << 10;
        // Its executable writes down what it sees outside.
        options.kernel = Some(rainstorm::Kernel {
            landlock: 0,
            ..rainstorm::Kernel::detect()
        });
    })
    .await;
    world.write("/in", &numbers(40_000), 0);
    let dir = tempfile::tempdir().unwrap();
    let script = format!("#!/bin/sh\nexec tee -a {}/seen\n", dir.path().display());
    world.write("/bin/tee.sh", script.as_bytes(), 0);
    world.spec(
        "tee.toml",
        &exec_job("path = \"/bin/tee.sh\", contract = \"batch\"", 2),
        0,
    );
    for epoch in [3, 6, 9] {
        world.until("tee", 20, |job| job.epoch.0 >= epoch).await;
        let leader = world.leader.borrow().unwrap();
        world.kill(leader).await;
        world.revive(leader);
    }
    let job = world.done("tee").await;
    assert!(job.attempt.0 >= 4, "{job:?}");
    assert_eq!(world.lines("/.jobs/tee/output").len(), 40_000);
    let seen = std::fs::read_to_string(dir.path().join("seen"))
        .unwrap()
        .lines()
        .count();
    // Per restart and task: what was read since the last commit and what was under way.
    let most = 40_000 + (job.attempt.0 as usize - 1) * 2 * 3 * (8 << 10) / 4;
    assert!(
        (40_000..most).contains(&seen),
        "{seen} lines were worked on, at most {most} expected"
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r17_late_repeated_unknown_and_broken_messages_are_answered() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let input = signs(40_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.spec("count.toml", COUNT, 0);
    world.knobs.read_delay_ms.store(4, Relaxed);
    let (begin, mut kills, mut sent) = (Instant::now(), 0, 0_u64);
    while world
        .job("count")
        .is_none_or(|job| job.phase == JobPhase::Running)
    {
        let random = world.random(u64::MAX);
        let (to, frame) = match world.taped() {
            // A request once more, at its member or at another one, with its answer lost.
            Some((to, frame)) if random % 4 > 0 => (to, frame),
            Some((_, frame)) if random % 8 > 0 => (MemberId(1 + random % 3), frame),
            _ => {
                // Protocol version 1, a request of any kind, and bytes; of job 99 where they make sense.
                let mut head = vec![1, 0, (random >> 33) as u8 % 5, 99];
                head.extend((0..(random >> 40) % 12).map(|at| (random >> at) as u8));
                (
                    MemberId(1 + random % 3),
                    Frame {
                        service: Service::Streaming,
                        head: head.into(),
                        body: "x".into(),
                    },
                )
            }
        };
        if kills < 20 && begin.elapsed() > Duration::from_millis(60 * (kills + 1)) {
            kills += 1;
            world.kill(to).await;
            world.revive(to);
        }
        let Some(rain) = world.rain(to) else { continue };
        let answer =
            tokio::time::timeout(Duration::from_secs(5), rain.serve(MemberId(9), frame)).await;
        assert_eq!(answer.unwrap().service, Service::Streaming);
        sent += 1;
    }
    assert!(sent > 100, "{sent}");
    world.done("count").await;
    assert_eq!(world.sorted("/.jobs/count/output"), counted(&input));
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_job_stands_still_and_a_cancelled_one_ends() {
    use hydfs_types::JobCommand;
    let world = World::start(3, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let input = signs(20_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.read_delay_ms.store(2, Relaxed);
    world.spec("filter.toml", FILTER, 0);
    let job = world.until("filter", 10, |job| job.epoch.0 >= 2).await.id;
    let set = |phase| JobCommand::SetPhase {
        job,
        attempt: None,
        phase,
        message: String::new(),
    };
    world.command(set(JobPhase::Paused));
    let paused = world.job("filter").unwrap().epoch;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        assert_eq!(world.job("filter").unwrap().epoch, paused);
        sleep(Duration::from_millis(20)).await;
    }
    world.command(set(JobPhase::Running));
    world.until("filter", 20, |job| job.epoch > paused).await;
    world.command(set(JobPhase::Cancelled));
    assert_eq!(world.ended("filter").await.phase, JobPhase::Cancelled);
    world.spec("filter.toml", FILTER, 0);
    world
        .until("filter", 30, |job| job.phase == JobPhase::Done)
        .await;
    data::check_order(&world, "/.jobs/filter/output", &input, 3);
    world.check();
}
