//! What a change meets on its way: other attempts, orders at the same time, state that it would lose.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::JobPhase;
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
