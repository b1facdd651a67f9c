//! The mount outlives its worker: workers are killed under load, and nobody who uses the mount may notice anything but a
//! wait. Long: `HYDFS_KILLS=200 cargo test --release --test handover -- --nocapture`.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON, retry, text, until};
use lines::Log;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, SystemTime},
};

const KILLS: usize = 6;
/// Times that a worker is killed with writes in flight, and three times as often if none was.
const ROUNDS: usize = 3;

fn kills() -> usize {
    let asked = std::env::var("HYDFS_KILLS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(KILLS)
}

fn signal(pid: u32, number: i32) {
    // SAFETY: plain numbers.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::kill(pid as i32, number) };
    assert_eq!(sent, 0, "no process {pid}");
}

/// Takes (or gives back) a lock of the whole file, or says that somebody else has it.
fn flock(file: &File, what: i32) -> std::io::Result<()> {
    // SAFETY: an open descriptor and a number.
    #[allow(unsafe_code)]
    match unsafe { libc::flock(file.as_raw_fd(), what) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Makes, renames, links and removes names of its own, each with one outcome only, until told to stop.
fn name_by_name(dir: &Path, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = |name: &str| dir.join(format!("{name}{n}"));
        let must = |what: &str, done: std::io::Result<()>| {
            done.unwrap_or_else(|error| panic!("{what} of round {n}: {error}"));
        };
        let file = File::create_new(at("a"));
        let mut file = file.unwrap_or_else(|error| panic!("create of round {n}: {error}"));
        must("write", file.write_all(b"text"));
        must("rename", fs::rename(at("a"), at("b")));
        must("link", fs::hard_link(at("b"), at("c")));
        must("unlink", fs::remove_file(at("b")));
        must("mkdir", fs::create_dir(at("d")));
        must(
            "symlink",
            std::os::unix::fs::symlink("x", at("d").join("l")),
        );
        must("unlink in d", fs::remove_file(at("d").join("l")));
        must("rmdir", fs::remove_dir(at("d")));
        let content = fs::read(at("c"));
        assert_eq!(content.expect("read"), b"text", "round {n}");
        must("unlink c", fs::remove_file(at("c")));
        n += 1;
    }
    n
}

/// Copies a tree of files again and again and compares.
fn copy_trees(from: &Path, to: &Path, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let copy = to.join(format!("copy{n}"));
        for words in [
            vec!["cp", "-r", path(from), path(&copy)],
            vec!["diff", "-r", path(from), path(&copy)],
            vec!["rm", "-r", path(&copy)],
        ] {
            let out = Command::new(words[0]).args(&words[1..]).output();
            let out = out.expect("it runs");
            assert!(
                out.status.success(),
                "{words:?} of round {n}: {}{}",
                text(&out.stdout),
                text(&out.stderr)
            );
        }
        n += 1;
    }
    n
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Reads what is appended to a file through one descriptor, as `tail -f` does, until told to stop and at its end.
fn follow(file: &Path, stop: &AtomicBool) -> Vec<u8> {
    let mut file = File::open(file).expect("opened");
    let mut all = Vec::new();
    loop {
        let last = stop.load(Ordering::Relaxed);
        file.read_to_end(&mut all).expect("read");
        if last {
            return all;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Files of a few sizes outside the cluster.
fn sample_tree(at: &Path) {
    fs::create_dir_all(at.join("deep/er")).expect("made");
    for (n, bytes) in [0, 1, 5_000, 300_000, 2_500_000].into_iter().enumerate() {
        let content: Vec<u8> = (0..bytes).map(|i| (i * 7 + n) as u8).collect();
        for dir in ["", "deep", "deep/er"] {
            fs::write(at.join(dir).join(format!("f{n}")), &content).expect("written");
        }
    }
}

fn assert_no_errors(logs: &[Log]) {
    for (w, log) in logs.iter().enumerate() {
        assert!(log.errors.is_empty(), "writer {w}: {:?}", log.errors);
    }
}

#[test]
fn nobody_notices_that_workers_are_killed() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let tree = cluster.dir().join("tree");
    sample_tree(&tree);
    for dir in ["names", "copies"] {
        fs::create_dir(cluster.at(1, dir)).expect("made");
    }
    let log = cluster.at(1, "log");
    fs::write(&log, "").expect("made");

    // Held over all the kills: an unlinked file, a lock.
    let gone = cluster.at(1, "gone");
    let mut unlinked = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&gone)
        .expect("made");
    unlinked.write_all(b"before ").expect("written");
    fs::remove_file(&gone).expect("removed");
    let locked = File::create(cluster.at(1, "locked")).expect("made");
    flock(&locked, libc::LOCK_EX | libc::LOCK_NB).expect("free");
    let other = File::open(cluster.at(2, "locked")).expect("opened");

    let stop = AtomicBool::new(false);
    let enough = |_| stop.load(Ordering::Relaxed);
    let stalls: Vec<Duration> = thread::scope(|scope| {
        let writers: Vec<_> = [(0, 1, 1), (1, 1, 16), (2, 2, 16)]
            .map(|(w, i, sync_every)| {
                let at = cluster.at(i, "log");
                scope.spawn(move || lines::write_lines(&at, w, sync_every, enough))
            })
            .into_iter()
            .collect();
        let names = scope.spawn(|| name_by_name(&cluster.at(1, "names"), &stop));
        let copies = scope.spawn(|| copy_trees(&tree, &cluster.at(1, "copies"), &stop));
        let tail = scope.spawn(|| follow(&log, &stop));
        let stalls = thread::scope(|scope| {
            let kills = scope.spawn(|| {
                let kill = |n| {
                    thread::sleep(Duration::from_millis(300 + n as u64 * 37 % 500));
                    let stall = cluster.kill_worker(1);
                    println!("kill {n}: a call took {} ms", stall.as_millis());
                    stall
                };
                (0..kills()).map(kill).collect()
            });
            let stalls = kills.join();
            stop.store(true, Ordering::Relaxed);
            stalls
        });
        let stalls = stalls.expect("killed");
        let logs: Vec<Log> = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect();
        println!(
            "{} rounds of names, {} copies, lines {:?}",
            names.join().expect("names"),
            copies.join().expect("copies"),
            logs.iter().map(Log::acknowledged).collect::<Vec<_>>()
        );
        assert_no_errors(&logs);
        let bytes = fs::read(cluster.at(3, "log")).expect("read");
        lines::judge(&bytes, &logs);
        let followed = tail.join().expect("followed");
        assert!(bytes.starts_with(&followed), "the reader saw other bytes");
        stalls
    });
    println!("longest stall: {:?}", stalls.iter().max());

    assert!(
        flock(&other, libc::LOCK_EX | libc::LOCK_NB).is_err(),
        "the lock was lost"
    );
    flock(&locked, libc::LOCK_UN).expect("given back");
    flock(&other, libc::LOCK_EX | libc::LOCK_NB).expect("free again");
    unlinked.write_all(b"after").expect("written");
    let mut content = String::new();
    unlinked.seek(SeekFrom::Start(0)).expect("there");
    unlinked.read_to_string(&mut content).expect("read");
    assert_eq!(content, "before after");
    assert_eq!(
        fs::read_dir(cluster.at(1, "names"))
            .expect("listed")
            .count(),
        0
    );
}

/// A lock goes with the file that it was taken through, also when a later worker closes it.
#[test]
fn a_lock_ends_with_its_file_after_a_kill() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    let file = File::create(cluster.at(1, "locked")).expect("made");
    flock(&file, libc::LOCK_EX | libc::LOCK_NB).expect("free");
    cluster.kill_worker(1);
    let second = File::open(cluster.at(1, "locked")).expect("opened");
    assert!(flock(&second, libc::LOCK_EX | libc::LOCK_NB).is_err());
    drop(file);
    until("the lock's end", SOON, || {
        flock(&second, libc::LOCK_EX | libc::LOCK_NB).is_ok()
    });
}

/// A replica is paused, so that writes wait for it; the writer's worker is killed meanwhile. Each write is there once.
#[test]
fn a_write_in_flight_is_there_exactly_once() {
    in_flight(
        libc::O_SYNC,
        "a write that the worker before had in hand is there",
    );
}

/// The same of writes whose callers have their answer.
#[test]
fn a_write_that_was_answered_early_is_there_exactly_once() {
    in_flight(
        0,
        "what the worker before had answered early is on its replicas",
    );
}

fn in_flight(flags: i32, said: &str) {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let leader = cluster.leader();
    let paused = cluster
        .members()
        .find(|i| *i != 1 && *i != leader)
        .expect("a third member");
    let other = cluster
        .members()
        .find(|i| *i != 1 && *i != paused)
        .expect("a second member");
    let paths: Vec<PathBuf> = (0..4).map(|n| cluster.at(1, &format!("file{n}"))).collect();
    let open = |path| {
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create(true)
            .custom_flags(flags)
            .open(path)
            .expect("opened")
    };
    let mut files: Vec<File> = paths.iter().map(open).collect();
    let found = || cluster.log_text(1).matches(said).count();
    let mut rounds = 0;
    while rounds < ROUNDS || found() == 0 && rounds < 3 * ROUNDS {
        // Each file has its writer: the next write is a record and nothing else.
        for (w, file) in files.iter_mut().enumerate() {
            let line = lines::line(w, 2 * rounds);
            file.write_all(line.as_bytes()).expect("written");
        }
        // Known before: to start a program closes copies of the files, which waits for the writes.
        let (pid, worker) = (cluster.pid(paused), cluster.pid(1));
        signal(pid, libc::SIGSTOP);
        thread::scope(|scope| {
            let write = |(w, file): (usize, &mut File)| {
                let line = lines::line(w, 2 * rounds + 1);
                let one = file.try_clone().expect("cloned");
                scope.spawn(move || (&one).write_all(line.as_bytes()))
            };
            let writes: Vec<_> = files.iter_mut().enumerate().map(write).collect();
            thread::sleep(Duration::from_millis(300));
            signal(worker, libc::SIGKILL);
            // What has returned is seen by whoever reads from then on, though nobody serves the mount that wrote it.
            let read = |(w, write): (usize, &thread::ScopedJoinHandle<_>)| {
                let path = cluster.at(other, &format!("file{w}"));
                let records = 2 * rounds + 1 + usize::from(write.is_finished());
                let wanted: String = (0..records).map(|n| lines::line(w, n)).collect();
                scope.spawn(move || {
                    let found = fs::read_to_string(path).expect("read");
                    assert!(found.starts_with(&wanted), "file{w}: {found}");
                })
            };
            let reads: Vec<_> = writes.iter().enumerate().map(read).collect();
            thread::sleep(Duration::from_millis(200));
            signal(pid, libc::SIGCONT);
            for write in writes {
                let done = within_scope(write);
                done.unwrap_or_else(|error| panic!("a write of round {rounds}: {error}"));
            }
            reads.into_iter().for_each(within_scope);
        });
        rounds += 1;
        for (w, path) in paths.iter().enumerate() {
            let wanted: String = (0..2 * rounds).map(|n| lines::line(w, n)).collect();
            let found = fs::read_to_string(path).expect("read");
            assert!(found == wanted, "{} after round {rounds}", path.display());
        }
    }
    println!("{said}: {} times in {rounds} rounds", found());
    assert!(
        found() > 0,
        "no write was in flight when its worker was killed"
    );
}

fn within_scope<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    until("a write", SOON, || thread.is_finished());
    thread.join().expect("it ended")
}

/// The same way another binary comes to serve.
#[test]
fn an_upgrade_keeps_what_is_open() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    let new = cluster.dir().join("hydfs-new");
    fs::copy(common::BIN, &new).expect("copied");
    let mut file = File::create(cluster.at(1, "file")).expect("made");
    file.write_all(b"before ").expect("written");
    let out = cluster.hydfs(1, &["upgrade", "--bin", path(&new)]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    file.write_all(b"after").expect("written");
    let content = fs::read_to_string(cluster.at(1, "file")).expect("read");
    assert_eq!(content, "before after");
    let runs = fs::read_link(format!("/proc/{}/exe", cluster.pid(1))).expect("it runs");
    assert_eq!(runs, new);

    let bad = cluster.hydfs(1, &["upgrade", "--bin", "/bin/true"]);
    assert!(text(&bad.stderr).contains("/bin/true is no hydfs"));
    // It says what it should and does not serve: the one before goes on.
    let broken = cluster.dir().join("broken");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo hydfs 9.9.9\nexit 3\n";
    fs::write(&broken, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&broken, mode).expect("a program");
    let out = cluster.hydfs(1, &["upgrade", "--bin", path(&broken)]);
    assert!(
        text(&out.stderr).contains("the old one went on"),
        "{}",
        text(&out.stderr)
    );
    let runs = fs::read_link(format!("/proc/{}/exe", cluster.pid(1))).expect("it runs");
    assert_eq!(runs, new);
    file.write_all(b" all").expect("written");
}

/// Whoever waits while the worker is replaced is answered by the next one, never with an error.
#[test]
fn an_upgrade_keeps_those_who_wait() {
    let Some(cluster) = Cluster::up(2) else {
        return;
    };
    let new = cluster.dir().join("hydfs-new");
    fs::copy(common::BIN, &new).expect("copied");
    let held = File::create(cluster.at(2, "locked")).expect("made");
    flock(&held, libc::LOCK_EX).expect("locked");
    let waits = File::open(cluster.at(1, "locked")).expect("opened");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| flock(&waits, libc::LOCK_EX));
        let busy = scope.spawn(|| {
            let path = cluster.at(1, "busy");
            let mut options = OpenOptions::new();
            let options = options.create(true).append(true).custom_flags(libc::O_SYNC);
            let mut calls = 0;
            while !done.load(Ordering::SeqCst) {
                let mut file = options.open(&path).expect("opened");
                file.write_all(b"line\n").expect("written");
                calls += 1;
            }
            calls
        });
        for _ in 0..3 {
            let out = cluster.hydfs(1, &["upgrade", "--bin", path(&new)]);
            assert!(out.status.success(), "{}", text(&out.stderr));
        }
        done.store(true, Ordering::SeqCst);
        let calls: usize = within_scope(busy);
        let content = fs::read_to_string(cluster.at(2, "busy")).expect("read");
        assert_eq!(content, "line\n".repeat(calls));
        assert!(!waiter.is_finished(), "nobody has unlocked it");
        flock(&held, libc::LOCK_UN).expect("unlocked");
        within_scope(waiter).expect("the lock is had in the end");
    });
}

