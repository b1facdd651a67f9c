//! What things cost, counted on three real members: rounds to replicas and entries of the agreement log. A count is
//! taken when nothing else runs, and taken again where something did (a member's lazy work), never padded.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, SOON, until, write_synced};
use std::{
    fs, io::Write, os::unix::fs::FileExt, path::Path, process::Command, thread, time::Duration,
};

const APPENDS: u64 = 50;
const DATA: [&str; 7] = [
    "hydfs_data_append_calls_total",
    "hydfs_data_sync_calls_total",
    "hydfs_data_prepare_calls_total",
    "hydfs_data_look_calls_total",
    "hydfs_data_read_calls_total",
    "hydfs_data_repair_calls_total",
    "hydfs_net_calls_sent_total{service=\"data\"}",
];

/// Sums over all members: data requests by kind, and the length of the agreement log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Costs {
    appends: u64,
    syncs: u64,
    prepares: u64,
    looks: u64,
    reads: u64,
    repairs: u64,
    sent: u64,
    log: u64,
}

impl Costs {
    fn now(c: &Cluster) -> Self {
        let sum = |name: &str| c.members().map(|i| c.metric(i, name)).sum();
        let [appends, syncs, prepares, looks, reads, repairs, sent] = DATA.map(sum);
        let log = c
            .members()
            .map(|i| c.metric(i, "hydfs_agreement_log_index"))
            .max()
            .unwrap_or_default();
        Self {
            appends,
            syncs,
            prepares,
            looks,
            reads,
            repairs,
            sent,
            log,
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            appends: self.appends - before.appends,
            syncs: self.syncs - before.syncs,
            prepares: self.prepares - before.prepares,
            looks: self.looks - before.looks,
            reads: self.reads - before.reads,
            repairs: self.repairs - before.repairs,
            sent: self.sent - before.sent,
            log: self.log - before.log,
        }
    }
}

/// Waits until lazy work is done: for longer than a writer lingers nothing is counted any more.
fn quiet(c: &Cluster) -> Costs {
    let mut last = Costs::now(c);
    until("the members to be quiet", SOON, || {
        thread::sleep(Duration::from_millis(1200));
        let now = Costs::now(c);
        std::mem::replace(&mut last, now) == now
    });
    last
}

fn cluster() -> Option<Cluster> {
    // What the scrub sends in the background is not what an operation costs.
    let c = Cluster::up_with(3, &[], &[("HYDFS_SCRUB_MIB_S", "0")])?;
    c.wait_healthy();
    // The files that `up` tried the mounts with are collected some time after they were unlinked.
    until("the first files to be collected", SOON, || {
        c.status(1).contains("segments 0, writers 0")
    });
    Some(c)
}

