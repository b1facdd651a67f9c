//! Ends of writers by their owner. A sole writer's end carries its cut and leaves the file clean.

use super::writers::Ended;
use crate::{Cut, Event, State, WriterPhase};
use hydfs_types::{CommandError, Ino, Reply, SegmentCut, SegmentId, Seq, WriterEnd, WriterId};
use std::collections::BTreeSet;

impl State {
    pub(crate) fn end(
        &mut self,
        ends: &[WriterEnd],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let mut ended = Ended::new();
        let mut data = BTreeSet::new();
        for end in ends {
            self.end_one(end, &mut ended, &mut data, events);
        }
        for ino in data {
            self.data_changed(ino, events);
        }
        self.writers_ended(&ended, events);
        Ok(Reply::Done)
    }

    /// A writer that is not open any more was ended by an earlier try, or by a fence that wins.
    fn end_one(
        &mut self,
        end: &WriterEnd,
        ended: &mut Ended,
        data: &mut BTreeSet<Ino>,
        events: &mut Vec<Event>,
    ) {
        let Some(writer) = self.names.writers.get_mut(&end.writer) else {
            return;
        };
        if matches!(writer.phase, WriterPhase::Fenced { .. }) {
            // The owner has read what became of its records: nothing has to be kept of it once nothing waits for it.
            writer.read = true;
            ended.entry(writer.ino).or_default().insert(end.writer);
            return;
        }
        if writer.phase != WriterPhase::Open {
            return;
        }
        let (ino, job, timed) = (writer.ino, writer.job, writer.timed);
        let last = job.map_or(end.last, |job| end.last.min(job.watermark));
        writer.phase = WriterPhase::Closed { last };
        self.names.file_mut(ino).writers.remove(&end.writer);
        for touched in &end.touched {
            if self
                .names
                .segments
                .get(&touched.segment)
                .is_none_or(|segment| segment.ino != ino)
            {
                continue;
            }
            let sole = touched
                .cut
                .filter(|cut| job.is_none() && self.is_sole(ino, touched.segment, cut));
            match sole {
                Some(cut) => {
                    if self.cut_sole(touched.segment, end.writer, last, &cut, events) {
                        data.insert(ino);
                    }
                }
                None => self.leave_pending(touched.segment, end.writer, last),
            }
        }
        if let Some(time) = end.mtime.filter(|_| end.last > timed) {
            self.names.inode_mut(ino).modified(time);
            data.insert(ino);
        }
        ended.entry(ino).or_default().insert(end.writer);
    }

    /// Nobody else has, or may have, anything pending in this segment.
    fn is_sole(&self, ino: Ino, segment: SegmentId, cut: &SegmentCut) -> bool {
        let segment = &self.names.segments[&segment];
        let alone = self
            .names
            .regular(ino)
            .is_ok_and(|file| file.writers.is_empty());
        alone && segment.version == cut.base && segment.settled()
    }

    fn cut_sole(
        &mut self,
        id: SegmentId,
        writer: WriterId,
        last: Seq,
        cut: &SegmentCut,
        events: &mut Vec<Event>,
    ) -> bool {
        let segment = self
            .names
            .segments
            .get_mut(&id)
            .expect("checked by the caller");
        if segment.digest == cut.digest {
            return false;
        }
        segment.version = segment.version.next();
        segment.digest = cut.digest;
        segment.len = cut.len;
        segment.through.insert(writer, last);
        let how = Cut::Sole {
            writer,
            last,
            digest: cut.digest,
        };
        events.push(Event::Cut {
            segment: id,
            slot: segment.slot,
            version: segment.version,
            how,
        });
        true
    }

    fn leave_pending(&mut self, id: SegmentId, writer: WriterId, last: Seq) {
        let segment = self
            .names
            .segments
            .get_mut(&id)
            .expect("checked by the caller");
        if segment.merged(writer) < last {
            segment.ended.insert(writer, last);
        }
    }
}
