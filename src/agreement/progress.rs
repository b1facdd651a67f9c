//! How far the local copy of the agreed state is, and who waits for it to get further.

use hydfs_types::{AgreementError, AppliedWatch, LogIndex};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

/// Abandoned waiters are swept out whenever this many were added since the last sweep.
const SWEEP_EVERY: usize = 1024;

/// Index of the last applied entry. Each waiter is woken once, by the entry that it waits for.
#[derive(Debug)]
pub struct Progress {
    applied: watch::Sender<LogIndex>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_index: BTreeMap<LogIndex, Vec<oneshot::Sender<()>>>,
    added: usize,
    stopped: Option<String>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            applied: watch::Sender::new(LogIndex(0)),
            waiting: Mutex::default(),
        }
    }

    /// Follows the index.
    pub fn watch(&self) -> AppliedWatch {
        self.applied.subscribe()
    }

    /// The index now.
    pub fn applied(&self) -> LogIndex {
        *self.applied.borrow()
    }

    /// Entry `index` is applied. Never goes back, so a restored snapshot that is older than the state changes nothing here.
    pub fn advance(&self, index: LogIndex) {
        self.applied.send_if_modified(|applied| {
            let newer = *applied < index;
            *applied = index.max(*applied);
            newer
        });
        let mut waiting = self.lock();
        let later = waiting.by_index.split_off(&LogIndex(index.0 + 1));
        let done = std::mem::replace(&mut waiting.by_index, later);
        drop(waiting);
        for waiter in done.into_values().flatten() {
            // A waiter that has given up is no concern of ours.
            waiter.send(()).ok();
        }
    }

    /// No further entry will be applied: everybody who waits is told so.
    pub fn stop(&self, why: String) {
        let mut waiting = self.lock();
        waiting.stopped.get_or_insert(why);
        waiting.by_index.clear();
    }

    /// Why nothing is applied any more, if so.
    pub fn stopped(&self) -> Option<AgreementError> {
        self.lock().stopped.clone().map(AgreementError::Stopped)
    }

    /// Waits until `index` is applied.
    pub async fn reached(&self, index: LogIndex, deadline: Instant) -> Result<(), AgreementError> {
        let begun = Instant::now();
        let Some(waiter) = self.register(index)? else {
            return Ok(());
        };
        match timeout_at(deadline, waiter).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self
                .stopped()
                .unwrap_or_else(|| AgreementError::Stopped("shut down".into()))),
            Err(_) => Err(AgreementError::NoQuorum {
                millis: begun.elapsed().as_millis() as u64,
                why: format!(
                    "the entry {index} has not reached this member, which is at {}",
                    self.applied()
                ),
            }),
        }
    }

    /// A receiver for the moment at which `index` is applied; `None` if it is already.
    fn register(&self, index: LogIndex) -> Result<Option<oneshot::Receiver<()>>, AgreementError> {
        let mut waiting = self.lock();
        // Looked at under the lock: `advance` raises the index before it takes the lock, so no wake-up is missed.
        if self.applied() >= index {
            return Ok(None);
        }
        if let Some(why) = &waiting.stopped {
            return Err(AgreementError::Stopped(why.clone()));
        }
        waiting.added += 1;
        if waiting.added >= SWEEP_EVERY {
            waiting.added = 0;
            waiting.by_index.retain(|_, waiters| {
                waiters.retain(|waiter| !waiter.is_closed());
                !waiters.is_empty()
            });
        }
        let (send, receive) = oneshot::channel();
        waiting.by_index.entry(index).or_default().push(send);
        Ok(Some(receive))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn wakes_at_its_entry_and_not_before() {
        let progress = Arc::new(Progress::new());
        let waiter = tokio::spawn({
            let progress = progress.clone();
            async move { progress.reached(LogIndex(3), soon()).await }
        });
        tokio::task::yield_now().await;
        progress.advance(LogIndex(2));
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        progress.advance(LogIndex(4));
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(progress.reached(LogIndex(4), soon()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_at_the_deadline_or_when_stopped() {
        let progress = Arc::new(Progress::new());
        assert!(matches!(
            progress.reached(LogIndex(1), soon()).await,
            Err(AgreementError::NoQuorum { millis: 1000, .. })
        ));
        let waiter = tokio::spawn({
            let progress = progress.clone();
            async move { progress.reached(LogIndex(1), soon()).await }
        });
        tokio::task::yield_now().await;
        progress.stop("disk".into());
        assert_eq!(
            waiter.await.unwrap(),
            Err(AgreementError::Stopped("disk".into()))
        );
        assert_eq!(
            progress.reached(LogIndex(1), soon()).await,
            Err(AgreementError::Stopped("disk".into()))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_waiters_do_not_pile_up() {
        let progress = Progress::new();
        for n in 0..3 * SWEEP_EVERY as u64 {
            drop(progress.register(LogIndex(1 + n)).unwrap());
        }
        assert!(progress.lock().by_index.len() <= SWEEP_EVERY);
    }
}
