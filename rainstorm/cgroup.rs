//! Cgroups of operators: memory, processes and processor of all of a task's processes together, and a list of them to
//! end. Version 2 where it has the memory controller, else version 1; else there are none, and limits of each process
//! have to do (`sandbox`).

use crate::sandbox;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder below which tasks have theirs.
const FOLDER: &str = "hydfs-operators";
/// How much of a busy processor a task gets beside others: a quarter of what they do.
const WEIGHT_V2: u64 = 25;
const SHARES_V1: u64 = 256;
/// Microseconds in which a processor's share is measured out.
const PERIOD_US: u64 = 100_000;
/// Of a cgroup that only shows whether one can be made.
const PROBE: GroupLimits = GroupLimits {
    memory_bytes: 16 << 20,
    processes: 1,
    cpu_percent: 100,
};
/// Looks until no process is left, and between them.
const KILLS_MAX: u32 = 100;
const KILL_PAUSE: Duration = Duration::from_millis(10);

/// Limits of all processes of a task together.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    pub memory_bytes: u64,
    pub processes: u64,
    /// Hundredths of a processor; 0: as much as is idle.
    pub cpu_percent: u64,
}

/// Where this member may make cgroups.
#[derive(Debug)]
pub struct Cgroups {
    unified: bool,
    memory: PathBuf,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Cgroups {
    /// Looks for them; why there are none.
    pub fn find() -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = Self::at(Path::new("/sys/fs/cgroup"), &own)?;
        // The folder may be there and be another user's.
        let name = format!("{}-probe", std::process::id());
        let tried = found.make(&name, PROBE);
        let tried = tried.and_then(|group| group.entrances().map(|_| group));
        match tried {
            Ok(group) => drop(group.remove_dirs()),
            Err(error) => return Err(format!("no cgroup: {error}")),
        }
        Ok(found)
    }

    /// The same below another root. `own`: the cgroups of this process.
    fn at(root: &Path, own: &str) -> Result<Self, String> {
        let controllers = fs::read_to_string(root.join("cgroup.controllers"));
        match controllers {
            Ok(all) if all.split_whitespace().any(|one| one == "memory") => {
                Self::unified(root).map_err(|error| format!("no cgroup: {error}"))
            }
            _ => Self::separate(root, own).map_err(|error| format!("no cgroup: {error}")),
        }
    }

    fn unified(root: &Path) -> io::Result<Self> {
        let base = root.join(FOLDER);
        let give = |to: &Path| {
            for controller in ["+memory", "+pids", "+cpu"] {
                // What is on already, or is not there, shows below.
                drop(fs::write(to.join("cgroup.subtree_control"), controller));
            }
        };
        give(root);
        make_dir(&base)?;
        give(&base);
        let on = fs::read_to_string(base.join("cgroup.subtree_control"))?;
        let has = |name: &str| on.split_whitespace().any(|one| one.ends_with(name));
        if !has("memory") {
            return Err(io::Error::other("the memory controller is not given on"));
        }
        Ok(Self {
            unified: true,
            pids: has("pids").then(|| base.clone()),
            cpu: has("cpu").then(|| base.clone()),
            memory: base,
        })
    }

