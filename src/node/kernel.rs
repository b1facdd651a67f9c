//! The kernel of the mount as the agreement group sees it: it keeps parts of the agreed state under this member's read lease.

use hydfs_agreement::Onlooker;
use hydfs_mount::KernelCache;
use hydfs_types::BoxFuture;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

/// The longest that anything is kept: as long as a read lease lasts.
pub(crate) const KEPT: Duration = Duration::from_secs(1);

/// The kernel of a mount that is served soon.
pub(crate) struct Kernel {
    cache: OnceLock<Arc<dyn KernelCache>>,
    /// What the worker before let the kernel keep, and of which nobody here knows, ends then.
    inherited: Option<Instant>,
}

impl Kernel {
    /// `inherited`: a worker before this one served the mount.
    pub(crate) fn new(inherited: bool) -> Arc<Self> {
        Arc::new(Self {
            cache: OnceLock::new(),
            inherited: inherited.then(|| Instant::now() + KEPT),
        })
    }

    /// The mount is served. Once.
    pub(crate) fn set(&self, cache: Arc<dyn KernelCache>) {
        drop(self.cache.set(cache));
    }
}

impl Onlooker for Kernel {
    fn settled(&self) -> BoxFuture<'static, ()> {
        let known = self.cache.get().map(|cache| cache.settled());
        let inherited = self.inherited;
        Box::pin(async move {
            if let Some(known) = known {
                known.await;
            }
            if let Some(until) = inherited {
                tokio::time::sleep_until(until).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_worker_let_be_kept_is_waited_for_and_nothing_else() {
        let begun = Instant::now();
        Kernel::new(false).settled().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let kernel = Kernel::new(true);
        kernel.settled().await;
        assert_eq!(begun.elapsed(), KEPT);
        kernel.settled().await;
        assert_eq!(begun.elapsed(), KEPT);
    }
}
