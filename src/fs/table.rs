//! Open files of this mount: handles, and per inode who uses it and its writer. Memory only: what must outlive the
//! process is in the agreed state.

use bytes::Bytes;
use hydfs_data::FileWriter;
use hydfs_mount::{Handle, How};
use hydfs_types::Ino;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::time::Instant;

/// An open descriptor.
#[derive(Debug, Clone)]
pub struct OpenHandle {
    pub ino: Ino,
    pub how: How,
    /// Content of a synthetic file, fixed when it was opened.
    pub text: Option<Bytes>,
}

/// How this mount uses an inode.
#[derive(Default)]
pub struct Use {
    pub handles: usize,
    pub writing: usize,
    pub writer: Option<Arc<FileWriter>>,
    /// Records were appended: they stay pending when the writer ends.
    pub appended: bool,
    /// When the last writing handle was closed.
    pub idle_since: Option<Instant>,
    /// Turn of whoever changes the writer.
    pub gate: Arc<tokio::sync::Mutex<()>>,
    /// Descriptor operations under way: a writer is not ended below them.
    pub busy: usize,
}

impl Use {
    /// Nothing is lost by forgetting it. Not while somebody has, or waits for, the gate: with another one a grant could
    /// overtake the end of the writer before, and give out its seqs anew.
    fn is_unused(&self) -> bool {
        self.handles == 0
            && self.writer.is_none()
            && self.busy == 0
            && Arc::strong_count(&self.gate) == 1
    }
}

#[derive(Default)]
struct Inner {
    next: Handle,
    handles: BTreeMap<Handle, OpenHandle>,
    uses: BTreeMap<Ino, Use>,
    /// Unlinked inodes that this mount is giving up: they cannot be opened any more.
    releasing: BTreeSet<Ino>,
    /// Owners that asked for locks, and through which open files.
    lockers: BTreeMap<(Ino, u64), BTreeSet<Handle>>,
}

/// The table.
#[derive(Default)]
pub struct Table(Mutex<Inner>);

impl Table {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new handle.
    pub fn open(&self, ino: Ino, how: How, text: Option<Bytes>) -> Handle {
        let mut inner = self.inner();
        inner.next += 1;
        let handle = inner.next;
        if text.is_none() {
            let used = inner.uses.entry(ino).or_default();
            used.handles += 1;
            if how.write {
                used.writing += 1;
                used.idle_since = None;
            }
        }
        inner.handles.insert(handle, OpenHandle { ino, how, text });
        handle
    }

    pub fn get(&self, handle: Handle) -> Option<OpenHandle> {
        self.inner().handles.get(&handle).cloned()
    }

    /// Closes a handle; says whether it was the inode's last on this mount.
    pub fn close(&self, handle: Handle) -> Option<(OpenHandle, bool)> {
        let mut inner = self.inner();
        let closed = inner.handles.remove(&handle)?;
        if closed.text.is_some() {
            return Some((closed, false));
        }
        let Some(used) = inner.uses.get_mut(&closed.ino) else {
            return Some((closed, true));
        };
        used.handles = used.handles.saturating_sub(1);
        if closed.how.write {
            used.writing = used.writing.saturating_sub(1);
            if used.writing == 0 {
                used.idle_since = Some(Instant::now());
            }
        }
        let last = used.handles == 0;
        if used.is_unused() {
            inner.uses.remove(&closed.ino);
        }
        Some((closed, last))
    }

    /// Looks at (and changes) how an inode is used.
    pub fn with<T>(&self, ino: Ino, look: impl FnOnce(&mut Use) -> T) -> T {
        look(self.inner().uses.entry(ino).or_default())
    }

    /// The live writer of an inode on this mount.
    pub fn writer(&self, ino: Ino) -> Option<Arc<FileWriter>> {
        self.inner().uses.get(&ino)?.writer.clone()
    }

    /// Whether any descriptor of this mount is on the inode.
    pub fn is_open(&self, ino: Ino) -> bool {
        self.inner()
            .uses
            .get(&ino)
            .is_some_and(|used| used.handles > 0 || used.busy > 0)
    }

    /// Whether descriptors of this mount may write to the inode: mappings of theirs, too.
    pub fn is_written(&self, ino: Ino) -> bool {
        self.inner()
            .uses
            .get(&ino)
            .is_some_and(|used| used.writing > 0)
    }

