//! Room on this member's disk. Records are refused before the disk is full, while there is still room for what the ones
//! already taken will need: their merge, and the next files of both logs. So what is acknowledged can always be merged
//! and read, names can be changed, and the member goes on; only new bytes are turned away (`ENOSPC`).
//!
//! The mark is agreed (`MarkFull`): the leader then moves the slots of a full member to others, if there are any, and
//! writers elsewhere know whether waiting helps.

use crate::{error::DataError, replica::Replica};
use hydfs_state::State;
use hydfs_store::Disk;
use hydfs_types::{Command, Refusal, SlotConfig};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes taken between two looks at the disk, at most.
const LOOK_BYTES: i64 = 8 << 20;
/// A full member takes records again once it has this much more than it must keep.
const AGAIN_BYTES: u64 = 24 << 20;

/// What is known of the disk's room.
pub struct Room {
    disk: Arc<dyn Disk>,
    /// Bytes kept free besides those that pending records will need: one file of each log, and a quarter of one for what
    /// is small (sums, names, the log of this process).
    reserve: u64,
    /// Of these, what the journal's next file needs unless it is made already.
    log_file_bytes: u64,
    full: AtomicBool,
    /// Bytes that may be taken before the next look.
    credit: AtomicI64,
}

impl Room {
    /// Room on `disk`, where logs grow by files of `log_file_bytes`.
    pub fn new(disk: Arc<dyn Disk>, log_file_bytes: u64) -> Self {
        let reserve = 2 * log_file_bytes + log_file_bytes / 4;
        Self {
            disk,
            reserve,
            log_file_bytes,
            full: AtomicBool::new(false),
            credit: AtomicI64::new(0),
        }
    }

    /// Whether records are turned away.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Looks at the disk, where `pending` bytes wait for their merge and the journal has `stock` bytes made ahead.
    fn look(&self, pending: u64, stock: u64) {
        let Ok(space) = self.disk.space() else { return };
        let keep = self.reserve - stock.min(self.log_file_bytes) + pending;
        let left = space.free.saturating_sub(keep);
        let full = if self.is_full() {
            left < AGAIN_BYTES
        } else {
            left == 0
        };
        self.full.store(full, Ordering::Release);
        self.credit
            .store((left / 2).min(LOOK_BYTES as u64) as i64, Ordering::Release);
    }
}

impl Replica {
    /// Whether there is room for `bytes` more; refuses where there is not.
    pub(crate) fn admit(&self, bytes: usize, pending: impl FnOnce() -> u64) -> Result<(), Refusal> {
        if self.room.credit.fetch_sub(bytes as i64, Ordering::AcqRel) < bytes as i64 {
            self.room.look(pending(), self.journal.log().stock_bytes());
        }
        if self.room.is_full() {
            Err(Refusal::NoSpace)
        } else {
            Ok(())
        }
    }

    /// Keeps the agreed mark true for ever. One task per member runs it.
    pub async fn watch_room(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let pending = self
                .index()
                .segments
                .values()
                .map(|local| local.pending_bytes)
                .sum();
            self.room.look(pending, self.journal.log().stock_bytes());
            let (me, full) = (self.ctx.me(), self.room.is_full());
            let agreed = self
                .ctx
                .state()
                .member_of(me)
                .filter(|member| member.alive)
                .map(|member| member.full);
            if agreed.is_none_or(|agreed| agreed == full) {
                continue;
            }
            match full {
                true => tracing::warn!(
                    "the disk is full: no more records are taken here until there is room"
                ),
                false => tracing::info!("there is room on the disk again"),
            }
            if let Err(error) = self
                .ctx
                .agreement
                .propose(Command::MarkFull {
                    incarnation: me,
                    full,
                })
                .await
            {
                tracing::info!(%error, "the cluster does not know of this disk's room yet");
            }
        }
    }
}

/// Refuses where a replica of the slot is full and no other member could take its place: waiting would not help.
pub(crate) fn refuse_full(state: &State, config: &SlotConfig) -> Result<(), DataError> {
    let is_full = |incarnation| {
        state
            .member_of(incarnation)
            .is_some_and(|member| member.full)
    };
    if !config
        .acting
        .iter()
        .any(|acting| is_full(acting.incarnation))
    {
        return Ok(());
    }
    let takers = state
        .cluster
        .alive
        .keys()
        .filter(|one| !is_full(**one))
        .count();
    let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
    if takers < wanted {
        Err(DataError::NoSpace)
    } else {
        Ok(())
    }
}
