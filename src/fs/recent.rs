//! What this mount has just changed: `tar` and `cp -p` set owner and mode of a file right after they made it, mostly to
//! what they are. Time stamps of ordinary file systems come from a clock that ticks every few milliseconds, so a change
//! to what already is, within one tick of the last one, leaves nothing to see: it needs no command.

use hydfs_types::{Ino, Time};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The tick: that of a kernel that runs at 100 Hz.
const TICK: Duration = Duration::from_millis(10);
/// Changes that are remembered.
const KEPT: usize = 64;

/// The last changes of inodes that were agreed on behalf of this mount.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<(Ino, Time, Instant)>>);

impl Recent {
    /// A change was asked for at `asked`; the inode's change time is this since.
    pub fn note(&self, ino: Ino, ctime: Time, asked: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((ino, ctime, asked));
    }

    /// Whether anything of the inode was changed within the tick before `now`.
    pub fn has(&self, ino: Ino, now: Instant) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = kept.iter().filter(|(known, _, _)| *known == ino);
        same.any(|(_, _, asked)| now.saturating_duration_since(*asked) < TICK)
    }

    /// Whether this change time was given within the tick before `now`.
    pub fn is_now(&self, ino: Ino, ctime: Time, now: Instant) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = kept
            .iter()
            .filter(|(known, time, _)| (*known, *time) == (ino, ctime));
        same.any(|(_, _, asked)| now.saturating_duration_since(*asked) < TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(nsec: u32) -> Time {
        Time { sec: 1, nsec }
    }

    #[test]
    fn a_change_is_recent_for_a_tick_and_until_the_next() {
        let recent = Recent::default();
        let then = Instant::now();
        let (soon, late) = (then + TICK / 2, then + TICK);
        assert!(!recent.is_now(Ino(5), time(1), soon), "nothing was changed");
        recent.note(Ino(5), time(1), then);
        assert!(recent.has(Ino(5), soon) && recent.is_now(Ino(5), time(1), soon));
        assert!(!recent.has(Ino(5), late), "the tick is over");
        assert!(!recent.is_now(Ino(5), time(1), late), "the tick is over");
        assert!(!recent.is_now(Ino(6), time(1), soon), "another inode");
        assert!(
            !recent.is_now(Ino(5), time(2), soon),
            "somebody else changed it since"
        );
    }

    #[test]
    fn it_forgets_the_oldest() {
        let recent = Recent::default();
        let then = Instant::now();
        for ino in 0..=KEPT as u64 {
            recent.note(Ino(ino), time(1), then);
        }
        assert!(!recent.is_now(Ino(0), time(1), then));
        assert!(recent.is_now(Ino(1), time(1), then));
    }
}
