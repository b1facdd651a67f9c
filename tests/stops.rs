//! Members stop cleanly, the leader included, while others append and sync each line: nobody meets an error, and the
//! longest wait of anybody is a small part of what the death of a member costs in the same run.

mod common;

use common::{Cluster, until};
use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const MEMBERS: usize = 5;
/// Enough that each member has a part in some of them.
const FILES: usize = 6;
/// Load before and after a member goes.
const LOAD: Duration = Duration::from_millis(1500);
/// Longest wait for whoever went to be replaced in every slot that is written to.
const GO_ON: Duration = Duration::from_secs(20);

/// What the appenders of one disturbance met.
#[derive(Debug, Default)]
struct Met {
    longest: Duration,
    calls: usize,
    errors: Vec<String>,
}

/// Appends on all members but `gone` while `disturb` takes that one away; what the others met from then on.
fn disturbed(cluster: &Cluster, gone: usize, disturb: impl FnOnce()) -> Met {
    let (met, over, begun) = (
        Mutex::new(Met::default()),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    thread::scope(|scope| {
        let mut appenders = Vec::new();
        for i in cluster.members().filter(|i| *i != gone) {
            let (met, over, begun) = (&met, &over, &begun);
            appenders.push(scope.spawn(move || append(cluster, i, met, over, begun)));
        }
        thread::sleep(LOAD);
        begun.store(true, Ordering::Release);
        disturb();
        thread::sleep(LOAD);
        over.store(true, Ordering::Release);
        for appender in appenders {
            appender.join().expect("an appender ends");
        }
    });
    met.into_inner().expect("no appender panicked")
}

/// Each line goes to the next of a member's files, and is synced.
fn append(cluster: &Cluster, i: usize, met: &Mutex<Met>, over: &AtomicBool, begun: &AtomicBool) {
    let paths: Vec<PathBuf> = (0..FILES)
        .map(|f| cluster.at(i, &format!("appended-{i}-{f}")))
        .collect();
    let mut files: Vec<_> = paths
        .iter()
        .map(|path| {
            let open = OpenOptions::new().append(true).create(true).open(path);
            open.expect("a file is opened")
        })
        .collect();
    for n in 0.. {
        if over.load(Ordering::Acquire) {
            return;
        }
        let file = &mut files[n % FILES];
        let began = Instant::now();
        let outcome = writeln!(file, "n{i} line {n}").and_then(|()| file.sync_all());
        let took = began.elapsed();
        assert!(took < GO_ON, "n{i} waited {took:?} for one line");
        if begun.load(Ordering::Acquire) || outcome.is_err() {
            let mut met = met.lock().expect("no appender panicked");
            met.longest = met.longest.max(took);
            met.calls += 1;
            met.errors
                .extend(outcome.err().map(|error| format!("n{i}: {error}")));
        }
    }
}

#[test]
fn a_clean_stop_is_hardly_felt_by_the_others() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    let leader = cluster.leader();
    let other = cluster.members().find(|i| *i != leader).expect("a member");
    let mut longest = Duration::ZERO;
    for (gone, what) in [(other, "a member"), (leader, "the leader")] {
        cluster.wait_healthy();
        let met = disturbed(&cluster, gone, || cluster.stop(gone));
        println!(
            "{what} stopped: the longest of {} calls took {:.0} ms (goal 100 ms); errors {:?}",
            met.calls,
            met.longest.as_secs_f64() * 1e3,
            met.errors
        );
        assert!(met.errors.is_empty(), "{:?}", met.errors);
        assert!(met.calls > 0, "nobody appended");
        longest = longest.max(met.longest);
        cluster.start(gone);
    }
    cluster.wait_healthy();
    let victim = cluster
        .members()
        .find(|i| *i != cluster.leader())
        .expect("a member");
    let met = disturbed(&cluster, victim, || cluster.kill(victim));
    println!(
        "a member killed: the longest call took {:.0} ms",
        met.longest.as_secs_f64() * 1e3
    );
    assert!(
        longest < met.longest / 2,
        "a clean stop cost {longest:?}, a death {:?}",
        met.longest
    );
}

/// Programs with open files on the member that goes are told that nobody serves them any more: not that their descriptors are
/// bad, nor that their data is damaged.
#[test]
fn who_has_files_open_is_told_the_truth() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    cluster.wait_healthy();
    let path = cluster.at(2, "open");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .expect("a file");
    file.write_all(b"a line\n").expect("a line");
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    // That many more times it has done all that it does.
    let works_on = |times: usize| {
        let wanted = rounds.load(Ordering::Acquire) + times;
        until("calls to be answered", GO_ON, || {
            rounds.load(Ordering::Acquire) >= wanted
        });
    };
    let errors = thread::scope(|scope| {
        let using = scope.spawn(|| {
            let mut errors = BTreeSet::new();
            let mut note = |done: std::io::Result<()>| {
                if let Err(error) = done {
                    errors.insert(error.raw_os_error().unwrap_or_default());
                }
            };
            while !over.load(Ordering::Acquire) {
                note(file.write_all(b"another line\n"));
                note(file.sync_all());
                note(file.read_at(&mut [0; 6], 0).map(drop));
                note(file.lock());
                note(file.unlock());
                note(file.metadata().map(drop));
                rounds.fetch_add(1, Ordering::AcqRel);
            }
            errors
        });
        works_on(5);
        cluster.stop(2);
        works_on(2);
        over.store(true, Ordering::Release);
        using.join().expect("it goes on")
    });
    assert!(!errors.is_empty(), "the member is gone");
    let wrong = [libc::EBADF, libc::EIO];
    assert!(
        wrong.iter().all(|errno| !errors.contains(errno)),
        "{errors:?}"
    );
}