/// What the kernel keeps of a mount whose worker is replaced is not older than what others were told.
#[test]
fn an_upgrade_shows_nobody_what_was_before() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    let new = cluster.dir().join("hydfs-new");
    fs::copy(common::BIN, &new).expect("copied");
    fs::write(cluster.at(2, "file"), "text").expect("written");
    // Nobody writes to it: its attributes may be kept.
    let file = File::open(cluster.at(2, "file")).expect("opened");
    let at = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
    file.set_modified(at(1)).expect("set");
    let (set, done) = (AtomicU64::new(1), AtomicBool::new(false));
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let (path, mut looks) = (cluster.at(1, "file"), 0);
            while !done.load(Ordering::SeqCst) {
                let least = at(set.load(Ordering::SeqCst));
                let seen = fs::metadata(&path).and_then(|known| known.modified());
                let seen = seen.expect("attributes");
                assert!(seen >= least, "{seen:?} after {least:?} was set");
                looks += 1;
            }
            looks
        });
        let changes = scope.spawn(|| {
            let mut n = 1;
            while !done.load(Ordering::SeqCst) {
                n += 1;
                file.set_modified(at(n)).expect("set");
                set.store(n, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(20));
            }
            n
        });
        for _ in 0..4 {
            until("the kernel keeps attributes", SOON, || {
                cluster.metric(1, "hydfs_kernel_kept_total") > 30
            });
            let out = cluster.hydfs(1, &["upgrade", "--bin", path(&new)]);
            assert!(out.status.success(), "{}", text(&out.stderr));
        }
        done.store(true, Ordering::SeqCst);
        let (changes, looks): (u64, u64) = (within_scope(changes), within_scope(looks));
        println!("{changes} changes, {looks} looks");
        assert!(changes > 50 && looks > 1000);
    });
}

