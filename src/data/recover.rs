//! Rebuilds a replica's index from its journal after a start.
//!
//! After the death of the process alone everything journaled and every base is as it was. After a power loss bases may
//! lack what was not synced: with `redo` every cut since a base was last whole on disk (a checkpoint, a pull) is written
//! again (idempotent). Earlier ones are not: a pulled base may be of a later version, which they would damage.

use crate::{
    error::DataError,
    replica::{Replica, finish},
    segment::{LocalSegment, Pending, after, through},
    step::{Step, outcome_of},
};
use hydfs_store::{JournalEntry, Position};
use hydfs_types::{Digest, SegmentId, SegmentVersion, Then};
use std::collections::{BTreeMap, BTreeSet};

/// Where the journal last says of a segment that its base is whole on disk, after a checkpoint or a pull, or gone.
fn adopted(entries: &[(Position, JournalEntry)]) -> BTreeMap<SegmentId, Position> {
    let adopted = |(at, entry): &(Position, JournalEntry)| match entry {
        JournalEntry::Adopted { segment, .. } | JournalEntry::Retired { segment } => {
            Some((*segment, *at))
        }
        _ => None,
    };
    entries.iter().filter_map(adopted).collect()
}

impl Replica {
    /// Replays the journal's entries into the empty index.
    pub fn recover(
        &self,
        entries: Vec<(Position, JournalEntry)>,
        redo: bool,
    ) -> Result<(), DataError> {
        let whole = if redo {
            adopted(&entries)
        } else {
            BTreeMap::new()
        };
        for (at, entry) in entries {
            match entry {
                JournalEntry::Record(head) => {
                    let mut index = self.index();
                    let local = index
                        .segments
                        .entry(head.segment)
                        .or_insert_with(|| LocalSegment::new(Default::default()));
                    local.insert(head, at);
                }
                JournalEntry::Fence { slot, epoch } => {
                    let mut index = self.index();
                    let promised = index.fences.entry(slot).or_default();
                    *promised = epoch.max(*promised);
                }
                JournalEntry::Prepared(prepare) => {
                    let mut index = self.index();
                    let local = index
                        .segments
                        .entry(prepare.segment)
                        .or_insert_with(|| LocalSegment::new(prepare.slot));
                    local.slot = prepare.slot;
                    local.prepared.push(prepare);
                }
                JournalEntry::Applied {
                    segment,
                    version,
                    len,
                    digest,
                    runs,
                    then,
                } => {
                    // What came before a base that was whole on disk is in it, and may be older than it. What came before
                    // its end would make anew what is gone.
                    let redo = redo && whole.get(&segment).is_none_or(|adopted| *adopted < at);
                    let base = SegmentVersion(version.0.saturating_sub(1));
                    let applied = Step {
                        base,
                        runs,
                        then,
                        digest,
                        len,
                        // Said by entries of their own.
                        dropped: Vec::new(),
                    };
                    self.replay_cut(segment, redo, &applied)?;
                }
                JournalEntry::Adopted {
                    segment,
                    version,
                    len,
                    digest,
                } => self.replay_base(segment, version, len, digest),
                JournalEntry::Retired { segment } => {
                    self.index().segments.remove(&segment);
                }
                JournalEntry::Order {
                    segment,
                    slot,
                    pending,
                } => {
                    let mut index = self.index();
                    let local = index
                        .segments
                        .entry(segment)
                        .or_insert_with(|| LocalSegment::new(slot));
                    local.slot = slot;
                    local.reorder(&pending);
                }
                JournalEntry::Dropped {
                    segment,
                    writer,
                    after,
                } => {
                    if let Some(local) = self.index().segments.get_mut(&segment) {
                        local.merged_through(writer, after);
                    }
                }
                JournalEntry::Incarnation { .. } => {}
            }
        }
        Ok(())
    }

