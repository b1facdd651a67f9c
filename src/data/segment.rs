//! One segment as a replica holds it: base, lanes and arrival order. Decisions only, no I/O.
//!
//! Invariants: a lane's records are contiguous (each `prev` is the record before it); `order` names every
//! pending record once, in arrival order; a seq at or below a lane's `through` is in the base.

use hydfs_store::Position;
use hydfs_types::{
    Digest, Op, Prepare, RecordHead, Refusal, Run, SegmentVersion, Seq, SlotId, WriterId,
};
use std::collections::BTreeMap;

/// A record that waits for its merge, and where its payload is.
#[derive(Debug, Clone)]
pub struct Pending {
    pub head: RecordHead,
    pub at: Position,
    stamp: u64,
}

/// One writer's records in this segment.
#[derive(Debug, Clone, Default)]
pub struct Lane {
    /// Everything up to here is in the base.
    pub through: Seq,
    /// Last record of the lane that is here (or in the base).
    pub received: Seq,
    pub records: BTreeMap<Seq, Pending>,
}

/// A segment on this replica.
#[derive(Debug, Clone)]
pub struct LocalSegment {
    pub slot: SlotId,
    pub version: SegmentVersion,
    pub len: u64,
    pub digest: Digest,
    pub lanes: BTreeMap<WriterId, Lane>,
    /// Pending records in arrival order.
    order: BTreeMap<u64, (WriterId, Seq)>,
    next_stamp: u64,
    /// Stamps below this are for records pulled from a source, which precede all that came directly.
    next_pulled: u64,
    /// Cuts prepared here and not yet known to be committed or void.
    pub prepared: Vec<Prepare>,
    /// The slot leader accepts nothing while it lists for a roll or cutoff.
    pub fenced: bool,
    pub pending_bytes: u64,
}

/// What to do with a record that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// New: journal it, then `insert`.
    New,
    /// Already here or in the base, same bytes.
    Known,
    Refused(Refusal),
}

/// Pulled records have stamps from 0 up to this, direct ones from here on.
const DIRECT_STAMPS: u64 = 1 << 48;

impl LocalSegment {
    /// An empty segment.
    pub fn new(slot: SlotId) -> Self {
        Self {
            slot,
            version: SegmentVersion(0),
            len: 0,
            digest: Digest::default(),
            lanes: BTreeMap::new(),
            order: BTreeMap::new(),
            next_stamp: DIRECT_STAMPS,
            next_pulled: 0,
            prepared: Vec::new(),
            fenced: false,
            pending_bytes: 0,
        }
    }

    /// Decides on a record. `lane_start`: the lane's records begin after this seq where none is here yet
    /// (what the base holds, and for a fresh learner what was acknowledged before it was asked).
    pub fn arrival(&mut self, head: &RecordHead, lane_start: Seq) -> Arrival {
        let lane = self.lanes.entry(head.writer).or_default();
        // What is before the start and not here is on its way, by a pull that may have brought a part of it.
        lane.received = lane.received.max(lane_start).max(lane.through);
        if let Some(known) = lane.records.get(&head.seq) {
            return if known.head.crc == head.crc
                && known.head.len == head.len
                && known.head.op == head.op
            {
                Arrival::Known
            } else {
                Arrival::Refused(Refusal::Mismatch {
                    writer: head.writer,
                    seq: head.seq,
                })
            };
        }
        if head.seq <= lane.received {
            return Arrival::Known;
        }
        let floor = lane.through.max(lane_start);
        if head.prev > lane.received || head.prev < lane.received && lane.received > floor {
            return Arrival::Refused(Refusal::Gap {
                have: lane.received,
            });
        }
        Arrival::New
    }

    /// Adds a journaled record at the end of the arrival order.
    pub fn insert(&mut self, head: RecordHead, at: Position) {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        self.put(head, at, stamp);
    }

    /// Adds a record pulled from a source: before everything that came directly (R11).
    pub fn insert_pulled(&mut self, head: RecordHead, at: Position) {
        let stamp = self.next_pulled;
        self.next_pulled += 1;
        if let Some(old) = self
            .lanes
            .get_mut(&head.writer)
            .and_then(|lane| lane.records.remove(&head.seq))
        {
            self.order.remove(&old.stamp);
            self.pending_bytes -= u64::from(old.head.len);
        }
        self.put(head, at, stamp);
    }

