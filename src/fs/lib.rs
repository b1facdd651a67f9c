//! The file system: what a mount asks, answered from the agreed state and the data plane.
//!
//! `volume.rs` is the door; `attributes`, `names`, `directories`, `content`, `ranges` are families of calls; `ends` does later what nobody waits
//! for; `control` and `synthetic` are the control tree, `follow` and `lines` what is followed in it, `inline` what is answered at once, `behind` writes that are (`left`: by an earlier worker), `kept` what the kernel may keep. It knows no FUSE
//! and no wire.

mod again;
mod asked;
mod attributes;
mod begun;
mod behind;
mod call;
mod content;
mod control;
mod directories;
mod ends;
mod error;
mod failures;
mod fixed;
mod follow;
mod inline;
mod kept;
mod left;
mod lines;
mod locks;
mod mounted;
mod moved;
mod names;
mod opens;
mod own;
mod pages;
mod quotas;
mod ranges;
mod recent;
mod silence;
mod synthetic;
mod table;
mod told;
mod truncate;
mod unanswered;
mod volume;
mod writers;
mod xattrs;

pub use kept::KeptCounts;
pub use lines::Lines;
pub use mounted::Mounted;
pub use synthetic::{Control, Node, read_only};
pub use volume::{JobHook, Outcome, Volume};
