//! Advisory byte-range locks of one file: `flock` and `fcntl` share one space, as on NFS. Pure: who waits, and for how
//! long, is the callers' business.

use crate::Incarnation;
use serde::{Deserialize, Serialize};

/// A lock as its owner asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lock {
    /// First and last byte; the last of all is `u64::MAX`.
    pub start: u64,
    pub end: u64,
    /// The kernel's name for the process, or for the open file, that owns it: unique on one mount.
    pub owner: u64,
    /// Process that took it, for F_GETLK.
    pub pid: u32,
    pub exclusive: bool,
}

impl Lock {
    fn meets(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }
}

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldLock {
    pub lock: Lock,
    pub incarnation: Incarnation,
}

/// The locks of one file, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks(Vec<HeldLock>);

impl Locks {
    pub fn held(&self) -> &[HeldLock] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first lock of somebody else that this one cannot stand beside.
    pub fn in_the_way(&self, incarnation: Incarnation, lock: &Lock) -> Option<&HeldLock> {
        self.0.iter().find(|held| {
            let mine = held.incarnation == incarnation && held.lock.owner == lock.owner;
            !mine
                && held.lock.meets(lock.start, lock.end)
                && (held.lock.exclusive || lock.exclusive)
        })
    }

    /// Takes the lock. What the owner held of its range becomes this kind; with nobody in the way, see
    /// [`Locks::in_the_way`].
    pub fn take(&mut self, incarnation: Incarnation, lock: Lock) {
        self.release(incarnation, lock.owner, lock.start, lock.end);
        let mut new = lock;
        // Neighbours of one kind are one lock.
        self.0.retain(|held| {
            let old = held.lock;
            let joins = held.incarnation == incarnation
                && old.owner == new.owner
                && old.exclusive == new.exclusive
                && (old.end.checked_add(1) == Some(new.start)
                    || new.end.checked_add(1) == Some(old.start));
            if joins {
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
            }
            !joins
        });
        self.insert(HeldLock {
            lock: new,
            incarnation,
        });
    }

    /// Gives back what the owner holds from `start` to `end`; says whether that was anything.
    pub fn release(&mut self, incarnation: Incarnation, owner: u64, start: u64, end: u64) -> bool {
        let mine = |held: &HeldLock| {
            held.incarnation == incarnation
                && held.lock.owner == owner
                && held.lock.meets(start, end)
        };
        let cut: Vec<HeldLock> = self.0.iter().copied().filter(mine).collect();
        self.0.retain(|held| !mine(held));
        for held in &cut {
            let mut keep = |from: u64, to: u64| {
                let mut rest = *held;
                (rest.lock.start, rest.lock.end) = (from, to);
                self.insert(rest);
            };
            if held.lock.start < start {
                keep(held.lock.start, start - 1);
            }
            if held.lock.end > end {
                keep(end + 1, held.lock.end);
            }
        }
        !cut.is_empty()
    }

    /// Everything of incarnations that ended goes; says whether that was anything.
    pub fn end(&mut self, ended: impl Fn(Incarnation) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|held| !ended(held.incarnation));
        self.0.len() < before
    }

    fn insert(&mut self, held: HeldLock) {
        let at = self.0.partition_point(|other| *other < held);
        self.0.insert(at, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Incarnation = Incarnation(1);

    fn lock(owner: u64, start: u64, end: u64, exclusive: bool) -> Lock {
        Lock {
            start,
            end,
            owner,
            pid: 7,
            exclusive,
        }
    }

    fn ranges(locks: &Locks) -> Vec<(u64, u64, u64, bool)> {
        let row = |held: &HeldLock| {
            let lock = held.lock;
            (lock.owner, lock.start, lock.end, lock.exclusive)
        };
        locks.held().iter().map(row).collect()
    }

    #[test]
    fn a_range_is_split_changed_and_joined() {
        let mut locks = Locks::default();
        locks.take(ME, lock(1, 0, u64::MAX, true));
        locks.take(ME, lock(1, 10, 19, false));
        assert_eq!(
            ranges(&locks),
            [(1, 0, 9, true), (1, 10, 19, false), (1, 20, u64::MAX, true)]
        );
        assert!(locks.in_the_way(ME, &lock(2, 12, 15, false)).is_none());
        assert!(locks.in_the_way(ME, &lock(2, 12, 15, true)).is_some());
        assert!(
            locks
                .in_the_way(Incarnation(2), &lock(1, 0, 0, false))
                .is_some()
        );
        locks.take(ME, lock(1, 10, 19, true));
        assert_eq!(ranges(&locks), [(1, 0, u64::MAX, true)]);
        assert!(locks.release(ME, 1, 5, 5));
        assert!(!locks.release(ME, 1, 5, 5));
        assert!(!locks.release(ME, 2, 0, u64::MAX));
        assert_eq!(ranges(&locks), [(1, 0, 4, true), (1, 6, u64::MAX, true)]);
        assert!(locks.end(|one| one == ME));
        assert!(locks.is_empty());
    }

    proptest! {
        /// Against a table of bytes: who holds which, and how.
        #[test]
        fn as_a_table_of_bytes(steps in prop::collection::vec((0_u64..3, 0_u64..24, 0_u64..24, 0_u8..3), 1..60)) {
            let mut locks = Locks::default();
            let mut bytes: Vec<[Option<bool>; 3]> = vec![[None; 3]; 24];
            for (owner, one, other, kind) in steps {
                let (start, end) = (one.min(other), one.max(other));
                let range = start as usize..=end as usize;
                let who = owner as usize;
                if kind == 2 {
                    let held = bytes[range.clone()].iter().any(|byte| byte[who].is_some());
                    prop_assert_eq!(locks.release(ME, owner, start, end), held);
                    bytes[range].iter_mut().for_each(|byte| byte[who] = None);
                    continue;
                }
                let wanted = lock(owner, start, end, kind == 1);
                let blocked = bytes[range.clone()].iter().any(|byte| {
                    let others = (0..3).filter(|other| *other != who);
                    others.filter_map(|other| byte[other]).any(|held| held || kind == 1)
                });
                prop_assert_eq!(locks.in_the_way(ME, &wanted).is_some(), blocked);
                if !blocked {
                    locks.take(ME, wanted);
                    bytes[range].iter_mut().for_each(|byte| byte[who] = Some(kind == 1));
                }
            }
            for (at, byte) in bytes.iter().enumerate() {
                for (owner, want) in byte.iter().enumerate() {
                    let of = |held: &&HeldLock| held.lock.owner == owner as u64 && held.lock.meets(at as u64, at as u64);
                    let here: Vec<bool> = locks.held().iter().filter(of).map(|held| held.lock.exclusive).collect();
                    prop_assert_eq!(here, Vec::from_iter(*want));
                }
            }
        }
    }
}
