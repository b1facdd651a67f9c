//! The FUSE adapter: mounts any `FileSystem`. Knows no cluster.
mod api;
pub use api::*;
