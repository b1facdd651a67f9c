//! Writes that were answered and are lost: every open file is told once, as by a local file system (errseq_t of Linux).
//! Whoever only reads learns nothing from closing, and takes nothing away from those who write.

use super::{Inner, Table};
use hydfs_data::DataError;
use hydfs_mount::Handle;
use hydfs_types::Ino;

/// Losses of one file.
#[derive(Default)]
pub struct Losses {
    count: u64,
    last: Option<DataError>,
    /// Somebody who may write knows of the last one.
    is_told: bool,
}

impl Losses {
    pub fn note(&mut self, why: DataError) {
        self.count += 1;
        self.last = Some(why);
        self.is_told = false;
    }

    /// Those that an open file which begins now need not be told of: it is told of what nobody knows yet.
    pub(super) fn told(&self) -> u64 {
        if self.is_told { self.count } else { 0 }
    }

    pub(super) fn is_untold(&self) -> bool {
        self.count > 0 && !self.is_told
    }
}

/// Who asks an open file what was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// A write: the open file knows of it from then on.
    Write,
    /// fsync: the same, also of an open file that only reads.
    Sync,
    /// close: it may be one of several, of a child that nobody asks for what became of it. The next one is told again.
    Close,
}

impl Table {
    /// How often writes to an inode were lost.
    pub fn losses(&self, ino: Ino) -> u64 {
        self.inner()
            .uses
            .get(&ino)
            .map_or(0, |used| used.losses.count)
    }

    /// Why writes to an inode were lost since there were so many losses.
    pub fn lost_since(&self, ino: Ino, count: u64) -> Option<DataError> {
        let inner = self.inner();
        let losses = &inner.uses.get(&ino)?.losses;
        losses.last.clone().filter(|_| losses.count > count)
    }

    /// Writes to an inode that were answered are lost.
    pub fn note_lost(&self, ino: Ino, why: DataError) {
        self.with(ino, |used| used.losses.note(why));
    }

    /// Nobody can be told any more: the inode is gone.
    pub fn forget_losses(&self, ino: Ino) {
        let mut inner = self.inner();
        if let Some(used) = inner.uses.get_mut(&ino) {
            used.losses = Losses::default();
        }
        drop(inner);
        self.forget_unused(ino);
    }

    /// Whether [`Table::lost`] has something to tell a write or close.
    pub fn has_lost(&self, handle: Handle) -> bool {
        let inner = self.inner();
        let open = inner.handles.get(&handle).filter(|open| open.how.write);
        open.is_some_and(|open| {
            let used = inner.uses.get(&open.ino);
            used.is_some_and(|used| used.losses.count > open.losses)
        })
    }

    /// Why writes were lost of which this open file was not told.
    pub fn lost(&self, handle: Handle, asks: Asks) -> Option<DataError> {
        let mut inner = self.inner();
        let Inner { handles, uses, .. } = &mut *inner;
        let open = handles.get_mut(&handle)?;
        let losses = &mut uses.get_mut(&open.ino)?.losses;
        if losses.count <= open.losses || !open.how.write && asks != Asks::Sync {
            return None;
        }
        losses.is_told |= open.how.write;
        if asks != Asks::Close {
            open.losses = losses.count;
        }
        losses.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;
    use hydfs_mount::How;
    use hydfs_types::Time;

    const INO: Ino = Ino(5);
    const LOST: Option<DataError> = Some(DataError::NoSpace);

    fn open(table: &Table, write: bool) -> Handle {
        let how = How {
            read: true,
            write,
            ..How::default()
        };
        let opened = table.open(INO, how, None, &Call::once());
        opened.expect("there is room")
    }

    #[test]
    fn each_open_file_that_may_write_is_told_once_and_no_reader_takes_that_away() {
        let table = Table::of_a_worker_from(Time::default());
        let (writer, other, reader) = (open(&table, true), open(&table, true), open(&table, false));
        table.note_lost(INO, DataError::NoSpace);
        assert_eq!(table.lost(reader, Asks::Close), None);
        assert!(!table.has_lost(reader) && table.has_lost(writer));
        table.close(reader);
        // A child closes what it has inherited.
        assert_eq!(table.lost(writer, Asks::Close), LOST);
        assert_eq!(table.lost(writer, Asks::Sync), LOST);
        assert_eq!(table.lost(writer, Asks::Sync), None);
        assert_eq!(table.lost(writer, Asks::Close), None);
        assert_eq!(table.lost(other, Asks::Write), LOST);
        assert!(!table.has_lost(other));
        table.note_lost(INO, DataError::NoSpace);
        assert_eq!(table.lost(other, Asks::Write), LOST);
        assert_eq!(table.lost(writer, Asks::Close), LOST);
    }

    #[test]
    fn what_nobody_was_told_of_waits_for_the_next_who_opens_the_file() {
        let table = Table::of_a_worker_from(Time::default());
        let first = open(&table, true);
        table.note_lost(INO, DataError::NoSpace);
        table.close(first);
        let second = open(&table, true);
        assert_eq!(table.lost(open(&table, false), Asks::Sync), LOST);
        assert_eq!(table.lost(second, Asks::Sync), LOST);
        assert_eq!(table.lost(open(&table, true), Asks::Sync), None);
    }

    #[test]
    fn of_an_inode_that_is_gone_nothing_is_kept() {
        let table = Table::of_a_worker_from(Time::default());
        table.note_lost(INO, DataError::NoSpace);
        table.forget_unused(INO);
        assert_eq!(table.losses(INO), 1);
        table.forget_losses(INO);
        assert_eq!(table.losses(INO), 0);
    }
}
