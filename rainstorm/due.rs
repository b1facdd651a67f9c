//! What is due when: a time and some bytes that say what, taken out in their order. What is due soon stays in memory, as far
//! as there is room; the rest is in a scratch file.

use crate::cold::Cold;
use crate::error::Result;
use crate::room::Room;
use crate::table::stop_at;
use std::collections::BTreeSet;

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 48;

/// A time, and what is due then.
type Entry = Box<[u8]>;

/// What is due.
pub struct Due {
    room: Room,
    limit: usize,
    /// In memory; what is also on disk counts once.
    near: BTreeSet<Entry>,
    memory: usize,
    cold: Option<Cold>,
    /// The first on disk.
    next: Option<Entry>,
    /// To make entries in.
    entry: Vec<u8>,
}

impl Due {
    /// Nothing is due.
    pub fn new(room: Room) -> Self {
        Self {
            limit: room.memory_bytes(),
            room,
            near: BTreeSet::new(),
            memory: 0,
            cold: None,
            next: None,
            entry: Vec::new(),
        }
    }

    /// Bytes in memory, about.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Adds what is due at a time, unless it is there.
    pub fn insert(&mut self, time: i64, what: &[&[u8]]) -> Result<()> {
        self.make(time, what);
        if self.near.contains(&self.entry[..]) {
            return Ok(());
        }
        if self.memory > self.limit {
            self.spill()?;
        }
        self.memory += self.entry.len() + ENTRY_BYTES;
        self.near.insert(self.entry.as_slice().into());
        Ok(())
    }

    /// Takes out what is due at a time no more, where it is in memory. What is on disk comes when its time does.
    pub fn remove(&mut self, time: i64, what: &[&[u8]]) {
        self.make(time, what);
        if self.near.remove(&self.entry[..]) {
            self.memory = self.memory.saturating_sub(self.entry.len() + ENTRY_BYTES);
        }
    }

    fn make(&mut self, time: i64, what: &[&[u8]]) {
        self.entry.clear();
        self.entry.extend_from_slice(&sortable(time));
        what.iter()
            .for_each(|part| self.entry.extend_from_slice(part));
    }

    /// Takes out the first, if it is due before `end`.
    pub fn take_before(&mut self, end: i64) -> Result<Option<(i64, Entry)>> {
        let near = self.near.first();
        if let Some(next) = &self.next
            && near.is_none_or(|near| next <= near)
        {
            self.fetch()?;
        }
        let is_due = |entry: &Entry| split(entry).is_some_and(|(time, _)| time < end);
        if !self.near.first().is_some_and(is_due) {
            return Ok(None);
        }
        let Some(entry) = self.near.pop_first() else {
            return Ok(None);
        };
        self.memory = self.memory.saturating_sub(entry.len() + ENTRY_BYTES);
        Ok(split(&entry).map(|(time, what)| (time, what.into())))
    }

    /// Moves the later half to disk.
    #[cold]
    fn spill(&mut self) -> Result<()> {
        self.limit = self.room.memory_bytes();
        let cold = match &mut self.cold {
            Some(cold) => cold,
            none => none.insert(self.room.open()?),
        };
        let (near, memory, limit) = (&mut self.near, &mut self.memory, self.limit);
        self.next = cold.write(|writes| {
            while *memory > limit / 2
                && let Some(last) = near.pop_last()
            {
                *memory = memory.saturating_sub(last.len() + ENTRY_BYTES);
                writes.insert(&last, &[])?;
            }
            writes.first()
        })?;
        Ok(())
    }

    /// Moves the first on disk to memory.
    #[cold]
    fn fetch(&mut self) -> Result<()> {
        let Some(cold) = &mut self.cold else {
            return Ok(());
        };
        let (near, memory, limit) = (&mut self.near, &mut self.memory, self.limit);
        // Half of what there is room for, and at least one.
        let mut left = limit / 2;
        self.next = cold.write(|writes| {
            writes.take_first(|first| {
                let cost = first.len() + ENTRY_BYTES;
                left = left.saturating_sub(cost);
                if near.insert(first.into()) {
                    *memory += cost;
                }
                stop_at(left == 0)
            })?;
            writes.first()
        })?;
        Ok(())
    }
}

/// A time in bytes that sort as times do.
pub fn sortable(time: i64) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

/// The time at the front, and what is behind it.
pub fn split(entry: &[u8]) -> Option<(i64, &[u8])> {
    let (time, what) = entry.split_first_chunk()?;
    Some(((u64::from_be_bytes(*time) ^ (1 << 63)) as i64, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// It comes out in order, each once, however little of it fits into memory.
        #[test]
        fn what_is_due_comes_in_order(
            steps in proptest::collection::vec((any::<bool>(), -20..20_i64, 0..9_u8), 1..120),
            memory in 0..2000_usize,
        ) {
            let mut due = Due::new(Room::of(memory, u64::MAX, 0));
            let mut model = BTreeSet::new();
            for (add, time, what) in steps {
                if add {
                    due.insert(time, &[&[what], b"x"]).unwrap();
                    model.insert((time, what));
                    continue;
                }
                let want = model.first().copied().filter(|(first, _)| *first < time);
                model.retain(|one| Some(*one) != want);
                let got = due.take_before(time).unwrap();
                prop_assert_eq!(got.map(|(time, what)| (time, what[0])), want);
            }
        }
    }
}
