//! What a change meets on its way: other attempts, orders at the same time, state that it would lose.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::{JobCommand, JobPhase};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

fn order(world: &World, job: &str, text: &str) {
    world.write(&format!("/.jobs/{job}/control"), text.as_bytes(), 0);
}

fn numbers(below: u64) -> String {
    (0..below).map(|n| format!("{n}\n")).collect()
}

fn some(filter: &str, tasks: u32, follow: bool) -> String {
    format!(
        "version = 1\n[job]\nepoch_ms = 5\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = {follow}\n\
         [[stage]]\nname = \"some\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"{filter}\" }} }}\ntasks = {tasks}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_driver_begins_an_attempt_doubles_nothing() {
    let mut changed = 0;
    for seed in 0..4 {
        let world = World::start(3, |options| {
            options.chunk_bytes = 256;
            options.uncommitted_bytes_max = 512;
            options.barren_attempts_max = 2000;
        })
        .await;
        world.seed(seed);
        world.write("/in", numbers(4000).as_bytes(), 0);
        world.knobs.read_delay_ms.store(2, Relaxed);
        world.knobs.failed_appends.store(150, Relaxed);
        world.knobs.restart_delay_ms.store(30, Relaxed);
        world.knobs.lost_changes.store(700, Relaxed);
        world.spec("j.toml", &some("", 2, false), 0);
        world.until("j", 20, |_| true).await;
        let mut round = 0;
        while world.job("j").unwrap().phase == JobPhase::Running {
            round += 1;
            order(&world, "j", &format!("tasks.some={}\n", 1 + round % 4));
            sleep(Duration::from_millis(50 + world.random(100))).await;
        }
        world.done("j").await;
        sleep(Duration::from_secs(5)).await;
        let mut want: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
        want.sort();
        let got = world.sorted("/.jobs/j/output");
        assert!(got == want, "seed {seed}: {} lines", got.len());
        changed += world.log("j").matches("changed behind").count();
        world.check();
    }
    assert!(changed >= 4, "{changed} changes");
}

#[tokio::test(start_paused = true)]
async fn a_stage_with_state_is_not_left_without_an_input_that_goes_on() {
    for tasks in [1, 2] {
        let world = World::start(3, |_| {}).await;
        world.write("/old", b"a\nb\na\n", 0);
        world.write("/new", b"b\n", 0);
        let spec = |new: &str, from: &str| {
            format!(
                "version = 1\n[[source]]\nname = \"old\"\npath = \"/old\"\n{new}\
                 [[stage]]\nname = \"n\"\nfrom = {from}\nop = {{ count = {{ by = 1 }} }}\ntasks = {tasks}\n"
            )
        };
        let follow = "[[source]]\nname = \"new\"\npath = \"/new\"\nfollow = true\n";
        let both = spec(follow, "[\"old\", \"new\"]");
        world.spec("j.toml", &both, 0);
        world.until("j", 20, |job| job.epoch.0 >= 1).await;
        sleep(Duration::from_secs(5)).await;
        world.spec("j.toml", &spec("", "\"old\""), 0);
        let job = world
            .until("j", 20, |job| job.message.contains("refused"))
            .await;
        let why = "the stage `n` has ended; its state would never be put out; leave it an input";
        assert!(job.message.contains(why), "{}", job.message);
        assert_eq!(job.phase, JobPhase::Running);
        // With an input that ends, what it holds is put out.
        world.spec(
            "j.toml",
            &both
                .replace("follow = true\n", "")
                .replace("\"new\"", "\"more\""),
            0,
        );
        world.done("j").await;
        assert_eq!(world.sorted("/.jobs/j/output"), ["a,2", "b,3"]);
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_under_way_does_not_revive_a_job_that_is_cancelled() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 0);
    world.spec("j.toml", &some("", 1, true), 0);
    let before = world.until("j", 20, |job| job.epoch.0 >= 1).await;
    world.knobs.lost_changes.store(1000, Relaxed);
    world.spec("j.toml", &some("7", 1, true), 0);
    let frozen = |job: &hydfs_types::JobInfo| job.message.contains("it is being changed");
    world.until("j", 20, frozen).await;
    world.command(JobCommand::SetPhase {
        job: before.id,
        attempt: None,
        phase: JobPhase::Cancelled,
        message: "cancelled by its control file".into(),
    });
    world.knobs.lost_changes.store(0, Relaxed);
    let noted = |job: &hydfs_types::JobInfo| job.generation != before.generation;
    let job = world.until("j", 20, noted).await;
    assert_eq!(job.phase, JobPhase::Cancelled);
    let words =
        "cancelled by its control file\nthe new spec was refused: the job was cancelled meanwhile";
    assert!(job.message.starts_with(words), "{}", job.message);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.job("j").unwrap().phase, JobPhase::Cancelled);
    world.spec("j.toml", &some("7", 1, true), 0);
    world
        .until("j", 20, |job| job.phase == JobPhase::Running)
        .await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_outlive_the_change_that_mends_it() {
    for seed in 0..8 {
        let world = World::start(3, |_| {}).await;
        world.seed(seed);
        world.write("/in", b"a,1\n", 0);
        let spec = |on_error: &str| {
            format!(
                "version = 1\n[job]\nepoch_ms = 5\non_error = \"{on_error}\"\n\
                 [[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
                 [[stage]]\nname = \"n\"\nfrom = \"in\"\nop = {{ sum = {{ by = 1, of = 2 }} }}\n"
            )
        };
        world.spec("j.toml", &spec("fail"), 0);
        world.until("j", 20, |job| job.epoch.0 >= 1).await;
        sleep(Duration::from_secs(1)).await;
        world.knobs.failure_delay_ms.store(100, Relaxed);
        world.extend("/in", b"a,x\n");
        sleep(Duration::from_millis(world.random(60))).await;
        world.spec("j.toml", &spec("dead"), 0);
        sleep(Duration::from_secs(3)).await;
        let job = world.job("j").unwrap();
        let log = world.log("j");
        assert_eq!(
            job.phase,
            JobPhase::Running,
            "seed {seed}: {}\n{log}",
            job.message
        );
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_keeps_the_columns_of_the_lines_that_it_holds() {
    let world = World::start(3, |_| {}).await;
    world.write("/left.csv", b"at,k,a,b\n1000,k1,A,B\n", 0);
    world.write("/right.csv", b"at,k,c\n1000,k0,C0\n", 0);
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\npath = \"/{name}.csv\"\nformat = \"csv\"\nfollow = true\n\
             time = \"at\"\ntime_format = \"unix_ms\"\n"
        )
    };
    let spec = |between: &str, from: &str| {
        format!(
            "version = 1\n{}{}{between}[[stage]]\nname = \"j\"\nfrom = [\"{from}\", \"right\"]\n\
             op = {{ join = {{ on = \"k\", within_ms = 3600000, time = \"at\", time_format = \"unix_ms\" }} }}\n\
             [[stage]]\nname = \"out\"\nfrom = \"j\"\nop = {{ select = {{ columns = [\"a\", \"c\"] }} }}\n",
            source("left"),
            source("right")
        )
    };
    let stage =
        |op: &str| format!("[[stage]]\nname = \"before\"\nfrom = \"left\"\nop = {{ {op} }}\n");
    world.spec("j.toml", &spec("", "left"), 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    sleep(Duration::from_secs(5)).await;
    let narrow = stage("select = { columns = [\"at\", \"k\", \"a\"] }");
    world.spec("j.toml", &spec(&narrow, "before"), 0);
    let job = world
        .until("j", 20, |job| job.message.contains("refused"))
        .await;
    let why = "the stage `j` has state, which is of `join of left (at, k, a, b) on k";
    assert!(job.message.contains(why), "{}", job.message);
    let same = stage("filter = { column = \"k\", contains = \"k\" }");
    world.spec("j.toml", &spec(&same, "before"), 0);
    world.until("j", 20, |job| job.message.is_empty()).await;
    world.extend("/right.csv", b"1002,k1,C2\n");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.lines("/.jobs/j/output"), ["A,C2"]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_order_and_a_saved_spec_at_once_are_both_obeyed() {
    for seed in 0..12 {
        let world = World::start(3, |_| {}).await;
        world.seed(seed);
        world.write("/in", numbers(10).as_bytes(), 0);
        world.spec("j.toml", &some("", 1, true), 0);
        world.until("j", 20, |job| job.epoch.0 >= 1).await;
        sleep(Duration::from_secs(2)).await;
        let before = world.job("j").unwrap().generation;
        world.spec("j.toml", &some("7", 1, true), 0);
        sleep(Duration::from_millis(seed)).await;
        order(&world, "j", "tasks.some=4");
        let leader = world.leader.borrow().unwrap();
        world.rain(leader).unwrap().spec_closed("/.jobs/j/control");
        sleep(Duration::from_secs(5)).await;
        assert!(world.read("/.jobs/j/control").is_none(), "seed {seed}");
        world.extend("/in", b"17\n18\n");
        sleep(Duration::from_secs(3)).await;
        let job = world.job("j").unwrap();
        assert!(job.generation > before, "seed {seed}");
        let tasks = rainstorm::progress(&job).unwrap().tasks;
        // Whichever came first: a new version takes back what was ordered before.
        let log = world.log("j");
        let changes: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("changed behind"))
            .collect();
        assert_eq!(changes.len(), 2, "seed {seed}: {log}");
        let want = if changes[1].contains("has 4 tasks") {
            4
        } else {
            1
        };
        assert_eq!(tasks, want, "seed {seed}: {log}");
        let mut want: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        want.push("17".into());
        want.sort();
        assert_eq!(world.sorted("/.jobs/j/output"), want, "seed {seed}");
        world.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_savepoint_of_another_shape_than_its_plan_is_refused() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 0);
    world.spec("j.toml", &some("", 3, true), 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    order(&world, "j", "savepoint one");
    sleep(Duration::from_secs(5)).await;
    let path = "/.jobs/j/savepoints/one/savepoint";
    let mut saved = world.read(path).unwrap();
    let text = b"tasks = 3";
    let at = saved.windows(text.len()).position(|bytes| bytes == text);
    saved[at.unwrap() + text.len() - 1] = b'2';
    let crc = crc32c::crc32c(&saved[8..]);
    saved[4..8].copy_from_slice(&crc.to_le_bytes());
    world.write(path, &saved, 0);
    let start = "[job]\nstart = { savepoint = \"j/one\" }\n";
    world.spec("k.toml", &some("", 2, true).replace("[job]\n", start), 0);
    let job = world.ended("k").await;
    let why = "/.jobs/j: the positions are not those of its plan";
    assert!(job.message.contains(why), "{}", job.message);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_obeyed_yet_holds_no_cancel_back() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 0);
    world.spec("j.toml", &some("", 1, true), 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    world.knobs.lost_changes.store(1000, Relaxed);
    order(&world, "j", "tasks.some=2\npause\ncancel\n");
    assert_eq!(world.ended("j").await.phase, JobPhase::Cancelled);
    sleep(Duration::from_secs(5)).await;
    assert!(world.read("/.jobs/j/control").is_none());
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_written_while_another_is_obeyed_is_obeyed_next() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 0);
    world.spec("j.toml", &some("", 1, true), 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    world.knobs.lost_changes.store(1000, Relaxed);
    order(&world, "j", "tasks.some=2\n");
    let frozen = |job: &hydfs_types::JobInfo| job.message.contains("it is being changed");
    world.until("j", 20, frozen).await;
    order(&world, "j", "cancel\n");
    world.knobs.lost_changes.store(0, Relaxed);
    assert_eq!(world.ended("j").await.phase, JobPhase::Cancelled);
    assert!(world.log("j").contains("has 2 tasks instead of 1"));
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_spec_of_another_owner_is_refused_while_the_files_are_the_one_befores() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 7);
    world.spec("j.toml", &some("", 1, true), 7);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    sleep(Duration::from_secs(2)).await;
    world.spec("j.toml", &some("7", 1, true), 8);
    let job = world
        .until("j", 20, |job| job.message.contains("refused"))
        .await;
    let why = "who may not write /.jobs/j/output, /.jobs/j/receipt; `chown -R 8:8` them";
    assert!(job.message.contains(why), "{}", job.message);
    assert_eq!((job.uid, job.phase), (7, JobPhase::Running));
    world.extend("/in", b"18\n");
    sleep(Duration::from_secs(2)).await;
    assert!(world.sorted("/.jobs/j/output").contains(&"18".to_owned()));
    // Root may.
    world.spec("j.toml", &some("7", 1, true), 0);
    world.until("j", 20, |job| job.uid == 0).await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_to_be_agreed_on_is_said() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", numbers(10).as_bytes(), 0);
    world.spec("j.toml", &some("", 1, true), 0);
    world.until("j", 20, |job| job.epoch.0 > 0).await;
    // A change that is too large is refused once, and disturbs nothing from then on.
    let now = world.job("j").unwrap();
    let most = now.positions.len() as u64 + 20;
    world.knobs.command_bytes_max.store(most, Relaxed);
    let longer = some(&"x".repeat(100), 1, true);
    world.spec("j.toml", &longer, 0);
    let why = "the new spec was refused: what the job would have to remember cannot be agreed on: a command of more than";
    world.until("j", 20, |job| job.message.contains(why)).await;
    world.extend("/in", b"10\n");
    assert_eq!(world.grown("/.jobs/j/output", 11).await.len(), 11);
    let attempt = world.job("j").unwrap().attempt;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.job("j").unwrap().attempt, attempt);
    // A job that cannot commit says why.
    world.knobs.command_bytes_max.store(10, Relaxed);
    world.spec("k.toml", &some("", 1, false), 0);
    let failed = world.ended("k").await;
    assert_eq!(failed.phase, JobPhase::Failed);
    assert!(
        failed.message.contains("a command of more than 10 bytes"),
        "{}",
        failed.message
    );
    assert_eq!(failed.attempt.0, 1);
    world.knobs.command_bytes_max.store(0, Relaxed);
    // Nor does one begin that names too many files.
    let long = "x".repeat(2000);
    for folder in 0..8 {
        for file in 0..100 {
            world.write(&format!("/many/{folder}/{file}-{long}"), b"x\n", 0);
        }
    }
    let sources = (0..8).map(|n| format!("[[source]]\nname = \"s{n}\"\npath = \"/many/{n}\"\n"));
    let sources: String = sources.collect();
    let names: Vec<String> = (0..8).map(|n| format!("\"s{n}\"")).collect();
    let spec = format!(
        "version = 1\n{sources}[[stage]]\nname = \"all\"\nfrom = [{}]\nop = {{ filter = {{ contains = \"\" }} }}\n",
        names.join(", ")
    );
    world.spec("l.toml", &spec, 0);
    let failed = world.ended("l").await;
    assert!(
        failed.message.contains("bytes with each job epoch"),
        "{}",
        failed.message
    );
    world.check();
}
