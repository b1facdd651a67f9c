//! `.cluster/events`: what happens in the cluster, a line each, to be followed and polled.

mod common;

use common::{Cluster, SOON, text, until};
use std::{
    fs::{self, File},
    io::Read,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// An open `.cluster/events`.
struct Follower {
    file: File,
    seen: String,
}

impl Follower {
    fn open(cluster: &Cluster, i: usize) -> Self {
        Self {
            file: File::open(cluster.at(i, ".cluster/events")).expect("events are opened"),
            seen: String::new(),
        }
    }

    /// What was not read before.
    fn read(&mut self) -> String {
        let mut new = String::new();
        self.file.read_to_string(&mut new).expect("events are read");
        self.seen.push_str(&new);
        new
    }

    /// poll(2): whether there is something to read within so long.
    fn poll(&self, within: Duration) -> bool {
        let mut wanted = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, whose descriptor is open.
        #[allow(unsafe_code)]
        let ready = unsafe { libc::poll(&mut wanted, 1, within.as_millis() as i32) };
        assert!(ready >= 0 && wanted.revents & libc::POLLERR == 0);
        ready == 1
    }

    /// Reads whenever it is woken, until there is a line with this.
    fn wait_for(&mut self, line: &str) {
        let mut wakes = 0;
        while !self.seen.lines().any(|seen| seen.contains(line)) {
            assert!(self.poll(SOON), "never woken for {line:?}: {}", self.seen);
            let new = self.read();
            assert!(!new.is_empty(), "woken for nothing");
            wakes += 1;
            assert!(wakes < 1_000, "no {line:?}: {}", self.seen);
        }
        self.seen.clear();
    }
}

#[test]
fn whoever_polls_is_woken_when_a_member_dies_and_when_it_is_back() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    cluster.wait_healthy();
    let mut follower = Follower::open(&cluster, 1);
    assert!(follower.poll(Duration::ZERO), "there is something to read");
    let first = follower.read();
    assert!(
        first.lines().any(|line| line.ends_with(" n1 watches")),
        "{first}"
    );
    // At its end: nothing, at once, and nothing to wake for.
    until("quiet", SOON, || {
        follower.read();
        !follower.poll(Duration::from_millis(500))
    });
    assert_eq!(follower.read(), "");
    follower.seen.clear();

    cluster.kill(3);
    follower.wait_for(" n3 failed");
    cluster.start(3);
    follower.wait_for(" n3 joined");

    // A line is a time and a name before all else; others read the same.
    let all = cluster.tree(2, "events");
    for line in all.lines() {
        let mut words = line.split(' ');
        let time = words.next().expect("a time");
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        let name = words.next().expect("a name");
        assert!(["n1", "n2", "n3"].contains(&name), "{line}");
    }
    assert!(
        all.contains(" n3 failed") && all.contains(" n3 joined"),
        "{all}"
    );
    let size = fs::metadata(cluster.at(2, ".cluster/events"))
        .expect("there")
        .size();
    assert!(size >= all.len() as u64);
}

struct Tail(Child);

impl Drop for Tail {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Two that wait while the worker of their mount is killed: one in poll(2), one is `tail -f`.
#[test]
fn whoever_follows_goes_on_with_the_next_worker() {
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    cluster.wait_healthy();
    let out = cluster.dir().join("tail");
    let tail = Command::new("tail")
        .args(["-n", "1", "-s", "0.1", "-f"])
        .arg(cluster.at(1, ".cluster/events"))
        .stdout(File::create(&out).expect("a file"))
        .stderr(Stdio::null())
        .spawn();
    let _tail = Tail(tail.expect("tail runs"));
    let followed = || text(&fs::read(&out).expect("read"));
    until("tail to begin", SOON, || !followed().is_empty());

    let mut follower = Follower::open(&cluster, 1);
    until("quiet", SOON, || {
        follower.read();
        !follower.poll(Duration::from_millis(500))
    });
    follower.seen.clear();
    let begun = followed().matches(" n1 watches").count();
    thread::scope(|scope| {
        let waits = scope.spawn(|| follower.wait_for(" n1 watches"));
        thread::sleep(Duration::from_millis(200));
        cluster.kill_worker(1);
        waits.join().expect("it was woken");
    });
    until("tail to tell of the next worker", SOON, || {
        followed().matches(" n1 watches").count() > begun
    });
    let before = followed().matches(" n2 failed").count();
    cluster.kill(2);
    follower.wait_for(" n2 failed");
    until("tail to tell of n2", SOON, || {
        followed().matches(" n2 failed").count() > before
    });
    assert_eq!(followed().matches(" n2 failed").count(), before + 1);
}
