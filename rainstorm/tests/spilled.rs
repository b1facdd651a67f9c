//! State that is larger than the memory it may take: results are those of jobs with room for all of it, whatever dies, and a
//! disk without room fails the job with words that help.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobInfo, JobPhase};
use rainstorm::Options;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

const MEMORY: usize = 64 << 10;
const TASKS: u64 = 2;

fn ops() -> Vec<(&'static str, String)> {
    let at = "time = \"at\", time_format = \"unix_ms\"";
    let window = |op: &str, cut: &str| format!("{op}, window = {{ {cut}, {at} }} }}");
    vec![
        (
            "sums",
            window("sum = { by = \"user\", of = \"n\"", "tumbling_ms = 20000"),
        ),
        (
            "pages",
            window(
                "distinct = { by = \"user\", of = \"page\"",
                "sliding_ms = 4000, step_ms = 2000",
            ),
        ),
        (
            "visits",
            window("count = { by = [\"user\", \"page\"]", "session_ms = 3000"),
        ),
        (
            "best",
            window(
                "top = { by = \"user\", n = 20, of = \"n\"",
                "tumbling_ms = 30000",
            ),
        ),
        ("greatest", "max = { by = \"user\", of = \"n\" }".to_owned()),
        (
            "all",
            "distinct = { by = \"user\", of = \"page\" }".to_owned(),
        ),
        ("top", "top = { by = \"user\", n = 50 }".to_owned()),
        ("first", "dedup = {}".to_owned()),
        ("recent", format!("dedup = {{ within_ms = 9000, {at} }}")),
        (
            "pairs",
            format!("join = {{ on = \"user\", within_ms = 2000, {at} }}"),
        ),
        (
            "log",
            "count = { by = \"user\", changelog = true }".to_owned(),
        ),
    ]
}

fn spec(job: &str) -> String {
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\npath = \"/{name}.csv\"\nformat = \"csv\"\n\
             time = \"at\"\ntime_format = \"unix_ms\"\nout_of_order_ms = 100\n"
        )
    };
    let mut text = format!("version = 1\n{}{}", source("left"), source("right"));
    for (name, op) in ops() {
        let from = match name {
            "pairs" => "[\"left\", \"right\"]",
            _ => "\"left\"",
        };
        text += &format!(
            "[[stage]]\nname = \"{name}\"\nfrom = {from}\nop = {{ {op} }}\ntasks = {TASKS}\n\
             [[sink]]\nfrom = \"{name}\"\npath = \"/out/{job}/{name}\"\n"
        );
    }
    text
}

/// The same lines for the same seed.
async fn filled(seed: u64, tune: impl FnOnce(&mut Options)) -> Arc<World> {
    let world = World::start(3, |options| {
        options.chunk_bytes = 8 << 10;
        options.uncommitted_bytes_max = 16 << 10;
        tune(options);
    })
    .await;
    world.seed(seed);
    for (name, step) in [("left", 7), ("right", 11)] {
        let mut text = "at,user,page,n\n".to_owned();
        for row in 0..8_000 {
            let at = row * step + world.random(40);
            let (user, page) = (world.random(4_000), world.random(5));
            let line = format!("{at},user{user},/page{page},{}\n", world.random(900));
            // Which of several different lines comes first is not said: those that come again are the same.
            text += &line.repeat(if row % 7 == 0 { 2 } else { 1 });
        }
        world.write(&format!("/{name}.csv"), text.as_bytes(), 0);
    }
    world
}

/// What a stage has put out; of a changelog the last of each key.
fn put_out(world: &World, job: &str, stage: &str) -> Vec<String> {
    let path = format!("/out/{job}/{stage}");
    if stage != "log" {
        return world.sorted(&path);
    }
    let lines = world.lines(&path);
    let last: BTreeMap<&str, &str> = lines
        .iter()
        .filter_map(|line| line.split_once(','))
        .collect();
    last.iter()
        .map(|(key, count)| format!("{key},{count}"))
        .collect()
}

fn is_over(job: Option<JobInfo>) -> bool {
    job.is_some_and(|job| job.phase != JobPhase::Running)
}

#[tokio::test(start_paused = true)]
async fn with_too_little_memory_the_output_is_the_same_whatever_dies() {
    let vast = filled(5, |options| options.state_memory_bytes = usize::MAX).await;
    vast.spec("job.toml", &spec("job"), 0);
    vast.done("job").await;

    let tight = filled(5, |options| options.state_memory_bytes = MEMORY).await;
    tight.spec("calm.toml", &spec("calm"), 0);
    tight.done("calm").await;
    tight.knobs.read_delay_ms.store(5, Relaxed);
    tight.spec("hit.toml", &spec("hit"), 0);
    let look = async {
        let (mut memory, mut disk) = (0, 0);
        while !is_over(tight.job("hit")) {
            let progress = tight.job("hit").and_then(|job| rainstorm::progress(&job));
            let progress = progress.unwrap_or_default();
            memory = memory.max(progress.state_memory);
            disk = disk.max(progress.state_disk);
            sleep(Duration::from_millis(5)).await;
        }
        (memory, disk)
    };
    let ((), (memory, disk)) = tokio::join!(tight.kill_until_ended(&["hit"]), look);
    tight.done("hit").await;
    let tasks = TASKS * ops().len() as u64;
    assert!(memory <= tasks * MEMORY as u64, "{memory} bytes in memory");
    assert!(disk >= tasks * MEMORY as u64, "{disk} bytes on disk");
    for (stage, _) in ops() {
        let want = put_out(&vast, "job", stage);
        assert!(want.len() >= 40, "{stage}: {}", want.len());
        for job in ["calm", "hit"] {
            let got = put_out(&tight, job, stage);
            assert!(
                got == want,
                "{job} {stage}: {} of {}",
                got.len(),
                want.len()
            );
        }
    }
    for job in ["calm", "hit"] {
        let rain = tight.rain(tight.alive()[0]).unwrap();
        rain.audit(job).await.unwrap();
    }
    let left = std::fs::read_dir(tight.options.cache_dir.join("state")).unwrap();
    assert_eq!(left.count(), 0, "scratch files are left");
    tight.check();
}

