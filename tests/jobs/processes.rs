//! The processes of a member, found beforehand and killed without delay.

use crate::common::Cluster;
use std::{
    fmt, fs, thread,
    time::{Duration, Instant},
};

/// What of a member dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Member,
    /// Its worker alone: the mount stays.
    Worker,
    /// What its tasks run.
    Executables,
}

/// What was killed.
pub struct Killed {
    pub member: usize,
    what: What,
}

impl Killed {
    /// Nobody but the test starts it again.
    pub fn is_down(&self) -> bool {
        self.what == What::Member
    }
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = self.member;
        match self.what {
            What::Member => write!(f, "n{i} was killed"),
            What::Worker => write!(f, "n{i} lost its worker"),
            What::Executables => write!(f, "n{i} lost its executables"),
        }
    }
}

pub struct Processes {
    member: usize,
    what: What,
    supervisor: i32,
    worker: i32,
}

impl Processes {
    pub fn of(cluster: &Cluster, member: usize, what: What) -> Self {
        Self {
            member,
            what,
            supervisor: pid(cluster, member, "supervisor.pid"),
            worker: pid(cluster, member, "worker.pid"),
        }
    }

    pub fn is_up(cluster: &Cluster, member: usize) -> bool {
        let worker = pid(cluster, member, "worker.pid");
        fs::metadata(format!("/proc/{worker}")).is_ok()
    }

    /// Kills at once: no process is started for it. `None` if there was none to kill.
    pub fn kill(&self) -> Option<Killed> {
        let which = match self.what {
            // The supervisor first: it would start another worker.
            What::Member => vec![self.supervisor, self.worker],
            What::Worker => vec![self.worker],
            What::Executables => descendants(self.worker),
        };
        which.iter().for_each(|pid| kill(*pid));
        (!which.is_empty()).then_some(Killed {
            member: self.member,
            what: self.what,
        })
    }

    /// The same as soon as there is one.
    pub fn kill_soon(&self) -> Option<Killed> {
        let began = Instant::now();
        loop {
            match self.kill() {
                None if began.elapsed() < Duration::from_secs(5) => {
                    thread::sleep(Duration::from_millis(1));
                }
                killed => return killed,
            }
        }
    }
}

fn pid(cluster: &Cluster, i: usize, name: &str) -> i32 {
    let text = fs::read_to_string(cluster.data(i).join(name)).unwrap_or_default();
    let pid = text.trim().parse();
    pid.unwrap_or_else(|_| panic!("n{i} has no {name}"))
}

/// All processes that a process started, and theirs (executables of jobs, if it is a worker); those first that were started last.
pub fn descendants(pid: i32) -> Vec<i32> {
    let (mut all, mut at) = (children(pid), 0);
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    all.reverse();
    all
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .map(|one| of(one).unwrap_or_default());
    let pids = |list: String| {
        list.split(' ')
            .filter_map(|pid| pid.parse().ok())
            .collect::<Vec<_>>()
    };
    lists.flat_map(pids).collect()
}

fn kill(pid: i32) {
    // SAFETY: kill takes no memory; the process is a member's of this test, or has just ended.
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(pid, libc::SIGKILL);
    }
}
