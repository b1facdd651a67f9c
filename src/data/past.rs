//! What a life knows of the one before it, from elsewhere than from its journal, and what follows from it (R12).
//!
//! A record is acknowledged when it is in the page cache. That outlives the process, but where a page cannot be written to the
//! disk the kernel calls it clean, and once it lets go of it the end of the journal is gone without a trace.

use hydfs_store::Position;

/// Of the life before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// What it had not synced may be lost: bases are written again from the journal.
    pub rebooted: bool,
    /// A sync of it failed.
    pub sync_failed: bool,
    /// How far the journal went, where that is known.
    pub journaled: Option<Position>,
}

impl Past {
    /// Whether a journal that ends at `tail` may lack what was in it, though the machine was up all the while. Where nobody
    /// knows how far it went, a sync that failed is reason enough.
    pub(crate) fn is_lost(self, tail: Position) -> bool {
        match self.journaled {
            Some(end) => tail < end,
            None => self.sync_failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_ends_too_early_is_lost_and_one_of_which_nothing_is_known_after_a_failed_sync()
    {
        let past = |sync_failed, journaled: Option<u64>| Past {
            rebooted: false,
            sync_failed,
            journaled: journaled.map(Position),
        };
        let lost = |past: Past| past.is_lost(Position(100));
        assert!(lost(past(false, Some(101))) && lost(past(true, Some(101))));
        assert!(!lost(past(false, Some(100))) && !lost(past(true, Some(100))));
        assert!(lost(past(true, None)) && !lost(past(false, None)));
    }
}
