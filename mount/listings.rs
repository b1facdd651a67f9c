//! Listings with attributes that are on their way into the kernel.
//!
//! Names that are looked up count as of the request: the kernel takes the epoch before it asks, so a notice that overtakes
//! the answer is not missed (`notify`). Names of a listing it counts as of the moment at which it enters them, which may be
//! after a notice that took them away. So a listing of which names may be kept is *under way* from before anything of it is
//! noted until the kernel asks for something else through the same open directory, or for a change of names in it: it does
//! either only when the last answer is entered. What changes in that directory meanwhile is told to the kernel a second time
//! then, and counts as told only after that, or when the names have ended by time.

use crate::Handle;
use hydfs_types::Ino;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The longest that names of a listing are kept: long enough to look at each, and so long may whoever stops in the middle
/// of a listing hold up a change.
pub(crate) const LISTED: Duration = Duration::from_millis(250);
/// An answer on its way is entered so much later at most.
pub(crate) const REPLY_SLACK: Duration = Duration::from_millis(100);
/// Listings under way at most; of more nothing is kept.
const UNDER_WAY_MAX: usize = 1_024;

struct Listing {
    number: u64,
    dir: Ino,
    /// When all that it may have entered has ended by time.
    until: Instant,
    /// The kernel was told of a change meanwhile.
    doubtful: bool,
}

#[derive(Default)]
struct UnderWay {
    by_handle: BTreeMap<Handle, Listing>,
    begun: u64,
    /// When the kernel has entered all answers that bring an inode it had not got when it was told of it.
    answers_until: Option<Instant>,
}

pub(crate) struct Listings {
    under_way: Mutex<UnderWay>,
    changed: watch::Sender<()>,
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Listings {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A listing of a directory through this handle is about to be answered. False: nothing of it may be kept.
    pub(crate) fn begin(&self, dir: Ino, handle: Handle) -> bool {
        let mut under_way = self.lock();
        let now = Instant::now();
        if under_way.by_handle.len() >= UNDER_WAY_MAX {
            under_way.by_handle.retain(|_, listing| listing.until > now);
        }
        if under_way.by_handle.len() >= UNDER_WAY_MAX {
            return false;
        }
        under_way.begun += 1;
        let listing = Listing {
            number: under_way.begun,
            dir,
            until: now + LISTED + REPLY_SLACK,
            doubtful: false,
        };
        under_way.by_handle.insert(handle, listing);
        true
    }

    /// The kernel has entered the last listing through this handle, or nothing of it is kept. `again` has it told again, where
    /// it must be: before anybody who waits for that looks.
    pub(crate) fn end(&self, handle: Handle, again: impl FnOnce()) {
        let mut under_way = self.lock();
        let ended = under_way.by_handle.remove(&handle);
        if ended.is_some_and(|listing| listing.doubtful) {
            again();
            self.changed.send_replace(());
        }
    }

    /// The same for all listings of this directory.
    pub(crate) fn end_all_of(&self, dir: Ino, again: impl FnOnce()) {
        let mut under_way = self.lock();
        let mut doubtful = false;
        under_way.by_handle.retain(|_, listing| {
            let ended = listing.dir == dir;
            doubtful |= ended && listing.doubtful;
            !ended
        });
        if doubtful {
            again();
            self.changed.send_replace(());
        }
    }

    /// The kernel was told of a change of an inode that it has not got: it may be in any answer on its way, also in one to a
    /// lookup, which brings attributes along that nothing can be compared with.
    /// Those have arrived then.
    pub(crate) fn doubt_answers(&self, until: Instant) {
        let mut under_way = self.lock();
        under_way.answers_until = under_way.answers_until.max(Some(until));
    }

    /// The kernel was told of a change in this directory, or in one that is not known, that it may enter over.
    pub(crate) fn doubt(&self, dir: Option<Ino>) {
        let mut under_way = self.lock();
        for listing in under_way.by_handle.values_mut() {
            listing.doubtful |= dir.is_none_or(|dir| dir == listing.dir);
        }
    }

    /// When the last of the doubtful listings up to this number ends by time.
    fn doubtful_until(&self, number: u64) -> Option<Instant> {
        let mut under_way = self.lock();
        let now = Instant::now();
        under_way.by_handle.retain(|_, listing| listing.until > now);
        let all = under_way.by_handle.values();
        all.filter(|listing| listing.doubtful && listing.number <= number)
            .map(|listing| listing.until)
            .max()
    }

    /// Resolves when no listing is doubtful any more of those that are under way now: the notices that are on their way to
    /// the kernel then have all that it must be told.
    pub(crate) async fn settled(&self) {
        // Read once: what comes later is waited for by others.
        let (number, answers_until) = {
            let under_way = self.lock();
            (under_way.begun, under_way.answers_until)
        };
        if let Some(until) = answers_until {
            tokio::time::sleep_until(until).await;
        }
        loop {
            let mut changed = self.changed.subscribe();
            let Some(until) = self.doubtful_until(number) else {
                return;
            };
            // Late, or rung: looked at again either way.
            drop(tokio::time::timeout_at(until, changed.changed()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const DIR: Ino = Ino(7);

    /// Whether the kernel is told again.
    fn end(listings: &Listings, handle: Handle) -> bool {
        let mut again = false;
        listings.end(handle, || again = true);
        again
    }

    /// How long a change waits.
    async fn waits(listings: &Listings) -> Duration {
        let begun = Instant::now();
        listings.settled().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_listings_that_began_before_it_and_no_longer_than_they_are_kept() {
        let listings = Arc::new(Listings::default());
        assert!(listings.begin(DIR, 1));
        assert!(waits(&listings).await.is_zero(), "nothing has changed");
        listings.doubt(Some(Ino(8)));
        assert!(waits(&listings).await.is_zero(), "nothing in it");
        listings.doubt(Some(DIR));
        assert!(listings.begin(DIR, 2));
        let waiting = tokio::spawn({
            let listings = listings.clone();
            async move { listings.settled().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(!end(&listings, 2), "it began after the change");
        assert!(end(&listings, 1) && !end(&listings, 1));
        waiting.await.unwrap();

        assert!(listings.begin(DIR, 3));
        listings.doubt(None);
        assert_eq!(waits(&listings).await, LISTED + REPLY_SLACK);
        assert!(!end(&listings, 3), "it has ended by time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_an_inode_that_is_not_there_yet_waits_for_answers_on_their_way_and_no_longer()
     {
        let listings = Listings::default();
        listings.doubt_answers(Instant::now() + REPLY_SLACK);
        tokio::time::advance(REPLY_SLACK / 2).await;
        assert_eq!(waits(&listings).await, REPLY_SLACK / 2);
        assert!(waits(&listings).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_changes_names_of_a_directory_shows_that_it_is_listed() {
        let listings = Listings::default();
        assert!(listings.begin(DIR, 1) && listings.begin(Ino(8), 2));
        listings.doubt(Some(DIR));
        let mut again = 0;
        for dir in [Ino(8), DIR, DIR] {
            listings.end_all_of(dir, || again += 1);
        }
        assert_eq!(again, 1);
        assert!(waits(&listings).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn listings_that_nobody_goes_on_with_make_room_in_time() {
        let listings = Listings::default();
        assert!((0..UNDER_WAY_MAX as u64).all(|handle| listings.begin(DIR, handle)));
        assert!(!listings.begin(DIR, u64::MAX));
        tokio::time::advance(LISTED + REPLY_SLACK).await;
        assert!(listings.begin(DIR, u64::MAX));
    }
}
