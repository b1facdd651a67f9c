//! Jobs that give exactly-once output up: results are seen at once, none is lost, and each comes at most as often as the
//! source was read.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::numbers;
use hydfs_types::JobPhase;
use std::collections::BTreeSet;
use std::time::Duration;
use world::World;

const OUTPUT: &str = "/.jobs/loose/output";

fn spec(job: &str, source: &str) -> String {
    format!(
        "version = 1\n[job]\n{job}\n[[source]]\nname = \"in\"\npath = \"/in\"\n{source}\n\
         [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = {{ map = {{ trim = true }} }}\ntasks = 2\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_seen_before_their_job_epoch_and_lost_by_no_death() {
    let world = World::start(3, |_| {}).await;
    world.write("/in", b"a\nb\n", 0);
    let text = spec("exactly_once = false\nepoch_ms = 60000", "follow = true");
    world.spec("loose.toml", &text, 0);
    assert_eq!(world.grown(OUTPUT, 2).await, ["a", "b"]);
    world.extend("/in", b"c\n");
    assert_eq!(world.grown(OUTPUT, 3).await, ["a", "b", "c"]);
    let job = world.job("loose").unwrap();
    assert_eq!(job.epoch.0, 0, "none of it waited for a job epoch");
    // Whoever reads the file dies: it is read again, from where the last job epoch left it.
    let leader = world.alive()[0];
    for id in world.alive() {
        if id != leader {
            world.kill(id).await;
            world.revive(id);
        }
    }
    world.extend("/in", b"d\n");
    let all = || world.lines(OUTPUT).into_iter().collect::<BTreeSet<_>>();
    world.soon("the line behind", || all().contains("d")).await;
    let lines: Vec<_> = all().into_iter().collect();
    assert_eq!(lines, ["a", "b", "c", "d"]);
    assert!(world.read("/.jobs/loose/receipt").is_none());
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undisturbed_job_puts_each_line_out_once() {
    let world = World::start(3, |options| options.chunk_bytes = 4 << 10).await;
    let input = String::from_utf8(numbers(20_000)).unwrap();
    world.write("/in", input.as_bytes(), 0);
    world.spec("loose.toml", &spec("exactly_once = false", ""), 0);
    world.done("loose").await;
    let mut wanted: Vec<&str> = input.lines().collect();
    wanted.sort_unstable();
    assert_eq!(world.sorted(OUTPUT), wanted);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_there_after_many_deaths() {
    let world = World::start(4, |options| {
        options.chunk_bytes = 4 << 10;
        options.member_timeout = Duration::from_millis(400);
        options.contact_timeout = Duration::from_millis(400);
    })
    .await;
    let input = String::from_utf8(numbers(20_000)).unwrap();
    world.write("/in", input.as_bytes(), 0);
    let text = spec("exactly_once = false\nepoch_ms = 20", "rate = \"10000/s\"");
    world.spec("loose.toml", &text, 0);
    world.kill_until_ended(&["loose"]).await;
    world.done("loose").await;
    let all: BTreeSet<String> = world.lines(OUTPUT).into_iter().collect();
    assert!(input.lines().all(|line| all.contains(line)));
    assert_eq!(all.len(), input.lines().count(), "and nothing else");
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_without_it_is_refused() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"a\n", 0);
    let loose = |more: &str| spec(&format!("exactly_once = false\n{more}"), "");
    let document = format!(
        "{}[[stage]]\nname = \"n\"\nfrom = \"all\"\nop = {{ count = {{ by = 1 }} }}\n\
         [[sink]]\nfrom = \"n\"\npath = \"/out\"\nformat = \"json\"\n",
        loose("")
    );
    for (name, text, why) in [
        ("receipt", loose("receipt = true"), "toml:4:"),
        ("document", document, "half a document"),
    ] {
        world.spec(&format!("{name}.toml"), &text, 0);
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        let message = &job.message;
        assert!(
            message.contains(why) && message.contains("exactly_once"),
            "{message}"
        );
    }
    world.check();
}
