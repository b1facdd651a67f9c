//! Scrub: every base here is read against its checksums, slowly and for ever, and its checksums are compared with the other
//! replicas'. What is damaged is replaced from a good copy; what has none is named.
//!
//! Why healing in place is safe: bytes are taken only from a synced replica whose base is at version v, and are put in place
//! under the segment's turn only if the base here is at v too: equal versions have equal bytes (I3). (A source in the middle
//! of its next cut may give some of that cut's bytes: the same cut, agreed already, is redone here at the same offsets.) A replica with a damaged block stays
//! synced meanwhile: its journal has every acknowledged record (I1), and its damaged block is never served, because every
//! read checks the blocks that it touches. Where a merge has to change a damaged block first, it fails, the replica falls
//! behind, and the whole base is pulled as a learner's is.
//!
//! Equal checksums on all replicas at one version are what is compared; where they differ, the majority counts, and
//! without one the copies are reported and left alone.

use crate::{
    context::{Context, ROUND},
    counters::Counters,
    error::DataError,
    health::Lost,
    replica::Replica,
    vouch::Compared,
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_store::SUM_BLOCK_BYTES;
use hydfs_types::{
    DataRequest, DataResponse, Incarnation, ReadBase, ReadSums, Refusal, SegmentId, SegmentVersion,
    SlotId,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Default pace of the scrub in bytes per second.
pub const SCRUB_BYTES_PER_S: u64 = 16 << 20;
/// Blocks looked at before the pace is kept.
const BATCH_BLOCKS: u64 = 16;
/// A small copy takes as much of the pace as this many bytes: the others are asked about it too.
const COPY_COSTS_BYTES: u64 = 256 << 10;
/// Blocks asked for at once.
const FETCH_BLOCKS: u64 = 32;
/// Between two passes; suspicions are looked at in between.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two tries to heal a segment that has no good copy.
const LOST_AGAIN: Duration = Duration::from_secs(5);
/// Segments without a good copy that are tried again between passes; a pass tries all.
const LOST_AT_ONCE: usize = 4;
/// Tries to meet another replica at the same version.
const TRIES: usize = 20;
const AGAIN: Duration = Duration::from_millis(100);

/// One copy to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Copy {
    slot: SlotId,
    version: SegmentVersion,
    len: u64,
}

/// Damaged blocks and the checksum that each should have, where that is known.
pub(crate) type Bad = BTreeMap<u64, Option<u32>>;

/// How an attempt to heal ended.
enum Healed {
    Done,
    /// The other replicas are at another version: once more.
    Elsewhere,
}

/// The scrub of one member.
pub struct Scrub {
    ctx: Arc<Context>,
    replica: Arc<Replica>,
    /// 0: no passes, only what reads suspect.
    bytes_per_s: u64,
}

impl Scrub {
    pub fn new(ctx: Arc<Context>, replica: Arc<Replica>, bytes_per_s: u64) -> Self {
        Self {
            ctx,
            replica,
            bytes_per_s,
        }
    }

    /// Scrubs for ever. One task per member runs it.
    pub async fn run(self) {
        loop {
            if self.bytes_per_s > 0 {
                self.pass().await;
            }
            let next = Instant::now() + PAUSE;
            while Instant::now() < next {
                let left = next.saturating_duration_since(Instant::now());
                self.replica.health.wait(left.min(LOST_AGAIN)).await;
                self.suspects().await;
                for segment in self.replica.health.lost().into_keys().take(LOST_AT_ONCE) {
                    self.examine(segment).await;
                }
            }
        }
    }

    async fn pass(&self) {
        let slots: Vec<SlotId> = self.ctx.state().names.by_slot.keys().copied().collect();
        self.replica.ring_if_synced(slots.into_iter());
        let held: Vec<SegmentId> = self.replica.index().segments.keys().copied().collect();
        for (done, segment) in held.iter().enumerate() {
            self.replica.health.progress(done, held.len());
            if !self.slowly(*segment).await {
                self.examine(*segment).await;
            }
            self.suspects().await;
        }
        self.replica.health.progress(held.len(), held.len());
        self.replica.health.passed();
        Counters::add(&self.ctx.counters.scrub_passes, 1);
    }

    async fn suspects(&self) {
        for segment in self.replica.health.take_suspects() {
            self.examine(segment).await;
        }
    }

    /// Reads a base against its checksums at the pace, then compares it with the others; whether all was well.
    async fn slowly(&self, segment: SegmentId) -> bool {
        let mut first = 0;
        loop {
            let began = Instant::now();
            let Ok(checked) = self.replica.bases.check(segment, first, BATCH_BLOCKS).await else {
                return false;
            };
            let bytes = checked.blocks * SUM_BLOCK_BYTES;
            Counters::add(&self.ctx.counters.scrubbed_bytes, bytes);
            if !checked.bad.is_empty() {
                return false;
            }
            let costs = if first == 0 {
                bytes.max(COPY_COSTS_BYTES)
            } else {
                bytes
            };
            let pace = Duration::from_millis(costs * 1000 / self.bytes_per_s.max(1));
            tokio::time::sleep_until(began + pace).await;
            if !checked.more {
                break;
            }
            first += checked.blocks;
        }
        let Some(copy) = self.copy(segment) else {
            return true;
        };
        let short = self
            .replica
            .bases
            .len(segment)
            .is_ok_and(|len| len.unwrap_or(0) < copy.len);
        let compared = self.compare(segment, copy).await;
        self.vouch(segment, copy, &compared).await;
        !short && compared.is_equal()
    }

    /// After a power loss a base is vouched for once it is equal to another's, or where there are to be no others.
    async fn vouch(&self, segment: SegmentId, copy: Copy, compared: &Compared) {
        let alone = {
            let state = self.ctx.state();
            let stay = state.cluster.members.values().filter(|one| !one.left);
            state.cluster.copies == 1 || stay.count() == 1
        };
        if !self.replica.bases.doubts(segment) || !compared.is_equal() {
            return;
        }
        if compared.heard > 0 || alone {
            let turn = self.replica.turn(segment);
            let _turn = turn.lock().await;
            if self.copy(segment) == Some(copy) {
                self.replica.bases.vouch(segment);
            }
        }
    }

    /// The copy here, if it is a synced one at its agreed version: others change before they count.
    fn copy(&self, segment: SegmentId) -> Option<Copy> {
        let state = self.ctx.state();
        let known = state.segment(segment)?;
        let config = state.config(known.slot)?;
        if config.role(self.ctx.me()) != Some(true) {
            return None;
        }
        let index = self.replica.index();
        let local = index.segments.get(&segment)?;
        (local.version == known.version).then_some(Copy {
            slot: known.slot,
            version: local.version,
            len: local.len,
        })
    }

    /// Finds out what is wrong with a copy and heals it, or names it.
    async fn examine(&self, segment: SegmentId) {
        for _ in 0..TRIES {
            match self.heal(segment).await {
                Ok(Healed::Done) => return self.replica.health.clear(segment),
                Ok(Healed::Elsewhere) => {}
                Err(lost) => {
                    if self.replica.health.set_lost(segment, lost.clone()) {
                        tracing::error!(%segment, offset = lost.offset, why = lost.why, "a damaged copy cannot be healed now: it is not served");
                    }
                    if self.replica.bases.len(segment).is_ok() {
                        return;
                    }
                    break;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        // Its own merges cannot pass the damage, or it cannot even be opened: the whole base, at whatever version the others
        // have.
        let slot = self.ctx.state().segment(segment).map(|known| known.slot);
        let Some(slot) = slot else {
            return self.replica.health.clear(segment);
        };
        match self.replica.pull_base(slot, segment).await {
            Ok(()) => self.replica.health.suspect(segment),
            Err(error) => {
                tracing::warn!(%segment, %error, "a damaged base could not be pulled; trying again")
            }
        }
    }

    /// One attempt. Other members are asked while nobody's turn is held: a merge never waits for them.
    async fn heal(&self, segment: SegmentId) -> Result<Healed, Lost> {
        let Some(copy) = self.copy(segment) else {
            let held = self.replica.index().segments.contains_key(&segment);
            // A learner is filled by repair; a synced copy that is behind is about to change.
            return Ok(if held && self.is_synced(segment) {
                Healed::Elsewhere
            } else {
                Healed::Done
            });
        };
        let mut bad = self.unmatched(segment, copy).await?;
        if bad.is_empty() {
            let compared = self.compare(segment, copy).await;
            self.vouch(segment, copy, &compared).await;
            bad = compared.bad;
            if let (true, Some(offset)) = (bad.is_empty(), compared.differs) {
                let why = "the copies differ, and no majority says which is right".into();
                return Err(Lost { offset, why });
            }
        }
        if bad.is_empty() {
            return Ok(Healed::Done);
        }
        let Some(bad) = self.confirmed(segment, copy, bad).await? else {
            return Ok(Healed::Elsewhere);
        };
        let Some(first) = bad.keys().next() else {
            return Ok(Healed::Done);
        };
        if !self.replica.health.lost().contains_key(&segment) {
            Counters::add(&self.ctx.counters.damaged_blocks, bad.len() as u64);
            tracing::warn!(%segment, blocks = bad.len(), first = first * SUM_BLOCK_BYTES, "a copy here is damaged: healing it from another member");
        }
        let healed = self.replace(segment, copy, bad).await?;
        if let Err(error) = self.replica.bases.sync(segment).await {
            tracing::warn!(%segment, %error, "a healed base is not on disk yet");
        }
        Ok(healed)
    }

    /// Which of these blocks are bad while nothing changes the base; `None` where it has changed since it was looked at.
    async fn confirmed(
        &self,
        segment: SegmentId,
        copy: Copy,
        bad: Bad,
    ) -> Result<Option<Bad>, Lost> {
        let turn = self.replica.turn(segment);
        let _turn = turn.lock().await;
        if self.copy(segment) != Some(copy) {
            return Ok(None);
        }
        let bases = &self.replica.bases;
        let here = bases.len(segment).map_err(unreadable)?.unwrap_or(0);
        if here > copy.len {
            // Nothing of the segment lies there: what a torn write left, or rot, is no damage to heal.
            bases.set_len(segment, copy.len).map_err(unreadable)?;
        }
        let sums = bases.block_sums(segment, copy.len).unwrap_or_default();
        let mut still = Bad::new();
        for (block, wanted) in bad {
            let end = copy.len.min((block + 1) * SUM_BLOCK_BYTES);
            let rotten = here < end
                || !bases
                    .check(segment, block, 1)
                    .await
                    .map_err(unreadable)?
                    .bad
                    .is_empty();
            let other = wanted.is_some() && sums.get(block as usize).copied() != wanted;
            if rotten || other {
                still.insert(block, wanted);
            }
        }
        Ok(Some(still))
    }

    fn is_synced(&self, segment: SegmentId) -> bool {
        let state = self.ctx.state();
        state
            .segment(segment)
            .and_then(|known| state.config(known.slot)?.role(self.ctx.me()))
            == Some(true)
    }

    /// Blocks that do not match their own checksums, or that the base is too short for.
    async fn unmatched(&self, segment: SegmentId, copy: Copy) -> Result<Bad, Lost> {
        let here = self
            .replica
            .bases
            .len(segment)
            .map_err(unreadable)?
            .unwrap_or(0);
        let blocks = copy.len.div_ceil(SUM_BLOCK_BYTES);
        let mut bad = Bad::new();
        if here < copy.len {
            bad.extend((here / SUM_BLOCK_BYTES..blocks).map(|block| (block, None)));
        }
        let mut first = 0;
        loop {
            let checked = self
                .replica
                .bases
                .check(segment, first, BATCH_BLOCKS)
                .await
                .map_err(unreadable)?;
            let within = checked.bad.iter().filter(|block| **block < blocks);
            bad.extend(within.map(|block| (*block, None)));
            if !checked.more {
                return Ok(bad);
            }
            first += checked.blocks;
        }
    }

    /// Compares the checksums here with those of the synced replicas that are at this version.
    async fn compare(&self, segment: SegmentId, copy: Copy) -> Compared {
        let mut compared = Compared::default();
        let Ok(mine) = self.replica.bases.block_sums(segment, copy.len) else {
            return compared;
        };
        let others = self.others(copy.slot);
        let asked = others.iter().map(|one| self.sums_of(*one, segment, copy));
        let theirs: Vec<Vec<u32>> = join_all(asked).await.into_iter().flatten().collect();
        compared.heard = theirs.len();
        let Compared { bad, differs, .. } = &mut compared;
        for (block, sum) in mine.iter().enumerate() {
            let votes: Vec<u32> = theirs
                .iter()
                .filter_map(|one| one.get(block).copied())
                .chain([*sum])
                .collect();
            match majority(&votes) {
                // Another one than this finds that out itself.
                Some(wanted) if wanted == *sum => {}
                Some(wanted) => drop(bad.insert(block as u64, Some(wanted))),
                None => drop(differs.get_or_insert(block as u64 * SUM_BLOCK_BYTES)),
            }
        }
        compared
    }

    /// Another replica's checksums, if it is at the same version.
    async fn sums_of(&self, one: Incarnation, segment: SegmentId, copy: Copy) -> Option<Vec<u32>> {
        let request = DataRequest::Sums(ReadSums {
            slot: copy.slot,
            map: self.ctx.map(),
            segment,
        });
        match self.ctx.call(one, &request, Bytes::new(), ROUND).await {
            Ok((
                DataResponse::Sums { version, len, sums }
                | DataResponse::DoubtedSums { version, len, sums },
                _,
            )) => (version == copy.version && len == copy.len).then_some(sums),
            Ok(_) | Err(_) => None,
        }
    }

    /// The other live synced replicas.
    fn others(&self, slot: SlotId) -> Vec<Incarnation> {
        let state = self.ctx.state();
        let config = state.config(slot);
        config
            .into_iter()
            .flat_map(|config| config.synced())
            .filter(|one| *one != self.ctx.me() && state.cluster.alive.contains_key(one))
            .collect()
    }

    /// Replaces damaged blocks, run by run, each from the first replica that has it good.
    async fn replace(&self, segment: SegmentId, copy: Copy, bad: Bad) -> Result<Healed, Lost> {
        let mut failed: Option<Lost> = None;
        let mut work: VecDeque<(u64, u64)> = runs(&bad).into();
        while let Some((first, count)) = work.pop_front() {
            match self.fetch(segment, copy, first, count, &bad).await {
                Ok(bytes) => {
                    let turn = self.replica.turn(segment);
                    let _turn = turn.lock().await;
                    if self.copy(segment) != Some(copy) {
                        return Ok(Healed::Elsewhere);
                    }
                    let patched = self.replica.bases.patch(segment, first, &bytes);
                    patched.map_err(unreadable)?;
                    Counters::add(&self.ctx.counters.healed_blocks, count);
                    Counters::add(&self.ctx.counters.healed_bytes, bytes.len() as u64);
                    tracing::info!(%segment, first = first * SUM_BLOCK_BYTES, bytes = bytes.len(), "damaged bytes were replaced from a good copy");
                }
                Err(None) => return Ok(Healed::Elsewhere),
                // Copies may be damaged in different blocks.
                Err(Some(_)) if count > 1 => {
                    work.extend((first..first + count).map(|one| (one, 1)))
                }
                Err(Some(why)) => {
                    failed.get_or_insert(Lost {
                        offset: first * SUM_BLOCK_BYTES,
                        why,
                    });
                }
            }
        }
        failed.map_or(Ok(Healed::Done), Err)
    }

    /// Good bytes of these blocks at exactly this version. `Err(None)`: whoever answered is at another one.
    async fn fetch(
        &self,
        segment: SegmentId,
        copy: Copy,
        first: u64,
        count: u64,
        bad: &Bad,
    ) -> Result<Bytes, Option<String>> {
        let offset = first * SUM_BLOCK_BYTES;
        let len = (copy.len - offset).min(count * SUM_BLOCK_BYTES);
        let mut why = Some("no other member has a copy".to_owned());
        for one in self.others(copy.slot) {
            let Ok(config) = self.ctx.config(copy.slot) else {
                break;
            };
            let read = DataRequest::ReadBase(ReadBase {
                slot: copy.slot,
                epoch: config.epoch,
                map: self.ctx.map(),
                segment,
                version: copy.version,
                offset,
                len: len as u32,
            });
            match self.ctx.call(one, &read, Bytes::new(), ROUND).await {
                Ok((DataResponse::Bytes { version, .. }, bytes))
                    if version == copy.version && bytes.len() as u64 == len =>
                {
                    if as_wanted(&bytes, first, bad) {
                        return Ok(bytes);
                    }
                    why = Some(format!("the copy at {one} has another checksum"));
                }
                Ok((DataResponse::Bytes { .. } | DataResponse::Refused(Refusal::Behind), _)) => {
                    return Err(None);
                }
                Ok((DataResponse::Refused(refusal), _)) => why = Some(refusal.to_string()),
                Ok(_) => why = Some("not an answer to a read".into()),
                Err(error) => why = Some(error.to_string()),
            }
        }
        Err(why)
    }
}

/// The disk here does not even let the copy be looked at or mended.
fn unreadable(error: hydfs_store::StoreError) -> Lost {
    Lost {
        offset: 0,
        why: error.to_string(),
    }
}

/// What more than half of them say.
fn majority(votes: &[u32]) -> Option<u32> {
    let count = |wanted: &u32| votes.iter().filter(|vote| *vote == wanted).count();
    votes
        .iter()
        .find(|vote| 2 * count(vote) > votes.len())
        .copied()
}

/// Whether these blocks have the checksums that most replicas have, where that decided.
pub(crate) fn as_wanted(bytes: &[u8], first: u64, bad: &Bad) -> bool {
    (first..)
        .zip(bytes.chunks(SUM_BLOCK_BYTES as usize))
        .all(|(block, part)| match bad.get(&block) {
            Some(Some(wanted)) => crc32c::crc32c(part) == *wanted,
            _ => true,
        })
}

/// Consecutive blocks as (first, count), none longer than one fetch.
pub(crate) fn runs(bad: &Bad) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &block in bad.keys() {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == block && *count < FETCH_BLOCKS => {
                *count += 1;
            }
            _ => runs.push((block, 1)),
        }
    }
    runs
}

impl Replica {
    /// Answers another replica's comparison.
    pub(crate) async fn sums(&self, wanted: ReadSums) -> Result<DataResponse, Refusal> {
        self.ctx.catch_up(wanted.map).await?;
        let synced = {
            let state = self.ctx.state();
            let config = state.config(wanted.slot).ok_or(Refusal::NotActing)?;
            config.role(self.ctx.me()) == Some(true)
        };
        // A base that is changing has sums of neither version.
        let turn = self.turn(wanted.segment);
        let Ok(_turn) = turn.try_lock() else {
            return Err(Refusal::Behind);
        };
        if !synced {
            return Err(Refusal::NotActing);
        }
        // Nothing here is the copy of a segment that nobody has written to.
        let (version, len) = {
            let index = self.index();
            let local = index.segments.get(&wanted.segment);
            let copy = local.map(|local| (local.version, local.len));
            copy.unwrap_or_default()
        };
        let sums = self.bases.block_sums(wanted.segment, len).map_err(
            |error: hydfs_store::StoreError| {
                self.health.suspect(wanted.segment);
                Refusal::Damaged(DataError::from(error).to_string())
            },
        )?;
        Ok(if self.bases.doubts(wanted.segment) {
            DataResponse::DoubtedSums { version, len, sums }
        } else {
            DataResponse::Sums { version, len, sums }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_consecutive_and_no_longer_than_a_fetch() {
        let bad: Bad = [1, 2, 3, 7]
            .into_iter()
            .map(|block| (block, None))
            .collect();
        assert_eq!(runs(&bad), [(1, 3), (7, 1)]);
        let many: Bad = (0..FETCH_BLOCKS + 5).map(|block| (block, None)).collect();
        assert_eq!(runs(&many), [(0, FETCH_BLOCKS), (FETCH_BLOCKS, 5)]);
    }

    #[test]
    fn more_than_half_decide() {
        assert_eq!(majority(&[5]), Some(5));
        assert_eq!(majority(&[5, 6]), None);
        assert_eq!(majority(&[5, 6, 6]), Some(6));
        assert_eq!(majority(&[5, 6, 7]), None);
    }

    #[test]
    fn bytes_are_taken_only_with_the_checksum_that_was_agreed() {
        let bytes = vec![7; SUM_BLOCK_BYTES as usize + 10];
        let first = crc32c::crc32c(&bytes[..SUM_BLOCK_BYTES as usize]);
        let good: Bad = [(4, Some(first)), (5, None)].into();
        assert!(as_wanted(&bytes, 4, &good));
        let other: Bad = [(4, Some(first ^ 1))].into();
        assert!(!as_wanted(&bytes, 4, &other));
    }
}
