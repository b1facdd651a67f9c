//! Open files of this mount: handles, and per inode who uses it and its writer. Handles of the kernel and owners of locks are
//! in the memory file as well, where there is one: the next worker begins with them. All else is in the agreed state.

mod lockers;
mod losses;

use crate::{call::Call, quotas::Room, volume::Outcome};
use bytes::Bytes;
use hydfs_data::FileWriter;
use hydfs_memory::{Memory, OpenFile};
use hydfs_mount::{FsError, Handle, How};
use hydfs_types::{Ino, Time, WriterId};
pub use losses::Asks;
use losses::Losses;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// An open descriptor.
#[derive(Debug, Clone)]
pub struct OpenHandle {
    pub ino: Ino,
    pub how: How,
    /// Content of a synthetic file, fixed when it was opened.
    pub text: Option<Bytes>,
    /// Losses of the file that it was told of.
    losses: u64,
}

impl OpenHandle {
    /// How a write through it is made. `sync`: that one write is to be on disk when it is answered.
    pub fn writing(&self, sync: bool) -> How {
        How {
            sync: self.how.sync || sync,
            ..self.how
        }
    }
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
    /// Of writes that were answered early.
    pub losses: Losses,
    /// Room of its writer below quotas.
    pub room: Room,
}

impl Use {
    /// Nothing is lost by forgetting it. Not while somebody has, or waits for, the gate: with another one a grant could
    /// overtake the end of the writer before, and give out its seqs anew.
    fn is_unused(&self) -> bool {
        self.handles == 0
            && self.writer.is_none()
            && self.busy == 0
            && Arc::strong_count(&self.gate) == 1
            && !self.losses.is_untold()
    }
}

#[derive(Default)]
struct Inner {
    handles: BTreeMap<Handle, OpenHandle>,
    uses: BTreeMap<Ino, Use>,
    /// Writers that were recalled before they were taken up.
    recalled: BTreeSet<WriterId>,
    /// Unlinked inodes that this mount is giving up: they cannot be opened any more.
    releasing: BTreeSet<Ino>,
    /// Owners that asked for locks, and through which open files.
    lockers: BTreeMap<(Ino, u64), BTreeSet<Handle>>,
    /// Owners that wait for a lock, or are about to get one, and how many times.
    asking: BTreeMap<(Ino, u64), usize>,
    /// Owners whose locks are being given back, and how often. The kernel may have given the owner's number anew.
    unlocking: BTreeMap<(Ino, u64), usize>,
    /// No descriptor is served any more: this member is leaving.
    closed: bool,
}

/// Handles that only this worker knows: of control files, and of callers other than the kernel.
const VOLATILE: Handle = 1 << 63;

/// Issues numbers that differ from each other, and from those of the worker before: the kernel still has those.
pub struct Numbers(AtomicU64);

