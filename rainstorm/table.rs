//! State by key: a table that knows what changed since it was last saved. What is used stays in memory, as far as its room
//! goes; the rest is in a scratch file until its key is met again. What it holds, what it saves and the order in which it
//! hands that out do not depend on where it is.
//!
//! A key that is in memory counts; what the file says of it is older. Of a key that is gone there is a mark in memory for as
//! long as the file, or the next save, does not know.

#[cfg(test)]
mod tests;
mod walk;

pub use walk::{Delta, Which};

use crate::cold::Cold;
use crate::error::Result;
use crate::room::Room;
use hashbrown::{DefaultHashBuilder, HashTable};
use serde::{Serialize, de::DeserializeOwned};
use std::hash::BuildHasher;
use std::ops::{Bound, ControlFlow};

/// Keys on disk that are removed together.
const REMOVED_AT_ONCE: usize = 4096;

/// Keys from one bound to another.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What a table can hold.
pub trait Value: Clone + Serialize + DeserializeOwned {
    /// Bytes in memory beside itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Value for () {}
impl Value for i64 {}
impl Value for Vec<u8> {
    fn heap_bytes(&self) -> usize {
        self.len()
    }
}
impl Value for Vec<(i64, u64)> {
    fn heap_bytes(&self) -> usize {
        16 * self.len()
    }
}

/// It is not what the file says.
const DIRTY: u8 = 1;
/// It is not what was last saved; its place is in `changed`.
const CHANGED: u8 = 2;
/// It was used since it was last looked at.
const USED: u8 = 4;
/// The file has the key, too.
const FILED: u8 = 8;

#[derive(Debug)]
struct Slot<V> {
    key: Box<[u8]>,
    /// `None`: the key is gone.
    value: Option<V>,
    is: u8,
}

/// A table.
pub struct Table<V> {
    room: Room,
    /// Most bytes in memory, for now.
    limit: usize,
    hasher: DefaultHashBuilder,
    /// Places of keys.
    index: HashTable<u32>,
    slots: Vec<Option<Slot<V>>>,
    /// Slots without a key.
    free: Vec<u32>,
    /// Those that are `CHANGED`.
    changed: Vec<u32>,
    /// Nobody saves it.
    derived: bool,
    /// Where the search for what is not used goes on.
    hand: usize,
    keys: usize,
    /// Of all keys and values.
    bytes: usize,
    /// Of those in memory, and of the marks.
    memory: usize,
    cold: Option<Cold>,
    walk: Option<walk::Walk>,
}

impl<V: Value> Table<V> {
    /// An empty one.
    pub fn new(room: Room) -> Self {
        Self {
            limit: room.memory_bytes(),
            room,
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            changed: Vec::new(),
            derived: false,
            hand: 0,
            keys: 0,
            bytes: 0,
            memory: 0,
            cold: None,
            walk: None,
        }
    }

    /// An empty one that follows from others: nobody saves it.
    pub fn derived(room: Room) -> Self {
        Self {
            derived: true,
            ..Self::new(room)
        }
    }

    /// Number of keys.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Number of keys.
    pub fn count(&self) -> usize {
        self.keys
    }

    /// Bytes of all keys and values, about; the same for the same keys and values, wherever they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of these, bytes in memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// What a key and its value take, about.
    fn cost(key: &[u8], value: Option<&V>) -> usize {
        // A slot, its share of the index and of what vectors keep ready, and what the allocator adds.
        let entry = size_of::<Option<Slot<V>>>() * 3 / 2 + 32;
        key.len() + entry + value.map_or(0, V::heap_bytes)
    }

    fn place(&self, key: &[u8]) -> Option<u32> {
        let is_it = |&at: &u32| {
            let slot = self.slots[at as usize].as_ref();
            slot.is_some_and(|slot| *slot.key == *key)
        };
        self.index.find(self.hasher.hash_one(key), is_it).copied()
    }

    fn slot(&mut self, at: u32) -> &mut Slot<V> {
        self.slots[at as usize]
            .as_mut()
            .expect("an indexed slot is full")
    }

