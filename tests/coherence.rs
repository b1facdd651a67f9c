//! Readers and writers on all mounts at once, and members that return with old copies.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON, until};
use lines::{judge, write_lines};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const LINES: usize = 150;
const WRITERS: usize = 4;
const READERS: usize = 32;

/// The predecessor's merges each collected the same append and wrote it twice; ours are one at a time, and agreed.
#[test]
fn fault_s3_thirty_two_readers_merge_at_once_and_every_record_is_there_once() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    fs::write(cluster.at(1, "log"), "").expect("an empty file is made");
    let path = |i: usize| -> PathBuf { cluster.at(i % 3 + 1, "log") };
    let done = AtomicBool::new(false);
    let logs = thread::scope(|scope| {
        for reader in 0..READERS {
            let (path, done) = (path(reader), &done);
            scope.spawn(move || {
                let mut before = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let now = fs::read(&path).expect("the file is read");
                    assert!(
                        now.starts_with(&before),
                        "bytes that were readable changed their place"
                    );
                    before = now;
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let path = path(w);
                scope.spawn(move || write_lines(&path, w, LINES, |n| n == LINES))
            })
            .collect();
        let logs: Vec<_> = writers
            .into_iter()
            .map(|writer| writer.join().expect("the writer ends"))
            .collect();
        done.store(true, Ordering::Relaxed);
        logs
    });
    for i in cluster.members() {
        judge(
            &fs::read(cluster.at(i, "log")).expect("the file is read"),
            &logs,
        );
    }
}

/// The predecessor served what it found on its own disk after a restart. Ours serves what is agreed, or asks.
#[test]
fn fault_s10_a_member_that_returns_never_serves_its_old_copies() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let old = "old\n".repeat(1000);
    for f in 0..20 {
        fs::write(cluster.at(1, &format!("f{f}")), &old).expect("a file is written");
    }
    cluster.stop(3);
    for f in 0..20 {
        let path = cluster.at(1, &format!("f{f}"));
        match f % 4 {
            0 => fs::write(&path, "new\n").expect("a file is written anew"),
            1 => fs::remove_file(&path).expect("a file is removed"),
            2 => {}
            _ => {
                use std::io::Write;
                let mut file = fs::OpenOptions::new()
                    .append(true)
                    .open(&path)
                    .expect("a file is opened");
                file.write_all(b"more\n").expect("a line is appended");
            }
        }
    }
    cluster.start(3);
    // From its very first answer on: no waiting for repair.
    for f in 0..20 {
        let path = cluster.at(3, &format!("f{f}"));
        match f % 4 {
            0 => assert_eq!(
                common::text(&fs::read(&path).expect("a file is read")),
                "new\n"
            ),
            1 => assert!(!path.exists(), "{} was removed", path.display()),
            2 => assert_eq!(common::text(&fs::read(&path).expect("a file is read")), old),
            _ => assert_eq!(
                common::text(&fs::read(&path).expect("a file is read")),
                format!("{old}more\n")
            ),
        }
    }
    cluster.wait_healthy();
}

/// Every read on every mount sees what was written and closed before it began, whatever the mounts have cached.
#[test]
fn fault_s21_caches_never_show_what_was_replaced() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    for round in 0..60 {
        let (writer, text) = (
            round % 3 + 1,
            format!("round {round} {}\n", "x".repeat(round * 97 % 5000)),
        );
        fs::write(cluster.at(writer, "page"), &text).expect("the file is written");
        for reader in cluster.members() {
            assert_eq!(
                common::text(&fs::read(cluster.at(reader, "page")).expect("the file is read")),
                text,
                "n{reader} after n{writer} wrote round {round}"
            );
        }
    }
}

/// One member is a cluster, and says what it lacks.
#[test]
fn fault_s17_one_member_works_and_says_that_it_is_alone() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    fs::write(cluster.at(1, "a"), "alone\n").expect("a file is written");
    assert_eq!(
        common::text(&fs::read(cluster.at(1, "a")).expect("a file is read")),
        "alone\n"
    );
    until("a status that says under-replicated", SOON, || {
        cluster.status(1).contains("under-replicated")
    });
}
