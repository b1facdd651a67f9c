//! Control files that are followed ([`Lines`]): who has them open, and who waits for more of them.
//!
//! An open file is asked for at once, and wakes whoever polls it when there is more. Both go on through a change of workers:
//! what a later worker does not know of an open file it takes for one of an earlier one, and who polled then is woken first.

use crate::{
    lines::{Follower, Lines},
    synthetic::Synthetic,
    volume::Volume,
};
use bytes::Bytes;
use hydfs_memory::Memory;
use hydfs_mount::{Handle, KernelCache};
use hydfs_types::Ino;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

struct Open {
    follower: Arc<Follower>,
    /// By which the kernel knows who polls it.
    poller: Option<u64>,
}

/// Open files that are followed.
#[derive(Default)]
pub(crate) struct Following {
    open: Mutex<BTreeMap<Handle, Open>>,
    kernel: OnceLock<Arc<dyn KernelCache>>,
    memory: OnceLock<Arc<Memory>>,
}

impl Following {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Handle, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, memory: Arc<Memory>) {
        drop(self.memory.set(memory));
    }

    /// Whoever polled with an earlier worker asks this one.
    pub(crate) fn set_kernel(&self, kernel: Arc<dyn KernelCache>) {
        let memory = self.memory.get();
        let left = memory.map(|memory| memory.take_pollers());
        left.into_iter().flatten().for_each(|one| kernel.wake(one));
        drop(self.kernel.set(kernel));
    }

    fn insert(&self, handle: Handle, follower: Arc<Follower>) {
        let poller = None;
        self.lock().insert(handle, Open { follower, poller });
    }

    fn wake(&self) {
        let Some(kernel) = self.kernel.get() else {
            return;
        };
        let open = self.lock();
        let pollers = open.values().filter_map(|open| open.poller);
        pollers.for_each(|poller| kernel.wake(poller));
    }

    fn close(&self, handle: Handle) {
        let closed = self.lock().remove(&handle);
        if let Some(poller) = closed.and_then(|closed| closed.poller)
            && let Some(memory) = self.memory.get()
        {
            memory.forget_poller(poller);
        }
    }
}

impl Volume {
    fn lines_of(&self, ino: Ino) -> Option<Arc<Lines>> {
        let path = self.synthetic.path(ino)?;
        self.lines_at(&path)
    }

    pub(crate) fn lines_at(&self, path: &str) -> Option<Arc<Lines>> {
        self.control.get()?.lines(path)
    }

    /// Whoever polls these lines is woken from now on. Once each.
    pub(crate) fn hear(&self, lines: &Lines) {
        let following = Arc::downgrade(&self.following);
        lines.set_bell(Box::new(move || {
            if let Some(following) = following.upgrade() {
                following.wake();
            }
        }));
    }

    /// A control file was opened.
    pub(crate) fn follow_opened(&self, ino: Ino, handle: Handle) {
        if let Some(lines) = self.lines_of(ino) {
            self.following.insert(handle, Follower::open(lines));
        }
    }

    /// A control file is closed.
    pub(crate) fn follow_closed(&self, handle: Handle) {
        self.following.close(handle);
    }

    /// The open file behind a handle, if it is one that is followed.
    fn follower(&self, ino: Ino, handle: Handle) -> Option<Arc<Follower>> {
        if !Synthetic::is(ino) {
            return None;
        }
        if let Some(open) = self.following.lock().get(&handle) {
            return Some(open.follower.clone());
        }
        let lines = self.lines_of(ino)?;
        let inherited = Follower::inherited(lines);
        self.following.insert(handle, inherited.clone());
        Some(inherited)
    }

    /// What is read of a file that is followed.
    pub(crate) fn read_followed(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Option<Bytes> {
        let follower = self.follower(ino, handle)?;
        Some(Bytes::from(follower.read(offset, len)))
    }

    /// Whether there is something to read; all files but those that are followed are always ready. `poller`: whom the
    /// kernel wants woken when there is more.
    pub(crate) fn is_ready(&self, ino: Ino, handle: Handle, poller: Option<u64>) -> bool {
        let Some(follower) = self.follower(ino, handle) else {
            return true;
        };
        // Before the look: what comes after it rings for this poller.
        if let Some(poller) = poller
            && let Some(open) = self.following.lock().get_mut(&handle)
        {
            open.poller = Some(poller);
            if let Some(memory) = self.following.memory.get() {
                memory.note_poller(poller);
            }
        }
        follower.is_ready()
    }
}