    /// A slot for a key that has none.
    fn put(&mut self, key: &[u8], value: Option<V>, is: u8) -> u32 {
        self.memory += Self::cost(key, value.as_ref());
        let slot = Slot {
            key: key.into(),
            value,
            is,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |at: &u32| {
            let slot = slots[*at as usize].as_ref();
            hasher.hash_one(&*slot.expect("an indexed slot is full").key)
        };
        self.index.insert_unique(hasher.hash_one(key), at, hash_of);
        at
    }

    /// Frees a slot.
    fn drop_slot(&mut self, at: u32) -> Option<Slot<V>> {
        let slot = self.slots[at as usize].take()?;
        let hash = self.hasher.hash_one(&*slot.key);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
        self.free.push(at);
        self.memory -= Self::cost(&slot.key, slot.value.as_ref());
        Some(slot)
    }

    /// Where a key is in memory, if it is anywhere: from now on it is there.
    fn find(&mut self, key: &[u8]) -> Result<Option<u32>> {
        if let Some(at) = self.place(key) {
            let slot = self.slot(at);
            slot.is |= USED;
            return Ok(slot.value.is_some().then_some(at));
        }
        let Some(cold) = &self.cold else {
            return Ok(None);
        };
        let read = |bytes: &[u8]| Ok(hydfs_types::decode::<V>(bytes)?);
        let Some(value) = cold.get(key, read)? else {
            return Ok(None);
        };
        self.make_room()?;
        Ok(Some(self.put(key, Some(value), FILED)))
    }

    fn set_changed(&mut self, at: u32) {
        let derived = self.derived;
        let slot = self.slot(at);
        slot.is |= DIRTY;
        if !derived && slot.is & CHANGED == 0 {
            slot.is |= CHANGED;
            self.changed.push(at);
        }
    }

    /// The value of a key.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&V>> {
        let at = self.find(key)?;
        Ok(at.and_then(|at| self.slots[at as usize].as_ref()?.value.as_ref()))
    }

    /// Changes the value of a key, which is made if missing; `change` is told whether it was.
    pub fn update<T>(
        &mut self,
        key: &[u8],
        missing: impl FnOnce() -> V,
        change: impl FnOnce(&mut V, bool) -> T,
    ) -> Result<T> {
        let (at, is_new) = match self.find(key)? {
            Some(at) => (at, false),
            None => (self.revive(key, missing())?, true),
        };
        self.set_changed(at);
        let slot = self.slots[at as usize].as_mut();
        let value = slot.and_then(|slot| slot.value.as_mut());
        let value = value.expect("a key that was found has a value");
        let before = value.heap_bytes();
        let done = change(value, is_new);
        let after = value.heap_bytes();
        self.bytes = self.bytes + after - before;
        self.memory = self.memory + after - before;
        Ok(done)
    }

    /// Gives a key that has no value one.
    fn revive(&mut self, key: &[u8], value: V) -> Result<u32> {
        self.make_room()?;
        self.keys += 1;
        let cost = Self::cost(key, Some(&value));
        self.bytes += cost;
        match self.place(key) {
            Some(at) => {
                self.memory = self.memory + cost - Self::cost(key, None);
                self.slot(at).value = Some(value);
                Ok(at)
            }
            None => Ok(self.put(key, Some(value), 0)),
        }
    }

    /// Adds a key; false if it was there.
    pub fn insert(&mut self, key: &[u8], value: V) -> Result<bool> {
        if self.find(key)?.is_some() {
            return Ok(false);
        }
        let at = self.revive(key, value)?;
        self.set_changed(at);
        Ok(true)
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &[u8]) -> Result<Option<V>> {
        let Some(at) = self.find(key)? else {
            return Ok(None);
        };
        self.set_changed(at);
        Ok(self.take_value(at))
    }

    /// What is left of a slot's key is a mark, if somebody has to know that it is gone.
    fn take_value(&mut self, at: u32) -> Option<V> {
        let slot = self.slots[at as usize].as_mut()?;
        let value = slot.value.take()?;
        let cost = Self::cost(&slot.key, Some(&value));
        let mark = Self::cost(&slot.key, None);
        let is_known = slot.is & (CHANGED | FILED) == 0;
        self.memory = self.memory + mark - cost;
        self.bytes -= cost;
        self.keys -= 1;
        if is_known {
            self.drop_slot(at);
        }
        Some(value)
    }

    /// Forgets all keys of which `gone` says so; those on disk lie in `ranges`.
    pub fn remove_where(
        &mut self,
        ranges: &[KeyRange],
        gone: impl Fn(&[u8]) -> bool,
    ) -> Result<()> {
        for at in 0..self.slots.len() as u32 {
            let slot = self.slots[at as usize].as_ref();
            if slot.is_some_and(|slot| slot.value.is_some() && gone(&slot.key)) {
                self.set_changed(at);
                self.take_value(at);
            }
        }
        let Some(mut cold) = self.cold.take() else {
            return Ok(());
        };
        for &(from, to) in ranges {
            let mut after: Option<Box<[u8]>> = None;
            loop {
                let from = after.as_deref().map_or(from, Bound::Excluded);
                let (mut keys, mut cost) = (Vec::<Box<[u8]>>::new(), 0);
                cold.scan((from, to), |key, value| {
                    if gone(key) && self.place(key).is_none() {
                        cost += Self::cost(key, Some(&hydfs_types::decode::<V>(value)?));
                        keys.push(key.into());
                    }
                    Ok(stop_at(keys.len() >= REMOVED_AT_ONCE))
                })?;
                let Some(last) = keys.last() else {
                    break;
                };
                after = Some(last.clone());
                self.keys -= keys.len();
                self.bytes -= cost;
                let derived = self.derived;
                cold.write(|writes| {
                    keys.iter().try_for_each(|key| {
                        writes.remove(key)?;
                        if derived { Ok(()) } else { writes.mark(key) }
                    })
                })?;
            }
        }
        self.cold = Some(cold);
        Ok(())
    }

