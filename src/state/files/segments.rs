//! Segments come and go; sizes follow them.

use super::{FILE_BYTES_MAX, Place, segment_index, slot_of};
use crate::{Event, FileBody, Namespace, Segment, State, apply::issue};
use hydfs_types::{
    CommandError, Digest, Ino, Reply, SEGMENT_BYTES, SegmentId, SegmentVersion, WriterId,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most segments that one `Extend` may name.
const EXTEND_STARTS_MAX: usize = 4096;

impl State {
    pub(crate) fn extend(
        &mut self,
        ino: Ino,
        starts: &[u64],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.names.regular(ino)?;
        if starts.len() > EXTEND_STARTS_MAX || starts.iter().any(|start| *start >= FILE_BYTES_MAX) {
            return Err(CommandError::Invalid(
                "too many segments at once, or past the largest size".to_owned(),
            ));
        }
        for start in starts {
            let file = self.names.regular(ino)?;
            if let Place::Missing { .. } = self.names.place(file, *start) {
                self.names.add_segment(ino, *start);
                self.fill_up(ino, events);
            }
        }
        Ok(Reply::Done)
    }

    /// The last segment of a file, which was just begun, reaches up to a size that was set, as far as it may: an append
    /// begins there.
    pub(crate) fn fill_up(&mut self, ino: Ino, events: &mut Vec<Event>) {
        let file = self.names.file_mut(ino);
        let size = file.size_min;
        let Some((start, id)) = file.segments.last_key_value().map(|(at, id)| (*at, *id)) else {
            return;
        };
        let segment = self
            .names
            .segments
            .get_mut(&id)
            .expect("files name segments that exist");
        let wanted = size.saturating_sub(start).min(SEGMENT_BYTES);
        if wanted > 0 {
            segment.set_len(wanted, BTreeMap::new(), |_| true, id, events);
            self.data_changed(ino, events);
        }
    }
}

impl Namespace {
    /// An empty segment where none covers `start`.
    pub(crate) fn add_segment(&mut self, ino: Ino, start: u64) -> SegmentId {
        let id = SegmentId(issue(&mut self.next_segment));
        let slot = slot_of(&self.inodes[&ino].key, segment_index(start));
        let segment = Segment {
            ino,
            start,
            slot,
            version: SegmentVersion(0),
            len: 0,
            digest: Digest::default(),
            appends_from: WriterId(0),
            through: BTreeMap::new(),
            ended: BTreeMap::new(),
            fenced: BTreeSet::new(),
            lengths: Vec::new(),
        };
        self.segments.insert(id, segment);
        self.by_slot.entry(slot).or_default().insert(id);
        self.file_mut(ino).segments.insert(start, id);
        id
    }

    /// Takes a segment out of the state, not out of its file.
    pub(crate) fn take_segment(&mut self, id: SegmentId, events: &mut Vec<Event>) -> Segment {
        let segment = self
            .segments
            .remove(&id)
            .expect("files name segments that exist");
        if let Some(others) = self.by_slot.get_mut(&segment.slot) {
            others.remove(&id);
            if others.is_empty() {
                self.by_slot.remove(&segment.slot);
            }
        }
        events.push(Event::Retired {
            segment: id,
            slot: segment.slot,
        });
        segment
    }

    /// Retires a segment of a living file. What is the last one then takes appends again.
    pub(crate) fn retire_segment(&mut self, id: SegmentId, events: &mut Vec<Event>) {
        let segment = self.take_segment(id, events);
        let file = self.file_mut(segment.ino);
        file.segments.remove(&segment.start);
        self.open_last(segment.ino);
    }

    /// The last segment of a file is never full: appends go there. Those that were sent to it before it was full may be
    /// on their way still, and others void; so it takes none of the writers that there are.
    pub(crate) fn open_last(&mut self, ino: Ino) {
        let last = self
            .file_mut(ino)
            .segments
            .last_key_value()
            .map(|(_, id)| *id);
        let newer = WriterId(self.next_writer);
        let last = last.and_then(|id| self.segments.get_mut(&id));
        if let Some(segment) = last.filter(|segment| segment.is_full()) {
            segment.appends_from = newer;
        }
    }

    /// Bytes to the end of the last non-empty segment, and bytes held.
    pub(crate) fn extent(&self, file: &FileBody) -> (u64, u64) {
        let lens = file
            .segments
            .iter()
            .map(|(start, id)| (*start, self.segments[id].len));
        lens.fold((0, 0), |(end, held), (start, len)| match len {
            0 => (end, held),
            _ => (end.max(start + len), held + len),
        })
    }

    /// Recomputes size and bytes held after segments changed.
    pub(crate) fn refresh(&mut self, ino: Ino) {
        let Ok(file) = self.regular(ino) else { return };
        let (end, stored) = self.extent(file);
        let size = end.max(file.size_min);
        let before = self.recount(ino, |names| {
            let attr = &mut names.inode_mut(ino).attr;
            attr.size = size;
            std::mem::replace(&mut attr.stored, stored)
        });
        self.bytes = self.bytes - before + stored;
    }
}

/// Where the part of a data version begins that counts the cuts: the changes that made the file shorter.
const CUTS_SHIFT: u32 = 40;

/// Whether a file was cut shorter between two of its data versions: what was read of it before may be gone.
pub fn was_cut(earlier: u64, later: u64) -> bool {
    later >> CUTS_SHIFT != earlier >> CUTS_SHIFT
}

impl State {
    /// Content of this file is another from here on.
    pub(crate) fn data_changed(&mut self, ino: Ino, events: &mut Vec<Event>) {
        let before = self.names.inode_mut(ino).attr.size;
        self.names.refresh(ino);
        let shorter = self.names.inodes[&ino].attr.size < before;
        if shorter && self.names.limits_bytes(ino) {
            self.shrunk.insert(ino);
        }
        let inode = self.names.inode_mut(ino);
        inode.data_version = match shorter {
            true => ((inode.data_version >> CUTS_SHIFT) + 1) << CUTS_SHIFT,
            false => inode.data_version + 1,
        };
        events.push(Event::Data(ino));
    }
}