    /// Removes bases that the index does not name: they are in nobody's way and nobody else would ever remove them. They
    /// are left where a crash fell between a step and what the journal says of it, or where a disk refused to let go.
    pub(crate) fn sweep(&self) -> Result<usize, DataError> {
        let named: BTreeSet<SegmentId> = self.index().segments.keys().copied().collect();
        let left = self.bases.list()?;
        let left: Vec<_> = left.into_iter().filter(|id| !named.contains(id)).collect();
        for segment in &left {
            self.bases.remove(*segment)?;
        }
        Ok(left.len())
    }

    /// A cut was applied; after a power loss it is written again. One whose records are not here any more, or that does
    /// not follow the version before, is left out, and what follows it with it: the base is then pulled.
    fn replay_cut(&self, segment: SegmentId, redo: bool, applied: &Step) -> Result<(), DataError> {
        let (base, list) = {
            let mut index = self.index();
            let local = index
                .segments
                .entry(segment)
                .or_insert_with(|| LocalSegment::new(Default::default()));
            let list: Vec<Pending> = local.in_runs(&applied.runs).cloned().collect();
            let outcome = finish(
                local.outcome(list.iter().map(|pending| &pending.head)),
                applied.then,
            );
            let follows = (local.version, outcome) == (applied.base, (applied.digest, applied.len));
            // What empties a segment needs nothing of what was there before.
            let empties = applied.runs.is_empty()
                && applied.then == Then::SetLen(0)
                && applied.base >= local.version;
            if redo && !follows && !empties {
                tracing::warn!(%segment, version = %applied.base.next(), "a cut cannot be written again: the base is to be pulled");
                return Ok(());
            }
            (local.len, list)
        };
        if redo {
            let mut len = base;
            for pending in &list {
                self.write_base(segment, len, pending)?;
                len = after(len, &pending.head);
            }
            if let Then::SetLen(len) | Then::Grow(len) = applied.then {
                self.bases.set_len(segment, len)?;
            }
        }
        if let Some(local) = self.index().segments.get_mut(&segment)
            && applied.base.next() > local.version
        {
            local.advance(
                applied.base.next(),
                applied.digest,
                applied.len,
                through(&applied.runs).into_iter(),
            );
        }
        Ok(())
    }

    fn replay_base(&self, segment: SegmentId, version: SegmentVersion, len: u64, digest: Digest) {
        let mut index = self.index();
        let local = index
            .segments
            .entry(segment)
            .or_insert_with(|| LocalSegment::new(Default::default()));
        if version >= local.version {
            local.advance(version, digest, len, std::iter::empty());
        }
    }

    /// Gives each segment the slot that the agreed state names, and asks the applier to look at all of them.
    pub fn adopt_state(&self) {
        let held: Vec<SegmentId> = {
            let state = self.ctx.state();
            let mut index = self.index();
            for (segment, local) in index.segments.iter_mut() {
                if let Some(known) = state.segment(*segment) {
                    local.slot = known.slot;
                }
            }
            index.segments.keys().copied().collect()
        };
        held.into_iter()
            .for_each(|segment| self.ring_behind(segment));
    }

    /// Whether some base here went through a power loss and was not compared with another since.
    pub fn is_in_doubt(&self) -> bool {
        let index = self.index();
        index
            .segments
            .keys()
            .any(|segment| self.bases.doubts(*segment))
    }

    /// Has every base that is in doubt looked at soon.
    pub(crate) fn suspect_doubted(&self) {
        let held: Vec<SegmentId> = self.index().segments.keys().copied().collect();
        held.into_iter()
            .filter(|segment| self.bases.doubts(*segment))
            .for_each(|segment| self.health.suspect(segment));
    }

    /// Whether the records of a prepared list are all here: for tests and fsck.
    pub fn can_redo(&self, segment: SegmentId) -> bool {
        let index = self.index();
        index.segments.get(&segment).is_none_or(|local| {
            local
                .prepared
                .iter()
                .filter(|prepare| prepare.base == local.version)
                .all(|prepare| outcome_of(local, prepare) == (prepare.digest, prepare.len))
        })
    }
}
