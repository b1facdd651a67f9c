//! Many small calls leave every member within its limit of descriptors, and with the memory that it had after the first
//! of them (S16).
//!
//! `HYDFS_OPS` sets the number of calls: 100000 for the figure of the promise.

mod common;

use common::Cluster;
use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    thread,
};

const MEMBERS: usize = 3;
const THREADS: usize = 4;
/// Calls of one round on one file.
const CALLS: usize = 11;
/// 256 bases are held open at most, two descriptors each; the rest are connections, logs and the mount.
const DESCRIPTORS_MAX: usize = 2 * 256 + 128;
/// What allocators and the agreement log keep until their limits are reached.
const MEMORY_MORE_KIB: u64 = 24 << 10;

fn ops() -> usize {
    std::env::var("HYDFS_OPS")
        .ok()
        .and_then(|ops| ops.parse().ok())
        .unwrap_or(16_000)
}

/// Creates, appends, syncs now and then, looks, reads, renames and removes.
fn round(folder: &Path, thread: usize, n: usize) -> io::Result<()> {
    let (path, renamed) = (
        folder.join(format!("t{thread}-{}", n % 50)),
        folder.join(format!("r{thread}")),
    );
    let line = format!("thread {thread} round {n}\n");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(line.as_bytes())?;
    file.write_all(line.as_bytes())?;
    if n.is_multiple_of(8) {
        file.sync_data()?;
    }
    drop(file);
    fs::metadata(&path)?;
    let mut text = String::new();
    fs::File::open(&path)?.read_to_string(&mut text)?;
    if text != line.repeat(2) {
        return Err(io::Error::other(format!("read {text:?}")));
    }
    fs::rename(&path, &renamed)?;
    fs::remove_file(&renamed)
}

/// That many calls through one mount, from several threads.
fn work(cluster: &Cluster, calls: usize) {
    let folder = cluster.at(1, "work");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let folder = &folder;
            scope.spawn(move || {
                for n in 0..calls / CALLS / THREADS {
                    round(folder, thread, n).expect("a round of calls");
                }
            });
        }
    });
}

/// Open descriptors, and resident memory in KiB, of each member's worker.
fn held(cluster: &Cluster) -> Vec<(usize, u64)> {
    let of = |i| {
        let proc = Path::new("/proc").join(cluster.pid(i).to_string());
        let descriptors = fs::read_dir(proc.join("fd"))
            .expect("its descriptors")
            .count();
        let status = fs::read_to_string(proc.join("status")).expect("its status");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok())
            .expect("its memory");
        (descriptors, resident)
    };
    cluster.members().map(of).collect()
}

#[test]
fn fault_s16_many_calls_leave_descriptors_and_memory_flat() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    fs::create_dir(cluster.at(1, "work")).expect("a folder");
    work(&cluster, ops() / 4);
    let first = held(&cluster);
    work(&cluster, ops() - ops() / 4);
    let last = held(&cluster);
    for (at, (before, after)) in first.iter().zip(&last).enumerate() {
        println!(
            "n{}: {} descriptors and {} KiB after a quarter of {} calls, {} and {} after all",
            at + 1,
            before.0,
            before.1,
            ops(),
            after.0,
            after.1
        );
        assert!(after.0 <= DESCRIPTORS_MAX, "n{} leaks descriptors", at + 1);
        let limit = before.1 + before.1 / 2 + MEMORY_MORE_KIB;
        assert!(after.1 <= limit, "n{} leaks memory", at + 1);
    }
}
