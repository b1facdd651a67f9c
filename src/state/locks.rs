//! Advisory locks: agreed, so that they exclude across members; ended with the incarnation that holds them (R1).

use crate::{Event, State};
use hydfs_types::{CommandError, HeldLock, Incarnation, Ino, Lock, Reply};

/// Ranges on one file at most, of all owners together.
pub const LOCKS_PER_FILE_MAX: usize = 8192;

impl State {
    pub(crate) fn lock(
        &mut self,
        ino: Ino,
        incarnation: Incarnation,
        lock: Lock,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        if lock.start > lock.end {
            return Err(CommandError::Invalid(
                "a range ends before it begins".into(),
            ));
        }
        if !self.cluster.alive.contains_key(&incarnation) {
            return Err(CommandError::Ended(incarnation));
        }
        self.inode(ino)?;
        if self.lock_in_the_way(ino, incarnation, &lock).is_some() {
            return Err(CommandError::Locked);
        }
        let locks = self.names.locks.entry(ino).or_default();
        // Two more at most: a range in the middle of one.
        if locks.held().len() + 2 > LOCKS_PER_FILE_MAX {
            return Err(CommandError::TooManyLocks);
        }
        locks.take(incarnation, lock);
        // What was exclusive may be shared now.
        events.push(Event::Unlocked(ino));
        Ok(Reply::Done)
    }

    pub(crate) fn unlock(
        &mut self,
        ino: Ino,
        incarnation: Incarnation,
        owner: u64,
        (start, end): (u64, u64),
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        if let Some(locks) = self.names.locks.get_mut(&ino)
            && locks.release(incarnation, owner, start, end)
        {
            if locks.is_empty() {
                self.names.locks.remove(&ino);
            }
            events.push(Event::Unlocked(ino));
        }
        Ok(Reply::Done)
    }

    /// Whose lock is in the way of this one, if any is.
    pub fn lock_in_the_way(
        &self,
        ino: Ino,
        incarnation: Incarnation,
        lock: &Lock,
    ) -> Option<HeldLock> {
        let locks = self.names.locks.get(&ino)?;
        locks.in_the_way(incarnation, lock).copied()
    }

    /// The locks of incarnations that ended, or whose process was replaced, go.
    pub(crate) fn end_locks(
        &mut self,
        ended: impl Fn(Incarnation) -> bool,
        events: &mut Vec<Event>,
    ) {
        self.names.locks.retain(|ino, locks| {
            if locks.end(&ended) {
                events.push(Event::Unlocked(*ino));
            }
            !locks.is_empty()
        });
    }
}
