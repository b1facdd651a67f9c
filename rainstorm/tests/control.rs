//! Jobs are paused, resumed, cancelled and changed by files, and checked before they start.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{COUNT, FILTER, counted, signs};
use hydfs_types::JobPhase;
use rainstorm::Owner;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

async fn slow_count() -> (std::sync::Arc<World>, String) {
    let world = World::start(3, |options| {
        options.chunk_bytes = 2 << 10;
        options.uncommitted_bytes_max = 8 << 10;
    })
    .await;
    let input = signs(20_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.read_delay_ms.store(1, Relaxed);
    world.spec("count.toml", COUNT, 0);
    world.until("count", 20, |job| job.epoch.0 >= 2).await;
    (world, input)
}

fn order(world: &World, text: &str) {
    world.write("/.jobs/count/control", text.as_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_job_stands_still_and_goes_on_where_it_was() {
    let (world, input) = slow_count().await;
    order(&world, "pause\n");
    let paused = world
        .until("count", 20, |job| job.phase == JobPhase::Paused)
        .await;
    assert!(rainstorm::status_text(&paused).contains("write `resume` there"));
    let json: serde_json::Value = serde_json::from_str(&world::status_json(&paused)).unwrap();
    assert_eq!(
        (&json["status"], &json["name"]),
        (&"paused".into(), &"count".into())
    );
    sleep(Duration::from_millis(300)).await;
    let later = world.job("count").unwrap();
    assert_eq!((later.epoch, later.phase), (paused.epoch, JobPhase::Paused));
    assert_eq!(
        world.read("/.jobs/count/control"),
        None,
        "the order is obeyed once"
    );
    order(&world, "resume\n");
    let job = world.done("count").await;
    assert!(job.epoch > paused.epoch && job.attempt > paused.attempt);
    assert_eq!(world.sorted("/.jobs/count/output"), counted(&input));
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_cancelled_by_its_control_file_or_with_its_spec_and_keeps_what_it_can_go_on_from()
{
    for by_removal in [false, true] {
        let (world, _) = slow_count().await;
        match by_removal {
            true => world.unlink("/.jobs/count.toml"),
            false => order(&world, "dance\ncancel\n"),
        }
        let job = world.ended("count").await;
        assert_eq!(job.phase, JobPhase::Cancelled, "{}", job.message);
        let why = if by_removal {
            "its spec was removed"
        } else {
            "control file"
        };
        assert!(job.message.contains(why), "{}", job.message);
        if !by_removal {
            assert!(
                world.log("count").contains("`dance` is no order"),
                "{}",
                world.log("count")
            );
        }
        let limit = Instant::now() + Duration::from_secs(20);
        // A file for each task that counts.
        while world
            .paths()
            .iter()
            .filter(|path| path.contains("/state/"))
            .count()
            > 2
        {
            assert!(Instant::now() < limit, "{:?}", world.paths());
            sleep(Duration::from_millis(20)).await;
        }
        world.check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_is_checked_without_starting_anything() {
    let world = World::start(1, |_| {}).await;
    world.write("/data/signs.csv", signs(10).as_bytes(), 0);
    let rain = world.rain(world.alive()[0]).unwrap();
    let check = async |text: &str| {
        let owner = Owner { uid: 7, gid: 7 };
        rain.check("my.toml", owner, text.to_owned()).await
    };
    assert_eq!(check(COUNT).await, Ok(()));
    let wrong = check(&COUNT.replace("by = \"Category\"", "by = \"Kategory\"")).await;
    let message = wrong.unwrap_err().to_string();
    assert!(
        message.starts_with("my.toml:18:23: there is no column `Kategory`"),
        "{message}"
    );
    assert_eq!(world.jobs_count(), 0);
}

/// A version of the sample `count`: other numbers of tasks, and perhaps a stage in between that changes nothing.
fn counts(posts: u32, categories: u32, between: bool) -> String {
    let (stage, from) = match between {
        true => (
            "[[stage]]\nname = \"trim\"\nfrom = \"posts\"\nop = { filter = { contains = \",\" } }\ntasks = 2\n",
            "trim",
        ),
        false => ("", "posts"),
    };
    format!(
        "version = 1\n[[source]]\nname = \"signs\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n\
         [[stage]]\nname = \"posts\"\nfrom = \"signs\"\ntasks = {posts}\n\
         op = {{ filter = {{ column = \"Sign_Post\", contains = \"Telespar\" }} }}\n{stage}\
         [[stage]]\nname = \"categories\"\nfrom = \"{from}\"\ntasks = {categories}\nop = {{ count = {{ by = \"Category\" }} }}\n"
    )
}

/// The same lines, one by one.
fn filters(posts: u32, columns: u32) -> String {
    FILTER
        .replacen("tasks = 3", &format!("tasks = {posts}"), 1)
        .replacen("tasks = 3", &format!("tasks = {columns}"), 1)
}

async fn order_of(world: &World, job: &str, text: &str) {
    let path = format!("/.jobs/{job}/control");
    world.write(&path, text.as_bytes(), 0);
    let limit = Instant::now() + Duration::from_secs(60);
    while world.read(&path).is_some() {
        assert!(
            Instant::now() < limit,
            "{text} is not obeyed: {}",
            world.log(job)
        );
        sleep(Duration::from_millis(20)).await;
    }
}

fn is_active(world: &World, name: &str) -> bool {
    let phase = world.job(name).map(|job| job.phase);
    matches!(phase, Some(JobPhase::Running | JobPhase::Paused))
}

#[tokio::test(start_paused = true)]
async fn rewritten_specs_and_orders_lose_and_double_nothing_whatever_dies() {
    let mut changed = 0;
    for seed in 0..6 {
        let world = World::start(3, |options| {
            options.chunk_bytes = 2 << 10;
            options.uncommitted_bytes_max = 4 << 10;
        })
        .await;
        world.seed(seed);
        let input = signs(8_000);
        world.write("/data/signs.csv", input.as_bytes(), 0);
        world.knobs.read_delay_ms.store(5, Relaxed);
        world.knobs.lost_calls.store(5, Relaxed);
        world.knobs.lost_proposals.store(20, Relaxed);
        world.spec("count.toml", &counts(3, 2, false), 0);
        world.spec("filter.toml", &filters(3, 3), 0);
        let others = async {
            let mut round = 0;
            while is_active(&world, "count") || is_active(&world, "filter") || round == 0 {
                round += 1;
                let (a, b) = (1 + world.random(4) as u32, 1 + world.random(4) as u32);
                match world.random(3) {
                    0 => world.spec("count.toml", &counts(a, b, round % 2 == 0), 0),
                    1 => world.spec("filter.toml", &filters(a, b), 0),
                    _ => order(
                        &world,
                        &format!("tasks.categories={a}\ntasks.posts = {b}\n"),
                    ),
                }
                sleep(Duration::from_millis(50 + world.random(400))).await;
            }
        };
        tokio::join!(world.kill_until_ended(&["count", "filter"]), others);
        // A spec that was rewritten behind the end is a new job.
        for name in ["count", "filter"] {
            world.done(name).await;
            changed += world.log(name).matches("changed behind job epoch").count();
        }
        sleep(Duration::from_secs(20)).await;
        assert_eq!(
            world.sorted("/.jobs/count/output"),
            counted(&input),
            "{seed}"
        );
        let mut want = data::filtered(&input);
        want.sort();
        assert!(world.sorted("/.jobs/filter/output") == want, "{seed}");
        let rain = world.rain(world.alive()[0]).unwrap();
        for name in ["count", "filter"] {
            assert_eq!(rain.audit(name).await.unwrap().lines_in, 8_000, "{seed}");
            assert!(!world.log(name).contains("refused"), "{}", world.log(name));
        }
        world.check();
    }
    assert!(changed >= 12, "{changed} changes");
}

fn once(filter: &str, stage: &str, tasks: u32) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
         [[stage]]\nname = \"some\"\nfrom = \"in\"\nop = {{ filter = {{ {filter} }} }}\n\
         [[stage]]\nname = \"{stage}\"\nfrom = \"some\"\nop = {{ dedup = {{}} }}\ntasks = {tasks}\n"
    )
}

const ALL: &str = "contains = \"\"";

/// Waits until the output is these numbers, each once.
async fn put_out(world: &World, job: &str, want: impl IntoIterator<Item = u64>) {
    let mut want: Vec<String> = want.into_iter().map(|n| n.to_string()).collect();
    want.sort();
    let path = format!("/.jobs/{job}/output");
    let limit = Instant::now() + Duration::from_secs(60);
    while world.read(&path).is_none() || world.sorted(&path) != want {
        let log = world.log(job);
        assert!(Instant::now() < limit, "{:?}\n{log}", world.sorted(&path));
        sleep(Duration::from_millis(50)).await;
    }
}

/// Rewrites a spec and waits until it was seen.
async fn rewrite(world: &World, job: &str, text: &str) -> hydfs_types::JobInfo {
    let before = world.job(job).unwrap().generation;
    world.spec(&format!("{job}.toml"), text, 0);
    world.until(job, 60, |job| job.generation != before).await
}

fn lines(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    numbers
        .map(|n| format!("{n}\n"))
        .collect::<String>()
        .into_bytes()
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_with_another_spec_when_it_is_paused_cancelled_or_failed() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &lines(1..=100), 0);
    world.spec("once.toml", &once(ALL, "first", 2), 0);
    put_out(&world, "once", 1..=100).await;
    let id = world.job("once").unwrap().id;

    order_of(&world, "once", "pause").await;
    let job = rewrite(&world, "once", &once("contains = \"7\"", "first", 3)).await;
    assert_eq!(job.phase, JobPhase::Paused);
    assert!(
        job.message.starts_with("paused by its control file"),
        "{}",
        job.message
    );
    world.extend("/in", &lines(51..=150));
    order_of(&world, "once", "resume").await;
    let mut want: Vec<u64> = (1..=100).chain([107, 117, 127, 137, 147]).collect();
    put_out(&world, "once", want.clone()).await;

    order_of(&world, "once", "cancel").await;
    world.extend("/in", &lines(140..=160));
    let job = rewrite(&world, "once", &once(ALL, "first", 1)).await;
    assert_eq!((job.id, job.phase), (id, JobPhase::Running));
    want.extend((140..=160).filter(|n| *n != 147));
    put_out(&world, "once", want.clone()).await;

    // A failure, and its remedy.
    world.spec(
        "once.toml",
        &once(ALL, "first", 1).replace("dedup = {}", "dedup = { by = 1 }"),
        0,
    );
    let refused = |job: &hydfs_types::JobInfo| job.message.contains("the new spec was refused");
    let job = world.until("once", 60, refused).await;
    let place =
        "/.jobs/once.toml:10:1: the stage `first` has state, which is of `dedup by the whole line`";
    assert!(job.message.contains(place), "{}", job.message);
    assert!(
        job.message.contains("the job goes on as it was"),
        "{}",
        job.message
    );
    world.extend("/in", b"161\n");
    want.push(161);
    put_out(&world, "once", want.clone()).await;
    // The refusal outlives the leader.
    let (leader, attempt) = (world.leader.borrow().unwrap(), job.attempt);
    world.kill(leader).await;
    world.revive(leader);
    let again = |job: &hydfs_types::JobInfo| job.attempt > attempt && refused(job);
    world.until("once", 60, again).await;
    assert!(rainstorm::status_text(&world.job("once").unwrap()).contains("refused"));

    for (text, why) in [
        (
            once(ALL, "other", 1),
            "`other` begins without state, and the state of `first` is lost",
        ),
        (
            once(ALL, "first", 1).replace("follow = true\n", ""),
            "the source `in` reads something else",
        ),
        (
            once(ALL, "first", 1).replace("path = \"/in\"", "path = \"/on\""),
            "reads something else",
        ),
        (
            once(ALL, "first", 1).replace("version = 1\n", "version = 1\n[job]\nreceipt = false\n"),
            "a receipt is of a whole job",
        ),
        (
            once("contain = \"\"", "first", 1),
            ":9:19: unknown key `contain`",
        ),
    ] {
        let job = rewrite(&world, "once", &text).await;
        assert!(job.message.contains(why), "{}", job.message);
        assert_eq!((job.id, job.phase), (id, JobPhase::Running));
    }
    let job = rewrite(&world, "once", &once(ALL, "first", 2)).await;
    assert!(!refused(&job), "{}", job.message);
    world.extend("/in", b"161\n162\n");
    want.push(162);
    put_out(&world, "once", want.clone()).await;
    let rain = world.rain(world.alive()[0]).unwrap();
    rain.audit("once").await.unwrap();

    // Without its folder there is nothing to go on from.
    order_of(&world, "once", "cancel").await;
    sleep(Duration::from_secs(5)).await;
    for path in world
        .paths()
        .iter()
        .filter(|path| path.starts_with("/.jobs/once/"))
    {
        world.unlink(path);
    }
    world.spec("once.toml", &once("contains = \"16\"", "first", 2), 0);
    world.until("once", 60, |job| job.id != id).await;
    put_out(&world, "once", [16, 116].into_iter().chain(160..=162)).await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn orders_about_tasks_that_cannot_be_are_told_why() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", &lines(1..=20), 0);
    world.spec("once.toml", &once(ALL, "first", 2), 0);
    put_out(&world, "once", 1..=20).await;
    order_of(
        &world,
        "once",
        "tasks.frist=3\ntasks.first=65\ntasks.first=0\ntasks.first=3\ntasks.first=3",
    )
    .await;
    let log = world.log("once");
    for words in [
        "`tasks.frist=3`: there is no stage `frist`; did you mean `first`?",
        "`tasks.first=65`: use 1 to 64 tasks",
        "`tasks.first=0`: use 1 to 64",
        "stage `first` has 3 tasks instead of 2",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(log.matches("changed behind").count(), 1, "{log}");
    assert_eq!(
        rainstorm::progress(&world.job("once").unwrap())
            .unwrap()
            .rows_out,
        20
    );
    world.extend("/in", &lines(15..=25));
    put_out(&world, "once", 1..=25).await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_savepoint_is_made_whatever_dies_and_a_job_begins_from_it() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", &lines(1..=100), 0);
    world.spec("once.toml", &once(ALL, "first", 3), 0);
    put_out(&world, "once", 1..=100).await;
    world.write(
        "/.jobs/once/control",
        b"savepoint no/name\nsavepoint one\n",
        0,
    );
    for _ in 0..4 {
        sleep(Duration::from_millis(world.random(60))).await;
        let leader = *world.leader.borrow();
        if let Some(leader) = leader {
            world.kill(leader).await;
            world.revive(leader);
        }
    }
    order_of(&world, "once", "savepoint two\nsavepoint two").await;
    let log = world.log("once");
    assert!(log.contains("a savepoint's name has 1 to 64"), "{log}");
    for words in [
        "savepoint `one` is",
        "savepoint `two` is made",
        "savepoint `two` is there, of job epoch",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    // The job goes on, and goes; its savepoint stays as it was.
    world.extend("/in", &lines(90..=120));
    put_out(&world, "once", 1..=120).await;
    order_of(&world, "once", "cancel").await;

    let from = |savepoint: &str, tasks: u32| {
        let start = format!("version = 1\n[job]\nstart = {{ savepoint = \"{savepoint}\" }}\n");
        once(ALL, "first", tasks).replace("version = 1\n", &start)
    };
    for (job, savepoint, why) in [
        (
            "a",
            "once/none",
            "a.toml:3:23: there is no savepoint once/none; write `savepoint none` into the `control` of once",
        ),
        (
            "b",
            "once",
            "b.toml:3:23: `savepoint = \"once\"` is no savepoint",
        ),
    ] {
        world.spec(&format!("{job}.toml"), &from(savepoint, 1), 0);
        let job = world.ended(job).await;
        assert!(
            job.phase == JobPhase::Failed && job.message.contains(why),
            "{}",
            job.message
        );
    }
    world.spec("again.toml", &from("once/one", 2), 0);
    put_out(&world, "again", 101..=120).await;
    world.extend("/in", b"1\n121\n");
    put_out(&world, "again", 101..=121).await;
    let rain = world.rain(world.alive()[0]).unwrap();
    rain.audit("again").await.unwrap();
    let paths = world.paths();
    assert!(
        paths.contains(&"/.jobs/once/savepoints/one/savepoint".to_owned()),
        "{paths:?}"
    );
    world.check();
}

/// Every operator with state, with its own sink below `/out/JOB`.
fn stateful(job: &str) -> String {
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\npath = \"/{name}.csv\"\nformat = \"csv\"\n\
             time = \"at\"\ntime_format = \"unix_ms\"\nout_of_order_ms = 100\n"
        )
    };
    let at = "time = \"at\", time_format = \"unix_ms\"";
    let stages = [
        (
            "sums",
            "\"left\"",
            format!(
                "sum = {{ by = \"user\", of = \"n\", window = {{ tumbling_ms = 1000, {at} }} }}"
            ),
        ),
        (
            "pages",
            "\"left\"",
            format!(
                "distinct = {{ by = \"user\", of = \"page\", window = {{ sliding_ms = 2000, step_ms = 1000, {at} }} }}"
            ),
        ),
        (
            "visits",
            "\"left\"",
            format!(
                "count = {{ by = [\"user\", \"page\"], window = {{ session_ms = 300, {at} }} }}"
            ),
        ),
        (
            "best",
            "\"left\"",
            format!(
                "top = {{ by = \"user\", n = 2, of = \"n\", window = {{ tumbling_ms = 3000, {at} }} }}"
            ),
        ),
        (
            "all",
            "\"left\"",
            "distinct = { by = \"user\", of = \"page\" }".to_owned(),
        ),
        ("first", "\"left\"", "dedup = {}".to_owned()),
        (
            "pairs",
            "[\"left\", \"right\"]",
            format!("join = {{ on = \"user\", within_ms = 30, {at} }}"),
        ),
    ];
    let mut text = format!("version = 1\n{}{}", source("left"), source("right"));
    for (name, from, op) in stages {
        text += &format!(
            "[[stage]]\nname = \"{name}\"\nfrom = {from}\nop = {{ {op} }}\ntasks = 2\n\
             [[sink]]\nfrom = \"{name}\"\npath = \"/out/{job}/{name}\"\n"
        );
    }
    text
}

const STATEFUL: [&str; 7] = ["sums", "pages", "visits", "best", "all", "first", "pairs"];

#[tokio::test(start_paused = true)]
async fn state_of_every_kind_is_shared_out_by_key_whatever_dies() {
    let mut changed = 0;
    for seed in 0..2 {
        let world = World::start(3, |options| {
            options.chunk_bytes = 1 << 10;
            options.uncommitted_bytes_max = 2 << 10;
        })
        .await;
        world.seed(100 + seed);
        for (name, step) in [("left", 7), ("right", 11)] {
            let mut text = "at,user,page,n\n".to_owned();
            for row in 0..1_500 {
                let at = row * step + world.random(40);
                let (user, page) = (world.random(13), world.random(5));
                text += &format!("{at},u{user},/p{page},{}\n", world.random(9));
            }
            world.write(&format!("/{name}.csv"), text.as_bytes(), 0);
        }
        world.spec("plain.toml", &stateful("plain"), 0);
        world.done("plain").await;
        world.knobs.read_delay_ms.store(5, Relaxed);
        world.spec("hit.toml", &stateful("hit"), 0);
        let orders = async {
            while is_active(&world, "hit") || world.job("hit").is_none() {
                let mut text = String::new();
                for _ in 0..3 {
                    let stage = STATEFUL[world.random(7) as usize];
                    text += &format!("tasks.{stage}={}\n", 1 + world.random(5));
                }
                world.write("/.jobs/hit/control", text.as_bytes(), 0);
                sleep(Duration::from_millis(20 + world.random(300))).await;
            }
        };
        tokio::join!(world.kill_until_ended(&["hit"]), orders);
        world.done("hit").await;
        changed += world.log("hit").matches("changed behind").count();
        for stage in STATEFUL {
            let (want, got) = (format!("/out/plain/{stage}"), format!("/out/hit/{stage}"));
            let (want, got) = (world.sorted(&want), world.sorted(&got));
            assert!(
                got == want,
                "{seed} {stage}: {} of {}",
                got.len(),
                want.len()
            );
        }
        let rain = world.rain(world.alive()[0]).unwrap();
        rain.audit("hit").await.unwrap();
        world.check();
    }
    assert!(changed >= 6, "{changed} changes");
}
