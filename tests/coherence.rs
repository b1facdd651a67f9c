//! Readers and writers on all mounts at once, and members that return with old copies.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON, until};
use lines::{judge, write_lines};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
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
/// Kernels keep names and attributes under their member's read lease. Somebody looks at them all the while, so that they
/// are kept; whatever is changed on one mount is seen on all as soon as the call that changed it has returned.
#[test]
fn fault_s21_kernels_keep_names_and_are_told_before_anybody_else() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    fs::create_dir(cluster.at(1, "d")).expect("a directory is made");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for i in cluster.members() {
            let (cluster, done) = (&cluster, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for name in ["d", "d/a", "d/b"] {
                        drop(fs::metadata(cluster.at(i, name)));
                    }
                    // The others need the processor, too.
                    thread::sleep(Duration::from_micros(500));
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..names_rounds()).for_each(|round| change_and_look(&cluster, round));
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    for i in cluster.members() {
        assert!(cluster.metric(i, "hydfs_kernel_notices_total") > 0, "n{i}");
    }
}

fn names_rounds() -> usize {
    let wanted = std::env::var("HYDFS_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// One file's life, each step on another mount, looked at on all mounts.
fn change_and_look(cluster: &Cluster, round: usize) {
    let by = |step: usize| (round + step) % 3 + 1;
    let path = |step: usize, name: &str| cluster.at(by(step), name);
    let look = |what: &str, name: &str, wanted: &dyn Fn(Option<fs::Metadata>) -> bool| {
        for i in cluster.members() {
            let found = fs::metadata(cluster.at(i, name)).ok();
            let said = format!("{found:?}");
            assert!(wanted(found), "round {round}, {what}: n{i} says {said}");
        }
    };
    let text = "x".repeat(round + 1);
    fs::write(path(0, "d/a"), &text).expect("a file is written");
    look("written", "d/a", &|found| {
        found.is_some_and(|found| found.len() == round as u64 + 1)
    });
    let mode = 0o600 | (round as u32 % 8);
    fs::set_permissions(path(1, "d/a"), fs::Permissions::from_mode(mode)).expect("a mode is set");
    look("changed", "d/a", &|found| {
        found.is_some_and(|found| found.permissions().mode() & 0o777 == mode)
    });
    fs::hard_link(path(2, "d/a"), path(2, "d/l")).expect("a link is made");
    look("linked", "d/a", &|found| {
        found.is_some_and(|found| found.nlink() == 2)
    });
    fs::rename(path(0, "d/l"), path(0, "d/b")).expect("a file is renamed");
    look("renamed", "d/b", &|found| found.is_some());
    append(&path(1, "d/b"), b"more");
    look("appended", "d/a", &|found| {
        found.is_some_and(|found| found.len() == round as u64 + 5)
    });
    fs::remove_file(path(2, "d/a")).expect("a file is removed");
    look("removed", "d/a", &|found| found.is_none());
    look("removed", "d/b", &|found| {
        found.is_some_and(|found| found.nlink() == 1)
    });
    fs::rename(path(0, "d"), path(0, "e")).expect("a directory is renamed");
    look("gone with its directory", "d/b", &|found| found.is_none());
    fs::rename(path(1, "e"), path(1, "d")).expect("a directory is renamed");
    look("back with its directory", "d/b", &|found| found.is_some());
    fs::remove_file(path(2, "d/b")).expect("a file is removed");
    look("removed", "d/b", &|found| found.is_none());
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(path)
        .expect("a file is opened");
    file.write_all(bytes).expect("bytes are appended");
}

/// A tree that nobody changes is asked about once for each object and lease, however often it is looked at.
#[test]
fn what_nobody_changes_is_kept_by_the_kernel() {
    const FILES: usize = 50;
    /// The shortest that is left of a lease in use when something is kept under it.
    const KEPT: Duration = Duration::from_millis(500);
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let name = |f: usize| format!("tree/f{f}");
    fs::create_dir(cluster.at(1, "tree")).expect("a directory is made");
    for f in 0..FILES {
        fs::write(cluster.at(1, &name(f)), "x").expect("a file is written");
    }
    let clean = || cluster.metric(2, "hydfs_kernel_kept_total");
    until("files that are clean", SOON, || {
        let before = clean();
        for _ in 0..3 {
            (0..FILES).for_each(|f| drop(fs::metadata(cluster.at(2, &name(f)))));
        }
        // Each was kept at its first look.
        clean() - before < 2 * FILES as u64
    });
    let (before, began) = (clean(), Instant::now());
    for _ in 0..200 {
        for f in 0..FILES {
            fs::metadata(cluster.at(2, &name(f))).expect("a file is there");
        }
    }
    let leases = began.elapsed().as_millis() / KEPT.as_millis() + 2;
    let asked = clean() - before;
    println!("{} looks, {asked} questions, {leases} leases", 200 * FILES);
    // An object has an entry and attributes.
    let most = 2 * leases as u64 * (FILES as u64 + 2);
    assert!(asked <= most, "{asked} questions in {leases} leases");
}

/// The usual way to claim a job. The kernel of a mount that looks the old name up before another's rename, and the new one
/// after it, finds one file under both.
#[test]
fn a_file_that_all_mounts_rename_to_the_same_name_has_one_that_did_it() {
    const ROUNDS: usize = 200;
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    for dir in ["queue", "running"] {
        fs::create_dir(cluster.at(1, dir)).expect("a directory is made");
    }
    let all = Barrier::new(3);
    let claim = |i: usize| {
        let cluster = &cluster;
        let all = &all;
        move || -> Vec<bool> {
            let round = |n: usize| {
                let from = cluster.at(i, &format!("queue/{n}"));
                if i == 1 {
                    fs::write(&from, "job").expect("a file is written");
                }
                all.wait();
                let claimed = fs::rename(&from, cluster.at(i, &format!("running/{n}")));
                all.wait();
                match claimed {
                    Ok(()) => true,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
                    Err(error) => panic!("{error}"),
                }
            };
            (0..ROUNDS).map(round).collect()
        }
    };
    let claims: Vec<Vec<bool>> = thread::scope(|scope| {
        let claims: Vec<_> = cluster.members().map(|i| scope.spawn(claim(i))).collect();
        let ended = claims.into_iter().map(|one| one.join());
        ended.map(|claims| claims.expect("it ends")).collect()
    });
    let winners = |n: usize| claims.iter().filter(|claims| claims[n]).count();
    let wrong: Vec<(usize, usize)> = (0..ROUNDS)
        .map(|n| (n, winners(n)))
        .filter(|(_, winners)| *winners != 1)
        .collect();
    assert!(wrong.is_empty(), "(round, winners): {wrong:?}");
}
