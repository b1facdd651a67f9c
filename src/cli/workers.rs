//! The supervisor's workers, one after the other: what each is started with, and when there shall be no other.

use super::{failure::Failure, process};
use hydfs_mount::{Mounted, Offer};
use hydfs_node::Config;
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

/// Workers that may die within [`WINDOW`] without ever having served, or by their own fault.
const DEATHS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// What every worker of a member is given.
pub struct Workers<'a> {
    config: &'a Config,
    mounted: Option<&'a Mounted>,
    offer: Option<Offer>,
    lock: &'a File,
    memory: File,
    /// What the next worker runs, and what is known to work.
    program: PathBuf,
    proven: PathBuf,
    deaths: Deaths,
}

impl<'a> Workers<'a> {
    /// Begins the mount, before any worker serves it.
    pub fn new(
        config: &'a Config,
        mounted: Option<&'a Mounted>,
        lock: &'a File,
    ) -> Result<Self, Failure> {
        let offer = mounted.map(|mounted| hydfs_mount::begin(&mounted.fd));
        let offer = offer
            .transpose()
            .map_err(|error| Failure::new(error.to_string()))?;
        let memory = hydfs_memory::create()
            .map_err(|error| Failure::new(format!("cannot make the memory file: {error}")))?;
        let program = std::env::current_exe().map_err(cannot_start)?;
        Ok(Self {
            config,
            mounted,
            offer,
            lock,
            memory,
            proven: program.clone(),
            program,
            deaths: Deaths::default(),
        })
    }

    /// Starts one. There must be no other.
    pub fn start(&self) -> Result<Child, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("worker").arg("--data").arg(&self.config.data);
        let (lock, memory) = (self.lock.as_raw_fd(), self.memory.as_raw_fd());
        let mut inherited = vec![lock, memory];
        command.arg("--lock-fd").arg(lock.to_string());
        command.arg("--memory-fd").arg(memory.to_string());
        if let (Some(mounted), Some(offer)) = (self.mounted, self.offer) {
            let fuse = mounted.fd.as_raw_fd();
            inherited.push(fuse);
            command.arg("--fuse-fd").arg(fuse.to_string());
            command.arg("--fuse-offer").arg(offer.to_string());
            command.arg("--mounted-at").arg(&mounted.path);
        }
        if self.config.bootstrap {
            command.arg("--bootstrap");
        }
        process::tie(&mut command, inherited);
        command.spawn().map_err(cannot_start)
    }

    /// What the next one runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Another program is named for the next one; `served`: the one before was ready.
    pub fn change(&mut self, named: Option<PathBuf>, served: bool) {
        if served {
            self.proven.clone_from(&self.program);
        }
        if let Some(named) = named {
            self.program = named;
        }
    }

    /// How many have served.
    pub fn ready(&self) -> io::Result<u64> {
        hydfs_memory::ready(&self.memory)
    }

    /// Whether the mount can go on with another worker.
    pub fn can_go_on(&self) -> bool {
        self.offer.is_none_or(|offer| offer.can_resend())
    }

    /// How long to wait before the next one: what made several die may pass.
    pub fn pause(&self) -> Duration {
        let lately = |at: &&Instant| at.elapsed() <= WINDOW;
        PAUSE * self.deaths.0.iter().filter(lately).skip(1).count() as u32
    }

    /// One has ended though nobody asked it to; `served`: it was ready. Says whether there shall be another.
    pub fn died(&mut self, status: ExitStatus, served: bool) -> bool {
        if served {
            self.proven.clone_from(&self.program);
        } else {
            // A new binary that does not work does not cost the mount.
            self.program.clone_from(&self.proven);
        }
        // Whoever was killed from outside may be killed as often as one likes.
        if !(served && killed(status)) && self.deaths.too_many(Instant::now()) {
            return false;
        }
        // A first one that gives up by itself says why: it would do so again.
        let first = self.ready().is_ok_and(|ready| ready == 0);
        self.can_go_on() && (!first || killed(status))
    }
}

/// When workers died that should not have.
#[derive(Default)]
struct Deaths(VecDeque<Instant>);

impl Deaths {
    /// Counts one; whether there were too many lately.
    fn too_many(&mut self, now: Instant) -> bool {
        self.0.push_back(now);
        self.0.retain(|at| now.duration_since(*at) <= WINDOW);
        self.0.len() >= DEATHS_MAX
    }
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::new(format!("cannot start the worker: {error}"))
}

fn killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(libc::SIGKILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_deaths_in_a_minute_are_too_many() {
        let mut deaths = Deaths::default();
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        assert!([0, 1, 2, 3].iter().all(|s| !deaths.too_many(at(*s))));
        assert!(!deaths.too_many(at(61)), "the first is long ago");
        assert!(deaths.too_many(at(61)));
    }
}
