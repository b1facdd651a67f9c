//! State that is on disk: keys with values, sorted, in one scratch file, and which of them changed since they were last saved.

use crate::error::{Error, Result};
use crate::room::{Room, Scratch};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::{Bound, ControlFlow};
use tokio::runtime::{Handle, RuntimeFlavor};

type Bytes = &'static [u8];

const DATA: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("data");
const CHANGED: TableDefinition<'static, Bytes, ()> = TableDefinition::new("changed");

/// Keys from here to there.
pub type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A scratch file of keys and values.
pub struct Cold {
    /// `None` only while it is dropped.
    db: Option<Database>,
    read: Option<Read>,
    any_changed: bool,
    room: Room,
}

/// What the last write left.
struct Read {
    data: ReadOnlyTable<Bytes, Bytes>,
    changed: ReadOnlyTable<Bytes, ()>,
}

/// Changes that are made together.
pub struct Writes<'a> {
    data: redb::Table<'a, Bytes, Bytes>,
    changed: redb::Table<'a, Bytes, ()>,
    any_changed: bool,
    room: &'a Room,
}

impl Cold {
    /// An empty one, which keeps `cache` bytes in memory.
    pub fn create(scratch: Scratch, cache: usize, room: Room) -> Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache);
        let db = builder.create_with_backend(scratch);
        let db = db.map_err(|error| room.error(&error))?;
        let mut cold = Self {
            db: Some(db),
            read: None,
            any_changed: false,
            room,
        };
        cold.write(|_| Ok(()))?;
        Ok(cold)
    }

    /// What `read` makes of a key's value.
    pub fn get<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let Some(all) = &self.read else {
            return Ok(None);
        };
        let found = all.data.get(key).map_err(|error| self.room.error(&error))?;
        found.map(|value| read(value.value())).transpose()
    }

    /// Hands each key of a range with its value to `each`, in order, until that says to stop.
    pub fn scan(
        &self,
        range: Range<'_>,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Some(all) = &self.read else {
            return Ok(());
        };
        let error = |error: redb::StorageError| self.room.error(&error);
        for entry in all.data.range::<&[u8]>(range).map_err(error)? {
            let (key, value) = entry.map_err(error)?;
            if each(key.value(), value.value())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The same with the keys that were marked as changed.
    pub fn scan_changed(
        &self,
        range: Range<'_>,
        mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Some(all) = self.read.as_ref().filter(|_| self.any_changed) else {
            return Ok(());
        };
        let error = |error: redb::StorageError| self.room.error(&error);
        for entry in all.changed.range::<&[u8]>(range).map_err(error)? {
            let (key, ()) = {
                let (key, value) = entry.map_err(error)?;
                (key, value.value())
            };
            if each(key.value())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a key is marked as changed.
    pub fn is_changed(&self) -> bool {
        self.any_changed
    }

    /// Makes changes: all of them, or the task fails.
    pub fn write<T>(&mut self, work: impl FnOnce(&mut Writes<'_>) -> Result<T>) -> Result<T> {
        // Whoever reads keeps what was from being written over.
        self.read = None;
        let (db, room) = (self.db(), &self.room);
        let (done, any_changed, read) = blocking(|| {
            let txn = db.begin_write().map_err(|error| room.error(&error))?;
            let open = |error: redb::TableError| room.error(&error);
            let mut writes = Writes {
                data: txn.open_table(DATA).map_err(open)?,
                changed: txn.open_table(CHANGED).map_err(open)?,
                any_changed: self.any_changed,
                room,
            };
            let done = work(&mut writes)?;
            let any_changed = writes.any_changed;
            drop(writes);
            txn.commit().map_err(|error| room.error(&error))?;
            let txn = db.begin_read().map_err(|error| room.error(&error))?;
            let read = Read {
                data: txn.open_table(DATA).map_err(open)?,
                changed: txn.open_table(CHANGED).map_err(open)?,
            };
            Ok::<_, Error>((done, any_changed, read))
        })?;
        self.any_changed = any_changed;
        self.read = Some(read);
        Ok(done)
    }

    /// No key is marked any more.
    pub fn clear_marks(&mut self) -> Result<()> {
        if !self.any_changed {
            return Ok(());
        }
        self.read = None;
        let (db, room) = (self.db(), &self.room);
        blocking(|| {
            let txn = db.begin_write().map_err(|error| room.error(&error))?;
            let gone = txn.delete_table(CHANGED);
            gone.map_err(|error| room.error(&error))?;
            txn.commit().map_err(|error| room.error(&error))
        })?;
        self.any_changed = false;
        self.write(|_| Ok(()))
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("it is there until it is dropped")
    }
}

impl Writes<'_> {
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let done = self.data.insert(key, value).map(drop);
        done.map_err(|error| self.room.error(&error))
    }

    pub fn remove(&mut self, key: &[u8]) -> Result<()> {
        let done = self.data.remove(key).map(drop);
        done.map_err(|error| self.room.error(&error))
    }

    /// Removes the first keys and hands them out, until `each` says to stop behind one.
    pub fn take_first(&mut self, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<()> {
        loop {
            let first = self.data.pop_first();
            let first = first.map_err(|error| self.room.error(&error))?;
            match first {
                Some((key, _)) if each(key.value()).is_continue() => {}
                _ => return Ok(()),
            }
        }
    }

    /// The least key.
    pub fn first(&self) -> Result<Option<Box<[u8]>>> {
        let first = self.data.first().map_err(|error| self.room.error(&error))?;
        Ok(first.map(|(key, _)| key.value().into()))
    }

    /// Marks a key as changed.
    pub fn mark(&mut self, key: &[u8]) -> Result<()> {
        self.any_changed = true;
        let done = self.changed.insert(key, ()).map(drop);
        done.map_err(|error| self.room.error(&error))
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        self.read = None;
        let db = self.db.take();
        // To close a large file takes a while. A runtime that ends drops it as well.
        if let Ok(runtime) = Handle::try_current()
            && runtime.runtime_flavor() == RuntimeFlavor::MultiThread
        {
            drop(runtime.spawn_blocking(move || drop(db)));
        }
    }
}

/// Work that may wait for a disk: others have the thread's other work meanwhile.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