    /// Looks how much room there is now.
    pub fn settle(&mut self) -> Result<()> {
        self.limit = self.room.memory_bytes();
        self.make_room()
    }

    fn make_room(&mut self) -> Result<()> {
        match self.memory <= self.limit {
            true => Ok(()),
            false => self.spill(),
        }
    }

    /// Moves what was not used of late to disk, until half of the room is free.
    #[cold]
    fn spill(&mut self) -> Result<()> {
        self.limit = self.room.memory_bytes();
        let mut victims = Vec::new();
        let (mut left, count) = (self.memory, self.slots.len());
        // What is used twice around is left in the second round: then all of it is.
        for _ in 0..2 * count {
            if left <= self.limit / 2 {
                break;
            }
            self.hand = (self.hand + 1) % count;
            let Some(slot) = &mut self.slots[self.hand] else {
                continue;
            };
            if slot.is & USED != 0 {
                slot.is &= !USED;
                continue;
            }
            // Not a second time.
            slot.is |= USED;
            left -= Self::cost(&slot.key, slot.value.as_ref());
            victims.push(self.hand as u32);
        }
        self.write(&mut victims)?;
        for at in victims {
            self.drop_slot(at);
        }
        Ok(())
    }

    /// Writes to disk what it does not know of these slots.
    fn write(&mut self, places: &mut [u32]) -> Result<()> {
        let slots = &mut self.slots;
        places.sort_unstable_by(|&a, &b| {
            let key = |at: u32| slots[at as usize].as_ref().map(|slot| &slot.key);
            key(a).cmp(&key(b))
        });
        let cold = match &mut self.cold {
            Some(cold) => cold,
            none => none.insert(self.room.open()?),
        };
        cold.write(|writes| {
            for &at in places.iter() {
                let Some(slot) = &mut slots[at as usize] else {
                    continue;
                };
                match &slot.value {
                    Some(value) if slot.is & DIRTY != 0 => {
                        writes.insert(&slot.key, &hydfs_types::encode(value))?;
                        slot.is |= FILED;
                    }
                    None if slot.is & FILED != 0 => {
                        writes.remove(&slot.key)?;
                        slot.is &= !FILED;
                    }
                    _ => {}
                }
                if slot.is & CHANGED != 0 {
                    writes.mark(&slot.key)?;
                }
                slot.is &= !(DIRTY | CHANGED);
            }
            Ok(())
        })?;
        let slots = &self.slots;
        self.changed.retain(|&at| {
            let slot = slots[at as usize].as_ref();
            slot.is_some_and(|slot| slot.is & CHANGED != 0)
        });
        Ok(())
    }

    /// The disk knows all; what is in memory stays there.
    fn flush(&mut self) -> Result<()> {
        let mut places: Vec<u32> = (0..self.slots.len() as u32)
            .filter(|&at| {
                let slot = self.slots[at as usize].as_ref();
                slot.is_some_and(|slot| slot.is & (DIRTY | CHANGED) != 0 || slot.value.is_none())
            })
            .collect();
        self.write(&mut places)?;
        self.drop_marks(&places);
        Ok(())
    }

    /// Forgets keys that are gone, where nobody has to know it any more.
    fn drop_marks(&mut self, places: &[u32]) {
        for &at in places {
            let slot = self.slots[at as usize].as_ref();
            if slot.is_some_and(|slot| slot.value.is_none() && slot.is & (FILED | CHANGED) == 0) {
                self.drop_slot(at);
            }
        }
    }

    /// Nothing changed since the last `saved`.
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty() && self.cold.as_ref().is_none_or(|cold| !cold.is_changed())
    }

    /// Puts back what was saved, where `mine` says so; later saves win.
    pub fn restore(&mut self, delta: Delta<V>, mine: impl Fn(&[u8]) -> bool) -> Result<()> {
        for (key, value) in delta.into_iter().filter(|(key, _)| mine(key)) {
            if let Some(at) = self.find(&key)? {
                self.slot(at).is |= DIRTY;
                self.take_value(at);
            }
            if let Some(value) = value {
                let at = self.revive(&key, value)?;
                self.slot(at).is |= DIRTY;
            }
        }
        Ok(())
    }
}

/// To go on, or not.
pub fn stop_at(end: bool) -> ControlFlow<()> {
    match end {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}
