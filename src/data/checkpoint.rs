//! Keeps the journal short: makes bases durable, carries forward what is still pending, drops old files.
//!
//! Who may crash, and what then: until the last step the old files are all there, and a replay of old and new entries
//! gives the same index (records are known by identity, an `Adopted` never goes back). Old files go only after the new
//! entries and every base that they speak of are on disk.

use crate::{error::DataError, replica::Replica};
use hydfs_store::{JournalEntry, Position, blocking};
use hydfs_types::SegmentId;
use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

/// Log files that the journal may grow by before the next checkpoint.
const FILES_MAX: u32 = 6;
/// Log files behind a pending record from which on it is merged without a reader: before a checkpoint would copy it.
pub(crate) const FILES_OVERDUE: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest pause after a checkpoint that could not be ended. It grows up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A checkpoint on its way. One that is held up goes on where it was: what it has carried forward stays.
pub(crate) struct Checkpoint {
    /// What is at or after this needs not be carried forward.
    start: Position,
    /// Segments still to be carried forward.
    rest: Vec<SegmentId>,
}

impl Replica {
    /// Checkpoints for ever when the journal has grown. One task per member runs it.
    pub async fn checkpoint_when_long(self: Arc<Self>) {
        let mut pause = LOOK_EVERY;
        // Where the last one ended: what it had to carry forward may itself be long, and is not carried again at once.
        let mut last = self.journal.log().first();
        loop {
            tokio::time::sleep(pause).await;
            let log = self.journal.log();
            let begun = self.checkpointing().is_some();
            let since = last.max(log.first());
            if !begun && log.tail().file() - since.file() < FILES_MAX {
                continue;
            }
            match self.checkpoint().await {
                Ok(()) => (last, pause) = (log.tail(), LOOK_EVERY),
                Err(error) => {
                    pause = (2 * pause).min(PAUSE_MAX);
                    tracing::warn!(%error, "the journal could not be shortened; trying again");
                }
            }
        }
    }

    fn checkpointing(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One checkpoint, or the rest of one that was held up: everything before it is dropped from the journal.
    pub async fn checkpoint(&self) -> Result<(), DataError> {
        let begun = self.checkpointing().take();
        let mut checkpoint = match begun {
            Some(begun) => begun,
            None => self.begin_checkpoint()?,
        };
        let mut held_up = None;
        let mut rest = std::mem::take(&mut checkpoint.rest).into_iter();
        for segment in rest.by_ref() {
            let Err(error) = self.checkpoint_segment(segment, checkpoint.start).await else {
                continue;
            };
            checkpoint.rest.push(segment);
            // A base that cannot be read holds up no other; a disk that is full, or has failed, does.
            let alone = matches!(error, DataError::Store(_));
            if alone {
                tracing::warn!(%segment, %error, "a segment holds the journal's old files");
                self.health.suspect(segment);
            }
            held_up = Some(error);
            if !alone {
                break;
            }
        }
        checkpoint.rest.extend(rest);
        if let Some(error) = held_up {
            *self.checkpointing() = Some(checkpoint);
            return Err(error);
        }
        self.journal.sync().await?;
        blocking(|| self.journal.log().drop_before(checkpoint.start))?;
        Ok(())
    }

    fn begin_checkpoint(&self) -> Result<Checkpoint, DataError> {
        let start = self.journal.log().tail();
        let index = self.index();
        for (slot, epoch) in &index.fences {
            let (slot, epoch) = (*slot, *epoch);
            self.journal.append(&JournalEntry::Fence { slot, epoch })?;
        }
        let rest = index.segments.keys().copied().collect();
        Ok(Checkpoint { start, rest })
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
