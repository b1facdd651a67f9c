//! A base that is kept through a power loss is compared with its source before it is promoted. What a redo after a power
//! loss meets in a base has no checksum that could be held against it, so a bit that flipped there would be taken for good.
//!
//! The learner asks for the source's checksums and compares them at one version (I3: equal versions, equal bytes). Blocks
//! that differ are fetched and put in place under the segment's turn; then it compares again. A source whose own base
//! went through a power loss that nobody looked at since (all machines lost power) decides nothing: the scrub has the
//! majority decide as soon as others are synced.
//!
//! Who may crash, and what then: the learner is no more than that before its promotion, and begins anew. The source: the
//! pull ends, and the next one asks whoever leads the slot then.

use crate::{
    context::ROUND,
    counters::Counters,
    error::DataError,
    pull::refused,
    replica::Replica,
    scrub::{Bad, as_wanted, runs},
};
use bytes::Bytes;
use hydfs_store::SUM_BLOCK_BYTES;
use hydfs_types::{
    DataRequest, DataResponse, Incarnation, ReadBase, ReadSums, Refusal, SegmentId, SegmentVersion,
    SlotId,
};
use std::time::Duration;
use tokio::time::sleep;

/// Looks until source and learner are found at one version; then the pull is begun anew.
const TRIES: usize = 50;
const AGAIN: Duration = Duration::from_millis(20);

/// What a comparison with the other replicas said.
#[derive(Default)]
pub(crate) struct Compared {
    /// Blocks that are other here than with most.
    pub bad: Bad,
    /// The first byte where they differ without a majority.
    pub differs: Option<u64>,
    /// How many others were heard.
    pub heard: usize,
}

impl Compared {
    pub fn is_equal(&self) -> bool {
        self.bad.is_empty() && self.differs.is_none()
    }
}

/// What the source says of a base.
struct Said {
    version: SegmentVersion,
    len: u64,
    sums: Vec<u32>,
    /// Nobody has looked at it since a power loss.
    doubted: bool,
}

impl Replica {
    /// Compares the base here with the source's, if it went through a power loss, and makes it equal.
    pub(crate) async fn vouch_for(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<(), DataError> {
        for _ in 0..TRIES {
            if !self.bases.doubts(segment) {
                return Ok(());
            }
            let said = self.sums_at(source, slot, segment).await?;
            let Some(said) = said.filter(|said| self.is_at(segment, said)) else {
                sleep(AGAIN).await;
                continue;
            };
            let Some(bad) = self.unlike(segment, &said).await? else {
                continue;
            };
            if !bad.is_empty() && said.doubted {
                self.health.suspect(segment);
                return Ok(());
            }
            self.make_equal(source, slot, segment, &said, &bad).await?;
        }
        Err(Refusal::Behind.into())
    }

    /// The source's checksums; `None` while its base changes.
    async fn sums_at(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
    ) -> Result<Option<Said>, DataError> {
        let request = DataRequest::Sums(ReadSums {
            slot,
            map: self.ctx.map(),
            segment,
        });
        let (answer, _) = self.ctx.call(source, &request, Bytes::new(), ROUND).await?;
        let doubted = matches!(answer, DataResponse::DoubtedSums { .. });
        match answer {
            DataResponse::Sums { version, len, sums }
            | DataResponse::DoubtedSums { version, len, sums } => Ok(Some(Said {
                version,
                len,
                sums,
                doubted,
            })),
            DataResponse::Refused(Refusal::Behind) => Ok(None),
            other => Err(refused(other)),
        }
    }

    fn is_at(&self, segment: SegmentId, said: &Said) -> bool {
        let index = self.index();
        let local = index.segments.get(&segment);
        local.is_some_and(|local| (local.version, local.len) == (said.version, said.len))
    }

    /// Blocks that are not as the source says; where there are none the base is vouched for. `None` if it changed meanwhile.
    async fn unlike(&self, segment: SegmentId, said: &Said) -> Result<Option<Bad>, DataError> {
        let turn = self.turn(segment);
        let _turn = turn.lock().await;
        if !self.is_at(segment, said) {
            return Ok(None);
        }
        let here = self.bases.len(segment)?.unwrap_or(0);
        if here > said.len {
            // Left by a step that was in hand; nothing of the segment lies there.
            self.bases.set_len(segment, said.len)?;
        }
        let mine = self.bases.block_sums(segment, said.len).unwrap_or_default();
        let bad: Bad = (0..)
            .zip(&said.sums)
            .filter(|(block, wanted)| {
                let end = said.len.min((block + 1) * SUM_BLOCK_BYTES);
                mine.get(*block as usize) != Some(wanted) || here < end
            })
            .map(|(block, wanted)| (block, Some(*wanted)))
            .collect();
        if bad.is_empty() {
            self.bases.vouch(segment);
        }
        Ok(Some(bad))
    }

    /// Puts the source's blocks in place of those that differ.
    async fn make_equal(
        &self,
        source: Incarnation,
        slot: SlotId,
        segment: SegmentId,
        said: &Said,
        bad: &Bad,
    ) -> Result<(), DataError> {
        if bad.is_empty() {
            return Ok(());
        }
        Counters::add(&self.ctx.counters.damaged_blocks, bad.len() as u64);
        tracing::warn!(%segment, blocks = bad.len(), "after a power loss a copy here is not as its source's: taking the source's bytes");
        for (first, count) in runs(bad) {
            let offset = first * SUM_BLOCK_BYTES;
            let len = (said.len - offset).min(count * SUM_BLOCK_BYTES);
            let read = DataRequest::ReadBase(ReadBase {
                slot,
                epoch: self.ctx.config(slot)?.epoch,
                map: self.ctx.map(),
                segment,
                version: said.version,
                offset,
                len: len as u32,
            });
            self.ctx.throttle.pull(len).await;
            let (answer, bytes) = self.ctx.call(source, &read, Bytes::new(), ROUND).await?;
            let DataResponse::Bytes { version, .. } = answer else {
                return Err(refused(answer));
            };
            if version != said.version
                || bytes.len() as u64 != len
                || !as_wanted(&bytes, first, bad)
            {
                return Ok(());
            }
            let turn = self.turn(segment);
            let _turn = turn.lock().await;
            if !self.is_at(segment, said) {
                return Ok(());
            }
            self.bases.patch(segment, first, &bytes)?;
            Counters::add(&self.ctx.counters.healed_blocks, count);
            Counters::add(&self.ctx.counters.healed_bytes, len);
        }
        Ok(self.bases.sync(segment).await?)
    }
}