/// Reads past the page cache, so that the daemon is asked.
fn read_uncached(path: &Path) -> Vec<u8> {
    let out = Command::new("dd")
        .arg(format!("if={}", path.display()))
        .args(["iflag=direct", "bs=64K"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", common::text(&out.stderr));
    out.stdout
}

/// Opens a file on a mount to append to it, and appends the first line.
fn opened(c: &Cluster, mount: usize, first: &str) -> fs::File {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(c.at(mount, "f"))
        .unwrap();
    file.write_all(first.as_bytes()).unwrap();
    file
}

/// Where two mounts write nothing is answered early.
#[test]
fn an_append_beside_another_writer_is_one_parallel_round() {
    let Some(c) = cluster() else { return };
    let mut file = opened(&c, 1, "first\n");
    let _other = opened(&c, 2, "second\n");
    // Each of them asks the other once for what it has answered early.
    file.write_all(b"third\n").unwrap();
    let before = quiet(&c);
    for n in 0..APPENDS {
        file.write_all(format!("line {n}\n").as_bytes()).unwrap();
    }
    let cost = Costs::now(&c).since(before);
    // Two other replicas, one request each; its own copy needs no message.
    let wanted = Costs {
        appends: 2 * APPENDS,
        syncs: 0,
        prepares: 0,
        looks: 0,
        reads: 0,
        repairs: 0,
        sent: 2 * APPENDS,
        log: 0,
    };
    assert_eq!(cost, wanted, "of {APPENDS} appends");
    file.sync_all().unwrap();
    let cost = Costs::now(&c).since(before);
    assert_eq!(
        (cost.appends, cost.syncs, cost.log),
        (2 * APPENDS, 2, 0),
        "fsync is one round more and no agreement"
    );
}

#[test]
fn appends_that_nobody_waits_for_share_rounds_and_records() {
    let Some(c) = cluster() else { return };
    let mut file = opened(&c, 1, "first\n");
    let counted = || {
        let of = |name: &str| c.metric(1, name);
        let behind = of("hydfs_data_writes_behind_total");
        (behind, of("hydfs_data_records_total"))
    };
    let (before, start) = (quiet(&c), counted());
    for n in 0..APPENDS {
        file.write_all(format!("line {n}\n").as_bytes()).unwrap();
    }
    file.sync_all().unwrap();
    let (cost, end) = (Costs::now(&c).since(before), counted());
    let (behind, records) = (end.0 - start.0, end.1 - start.1);
    println!("{APPENDS} appends: {behind} answered early, {records} records, {cost:?}");
    // All of them unless a lease had just run out; and two rounds to each of the other replicas take far more than that.
    assert!(behind >= APPENDS / 2, "{behind} of {APPENDS}");
    assert!(records < APPENDS && cost.appends < 2 * APPENDS, "{cost:?}");
    assert_eq!((cost.log, cost.looks, cost.prepares), (0, 0, 0), "{cost:?}");
    assert!(cost.syncs <= 2, "{cost:?}");
}

#[test]
fn a_read_of_a_clean_file_asks_no_replica() {
    let Some(c) = cluster() else { return };
    let content = vec![b'x'; 200_000];
    write_synced(&c.at(1, "f"), &content).unwrap();
    assert_eq!(fs::read(c.at(2, "f")).unwrap(), content);
    let before = quiet(&c);
    let local = c.metric(2, "hydfs_data_local_reads_total");
    for _ in 0..5 {
        assert_eq!(read_uncached(&c.at(2, "f")), content);
        assert_eq!(
            fs::metadata(c.at(3, "f")).unwrap().len(),
            content.len() as u64
        );
    }
    assert!(
        c.metric(2, "hydfs_data_local_reads_total") > local,
        "the reads came to the daemon"
    );
    let cost = Costs::now(&c).since(before);
    assert_eq!((cost.sent, cost.log), (0, 0), "{cost:?}");
}

#[test]
fn stat_of_clean_files_asks_no_replica() {
    let Some(c) = cluster() else { return };
    for n in 0..10 {
        fs::write(c.at(1, &format!("f{n}")), vec![b'x'; n]).unwrap();
    }
    for n in 0..10 {
        assert_eq!(fs::read(c.at(2, &format!("f{n}"))).unwrap().len(), n);
    }
    let before = quiet(&c);
    for i in c.members() {
        for n in 0..10 {
            assert_eq!(
                fs::metadata(c.at(i, &format!("f{n}"))).unwrap().len(),
                n as u64
            );
        }
    }
    let cost = Costs::now(&c).since(before);
    assert_eq!((cost.sent, cost.log), (0, 0), "{cost:?}");
}

/// `cp` of a new file leaves nothing to merge: its writer's end is its cut (R9).
#[test]
fn a_new_file_leaves_nothing_to_merge() {
    let Some(c) = cluster() else { return };
    let before = quiet(&c);
    write_synced(&c.at(1, "f"), &vec![b'x'; 100_000]).unwrap();
    let after = quiet(&c);
    let cost = after.since(before);
    assert_eq!((cost.prepares, cost.looks), (0, 0), "{cost:?}");
    assert!(cost.log <= 2, "made with its grant, and its end: {cost:?}");
    assert_eq!(fs::read(c.at(2, "f")).unwrap().len(), 100_000);
    assert_eq!(
        Costs::now(&c).since(after).log,
        0,
        "the first reader merges nothing"
    );
}

#[test]
fn a_second_merge_with_nothing_pending_costs_no_agreement() {
    let Some(c) = cluster() else { return };
    fs::write(c.at(1, "f"), "").unwrap();
    for i in c.members() {
        fs::OpenOptions::new()
            .append(true)
            .open(c.at(i, "f"))
            .unwrap()
            .write_all(b"line\n")
            .unwrap();
    }
    let pending = quiet(&c);
    common::text(&c.hydfs(2, &["merge", "/f"]).stdout);
    let merged = quiet(&c);
    let cost = merged.since(pending);
    assert_eq!(cost.log, 1, "the merge is one entry: {cost:?}");
    for i in c.members() {
        assert!(c.hydfs(i, &["merge", "/f"]).status.success());
        assert_eq!(
            fs::read_to_string(c.at(i, "f")).unwrap(),
            "line\nline\nline\n"
        );
    }
    let cost = Costs::now(&c).since(merged);
    assert_eq!((cost.prepares, cost.log), (0, 0), "{cost:?}");
}

/// A shell's `>>`: one grant, one round, and an end some time later.
#[test]
fn an_append_by_a_shell_is_a_grant_and_a_round() {
    let Some(c) = cluster() else { return };
    fs::write(c.at(1, "f"), "").unwrap();
    let before = quiet(&c);
    let out = Command::new("sh")
        .args(["-c", "echo line >> \"$1\"", "sh"])
        .arg(c.at(2, "f"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", common::text(&out.stderr));
    let cost = Costs::now(&c).since(before);
    assert_eq!(
        (
            cost.appends,
            cost.syncs,
            cost.prepares,
            cost.looks,
            cost.reads
        ),
        (2, 0, 0, 0, 0),
        "{cost:?}"
    );
    assert!(
        (1..=2).contains(&cost.log),
        "the grant, and perhaps the end already: {cost:?}"
    );
    let cost = quiet(&c).since(before);
    assert_eq!(
        (cost.sent, cost.log),
        (2, 2),
        "the end is lazy, and nothing else: {cost:?}"
    );
    assert_eq!(fs::read_to_string(c.at(3, "f")).unwrap(), "line\n");
}

/// R7: whoever writes a file alone reads it without a merge: overwritten, appended, cut, behind a hole.
#[test]
fn a_sole_writer_reads_its_own_file_without_a_merge() {
    const BLOCK: usize = 4096;
    let Some(c) = cluster() else { return };
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(c.at(1, "f"))
        .unwrap();
    let mut expected = vec![b'a'; 20 * BLOCK];
    file.write_all_at(&expected, 0).unwrap();
    let before = quiet(&c);
    let same = |expected: &[u8]| {
        // A byte past the end: where the file ends is seen, too.
        let mut found = vec![0; expected.len() + 1];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), expected.len());
        assert!(found[..expected.len()] == *expected, "other bytes");
    };
    same(&expected);
    for n in 0..20 {
        let at = n * BLOCK + n;
        expected.resize(expected.len().max(at + BLOCK), 0);
        expected[at..at + BLOCK].fill(n as u8);
        file.write_all_at(&expected[at..at + BLOCK], at as u64)
            .unwrap();
        same(&expected);
    }
    let end = expected.len() + 3 * BLOCK;
    expected.resize(end, 0);
    expected.extend_from_slice(b"behind a hole");
    file.write_all_at(b"behind a hole", end as u64).unwrap();
    same(&expected);
    let mut appending = fs::OpenOptions::new()
        .append(true)
        .open(c.at(1, "f"))
        .unwrap();
    appending.write_all(b"appended").unwrap();
    expected.extend_from_slice(b"appended");
    same(&expected);
    let cost = Costs::now(&c).since(before);
    assert_eq!(
        (cost.prepares, cost.looks, cost.reads, cost.log),
        (0, 0, 0, 0),
        "{cost:?}"
    );
    for i in c.members() {
        assert!(fs::read(c.at(i, "f")).unwrap() == expected, "on mount {i}");
        same(&expected);
    }
    file.set_len(BLOCK as u64 + 7).unwrap();
    expected.truncate(BLOCK + 7);
    same(&expected);
    file.write_all_at(b"after the cut", 5).unwrap();
    expected[5..18].copy_from_slice(b"after the cut");
    same(&expected);
}
