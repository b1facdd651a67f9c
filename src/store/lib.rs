//! Local storage of one member: the disk seam, the write-ahead log, the record journal, bases and the data folder.
//!
//! Everything here is synchronous and knows no network, no agreement and no index of records: the data crate keeps
//! those. The only waits are [`Log::sync`] and what the disk itself takes. Nothing is ever skipped silently: bytes
//! that should be there and are not are [`StoreError::Damaged`], naming the file and the offset.

mod adoption;
mod ahead;
mod base_file;
mod bases;
mod blocking;
pub mod check;
mod commit;
mod disk;
mod entry;
mod error;
mod faulty;
mod folder;
mod frozen;
mod journal;
mod log;
mod marked;
mod medium;
mod mem;
mod real;
mod recovery;
mod sums;
mod sys;

pub use adoption::Adoption;
pub use bases::{Bases, Checked};
pub use blocking::blocking;
pub use commit::SyncMode;
pub use disk::{Disk, DiskFile, Space};
pub use entry::{ENTRY_BYTES_MAX, LOG_FILE_BYTES, Position};
pub use error::{Result, StoreError};
pub use faulty::{ChooseFaults, DiskFaults, FaultyDisk};
pub use folder::{Folder, FolderIdentity};
pub use frozen::FrozenDisk;
pub use journal::{Journal, JournalEntry};
pub use log::{Log, LogOptions, LogStats, Witness};
pub use medium::{Crash, DiskOp, Fault};
pub use mem::MemDisk;
pub use real::RealDisk;
pub use recovery::Replay;
pub use sums::SUM_BLOCK_BYTES;