    /// Gives an unlinked inode up, unless it is open. Until [`Table::released`] it is not opened again.
    pub fn release(&self, ino: Ino) -> bool {
        let mut inner = self.inner();
        let open = inner
            .uses
            .get(&ino)
            .is_some_and(|used| used.handles > 0 || used.busy > 0);
        !open && inner.releasing.insert(ino)
    }

    /// The agreed state knows that these are given up, or does not.
    pub fn released(&self, inos: &[Ino]) {
        let mut inner = self.inner();
        inner.releasing.retain(|ino| !inos.contains(ino));
    }

    /// Whether an unlinked inode is being given up.
    pub fn is_releasing(&self, ino: Ino) -> bool {
        self.inner().releasing.contains(&ino)
    }

    /// Inodes with a writer that no descriptor and no call uses any more, idle since before `since`.
    pub fn idle_writers(&self, since: Instant) -> Vec<Ino> {
        let idle = |used: &Use| {
            used.writer.is_some()
                && used.writing == 0
                && used.busy == 0
                && used.idle_since.is_none_or(|at| at <= since)
        };
        self.inner()
            .uses
            .iter()
            .filter(|(_, used)| idle(used))
            .map(|(ino, _)| *ino)
            .collect()
    }

    /// Forgets an inode that nothing uses.
    pub fn forget_unused(&self, ino: Ino) {
        let mut inner = self.inner();
        if inner.uses.get(&ino).is_some_and(Use::is_unused) {
            inner.uses.remove(&ino);
        }
    }

    /// An owner asks for a lock through an open file.
    pub fn note_locker(&self, ino: Ino, owner: u64, handle: Handle) {
        let mut inner = self.inner();
        let through = inner.lockers.entry((ino, owner)).or_default();
        through.insert(handle);
    }

    /// Whether the owner may hold locks.
    pub fn is_locker(&self, ino: Ino, owner: u64) -> bool {
        self.inner().lockers.contains_key(&(ino, owner))
    }

    /// Whether anybody may hold locks on the inode.
    pub fn has_lockers(&self, ino: Ino) -> bool {
        let inner = self.inner();
        let mut of_ino = inner.lockers.range((ino, 0)..=(ino, u64::MAX));
        of_ino.next().is_some()
    }

    /// Forgets an owner; says whether it may hold locks.
    pub fn take_locker(&self, ino: Ino, owner: u64) -> bool {
        self.inner().lockers.remove(&(ino, owner)).is_some()
    }

    /// Forgets the owners that asked for locks through an open file, and names them.
    pub fn take_lockers_through(&self, ino: Ino, handle: Handle) -> Vec<u64> {
        let mut inner = self.inner();
        let owners: Vec<u64> = inner
            .lockers
            .range((ino, 0)..=(ino, u64::MAX))
            .filter(|(_, through)| through.contains(&handle))
            .map(|((_, owner), _)| *owner)
            .collect();
        for owner in &owners {
            inner.lockers.remove(&(ino, *owner));
        }
        owners
    }

    /// No descriptor is served any more.
    pub fn close_all(&self) {
        let mut inner = self.inner();
        inner.handles.clear();
        inner.lockers.clear();
        for used in inner.uses.values_mut() {
            (used.handles, used.writing) = (0, 0);
        }
    }

    /// Inodes with a writer.
    pub fn with_writers(&self) -> Vec<Ino> {
        self.inner()
            .uses
            .iter()
            .filter(|(_, used)| used.writer.is_some())
            .map(|(ino, _)| *ino)
            .collect()
    }
}

/// Keeps an inode's writer from being ended while a call uses it.
pub struct Busy<'a> {
    table: &'a Table,
    ino: Ino,
}

impl<'a> Busy<'a> {
    pub fn new(table: &'a Table, ino: Ino) -> Self {
        table.with(ino, |used| used.busy += 1);
        Self { table, ino }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.table.with(self.ino, |used| {
            used.busy = used.busy.saturating_sub(1);
            if used.writing == 0 {
                used.idle_since = Some(Instant::now());
            }
        });
        self.table.forget_unused(self.ino);
    }
}