/// What one task writes in an order comes in that order.
#[tokio::test(start_paused = true)]
async fn results_come_in_the_same_order() {
    let spec = |op: &str| {
        format!(
            "version = 1\n[[source]]\nname = \"left\"\npath = \"/left.csv\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"one\"\nfrom = \"left\"\nop = {{ {op} }}\n"
        )
    };
    let json = "[[sink]]\nfrom = \"one\"\npath = \"/out/json\"\nformat = \"json\"\n";
    let at = "time = \"at\", time_format = \"unix_ms\"";
    let specs = [
        spec("count = { by = \"user\" }"),
        spec("sum = { by = \"user\", of = \"n\" }") + json,
        spec(&format!(
            "avg = {{ by = \"user\", of = \"n\", window = {{ tumbling_ms = 20000, {at} }} }}"
        )),
        spec(&format!(
            "count = {{ by = \"user\", window = {{ session_ms = 9000, {at} }} }}"
        )),
    ];
    let mut outputs = Vec::new();
    for memory in [usize::MAX, MEMORY] {
        let world = filled(6, |options| options.state_memory_bytes = memory).await;
        let mut all = Vec::new();
        for (number, spec) in specs.iter().enumerate() {
            let name = format!("j{number}");
            world.spec(&format!("{name}.toml"), spec, 0);
            world.done(&name).await;
            let output = world.read(&format!("/.jobs/{name}/output"));
            all.push(output.or_else(|| world.read("/out/json")).unwrap());
        }
        world.check();
        outputs.push(all);
    }
    for (number, (want, got)) in outputs[0].iter().zip(&outputs[1]).enumerate() {
        assert!(want == got, "job {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_without_room_fails_the_job_and_says_what_to_do() {
    type Tune = fn(&mut Options);
    let cases: [(Tune, &str); 2] = [
        (
            |options| options.state_disk_bytes = 300_000,
            "300000 bytes of state",
        ),
        (
            |options| options.state_disk_reserve_bytes = u64::MAX,
            "no space for the state of a task",
        ),
    ];
    for (tune, why) in cases {
        let world = filled(7, |options| {
            options.state_memory_bytes = MEMORY;
            tune(options);
        })
        .await;
        world.spec("job.toml", &spec("job"), 0);
        let job = world.ended("job").await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(job.message.contains(why), "{}", job.message);
        let remedy = "then save the spec again to go on";
        assert!(job.message.contains(remedy), "{}", job.message);
        world.check();
    }
}

/// How fast, beside room for all: `HYDFS_ROWS=2000000 cargo test --release -p rainstorm --test spilled how_fast -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_fast_a_state_is_that_is_twenty_times_its_memory() {
    let rows: u64 = std::env::var("HYDFS_ROWS").map_or(50_000, |rows| rows.parse().unwrap());
    let mut mixed = 1_u64;
    let mut input = String::new();
    for row in 0..rows {
        mixed = mixed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // Every second line has a key that is new, the others one of a few.
        let key = if row % 2 == 0 {
            mixed >> 16
        } else {
            mixed >> 56
        };
        input += &format!("{key:015},{row}\n");
    }
    let world = World::start(1, |options| {
        // Of a key and its count some 150 bytes are in memory.
        options.state_memory_bytes = (rows as usize / 2 * 150 / 20).max(32 << 10);
    });
    let (tight, vast) = (world.await, World::start(1, |_| {}).await);
    let mut took = Vec::new();
    for op in ["dedup = { by = 1 }", "count = { by = 1 }"] {
        let mut outputs = Vec::new();
        for world in [&vast, &tight] {
            world.knobs.calm.store(true, Relaxed);
            world.write("/in", input.as_bytes(), 0);
            let name = op.split(' ').next().unwrap();
            let spec = format!(
                "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n\
                 [[stage]]\nname = \"one\"\nfrom = \"in\"\nop = {{ {op} }}\n"
            );
            let began = std::time::Instant::now();
            world.spec(&format!("{name}.toml"), &spec, 0);
            world.done(name).await;
            took.push(began.elapsed().as_secs_f64());
            outputs.push(world.lines(&format!("/.jobs/{name}/output")));
        }
        assert!(outputs[0] == outputs[1], "{op}");
        let [.., vast, tight] = took[..] else {
            unreachable!()
        };
        println!(
            "{op}: {:.2} M rows/s with room for all, {:.2} without: {:.2} of it",
            rows as f64 / vast / 1e6,
            rows as f64 / tight / 1e6,
            vast / tight
        );
    }
    for world in [vast, tight] {
        world.check();
    }
}
