//! What waits says why, and what is removed stays removed.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::JobPhase;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

fn spec(source: &str) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\n{source}\n\
         [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"\" }} }}\n"
    )
}

async fn order(world: &World, job: &str, text: &str) {
    let path = format!("/.jobs/{job}/control");
    world.write(&path, text.as_bytes(), 0);
    world.soon(text, || world.read(&path).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn orders_to_a_job_that_has_committed_nothing() {
    let world = World::start(1, |_| {}).await;
    // Its file comes later.
    world.spec("j.toml", &spec("path = \"/in\"\nfollow = true"), 0);
    world.until("j", 20, |_| true).await;
    order(&world, "j", "pause\ntasks.all=3\nresume\n").await;
    assert_eq!(world.job("j").unwrap().phase, JobPhase::Running);
    let why = "control: `tasks.all=3`: the job has committed nothing yet; resume it first";
    assert!(world.log("j").contains(why), "{}", world.log("j"));
    // While it runs the order waits, and the log says so once.
    world.write("/.jobs/j/control", b"tasks.all=2\n", 0);
    let why = "control: `tasks.all=2` waits, and is tried again: the job has committed nothing yet";
    world.soon(why, || world.log("j").contains(why)).await;
    world.write("/in", b"a\n", 0);
    assert_eq!(world.grown("/.jobs/j/output", 1).await, ["a"]);
    let obeyed = "stage `all` has 2 tasks instead of 1";
    world.soon(obeyed, || world.log("j").contains(obeyed)).await;
    assert!(world.read("/.jobs/j/control").is_none());
    assert_eq!(world.log("j").matches(why).count(), 1, "{}", world.log("j"));
    world.check();
}

#[tokio::test(start_paused = true)]
async fn specs_that_cannot_start_yet() {
    let world = World::start(1, |_| {}).await;
    world.write("/away/in", b"a\n", 0);
    world.knobs.away.store(true, Relaxed);
    world.spec("j.toml", &spec("path = \"/away/in\""), 0);
    let why = "/.jobs/j.toml cannot start yet, and is tried again: storage is unavailable: no copy answers\n";
    world.soon(why, || world.log("j") == why).await;
    assert!(world.job("j").is_none());
    world.knobs.away.store(false, Relaxed);
    world.done("j").await;
    assert_eq!(world.log("j").matches(why).count(), 1, "{}", world.log("j"));
    // One that is called as no job can be.
    world.spec("Größe.toml", &spec("path = \"/away/in\""), 0);
    world.spec(".hidden.toml", &spec("path = \"/away/in\""), 0);
    let why = "the name of a job has";
    world.soon(why, || world.log("Größe").contains(why)).await;
    // Many files are looked at together: a look has a deadline.
    for file in 0..1000 {
        world.write(&format!("/many/{file}.csv"), b"n\n1\n", 0);
    }
    world.knobs.read_delay_ms.store(100, Relaxed);
    world.spec("many.toml", &spec("path = \"/many\"\nformat = \"csv\""), 0);
    world.until("many", 200, |_| true).await;
    let log = world.log("Größe");
    assert_eq!(log.matches(why).count(), 1, "{log}");
    assert_eq!(
        (world.jobs_count(), world.log(".hidden")),
        (2, String::new())
    );
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_spec_and_folder_are_removed_comes_back_in_no_form() {
    for pause in [0, 5, 60] {
        let world = World::start(2, |_| {}).await;
        world.write("/in", b"a\n", 0);
        world.spec("j.toml", &spec("path = \"/in\"\nfollow = true"), 0);
        world.grown("/.jobs/j/output", 1).await;
        let traffic = async {
            loop {
                world.extend("/in", b"b\n");
                sleep(Duration::from_millis(10)).await;
            }
        };
        let left = || {
            let paths = world.paths().into_iter();
            paths
                .filter(|path| path.starts_with("/.jobs/j"))
                .collect::<Vec<_>>()
        };
        let removal = async {
            // As `rm -r /.jobs/j /.jobs/j.toml` does.
            for path in left().iter().filter(|path| path.starts_with("/.jobs/j/")) {
                world.unlink(path);
                sleep(Duration::from_millis(pause)).await;
            }
            world.unlink("/.jobs/j.toml");
            sleep(Duration::from_secs(20)).await;
        };
        tokio::select! { () = traffic => {} () = removal => {} }
        assert_eq!(left(), [""; 0], "{pause}");
        // Nobody needs it: it may be forgotten.
        let job = world.job("j");
        assert!(job.is_none_or(|job| job.phase == JobPhase::Cancelled));
        world.check();
    }
}
