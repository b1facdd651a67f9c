//! Cells: what the processes of one task run in. A member makes a cell for each task with an executable, with a scratch
//! folder, a cgroup, landlock's rules and filters of system calls; when the task ends the cell goes with all that is in it.
//!
//! What a member that was killed leaves behind is swept when it starts its first cell again.

use crate::cache;
use crate::cgroup::{Cgroup, Cgroups, GroupLimits};
use crate::given::{self, Given};
use crate::kernel::Kernel;
use crate::reach;
use crate::sandbox::{self, Confinement, Limits};
use crate::seams::Owner;
use crate::spec::ExecSpec;
use crate::syscalls;
use hydfs_types::JobId;
use seccompiler::BpfProgram;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Below the folder of executables.
const SCRATCH: &str = "scratch";
/// Open files of a process.
const OPEN_FILES: u64 = 256;
/// Processes of a user, where no cgroup counts those of a task.
const USER_PROCESSES: u64 = 1024;
/// Largest file that a process may write.
const FILE_BYTES: u64 = 1 << 30;
/// How much operators stand back, where no cgroup sees to it.
const NICE: i32 = 5;
/// Jobs remembered as told what is missing.
const TOLD_MAX: usize = 10_000;

/// Numbers cells through the life of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A member's cells.
pub struct Cells {
    /// Of executables; scratch folders are below it.
    dir: PathBuf,
    handed: Option<Kernel>,
    found: OnceLock<(Kernel, Result<Cgroups, String>)>,
    told: Mutex<BTreeSet<JobId>>,
}

/// A task's cell.
pub struct Cell {
    scratch: PathBuf,
    /// The folder of the files that it is given to read, if there are any.
    inputs: Option<PathBuf>,
    cgroup: Option<Cgroup>,
    owner: Owner,
    limits: Limits,
    group_limits: GroupLimits,
    namespaces: bool,
    network: bool,
    reach: Option<Arc<OwnedFd>>,
    filters: Arc<Vec<BpfProgram>>,
}

impl Cells {
    /// Nothing is made or looked at yet.
    pub fn new(dir: PathBuf, handed: Option<Kernel>) -> Self {
        Self {
            dir,
            handed,
            found: OnceLock::new(),
            told: Mutex::default(),
        }
    }

    /// What the kernel offers, and its cgroups. Blocks, the first time.
    fn found(&self) -> &(Kernel, Result<Cgroups, String>) {
        self.found.get_or_init(|| {
            let kernel = self.handed.unwrap_or_else(Kernel::detect);
            let cgroups = match kernel.cgroups {
                true => Cgroups::find(),
                false => Err("no cgroup".to_owned()),
            };
            let me = std::process::id();
            let is_stale = |name: &str| {
                let pid = name.split('-').next().and_then(|pid| pid.parse().ok());
                pid.is_some_and(|pid: u32| {
                    pid != me && !Path::new(&format!("/proc/{pid}")).exists()
                })
            };
            if let Ok(cgroups) = &cgroups {
                cgroups.sweep(is_stale);
            }
            cache::sweep(&self.dir);
            cache::sweep(&self.dir.join(given::KEPT));
            let folders = [SCRATCH, given::FOLDERS].map(|name| self.dir.join(name));
            let folders = folders.iter().flat_map(fs::read_dir);
            for entry in folders.flatten().flatten() {
                if is_stale(&entry.file_name().to_string_lossy()) {
                    remove(&entry.path());
                }
            }
            (kernel, cgroups)
        })
    }

    /// What confines operators less here than it should, in words. Blocks, the first time.
    pub fn missing(&self) -> Vec<String> {
        let (kernel, cgroups) = self.found();
        kernel.missing(cgroups.as_ref().map_err(String::as_str))
    }

