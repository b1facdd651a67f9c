//! The file system: what a mount asks, answered from the agreed state and the data plane.
//!
//! `volume.rs` is the door; `attributes`, `names`, `content`, `ranges` are families of calls; `ends` does later what nobody waits
//! for; `kept` is what the kernel may keep; `synthetic` is the control tree. It knows no FUSE and no wire.

mod attributes;
mod content;
mod ends;
mod error;
mod failures;
mod fixed;
mod kept;
mod locks;
mod names;
mod ranges;
mod synthetic;
mod table;
mod volume;

pub use kept::KeptCounts;
pub use synthetic::{Control, JOBS_DIR, Node, read_only};
pub use volume::{JobHook, Mounted, Outcome, Volume};
