//! Faults injected through `.cluster/faults`, on real processes: refused unless allowed, listed, timed, removed; and while
//! they last nothing acknowledged is lost.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON, poll, retry, until, within, write_synced};
use lines::{judge, write_lines};
use std::{
    fs,
    io::Error,
    time::{Duration, Instant},
};

fn inject(c: &Cluster, i: usize, name: &str, line: &str) -> Result<(), Error> {
    fs::write(c.at(i, ".cluster/faults").join(name), format!("{line}\n"))
}

fn listed(c: &Cluster, i: usize) -> Vec<String> {
    let entries = fs::read_dir(c.at(i, ".cluster/faults")).expect("the faults are listed");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[test]
fn faults_are_refused_unless_they_are_allowed() {
    let Some(c) = Cluster::up(1) else { return };
    let error = inject(&c, 1, "x", "disk=full for=60s").expect_err("it is refused");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert!(listed(&c, 1).is_empty());
    let error = fs::write(c.at(1, ".cluster/status"), "fine").expect_err("it is refused");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    let error = fs::write(c.at(1, ".cluster/x"), "fine").expect_err("it is refused");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
}

#[test]
fn injected_faults_work_are_listed_and_end() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_ALLOW_FAULTS", "true")]) else {
        return;
    };
    c.wait_healthy();
    for line in ["loss=30% to=n3", "cut to=n9 for=1s", "pause for=1s"] {
        let error = inject(&c, 1, "bad", line).expect_err(line);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{line}: {error}");
    }
    if listed(&c, 1).contains(&"bad".to_owned()) {
        fs::remove_file(c.at(1, ".cluster/faults/bad")).expect("the name is removed");
    }

    // Loss and delay: slower, and nothing else.
    fs::write(c.at(1, "log"), "").expect("an empty file is made");
    inject(&c, 1, "lossy", "loss=30% with=all for=300s").expect("a fault");
    inject(&c, 2, "slow", "delay=20ms to=n1 for=300s").expect("a fault");
    let shown = fs::read_to_string(c.at(1, ".cluster/faults/lossy")).expect("it is read");
    assert!(
        shown.starts_with("loss=30% with=all for=300s\n") && shown.contains("s left"),
        "{shown}"
    );
    assert!(c.status(1).contains("injected fault lossy: loss=30%"));
    let path = c.at(1, "log");
    let log = within("writing under loss", 2 * SOON, move || {
        write_lines(&path, 0, 5, |n| n == 60)
    });
    assert_eq!(log.synced, 60, "{:?}", log.errors);
    fs::remove_file(c.at(1, ".cluster/faults/lossy")).expect("it is removed");
    fs::remove_file(c.at(2, ".cluster/faults/slow")).expect("it is removed");
    assert!(listed(&c, 1).is_empty() && listed(&c, 2).is_empty());
    for i in c.members() {
        let (bytes, _) = retry("reading", SOON, || fs::read(c.at(i, "log")));
        judge(&bytes, std::slice::from_ref(&log));
    }

    // A full disk on one member of three: writes wait or say so, and go on when it has ended.
    inject(&c, 2, "full", "disk=full for=4s").expect("a fault");
    until("the full disk to be known", SOON, || {
        c.status(1).contains("n2: disk full")
    });
    until("the full disk to have room again", SOON, || {
        !c.status(1).contains("n2: disk full")
    });
    assert!(listed(&c, 2).is_empty(), "it ends by itself");
    until("a write after it", SOON, || {
        write_synced(&c.at(3, "after"), b"after").is_ok()
    });

    // Copies that cannot be read here are read elsewhere.
    inject(&c, 3, "unreadable", "disk=eio for=300s").expect("a fault");
    let (bytes, _) = retry("reading", SOON, || fs::read(c.at(3, "after")));
    assert_eq!(bytes, b"after");
    fs::remove_file(c.at(3, ".cluster/faults/unreadable")).expect("it is removed");
    c.wait_healthy();
}

/// A member that can keep nothing any more, and still answers: nobody would take its place.
#[test]
fn a_member_whose_disk_fails_ends_and_nobody_is_answered_with_an_error() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_ALLOW_FAULTS", "true")]) else {
        return;
    };
    c.wait_healthy();
    fs::write(c.at(1, "log"), "").expect("an empty file is made");
    let victim = c.leader();
    let before = c.pid(victim);
    let paths: Vec<_> = c.members().map(|i| c.at(i, "log")).collect();
    let writers: Vec<_> = (0..)
        .zip(paths)
        .map(|(writer, path)| {
            std::thread::spawn(move || {
                let began = Instant::now();
                write_lines(&path, writer, 1, move |_| {
                    began.elapsed() > Duration::from_secs(6)
                })
            })
        })
        .collect();
    until("lines to be written", SOON, || {
        fs::metadata(c.at(1, "log")).is_ok_and(|log| log.len() > 5_000)
    });
    inject(&c, victim, "x", "disk=broken for=300s").expect("a fault");
    let logs: Vec<_> = writers
        .into_iter()
        .map(|writer| writer.join().expect("it writes"))
        .collect();
    for log in &logs {
        assert!(
            log.errors.is_empty() && log.synced > 20,
            "{} lines, {:?}",
            log.synced,
            log.errors
        );
    }
    assert_ne!(
        c.pid(victim),
        before,
        "the worker goes on with a disk that failed"
    );
    c.wait_healthy();
    for i in c.members() {
        let (bytes, _) = retry("reading", SOON, || fs::read(c.at(i, "log")));
        judge(&bytes, &logs);
    }
}

#[test]
fn a_member_that_is_cut_off_is_missed_and_returns() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_ALLOW_FAULTS", "true")]) else {
        return;
    };
    c.wait_healthy();
    fs::write(c.at(1, "log"), "").expect("an empty file is made");
    let leader = c.leader();
    let victim = c.members().find(|i| *i != leader).expect("three members");
    // What an application wrote before it must be there after it.
    let path = c.at(victim, "log");
    let before = within("writing before the cut", SOON, move || {
        write_lines(&path, 0, 1, |n| n == 10)
    });
    assert_eq!(before.synced, 10, "{:?}", before.errors);
    inject(&c, victim, "away", "cut with=all for=10s").expect("a fault");
    let name = format!("n{victim} down");
    let missed = until("the member to be missed", SOON, || {
        c.status(leader).contains(&name)
    });
    println!("missed after {missed:?}");
    let path = c.at(leader, "log");
    let during = within("writing while one is cut off", SOON, move || {
        write_lines(&path, 1, 1, |n| n == 10)
    });
    assert_eq!(during.synced, 10, "{:?}", during.errors);
    let began = Instant::now();
    assert!(
        poll(Duration::from_secs(120), || c
            .members()
            .all(|i| c.healthy(i, 3))),
        "it does not return: {}",
        c.status(victim)
    );
    println!("healthy again after {:?}", began.elapsed());
    for i in c.members() {
        let (bytes, _) = retry("reading", SOON, || fs::read(c.at(i, "log")));
        judge(&bytes, &[before.clone(), during.clone()]);
    }
}
