//! A table's keys in order, some at a time: all of them, or what changed since they were last saved.

use super::{CHANGED, Table, Value, stop_at};
use crate::error::Result;
use std::ops::{Bound, ControlFlow};

/// Some of a table: each key with its value, `None` if it is gone.
pub type Delta<V> = Vec<(Vec<u8>, Option<V>)>;

/// Which keys to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Since the last `saved`.
    Changed,
    /// The same, sorted also where some of them are on disk, which costs a write.
    ChangedSorted,
}

impl Which {
    /// Everything, or what changed.
    pub fn to_save(full: bool) -> Self {
        match full {
            true => Self::All,
            false => Self::Changed,
        }
    }
}

/// How far the handing out has come.
pub struct Walk {
    /// Sorted places in memory, those to come at the end.
    places: Vec<u32>,
    cold: Option<ColdWalk>,
}

struct ColdWalk {
    /// Of all keys, or of those that changed.
    all: bool,
    after: Option<Box<[u8]>>,
}

impl<V: Value> Table<V> {
    /// Begins to hand out keys; nothing may change until that is done.
    pub fn begin(&mut self, which: Which) -> Result<()> {
        let mut places = match which {
            Which::All if self.cold.is_some() => Vec::new(),
            Which::All => {
                let full = |&at: &u32| {
                    let slot = self.slots[at as usize].as_ref();
                    slot.is_some_and(|slot| slot.value.is_some())
                };
                (0..self.slots.len() as u32).filter(full).collect()
            }
            Which::ChangedSorted if self.cold.is_some() => Vec::new(),
            Which::Changed | Which::ChangedSorted => self.changed.clone(),
        };
        if self.cold.is_some() && which != Which::Changed {
            self.flush()?;
        }
        // The first at the end.
        places.sort_unstable_by(|&a, &b| {
            let key = |at: u32| self.slots[at as usize].as_ref().map(|slot| &slot.key);
            key(b).cmp(&key(a))
        });
        let cold = self.cold.is_some().then_some(ColdWalk {
            all: which == Which::All,
            after: None,
        });
        self.walk = Some(Walk { places, cold });
        Ok(())
    }

    /// Hands keys with their values (`None`: gone) to `each` until so many bytes are used up, at least one; whether that was all.
    pub fn walk(
        &mut self,
        bytes: &mut usize,
        mut each: impl FnMut(&[u8], Option<&V>) -> Result<()>,
    ) -> Result<bool> {
        let Some(mut walk) = self.walk.take() else {
            return Ok(true);
        };
        while *bytes > 0
            && let Some(at) = walk.places.pop()
        {
            if let Some(slot) = &self.slots[at as usize] {
                *bytes = bytes.saturating_sub(Self::cost(&slot.key, slot.value.as_ref()));
                each(&slot.key, slot.value.as_ref())?;
            }
        }
        if let (Some(walked), Some(cold), 1..) = (&mut walk.cold, &self.cold, *bytes) {
            let mut last: Option<Box<[u8]>> = None;
            let mut take = |key: &[u8], value: Option<&V>| {
                *bytes = bytes.saturating_sub(Self::cost(key, value));
                each(key, value)?;
                if *bytes == 0 {
                    last = Some(key.into());
                }
                Ok(stop_at(*bytes == 0))
            };
            let after = walked.after.as_deref();
            let range = (
                after.map_or(Bound::Unbounded, Bound::Excluded),
                Bound::Unbounded,
            );
            let read = |bytes: &[u8]| Ok(hydfs_types::decode::<V>(bytes)?);
            match walked.all {
                true => cold.scan(range, |key, value| take(key, Some(&read(value)?)))?,
                false => cold.scan_changed(range, |key| match self.place(key) {
                    Some(at) => match &self.slots[at as usize] {
                        Some(slot) if slot.is & CHANGED == 0 => take(key, slot.value.as_ref()),
                        _ => Ok(ControlFlow::Continue(())),
                    },
                    None => take(key, cold.get(key, read)?.as_ref()),
                })?,
            }
            match last {
                Some(last) => walked.after = Some(last),
                None => walk.cold = None,
            }
        }
        if walk.places.is_empty() && walk.cold.is_none() {
            return Ok(true);
        }
        self.walk = Some(walk);
        Ok(false)
    }

    /// The next of what is handed out, about so many bytes; nothing if that was all.
    pub fn next(&mut self, bytes: &mut usize) -> Result<Delta<V>> {
        let mut some = Delta::new();
        self.walk(bytes, |key, value| {
            some.push((key.into(), value.cloned()));
            Ok(())
        })?;
        Ok(some)
    }

    /// All that changed is saved.
    pub fn saved(&mut self) -> Result<()> {
        let changed = std::mem::take(&mut self.changed);
        for &at in &changed {
            self.slot(at).is &= !CHANGED;
        }
        self.drop_marks(&changed);
        match &mut self.cold {
            Some(cold) => cold.clear_marks(),
            None => Ok(()),
        }
    }
}
