//! A file larger than a member's memory is allowed to be.

use crate::common::{self, Cluster, xattr};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
};

/// Size in MiB; the full proof is `HYDFS_BIG_MIB=2048`.
const MIB: usize = 512;
/// The most that a worker may ever have resident.
const RESIDENT_KIB_MAX: u64 = 300 << 10;

/// MiB number `at` of the file: all different, and cheap to make.
fn piece(at: usize) -> Vec<u8> {
    let mut state = at as u64 + 1;
    let words = (0..1 << 17).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn peak_kib(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker's status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[test]
fn fault_s15_a_big_file_goes_through_a_small_member() {
    let mib = std::env::var("HYDFS_BIG_MIB")
        .ok()
        .and_then(|mib| mib.parse().ok())
        .unwrap_or(MIB);
    // Five members: each holds only its share of the segments.
    let Some(cluster) = Cluster::up(5) else {
        return;
    };
    let mut file = File::create(cluster.at(1, "big")).expect("made");
    for at in 0..mib {
        file.write_all(&piece(at))
            .unwrap_or_else(|error| panic!("MiB {at}: {error}"));
    }
    file.sync_all().expect("synced");
    drop(file);
    let segments = xattr(&cluster.at(2, "big"), "user.hydfs.segments").expect("segments");
    let places: BTreeSet<&str> = segments
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert!(
        segments.lines().count() >= mib / 64,
        "about 64 MiB each:\n{segments}"
    );
    assert!(places.len() > 1, "on different members:\n{segments}");
    for i in [1, 3] {
        let mut file = File::open(cluster.at(i, "big")).expect("opened");
        let mut found = vec![0; 1 << 20];
        for at in 0..mib {
            file.read_exact(&mut found)
                .unwrap_or_else(|error| panic!("MiB {at} on mount {i}: {error}"));
            assert!(found == piece(at), "MiB {at} on mount {i} differs");
        }
        assert_eq!(file.read(&mut found).expect("the end"), 0);
    }
    let peaks: Vec<u64> = cluster
        .members()
        .map(|i| peak_kib(cluster.pid(i)))
        .collect();
    println!("{mib} MiB through five members; peak resident memory in KiB: {peaks:?}");
    assert!(
        peaks.iter().all(|peak| *peak < RESIDENT_KIB_MAX),
        "peak resident memory in KiB: {peaks:?}"
    );
    std::fs::remove_file(cluster.at(4, "big")).expect("removed");
    common::until("the room back", common::SOON, || {
        cluster.status(1).contains("segments 0")
    });
}
