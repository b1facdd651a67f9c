//! Truncate where nobody else writes: no round to the replicas.

use super::{FILE_BYTES_MAX, writers::Ended};
use crate::{Cut, Event, FileBody, LengthSet, Namespace, Segment, State};
use hydfs_types::{CommandError, Ino, Reply, SegmentId, SegmentVersion, Seq, WriterId};
use std::collections::{BTreeMap, BTreeSet};

/// Last seq of a writer whose end is not fixed: everything pending of it goes.
const ALL: Seq = Seq(u64::MAX);

/// Lengths of one segment that may be set without a prepare; the next one needs a cutoff.
pub const LENGTHS_MAX: usize = 16;

/// The caller's own writer and its last seq sent.
type Sole = Option<(WriterId, Seq)>;

impl State {
    /// The segments that `Command::Truncate` to this size has to name, at the versions that they have here:
    /// the one that holds `size`, and all behind it.
    pub fn truncate_versions(&self, ino: Ino, size: u64) -> Vec<(SegmentId, SegmentVersion)> {
        let Ok(file) = self.names.regular(ino) else {
            return Vec::new();
        };
        let named = self.names.reached_by(file, size);
        named
            .into_iter()
            .map(|id| (id, self.names.segments[&id].version))
            .collect()
    }

    /// Whether so many lengths were set where the new end falls that the next one has to be prepared by the replicas.
    pub fn must_cut_off(&self, ino: Ino, size: u64) -> bool {
        let file = self.names.regular(ino).ok();
        let segment = file
            .and_then(|file| boundary(file, size))
            .and_then(|(_, id)| self.names.segments.get(&id));
        size > 0 && segment.is_some_and(|segment| segment.lengths.len() >= LENGTHS_MAX)
    }

    /// The caller has merged what it has pending where the new end falls, unless `size` is 0: then all of it goes.
    pub(crate) fn truncate(
        &mut self,
        ino: Ino,
        size: u64,
        sole: Sole,
        versions: &[(SegmentId, SegmentVersion)],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.may_truncate(ino, size, sole, versions)?;
        let file = self.names.file_mut(ino);
        let behind: Vec<_> = file.segments.range(size.max(1)..).collect();
        let behind: Vec<_> = behind.into_iter().map(|(_, id)| *id).collect();
        let mut ended = BTreeSet::new();
        for id in &behind {
            ended.extend(waiting(&self.names.segments[id]));
            self.names.retire_segment(*id, events);
        }
        let was_cut = self.end_at(ino, size, sole, &mut ended, events);
        if let Some((_, id)) = boundary(self.names.file_mut(ino), size) {
            self.drop_own(id, sole.filter(|_| was_cut || !behind.is_empty()));
        }
        Ok(self.resized(ino, ended, events))
    }

    /// Makes a file at least this long. What somebody has appended since the caller looked stays: also segments past the new
    /// end, where records may be on their way.
    pub(crate) fn grow(
        &mut self,
        ino: Ino,
        size: u64,
        sole: Sole,
        versions: &[(SegmentId, SegmentVersion)],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.names.regular(ino)?;
        let attr = self.names.inodes[&ino].attr;
        if attr.size >= size {
            return Ok(Reply::Attr(attr));
        }
        self.may_truncate(ino, size, sole, versions)?;
        let mut ended = BTreeSet::new();
        self.end_at(ino, size, sole, &mut ended, events);
        Ok(self.resized(ino, ended, events))
    }

    /// The file has this size, and the segment that the end falls into the length that goes with it. Whether that was changed.
    fn end_at(
        &mut self,
        ino: Ino,
        size: u64,
        sole: Sole,
        ended: &mut BTreeSet<WriterId>,
        events: &mut Vec<Event>,
    ) -> bool {
        let file = self.names.file_mut(ino);
        file.size_min = size;
        boundary(file, size)
            .is_some_and(|(start, id)| self.cut_at(id, size, size - start, sole, ended, events))
    }

    fn resized(&mut self, ino: Ino, ended: BTreeSet<WriterId>, events: &mut Vec<Event>) -> Reply {
        let now = self.time;
        self.names.inode_mut(ino).modified(now);
        self.data_changed(ino, events);
        if !ended.is_empty() {
            self.writers_ended(&Ended::from([(ino, ended)]), events);
        }
        Reply::Attr(self.names.inodes[&ino].attr)
    }

    fn may_truncate(
        &self,
        ino: Ino,
        size: u64,
        sole: Sole,
        versions: &[(SegmentId, SegmentVersion)],
    ) -> Result<(), CommandError> {
        let file = self.names.regular(ino)?;
        if size > FILE_BYTES_MAX {
            return Err(CommandError::Invalid(format!(
                "{size} is past the largest size of a file"
            )));
        }
        let own = sole.map(|(writer, _)| writer);
        let other = |id: &WriterId| Some(*id) != own || self.names.writers[id].job.is_some();
        if file.writers.iter().any(other) {
            return Err(CommandError::Busy);
        }
        if own.is_some_and(|writer| !file.writers.contains(&writer)) {
            return Err(CommandError::Changed);
        }
        self.names.may_reach(ino, size)?;
        let named: BTreeMap<_, _> = versions.iter().copied().collect();
        let here = |(id, version): (&SegmentId, &SegmentVersion)| {
            let segment = self.names.segments.get(id);
            segment.is_some_and(|segment| segment.ino == ino && segment.version == *version)
        };
        let reached = self.names.reached_by(file, size);
        if !named.iter().all(here) || !reached.iter().all(|id| named.contains_key(id)) {
            return Err(CommandError::Changed);
        }
        match size > 0 && self.must_merge(file, size, sole) || self.must_cut_off(ino, size) {
            true => Err(CommandError::Busy),
            false => Ok(()),
        }
    }