impl Numbers {
    /// Begins at a time, as a number.
    pub fn from(now: Time) -> Self {
        let seconds = now.sec.unsigned_abs().wrapping_mul(1_000_000_000);
        Self(AtomicU64::new(seconds.wrapping_add(u64::from(now.nsec))))
    }

    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

/// The table.
pub struct Table {
    volatile: Numbers,
    inner: Mutex<Inner>,
    memory: OnceLock<Arc<Memory>>,
}

impl Inner {
    fn add(&mut self, handle: Handle, ino: Ino, how: How, text: Option<Bytes>) {
        let mut losses = 0;
        if text.is_none() {
            let used = self.uses.entry(ino).or_default();
            losses = used.losses.told();
            used.handles += 1;
            if how.write {
                used.writing += 1;
                used.idle_since = None;
            }
        }
        let open = OpenHandle {
            ino,
            how,
            text,
            losses,
        };
        self.handles.insert(handle, open);
    }
}

/// How a file was opened, as the memory file keeps it. What counted only while it was opened is left out.
fn bits_of(how: How) -> u64 {
    let bits = [how.read, how.write, how.append, how.sync];
    bits.iter()
        .enumerate()
        .map(|(at, set)| u64::from(*set) << at)
        .sum()
}

fn how_of(bits: u64) -> How {
    let set = |at: u32| bits & 1 << at != 0;
    How {
        read: set(0),
        write: set(1),
        append: set(2),
        sync: set(3),
        ..How::default()
    }
}

impl Table {
    /// Empty, for a worker that begins now.
    pub fn of_a_worker_from(now: Time) -> Self {
        Self {
            volatile: Numbers::from(now),
            inner: Mutex::default(),
            memory: OnceLock::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What outlives this worker; `None` where nothing does.
    pub fn memory(&self) -> Option<&Arc<Memory>> {
        self.memory.get()
    }

    /// Goes on with what an earlier worker left in a memory file. Once, before anything is opened.
    pub fn keep(&self, memory: Arc<Memory>) {
        let mut inner = self.inner();
        for (handle, file) in memory.open_files() {
            inner.add(handle, file.ino, how_of(file.how), None);
        }
        for one in memory.lockers() {
            let through = inner.lockers.entry((one.ino, one.owner)).or_default();
            through.insert(one.handle);
        }
        drop(self.memory.set(memory));
    }

    /// A new handle. For a request of the kernel it is kept in the memory file.
    pub(crate) fn open(
        &self,
        ino: Ino,
        how: How,
        text: Option<Bytes>,
        call: &Call,
    ) -> Outcome<Handle> {
        let mut inner = self.inner();
        let handle = match (self.memory(), call.slot()) {
            (Some(memory), Some(slot)) => {
                let how = bits_of(how);
                let opened = memory.open_file(OpenFile { ino, how }, Some(slot));
                opened.map_err(|_| FsError::TooManyOpen)?
            }
            _ => self.volatile.next() | VOLATILE,
        };
        inner.add(handle, ino, how, text);
        call.note_opened(handle);
        Ok(handle)
    }

    pub fn get(&self, handle: Handle) -> Option<OpenHandle> {
        self.inner().handles.get(&handle).cloned()
    }

    /// A handle that some program has a descriptor of.
    pub fn of(&self, handle: Handle) -> Outcome<OpenHandle> {
        let inner = self.inner();
        let open = inner.handles.get(&handle).cloned();
        open.ok_or_else(|| match inner.closed {
            true => FsError::Unreachable("this member is leaving".into()),
            false => FsError::BadHandle,
        })
    }

    /// Closes a handle; says whether it was the inode's last on this mount.
    pub fn close(&self, handle: Handle) -> Option<(OpenHandle, bool)> {
        let mut inner = self.inner();
        let closed = inner.handles.remove(&handle)?;
        if let Some(memory) = self.memory()
            && handle & VOLATILE == 0
        {
            memory.close_file(handle);
        }
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

    /// A granted writer is the inode's from now on.
    pub fn take_up(&self, writer: &Arc<FileWriter>) {
        let mut inner = self.inner();
        if inner.recalled.remove(&writer.writer) {
            writer.set_recalled();
        }
        let used = inner.uses.entry(writer.ino).or_default();
        used.writer = Some(writer.clone());
        used.appended = false;
    }

    /// These writers of an inode answer nothing early any more, also those that are still to be taken up.
    pub fn recall(&self, ino: Ino, writers: Vec<WriterId>) {
        let mut inner = self.inner();
        let now = inner.uses.get(&ino).and_then(|used| used.writer.clone());
        for id in writers {
            match &now {
                Some(writer) if writer.writer == id => writer.set_recalled(),
                _ => drop(inner.recalled.insert(id)),
            }
        }
    }

    /// Forgets recalls of writers that are none any more, once there are so many.
    pub fn forget_recalled(&self, at: usize, is_one: impl Fn(WriterId) -> bool) {
        let mut inner = self.inner();
        if inner.recalled.len() > at {
            inner.recalled.retain(|writer| is_one(*writer));
        }
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

    /// Inodes with descriptors of this mount.
    pub fn open_inodes(&self) -> Vec<Ino> {
        let inner = self.inner();
        let open = inner.uses.iter().filter(|(_, used)| used.handles > 0);
        open.map(|(ino, _)| *ino).collect()
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

    /// No descriptor is served any more.
    pub fn close_all(&self) {
        let mut inner = self.inner();
        inner.closed = true;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hydfs_mount::Request;

    const APPEND: How = How {
        read: false,
        write: true,
        append: true,
        truncate: false,
        exclusive: false,
        sync: true,
    };

    fn worker(file: &std::fs::File) -> Table {
        let table = Table::of_a_worker_from(Time::default());
        table.keep(Memory::open(file.try_clone().unwrap().into()).unwrap());
        table
    }

    /// Opens as a request of the kernel does.
    fn open(table: &Table, unique: u64, ino: Ino) -> Handle {
        let request = Request::Open { ino, how: APPEND };
        let call = Call::of(table.memory(), unique, &request).unwrap();
        table.open(ino, APPEND, None, &call).unwrap()
    }

    #[test]
    fn the_next_worker_has_the_same_files_open() {
        let file = hydfs_memory::create().unwrap();
        let first = worker(&file);
        let (a, b) = (open(&first, 2, Ino(5)), open(&first, 4, Ino(5)));
        let mine = first.open(Ino(6), APPEND, None, &Call::once()).unwrap();
        first.close(b);
        let second = worker(&file);
        let found = second.get(a).unwrap();
        assert_eq!((found.ino, found.how), (Ino(5), APPEND));
        assert!(second.is_open(Ino(5)) && second.is_written(Ino(5)));
        assert!(second.get(b).is_none());
        assert!(second.get(mine).is_none() && !second.is_open(Ino(6)));
        assert!(!second.release(Ino(5)));
        let (_, last) = second.close(a).unwrap();
        assert!(last && !worker(&file).is_open(Ino(5)));
    }

    #[test]
    fn locks_whose_file_was_closed_are_left_to_be_given_back() {
        let file = hydfs_memory::create().unwrap();
        let first = worker(&file);
        let (a, b) = (open(&first, 2, Ino(5)), open(&first, 4, Ino(5)));
        first.note_locker(Ino(5), 70, a).unwrap();
        first.note_locker(Ino(5), 71, b).unwrap();
        // Killed between the end of the file and that of its lock.
        assert_eq!(first.take_lockers_through(Ino(5), b), vec![71]);
        first.close(b);
        let second = worker(&file);
        assert!(second.is_locker(Ino(5), 70));
        assert_eq!(second.take_lockers_left(), vec![(Ino(5), 71)]);
        second.unlocked(Ino(5), 71);
        assert!(worker(&file).take_lockers_left().is_empty());
    }

    #[test]
    fn an_owner_that_has_the_file_open_again_keeps_its_locks() {
        let file = hydfs_memory::create().unwrap();
        let first = worker(&file);
        let (a, b) = (open(&first, 2, Ino(5)), open(&first, 4, Ino(5)));
        // What was locked through the first was not given back, or nobody knows.
        first.note_locker(Ino(5), 70, a).unwrap();
        first.close(a);
        first.note_locker(Ino(5), 70, b).unwrap();
        let second = worker(&file);
        assert!(second.take_lockers_left().is_empty());
        assert!(second.is_locker(Ino(5), 70));
        assert_eq!(second.take_lockers_through(Ino(5), b), vec![70]);
        second.unlocked(Ino(5), 70);
        assert!(!worker(&file).is_locker(Ino(5), 70));
    }

    #[test]
    fn an_owner_that_waits_for_a_lock_is_not_forgotten() {
        let table = worker(&hydfs_memory::create().unwrap());
        let a = open(&table, 2, Ino(5));
        let asking = table.ask_lock(Ino(5), 70, a).unwrap();
        let again = table.ask_lock(Ino(5), 70, a).unwrap();
        assert!(table.take_locker(Ino(5), 70));
        drop(asking);
        assert!(table.take_locker(Ino(5), 70) && table.is_locker(Ino(5), 70));
        drop(again);
        assert!(table.take_locker(Ino(5), 70) && !table.take_locker(Ino(5), 70));
    }

    #[test]
    fn an_owner_that_locks_again_meanwhile_is_kept() {
        let file = hydfs_memory::create().unwrap();
        let first = worker(&file);
        let a = open(&first, 2, Ino(5));
        first.note_locker(Ino(5), 70, a).unwrap();
        assert!(first.take_locker(Ino(5), 70));
        first.note_locker(Ino(5), 70, a).unwrap();
        first.unlocked(Ino(5), 70);
        assert!(worker(&file).is_locker(Ino(5), 70));
    }
}
