//! The way from a segment's local version to the agreed one. Decisions only, no I/O.
//!
//! Every step is one that the replica can make with what it has: a prepared list, a length that the agreed state says was
//! set, or the whole lane of a writer that ended alone. Which of them were taken is found by digest: equal digests mean
//! equal operations in equal order. Replicas that all lost power have nobody to pull from, so the search follows any
//! mixture of the three for as many versions as there are.

use crate::{
    replica::finish,
    segment::{LocalSegment, after, runs, through},
};
use hydfs_state::{LengthSet, Segment};
use hydfs_types::{Digest, Prepare, RecordHead, Run, SegmentVersion, Seq, Then, WriterId};
use std::{collections::BTreeMap, ops::Bound};

/// Most records that one search past the next version puts into digests; a base that is farther off is pulled.
const RECORDS_MAX: usize = 50_000;

/// One step from the local version towards the agreed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The version before it. A step that empties the segment may come from any earlier one.
    pub base: SegmentVersion,
    pub runs: Vec<Run>,
    pub then: Then,
    pub digest: Digest,
    pub len: u64,
    /// Records that it makes void: of each writer all up to this one.
    pub dropped: Vec<(WriterId, Seq)>,
}

/// The step that leads from the local version towards the agreed one, if there is one here.
pub(crate) fn next_step(local: &LocalSegment, target: &Segment) -> Option<Step> {
    let mut search = Search {
        local,
        target,
        left: RECORDS_MAX,
    };
    let here = Place {
        version: local.version,
        digest: local.digest,
        len: local.len,
        through: search.dropped_before(local.version),
    };
    search.first(&here)
}

/// Digest and length that a prepared list gives with the records here.
pub(crate) fn outcome_of(local: &LocalSegment, prepare: &Prepare) -> (Digest, u64) {
    finish(
        local.outcome(local.in_runs(&prepare.runs).map(|pending| &pending.head)),
        prepare.then,
    )
}

/// Where some steps lead.
struct Place {
    version: SegmentVersion,
    digest: Digest,
    len: u64,
    /// Records up to here are in the base then, or void.
    through: BTreeMap<WriterId, Seq>,
}

impl Place {
    fn after(&self, step: &Step) -> Self {
        let mut place = Self {
            version: step.base.next(),
            digest: step.digest,
            len: step.len,
            through: self.through.clone(),
        };
        let moved = through(&step.runs);
        for (writer, seq) in moved.into_iter().chain(step.dropped.iter().copied()) {
            let known = place.through.entry(writer).or_default();
            *known = seq.max(*known);
        }
        place
    }
}

struct Search<'a> {
    local: &'a LocalSegment,
    target: &'a Segment,
    left: usize,
}

impl Search<'_> {
    /// The first step of a way from `place` to the target.
    fn first(&mut self, place: &Place) -> Option<Step> {
        if place.version >= self.target.version {
            return None;
        }
        if let Some(step) = self.emptied(place) {
            return self.arrives(place, &step).then_some(step);
        }
        let prepared = self.prepared(place);
        if let Some(found) = prepared.into_iter().find(|step| self.arrives(place, step)) {
            return Some(found);
        }
        let lengths = self.lengths(place);
        if let Some(found) = lengths.into_iter().find(|step| self.arrives(place, step)) {
            return Some(found);
        }
        let lanes: Vec<WriterId> = self.local.lanes.keys().copied().collect();
        lanes.into_iter().find_map(|writer| {
            let step = self.lane(place, writer)?;
            self.arrives(place, &step).then_some(step)
        })
    }

    fn arrives(&mut self, place: &Place, step: &Step) -> bool {
        let next = place.after(step);
        if next.version == self.target.version {
            return (next.digest, next.len) == (self.target.digest, self.target.len);
        }
        self.first(&next).is_some()
    }

    /// Prepared cuts of this base. Of the version that is here only those whose records are here, too.
    fn prepared(&self, place: &Place) -> Vec<Step> {
        let is_here = place.version == self.local.version;
        let fits = |prepare: &&Prepare| {
            prepare.base == place.version
                && prepare.base_digest == place.digest
                && (!is_here || outcome_of(self.local, prepare) == (prepare.digest, prepare.len))
        };
        let step = |prepare: &Prepare| Step {
            base: prepare.base,
            runs: prepare.runs.clone(),
            then: prepare.then,
            digest: prepare.digest,
            len: prepare.len,
            dropped: Vec::new(),
        };
        self.local.prepared.iter().filter(fits).map(step).collect()
    }

    /// The step that empties the segment, if the way leads through it. There is no other one to it: what is before it has
    /// no part in what follows, so a cut that was prepared and never agreed would be taken for a step on the way.
    fn emptied(&self, place: &Place) -> Option<Step> {
        let empties = |set: &&LengthSet| set.len == 0 && set.version > place.version;
        self.target.lengths.iter().find(empties).map(set_length)
    }

    /// The next length that was set without a prepare.
    fn lengths(&self, place: &Place) -> Vec<Step> {
        let fits = |set: &&LengthSet| {
            set.version == place.version.next() && set.digest == place.digest.after_set_len(set.len)
        };
        let next = self.target.lengths.iter().filter(fits);
        next.map(set_length).collect()
    }

    /// A writer that ended alone: all its records here that are not in the base by then, in order of seq.
    fn lane(&mut self, place: &Place, writer: WriterId) -> Option<Step> {
        let last = place.version.next() == self.target.version;
        let lane = self.local.lanes.get(&writer)?;
        let from = place.through.get(&writer).copied().unwrap_or_default();
        let heads: Vec<&RecordHead> = lane
            .records
            .range((Bound::Excluded(from), Bound::Unbounded))
            .map(|(_, pending)| &pending.head)
            .collect();
        let is_here = place.version == self.local.version;
        if heads.is_empty() || !(last && is_here) && heads.len() > self.left {
            return None;
        }
        self.left = self.left.saturating_sub(heads.len());
        let (digest, len) = heads
            .iter()
            .fold((place.digest, place.len), |(digest, len), head| {
                (digest.after_record(head), after(len, head))
            });
        Some(Step {
            base: place.version,
            runs: runs(heads.into_iter()),
            then: Then::Nothing,
            digest,
            len,
            dropped: Vec::new(),
        })
    }

    /// What lengths that are in the base already made void.
    fn dropped_before(&self, version: SegmentVersion) -> BTreeMap<WriterId, Seq> {
        let before = self.target.lengths.iter();
        before
            .filter(|set| set.version <= version)
            .flat_map(|set| set.dropped.iter().copied())
            .collect()
    }
}

