//! Members die by SIGKILL, the leader included, while files are written and read: what was acknowledged is there, in
//! order, and work goes on. Times are printed, not asserted beyond generous deadlines.
//!
//! `HYDFS_KILLS` sets the kills of the long run.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON, replicas, retry, until, within, write_synced};
use lines::{judge, judge_samples, sample, write_lines};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const MEMBERS: usize = 5;
/// How long a member stays dead, so that it is expired and its copies are made anew.
const DEAD: Duration = Duration::from_secs(5);
/// The next kill waits this long for the cluster to be healthy again.
const HEALTHY: Duration = Duration::from_secs(30);
/// Enough files that every member leads slots of some.
const FILES: usize = 24;
/// Reads, and writes with one member dead, have to go on within this time (goal: 5 s; 3 s, or 5 s where the leader died).
const GO_ON: Duration = Duration::from_secs(15);

fn kills() -> usize {
    std::env::var("HYDFS_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(4)
}

fn content(f: usize) -> Vec<u8> {
    (0..20_000 + f * 997)
        .map(|at| (at * 31 + f * 7) as u8)
        .collect()
}

/// Writes the files through all mounts in turn and returns when fsync has acknowledged each.
fn fill(cluster: &Cluster) {
    for f in 0..FILES {
        let path = cluster.at(f % MEMBERS + 1, &format!("f{f}"));
        within("writing a file", SOON, move || {
            write_synced(&path, &content(f))
        })
        .expect("a file is written");
    }
}

/// Waits until file `f` can be read on a mount; its bytes have to be right.
fn must_read(path: &Path, f: usize, deadline: Duration) -> Duration {
    let at = path.to_owned();
    let (bytes, took) = within("reading a file", deadline + SOON, move || {
        retry("reading a file", deadline, || fs::read(&at))
    });
    assert!(
        bytes == content(f),
        "{} has {} bytes, not the {} that fsync acknowledged",
        path.display(),
        bytes.len(),
        content(f).len()
    );
    took
}

/// All files are right on all of these members; the longest that one read took.
fn all_read(cluster: &Cluster, on: &[usize], deadline: Duration) -> Duration {
    thread::scope(|scope| {
        let readers: Vec<_> = on
            .iter()
            .map(|i| {
                scope.spawn(move || {
                    (0..FILES)
                        .map(|f| must_read(&cluster.at(*i, &format!("f{f}")), f, deadline))
                        .max()
                        .unwrap_or_default()
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("files are read"))
            .max()
            .unwrap_or_default()
    })
}

fn others(cluster: &Cluster, dead: &[usize]) -> Vec<usize> {
    cluster.members().filter(|i| !dead.contains(i)).collect()
}

#[test]
fn fault_s1_lines_stay_whole_and_in_order_while_members_die_and_return() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    fs::write(cluster.at(1, "log"), "").expect("an empty file is made");
    let paths: Vec<PathBuf> = cluster.members().map(|i| cluster.at(i, "log")).collect();
    let done = AtomicBool::new(false);
    let (logs, sampled, killed) = thread::scope(|scope| {
        let (paths, done) = (&paths, &done);
        let readers: Vec<_> = (0..2)
            .map(|first| scope.spawn(move || sample(paths, first, done)))
            .collect();
        let writers: Vec<_> = paths
            .iter()
            .enumerate()
            .map(|(w, path)| {
                scope.spawn(move || write_lines(path, w, 10, |_| done.load(Ordering::Relaxed)))
            })
            .collect();
        let killer = scope.spawn(|| kill_in_turn(&cluster)).join();
        done.store(true, Ordering::Relaxed);
        let logs: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        let sampled: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        (logs, sampled, killer)
    });
    let killed = killed.expect("members were killed and came back");
    let logs: Vec<_> = logs
        .into_iter()
        .map(|log| log.expect("a writer ended"))
        .collect();
    for (w, log) in logs.iter().enumerate() {
        println!(
            "writer {w}: {} lines, {} acknowledged, {} by fsync; errors {:?}",
            log.written.len(),
            log.acknowledged(),
            log.synced,
            log.errors
        );
    }
    println!("healthy after {:?}", cluster.wait_healthy());
    let last = fs::read(&paths[0]).expect("the file is read");
    judge(&last, &logs);
    for path in &paths {
        assert!(
            fs::read(path).expect("the file is read") == last,
            "{} differs from n1",
            path.display()
        );
    }
    for one in sampled {
        let (samples, errors) = one.expect("a reader ended");
        println!("{} reads; errors {errors:?}", samples.len());
        judge_samples(&samples, &last);
    }
    for (w, log) in logs
        .iter()
        .enumerate()
        .filter(|(w, _)| !killed.contains(&(w + 1)))
    {
        assert!(
            log.errors.is_empty(),
            "writer {w} met errors on n{}, which was never killed: {:?}",
            w + 1,
            log.errors
        );
    }
    assert!(
        logs.iter().all(|log| log.synced > 0),
        "a writer had nothing acknowledged by fsync"
    );
}

/// Kills the leader and another member in turn, starts it again, waits for health. Who was killed.
fn kill_in_turn(cluster: &Cluster) -> BTreeSet<usize> {
    let mut killed = BTreeSet::new();
    thread::sleep(Duration::from_secs(2));
    for turn in 0..kills() {
        let leader = cluster.leader();
        let victim = if turn % 2 == 0 {
            leader
        } else {
            others(cluster, &[leader])[turn % (MEMBERS - 1)]
        };
        cluster.kill(victim);
        killed.insert(victim);
        // Every second pair of victims comes back before anybody has missed them.
        if turn % 4 < 2 {
            thread::sleep(DEAD);
        }
        cluster.start(victim);
        let began = Instant::now();
        let well = |i| cluster.healthy(i, MEMBERS);
        while !cluster.members().all(well) && began.elapsed() < HEALTHY {
            thread::sleep(Duration::from_millis(100));
        }
        let who = if victim == leader {
            ", the leader,"
        } else {
            ""
        };
        println!(
            "n{victim}{who} was killed and started; healthy {:.1} s later: {}",
            began.elapsed().as_secs_f64(),
            cluster.members().all(well)
        );
    }
    killed
}

#[test]
fn fault_s4_two_members_die_at_once_and_every_synced_file_is_read() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    fill(&cluster);
    let leader = cluster.leader();
    let dead = [leader, others(&cluster, &[leader])[0]];
    cluster.kill_all(&dead);
    let took = all_read(&cluster, &others(&cluster, &dead), GO_ON);
    println!(
        "n{} (leader) and n{} killed: the slowest read took {:.1} s (goal 5 s)",
        dead[0],
        dead[1],
        took.as_secs_f64()
    );
    dead.iter().for_each(|i| cluster.start(*i));
    println!(
        "healthy {:.1} s after their start",
        cluster.wait_healthy().as_secs_f64()
    );
    all_read(&cluster, &others(&cluster, &[]), GO_ON);
}

#[test]
fn writes_go_on_when_a_member_dies() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    fill(&cluster);
    let leader = cluster.leader();
    for (victim, what) in [
        (others(&cluster, &[leader])[1], "a member"),
        (leader, "the leader"),
    ] {
        cluster.wait_healthy();
        let alive = others(&cluster, &[victim]);
        cluster.kill(victim);
        let began = Instant::now();
        let failed: usize = thread::scope(|scope| {
            let writers: Vec<_> = alive
                .iter()
                .enumerate()
                .map(|(at, i)| {
                    let cluster = &cluster;
                    scope.spawn(move || {
                        (0..FILES)
                            .skip(at)
                            .step_by(alive_count())
                            .map(|f| write_again(cluster, *i, f))
                            .sum::<usize>()
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().expect("files are written"))
                .sum()
        });
        println!(
            "{what} killed: all {FILES} files were written and synced after {:.1} s, {failed} errors (goal 3 s, leader 5 s)",
            began.elapsed().as_secs_f64()
        );
        all_read(&cluster, &alive, GO_ON);
        cluster.start(victim);
    }
    println!(
        "healthy {:.1} s after the last start",
        cluster.wait_healthy().as_secs_f64()
    );
    all_read(&cluster, &others(&cluster, &[]), GO_ON);
}

fn alive_count() -> usize {
    MEMBERS - 1
}

/// Writes a file's bytes in place and syncs them; how many errors it took.
fn write_again(cluster: &Cluster, i: usize, f: usize) -> usize {
    use std::{cell::Cell, io::Write};
    let (path, errors) = (cluster.at(i, &format!("f{f}")), Cell::new(0));
    let (_, took) = retry("writing a file", GO_ON, || {
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all(&content(f))?;
            file.sync_all()
        };
        write().inspect_err(|error| {
            println!("{}: {error}", path.display());
            errors.set(errors.get() + 1);
        })
    });
    assert!(took < GO_ON, "{}: a write took {took:?}", path.display());
    errors.get()
}

#[test]
fn fault_s1_all_replicas_die_right_after_fsync_and_return_with_the_data() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    // While copies are still moved about more members than three keep them.
    cluster.wait_healthy();
    let path = cluster.at(1, "f0");
    let appended = cluster.at(2, "log");
    write_synced(&path, &content(0)).expect("a file is written");
    let all = replicas(&path);
    assert_eq!(all.len(), 3, "{all:?} keep the file");
    fs::write(&appended, "").expect("an empty file is made");
    // Appends that nobody has merged, on the same members.
    let log = write_lines(&appended, 0, 1, |n| n == 20);
    assert_eq!((log.synced, log.errors.len()), (20, 0), "{:?}", log.errors);
    let both: Vec<usize> = cluster
        .members()
        .filter(|i| all.contains(i) || replicas(&appended).contains(i))
        .collect();
    cluster.kill_all(&both);
    both.iter().for_each(|i| cluster.start(*i));
    println!(
        "{both:?} killed and started; healthy after {:.1} s",
        cluster.wait_healthy().as_secs_f64()
    );
    for i in cluster.members() {
        must_read(&cluster.at(i, "f0"), 0, SOON);
        judge(
            &fs::read(cluster.at(i, "log")).expect("the file is read"),
            std::slice::from_ref(&log),
        );
    }
}

#[test]
fn fault_s1_all_members_die_and_return_with_the_data() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    fill(&cluster);
    fs::write(cluster.at(1, "log"), "").expect("an empty file is made");
    let logs = thread::scope(|scope| {
        let writers: Vec<_> = cluster
            .members()
            .map(|i| {
                let path = cluster.at(i, "log");
                scope.spawn(move || write_lines(&path, i - 1, 1, |n| n == 10))
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer ended"))
            .collect::<Vec<_>>()
    });
    cluster.kill_all(&others(&cluster, &[]));
    cluster.members().for_each(|i| cluster.start(i));
    println!(
        "all killed and started; healthy after {:.1} s",
        cluster.wait_healthy().as_secs_f64()
    );
    all_read(&cluster, &others(&cluster, &[]), SOON);
    for i in cluster.members() {
        judge(
            &fs::read(cluster.at(i, "log")).expect("the file is read"),
            &logs,
        );
    }
    let path = cluster.at(3, "after");
    until("a new file", SOON, || write_synced(&path, b"after").is_ok());
    assert_eq!(
        fs::read(cluster.at(5, "after")).expect("the file is read"),
        b"after"
    );
}
