//! What a member knows of damaged copies on its own disk. No I/O.

use hydfs_types::SegmentId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Segments under suspicion at once; more are found by the next pass.
const SUSPECTS_MAX: usize = 65_536;

/// A segment whose damage here no other copy could heal so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// First damaged byte of the segment.
    pub offset: u64,
    /// Why it could not be healed.
    pub why: String,
}

/// How far the scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// Segments done and to do in this pass.
    pub done: usize,
    pub of: usize,
    /// Passes that came to their end.
    pub passes: u64,
}

#[derive(Default)]
struct Known {
    suspects: BTreeSet<SegmentId>,
    lost: BTreeMap<SegmentId, Lost>,
    pass: Pass,
}

/// Suspected and lost copies of one member.
#[derive(Default)]
pub struct Health {
    known: Mutex<Known>,
    rung: Notify,
}

impl Health {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read or a merge met something wrong: the scrub looks at this segment next.
    pub fn suspect(&self, segment: SegmentId) {
        let mut known = self.known();
        if known.suspects.len() < SUSPECTS_MAX {
            known.suspects.insert(segment);
            self.rung.notify_one();
        }
    }

    pub(crate) fn take_suspects(&self) -> BTreeSet<SegmentId> {
        std::mem::take(&mut self.known().suspects)
    }

    /// Waits for a suspicion, at most this long.
    pub(crate) async fn wait(&self, at_most: Duration) {
        drop(tokio::time::timeout(at_most, self.rung.notified()).await);
    }

    /// Segments without a good copy, as far as this member found out.
    pub fn lost(&self) -> BTreeMap<SegmentId, Lost> {
        self.known().lost.clone()
    }

    /// Notes that a segment cannot be healed now; whether that is news.
    pub(crate) fn set_lost(&self, segment: SegmentId, lost: Lost) -> bool {
        self.known().lost.insert(segment, lost).is_none()
    }

    /// The segment's copy here is good, or gone.
    pub(crate) fn clear(&self, segment: SegmentId) {
        self.known().lost.remove(&segment);
    }

    /// How far the scrub is.
    pub fn pass(&self) -> Pass {
        self.known().pass
    }

    pub(crate) fn progress(&self, done: usize, of: usize) {
        let mut known = self.known();
        known.pass.done = done;
        known.pass.of = of;
    }

    pub(crate) fn passed(&self) {
        self.known().pass.passes += 1;
    }
}
