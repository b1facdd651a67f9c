//! `hydfs worker`: the process that serves. Started by the supervisor with the mount's descriptor; its settings are
//! the ones that the supervisor kept in the data folder, never this process's environment.

use super::{failure::Failure, logging, member::SETTINGS_FILE, process, settings::Layer};
use hydfs_node::{MountPoint, WORKER_PID_FILE};
use std::{os::fd::RawFd, path::PathBuf};

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
    /// Where the mount is
    #[arg(long, value_name = "DIR", requires = "fuse_fd")]
    mounted_at: Option<PathBuf>,
    /// Make a new cluster where the folder has none
    #[arg(long)]
    bootstrap: bool,
}

/// Serves until SIGTERM, or until the member has left.
pub fn run(args: &Args) -> Result<(), Failure> {
    // What runs for jobs must hold neither the mount nor the lock.
    for fd in [args.lock_fd, args.fuse_fd].into_iter().flatten() {
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
    config.mount = match (args.fuse_fd, &args.mounted_at) {
        (Some(fd), Some(path)) => Some(MountPoint {
            path: path.clone(),
            fd,
        }),
        _ => None,
    };
    let pid_file = args.data.join(WORKER_PID_FILE);
    std::fs::write(&pid_file, std::process::id().to_string())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", pid_file.display())))?;
    let result = hydfs_node::run(config).map_err(|error| Failure::new(error.to_string()));
    drop(std::fs::remove_file(&pid_file));
    result
}
