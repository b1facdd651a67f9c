//! What the log holds, in memory: an id and a position for each entry, the newest entries whole, vote and marks.
//! No I/O; rebuilt at start by replaying the log's records in order.

use crate::raft::{Entry, LogId, Vote};
use crate::wire::command_bytes;
use hydfs_store::Position;
use std::{collections::VecDeque, ops::Range};

/// Bytes of commands that are kept whole in memory; older entries are read from the log.
pub const CACHE_BYTES_MAX: usize = 64 << 20;

/// One entry.
#[derive(Debug)]
pub struct Slot {
    pub id: LogId,
    pub at: Position,
    /// `None`: to be read from the log.
    pub entry: Option<Entry>,
}

/// Entries `first..next()`, all consecutive.
#[derive(Debug, Default)]
pub struct Index {
    first: u64,
    slots: VecDeque<Slot>,
    /// Entries below this index are not in memory.
    cached_from: u64,
    cached_bytes: usize,
    pub purged: Option<LogId>,
    pub vote: Option<Vote>,
    /// As the member knows it; written down with the next entries.
    pub committed: Option<LogId>,
    /// As it was last written down.
    pub committed_written: Option<LogId>,
}

impl Index {
    /// Index of the entry to come.
    pub fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The last entry, or what was purged before it.
    pub fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// Where the first entry lies.
    pub fn first_at(&self) -> Option<Position> {
        self.slots.front().map(|slot| slot.at)
    }

    /// Adds an entry. It follows the last one; only an empty index may begin anywhere.
    pub fn push(&mut self, entry: Entry, at: Position) {
        let id = entry.log_id;
        if self.slots.is_empty() {
            self.first = id.index;
            self.cached_from = id.index;
        }
        assert_eq!(
            id.index,
            self.next(),
            "entries of the agreement log are consecutive"
        );
        self.cached_bytes += command_bytes(&entry);
        self.slots.push_back(Slot {
            id,
            at,
            entry: Some(entry),
        });
        self.evict();
    }

    /// Forgets every entry after `keep`.
    pub fn truncate_after(&mut self, keep: Option<LogId>) {
        let next = keep.map_or(0, |id| id.index + 1);
        while self.slots.back().is_some_and(|slot| slot.id.index >= next) {
            let slot = self.slots.pop_back().expect("looked at above");
            self.cached_bytes -= slot.entry.as_ref().map_or(0, command_bytes);
        }
        self.cached_from = self.cached_from.min(self.next());
    }

    /// Forgets every entry up to `id`. What lies before an id past the end is a snapshot's.
    pub fn purge(&mut self, id: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.id.index <= id.index)
        {
            let slot = self.slots.pop_front().expect("looked at above");
            self.cached_bytes -= slot.entry.as_ref().map_or(0, command_bytes);
            self.first = slot.id.index + 1;
        }
        self.purged = Some(id);
        if self.slots.is_empty() {
            self.first = id.index + 1;
        }
        self.cached_from = self.cached_from.max(self.first);
    }

    /// Entries of this range, as far as there are any.
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = &Slot> {
        let from = range.start.max(self.first).min(self.next());
        let to = range.end.min(self.next()).max(from);
        self.slots
            .range((from - self.first) as usize..(to - self.first) as usize)
    }

    fn evict(&mut self) {
        while self.cached_bytes > CACHE_BYTES_MAX && self.cached_from + 1 < self.next() {
            let slot = &mut self.slots[(self.cached_from - self.first) as usize];
            self.cached_bytes -= slot.entry.take().as_ref().map_or(0, command_bytes);
            self.cached_from += 1;
        }
    }
}
