//! `hydfs worker`: the process that serves. Started by the supervisor with the mount's descriptor; its settings are
//! the ones that the supervisor kept in the data folder, never this process's environment.

use super::{failure::Failure, logging, member::SETTINGS_FILE, process, settings::Layer};
use hydfs_mount::Offer;
use hydfs_node::{End, MountPoint, WORKER_PID_FILE};
use std::{os::fd::RawFd, path::PathBuf, process::ExitCode};

/// Exit code of a worker that ended for another to take its place.
pub const HANDED_ON: u8 = 75;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data folder with the settings
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Descriptor of the data folder's lock, held open as long as this process lives
    #[arg(long, value_name = "FD")]
    lock_fd: Option<RawFd>,
    /// Descriptor behind the mount
    #[arg(long, value_name = "FD", requires = "mounted_at")]
    fuse_fd: Option<RawFd>,
    /// What the kernel offered when the mount began
    #[arg(long, value_name = "OFFER", requires = "fuse_fd")]
    fuse_offer: Option<Offer>,
    /// Descriptor of the memory file that the next worker goes on with
    #[arg(long, value_name = "FD")]
    memory_fd: Option<RawFd>,
    /// Where the mount is
    #[arg(long, value_name = "DIR", requires = "fuse_fd")]
    mounted_at: Option<PathBuf>,
    /// Make a new cluster where the folder has none
    #[arg(long)]
    bootstrap: bool,
}

/// Serves until SIGTERM, until the member has left, or until another worker shall go on.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    // What runs for jobs must hold neither the mount nor the lock.
    let inherited = [args.lock_fd, args.fuse_fd, args.memory_fd];
    for fd in inherited.into_iter().flatten() {
        process::close_on_exec(fd).map_err(|error| {
            Failure::new(format!(
                "descriptor {fd} was not handed over: {error}; start `hydfs member`"
            ))
        })?;
    }
    let layer = Layer::read(&args.data.join(SETTINGS_FILE))?;
    logging::start(layer.log.as_deref().unwrap_or("info"))?;
    let mut config = layer.resolve()?;
    config.data.clone_from(&args.data);
    config.bootstrap = args.bootstrap;
    config.memory = args.memory_fd;
    config.mount = match (args.fuse_fd, &args.mounted_at) {
        (Some(fd), Some(path)) => Some(MountPoint {
            path: path.clone(),
            fd,
            offer: args.fuse_offer,
        }),
        _ => None,
    };
    let pid_file = args.data.join(WORKER_PID_FILE);
    std::fs::write(&pid_file, std::process::id().to_string())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", pid_file.display())))?;
    let result = hydfs_node::run(config)
        .map(|end| match end {
            End::Stopped => ExitCode::SUCCESS,
            End::HandedOn => ExitCode::from(HANDED_ON),
        })
        .map_err(|error| Failure::new(error.to_string()));
    drop(std::fs::remove_file(&pid_file));
    result
}
