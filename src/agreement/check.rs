//! A look at a stopped member's agreement log and snapshots, with the decoders of a start. On a disk that forgets writes
//! (`hydfs_store::FrozenDisk`) nothing is changed.

use crate::{error::Error, log::Storage, snapshots::Snapshots};
use hydfs_store::{Disk, LogOptions};
use std::sync::Arc;

/// What was found intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Entries in the log.
    pub entries: u64,
    /// The last entry that the newest snapshot holds; 0 without a snapshot.
    pub snapshot: u64,
}

/// Reads the log and the newest snapshot in `dir` whole. The first thing that would stop a start is the error.
pub fn check(disk: Arc<dyn Disk>, dir: &str, options: LogOptions) -> Result<Checked, Error> {
    let snapshot = Snapshots::open(Arc::clone(&disk), dir, false)?.check()?;
    let (entries, purged) = Storage::open(disk, dir, options)?.extent();
    if purged > snapshot {
        return Err(Error::Record(format!(
            "entries up to {purged} were dropped as being in a snapshot, and the newest snapshot ends at {snapshot}"
        )));
    }
    Ok(Checked { entries, snapshot })
}
