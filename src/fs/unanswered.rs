//! Files that were opened for a request and of which nobody is told: they are closed again.

use crate::{call::Call, volume::Volume};

/// A request that may open a file. Unless its answer says so, nobody ever closes that: not if what comes after it fails, nor
/// if nobody waits for the answer any more.
pub(crate) struct Unanswered<'a> {
    volume: &'a Volume,
    call: &'a Call,
    /// Whoever asked gets to know of it.
    pub is_answered: bool,
}

impl<'a> Unanswered<'a> {
    pub fn of(volume: &'a Volume, call: &'a Call) -> Self {
        Self {
            volume,
            call,
            is_answered: false,
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.call.opened().filter(|_| !self.is_answered)
            && self.volume.table.close(handle).is_some()
        {
            self.volume.orphans.notify_one();
        }
    }
}
