//! The FUSE adapter: mounts any `FileSystem` and serves it. Knows no cluster.
//!
//! The supervisor calls `mount` and keeps the descriptor; the worker calls `serve`. `MemoryFs` is a whole
//! file system in memory: the model that others are compared with, and `conformance` is what all must pass.
//! No thread of a process that serves a mount may touch that mount.

mod adapter;
mod answer;
mod api;
mod caller;
mod catch_up;
pub mod conformance;
mod convert;
mod directory;
mod dispatch;
mod errno;
mod error;
mod init;
mod kernel;
mod listings;
mod memory;
mod mounts;
mod notify;
mod operations;
mod serve;
pub mod supervise;
mod sys;
mod xattr;

pub use api::*;
pub use caller::Capability;
pub use errno::{errno, level};
pub use error::MountError;
pub use init::{Offer, begin};
pub use memory::MemoryFs;
pub use mounts::{MountEntry, mount_at, mounts};
pub use notify::{Kernel, NOTICES_MAX};
pub use serve::{ServeConfig, Serving, serve};
pub use supervise::{MountOptions, Mounted, mount, unmount};
