//! The members that a torture runs on: started here, in a temporary folder, or mounted already by somebody else.

use crate::cli::{failure::Failure, process};
use hydfs_transport::certs;
use std::{
    fs::{self, File, OpenOptions},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Until all members serve at the start.
const UP: Duration = Duration::from_secs(120);
/// Until a started member has its mount.
const STARTED: Duration = Duration::from_secs(60);
/// Until a process that was killed is gone, or one that was asked to stop has.
const GONE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// One member.
pub struct Node {
    pub name: String,
    pub mount: PathBuf,
    /// What its status began with where it was mounted already: as well as that it is to be again.
    accepted: Option<String>,
    /// Where it was started here: its folder, and the words of its command line.
    home: Option<Home>,
    running: Mutex<Option<Child>>,
}

struct Home {
    data: PathBuf,
    log: PathBuf,
    words: Vec<String>,
}

/// The members.
pub struct Cluster {
    pub nodes: Arc<[Node]>,
    /// Removed at the end; kept where something was wrong.
    folder: Option<PathBuf>,
}

impl Cluster {
    /// Uses what is mounted at these folders. Members are neither started nor stopped.
    pub fn mounted(mounts: Vec<PathBuf>) -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        for mount in mounts {
            let status = fs::read_to_string(mount.join(".cluster/status")).map_err(|error| {
                Failure::new(format!(
                    "{} is no mount of a member: {error}",
                    mount.display()
                ))
            })?;
            let name = status
                .lines()
                .find_map(|line| line.strip_prefix("member ")?.split(' ').next())
                .unwrap_or("?");
            nodes.push(Node {
                name: name.to_owned(),
                mount,
                accepted: status.lines().next().map(str::to_owned),
                home: None,
                running: Mutex::new(None),
            });
        }
        Ok(Self {
            nodes: nodes.into(),
            folder: None,
        })
    }

    /// Starts `members` in `folder`, which must not exist yet, and waits until all are well.
    pub fn start(folder: PathBuf, members: usize) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot {what} in {}: {error}", folder.display()))
        };
        fs::create_dir_all(&folder).map_err(|error| failed("make the folder", &error))?;
        let certs_dir = folder.join("certs");
        certs::init(&certs_dir, "torture").map_err(|error| failed("make certificates", &error))?;
        // Held until all are chosen, so that they differ.
        let sockets: Vec<UdpSocket> = (0..members)
            .map(|_| UdpSocket::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(|error| failed("find free ports", &error))?;
        let addrs: Vec<String> = sockets
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .map(|addr| addr.to_string())
            .collect();
        drop(sockets);
        let mut nodes = Vec::new();
        for (i, addr) in addrs.iter().enumerate() {
            let name = format!("n{}", i + 1);
            let home = folder.join(&name);
            let (data, mount) = (home.join("data"), home.join("mnt"));
            for dir in [&data, &mount] {
                fs::create_dir_all(dir).map_err(|error| failed("make a folder", &error))?;
            }
            certs::issue(&certs_dir, &name, &[], certs::MEMBER_DAYS)
                .map_err(|error| failed("make certificates", &error))?;
            let mut words = vec!["member".to_owned(), "--allow-faults".to_owned()];
            for (flag, value) in [
                ("--name", name.clone()),
                ("--data", data.display().to_string()),
                ("--mount", mount.display().to_string()),
                ("--certs", certs_dir.display().to_string()),
                ("--listen", addr.clone()),
            ] {
                words.extend([flag.to_owned(), value]);
            }
            if i == 0 {
                words.push("--bootstrap".to_owned());
            } else {
                words.extend(["--join".to_owned(), addrs[0].clone()]);
            }
            nodes.push(Node {
                name,
                mount,
                accepted: None,
                home: Some(Home {
                    data,
                    log: home.join("log"),
                    words,
                }),
                running: Mutex::new(None),
            });
        }
        let cluster = Self {
            nodes: nodes.into(),
            folder: Some(folder),
        };
        for node in cluster.nodes.iter() {
            node.start()?;
        }
        cluster.wait_healthy(UP)?;
        Ok(cluster)
    }

    /// Whether members are this torture's own, to kill and start.
    pub fn is_ours(&self) -> bool {
        self.folder.is_some()
    }

    /// Waits until every member says that all is well.
    pub fn wait_healthy(&self, at_most: Duration) -> Result<(), Failure> {
        let until = Instant::now() + at_most;
        loop {
            let unwell = self.nodes.iter().find_map(|node| {
                let why = node.trouble()?;
                Some(format!("{} is not well: {why}", node.name))
            });
            let Some(why) = unwell.or_else(|| self.missing()) else {
                return Ok(());
            };
            if Instant::now() > until {
                let why = format!("{why}, {} s later", at_most.as_secs());
                return Err(Failure::new(why));
            }
            thread::sleep(POLL);
        }
    }

    /// Of members started here all are to be alive.
    fn missing(&self) -> Option<String> {
        self.folder.as_ref()?;
        let wanted = format!("members {} alive", self.nodes.len());
        let blind = self.nodes.iter().find(|node| {
            !node
                .read("status")
                .is_some_and(|text| text.contains(&wanted))
        });
        blind.map(|node| format!("{} does not see all members", node.name))
    }

    /// Stops everything and, unless `keep`, removes it; where the folder is kept, its path.
    pub fn end(mut self, keep: bool) -> Option<PathBuf> {
        self.stop_all();
        let folder = self.folder.take()?;
        if keep {
            return Some(folder);
        }
        match fs::remove_dir_all(&folder) {
            Ok(()) => None,
            Err(_) => Some(folder),
        }
    }

    fn stop_all(&self) {
        for node in self.nodes.iter().filter(|node| node.home.is_some()) {
            node.resume();
            node.ask_to_stop();
        }
        for node in self.nodes.iter().filter(|node| node.home.is_some()) {
            if !node.wait_gone() {
                node.kill();
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.folder.is_some() {
            self.stop_all();
        }
    }
}

impl Node {
    /// A file below its `.cluster`.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.mount.join(".cluster").join(name)).ok()
    }

    /// A counter of its metrics; 0 where it does not answer.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.read("metrics").unwrap_or_default();
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0)
    }

    /// What its status says is wrong, besides what was at the start.
    pub fn trouble(&self) -> Option<String> {
        let status = self.read("status").unwrap_or_default();
        let first = status.lines().next().unwrap_or("its mount does not answer");
        let well = first == "healthy" || self.accepted.as_deref() == Some(first);
        (!well).then(|| first.to_owned())
    }

    /// Puts a fault on it, or says why not.
    pub fn inject(&self, name: &str, line: &str) -> std::io::Result<()> {
        fs::write(self.mount.join(".cluster/faults").join(name), line)
    }

    /// Its folder, where it was started here.
    pub fn data(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| home.data.as_path())
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, and returns when it has its mount.
    pub fn start(&self) -> Result<(), Failure> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot start {}: {error}", self.name));
        let log = || -> std::io::Result<File> {
            OpenOptions::new().create(true).append(true).open(&home.log)
        };
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(&home.words)
            .stdin(Stdio::null())
            .stdout(log().map_err(failed)?)
            .stderr(log().map_err(failed)?)
            .current_dir("/")
            .spawn()
            .map_err(failed)?;
        *self.running() = Some(child);
        let until = Instant::now() + STARTED;
        while self.read("status").is_none() {
            let ended = self
                .running()
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > until {
                return Err(Failure::new(format!(
                    "{} does not start: see {}",
                    self.name,
                    home.log.display()
                )));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The processes: the supervisor, and the worker that does not outlive it.
    fn pids(&self) -> Vec<u32> {
        let supervisor = self.running().as_ref().map(Child::id);
        let worker = self.home.as_ref().and_then(|home| {
            let text = fs::read_to_string(home.data.join(hydfs_node::WORKER_PID_FILE)).ok()?;
            let pid: u32 = text.trim().parse().ok()?;
            // A process id may be somebody else's by now: a worker's parent is our supervisor.
            (parent_of(pid) == supervisor).then_some(pid)
        });
        supervisor.into_iter().chain(worker).collect()
    }

    fn signal(&self, signal: i32) {
        for pid in self.pids() {
            // Gone already: nothing to signal.
            process::signal(pid, signal).ok();
        }
    }

    /// Kills it at once, and waits until its processes are gone.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
        if let Some(mut child) = self.running().take() {
            child.wait().ok();
        }
        self.unmount();
    }

    /// Stops it cleanly.
    pub fn stop(&self) {
        self.ask_to_stop();
        if !self.wait_gone() {
            self.kill();
        }
    }

    fn ask_to_stop(&self) {
        if let Some(child) = self.running().as_ref() {
            process::signal(child.id(), libc::SIGTERM).ok();
        }
    }

    fn wait_gone(&self) -> bool {
        let until = Instant::now() + GONE;
        loop {
            let mut running = self.running();
            match running.as_mut().map(Child::try_wait) {
                Some(Ok(None)) if Instant::now() < until => {}
                Some(Ok(None)) => return false,
                _ => {
                    running.take();
                    drop(running);
                    self.unmount();
                    return true;
                }
            }
            drop(running);
            thread::sleep(POLL);
        }
    }

    /// A killed supervisor leaves a mount that nobody serves.
    fn unmount(&self) {
        let quiet = |program: &str, words: &[&str]| {
            Command::new(program)
                .args(words)
                .arg(&self.mount)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        if self.home.is_some() && !quiet("umount", &["-l"]) {
            quiet("fusermount3", &["-uz"]);
        }
    }

    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }
}

/// The parent of a process, from `/proc`.
fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
