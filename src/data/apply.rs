//! Brings bases to their agreed version (R6 d): an idempotent redo of the prepared list.
//!
//! The agreed state names version, length and digest of each segment; `step.rs` finds what leads there from the local
//! version. So nothing has to be remembered between the agreement log and the journal: after a crash the same search
//! finds the same step. Where no local step leads there (a snapshot jumped over it), the base is pulled from another
//! synced replica.

use crate::{
    counters::Counters,
    error::DataError,
    replica::Replica,
    segment::{LocalSegment, Pending, after, through},
    step::{Step, next_step},
};
use hydfs_state::{Event, Segment};
use hydfs_store::JournalEntry;
use hydfs_types::{Ino, Op, SegmentId, SegmentVersion, Seq, SlotId, Then, WriterId};
use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

/// Pause before a segment that could not be brought up is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Longest pause before a pull that failed is tried again. It grows up to this.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Segments pulled at once by synced replicas.
pub(crate) const PULLS_MAX: usize = 8;

/// What reconciling found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The base is at the agreed version.
    Current,
    /// No local step leads there: it has to be pulled.
    Missing,
    /// Not held here (retired, or not acting).
    NotHeld,
}

impl Replica {
    /// Takes note of what a command changed. Called while the command is applied: never waits.
    pub fn on_events(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::Cut { segment, .. } | Event::Retired { segment, .. } => {
                    self.ring_behind(*segment)
                }
                Event::Writers(ino) => self
                    .waiting_in(*ino)
                    .into_iter()
                    .for_each(|segment| self.ring_behind(segment)),
                Event::Slots(slots) => self.ring_if_synced(slots.iter().copied()),
                Event::Replaced => {
                    let held: Vec<SegmentId> = self.index().segments.keys().copied().collect();
                    held.into_iter()
                        .for_each(|segment| self.ring_behind(segment));
                }
                _ => {}
            }
        }
    }

    /// Segments of a file with pending records here: some may be void since a writer's end was fixed.
    fn waiting_in(&self, ino: Ino) -> Vec<SegmentId> {
        let state = self.ctx.state();
        let Ok((_, file)) = state.file(ino) else {
            return Vec::new();
        };
        let index = self.index();
        let waits = |segment: &SegmentId| {
            index
                .segments
                .get(segment)
                .is_some_and(|local| local.pending().next().is_some())
        };
        file.segments.values().copied().filter(waits).collect()
    }

    /// Segments of a slot that are behind their agreed version here.
    pub(crate) fn behind_in(&self, slot: SlotId) -> Vec<SegmentId> {
        let state = self.ctx.state();
        let index = self.index();
        let behind = |id: &&SegmentId| {
            let here = index.segments.get(id).map(|local| local.version);
            let agreed = state.segment(**id).map(|segment| segment.version);
            here.unwrap_or_default() < agreed.unwrap_or_default()
        };
        let all = state.names.by_slot.get(&slot).into_iter().flatten();
        all.filter(behind).copied().collect()
    }

    /// A synced copy is brought to its agreed version also where nobody reads it: it is what others learn from.
    pub(crate) fn ring_if_synced(&self, slots: impl Iterator<Item = SlotId>) {
        for slot in slots {
            let role = self
                .ctx
                .state()
                .config(slot)
                .map(|config| config.role(self.ctx.me()));
            if role == Some(Some(true)) {
                self.behind_in(slot)
                    .into_iter()
                    .for_each(|segment| self.ring_behind(segment));
            }
        }
    }

    /// Follows the agreed versions for ever. One task per member runs it.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let batch = std::mem::take(
                &mut *self
                    .behind
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            );
            if batch.is_empty() {
                self.behind_rung.notified().await;
                continue;
            }
            for segment in batch {
                if self.wait_elsewhere(segment) {
                    continue;
                }
                match self.bring_up(segment).await {
                    Ok(None) => {}
                    Ok(Some(slot)) => self.pull_aside(slot, segment),
                    Err(error) => {
                        self.is_behind(segment, &error);
                        let again = self.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(RETRY).await;
                            again.ring_behind(segment);
                        });
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether somebody else changes this segment just now, by a pull for one, which takes its time: it is looked at again
    /// after that, and no other segment waits for it.
    fn wait_elsewhere(self: &Arc<Self>, segment: SegmentId) -> bool {
        let turn = self.turn(segment);
        if turn.try_lock().is_ok() {
            return false;
        }
        if self.waiting().insert(segment) {
            let replica = self.clone();
            tokio::spawn(async move {
                drop(turn.lock().await);
                replica.waiting().remove(&segment);
                replica.ring_behind(segment);
            });
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<SegmentId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_behind(&self, segment: SegmentId, error: &DataError) {
        tracing::warn!(%segment, %error, "a segment is behind its agreed version; trying again");
        if matches!(error, DataError::Store(_)) {
            self.health.suspect(segment);
        }
    }

    /// Brings one segment to its agreed version by local steps; the slot where it has to be pulled.
    async fn bring_up(&self, segment: SegmentId) -> Result<Option<SlotId>, DataError> {
        if self.reconcile(segment).await? != Standing::Missing {
            return Ok(None);
        }
        let state = self.ctx.state();
        let Some(known) = state.segment(segment) else {
            return Ok(None);
        };
        let config = state.config(known.slot);
        // A learner is brought up by repair; whoever is not acting waits to become one.
        let synced = config.and_then(|config| config.role(self.ctx.me())) == Some(true);
        Ok(synced.then_some(known.slot))
    }

    /// Pulls a segment until it is at its agreed version, in a task of its own: a source that does not answer, or has it no
    /// more than this member, holds up no other segment.
    fn pull_aside(self: &Arc<Self>, slot: SlotId, segment: SegmentId) {
        if !self.pulled_aside().insert(segment) {
            return;
        }
        let replica = self.clone();
        tokio::spawn(async move {
            let (mut wanted, mut pause) = (Some(slot), RETRY);
            while let Some(slot) = wanted {
                let pulled = match replica.pulls.acquire().await {
                    Ok(_place) => replica.pull_base(slot, segment).await,
                    Err(_) => break,
                };
                if let Err(error) = pulled {
                    replica.is_behind(segment, &error);
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(RETRY_MAX);
                }
                wanted = replica.bring_up(segment).await.unwrap_or_default();
            }
            replica.pulled_aside().remove(&segment);
            replica.ring_behind(segment);
        });
    }

    fn pulled_aside(&self) -> MutexGuard<'_, BTreeSet<SegmentId>> {
        self.pulled_aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all local steps towards the agreed version of one segment.
    pub async fn reconcile(&self, segment: SegmentId) -> Result<Standing, DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        loop {
            let Some(target) = self.ctx.state().segment(segment).cloned() else {
                self.drop_segment(segment)?;
                return Ok(Standing::NotHeld);
            };
            let held = self.index().segments.get(&segment).cloned();
            let local = match held {
                Some(local) => local,
                None if target.version == SegmentVersion(0) => return Ok(Standing::Current),
                // Nothing is the copy of what nobody has written to: its length may have been set since.
                None => LocalSegment::new(target.slot),
            };
            if local.version >= target.version {
                self.settle(segment, &target);
                return Ok(Standing::Current);
            }
            let Some(step) = next_step(&local, &target) else {
                return Ok(Standing::Missing);
            };
            self.index()
                .segments
                .entry(segment)
                .or_insert_with(|| local.clone());
            self.take_step(segment, &local, step, &target).await?;
        }
    }

    /// Does one step: writes the records into the base, notes the new version.
    /// Cost: one read of the journal and one write of the base per record; no fsync (the journal is the redo log).
    async fn take_step(
        &self,
        segment: SegmentId,
        local: &LocalSegment,
        step: Step,
        target: &Segment,
    ) -> Result<(), DataError> {
        let mut len = local.len;
        let mut moved = 0;
        let list: Vec<Pending> = local.in_runs(&step.runs).cloned().collect();
        for (at, pending) in list.iter().enumerate() {
            self.write_base(segment, len, pending)?;
            len = after(len, &pending.head);
            moved += u64::from(pending.head.len);
            if at % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        if let Then::SetLen(len) | Then::Grow(len) = step.then {
            self.bases.set_len(segment, len)?;
        }
        let here = |(writer, last): &(WriterId, Seq)| {
            let lane = local.lanes.get(writer)?;
            Some((*writer, lane.received.min(*last)))
        };
        let dropped: Vec<_> = step.dropped.iter().filter_map(here).collect();
        for (writer, after) in dropped.iter().copied() {
            // Void, whatever becomes of this step: recovery must not take them for a lane's.
            self.journal.append(&JournalEntry::Dropped {
                segment,
                writer,
                after,
            })?;
        }
        let version = step.base.next();
        self.journal.append(&JournalEntry::Applied {
            segment,
            version,
            len: step.len,
            digest: step.digest,
            runs: step.runs.clone(),
            then: step.then,
        })?;
        if let Some(local) = self.index().segments.get_mut(&segment) {
            local.advance(
                version,
                step.digest,
                step.len,
                through(&step.runs).into_iter().chain(dropped),
            );
        }
        if version >= target.version {
            self.settle(segment, target);
        }
        if self.bases.settle(segment) {
            tracing::warn!(%segment, "what was here before a kill does not match its checksums: it is compared with other members'");
            self.health.suspect(segment);
        }
        Counters::add(&self.ctx.counters.cuts, 1);
        Counters::add(&self.ctx.counters.cut_bytes, moved);
        self.ctx.moved.notify_waiters();
        Ok(())
    }

    /// Puts one record's payload where it belongs in a base of `len` bytes.
    pub(crate) fn write_base(
        &self,
        segment: SegmentId,
        len: u64,
        pending: &Pending,
    ) -> Result<(), DataError> {
        match pending.head.op {
            Op::Append => self.bases.write(
                segment,
                len,
                &self
                    .journal
                    .read_payload(pending.at, pending.head.len as usize)?,
            )?,
            Op::WriteAt(offset) => self.bases.write(
                segment,
                offset,
                &self
                    .journal
                    .read_payload(pending.at, pending.head.len as usize)?,
            )?,
            Op::Zero {
                offset,
                len: zeros,
                extend,
            } => {
                static PIECE: [u8; 65_536] = [0; 65_536];
                let end = (offset + zeros).min(len);
                let mut at = offset;
                while at < end {
                    let piece = (end - at).min(PIECE.len() as u64) as usize;
                    self.bases.write(segment, at, &PIECE[..piece])?;
                    at += piece as u64;
                }
                // The file is as long as the segment: one that is shorter lost something.
                let grown = offset + zeros;
                if extend && grown > len && self.bases.len(segment)?.unwrap_or(0) < grown {
                    self.bases.set_len(segment, grown)?;
                }
            }
        }
        Ok(())
    }

    /// Drops what the agreed state says is merged or void.
    fn settle(&self, segment: SegmentId, target: &Segment) {
        let gone: Vec<_> = {
            let state = self.ctx.state();
            let index = self.index();
            let Some(local) = index.segments.get(&segment) else {
                return;
            };
            local
                .lanes
                .keys()
                .copied()
                .filter(|writer| state.writer(*writer).is_none())
                .collect()
        };
        let mut index = self.index();
        let Some(local) = index.segments.get_mut(&segment) else {
            return;
        };
        for (writer, seq) in &target.through {
            local.merged_through(*writer, *seq);
        }
        if target.appends_from > WriterId::default() {
            local.drop_appends(|writer| !target.takes_appends_of(writer));
        }
        gone.into_iter().for_each(|writer| local.drop_lane(writer));
        local
            .prepared
            .retain(|prepare| prepare.base >= local.version);
    }

    /// The segment is retired or not ours any more: its data goes. Where there is no room to journal that, what is retired
    /// goes all the same, since that makes room; it stays in the index, and whoever sweeps comes back to it.
    pub(crate) fn drop_segment(&self, segment: SegmentId) -> Result<(), DataError> {
        if !self.index().segments.contains_key(&segment) {
            return Ok(());
        }
        let retired = self.ctx.state().segment(segment).is_none();
        match self.journal.append(&JournalEntry::Retired { segment }) {
            Ok(_) => {}
            Err(error) if error.is_no_space() && retired => {
                return Ok(self.bases.remove(segment)?);
            }
            Err(error) => return Err(error.into()),
        }
        // What cannot be removed now, the next start removes.
        self.index().segments.remove(&segment);
        self.ctx.moved.notify_waiters();
        Ok(self.bases.remove(segment)?)
    }
}
