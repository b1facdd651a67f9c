//! A group that has no majority is remembered: once a call has waited its deadline in vain, others wait [`BRIEFLY`] for theirs.
//! A process has many calls in one (a path, a listing), the kernel queues many more, and each would wait a deadline of its own.
//! Somebody asks on, so that it ends with the majority's return. The way to the control tree leads over the root, which
//! does not wait at all.

use crate::{
    error::of_agreement,
    volume::{Outcome, Volume},
};
use hydfs_mount::FsError;
use hydfs_types::AgreementError;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

const AGAIN: Duration = Duration::from_millis(100);
/// What a call waits for a group that gave no answer for a whole deadline.
const BRIEFLY: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct Silence {
    /// Why there is no answer.
    why: Mutex<Option<FsError>>,
    /// Somebody asks on.
    asks: AtomicBool,
}

impl Silence {
    fn why(&self) -> MutexGuard<'_, Option<FsError>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// Why the group gives no answer, if it had none for its last deadline.
    pub(crate) fn silent(&self) -> Option<FsError> {
        self.silence.why().clone()
    }

    /// Waits for the group, but not long where it is known to give no answer: then the error says why.
    pub(crate) async fn unless_silent<T>(&self, answer: impl Future<Output = T>) -> Outcome<T> {
        match self.silent() {
            None => Ok(answer.await),
            Some(why) => tokio::time::timeout(BRIEFLY, answer).await.map_err(|_| why),
        }
    }

    /// Before a command is proposed: it would only be in doubt afterwards.
    pub(crate) async fn not_in_vain(&self) -> Outcome<()> {
        match self.silent() {
            None => Ok(()),
            Some(_) => self.barrier().await,
        }
    }

    /// An answer is late: from now on it is asked for until there is one.
    pub(crate) fn ask_on(&self) {
        if self.silence.asks.swap(true, SeqCst) {
            return;
        }
        let (agreement, silence) = (self.ctx.agreement.clone(), Arc::clone(&self.silence));
        tokio::spawn(async move {
            while let Err(error @ AgreementError::NoQuorum { .. }) = agreement.barrier().await {
                *silence.why() = Some(of_agreement(error));
                tokio::time::sleep(AGAIN).await;
            }
            *silence.why() = None;
            silence.asks.store(false, SeqCst);
        });
    }
}
