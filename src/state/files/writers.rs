//! Writers after their end: fences, closed job writers, and when they are forgotten.

use crate::{Event, Namespace, Segment, State, Writer, WriterPhase};
use hydfs_types::{CommandError, Ino, LogIndex, MemberId, Reply, Seq, WriterId};
use std::collections::{BTreeMap, BTreeSet};

impl Segment {
    /// Last seq of this writer in the base; 0 where there is none.
    pub(crate) fn merged(&self, writer: WriterId) -> Seq {
        self.through.get(&writer).copied().unwrap_or_default()
    }

    /// No record of an ended writer waits here.
    pub fn settled(&self) -> bool {
        self.ended.is_empty() && self.fenced.is_empty()
    }
}

impl Writer {
    pub(crate) fn is_open(&self) -> bool {
        self.phase == WriterPhase::Open
    }

    /// A fence ended it, and its owner has not read yet what became of its records (R5). Tasks of jobs never do.
    pub(crate) fn is_unread(&self) -> bool {
        self.job.is_none() && !self.read && matches!(self.phase, WriterPhase::Fenced { .. })
    }
}

/// Writers that ended, or of which something was settled, by file.
pub(crate) type Ended = BTreeMap<Ino, BTreeSet<WriterId>>;

impl State {
    /// Ends open writers whose last seq nobody knows (R1, R13): the first merge that was listed after it fixes their
    /// end. Of a job's writer only what is below its watermark counts, so nothing is open where all of that is merged.
    pub(crate) fn fence_writers(&mut self, writers: &BTreeSet<WriterId>, events: &mut Vec<Event>) {
        if writers.is_empty() {
            return;
        }
        // Listings have to know of the fence: they name the map version they were made at.
        self.map_changed();
        let at = self.index;
        let mut ended = Ended::new();
        for id in writers {
            let (job, read) = (self.names.writers[id].job, self.names.writers[id].read);
            let ino = self
                .names
                .detach(*id, WriterPhase::Fenced { at }, |segment| {
                    if job.is_none_or(|job| segment.merged(*id) < job.watermark) {
                        segment.fenced.insert(*id);
                    }
                });
            if job.is_none() && !read {
                self.names.file_mut(ino).unread.insert(*id);
            }
            ended.entry(ino).or_default().insert(*id);
        }
        self.writers_ended(&ended, events);
    }

    /// Ends an open writer of a caller by its owner's wish; one that has ended stays as it is.
    pub(crate) fn fence(
        &mut self,
        writer: WriterId,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let open = |known: &Writer| known.is_open() && known.job.is_none();
        if self.names.writers.get(&writer).is_some_and(open) {
            self.fence_writers(&BTreeSet::from([writer]), events);
        }
        Ok(Reply::Done)
    }

    /// Ends open writers of a job at their watermarks.
    pub(crate) fn close_at_watermarks(
        &mut self,
        writers: &BTreeSet<WriterId>,
        events: &mut Vec<Event>,
    ) {
        let mut ended = Ended::new();
        for id in writers {
            let last = self.names.writers[id]
                .job
                .map(|job| job.watermark)
                .unwrap_or_default();
            let ino = self
                .names
                .detach(*id, WriterPhase::Closed { last }, |segment| {
                    if segment.merged(*id) < last {
                        segment.ended.insert(*id, last);
                    }
                });
            ended.entry(ino).or_default().insert(*id);
        }
        self.writers_ended(&ended, events);
    }

    /// What was fenced before this index counts as read by its owner.
    pub(crate) fn read_fenced(
        &mut self,
        owner: MemberId,
        before: LogIndex,
        events: &mut Vec<Event>,
    ) {
        let lives = &self.cluster.lives;
        let mut ended = Ended::new();
        for (id, writer) in &mut self.names.writers {
            let own = lives
                .get(&writer.incarnation)
                .is_some_and(|life| life.member == owner);
            if own && matches!(writer.phase, WriterPhase::Fenced { at } if at < before) {
                writer.read = true;
                ended.entry(writer.ino).or_default().insert(*id);
            }
        }
        self.writers_ended(&ended, events);
    }

    /// Forgets those that nothing waits for and tells that the files may have become clean.
    pub(crate) fn writers_ended(&mut self, ended: &Ended, events: &mut Vec<Event>) {
        for (ino, writers) in ended {
            self.names.forget_writers(*ino, writers);
            self.release_room(*ino);
            events.push(Event::Writers(*ino));
        }
    }
}

impl Namespace {
    /// Takes a writer off its file's live ones and marks every segment of the file.
    fn detach(
        &mut self,
        id: WriterId,
        phase: WriterPhase,
        mut mark: impl FnMut(&mut Segment),
    ) -> Ino {
        let writer = self
            .writers
            .get_mut(&id)
            .expect("callers found the writer in this command");
        writer.phase = phase;
        let ino = writer.ino;
        let file = self.file_mut(ino);
        file.writers.remove(&id);
        let segments: Vec<_> = file.segments.values().copied().collect();
        for segment in segments {
            mark(
                self.segments
                    .get_mut(&segment)
                    .expect("files name segments that exist"),
            );
        }
        ino
    }

    /// Forgets ended writers of a file that nothing waits for: these, and those that only a base names.
    pub(crate) fn forget_writers(&mut self, ino: Ino, ended: &BTreeSet<WriterId>) {
        let Ok(file) = self.regular(ino) else { return };
        let segments: Vec<_> = file.segments.values().copied().collect();
        let mut kept = file.writers.clone();
        let mut gone = ended.clone();
        for segment in segments.iter().map(|id| &self.segments[id]) {
            kept.extend(segment.ended.keys().chain(&segment.fenced));
            gone.extend(segment.through.keys());
        }
        gone.retain(|writer| !kept.contains(writer));
        let unread = |id: &WriterId| self.writers.get(id).is_some_and(Writer::is_unread);
        let still = file.unread.iter().copied().filter(|id| unread(id));
        let still: BTreeSet<WriterId> = still.collect();
        gone.retain(|writer| !unread(writer));
        for writer in &gone {
            self.set_room(*writer, 0);
            self.writers.remove(writer);
        }
        for id in &segments {
            let segment = self
                .segments
                .get_mut(id)
                .expect("files name segments that exist");
            segment.through.retain(|writer, _| !gone.contains(writer));
        }
        self.file_mut(ino).unread = still;
    }
}
