//! Whom the kernel wants woken when there is more to read in a file: the next worker wakes them, and they ask it.

use crate::{Memory, layout::*};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

impl Memory {
    fn pollers(&self) -> &[AtomicU64] {
        &self.words()[AT_POLLERS..AT_POLLERS + POLLERS_MAX]
    }

    /// Keeps a poller. One for which there is no room is not woken by the next worker.
    pub fn note_poller(&self, poller: u64) {
        let places = self.pollers();
        if places.iter().any(|place| place.load(SeqCst) == poller) {
            return;
        }
        for place in places {
            if place.compare_exchange(0, poller, SeqCst, SeqCst).is_ok() {
                return;
            }
        }
    }

    pub fn forget_poller(&self, poller: u64) {
        for place in self.pollers() {
            if place.load(SeqCst) == poller {
                place.store(0, SeqCst);
            }
        }
    }

    /// The pollers of an earlier worker; none is kept any more.
    pub fn take_pollers(&self) -> Vec<u64> {
        let taken = self.pollers().iter().map(|place| place.swap(0, SeqCst));
        taken.filter(|poller| *poller != 0).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{create, memory::tests::worker};

    #[test]
    fn the_next_worker_finds_who_polled() {
        let file = create().unwrap();
        let first = worker(&file);
        for poller in [7, 8, 7, 9] {
            first.note_poller(poller);
        }
        first.forget_poller(8);
        (100..300).for_each(|poller| first.note_poller(poller));
        let taken = worker(&file).take_pollers();
        assert_eq!((taken.len(), &taken[..3]), (POLLERS_MAX, &[7, 100, 9][..]));
        assert!(worker(&file).take_pollers().is_empty());
    }
}
