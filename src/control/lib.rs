//! The member's local door: a Unix socket in the data folder that the command line talks to, the file commands
//! that stream through it without a mount, and the member-to-member part of `multiappend`.
//!
//! Knows the file system only through `hydfs_mount::FileSystem` and the member only through [`Member`]; never
//! decides anything and never touches the disk of a member, except for its own socket.

mod client;
mod error;
mod files;
mod member;
mod peer;
mod protocol;
mod server;
mod session;
mod wire;

pub use client::{Client, Download, Upload};
pub use error::{Error, Kind};
pub use files::{append_bytes, merge_by_reading, stat};
pub use member::{
    Appended, Audit, Drain, FileCopies, Liveness, Member, MemberRow, Merged, ReplicaRow,
    SegmentCopies, Status, StoredRow, Suspicion,
};
pub use peer::{STAGED_BYTES_MAX, Staging, append_everywhere};
pub use protocol::{MESSAGE_BYTES_MAX, PIECE_BYTES};
pub use server::{CONNECTIONS_MAX, Server};
