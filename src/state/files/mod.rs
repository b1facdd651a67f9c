//! Regular files: segments, writers, cuts.

mod end;
mod grant;
mod merge;
mod place;
mod segments;
mod truncate;
mod writers;

pub use place::{FILE_BYTES_MAX, Place, segment_index, slot_of};
pub use segments::was_cut;

use crate::{Body, FileBody, Namespace};
use hydfs_types::{CommandError, FileKind, Ino};

impl Namespace {
    /// A regular file that is not gone, orphans included.
    pub(crate) fn regular(&self, ino: Ino) -> Result<&FileBody, CommandError> {
        let inode = self.inodes.get(&ino).ok_or(CommandError::Stale(ino))?;
        match (&inode.body, inode.attr.kind) {
            (Body::File(file), _) => Ok(file),
            (_, FileKind::Directory) => Err(CommandError::IsDirectory),
            _ => Err(CommandError::Invalid(format!(
                "{ino} is not a regular file"
            ))),
        }
    }

    /// The file of an inode that callers know as one.
    pub(crate) fn file_mut(&mut self, ino: Ino) -> &mut FileBody {
        match &mut self.inode_mut(ino).body {
            Body::File(file) => file,
            _ => unreachable!("callers know {ino} as a regular file"),
        }
    }
}