    /// Whether records may be pending that the new end divides. Of the caller's own this is known only where the
    /// file has one segment; where it has more the caller is trusted.
    fn must_merge(&self, file: &FileBody, size: u64, sole: Sole) -> bool {
        let Some((start, id)) = boundary(file, size) else {
            return false;
        };
        let segment = &self.names.segments[&id];
        let last = file.segments.range(start + 1..).next().is_none();
        let divided = last || size - start < self.names.cap(file, start, id);
        let own = file.segments.len() == 1 && sole.is_some_and(|sole| unmerged(segment, sole));
        divided && (own || !segment.settled())
    }

    /// Cuts or grows the segment that the new end lies in, so that an append begins there. A hole past what the
    /// segment may take is left to `size_min`, and growing below records that may be pending too.
    fn cut_at(
        &mut self,
        id: SegmentId,
        size: u64,
        wanted: u64,
        sole: Sole,
        ended: &mut BTreeSet<WriterId>,
        events: &mut Vec<Event>,
    ) -> bool {
        let ino = self.names.segments[&id].ino;
        let cap = self
            .names
            .regular(ino)
            .map_or(0, |file| self.names.cap(file, size - wanted, id));
        let segment = self
            .names
            .segments
            .get_mut(&id)
            .expect("files name segments that exist");
        let pending = !segment.settled() || sole.is_some_and(|sole| unmerged(segment, sole));
        let grows = wanted > segment.len && wanted <= cap && !pending;
        let drops = size == 0 && pending;
        if wanted >= segment.len && !grows && !drops {
            return false;
        }
        ended.extend(waiting(segment));
        let mut dropped = std::mem::take(&mut segment.ended);
        segment.through.extend(&dropped);
        let fenced = std::mem::take(&mut segment.fenced);
        dropped.extend(fenced.into_iter().map(|writer| (writer, ALL)));
        dropped.extend(sole);
        let known = |writer: &WriterId| self.names.writers.contains_key(writer);
        segment.set_len(wanted, dropped, known, id, events);
        true
    }

    /// What the caller sent before counts here no more.
    fn drop_own(&mut self, id: SegmentId, sole: Sole) {
        if let Some((writer, seq)) = sole {
            let segment = self
                .names
                .segments
                .get_mut(&id)
                .expect("files name segments that exist");
            let seq = seq.max(segment.merged(writer));
            segment.through.insert(writer, seq);
        }
    }
}

impl Segment {
    /// The next version has this length, and nothing of what is pending of these writers up to these records.
    pub(crate) fn set_len(
        &mut self,
        len: u64,
        dropped: BTreeMap<WriterId, Seq>,
        known: impl Fn(&WriterId) -> bool,
        id: SegmentId,
        events: &mut Vec<Event>,
    ) {
        self.version = self.version.next();
        self.digest = self.digest.after_set_len(len);
        self.len = len;
        self.set_length(&dropped, known);
        let how = Cut::SetLen {
            len,
            dropped: dropped.into_iter().collect(),
            digest: self.digest,
        };
        events.push(Event::Cut {
            segment: id,
            slot: self.slot,
            version: self.version,
            how,
        });
    }

    /// Remembers the length that was just set. Nothing that was before an empty segment is needed to make it again, nor
    /// what it dropped of writers that are gone: replicas drop all of those.
    fn set_length(&mut self, dropped: &BTreeMap<WriterId, Seq>, known: impl Fn(&WriterId) -> bool) {
        let mut dropped = dropped.clone();
        if self.len == 0 {
            let before = self.lengths.drain(..).flat_map(|set| set.dropped);
            for (writer, seq) in before.filter(|(writer, _)| known(writer)) {
                let last = dropped.entry(writer).or_default();
                *last = seq.max(*last);
            }
        }
        self.lengths.push(LengthSet {
            version: self.version,
            len: self.len,
            digest: self.digest,
            dropped: dropped.into_iter().collect(),
        });
    }
}

/// Whether records of this writer up to the seq may be pending in the segment.
fn unmerged(segment: &Segment, (writer, seq): (WriterId, Seq)) -> bool {
    segment.merged(writer) < seq
}

/// Ended writers that the segment waits for.
fn waiting(segment: &Segment) -> impl Iterator<Item = WriterId> + '_ {
    segment.ended.keys().chain(&segment.fenced).copied()
}

/// The segment that the end of a file of this size lies in, or the last before it. At size 0 the one at 0.
fn boundary(file: &FileBody, size: u64) -> Option<(u64, SegmentId)> {
    let before = file.segments.range(..size.max(1)).next_back();
    before.map(|(start, id)| (*start, *id))
}

impl Namespace {
    /// Segments that hold something at or past `size`, or may take it.
    fn reached_by(&self, file: &FileBody, size: u64) -> Vec<SegmentId> {
        let reaches = |(start, id): &(&u64, &SegmentId)| {
            size.saturating_sub(**start) < self.cap(file, **start, **id)
        };
        let reached = file.segments.iter().filter(reaches);
        reached.map(|(_, id)| *id).collect()
    }
}
