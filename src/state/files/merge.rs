//! Cuts become final (R6): many segments in one command, each judged for itself.

use super::{FILE_BYTES_MAX, writers::Ended};
use crate::{Cut, Event, Segment, State, WriterPhase};
use hydfs_types::{
    CommandError, Incarnation, Ino, MergeItem, MergeOutcome, Reply, SegmentId, Seq, Then, Time,
    WriterId,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a merge command touched, for what is told once per file at its end.
#[derive(Default)]
struct Touch {
    /// Files whose content changed.
    data: BTreeSet<Ino>,
    /// Files that were written to, and when.
    time: BTreeMap<Ino, Time>,
    ended: Ended,
}

impl State {
    pub(crate) fn merge(
        &mut self,
        incarnation: Incarnation,
        items: &[MergeItem],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let mut touch = Touch::default();
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            let agreed = self.agrees(incarnation, item);
            let outcome = match agreed && !self.fences_first(item, events) {
                true => self.merge_one(item, &mut touch, events),
                false => MergeOutcome::Refused,
            };
            outcomes.push(outcome);
        }
        for (ino, time) in &touch.time {
            self.names.inode_mut(*ino).modified(*time);
        }
        for ino in &touch.data {
            self.data_changed(*ino, events);
        }
        self.writers_ended(&touch.ended, events);
        Ok(Reply::Merged(outcomes))
    }

    /// Whether version, epoch, writers and limits are what the slot leader saw.
    fn agrees(&self, incarnation: Incarnation, item: &MergeItem) -> bool {
        let Some(segment) = self.names.segments.get(&item.segment) else {
            return false;
        };
        let Some(config) = self.cluster.slots.get(&segment.slot) else {
            return false;
        };
        let leads =
            config.epoch == item.slot_epoch && !config.frozen && config.leader == incarnation;
        let mut seen = BTreeSet::new();
        leads
            && item.cut.base == segment.version
            && fits(segment, item)
            && item.through.iter().all(|(writer, seq)| {
                seen.insert(*writer) && self.lane_agrees(segment, *writer, *seq, item)
            })
    }

    fn lane_agrees(&self, segment: &Segment, id: WriterId, seq: Seq, item: &MergeItem) -> bool {
        let Some(writer) = self
            .names
            .writers
            .get(&id)
            .filter(|writer| writer.ino == segment.ino)
        else {
            return false;
        };
        let phase = match writer.phase {
            WriterPhase::Open => true,
            WriterPhase::Closed { last } => seq <= last,
            WriterPhase::Fenced { at } => {
                item.map.0 >= at.0 && (segment.fenced.contains(&id) || seq == segment.merged(id))
            }
        };
        phase && seq >= segment.merged(id) && writer.job.is_none_or(|job| seq <= job.watermark)
    }

    /// A cutoff that fills a segment makes appends void that wait in it for a job epoch, also those of one that is committed
    /// before the cut. So it ends the writers of jobs first, and is refused: the next try lists what counts of theirs. What
    /// rolls by its size is the last segment, and no such append waits there.
    fn fences_first(&mut self, item: &MergeItem, events: &mut Vec<Event>) -> bool {
        let ino = self.names.segments[&item.segment].ino;
        let file = self.names.regular(ino).ok();
        let last = file.and_then(|file| file.segments.values().next_back());
        item.then == Then::Full && last != Some(&item.segment) && self.fence_jobs(ino, events)
    }

    /// Ends the writers that tasks of jobs have of a file: a job epoch that counts on their records is refused, and the attempt
    /// runs again. Whether there were any.
    fn fence_jobs(&mut self, ino: Ino, events: &mut Vec<Event>) -> bool {
        let writers = &self.names.writers;
        let file = self.names.regular(ino);
        let live = file.into_iter().flat_map(|file| &file.writers);
        let of_jobs = live.filter(|id| writers[id].job.is_some());
        let of_jobs: BTreeSet<WriterId> = of_jobs.copied().collect();
        self.fence_writers(&of_jobs, events);
        !of_jobs.is_empty()
    }

    fn merge_one(
        &mut self,
        item: &MergeItem,
        touch: &mut Touch,
        events: &mut Vec<Event>,
    ) -> MergeOutcome {
        let id = item.segment;
        let ino = self.names.segments[&id].ino;
        if let Some(time) = self.moves_time(item) {
            let latest = touch.time.entry(ino).or_default();
            *latest = time.max(*latest);
        }
        let settled = self.settle(item);
        if !settled.is_empty() {
            touch.ended.entry(ino).or_default().extend(settled);
        }
        let segment = self.names.segments.get_mut(&id).expect("agreed on before");
        if item.cut.digest == segment.digest && item.then == Then::Nothing {
            return MergeOutcome::Merged(segment.version);
        }
        segment.version = segment.version.next();
        segment.digest = item.cut.digest;
        segment.len = item.cut.len;
        segment.lengths.clear();
        let (version, slot, start, end) = (
            segment.version,
            segment.slot,
            segment.start,
            segment.start + segment.len,
        );
        touch.data.insert(ino);
        if item.then != Then::Retire {
            let how = Cut::Prepared {
                digest: item.cut.digest,
            };
            events.push(Event::Cut {
                segment: id,
                slot,
                version,
                how,
            });
        }
        match item.then {
            Then::Nothing => {}
            Then::Full => self.roll(id, ino, end, events),
            Then::SetLen(_) => {
                self.shrink_to(ino, end);
                self.names.open_last(ino);
            }
            Then::Grow(_) => self.names.open_last(ino),
            Then::Retire => {
                self.shrink_to(ino, start);
                self.names.retire_segment(id, events);
                // Records that wait for a job epoch may have gone with it.
                self.fence_jobs(ino, events);
            }
        }
        MergeOutcome::Merged(version)
    }

    /// When the file was written to, as far as that does not count already: a writer that closed said it itself.
    fn moves_time(&mut self, item: &MergeItem) -> Option<Time> {
        if matches!(item.then, Then::SetLen(_) | Then::Retire | Then::Grow(_)) {
            return Some(self.time);
        }
        let segment = &self.names.segments[&item.segment];
        if segment.digest == item.cut.digest {
            return None;
        }
        let mut moves = false;
        for (id, seq) in &item.through {
            let writer = self.names.writers.get_mut(id).expect("agreed on before");
            let told = writer.job.is_none() && matches!(writer.phase, WriterPhase::Closed { .. });
            if !told && *seq > writer.timed && *seq > segment.merged(*id) {
                // Its end says nothing new of that.
                writer.timed = *seq;
                moves = true;
            }
        }
        moves.then_some(item.time)
    }

    /// Moves the lanes on and fixes the ends that this merge fixes. Answers the writers that nothing waits for here.
    fn settle(&mut self, item: &MergeItem) -> BTreeSet<WriterId> {
        let writers = &self.names.writers;
        let segment = self
            .names
            .segments
            .get_mut(&item.segment)
            .expect("agreed on before");
        segment.through.extend(item.through.iter().copied());
        let void = matches!(item.then, Then::SetLen(_) | Then::Retire | Then::Grow(_));
        if void {
            segment.through.extend(&segment.ended);
        }
        let through = &segment.through;
        let mut settled = BTreeSet::new();
        segment.ended.retain(|id, last| {
            let waits = !void && through.get(id).is_none_or(|seq| seq < last);
            if !waits {
                settled.insert(*id);
            }
            waits
        });
        segment.fenced.retain(|id| {
            let waits = !void
                && matches!(writers[id].phase, WriterPhase::Fenced { at } if at.0 > item.map.0);
            if !waits {
                settled.insert(*id);
            }
            waits
        });
        settled
    }

    /// The segment takes no more appends; the last one of a file is followed by the next.
    fn roll(&mut self, id: SegmentId, ino: Ino, end: u64, events: &mut Vec<Event>) {
        let last = self
            .names
            .file_mut(ino)
            .segments
            .last_key_value()
            .map(|(_, last)| *last);
        self.names
            .segments
            .get_mut(&id)
            .expect("agreed on before")
            .set_full();
        if last == Some(id) {
            self.names.add_segment(ino, end);
            self.fill_up(ino, events);
        }
    }

    /// The file is cut to end here at most; what lies behind is cut by commands of its own.
    fn shrink_to(&mut self, ino: Ino, end: u64) {
        let file = self.names.file_mut(ino);
        file.size_min = file.size_min.min(end);
    }
}

/// Whether the cut is one that this segment can take.
fn fits(segment: &Segment, item: &MergeItem) -> bool {
    let len = item.cut.len;
    let within = segment
        .start
        .checked_add(len)
        .is_some_and(|end| end < FILE_BYTES_MAX);
    let same = item.cut.digest == segment.digest;
    within
        && match item.then {
            Then::Nothing => !same || len == segment.len,
            Then::Full => len > 0,
            Then::SetLen(wanted) => len == wanted,
            Then::Grow(wanted) => len == wanted && len > segment.len,
            Then::Retire => true,
        }
}
