//! Tells the kernel what changed elsewhere, from a thread of its own: an invalidation may wait inside the
//! kernel for a request that is being served, so neither session threads nor tasks may make the call.
//!
//! The queue holds `NOTICES_MAX` distinct notices. One more drops the oldest, and what was dropped then ends by
//! time: whatever the kernel holds was given with a time-out of at most `ttl`, so `settled` waits that long
//! after the last drop. Nothing is ever reported as invalidated that is not.

use crate::KernelCache;
use fuser::{INodeNo, Notifier};
use hydfs_types::{BoxFuture, Ino};
use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Notices waiting at most.
pub const NOTICES_MAX: usize = 4_096;
/// A reply on its way when a notice was dropped starts its time-out this much later at most.
const REPLY_SLACK: Duration = Duration::from_millis(100);
/// The thread looks this often whether it is still needed.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Notice {
    Inode(Ino),
    Entry(Ino, Vec<u8>),
}

#[derive(Default)]
struct Queue {
    /// With the number each was accepted under.
    waiting: VecDeque<(u64, Notice)>,
    known: BTreeSet<Notice>,
    /// Notices accepted so far, repeats included.
    accepted: u64,
    closed: bool,
}

/// How far the thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    /// All notices accepted up to this number are delivered or dropped.
    done: u64,
    /// When all that was dropped has timed out.
    lost_until: Option<Instant>,
}

/// The kernel's cache of one mount.
pub struct Invalidations {
    queue: Mutex<Queue>,
    arrived: Condvar,
    progress: watch::Sender<Progress>,
    ttl: Duration,
}

impl Invalidations {
    /// Starts the thread. `ttl` is the longest time-out given to the kernel.
    pub(crate) fn start(notifier: Notifier, ttl: Duration) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self::new(ttl));
        let thread = this.clone();
        std::thread::Builder::new()
            .name("fuse-notify".into())
            .spawn(move || thread.deliver(|notice| send(&notifier, notice)))?;
        Ok(this)
    }

    fn new(ttl: Duration) -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            progress: watch::Sender::default(),
            ttl,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, notice: Notice) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        queue.accepted += 1;
        let number = queue.accepted;
        // A repeat is done when the first, which still waits, is.
        if !queue.known.insert(notice.clone()) {
            return;
        }
        if queue.waiting.len() >= NOTICES_MAX
            && let Some((_, oldest)) = queue.waiting.pop_front()
        {
            queue.known.remove(&oldest);
            self.progress.send_modify(|progress| {
                progress.lost_until = Some(Instant::now() + self.ttl + REPLY_SLACK)
            });
        }
        queue.waiting.push_back((number, notice));
        self.arrived.notify_one();
    }

    /// Ends the thread: the mount is gone, and its cache with it.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
        queue.known.clear();
        self.progress.send_replace(Progress {
            done: u64::MAX,
            lost_until: None,
        });
        self.arrived.notify_one();
    }

    fn deliver(&self, mut send: impl FnMut(&Notice)) {
        let mut queue = self.lock();
        while !queue.closed {
            let Some((_, notice)) = queue.waiting.pop_front() else {
                queue = self
                    .arrived
                    .wait_timeout(queue, IDLE)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            };
            // From here on a repeat is a new notice: the kernel may be past the first one's effect.
            queue.known.remove(&notice);
            drop(queue);
            send(&notice);
            queue = self.lock();
            let done = queue
                .waiting
                .front()
                .map_or(queue.accepted, |(number, _)| number - 1);
            self.progress
                .send_modify(|progress| progress.done = progress.done.max(done));
        }
    }
}

impl KernelCache for Invalidations {
    fn invalidate_inode(&self, ino: Ino) {
        self.push(Notice::Inode(ino));
    }

    fn invalidate_entry(&self, parent: Ino, name: &[u8]) {
        self.push(Notice::Entry(parent, name.to_vec()));
    }

    fn settled(&self) -> BoxFuture<'static, ()> {
        let wanted = self.lock().accepted;
        let mut progress = self.progress.subscribe();
        Box::pin(async move {
            // An error says that the mount is gone, and its cache with it.
            let lost_until = progress
                .wait_for(|progress| progress.done >= wanted)
                .await
                .ok()
                .and_then(|progress| progress.lost_until);
            if let Some(until) = lost_until {
                tokio::time::sleep_until(until).await;
            }
        })
    }
}

fn send(notifier: &Notifier, notice: &Notice) {
    let sent = match notice {
        Notice::Inode(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
        Notice::Entry(parent, name) => {
            notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name))
        }
    };
    if let Err(error) = sent {
        tracing::debug!(?notice, %error, "the kernel took no notice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn drain(cache: &Arc<Invalidations>) -> (std::thread::JoinHandle<()>, Arc<Mutex<Vec<Notice>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (thread, log) = (cache.clone(), seen.clone());
        (
            std::thread::spawn(move || {
                thread.deliver(|notice| log.lock().unwrap().push(notice.clone()))
            }),
            seen,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_delivered_once_and_settle() {
        let cache = Arc::new(Invalidations::new(TTL));
        for _ in 0..10 {
            cache.invalidate_inode(Ino(7));
            cache.invalidate_entry(Ino(1), b"a");
        }
        let settled = cache.settled();
        let (thread, seen) = drain(&cache);
        settled.await;
        assert_eq!(
            *seen.lock().unwrap(),
            [Notice::Inode(Ino(7)), Notice::Entry(Ino(1), b"a".to_vec())]
        );
        cache.close();
        thread.join().unwrap();
        cache.settled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_ends_by_time() {
        let cache = Arc::new(Invalidations::new(TTL));
        let begun = Instant::now();
        for ino in 0..NOTICES_MAX as u64 + 3 {
            cache.invalidate_inode(Ino(ino));
        }
        assert_eq!(cache.lock().waiting.len(), NOTICES_MAX);
        assert_eq!(cache.lock().known.len(), NOTICES_MAX);
        let settled = cache.settled();
        let (thread, seen) = drain(&cache);
        settled.await;
        assert!(
            begun.elapsed() >= TTL,
            "settled before the time-out of the dropped ones"
        );
        assert_eq!(seen.lock().unwrap().len(), NOTICES_MAX);
        cache.close();
        thread.join().unwrap();
    }
}
