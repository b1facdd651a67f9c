//! State by key: a table that knows what changed since it was last saved. What it saves are deltas; restoring them in
//! order gives the table again. Its order never shows: deltas are sorted.

use crate::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;

/// Most bytes of keys and values in one task.
pub const STATE_BYTES_MAX: usize = 512 << 20;
/// What an entry costs beside its key, about.
const ENTRY_BYTES: usize = 64;

/// One table's changes: each key with its value, `None` if it is gone.
pub type Delta<V> = Vec<(Vec<u8>, Option<V>)>;

/// A table.
#[derive(Debug)]
pub struct Table<V> {
    index: HashMap<Box<[u8]>, usize>,
    slots: Vec<Option<Slot<V>>>,
    /// Slots without a key.
    free: Vec<usize>,
    /// Keys changed since the last delta; some may stand here twice.
    changed: Vec<Box<[u8]>>,
    /// Of keys and entries, and what the owner adds with `grow`.
    bytes: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    changed: bool,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            changed: Vec::new(),
            bytes: 0,
        }
    }
}

impl<V: Clone + Serialize + DeserializeOwned> Table<V> {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts memory that values hold (or, negative, no longer hold) beside their entries.
    pub fn grow(&mut self, bytes: isize) {
        self.bytes = self.bytes.saturating_add_signed(bytes);
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        let slot = self.slots.get(*self.index.get(key)?)?.as_ref()?;
        Some(&slot.value)
    }

    fn put(&mut self, key: Box<[u8]>, value: V) -> usize {
        self.bytes += 2 * key.len() + ENTRY_BYTES;
        let at = self.free.pop().unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[at] = Some(Slot {
            value,
            changed: false,
        });
        self.index.insert(key, at);
        at
    }

    fn take(&mut self, key: &[u8]) -> Option<Slot<V>> {
        let at = self.index.remove(key)?;
        self.free.push(at);
        self.bytes = self.bytes.saturating_sub(2 * key.len() + ENTRY_BYTES);
        self.slots[at].take()
    }

    /// The value of a key, made if missing, to be changed.
    pub fn update(&mut self, key: &[u8], missing: impl FnOnce() -> V) -> &mut V {
        let at = match self.index.get(key) {
            Some(&at) => at,
            None => self.put(key.into(), missing()),
        };
        let slot = self.slots[at].as_mut().expect("an indexed slot is full");
        if !std::mem::replace(&mut slot.changed, true) {
            self.changed.push(key.into());
        }
        &mut slot.value
    }

    /// Adds a key; false if it was there.
    pub fn insert(&mut self, key: &[u8], value: V) -> bool {
        if self.index.contains_key(key) {
            return false;
        }
        self.update(key, || value);
        true
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let slot = self.take(key)?;
        if !slot.changed {
            self.changed.push(key.into());
        }
        Some(slot.value)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        let value = |at: usize| self.slots[at].as_ref().map(|slot| &slot.value);
        self.index
            .iter()
            .filter_map(move |(key, &at)| Some((&**key, value(at)?)))
    }

    /// Everything, sorted by key; the table is empty after it. For the end of the input: no delta follows.
    pub fn drain_sorted(&mut self) -> Vec<(Box<[u8]>, V)> {
        let index = std::mem::take(&mut self.index);
        let mut slots = std::mem::take(&mut self.slots);
        self.free.clear();
        let mut all: Vec<_> = index
            .into_iter()
            .filter_map(|(key, at)| Some((key, slots[at].take()?.value)))
            .collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Nothing changed since the last delta.
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty()
    }

    /// Keys changed since the last delta, sorted.
    pub fn changed(&self) -> Vec<&[u8]> {
        let mut keys: Vec<&[u8]> = self.changed.iter().map(|key| &**key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Everything (`full`) or what changed since the last delta.
    pub fn delta(&mut self, full: bool) -> Delta<V> {
        let mut keys = std::mem::take(&mut self.changed);
        for key in &keys {
            if let Some(&at) = self.index.get(key)
                && let Some(slot) = &mut self.slots[at]
            {
                slot.changed = false;
            }
        }
        if full {
            keys = self.index.keys().cloned().collect();
        }
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter()
            .map(|key| {
                let value = self.get(&key).cloned();
                (key.into(), value)
            })
            .collect()
    }

    /// Puts back what `delta` gave, where `mine` says so; later deltas win.
    pub fn restore(&mut self, delta: Delta<V>, mine: impl Fn(&[u8]) -> bool) {
        for (key, value) in delta.into_iter().filter(|(key, _)| mine(key)) {
            drop(self.take(&key));
            if let Some(value) = value {
                self.put(key.into(), value);
            }
        }
    }
}

/// An error once a task's state is over its limit.
pub fn check_size(bytes: usize, keys: usize) -> Result<()> {
    if bytes <= STATE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::Job(format!(
        "one task holds {keys} different keys, more than {STATE_BYTES_MAX} bytes; give the stage more `tasks`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever happens between them, deltas in order restore the table, and so does a full one.
        #[test]
        fn deltas_restore_the_table(steps in proptest::collection::vec((0..4_u8, 0..6_u8, any::<u16>()), 0..60)) {
            let mut table = Table::<u16>::default();
            let mut deltas = Vec::new();
            for (what, key, value) in steps {
                match what {
                    0 | 1 => *table.update(&[key], || 0) = value,
                    2 => drop(table.remove(&[key])),
                    _ => deltas.push(table.delta(false)),
                }
            }
            deltas.push(table.delta(false));
            prop_assert!(table.is_unchanged());
            let want: Vec<(Vec<u8>, u16)> = {
                let mut all: Vec<_> = table.iter().map(|(key, value)| (key.to_vec(), *value)).collect();
                all.sort();
                all
            };
            for deltas in [deltas, vec![table.delta(true)]] {
                let mut again = Table::<u16>::default();
                deltas.into_iter().for_each(|delta| again.restore(delta, |_| true));
                prop_assert_eq!(again.bytes(), table.bytes());
                let all: Vec<_> = again.drain_sorted().into_iter().map(|(key, value)| (key.into_vec(), value)).collect();
                prop_assert_eq!(&all, &want);
            }
        }
    }
}
