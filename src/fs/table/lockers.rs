//! Owners of locks: through which open files each asked for some, so that these end with the files.

use super::{Inner, Table, VOLATILE};
use crate::volume::Outcome;
use hydfs_memory::Locker;
use hydfs_mount::{FsError, Handle};
use hydfs_types::Ino;

impl Table {
    /// An owner asks for a lock through an open file. Until the end of what this answers it may get one at any moment.
    pub fn ask_lock(&self, ino: Ino, owner: u64, handle: Handle) -> Outcome<Asking<'_>> {
        *self.inner().asking.entry((ino, owner)).or_default() += 1;
        let asking = Asking {
            table: self,
            owner: (ino, owner),
        };
        self.note_locker(ino, owner, handle)?;
        Ok(asking)
    }

    pub(super) fn note_locker(&self, ino: Ino, owner: u64, handle: Handle) -> Outcome<()> {
        let mut inner = self.inner();
        if let Some(memory) = self.memory()
            && handle & VOLATILE == 0
        {
            let one = Locker { ino, owner, handle };
            let full = |_| FsError::NoLocks("too many owners of locks on this mount".into());
            memory.add_locker(one).map_err(full)?;
        }
        let through = inner.lockers.entry((ino, owner)).or_default();
        through.insert(handle);
        Ok(())
    }

    /// The locks that an owner held are given back: the next worker need not do it. Not if it asked for one again meanwhile.
    pub fn unlocked(&self, ino: Ino, owner: u64) {
        let inner = self.inner();
        let Some(memory) = self.memory() else { return };
        let again = inner.lockers.get(&(ino, owner));
        let gone = memory.lockers().into_iter().filter(|one| {
            (one.ino, one.owner) == (ino, owner)
                && again.is_none_or(|through| !through.contains(&one.handle))
        });
        gone.for_each(|one| memory.remove_locker(one));
    }

    /// Owners of locks whose open files are all gone, and which may still hold some: after a worker that could not give them
    /// back any more. One that has the file open has asked again since.
    pub fn take_lockers_left(&self) -> Vec<(Ino, u64)> {
        let mut inner = self.inner();
        let Inner {
            handles, lockers, ..
        } = &mut *inner;
        let mut left = Vec::new();
        lockers.retain(|(ino, owner), through| {
            let (ino, owner) = (*ino, *owner);
            if !through.iter().any(|one| handles.contains_key(one)) {
                left.push((ino, owner));
                return false;
            }
            through.retain(|handle| {
                let is_open = handles.contains_key(handle);
                if let Some(memory) = self.memory().filter(|_| !is_open) {
                    let handle = *handle;
                    memory.remove_locker(Locker { ino, owner, handle });
                }
                is_open
            });
            true
        });
        left
    }

    /// Whether the owner may hold locks.
    pub fn is_locker(&self, ino: Ino, owner: u64) -> bool {
        self.inner().lockers.contains_key(&(ino, owner))
    }

    /// Whether anybody may hold locks on the inode.
    pub fn has_lockers(&self, ino: Ino) -> bool {
        let inner = self.inner();
        let mut of_ino = inner.lockers.range((ino, 0)..=(ino, u64::MAX));
        of_ino.next().is_some()
    }

    /// Forgets an owner, unless it may get a lock yet; says whether it may hold locks.
    pub fn take_locker(&self, ino: Ino, owner: u64) -> bool {
        let mut inner = self.inner();
        if inner.asking.contains_key(&(ino, owner)) {
            return inner.lockers.contains_key(&(ino, owner));
        }
        inner.lockers.remove(&(ino, owner)).is_some()
    }

    /// Forgets the owners that asked for locks through an open file, and names them; not those that have asked through
    /// another one since, which is a later owner of the same number.
    pub fn take_lockers_through(&self, ino: Ino, handle: Handle) -> Vec<u64> {
        let mut inner = self.inner();
        let of_inode = inner.lockers.range_mut((ino, 0)..=(ino, u64::MAX));
        let asked = of_inode.filter_map(|((_, owner), through)| {
            let asked = through.remove(&handle);
            asked.then_some((*owner, through.is_empty()))
        });
        let (last, others): (Vec<_>, Vec<_>) = asked.partition(|(_, is_last)| *is_last);
        if let Some(memory) = self.memory() {
            for (owner, _) in others {
                memory.remove_locker(Locker { ino, owner, handle });
            }
        }
        let owners: Vec<u64> = last.into_iter().map(|(owner, _)| owner).collect();
        for owner in &owners {
            inner.lockers.remove(&(ino, *owner));
        }
        owners
    }

    /// The locks of this owner are being given back.
    pub fn begin_unlocking(&self, ino: Ino, owner: u64) {
        *self.inner().unlocking.entry((ino, owner)).or_default() += 1;
    }

    pub fn end_unlocking(&self, ino: Ino, owner: u64) {
        let mut inner = self.inner();
        let count = inner.unlocking.remove(&(ino, owner)).unwrap_or_default();
        if count > 1 {
            inner.unlocking.insert((ino, owner), count - 1);
        }
    }

    pub fn is_unlocking(&self, ino: Ino, owner: u64) -> bool {
        self.inner().unlocking.contains_key(&(ino, owner))
    }
}

/// An owner's request for a lock: that owner is not forgotten meanwhile.
pub struct Asking<'a> {
    table: &'a Table,
    owner: (Ino, u64),
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut inner = self.table.inner();
        if let Some(count) = inner.asking.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                inner.asking.remove(&self.owner);
            }
        }
    }
}
