//! Truncate where nobody else writes: no round to the replicas.

use super::{FILE_BYTES_MAX, writers::Ended};
use crate::{Cut, Event, FileBody, Namespace, State};
use hydfs_types::{CommandError, Ino, Reply, SegmentId, SegmentVersion, Seq, WriterId};
use std::collections::{BTreeMap, BTreeSet};

/// Last seq of a writer whose end is not fixed: everything pending of it goes.
const ALL: Seq = Seq(u64::MAX);

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

    /// The caller has merged what it has pending, unless `size` is 0: then all that is pending goes.
    pub(crate) fn truncate(
        &mut self,
        ino: Ino,
        size: u64,
        sole: Option<(WriterId, Seq)>,
        versions: &[(SegmentId, SegmentVersion)],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.may_truncate(ino, size, sole, versions)?;
        let file = self.names.file_mut(ino);
        file.size_min = size;
        let kept = boundary(file, size).map(|(start, _)| start);
        let behind: Vec<_> = file
            .segments
            .range(size..)
            .filter(|(start, _)| Some(**start) != kept)
            .map(|(_, id)| *id)
            .collect();
        let mut ended = BTreeSet::new();
        for id in behind {
            let segment = &self.names.segments[&id];
            ended.extend(segment.ended.keys().chain(&segment.fenced));
            self.names.retire_segment(id, events);
        }
        if let Some((_, id)) = boundary(self.names.file_mut(ino), size) {
            ended.extend(self.cut_at(id, size, sole, events));
        }
        self.names.open_last(ino);
        let now = self.time;
        self.names.inode_mut(ino).modified(now);
        self.data_changed(ino, events);
        if !ended.is_empty() {
            self.writers_ended(&Ended::from([(ino, ended)]), events);
        }
        Ok(Reply::Attr(self.names.inodes[&ino].attr))
    }

    fn may_truncate(
        &self,
        ino: Ino,
        size: u64,
        sole: Option<(WriterId, Seq)>,
        versions: &[(SegmentId, SegmentVersion)],
    ) -> Result<(), CommandError> {
        let file = self.names.regular(ino)?;
        if size > FILE_BYTES_MAX {
            return Err(CommandError::Invalid(format!(
                "{size} is past the largest size of a file"
            )));
        }
        let sole = sole.map(|(writer, _)| writer);
        if file.writers.iter().any(|writer| Some(*writer) != sole) {
            return Err(CommandError::Busy);
        }
        if sole.is_some_and(|writer| !file.writers.contains(&writer)) {
            return Err(CommandError::Changed);
        }
        let named: BTreeMap<_, _> = versions.iter().copied().collect();
        let here = |(id, version): (&SegmentId, &SegmentVersion)| {
            self.names
                .segments
                .get(id)
                .is_some_and(|s| s.ino == ino && s.version == *version)
        };
        if !named.iter().all(here)
            || !self
                .names
                .reached_by(file, size)
                .iter()
                .all(|id| named.contains_key(id))
        {
            return Err(CommandError::Changed);
        }
        match boundary(file, size) {
            Some((_, id)) if size > 0 && !self.names.segments[&id].settled() => {
                Err(CommandError::Busy)
            }
            _ => Ok(()),
        }
    }

    /// Cuts the segment that the new end lies in. Answers the writers that end there with it.
    fn cut_at(
        &mut self,
        id: SegmentId,
        size: u64,
        sole: Option<(WriterId, Seq)>,
        events: &mut Vec<Event>,
    ) -> BTreeSet<WriterId> {
        let segment = self
            .names
            .segments
            .get_mut(&id)
            .expect("files name segments that exist");
        let len = segment.len.min(size - segment.start);
        let pending =
            !segment.settled() || sole.is_some_and(|(writer, seq)| segment.merged(writer) < seq);
        if len == segment.len && !(size == 0 && pending) {
            return BTreeSet::new();
        }
        let mut dropped: BTreeMap<_, _> = std::mem::take(&mut segment.ended);
        dropped.extend(
            std::mem::take(&mut segment.fenced)
                .into_iter()
                .map(|writer| (writer, ALL)),
        );
        let ended = dropped.keys().copied().collect();
        if let Some((writer, seq)) = sole {
            let seq = seq.max(segment.merged(writer));
            segment.through.insert(writer, seq);
            dropped.insert(writer, seq);
        }
        segment.version = segment.version.next();
        segment.digest = segment.digest.after_set_len(len);
        segment.len = len;
        segment.full = false;
        let how = Cut::SetLen {
            len,
            dropped: dropped.into_iter().collect(),
            digest: segment.digest,
        };
        events.push(Event::Cut {
            segment: id,
            slot: segment.slot,
            version: segment.version,
            how,
        });
        ended
    }
}

/// The segment that the end of a file of this size lies in, or the last before it. At size 0 the one at 0.
fn boundary(file: &FileBody, size: u64) -> Option<(u64, SegmentId)> {
    file.segments
        .range(..size.max(1))
        .next_back()
        .map(|(start, id)| (*start, *id))
}

impl Namespace {
    /// Segments that hold something at or past `size`, or may take it.
    fn reached_by(&self, file: &FileBody, size: u64) -> Vec<SegmentId> {
        let reaches = |(start, id): &(&u64, &SegmentId)| {
            size.saturating_sub(**start) < self.cap(file, **start, **id)
        };
        file.segments
            .iter()
            .filter(reaches)
            .map(|(_, id)| *id)
            .collect()
    }
}
