//! The file system: what a mount asks, answered from the agreed state and the data plane.
//!
//! `volume.rs` is the door; `attributes`, `names`, `directories`, `content`, `ranges` are families of calls; `ends` does later what nobody waits
//! for; `control` and `synthetic` are the control tree, `inline` what is answered at once, `behind` writes that are, `kept` what the kernel may keep. It knows no FUSE
//! and no wire.

mod again;
mod asked;
mod attributes;
mod behind;
mod call;
mod content;
mod control;
mod directories;
mod ends;
mod error;
mod failures;
mod fixed;
mod inline;
mod kept;
mod locks;
mod names;
mod own;
mod ranges;
mod recent;
mod synthetic;
mod table;
mod truncate;
mod volume;
mod writers;

pub use kept::KeptCounts;
pub use synthetic::{Control, JOBS_DIR, Node, read_only};
pub use volume::{JobHook, Mounted, Outcome, Volume};
