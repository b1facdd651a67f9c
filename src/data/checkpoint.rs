//! Keeps the journal short: makes bases durable, carries forward what is still pending, drops old files.
//!
//! Who may crash, and what then: until the last step the old files are all there, and a replay of old and new entries
//! gives the same index (records are known by identity, an `Adopted` never goes back). Old files go only after the new
//! entries and every base that they speak of are on disk.

use crate::{error::DataError, replica::Replica};
use hydfs_store::{JournalEntry, Position, blocking};
use hydfs_types::SegmentId;
use std::{sync::Arc, time::Duration};

/// Log files that the journal may have before a checkpoint.
const FILES_MAX: u32 = 6;
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Replica {
    /// Checkpoints for ever when the journal has grown. One task per member runs it.
    pub async fn checkpoint_when_long(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let log = self.journal.log();
            if log.tail().file().saturating_sub(log.first().file()) < FILES_MAX {
                continue;
            }
            if let Err(error) = self.checkpoint().await {
                tracing::warn!(%error, "the journal could not be shortened; trying again");
            }
        }
    }

    /// One checkpoint: everything before it is dropped from the journal.
    pub async fn checkpoint(&self) -> Result<(), DataError> {
        let start = self.journal.log().tail();
        let fences: Vec<_> = self
            .index()
            .fences
            .iter()
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        for (slot, epoch) in fences {
            self.journal.append(&JournalEntry::Fence { slot, epoch })?;
        }
        let held: Vec<SegmentId> = self.index().segments.keys().copied().collect();
        for segment in held {
            self.checkpoint_segment(segment, start).await?;
        }
        self.journal.sync().await?;
        blocking(|| self.journal.log().drop_before(start))?;
        Ok(())
    }

    async fn checkpoint_segment(
        &self,
        segment: SegmentId,
        start: Position,
    ) -> Result<(), DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        self.sync_base(segment).await?;
        let Some(local) = self.index().segments.get(&segment).cloned() else {
            return Ok(());
        };
        self.journal.append(&JournalEntry::Adopted {
            segment,
            version: local.version,
            len: local.len,
            digest: local.digest,
        })?;
        for prepare in &local.prepared {
            self.journal
                .append(&JournalEntry::Prepared(prepare.clone()))?;
        }
        let old: Vec<_> = local
            .pending()
            .filter(|pending| pending.at < start)
            .cloned()
            .collect();
        for (at, pending) in old.into_iter().enumerate() {
            let payload = self
                .journal
                .read_payload(pending.at, pending.head.len as usize)?;
            let moved = self.journal.append_record(&pending.head, &payload)?;
            if let Some(local) = self.index().segments.get_mut(&segment) {
                local.moved(pending.head.writer, pending.head.seq, moved);
            }
            if at % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        let (slot, pending) = match self.index().segments.get(&segment) {
            Some(local) => (local.slot, local.names()),
            None => return Ok(()),
        };
        self.journal.append(&JournalEntry::Order {
            segment,
            slot,
            pending,
        })?;
        Ok(())
    }

    /// fdatasync of one base, off the core thread.
    async fn sync_base(&self, segment: SegmentId) -> Result<(), DataError> {
        Ok(self.bases.sync(segment).await?)
    }
}