fn set_length(set: &LengthSet) -> Step {
    Step {
        base: SegmentVersion(set.version.0 - 1),
        runs: Vec::new(),
        then: Then::SetLen(set.len),
        digest: set.digest,
        len: set.len,
        dropped: set.dropped.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs_store::Position;
    use hydfs_types::{Incarnation, Ino, MapVersion, Op, SegmentId, SlotEpoch, SlotId, Time};

    const SEGMENT: SegmentId = SegmentId(1);

    /// A replica that lost power and the agreed state, which went on while the replica's journal did not say so.
    struct Both {
        local: LocalSegment,
        agreed: Segment,
    }

    impl Both {
        fn new() -> Self {
            let agreed = Segment {
                ino: Ino(2),
                start: 0,
                slot: SlotId(0),
                version: SegmentVersion(0),
                len: 0,
                digest: Digest::default(),
                appends_from: WriterId(0),
                through: BTreeMap::new(),
                ended: BTreeMap::new(),
                fenced: Default::default(),
                lengths: Vec::new(),
            };
            Self {
                local: LocalSegment::new(SlotId(0)),
                agreed,
            }
        }

        fn record(&mut self, writer: u64, seq: u64, op: Op, len: u32) {
            let head = RecordHead {
                writer: WriterId(writer),
                segment: SEGMENT,
                seq: Seq(seq),
                prev: Seq(seq - 1),
                op,
                time: Time::default(),
                len,
                crc: seq as u32,
            };
            self.local.insert(head, Position(seq));
        }

        fn outcome(&self, writer: u64, seqs: std::ops::RangeInclusive<u64>) -> (Digest, u64) {
            let lane = &self.local.lanes[&WriterId(writer)];
            let heads = seqs.map(|seq| &lane.records[&Seq(seq)].head);
            heads.fold(
                (self.agreed.digest, self.agreed.len),
                |(digest, len), head| (digest.after_record(head), after(len, head)),
            )
        }

        fn advance(&mut self, (digest, len): (Digest, u64)) {
            self.agreed.version = self.agreed.version.next();
            (self.agreed.digest, self.agreed.len) = (digest, len);
        }

        /// A merge of these records: on the disk of every replica before it is agreed.
        fn merge(&mut self, writer: u64, seqs: std::ops::RangeInclusive<u64>) {
            let (digest, len) = self.outcome(writer, seqs.clone());
            self.local.prepared.push(Prepare {
                slot: SlotId(0),
                epoch: SlotEpoch(1),
                map: MapVersion(1),
                from: Incarnation(1),
                segment: SEGMENT,
                base: self.agreed.version,
                base_digest: self.agreed.digest,
                runs: vec![Run {
                    writer: WriterId(writer),
                    first: Seq(*seqs.start()),
                    last: Seq(*seqs.end()),
                }],
                digest,
                len,
                then: Then::Nothing,
            });
            self.agreed.lengths.clear();
            self.advance((digest, len));
        }

        fn set_len(&mut self, len: u64, dropped: &[(u64, u64)]) {
            let digest = self.agreed.digest.after_set_len(len);
            self.advance((digest, len));
            let dropped = dropped.iter().map(|(w, s)| (WriterId(*w), Seq(*s)));
            self.agreed.lengths.push(LengthSet {
                version: self.agreed.version,
                len,
                digest,
                dropped: dropped.collect(),
            });
        }

        /// The end of a writer that was alone.
        fn sole(&mut self, writer: u64, seqs: std::ops::RangeInclusive<u64>) {
            let outcome = self.outcome(writer, seqs);
            self.advance(outcome);
        }

        /// Takes steps for as long as there are some; how many.
        fn follow(&mut self) -> usize {
            let mut steps = 0;
            while let Some(step) = next_step(&self.local, &self.agreed) {
                let through = through(&step.runs).into_iter().chain(step.dropped.clone());
                self.local
                    .advance(step.base.next(), step.digest, step.len, through);
                steps += 1;
            }
            assert_eq!(
                (self.local.version, self.local.digest, self.local.len),
                (self.agreed.version, self.agreed.digest, self.agreed.len)
            );
            steps
        }
    }

    /// None of these was found before: all replicas that lost power together had nobody to pull the segment from.
    #[test]
    fn fault_s1_a_length_set_after_a_merge_is_made_again() {
        let mut both = Both::new();
        both.record(1, 1, Op::Append, 100);
        both.merge(1, 1..=1);
        both.set_len(40, &[(1, 1)]);
        both.set_len(10, &[]);
        assert_eq!(both.follow(), 3);
    }

    #[test]
    fn fault_s1_a_sole_writers_end_after_a_merge_is_made_again() {
        let mut both = Both::new();
        both.record(1, 1, Op::Append, 100);
        both.merge(1, 1..=1);
        both.record(2, 1, Op::WriteAt(50), 100);
        both.record(2, 2, Op::WriteAt(0), 10);
        both.sole(2, 1..=2);
        assert_eq!(both.follow(), 2);
    }

    #[test]
    fn fault_s1_any_mixture_is_made_again() {
        let mut both = Both::new();
        both.record(1, 1, Op::Append, 100);
        both.record(1, 2, Op::Append, 20);
        both.merge(1, 1..=1);
        both.merge(1, 2..=2);
        both.set_len(70, &[(1, 2)]);
        both.record(2, 1, Op::WriteAt(5), 9);
        both.sole(2, 1..=1);
        both.set_len(30, &[(2, 1)]);
        both.record(3, 1, Op::WriteAt(30), 9);
        both.record(3, 2, Op::WriteAt(39), 9);
        both.sole(3, 1..=2);
        assert_eq!(both.follow(), 6);
    }

    #[test]
    fn records_that_a_truncate_dropped_are_none_of_the_lane() {
        let mut both = Both::new();
        both.record(1, 1, Op::WriteAt(0), 100);
        both.record(1, 2, Op::WriteAt(0), 100);
        both.set_len(0, &[(1, 2)]);
        both.record(1, 3, Op::WriteAt(0), 7);
        both.sole(1, 3..=3);
        assert_eq!(both.follow(), 2);
    }

    #[test]
    fn what_emptied_the_segment_is_reached_from_anywhere() {
        let mut both = Both::new();
        both.record(1, 1, Op::Append, 100);
        // Two versions that are not here at all.
        both.advance((Digest([1; 32]), 5));
        both.advance((Digest([2; 32]), 6));
        both.set_len(0, &[(1, 1)]);
        both.record(2, 1, Op::WriteAt(0), 7);
        both.sole(2, 1..=1);
        assert_eq!(both.follow(), 2);
    }

    #[test]
    fn a_cut_that_was_not_agreed_is_not_taken() {
        let mut both = Both::new();
        both.record(1, 1, Op::Append, 100);
        both.record(2, 1, Op::WriteAt(3), 5);
        both.merge(1, 1..=1);
        both.agreed = Both::new().agreed;
        both.sole(2, 1..=1);
        assert_eq!(both.follow(), 1);
    }

    /// Nothing that comes after the emptying tells the two apart: a reader that asked for that version got other bytes.
    #[test]
    fn a_cut_that_was_not_agreed_is_not_taken_on_the_way_to_an_empty_segment() {
        let mut both = Both::new();
        both.record(1, 1, Op::WriteAt(0), 100);
        both.merge(1, 1..=1);
        both.agreed = Both::new().agreed;
        both.advance((Digest([1; 32]), 100));
        both.set_len(0, &[(1, 1)]);
        both.record(2, 1, Op::WriteAt(0), 7);
        both.sole(2, 1..=1);
        assert_eq!(both.follow(), 2);
        assert_eq!(both.local.version, SegmentVersion(3));
    }

    #[test]
    fn a_search_without_an_end_is_given_up() {
        let mut both = Both::new();
        for writer in 1..=12 {
            for seq in 1..=50 {
                both.record(writer, seq, Op::Append, 1);
            }
        }
        both.agreed.version = SegmentVersion(12);
        both.agreed.digest = Digest([7; 32]);
        assert_eq!(next_step(&both.local, &both.agreed), None);
    }
}
