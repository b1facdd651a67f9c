//! Settings of RainStorm on one member, with the defaults of production.

use crate::kernel::Kernel;
use crate::moment::Onlooker;
use crate::planted::Planted;
use crate::stand_in::StandIn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

/// Settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// Local folder for copies of executables; the owners of specs must be able to enter it.
    pub cache_dir: PathBuf,
    /// Executables may run as root where root owns the spec.
    pub allow_root_jobs: bool,
    /// Sources are cut into chunks of this many bytes.
    pub chunk_bytes: u32,
    /// Most bytes that one task reads without a barrier.
    pub uncommitted_bytes_max: u64,
    /// A member drops its tasks when their coordinator is silent for so long.
    pub contact_timeout: Duration,
    /// A coordinator gives an attempt up when a member is silent for so long.
    pub member_timeout: Duration,
    /// `/.jobs` is looked through this often, beside the notices of closed specs.
    pub scan_every: Duration,
    /// What tasks do with their time is looked at this often, where a spec leaves their number open.
    pub scale_every: Duration,
    /// Attempts without a committed job epoch between them before a job fails.
    pub barren_attempts_max: u32,
    /// What the kernel offers to confine executables. `None`: what it is found to offer; a test hands less in.
    pub kernel: Option<Kernel>,
    /// Most bytes of its state that one task keeps in memory; the rest is in scratch files.
    pub state_memory_bytes: usize,
    /// Most bytes of state in memory of all tasks of a member: above that each has an equal part.
    pub member_state_memory_bytes: usize,
    /// Most bytes of one task's scratch files: more fail the job.
    pub state_disk_bytes: u64,
    /// Bytes that scratch files leave free on their disk.
    pub state_disk_reserve_bytes: u64,
    /// Scratch files are memory, and the local folder is left alone: for members that have no disk of their own.
    pub scratch_in_memory: bool,
    /// What runs in the place of executables.
    pub stand_in: Option<StandIn>,
    /// A bug to be found.
    pub planted: Option<Planted>,
    /// Whoever is told of the moments of attempts.
    pub onlooker: Option<Onlooker>,
    /// Another number for each start of this member. Random by default; a simulation hands it in.
    pub life: u64,
}

impl Options {
    /// Defaults, with executables kept in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            allow_root_jobs: false,
            chunk_bytes: 256 << 10,
            uncommitted_bytes_max: 64 << 20,
            contact_timeout: Duration::from_secs(6),
            member_timeout: Duration::from_secs(4),
            scan_every: Duration::from_secs(2),
            scale_every: Duration::from_secs(2),
            barren_attempts_max: 20,
            kernel: None,
            state_memory_bytes: 32 << 20,
            member_state_memory_bytes: 96 << 20,
            state_disk_bytes: 64 << 30,
            state_disk_reserve_bytes: 1 << 30,
            scratch_in_memory: false,
            stand_in: None,
            planted: None,
            onlooker: None,
            life: RandomState::new().build_hasher().finish(),
        }
    }
}
