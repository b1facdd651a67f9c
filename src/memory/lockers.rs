//! Who asked for locks on which file, and through which open file: the locks go when it does.

use crate::{Error, Full, Memory, layout::*};
use hydfs_types::Ino;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

const HANDLE: usize = 0;
const INO: usize = 1;
const OWNER: usize = 2;

/// An owner that may hold locks on a file, through this handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locker {
    pub ino: Ino,
    pub owner: u64,
    pub handle: u64,
}

#[derive(Debug, Default)]
struct Index {
    places: BTreeMap<Locker, usize>,
    free: Vec<usize>,
}

/// Which places are taken.
#[derive(Debug)]
pub(crate) struct Lockers(Mutex<Index>);

impl Lockers {
    pub(crate) fn restore(words: &[AtomicU64]) -> Result<Self, Error> {
        let mut index = Index::default();
        for at in (0..LOCKERS_MAX).rev() {
            let record = &words[locker(at)];
            let word = |at: usize| record[at].load(SeqCst);
            if word(HANDLE) == 0 {
                index.free.push(at);
                continue;
            }
            let found = Locker {
                ino: Ino(word(INO)),
                owner: word(OWNER),
                handle: word(HANDLE),
            };
            if found.ino == Ino(0) || index.places.insert(found, at).is_some() {
                return Err(Error::Damaged("an owner of locks"));
            }
        }
        Ok(Self(Mutex::new(index)))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Before the owner asks for a lock.
    pub fn add_locker(&self, one: Locker) -> Result<(), Full> {
        let mut index = self.lockers.lock();
        if index.places.contains_key(&one) {
            return Ok(());
        }
        let at = index.free.pop().ok_or(Full)?;
        let record = &self.words()[locker(at)];
        record[INO].store(one.ino.0, SeqCst);
        record[OWNER].store(one.owner, SeqCst);
        record[HANDLE].store(one.handle, SeqCst);
        index.places.insert(one, at);
        Ok(())
    }

    /// After its locks are given back.
    pub fn remove_locker(&self, one: Locker) {
        let mut index = self.lockers.lock();
        if let Some(at) = index.places.remove(&one) {
            self.words()[locker(at)][HANDLE].store(0, SeqCst);
            index.free.push(at);
        }
    }

    /// Every owner that may hold locks.
    pub fn lockers(&self) -> Vec<Locker> {
        self.lockers.lock().places.keys().copied().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{create, memory::tests::worker};

    #[test]
    fn the_next_worker_knows_the_owners() {
        let file = create().unwrap();
        let memory = worker(&file);
        let one = |owner| Locker {
            ino: Ino(5),
            owner,
            handle: 8,
        };
        for owner in 1..4 {
            memory.add_locker(one(owner)).unwrap();
            memory.add_locker(one(owner)).unwrap();
        }
        memory.remove_locker(one(2));
        assert_eq!(worker(&file).lockers(), vec![one(1), one(3)]);
    }

    #[test]
    fn there_is_a_limit() {
        let memory = worker(&create().unwrap());
        let one = |owner| Locker {
            ino: Ino(5),
            owner,
            handle: 8,
        };
        for owner in 0..LOCKERS_MAX as u64 {
            memory.add_locker(one(owner)).unwrap();
        }
        assert_eq!(memory.add_locker(one(1 << 40)), Err(Full));
        memory.remove_locker(one(0));
        memory.add_locker(one(1 << 40)).unwrap();
    }
}