    fn separate(root: &Path, own: &str) -> io::Result<Self> {
        let base = |controller: &str| {
            let path = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let names = parts.next()?;
                names
                    .split(',')
                    .any(|name| name == controller)
                    .then(|| parts.next())?
            });
            let top = root.join(controller);
            let below = top.join(path.unwrap_or("/").trim_start_matches('/'));
            // In a container the path may be that of the host.
            let base = if below.is_dir() { below } else { top }.join(FOLDER);
            make_dir(&base).map(|()| base)
        };
        Ok(Self {
            unified: false,
            memory: base("memory")?,
            pids: base("pids").ok(),
            cpu: base("cpu").ok(),
        })
    }

    /// What they do not limit, in words.
    pub fn missing(&self) -> Vec<String> {
        let pids = self.pids.is_none();
        let cpu = self.cpu.is_none();
        let words = [
            (pids, "processes are limited for the user as a whole"),
            (cpu, "the processor is not shared out"),
        ];
        let said = words.into_iter().filter(|(missing, _)| *missing);
        said.map(|(_, what)| format!("{what} (no such cgroup)"))
            .collect()
    }

    /// The processor is shared out by them.
    pub fn has_cpu(&self) -> bool {
        self.cpu.is_some()
    }

    fn bases(&self) -> Vec<&Path> {
        let all = [Some(&self.memory), self.pids.as_ref(), self.cpu.as_ref()];
        let mut all: Vec<&Path> = all.into_iter().flatten().map(PathBuf::as_path).collect();
        all.dedup();
        all
    }

    /// One for a task.
    pub fn make(&self, name: &str, limits: GroupLimits) -> io::Result<Cgroup> {
        let group = Cgroup {
            unified: self.unified,
            dirs: self.bases().iter().map(|base| base.join(name)).collect(),
            memory: self.memory.join(name),
            pids: self.pids.as_ref().map(|base| base.join(name)),
            processes: limits.processes,
        };
        let made = group.set_up(self, name, limits);
        if made.is_err() {
            group.remove_dirs();
        }
        made.map(|()| group)
    }

    /// Ends and removes those of processes that are gone.
    pub fn sweep(&self, is_stale: impl Fn(&str) -> bool) {
        for base in self.bases() {
            for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() && is_stale(&name) {
                    let dir = entry.path();
                    Cgroup {
                        unified: self.unified,
                        memory: dir.clone(),
                        pids: None,
                        processes: 0,
                        dirs: vec![dir],
                    }
                    .remove();
                }
            }
        }
    }
}

/// The cgroup of one task.
#[derive(Debug)]
pub struct Cgroup {
    unified: bool,
    /// One for each hierarchy.
    dirs: Vec<PathBuf>,
    memory: PathBuf,
    pids: Option<PathBuf>,
    processes: u64,
}