    fn put(&mut self, head: RecordHead, at: Position, stamp: u64) {
        let lane = self.lanes.entry(head.writer).or_default();
        if head.seq <= lane.through || lane.records.contains_key(&head.seq) {
            return;
        }
        lane.received = lane.received.max(head.seq);
        self.pending_bytes += u64::from(head.len);
        self.order.insert(stamp, (head.writer, head.seq));
        lane.records.insert(head.seq, Pending { head, at, stamp });
    }

    /// Pending records in arrival order.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> + '_ {
        self.order
            .values()
            .filter_map(|(writer, seq)| self.lanes.get(writer)?.records.get(seq))
    }

    /// What is pending is exactly this, in this order: an entry of the journal says so.
    pub fn reorder(&mut self, wanted: &[(WriterId, Seq)]) {
        let mut old = std::mem::take(&mut self.lanes);
        self.order.clear();
        self.pending_bytes = 0;
        self.next_pulled = 0;
        for (writer, lane) in &old {
            let kept = Lane {
                through: lane.through,
                received: lane.received,
                records: BTreeMap::new(),
            };
            self.lanes.insert(*writer, kept);
        }
        for (writer, seq) in wanted {
            if let Some(pending) = old
                .get_mut(writer)
                .and_then(|lane| lane.records.remove(seq))
            {
                self.insert_pulled(pending.head, pending.at);
            }
        }
    }

    /// The pending records' names in arrival order.
    pub fn names(&self) -> Vec<(WriterId, Seq)> {
        self.order.values().copied().collect()
    }

    /// The record was copied to another place of the journal.
    pub fn moved(&mut self, writer: WriterId, seq: Seq, at: Position) {
        if let Some(pending) = self
            .lanes
            .get_mut(&writer)
            .and_then(|lane| lane.records.get_mut(&seq))
        {
            pending.at = at;
        }
    }

    /// Pending records of these runs, in their order.
    pub fn in_runs<'a>(&'a self, runs: &'a [Run]) -> impl Iterator<Item = &'a Pending> + 'a {
        runs.iter().flat_map(move |run| {
            let lane = self.lanes.get(&run.writer);
            lane.into_iter().flat_map(move |lane| {
                lane.records
                    .range(run.first..=run.last)
                    .map(|(_, pending)| pending)
            })
        })
    }

    /// What of these runs is neither here nor in the base. A record names the one before it in its lane, so that those
    /// between two that are here show.
    pub fn missing(&self, runs: &[Run]) -> Vec<Run> {
        let mut missing = Vec::new();
        for run in runs {
            let mut add = |first: Seq, last: Seq| {
                if first <= last {
                    let writer = run.writer;
                    missing.push(Run {
                        writer,
                        first,
                        last,
                    });
                }
            };
            let Some(lane) = self.lanes.get(&run.writer) else {
                add(run.first, run.last);
                continue;
            };
            let mut next = run.first.max(lane.through.next());
            for (seq, pending) in lane.records.range(run.first..=run.last) {
                add(next, pending.head.prev);
                next = seq.next();
            }
            add(next, run.last);
        }
        missing
    }

    /// Digest and length after these records are merged onto the base.
    pub fn outcome<'a>(&self, records: impl Iterator<Item = &'a RecordHead>) -> (Digest, u64) {
        records.fold((self.digest, self.len), |(digest, len), head| {
            (digest.after_record(head), after(len, head))
        })
    }

    /// The base moved to `version`: what is at or below `through` is no longer pending.
    pub fn advance(
        &mut self,
        version: SegmentVersion,
        digest: Digest,
        len: u64,
        through: impl Iterator<Item = (WriterId, Seq)>,
    ) {
        self.version = version;
        self.digest = digest;
        self.len = len;
        for (writer, seq) in through {
            self.merged_through(writer, seq);
        }
        self.prepared.retain(|prepare| prepare.base >= version);
    }

    /// Everything of this lane up to `seq` is in the base or void.
    pub fn merged_through(&mut self, writer: WriterId, seq: Seq) {
        let Some(lane) = self.lanes.get_mut(&writer) else {
            return;
        };
        lane.through = lane.through.max(seq);
        lane.received = lane.received.max(seq);
        let rest = lane.records.split_off(&seq.next());
        for gone in std::mem::replace(&mut lane.records, rest).into_values() {
            self.order.remove(&gone.stamp);
            self.pending_bytes -= u64::from(gone.head.len);
        }
    }

    /// Drops a lane whose writer's end is fixed.
    pub fn drop_lane(&mut self, writer: WriterId) {
        if let Some(lane) = self.lanes.remove(&writer) {
            for gone in lane.records.into_values() {
                self.order.remove(&gone.stamp);
                self.pending_bytes -= u64::from(gone.head.len);
            }
        }
    }

    /// The segment takes no more appends of these writers: those that are not in the base are void and go elsewhere.
    pub fn drop_appends(&mut self, of: impl Fn(WriterId) -> bool) {
        let void: Vec<(WriterId, Seq)> = self
            .pending()
            .filter(|p| p.head.op == Op::Append && of(p.head.writer))
            .map(|p| (p.head.writer, p.head.seq))
            .collect();
        for (writer, seq) in void {
            let Some(lane) = self.lanes.get_mut(&writer) else {
                continue;
            };
            if let Some(gone) = lane.records.remove(&seq) {
                self.order.remove(&gone.stamp);
                self.pending_bytes -= u64::from(gone.head.len);
            }
            lane.received = lane
                .records
                .keys()
                .next_back()
                .copied()
                .unwrap_or(lane.through);
        }
    }

    /// Whether nothing here needs the segment's index entry besides the base.
    pub fn is_quiet(&self) -> bool {
        self.order.is_empty() && self.prepared.is_empty()
    }

    /// Oldest journal position that this segment still needs.
    pub fn oldest(&self) -> Option<Position> {
        self.lanes
            .values()
            .flat_map(|lane| lane.records.values().map(|pending| pending.at))
            .min()
    }
}