    /// Whether the job has not been told yet; from now on it has.
    pub fn tell_once(&self, job: JobId) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(job)
    }

    /// A cell for a task that runs the local file `program` and reads `inputs`. Blocks.
    pub fn make(
        &self,
        owner: Owner,
        spec: &ExecSpec,
        program: &Path,
        inputs: &[Given],
    ) -> io::Result<Cell> {
        let (kernel, cgroups) = self.found();
        let name = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let group_limits = GroupLimits {
            memory_bytes: spec.memory_mb << 20,
            processes: spec.processes,
            cpu_percent: spec.cpu_percent,
        };
        let has_cpu = cgroups.as_ref().is_ok_and(Cgroups::has_cpu);
        let mut cell = Cell {
            scratch: self.scratch(&name, owner)?,
            inputs: None,
            limits: Limits {
                address_bytes: match cgroups {
                    Ok(_) => 0,
                    Err(_) => spec.memory_mb << 20,
                },
                open_files: OPEN_FILES,
                processes: USER_PROCESSES,
                file_bytes: FILE_BYTES,
                nice: if has_cpu { 0 } else { NICE },
            },
            cgroup: None,
            owner,
            group_limits,
            namespaces: kernel.namespaces,
            network: spec.network,
            reach: None,
            filters: Arc::default(),
        };
        if !inputs.is_empty() {
            cell.inputs = Some(given::lay_out(&self.dir, &name, owner, inputs)?);
        }
        if let Ok(cgroups) = cgroups {
            cell.cgroup = Some(cgroups.make(&name, group_limits)?);
        }
        if kernel.landlock > 0 {
            let data = self.dir.canonicalize()?;
            let rules = reach::rules(
                program,
                (&cell.scratch, cell.inputs.as_deref()),
                &data,
                spec.network,
            )?;
            cell.reach = rules.map(Arc::new);
        }
        if kernel.seccomp {
            cell.filters = Arc::new(syscalls::filters(spec.network).unwrap_or_default());
        }
        Ok(cell)
    }

    fn scratch(&self, name: &str, owner: Owner) -> io::Result<PathBuf> {
        let all = self.dir.join(SCRATCH);
        fs::create_dir_all(&all)?;
        // Owners of specs enter it and list nothing.
        fs::set_permissions(&all, fs::Permissions::from_mode(0o711))?;
        let scratch = all.join(name);
        fs::DirBuilder::new().mode(0o700).create(&scratch)?;
        if sandbox::is_root() {
            chown(&scratch, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(scratch)
    }
}

impl Cell {
    /// Where its processes stand, and may write.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Where the files are that they are given to read.
    pub fn inputs(&self) -> Option<&Path> {
        self.inputs.as_deref()
    }

    /// Makes `command` run in the cell.
    pub fn confine(&self, command: &mut Command) -> io::Result<()> {
        let groups = self.cgroup.as_ref().map(Cgroup::entrances);
        let confinement = Confinement {
            owner: self.owner,
            limits: self.limits,
            groups: groups.transpose()?.unwrap_or_default(),
            namespaces: self.namespaces,
            network: self.network,
            reach: self.reach.clone(),
            filters: self.filters.clone(),
        };
        command.current_dir(&self.scratch);
        sandbox::confine(command, confinement);
        Ok(())
    }

    /// Kills what is left of its processes.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// How often its processes were refused memory, and new processes.
    pub fn refusals(&self) -> (u64, u64) {
        self.cgroup.as_ref().map_or((0, 0), Cgroup::refusals)
    }

    /// What a process that failed ran into, in words, if its refusals were `before` when it began.
    pub fn ran_into(&self, before: (u64, u64)) -> Option<String> {
        let now = self.refusals();
        if now.0 > before.0 {
            let memory_mb = self.group_limits.memory_bytes >> 20;
            return Some(format!("it needed more than memory_mb = {memory_mb}"));
        }
        let processes = self.group_limits.processes;
        (now.1 > before.1).then(|| format!("it began more than processes = {processes}"))
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let remains = Remains {
            scratch: std::mem::take(&mut self.scratch),
            inputs: self.inputs.take(),
            cgroup: self.cgroup.take(),
        };
        // A runtime that ends drops it as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(remains)));
        }
    }
}

/// What is left of a cell whose task has ended. Dropping it blocks until all of it is gone.
struct Remains {
    scratch: PathBuf,
    inputs: Option<PathBuf>,
    cgroup: Option<Cgroup>,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        remove(&self.scratch);
        if let Some(inputs) = &self.inputs {
            remove(inputs);
        }
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "a folder of a task stays until the next start");
    }
}
