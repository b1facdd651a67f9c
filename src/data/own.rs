//! What a writer that is alone reads of its own: the agreed base and the acknowledged records on top of it, in lane order,
//! without a merge (R7).
//!
//! When that is what a merge would give: the file has no other live writer, nothing of ended ones is left (the caller looks
//! at both), the base here is at the agreed version, and nothing of this writer is on its way. Records that are on their
//! way are held back meanwhile: some replicas may have them, and tell others of them, while this member may yet die
//! before all have. So what is read here is what all acting replicas hold, and whoever looks later, anywhere, sees it.
//!
//! Cost: no message. One read of the base and one of the journal for each record that is visible in the range.

use crate::{
    extents::{Extent, Extents, Source},
    replica::Replica,
    segment::after,
    sender::FileWriter,
};
use bytes::{Bytes, BytesMut};
use hydfs_state::{Segment, State};
use hydfs_types::{SegmentId, SegmentVersion, Seq, WriterId};
use std::{collections::VecDeque, time::Duration};
use tokio::sync::MutexGuard;

/// A read waits this long for what is on its way; then it is the slot leader's to answer.
const WAIT: Duration = Duration::from_secs(1);

/// Extents of one lane on one version of the base, made when they are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    version: SegmentVersion,
    /// Records up to here are in the extents, or in the base.
    through: Seq,
    len: u64,
    extents: Extents,
}

impl Own {
    /// Takes in what the lane has got since. Another version of the base begins anew: where appends stand depends on it.
    pub(crate) fn follow(
        &mut self,
        known: &Segment,
        merged: Seq,
        heads: &VecDeque<hydfs_types::RecordHead>,
    ) -> &Extents {
        if self.version != known.version || self.through < merged {
            *self = Self {
                version: known.version,
                through: merged,
                len: known.len,
                extents: Extents::default(),
            };
        }
        let new = heads.partition_point(|head| head.seq <= self.through);
        for head in heads.range(new..) {
            self.extents.add(head, self.len);
            self.len = after(self.len, head);
            self.through = head.seq;
        }
        &self.extents
    }
}

impl FileWriter {
    /// Holds back what is queued while nothing of it is on its way; `None` where something is, and stays so.
    pub async fn quiet(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = tokio::time::timeout(WAIT, self.turn()).await.ok()?;
        self.is_quiet().then_some(turn)
    }

    /// Where the bytes of a range of a segment are that its base at the agreed version lacks. Only meaningful for a sole
    /// writer. `None` where that is not known any more.
    pub fn own_extents(
        &self,
        state: &State,
        segment: SegmentId,
        start: u64,
        len: u64,
    ) -> Option<Vec<Extent>> {
        let known = state.segment(segment)?;
        let merged = known.through.get(&self.writer).copied().unwrap_or_default();
        let mut inner = self.inner();
        let Some(lane) = inner.lanes.get_mut(&segment) else {
            return Some(Vec::new());
        };
        if lane.overflow {
            return None;
        }
        let extents = lane.own.follow(known, merged, &lane.heads);
        Some(extents.within(start, len))
    }
}

impl Replica {
    /// `len` bytes of a segment at `start`: of the base, which has to be at `version`, and over it what these extents of a
    /// writer's lane say. What neither has is zeros. `None` where something of it is not here, or not good.
    pub fn read_own(
        &self,
        segment: SegmentId,
        version: SegmentVersion,
        writer: WriterId,
        (start, len): (u64, usize),
        extents: &[Extent],
    ) -> Option<Bytes> {
        let (base_len, sources) = {
            let index = self.index();
            let local = index.segments.get(&segment);
            // A segment that nothing was merged into may have no base yet.
            if local.map(|local| local.version).unwrap_or_default() != version {
                return None;
            }
            let lane = local.and_then(|local| local.lanes.get(&writer));
            let mut sources = Vec::with_capacity(extents.len());
            for extent in extents {
                let at = match extent.from {
                    Source::Zeros => None,
                    Source::Record { seq, .. } => Some(lane?.records.get(&seq)?.at),
                };
                sources.push((extent, at));
            }
            (local.map_or(0, |local| local.len), sources)
        };
        let mut out = BytesMut::zeroed(len);
        let covered: u64 = extents.iter().map(|extent| extent.len).sum();
        let wanted = (len as u64).min(base_len.saturating_sub(start));
        if wanted > 0 && covered < len as u64 {
            let base = self.bases.read(segment, start, wanted as u32).ok()?;
            out.get_mut(..base.len())?.copy_from_slice(&base);
            if (base.len() as u64) < wanted {
                return None;
            }
        }
        for (extent, at) in sources {
            let from = (extent.start - start) as usize;
            let part = out.get_mut(from..from + extent.len as usize)?;
            match (extent.from, at) {
                (Source::Record { skip, len, .. }, Some(at)) => {
                    let payload = self.journal.read_payload(at, len as usize).ok()?;
                    let skip = skip as usize;
                    part.copy_from_slice(payload.get(skip..skip + part.len())?);
                }
                _ => part.fill(0),
            }
        }
        Some(out.freeze())
    }
}
