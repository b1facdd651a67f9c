//! Text that only grows, a line at a time, for control files that are followed: `.cluster/events`.
//!
//! Limits: [`BYTES_MAX`] of text; past that the older half goes, and offsets of the file begin at what is left. Each open
//! file reads on from where it is: it misses nothing but what went before it was read.

use hydfs_types::Time;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Text that is kept at most.
const BYTES_MAX: usize = 1 << 20;

/// Called when there are more lines.
pub type Bell = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Text {
    kept: VecDeque<u8>,
    /// Bytes that went before it.
    gone: u64,
    changed: Time,
}

impl Text {
    fn end(&self) -> u64 {
        self.gone + self.kept.len() as u64
    }
}

/// The lines.
#[derive(Default)]
pub struct Lines {
    text: Mutex<Text>,
    bell: OnceLock<Bell>,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds lines, each of which ends itself.
    pub fn push(&self, lines: &str, now: Time) {
        {
            let mut text = self.lock();
            text.kept.extend(lines.as_bytes());
            text.changed = now;
            if text.kept.len() > BYTES_MAX {
                let half = text.kept.len() / 2;
                let line = text.kept.range(half..).position(|byte| *byte == b'\n');
                let gone = line.map_or(text.kept.len(), |at| half + at + 1);
                text.kept.drain(..gone);
                text.gone += gone as u64;
            }
        }
        if let Some(bell) = self.bell.get() {
            bell();
        }
    }

    /// Whom to tell of more lines. Once.
    pub(crate) fn set_bell(&self, bell: Bell) {
        drop(self.bell.set(bell));
    }

    /// Bytes that can be read, and when the last came.
    pub(crate) fn size(&self) -> (u64, Time) {
        let text = self.lock();
        (text.kept.len() as u64, text.changed)
    }

    /// All that is kept.
    pub fn whole(&self) -> Vec<u8> {
        self.lock().kept.iter().copied().collect()
    }
}

/// Where an open file is in the lines.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The byte, counted from the first of all, that its offset 0 is. `None`: it is opened with an earlier worker, and goes
    /// on with the first line of this one wherever it is.
    begins: Option<u64>,
    /// All before this byte was read.
    read: u64,
}

/// An open file of lines.
pub struct Follower {
    lines: Arc<Lines>,
    place: Mutex<Place>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Follower({:?})", self.lock())
    }
}

impl Follower {
    pub(crate) fn open(lines: Arc<Lines>) -> Arc<Self> {
        let begins = lines.lock().gone;
        Self::at(lines, Some(begins))
    }

    /// What was opened with an earlier worker.
    pub(crate) fn inherited(lines: Arc<Lines>) -> Arc<Self> {
        Self::at(lines, None)
    }

    fn at(lines: Arc<Lines>, begins: Option<u64>) -> Arc<Self> {
        let place = Mutex::new(Place { begins, read: 0 });
        Arc::new(Self { lines, place })
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from an offset of the file; none at its end.
    pub(crate) fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        let mut place = self.lock();
        let text = self.lines.lock();
        let begins = match place.begins {
            Some(begins) if offset > 0 => begins,
            // From the start again, as it is now; or wherever it was, with the first line of this worker.
            _ => text.gone.wrapping_sub(offset),
        };
        let wanted = begins.wrapping_add(offset);
        // What it had not read yet is gone: it goes on with what is left.
        let from = wanted.max(text.gone);
        place.begins = Some(begins.wrapping_add(from - wanted));
        let start = ((from - text.gone) as usize).min(text.kept.len());
        let end = start.saturating_add(len as usize).min(text.kept.len());
        place.read = place.read.max(text.gone + end as u64);
        text.kept.range(start..end).copied().collect()
    }

    /// Whether there is something that was not read.
    pub(crate) fn is_ready(&self) -> bool {
        let read = self.lock().read;
        self.lines.lock().end() > read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Arc<Lines> {
        let lines = Arc::new(Lines::default());
        lines.push("one\n", Time::default());
        lines
    }

    #[test]
    fn a_follower_reads_on_and_is_ready_for_what_is_new() {
        let lines = lines();
        let open = Follower::open(lines.clone());
        assert!(open.is_ready());
        assert_eq!(open.read(0, 100), b"one\n");
        assert!(!open.is_ready());
        assert!(open.read(4, 100).is_empty());
        lines.push("two\nthree\n", Time::default());
        assert!(open.is_ready());
        assert_eq!(open.read(4, 5), b"two\nt");
        assert_eq!(open.read(9, 100), b"hree\n");
        assert!(!open.is_ready());
        assert_eq!(open.read(0, 3), b"one");
        assert!(!open.is_ready(), "read before");
        assert!(open.read(1_000, 10).is_empty());
    }

    #[test]
    fn the_older_half_goes_and_nobody_loses_what_is_left() {
        let lines = lines();
        let (behind, follows) = (Follower::open(lines.clone()), Follower::open(lines.clone()));
        let mut at = follows.read(0, 100).len() as u64;
        let line = "x".repeat(1_023) + "\n";
        for _ in 0..2 * BYTES_MAX / line.len() {
            lines.push(&line, Time::default());
            let read = follows.read(at, u32::MAX);
            assert_eq!(read, line.as_bytes());
            at += read.len() as u64;
        }
        let kept = lines.whole();
        assert!(kept.len() <= BYTES_MAX && kept.len() >= BYTES_MAX / 4);
        assert_eq!(kept.len() % line.len(), 0, "whole lines");
        assert_eq!(lines.size().0, kept.len() as u64);
        assert_eq!(behind.read(4, u32::MAX), kept, "what is left");
        assert_eq!(Follower::open(lines).read(0, u32::MAX), kept);
    }

    #[test]
    fn what_an_earlier_worker_had_open_goes_on_with_the_first_line() {
        let inherited = Follower::inherited(lines());
        assert!(inherited.is_ready());
        assert_eq!(inherited.read(5_000, 100), b"one\n");
        assert!(!inherited.is_ready());
        assert!(inherited.read(5_004, 100).is_empty());
    }
}
