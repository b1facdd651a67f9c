//! Group commit: who wants durability registers, one sync serves all who registered before it began.

use crate::{Result, StoreError, log::Shared};
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// Most callers that may wait for one log's syncs.
const WAITERS_MAX: usize = 65_536;

/// Who syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// One thread of the log's own: production.
    Thread,
    /// The caller itself, after a pause on tokio's clock: simulation, no threads.
    Inline { delay: Duration },
}

#[derive(Default)]
struct Queue {
    waiters: Vec<oneshot::Sender<Result<()>>>,
    stopped: bool,
}

#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` when the log is closed.
    fn take(&self) -> Option<Vec<oneshot::Sender<Result<()>>>> {
        let mut queue = self.queue();
        while queue.waiters.is_empty() && !queue.stopped {
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.waiters.is_empty() {
            None
        } else {
            Some(std::mem::take(&mut queue.waiters))
        }
    }
}

/// The sync thread. Dropping it finishes what is asked for and ends the thread.
pub(crate) struct Committer {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub fn start(shared: Arc<Shared>) -> Result<Self> {
        let desk = Arc::new(Desk::default());
        let worker = Arc::clone(&desk);
        let path = shared.location();
        let thread = std::thread::Builder::new()
            .name("log-sync".into())
            .spawn(move || serve(&worker, &shared))
            .map_err(|error| StoreError::io("start the sync thread of", path, error))?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// Asks for a sync of everything appended so far.
    pub fn ask(&self) -> Result<oneshot::Receiver<Result<()>>> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.desk.queue();
        if queue.waiters.len() >= WAITERS_MAX {
            return Err(StoreError::Overloaded { limit: WAITERS_MAX });
        }
        queue.waiters.push(answer);
        drop(queue);
        self.desk.wake.notify_one();
        Ok(receiver)
    }
}

fn serve(desk: &Desk, shared: &Shared) {
    while let Some(waiters) = desk.take() {
        let result = shared.sync_now();
        for waiter in waiters {
            let answer = result
                .as_ref()
                .copied()
                .map_err(|error| StoreError::Poisoned(error.to_string()));
            // Whoever gave up waiting needs no answer.
            waiter.send(answer).ok();
        }
        // After the answers: nobody should wait for a file that is needed only later.
        shared.prepare_ahead();
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.desk.queue().stopped = true;
        self.desk.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; the log is closing anyway.
            thread.join().ok();
        }
    }
}