impl Cgroup {
    fn set_up(&self, all: &Cgroups, name: &str, limits: GroupLimits) -> io::Result<()> {
        for dir in &self.dirs {
            make_dir(dir)?;
        }
        let memory = limits.memory_bytes.to_string();
        let quota = limits.cpu_percent * PERIOD_US / 100;
        match self.unified {
            true => {
                fs::write(self.memory.join("memory.max"), memory)?;
                // Not every kernel has these two.
                drop(write_existing(&self.memory.join("memory.swap.max"), "0"));
                drop(write_existing(&self.memory.join("memory.oom.group"), "1"));
            }
            false => fs::write(self.memory.join("memory.limit_in_bytes"), memory)?,
        }
        if let Some(pids) = &self.pids {
            fs::write(pids.join("pids.max"), limits.processes.to_string())?;
        }
        let Some(cpu) = all.cpu.as_ref().map(|base| base.join(name)) else {
            return Ok(());
        };
        let (weight, max) = match self.unified {
            true => (("cpu.weight", WEIGHT_V2), "cpu.max"),
            false => (("cpu.shares", SHARES_V1), "cpu.cfs_quota_us"),
        };
        fs::write(cpu.join(weight.0), weight.1.to_string())?;
        match (quota, self.unified) {
            (0, _) => Ok(()),
            (quota, true) => fs::write(cpu.join(max), format!("{quota} {PERIOD_US}")),
            (quota, false) => {
                fs::write(cpu.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                fs::write(cpu.join(max), quota.to_string())
            }
        }
    }

    /// Where a process joins, open for writing.
    pub fn entrances(&self) -> io::Result<Vec<File>> {
        let open = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs"));
        self.dirs.iter().map(open).collect()
    }

    /// How often processes were ended for want of memory, and were not begun for want of room.
    pub fn refusals(&self) -> (u64, u64) {
        let events = match self.unified {
            true => "memory.events",
            false => "memory.oom_control",
        };
        let pids = self.pids.as_ref();
        (
            counter(&self.memory.join(events), "oom_kill"),
            pids.map_or(0, |pids| counter(&pids.join("pids.events"), "max")),
        )
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.memory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills what is left in it, once: nothing new begins meanwhile.
    pub fn kill(&self) {
        let left = self.processes();
        if left.is_empty() {
            return;
        }
        if self.unified && fs::write(self.memory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        let set = |most: u64| {
            if let Some(pids) = &self.pids {
                drop(fs::write(pids.join("pids.max"), most.to_string()));
            }
        };
        set(0);
        // Those that were begun before the limit was set.
        left.into_iter()
            .chain(self.processes())
            .for_each(sandbox::kill);
        set(self.processes);
    }

    /// Ends everything in it and removes it. Blocks until its processes are gone, a second at most.
    pub fn remove(&self) {
        for _ in 0..KILLS_MAX {
            self.kill();
            if self.remove_dirs() {
                return;
            }
            std::thread::sleep(KILL_PAUSE);
        }
        tracing::warn!(dir = %self.memory.display(), "a cgroup of an operator stays until the next start");
    }

    fn remove_dirs(&self) -> bool {
        let gone = |dir: &Path| match fs::remove_dir(dir) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        // All of them are tried.
        self.dirs.iter().filter(|dir| !gone(dir)).count() == 0
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", dir.display()),
        )),
        made => made,
    }
}

fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    File::options()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The number behind a word, one `word number` a line.
fn counter(path: &Path, word: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GroupLimits = GroupLimits {
        memory_bytes: 1 << 20,
        processes: 7,
        cpu_percent: 150,
    };

    /// On folders that only look like cgroups: which files are written, and what.
    #[test]
    fn version_2_is_taken_where_it_has_memory_and_else_version_1() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        for controller in ["memory", "cpu"] {
            fs::create_dir_all(path.join(controller).join("here")).unwrap();
        }
        let own = "3:cpu,cpuacct:/here\n2:memory:/here\n1:pids:/\n0::/\n";
        let groups = Cgroups::at(path, own).unwrap();
        assert!(!groups.unified && groups.pids.is_none());
        assert_eq!(groups.missing().len(), 1);
        let group = groups.make("1-1", LIMITS).unwrap();
        let at = "memory/here/hydfs-operators/1-1/memory.limit_in_bytes";
        assert_eq!(read(at), "1048576");
        let quota = "cpu/here/hydfs-operators/1-1/cpu.cfs_quota_us";
        assert_eq!(read(quota), "150000");
        fs::write(
            path.join("memory/here/hydfs-operators/1-1/memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        )
        .unwrap();
        assert_eq!(group.refusals(), (3, 0));

        fs::write(path.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::create_dir(path.join(FOLDER)).unwrap();
        let on = path.join(FOLDER).join("cgroup.subtree_control");
        // A plain file keeps the last word only; the kernel's keeps all.
        fs::write(&on, "").unwrap();
        let error = Cgroups::at(path, own).unwrap_err();
        assert!(
            error.contains("memory controller is not given on"),
            "{error}"
        );
        let groups = Cgroups {
            unified: true,
            memory: path.join(FOLDER),
            pids: Some(path.join(FOLDER)),
            cpu: Some(path.join(FOLDER)),
        };
        let group = groups.make("1-2", LIMITS).unwrap();
        assert_eq!(group.dirs.len(), 1);
        assert_eq!(read("hydfs-operators/1-2/memory.max"), "1048576");
        assert_eq!(read("hydfs-operators/1-2/pids.max"), "7");
        assert_eq!(read("hydfs-operators/1-2/cpu.max"), "150000 100000");
    }
}