/// A worker that is killed before it serves has changed nothing for the one after it; too many of them end the member.
/// The next worker is not admitted before there is a majority again. The mount is served all the same.
#[test]
fn a_worker_that_begins_without_a_majority_serves_the_control_tree() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    fs::write(cluster.at(1, "file"), "text").expect("written");
    let file = File::create(cluster.at(1, "locked")).expect("made");
    flock(&file, libc::LOCK_EX | libc::LOCK_NB).expect("free");
    cluster.kill_all(&[2, 3]);
    signal(cluster.pid(1), libc::SIGKILL);
    until("the control tree", SOON, || {
        cluster
            .tree(1, "status")
            .contains("this member is rejoining")
    });
    // Its end comes while nothing can be agreed.
    drop(file);
    for i in [2, 3] {
        cluster.start(i);
    }
    let (read, _) = retry("a read", SOON, || fs::read_to_string(cluster.at(1, "file")));
    assert_eq!(read, "text");
    let again = File::open(cluster.at(2, "locked")).expect("opened");
    until("the lock's end", SOON, || {
        flock(&again, libc::LOCK_EX | libc::LOCK_NB).is_ok()
    });
}

#[test]
fn workers_that_never_serve_end_the_member() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    let mut file = File::create(cluster.at(1, "file")).expect("made");
    file.write_all(b"before ").expect("written");
    let worker = cluster.data(1).join("worker.pid");
    let now = || {
        let text = fs::read_to_string(&worker).unwrap_or_default();
        text.trim().parse::<u32>().unwrap_or(0)
    };
    // Two that begin, no more: then one serves.
    for _ in 0..3 {
        let before = now();
        signal(before, libc::SIGKILL);
        until("the next worker", SOON, || ![0, before].contains(&now()));
    }
    file.write_all(b"after").expect("written");
    let content = fs::read_to_string(cluster.at(1, "file")).expect("read");
    assert_eq!(content, "before after");

    // No worker can start where its settings are not to be read.
    let settings = cluster.data(1).join("member.toml");
    fs::write(&settings, "no settings").expect("written");
    signal(now(), libc::SIGKILL);
    let mount = cluster.mount(1);
    until("the member's end", SOON, || {
        let mounts = fs::read_to_string("/proc/mounts").expect("read");
        !mounts.contains(path(&mount))
    });
    assert!(
        cluster
            .log_text(1)
            .contains("another one takes the mount over")
    );
    assert!(
        cluster
            .log_text(1)
            .contains("the worker died (exit code 1)")
    );
}
