//! One member: wires transport, membership, agreement, data plane, file system and streaming together.
//!
//! The core runs on one thread: network, agreement, replicas and file-system calls. FUSE sessions and RainStorm have
//! threads of their own and hand work to it.

mod apart;
mod audits;
mod config;
mod control;
mod ending;
mod entry;
mod error;
mod events;
mod faults;
mod fsck;
mod handover;
mod home;
mod join;
mod kernel;
mod machine;
mod made_good;
mod member;
mod metrics;
mod pace;
mod place;
mod planted;
mod privacy;
mod rights;
mod router;
mod seams;
mod standing;
mod status;
mod steward;
mod streaming;
mod tree;
mod voters;
mod workers;

pub use config::{
    CERTS_DEFAULT, CONTROL_SOCKET, Config, DATA_DEFAULT, Detection, FORMAT_FILE, MOUNT_DEFAULT,
    MountPoint, PORT_DEFAULT, VOTER_REPLACE_AFTER_DEFAULT, WORKER_PID_FILE,
};
pub use error::Error;
pub use faults::Faults;
pub use fsck::{FolderReport, fsck};
pub use hydfs_data::SCRUB_BYTES_PER_S;
pub use member::Member;
pub use place::Place;
pub use router::Router;
pub use seams::{Seams, Streams, Wire};
pub use streaming::Streaming;

use control::Door;
use hydfs_fs::Mounted;
use hydfs_mount::ServeConfig;
use std::{
    os::fd::{FromRawFd, OwnedFd},
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The member has stopped, or left.
    Stopped,
    /// Another worker is to go on.
    HandedOn,
}

/// Runs a member on this thread until SIGTERM, SIGINT, or until it has left the cluster; until SIGUSR1 where another worker
/// shall take its place.
pub fn run(config: Config) -> Result<End, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_name("hydfs-core")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(config));
    if !matches!(ended, Ok(End::Stopped)) {
        // Requests in hand are the next worker's. Dropped with the runtime they would be answered with EIO.
        std::mem::forget(runtime);
    }
    ended
}

async fn serve(config: Config) -> Result<End, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hand_over = signal(SignalKind::user_defined1())?;
    let beginning = Member::begin(config);
    let (member, place) = tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(End::Stopped),
        _ = interrupt.recv() => return Ok(End::Stopped),
        begun = beginning => begun?,
    };
    // Before it is admitted: without a majority that takes its time, and the control tree says why.
    let serving = mount(&member).await?;
    let entering = member.enter(place);
    tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(End::Stopped),
        _ = interrupt.recv() => return Ok(End::Stopped),
        entered = entering => entered?,
    }
    if serving.is_some() {
        tokio::spawn(events::follow(member.clone()));
    }
    if let Some(memory) = &member.memory {
        // From here on there may be requests in hand that the next worker has to know of.
        memory.set_ready();
    }
    member.volume.begin();
    let door = hydfs_control::Server::start(
        member.config.control_socket(),
        Arc::new(Door(member.clone())),
    )?;
    let unmounted = async {
        match &serving {
            Some(serving) => serving.ended().await,
            None => std::future::pending().await,
        }
    };
    tracing::info!(name = member.config.name, addr = %member.config.advertise, "ready");
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!("SIGTERM: leaving"),
        _ = interrupt.recv() => tracing::info!("SIGINT: leaving"),
        _ = hand_over.recv() => {
            member.hand_on().await;
            return Ok(End::HandedOn);
        }
        error = member.failed() => {
            tracing::error!(%error, "this member cannot go on");
            return Err(error);
        }
        () = member.stop.notified() => tracing::info!("out of the cluster: stopping"),
        () = unmounted => tracing::info!("unmounted: stopping"),
    }
    member.shut_down().await;
    drop(door);
    Ok(End::Stopped)
}

/// Serves the mount that the supervisor made, on this runtime.
async fn mount(member: &Arc<Member>) -> Result<Option<hydfs_mount::Serving>, Error> {
    let Some(point) = member.config.mount.clone() else {
        return Ok(None);
    };
    let config = ServeConfig {
        op_timeout: member.config.op_timeout,
        lock_timeout: member.config.lock_timeout,
        path: Some(point.path),
        offer: point.offer,
        keep_max: kernel::KEPT,
        ..ServeConfig::default()
    };
    let fd = own(point.fd);
    let fs = Arc::new(Mounted(member.volume.clone()));
    let runtime = tokio::runtime::Handle::current();
    // The first answers to the kernel come from this runtime: it must not be blocked while they are waited for.
    let serving =
        tokio::task::spawn_blocking(move || hydfs_mount::serve(fd, fs, runtime, &config)).await;
    let serving = serving.map_err(|error| Error::Runtime(std::io::Error::other(error)))??;
    let kernel = serving.notifier();
    // First: nothing is kept before the group waits for it.
    member.kernel.set(kernel.clone());
    member.volume.set_kernel(kernel);
    Ok(Some(serving))
}

/// Takes the descriptor that the supervisor passed over.
#[allow(unsafe_code)]
pub(crate) fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the supervisor opened this descriptor for this process alone and said its number; nothing else here uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
