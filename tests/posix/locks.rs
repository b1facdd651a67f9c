//! `flock` and `fcntl` locks: they exclude on all mounts, end with their owner, and those who wait get their turn.

#![allow(
    unsafe_code,
    reason = "locks of files have no safe wrapper for all their sorts"
)]

use super::*;
use crate::common::{SOON, shared::Shared, until};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::AsRawFd,
    path::PathBuf,
};

fn open(path: PathBuf) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).expect("opened")
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.expect_err("refused").raw_os_error()
}

fn flock(file: &File, how: libc::c_int) -> io::Result<()> {
    // SAFETY: an open descriptor.
    done(unsafe { libc::flock(file.as_raw_fd(), how) })
}

/// A lock of `len` bytes from `start`, 0 for all that follow; what the call left in the structure.
fn fcntl(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    (start, len): (i64, i64),
) -> io::Result<libc::flock> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    (range.l_type, range.l_start, range.l_len) = (kind as _, start, len);
    // SAFETY: an open descriptor and a valid structure.
    done(unsafe { libc::fcntl(file.as_raw_fd(), command, &mut range) })?;
    Ok(range)
}

#[test]
fn flock_excludes_on_all_mounts() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "locks");
    let files: Vec<File> = at.iter().map(|at| open(at.join("f"))).collect();
    let try_to = |i: usize, how| flock(&files[i], how | libc::LOCK_NB);
    try_to(0, libc::LOCK_EX).unwrap();
    assert_eq!(errno(try_to(1, libc::LOCK_EX)), Some(libc::EWOULDBLOCK));
    assert_eq!(errno(try_to(2, libc::LOCK_SH)), Some(libc::EWOULDBLOCK));
    // Another open file of the same mount is another owner.
    let second = open(at[0].join("f"));
    assert_eq!(
        errno(flock(&second, libc::LOCK_SH | libc::LOCK_NB)),
        Some(libc::EWOULDBLOCK)
    );
    try_to(0, libc::LOCK_SH).unwrap();
    try_to(2, libc::LOCK_SH).unwrap();
    assert_eq!(errno(try_to(0, libc::LOCK_EX)), Some(libc::EWOULDBLOCK));
    try_to(2, libc::LOCK_UN).unwrap();
    try_to(0, libc::LOCK_EX).unwrap();
    // It ends with the open file; the kernel tells of that after close(2) has returned.
    drop(files.into_iter().next());
    until("the lock to go", SOON, || {
        flock(&second, libc::LOCK_EX | libc::LOCK_NB).is_ok()
    });
}

#[test]
fn fcntl_locks_ranges_on_all_mounts() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "locks");
    let files: Vec<File> = at.iter().map(|at| open(at.join("f"))).collect();
    let set = |i: usize, kind, range| fcntl(&files[i], libc::F_SETLK, kind, range).map(drop);
    set(0, libc::F_WRLCK, (0, 10)).unwrap();
    set(1, libc::F_WRLCK, (10, 10)).unwrap();
    assert_eq!(errno(set(1, libc::F_RDLCK, (9, 1))), Some(libc::EAGAIN));
    assert_eq!(errno(set(2, libc::F_WRLCK, (0, 0))), Some(libc::EAGAIN));
    let found = fcntl(&files[2], libc::F_GETLK, libc::F_RDLCK, (5, 100)).unwrap();
    assert_eq!(i32::from(found.l_type), libc::F_WRLCK);
    assert_eq!((found.l_start, found.l_len), (0, 10));
    set(0, libc::F_UNLCK, (0, 0)).unwrap();
    set(2, libc::F_RDLCK, (0, 5)).unwrap();
    set(0, libc::F_RDLCK, (0, 5)).unwrap();
    let free = fcntl(&files[1], libc::F_GETLK, libc::F_WRLCK, (20, 0)).unwrap();
    assert_eq!(i32::from(free.l_type), libc::F_UNLCK);
    // Any close of the file by the process ends its locks on it, on that mount.
    drop(open(at[2].join("f")));
    drop(open(at[0].join("f")));
    set(1, libc::F_WRLCK, (0, 0)).unwrap();
}

/// Locks of open files (OFD): one process may exclude itself, and they end with the last descriptor.
#[test]
fn locks_of_open_files() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "locks");
    let files: Vec<File> = at.iter().map(|at| open(at.join("f"))).collect();
    let same = open(at[0].join("f"));
    let set = |file: &File| fcntl(file, libc::F_OFD_SETLK, libc::F_WRLCK, (0, 0)).map(drop);
    set(&files[0]).unwrap();
    assert_eq!(errno(set(&same)), Some(libc::EAGAIN));
    assert_eq!(errno(set(&files[1])), Some(libc::EAGAIN));
    drop(files.into_iter().next());
    until("the lock to go", SOON, || set(&same).is_ok());
}

