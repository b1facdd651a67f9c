//! Listings with attributes: who looks at what is listed asks for few names, and sees what other mounts have changed.

mod common;

use common::{Cluster, SOON, until};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Longer than anything is kept.
const KEPT: Duration = Duration::from_millis(1_500);
const OPERATIONS: [&str; 5] = ["lookup", "getattr", "getxattr", "readdir", "readdirplus"];

/// Requests of mount i's kernel so far, by operation; 0 for what it never asked for.
fn asked(cluster: &Cluster, i: usize) -> [u64; 5] {
    let page = cluster.tree(i, "metrics");
    OPERATIONS.map(|operation| {
        let name = format!("hydfs_mount_requests_total{{operation=\"{operation}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&name));
        count.map_or(0, |count| count.parse().expect("a number"))
    })
}

fn files(cluster: &Cluster, i: usize, count: usize) -> BTreeSet<String> {
    fs::create_dir(cluster.at(i, "d")).expect("a directory is made");
    let names: BTreeSet<String> = (0..count).map(|n| format!("f{n:04}")).collect();
    for name in &names {
        fs::write(cluster.at(i, &format!("d/{name}")), "x").expect("a file is written");
    }
    // Until then only their writer knows their size.
    until("writers to end", SOON, || {
        cluster.status(i).contains("writers 0")
    });
    names
}

fn listed(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory is listed");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let found = entry.metadata().expect("its attributes");
            assert_eq!(found.len(), 1, "{:?}", entry.file_name());
            entry.file_name().into_string().expect("text")
        })
        .collect()
}

/// Of each file `ls -l` asks for its access control list besides, which is at hand.
#[test]
fn who_looks_at_a_thousand_files_asks_for_few_of_them() {
    const FILES: usize = 1_000;
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let names = files(&cluster, 1, FILES);
    let tools: [&[&str]; 4] = [
        &["ls", "-l"],
        &["find", "-size", "-2"],
        &["du", "-a"],
        &["ls"],
    ];
    for tool in tools {
        thread::sleep(KEPT);
        let before = asked(&cluster, 2);
        let out = Command::new(tool[0])
            .args(&tool[1..])
            .current_dir(cluster.at(2, "d"))
            .output()
            .expect("it runs");
        assert!(out.status.success(), "{}", common::text(&out.stderr));
        let after = asked(&cluster, 2);
        let counts: Vec<String> = (0..OPERATIONS.len())
            .map(|at| format!("{} {}", OPERATIONS[at], after[at] - before[at]))
            .collect();
        println!("{}: {}", tool.join(" "), counts.join(", "));
        let lines = common::text(&out.stdout).lines().count();
        assert!((FILES..=FILES + 1).contains(&lines), "{lines} lines");
        let looks = after[0] + after[1] - before[0] - before[1];
        assert!(looks < FILES as u64 / 4, "{looks} questions");
    }
    assert_eq!(listed(&cluster.at(3, "d")), names);
}

fn rounds() -> usize {
    let wanted = std::env::var("HYDFS_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// All mounts list and look all the while; what one of them changes, each of them sees as soon as it is changed.
#[test]
fn fault_s21_what_is_listed_is_as_new_as_what_is_looked_up() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    files(&cluster, 1, 200);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for i in cluster.members() {
            let (cluster, done) = (&cluster, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for entry in fs::read_dir(cluster.at(i, "d")).expect("listed") {
                        drop(entry.and_then(|entry| entry.metadata()));
                    }
                    // The others need the processor, too.
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..rounds()).for_each(|round| change_and_look(&cluster, round));
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
}

fn change_and_look(cluster: &Cluster, round: usize) {
    let by = |step: usize| (round + step) % 3 + 1;
    let (old, new) = (format!("d/f{round:04}"), format!("d/g{round:04}"));
    let found = |i: usize, name: &str| fs::symlink_metadata(cluster.at(i, name));
    let mode = 0o600 | (round as u32 % 8);
    fs::set_permissions(cluster.at(by(0), &old), fs::Permissions::from_mode(mode))
        .expect("a mode is set");
    for i in cluster.members() {
        let seen = found(i, &old).expect("it is there").permissions().mode();
        assert_eq!(seen & 0o777, mode, "round {round}, n{i}");
    }
    fs::rename(cluster.at(by(1), &old), cluster.at(by(1), &new)).expect("a file is renamed");
    for i in cluster.members() {
        assert!(
            found(i, &old).is_err(),
            "round {round}, n{i}: {old} is there"
        );
        assert!(found(i, &new).is_ok(), "round {round}, n{i}: no {new}");
    }
    fs::write(cluster.at(by(2), &new), "longer").expect("a file is written");
    for i in cluster.members() {
        let len = found(i, &new).expect("it is there").len();
        assert_eq!(len, 6, "round {round}, n{i}");
    }
    fs::remove_file(cluster.at(by(0), &new)).expect("a file is removed");
    for i in cluster.members() {
        assert!(
            found(i, &new).is_err(),
            "round {round}, n{i}: {new} is there"
        );
    }
}

/// A directory that was opened with one worker is listed on with the next.
#[test]
fn who_lists_notices_no_change_of_workers() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    let names = files(&cluster, 1, 600);
    let dir = cluster.at(1, "d");
    for _ in 0..2 {
        let mut listing = fs::read_dir(&dir).expect("a directory is opened");
        let first = listing.next().expect("one").expect("an entry").file_name();
        cluster.kill_worker(1);
        assert_eq!(listed(&dir), names);
        let rest = listing.map(|entry| entry.expect("an entry").file_name());
        let all: BTreeSet<String> = rest
            .chain([first])
            .map(|name| name.into_string().expect("text"))
            .collect();
        assert_eq!(all, names);
    }
}

/// Two that remove a tree at once see names go, not "stale file handle".
#[test]
fn a_directory_that_is_open_and_removed_elsewhere_is_empty() {
    let Some(cluster) = Cluster::up(2) else {
        return;
    };
    let (here, there) = (cluster.at(1, "d"), cluster.at(2, "d"));
    fs::create_dir(&here).expect("a directory");
    fs::write(here.join("f"), "text").expect("a file");
    let open = fs::read_dir(&here).expect("open");
    fs::remove_dir_all(&there).expect("removed");
    let left: Vec<_> = open.map(|entry| entry.map(|entry| entry.path())).collect();
    assert!(left.is_empty(), "{left:?}");
}
