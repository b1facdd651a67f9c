//! Quotas: no mount, and no number of them, gets past a limit, and nothing that fits is refused.

use crate::{
    MEMBERS,
    attributes::{remove, set},
    common::{Cluster, SOON, shared::Shared, until, xattr},
    folders, sh,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

const BYTES: &str = "trusted.hydfs.quota.bytes";
const INODES: &str = "trusted.hydfs.quota.inodes";
const LIMIT: u64 = 2 << 20;
const RECORD: usize = 1000;

fn is_over(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EDQUOT)
}

fn append(path: &Path) -> File {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.expect("a file")
}

fn sizes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.and_then(|entry| entry.metadata()))
        .map(|found| found.expect("it stays").len())
        .sum()
}

/// Appends records until one is refused; the bytes that were acknowledged.
fn fill(path: &Path, byte: u8) -> u64 {
    let mut file = append(path);
    let mut written = 0;
    loop {
        match file.write(&[byte; RECORD]) {
            Ok(len) => written += len as u64,
            Err(error) if is_over(&error) => return written,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

#[test]
fn writers_on_all_mounts_stop_at_the_limit_of_bytes_and_not_before() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let folders = folders(&cluster, "q");
    fs::write(folders[0].join("old"), [7; 500]).expect("a file");
    set(&folders[0], BYTES, b"2M", 0).expect("root may");
    assert_eq!(xattr(&folders[2], BYTES).as_deref(), Some("2097152"));
    let done = AtomicBool::new(false);
    let written: u64 = thread::scope(|scope| {
        let watched = &folders[0];
        let watch = scope.spawn(|| {
            while !done.load(Relaxed) {
                assert!(sizes(watched) <= LIMIT, "more than the limit");
            }
        });
        // Three files of three writers each, one on each mount, and one file of a single writer on each mount.
        let writers: Vec<_> = (0..4 * MEMBERS)
            .map(|writer| {
                let name = match writer % 4 {
                    3 => format!("own{writer}"),
                    shared => format!("shared{shared}"),
                };
                let path = folders[writer / 4].join(name);
                scope.spawn(move || fill(&path, b'a' + writer as u8))
            })
            .collect();
        let written = writers.into_iter().map(|one| one.join().expect("it ends"));
        let written = written.sum();
        done.store(true, Relaxed);
        watch.join().expect("never more than the limit");
        written
    });
    for folder in &folders {
        assert_eq!(sizes(folder), written + 500);
    }
    // Whatever writers were promised in advance and did not use is free again.
    let left = LIMIT - written - 500;
    assert!(left < RECORD as u64, "{left} bytes are left");
    let mut last = append(&folders[1].join("last"));
    last.write_all(&vec![b'z'; left as usize])
        .expect("what fits is taken");
    let refused = last.write(b"1").expect_err("it is full");
    assert!(is_over(&refused), "{refused}");
    // The same bytes again are no growth; holes are.
    let old = OpenOptions::new().write(true).open(folders[2].join("old"));
    let old = old.expect("a file");
    old.write_all_at(&[8; 500], 0).expect("in place");
    assert!(is_over(&old.set_len(501).expect_err("it is full")));
    fs::remove_file(folders[0].join("shared0")).expect("it goes");
    until("room is free again", SOON, || old.set_len(100_000).is_ok());
    assert!(is_over(&old.set_len(LIMIT).expect_err("others are there")));
    remove(&folders[1], BYTES).expect("root may");
    old.set_len(LIMIT).expect("no limit any more");
    assert_eq!(xattr(&folders[0], BYTES), None);
}

#[test]
fn inodes_and_names_at_the_border() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let folders = folders(&cluster, "q");
    set(&folders[1], INODES, b"5", 0).expect("root may");
    let made: usize = thread::scope(|scope| {
        let makers: Vec<_> = (0..3 * MEMBERS)
            .map(|maker| {
                let path = folders[maker % MEMBERS].join(format!("d{maker}"));
                scope.spawn(move || match fs::create_dir(path) {
                    Ok(()) => 1,
                    Err(error) if is_over(&error) => 0,
                    Err(error) => panic!("{error}"),
                })
            })
            .collect();
        let made = makers.into_iter().map(|one| one.join().expect("it ends"));
        made.sum()
    });
    assert_eq!(made, 5);
    let used = xattr(&folders[2], "user.hydfs.quota").expect("it has a quota");
    assert!(used.ends_with("inodes 5 of 5"), "{used}");
    fs::write(cluster.at(1, "f"), "text").expect("outside");
    let crossing = fs::rename(cluster.at(1, "f"), folders[0].join("f"));
    let crossing = crossing.expect_err("it crosses the border");
    assert_eq!(crossing.raw_os_error(), Some(libc::EXDEV), "{crossing}");
    // As across file systems `mv` copies.
    sh(
        &cluster.mount(2),
        "rmdir q/d*; mv f q/f; cat q/f | grep -q text; mv q/f g",
    );
    assert_eq!(
        fs::read_to_string(cluster.at(1, "g")).expect("it is there"),
        "text"
    );
    let nonsense = set(&folders[0], INODES, b"many", 0).expect_err("no number");
    assert_eq!(nonsense.raw_os_error(), Some(libc::EINVAL));
    let file = set(&cluster.at(1, "g"), BYTES, b"1", 0).expect_err("no directory");
    assert_eq!(file.raw_os_error(), Some(libc::ENOTDIR));
}

/// Whoever takes a mount over, or a member's part, does not write past what was promised.
#[test]
fn a_limit_holds_while_workers_and_members_die() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    let folders = folders(&cluster, "q");
    set(&folders[0], BYTES, b"1M", 0).expect("root may");
    let limit = 1 << 20;
    thread::scope(|scope| {
        let writers: Vec<_> = folders
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != 2)
            .flat_map(|(at, folder)| (0..2).map(move |file| (at, folder.join(format!("f{file}")))))
            .map(|(at, path)| {
                scope.spawn(move || {
                    let mut file = append(&path);
                    loop {
                        match file.write(&[b'a' + at as u8; 500]) {
                            Err(error) if is_over(&error) => return,
                            // A call under way when its slot changed hands may be in doubt.
                            Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {}
                            Err(error) => panic!("{}: {error}", path.display()),
                            Ok(_) => {}
                        }
                    }
                })
            })
            .collect();
        cluster.kill_worker(1);
        cluster.kill(3);
        cluster.kill_worker(2);
        cluster.start(3);
        for writer in writers {
            writer.join().expect("it ends");
        }
    });
    let used = sizes(&folders[0]);
    assert!(used <= limit, "{used} of {limit} bytes");
    assert!(used > limit - 10_000, "only {used} of {limit} bytes");
}
