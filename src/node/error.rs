//! Why a member could not start or go on, in words for the person who started it.

use hydfs_data::DiskFailure;
use std::path::PathBuf;

/// An error that ends the member.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data folder {}: {source}", path.display())]
    Folder {
        path: PathBuf,
        source: hydfs_store::StoreError,
    },
    #[error(transparent)]
    Transport(#[from] hydfs_transport::TransportError),
    #[error("agreement log: {0}")]
    Group(#[from] hydfs_agreement::Error),
    #[error("agreement: {0}")]
    Agreement(#[from] hydfs_types::AgreementError),
    #[error("agreement: {0}")]
    Change(#[from] hydfs_agreement::ChangeError),
    #[error("record journal: {0}")]
    Data(#[from] hydfs_data::DataError),
    #[error("the disk failed: {0}")]
    Disk(DiskFailure),
    #[error("{0}")]
    Membership(#[from] hydfs_membership::MembershipError),
    #[error("mount: {0}")]
    Mount(#[from] hydfs_mount::MountError),
    #[error(transparent)]
    Memory(#[from] hydfs_memory::Error),
    #[error("control socket: {0}")]
    Control(#[from] hydfs_control::Error),
    /// The cluster's own decision about this data folder.
    #[error("{door} does not let this member in: {why}")]
    Refused { door: String, why: String },
    /// The door itself is closed to this member: its certificate, its cluster or its protocol is another.
    #[error("{door} does not let this member in: {why}")]
    Closed { door: String, why: String },
    #[error(
        "no member of the cluster could be reached through {doors} ({why}): check the address, or start the first member with --bootstrap"
    )]
    NoDoor { doors: String, why: String },
    #[error(
        "this data folder belongs to no cluster yet: give --join HOST:PORT of any member, or --bootstrap to make a new cluster"
    )]
    NoCluster,
    /// An empty folder on a machine that a cluster knows.
    #[error(
        "a member of cluster {cluster} looks for this machine: start with --join instead of --bootstrap, or, where another cluster is to be made here, `hydfs leave` this name there first"
    )]
    Sought { cluster: hydfs_types::ClusterId },
    /// Found out before this member could vote.
    #[error(
        "this data folder is a copy or was rolled back: {why}. Stop the other process on it, or start with an empty data folder, which the others fill"
    )]
    RolledBack { why: String },
    #[error("cannot start a thread or runtime: {0}")]
    Runtime(#[from] std::io::Error),
}
