//! What a member is told at its start. The command line resolves flags, variables, file and defaults into this;
//! nothing in here is read from anywhere else, so a test or the simulator can start a member with the same value.

use hydfs_mount::Offer;
use std::{
    net::SocketAddr,
    os::fd::RawFd,
    path::{Path, PathBuf},
    time::Duration,
};

/// Default data folder.
pub const DATA_DEFAULT: &str = "/var/lib/hydfs";
/// Default mount point.
pub const MOUNT_DEFAULT: &str = "/hydfs";
/// Default folder of the certificates.
pub const CERTS_DEFAULT: &str = "/etc/hydfs/certs";
/// Default port.
pub const PORT_DEFAULT: u16 = 7400;
/// File in the data folder that says what the folder is; there from the first admission on.
pub const FORMAT_FILE: &str = "format";
/// Socket in the data folder that the local command line talks to.
pub const CONTROL_SOCKET: &str = "control.sock";
/// File in the data folder with the process id of the worker.
pub const WORKER_PID_FILE: &str = "worker.pid";

/// Default of [`Config::voter_replace_after`].
pub const VOTER_REPLACE_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// One member's settings, all resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name in the cluster and in the certificate.
    pub name: String,
    /// Data folder: exists, is writable and locked for this member.
    pub data: PathBuf,
    /// UDP address to listen at.
    pub listen: SocketAddr,
    /// Address that the other members reach this one at; never an unspecified one.
    pub advertise: SocketAddr,
    /// `HOST:PORT` of members to join through, tried in turn. Empty for the first member.
    pub join: Vec<String>,
    /// Makes a new cluster, unless the data folder already belongs to one.
    pub bootstrap: bool,
    /// Folder with `ca.crt`, `NAME.crt` and `NAME.key`.
    pub certs: PathBuf,
    /// The mount to serve; `None` for a member without one.
    pub mount: Option<MountPoint>,
    /// Descriptor of the memory file, if the next worker is to go on where this one ends.
    pub memory: Option<RawFd>,
    /// Copies of each file, 1 to 5. Set by the bootstrap for the whole cluster; others ignore it.
    pub copies: u8,
    /// Failure zone: copies are spread over different ones.
    pub zone: String,
    /// Share of the ring in percent of a normal member.
    pub weight: u32,
    /// Longest wait of one file-system call before it answers ETIMEDOUT.
    pub op_timeout: Duration,
    /// Longest wait of a blocking lock before it answers ETIMEDOUT.
    pub lock_timeout: Duration,
    /// A voter that has been down for this long gives its vote to another member, if there is one.
    pub voter_replace_after: Duration,
    /// Jobs of root may run executables.
    pub allow_root_jobs: bool,
    /// Pace at which copies are checked in the background, in bytes per second; 0: only what reads suspect.
    pub scrub_bytes_per_s: u64,
    /// Most bytes per second that this member moves as a learner, and as often as a source; 0: as fast as callers do not
    /// feel it.
    pub repair_bytes_per_s: u64,
    /// Faults may be injected through `.cluster` (tests only).
    pub allow_faults: bool,
    /// Failure detection.
    pub detection: Detection,
}

/// A mount made by the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    pub path: PathBuf,
    /// Descriptor of `/dev/fuse` behind it.
    pub fd: RawFd,
    /// What the kernel offered when the mount began; `None` where it is still to be asked.
    pub offer: Option<Offer>,
}

/// Timing of SWIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// One member is probed in each period.
    pub probe_period: Duration,
    /// Wait for a direct answer before others are asked to probe.
    pub probe_rtt: Duration,
    /// Time that a suspected member has to refute.
    pub suspicion: Duration,
}

impl Default for Detection {
    /// Finds a dead member of a LAN in two to three seconds.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(400),
            probe_rtt: Duration::from_millis(150),
            suspicion: Duration::from_millis(1500),
        }
    }
}

impl Config {
    /// Whether the data folder already belongs to a cluster.
    pub fn is_member_folder(data: &Path) -> bool {
        data.join(FORMAT_FILE).exists()
    }

    /// Socket that the local command line talks to.
    pub fn control_socket(&self) -> PathBuf {
        self.data.join(CONTROL_SOCKET)
    }
}
