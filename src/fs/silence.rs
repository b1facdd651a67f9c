//! A group that has no majority is remembered: the way to the control tree leads over the root, and whoever takes it need not
//! wait every time for an answer that does not come. Somebody asks on, so that it ends with the majority's return.

use crate::{error::of_agreement, volume::Volume};
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
