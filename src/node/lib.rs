//! One member: wires transport, membership, agreement, data plane, file system and streaming together.

mod config;

pub use config::{
    CERTS_DEFAULT, CONTROL_SOCKET, Config, DATA_DEFAULT, Detection, FORMAT_FILE, MOUNT_DEFAULT,
    MountPoint, PORT_DEFAULT, WORKER_PID_FILE,
};

/// Why a member could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The member's parts are not wired together in this build.
    #[error("this build cannot serve yet: the member's parts are not wired together")]
    NotWired,
}

/// Runs a member on this thread until SIGTERM or until it has left the cluster.
pub fn run(config: Config) -> Result<(), Error> {
    tracing::error!(member = config.name, "not wired");
    Err(Error::NotWired)
}
