//! One member: wires transport, membership, agreement, data plane, file system and streaming together.

mod config;

pub use config::{
    CERTS_DEFAULT, CONTROL_SOCKET, Config, DATA_DEFAULT, Detection, FORMAT_FILE, MOUNT_DEFAULT,
    MountPoint, PORT_DEFAULT, WORKER_PID_FILE,
};
