//! Jobs are paused, resumed and cancelled by files, and checked before they start.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{COUNT, counted, signs};
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
    let json: serde_json::Value = serde_json::from_str(&rainstorm::status_json(&paused)).unwrap();
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
async fn a_job_is_cancelled_by_its_control_file_or_with_its_spec_and_leaves_no_state() {
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
        while world.paths().iter().any(|path| path.contains("/state/")) {
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
