//! A member that cannot start processes for a while: nothing is lost, and no line is blamed for it.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::numbers;
use std::process::Command;
use world::World;

/// Alone in its process: what it lacks, all tests of the process would lack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_that_run_out_make_no_dead_letters() {
    let world = World::start(1, |options| options.chunk_bytes = 64).await;
    world.write("/in", &numbers(200), 0);
    world.write("/bin/cat", b"#!/bin/sh\nexec cat\n", 0);
    let spec = "version = 1\n[job]\non_error = \"dead\"\n[[source]]\nname = \"in\"\npath = \"/in\"\nrate = \"50/s\"\n\
        [[stage]]\nname = \"op\"\nfrom = \"in\"\n\
        op = { exec = { path = \"/bin/cat\", contract = \"batch\", max_attempts = 1 } }\n";
    let me = std::process::id();
    // Whoever takes descriptors away must not need one to give them back.
    let script =
        format!("prlimit --pid {me} --nofile=3:; sleep 2; prlimit --pid {me} --nofile=1000:");
    world.spec("j.toml", spec, 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    let mut limits = Command::new("sh").arg("-c").arg(script).spawn().unwrap();
    world.done("j").await;
    assert!(limits.wait().unwrap().success());
    assert_eq!(world.lines("/.jobs/j/output").len(), 200);
    assert_eq!(world.read("/.jobs/j/dead/op"), None);
    let log = world.log("j");
    assert!(log.contains("this member cannot start"), "{log}");
    world.check();
}
