//! Rebuilds a replica's index from its journal after a start.
//!
//! After the death of the process alone everything journaled and every base is as it was. After a power loss bases may
//! lack what was not synced: with `redo` every cut since a base was last whole on disk (a checkpoint, a pull) is written
//! again (idempotent). Earlier ones are not: a pulled base may be of a later version, which they would damage.

use crate::{
    apply::{next_step, outcome_of},
    error::DataError,
    replica::Replica,
    segment::{LocalSegment, Pending, after, through},
};
use hydfs_store::{JournalEntry, Position};
use hydfs_types::{Digest, SegmentId, SegmentVersion, Then};
use std::collections::BTreeMap;

/// Where the journal last says of a segment that its base is whole on disk: after a checkpoint or a pull.
fn adopted(entries: &[(Position, JournalEntry)]) -> BTreeMap<SegmentId, Position> {
    let adopted = |(at, entry): &(Position, JournalEntry)| match entry {
        JournalEntry::Adopted { segment, .. } => Some((*segment, *at)),
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
                } => {
                    // What came before a base that was whole on disk is in it, and may be older than it.
                    let redo = redo && whole.get(&segment).is_none_or(|adopted| *adopted < at);
                    self.replay_cut(segment, version, len, digest, redo)?;
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

    /// A cut was applied: finds its step again and, after a power loss, writes it again.
    fn replay_cut(
        &self,
        segment: SegmentId,
        version: SegmentVersion,
        len: u64,
        digest: Digest,
        redo: bool,
    ) -> Result<(), DataError> {
        let Some(local) = self.index().segments.get(&segment).cloned() else {
            self.replay_base(segment, version, len, digest);
            return Ok(());
        };
        if version <= local.version {
            return Ok(());
        }
        let step = next_step(&local, version, digest, len);
        if redo && let Some(step) = &step {
            let list: Vec<Pending> = local.in_runs(&step.runs).cloned().collect();
            let mut at = local.len;
            for pending in &list {
                self.write_base(segment, at, pending)?;
                at = after(at, &pending.head);
            }
            if let Then::SetLen(cut) = step.then {
                self.bases.set_len(segment, cut)?;
            }
        }
        let merged = step.map(|step| through(&step.runs)).unwrap_or_default();
        if let Some(local) = self.index().segments.get_mut(&segment) {
            local.advance(version, digest, len, merged.into_iter());
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