/// Sixty times: read a number, add one, write it, under one lock from three mounts. None is lost.
#[test]
fn who_waits_gets_the_lock() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "locks");
    fs::write(at[0].join("n"), "0\n").unwrap();
    let count = |at: &PathBuf| {
        let at = at.clone();
        std::thread::spawn(move || {
            sh(
                &at,
                "for i in $(seq 20); do flock lock sh -c 'n=$(cat n); echo $((n + 1)) >n'; done",
            )
        })
    };
    let counting: Vec<_> = at.iter().map(count).collect();
    for one in counting {
        one.join().expect("counted");
    }
    assert_eq!(fs::read_to_string(at[1].join("n")).unwrap(), "60\n");
}

#[test]
fn a_wait_ends_and_locks_of_the_dead_are_free() {
    let envs = [("HYDFS_LOCK_TIMEOUT_MS", "300")];
    let Some(cluster) = Cluster::up_with(MEMBERS, &[], &envs) else {
        return;
    };
    let at = folders(&cluster, "locks");
    let leader = cluster.leader();
    let holder = cluster.members().find(|i| *i != leader).unwrap();
    let (held, waits) = (
        open(at[holder - 1].join("f")),
        open(at[leader - 1].join("f")),
    );
    flock(&held, libc::LOCK_EX).unwrap();
    assert_eq!(errno(flock(&waits, libc::LOCK_EX)), Some(libc::ETIMEDOUT));
    let blocked = fcntl(&waits, libc::F_SETLKW, libc::F_RDLCK, (0, 1)).map(drop);
    assert_eq!(errno(blocked), Some(libc::ETIMEDOUT));
    cluster.kill(holder);
    until("the lock of the dead member to go", SOON, || {
        flock(&waits, libc::LOCK_EX | libc::LOCK_NB).is_ok()
    });
    cluster.start(holder);
    cluster.wait_healthy();
    let again = open(at[holder - 1].join("f"));
    assert_eq!(
        errno(flock(&again, libc::LOCK_SH | libc::LOCK_NB)),
        Some(libc::EWOULDBLOCK)
    );
}

/// SQLite with a rollback journal, written from all mounts at once: every row is there, the database is whole.
#[test]
fn a_database_on_all_mounts() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "db");
    const INSERT: &str = r#"python3 - "$0" <<'END'
import sqlite3, sys
db = sqlite3.connect("d", timeout=100)
for n in range(15):
    with db:
        db.execute("insert into rows values (?, ?)", (sys.argv[1], n))
END"#;
    let python = |at: &PathBuf, code: &str| sh(at, &format!("python3 -c '{code}'"));
    let connect = "import sqlite3; db = sqlite3.connect(\"d\", timeout=100)";
    python(
        &at[0],
        &format!("{connect}; db.execute(\"create table rows (who, n, unique (who, n))\")"),
    );
    let insert = |(i, at): (usize, &PathBuf)| {
        let (at, script) = (at.clone(), INSERT.replace("\"$0\"", &format!("n{i}")));
        std::thread::spawn(move || sh(&at, &script))
    };
    let inserting: Vec<_> = at.iter().enumerate().map(insert).collect();
    for one in inserting {
        one.join().expect("inserted");
    }
    for at in &at {
        let counts = "print(*db.execute(\"select count(*) from rows\").fetchone())";
        assert_eq!(python(at, &format!("{connect}; {counts}")), "45\n");
        let whole = "print(*db.execute(\"pragma integrity_check\").fetchone())";
        assert_eq!(python(at, &format!("{connect}; {whole}")), "ok\n");
    }
}

/// The kernel gives the numbers of owners again as soon as a file is closed: what is given back late is the earlier one's.
#[test]
fn flock_excludes_those_who_open_again_and_again() {
    let Some(cluster) = Cluster::up(2) else {
        return;
    };
    let made = File::create(cluster.at(1, "turns")).expect("made");
    drop(made);
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (path, inside) = (cluster.at(1 + n % 2, "turns"), &inside);
            scope.spawn(move || {
                for turn in 0..60 {
                    let file = File::open(&path).expect("opened");
                    file.lock().expect("locked");
                    let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert_eq!(others, 0, "turn {turn} of {n}");
                    std::thread::yield_now();
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
}