/// Length of a segment of `len` bytes after one more record.
pub fn after(len: u64, head: &RecordHead) -> u64 {
    match head.op {
        Op::Append => len + u64::from(head.len),
        Op::WriteAt(offset) => len.max(offset + u64::from(head.len)),
        Op::Zero {
            offset,
            len: zeros,
            extend,
        } => {
            if extend {
                len.max(offset + zeros)
            } else {
                len
            }
        }
    }
}

/// Runs of consecutive records of one lane.
pub fn runs<'a>(records: impl Iterator<Item = &'a RecordHead>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for head in records {
        match runs.last_mut() {
            Some(run) if run.writer == head.writer => run.last = head.seq,
            _ => runs.push(Run {
                writer: head.writer,
                first: head.seq,
                last: head.seq,
            }),
        }
    }
    runs
}

/// Per writer the last seq of these runs.
pub fn through(runs: &[Run]) -> BTreeMap<WriterId, Seq> {
    let mut through = BTreeMap::new();
    for run in runs {
        let seq = through.entry(run.writer).or_insert(run.last);
        *seq = run.last.max(*seq);
    }
    through
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs_types::{SegmentId, Time};

    fn head(writer: u64, seq: u64, prev: u64, len: u32) -> RecordHead {
        RecordHead {
            writer: WriterId(writer),
            segment: SegmentId(1),
            seq: Seq(seq),
            prev: Seq(prev),
            op: Op::Append,
            time: Time::default(),
            len,
            crc: seq as u32,
        }
    }

    fn take(segment: &mut LocalSegment, head: RecordHead) -> Arrival {
        let arrival = segment.arrival(&head, Seq(0));
        if arrival == Arrival::New {
            segment.insert(head, Position(0));
        }
        arrival
    }

    #[test]
    fn fault_s7_a_retry_is_the_same_record() {
        let mut segment = LocalSegment::new(SlotId(0));
        assert_eq!(take(&mut segment, head(1, 1, 0, 10)), Arrival::New);
        for _ in 0..100 {
            assert_eq!(take(&mut segment, head(1, 1, 0, 10)), Arrival::Known);
        }
        assert_eq!(segment.pending().count(), 1);
        assert_eq!(segment.pending_bytes, 10);
    }

    #[test]
    fn another_payload_under_the_same_identity_is_refused() {
        let mut segment = LocalSegment::new(SlotId(0));
        take(&mut segment, head(1, 1, 0, 10));
        let forged = RecordHead {
            crc: 99,
            ..head(1, 1, 0, 10)
        };
        assert!(matches!(
            segment.arrival(&forged, Seq(0)),
            Arrival::Refused(Refusal::Mismatch { .. })
        ));
    }

    #[test]
    fn a_gap_is_refused_and_named() {
        let mut segment = LocalSegment::new(SlotId(0));
        take(&mut segment, head(1, 1, 0, 10));
        assert_eq!(
            take(&mut segment, head(1, 3, 2, 10)),
            Arrival::Refused(Refusal::Gap { have: Seq(1) })
        );
        assert_eq!(take(&mut segment, head(1, 2, 1, 10)), Arrival::New);
        assert_eq!(take(&mut segment, head(1, 3, 2, 10)), Arrival::New);
    }

    #[test]
    fn fault_s5_equal_times_do_not_merge_two_records() {
        let mut segment = LocalSegment::new(SlotId(0));
        take(&mut segment, head(1, 1, 0, 4));
        take(&mut segment, head(2, 1, 0, 4));
        assert_eq!(segment.pending().count(), 2);
    }

    #[test]
    fn fault_s6_a_clock_that_jumps_back_reorders_nothing() {
        let mut segment = LocalSegment::new(SlotId(0));
        for (seq, sec) in [(1, 100), (2, 50), (3, -7), (4, 99)] {
            let head = RecordHead {
                time: Time { sec, nsec: 0 },
                ..head(1, seq, seq - 1, 1)
            };
            assert_eq!(take(&mut segment, head), Arrival::New);
        }
        let order: Vec<u64> = segment.pending().map(|p| p.head.seq.0).collect();
        assert_eq!(order, [1, 2, 3, 4]);
    }

    #[test]
    fn pulled_records_precede_direct_ones() {
        let mut segment = LocalSegment::new(SlotId(0));
        take(&mut segment, head(2, 1, 0, 4));
        segment.insert_pulled(head(1, 1, 0, 4), Position(0));
        segment.insert_pulled(head(2, 1, 0, 4), Position(0));
        let order: Vec<u64> = segment.pending().map(|p| p.head.writer.0).collect();
        assert_eq!(order, [1, 2]);
    }

    #[test]
    fn a_lane_goes_on_while_a_pull_has_brought_a_part_of_what_was_before() {
        let mut segment = LocalSegment::new(SlotId(0));
        segment.insert_pulled(head(1, 1, 0, 4), Position(0));
        assert_eq!(segment.arrival(&head(1, 4, 3, 4), Seq(3)), Arrival::New);
        assert_eq!(segment.arrival(&head(1, 4, 3, 4), Seq(1)), Arrival::New);
    }

    #[test]
    fn what_a_lane_lacks_of_a_cut_shows_by_what_records_name() {
        let run = |first, last| Run {
            writer: WriterId(1),
            first: Seq(first),
            last: Seq(last),
        };
        let mut segment = LocalSegment::new(SlotId(0));
        assert_eq!(segment.missing(&[run(1, 9)]), [run(1, 9)]);
        // The lane is 1, 2, 5, 6, 9: other seqs are in other segments. Here are 2 and 6.
        for (seq, prev) in [(2, 1), (6, 5)] {
            segment.insert_pulled(head(1, seq, prev, 1), Position(0));
        }
        assert_eq!(
            segment.missing(&[run(1, 9)]),
            [run(1, 1), run(3, 5), run(7, 9)]
        );
        assert_eq!(segment.missing(&[run(6, 6)]), []);
        segment.merged_through(WriterId(1), Seq(5));
        assert_eq!(segment.missing(&[run(1, 9)]), [run(7, 9)]);
        assert_eq!(segment.missing(&[run(1, 5)]), []);
    }

    #[test]
    fn runs_keep_the_order_of_the_cut() {
        let mut segment = LocalSegment::new(SlotId(0));
        for (writer, seq, prev) in [(1, 1, 0), (1, 2, 1), (2, 1, 0), (1, 3, 2)] {
            take(&mut segment, head(writer, seq, prev, 1));
        }
        let list = runs(segment.pending().map(|p| &p.head));
        assert_eq!(list.len(), 3);
        let again: Vec<_> = segment
            .in_runs(&list)
            .map(|p| (p.head.writer.0, p.head.seq.0))
            .collect();
        assert_eq!(again, [(1, 1), (1, 2), (2, 1), (1, 3)]);
        let (digest, len) = segment.outcome(segment.in_runs(&list).map(|p| &p.head));
        segment.advance(SegmentVersion(1), digest, len, through(&list).into_iter());
        assert!(segment.is_quiet());
        assert_eq!((segment.len, segment.pending_bytes), (4, 0));
        assert_eq!(take(&mut segment, head(1, 3, 2, 1)), Arrival::Known);
    }

    #[test]
    fn appends_that_missed_the_roll_are_void_and_the_lane_goes_on() {
        let mut segment = LocalSegment::new(SlotId(0));
        take(&mut segment, head(1, 1, 0, 1));
        segment.advance(
            SegmentVersion(1),
            Digest::default(),
            1,
            [(WriterId(1), Seq(1))].into_iter(),
        );
        take(&mut segment, head(1, 2, 1, 1));
        segment.drop_appends(|_| true);
        assert!(segment.is_quiet());
        let later = RecordHead {
            op: Op::WriteAt(0),
            ..head(1, 5, 1, 1)
        };
        assert_eq!(segment.arrival(&later, Seq(0)), Arrival::New);
    }
}
