//! Followed sources and event time: no line is lost or doubled because a file was read late, renamed, or not written wholly
//! when the job looked.
#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

/// Waits until a file has so many lines, and returns them sorted.
async fn lines(world: &World, path: &str, count: usize) -> Vec<String> {
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        let lines = match world.read(path) {
            Some(_) => world.sorted(path),
            None => Vec::new(),
        };
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < limit, "{path}: {lines:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Follows `/in`, or all that is in it.
fn source(more: &str) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
         time = 1\ntime_format = \"unix_ms\"\n{more}\n"
    )
}

const COUNT: &str = "[[stage]]\nname = \"n\"\nfrom = \"in\"\n\
    op = { count = { by = 2, window = { tumbling_ms = 10, time = 1, time_format = \"unix_ms\" } } }\n";

#[tokio::test(start_paused = true)]
async fn a_stage_takes_results_and_late_lines_of_the_same_stage() {
    for tasks in [1, 2] {
        let world = World::start(2, |_| {}).await;
        world.write("/in", b"1,a\n100,a\n", 0);
        let both = format!(
            "[[stage]]\nname = \"both\"\nfrom = [\"n\", \"n.late\"]\nop = {{ filter = {{ contains = \"\" }} }}\n\
             tasks = {tasks}\n"
        );
        world.spec("j.toml", &(source("") + COUNT + &both), 0);
        let output = "/.jobs/j/output";
        assert_eq!(lines(&world, output, 1).await, ["0,10,a,1"]);
        world.extend("/in", b"2,late\n3,late\n200,a\n");
        let want = ["0,10,a,1", "100,110,a,1", "2,late", "3,late"];
        assert_eq!(lines(&world, output, 4).await, want);
        world.check();
    }
}
