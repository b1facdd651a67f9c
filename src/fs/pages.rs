//! When the kernel is told that pages of a file are old.
//!
//! A notice makes the kernel drop the attributes of an answer that is on its way, and with them the size: `fstat` tells the new
//! one, and mappings, `sendfile` and `lseek` go on with the old one, which nobody corrects before the next look. And a look is
//! what most often changes the content: it has merged what others wrote. So a notice waits until no attributes of its file are
//! being worked out, and a moment longer, for the answer to arrive; not for ever, where looks never end.

use hydfs_mount::KernelCache;
use hydfs_types::Ino;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// From here an answer takes so long to the kernel at most, mostly.
const ON_ITS_WAY: Duration = Duration::from_millis(3);
/// Longest that a notice waits.
const MOST: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Pages(Mutex<BTreeMap<Ino, Looks>>);

/// Looks at the attributes of one file.
#[derive(Default)]
struct Looks {
    /// In hand.
    count: usize,
    ended: Option<Instant>,
    /// A notice waits for them.
    notice: bool,
}

impl Looks {
    fn is_over(&self, now: Instant) -> bool {
        self.count == 0 && self.ended.is_none_or(|ended| now >= ended + ON_ITS_WAY)
    }
}

/// Attributes of a file are being worked out.
pub(crate) struct Look {
    pages: Arc<Pages>,
    ino: Ino,
}

impl Pages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ino, Looks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn look(self: &Arc<Self>, ino: Ino) -> Look {
        self.lock().entry(ino).or_default().count += 1;
        let pages = self.clone();
        Look { pages, ino }
    }

    /// The content of a file has changed. Never waits itself.
    pub fn changed(self: &Arc<Self>, kernel: &Arc<dyn KernelCache>, ino: Ino) {
        let now = Instant::now();
        let mut all = self.lock();
        match all.get_mut(&ino).filter(|looks| !looks.is_over(now)) {
            Some(looks) if looks.notice => {}
            Some(looks) => {
                looks.notice = true;
                let (pages, kernel) = (self.clone(), kernel.clone());
                tokio::spawn(async move {
                    while !pages.may_tell(ino, now) {
                        tokio::time::sleep(ON_ITS_WAY).await;
                    }
                    drop(kernel.invalidate_pages(ino));
                });
            }
            None => {
                drop(all);
                drop(kernel.invalidate_pages(ino));
            }
        }
    }

    fn may_tell(&self, ino: Ino, since: Instant) -> bool {
        let now = Instant::now();
        let mut all = self.lock();
        let Some(looks) = all.get_mut(&ino) else {
            return true;
        };
        let may = looks.is_over(now) || now >= since + MOST;
        looks.notice &= !may;
        if may && looks.count == 0 {
            all.remove(&ino);
        }
        may
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut all = self.pages.lock();
        let Some(looks) = all.get_mut(&self.ino) else {
            return;
        };
        looks.count -= 1;
        looks.ended = Some(now);
        // What nothing waits for is kept a moment: a notice may come.
        if all.len() > 64 {
            all.retain(|_, looks| looks.notice || !looks.is_over(now));
        }
    }
}
