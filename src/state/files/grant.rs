//! Grants: one writer per member and file, and per task attempt of a job (R9).

use crate::{Event, JobWriter, State, Writer, WriterPhase, apply::issue};
use hydfs_types::{
    Attempt, CommandError, Granted, Incarnation, Ino, JobId, JobPhase, Reply, Seq, WriterId,
};

impl State {
    pub(crate) fn grant(
        &mut self,
        ino: Ino,
        incarnation: Incarnation,
        job: Option<(JobId, Attempt)>,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.names.regular(ino)?;
        if !self.cluster.alive.contains_key(&incarnation) {
            return Err(CommandError::Ended(incarnation));
        }
        // Who has released an unlinked file cannot open it again.
        let orphan = &self.names.inodes[&ino].orphan;
        if orphan
            .as_ref()
            .is_some_and(|holders| !holders.contains(&incarnation))
        {
            return Err(CommandError::Stale(ino));
        }
        if let Some((id, attempt)) = job {
            let job = self.jobs.get(&id).ok_or(CommandError::NoJob)?;
            if job.phase != JobPhase::Running || job.attempt != attempt {
                return Err(CommandError::NoJob);
            }
        }
        Ok(Reply::Granted(self.grant_writer(
            ino,
            incarnation,
            job,
            events,
        )))
    }

    /// The writer that this incarnation has here, or a new one. The file has its first segment then.
    pub(crate) fn grant_writer(
        &mut self,
        ino: Ino,
        incarnation: Incarnation,
        job: Option<(JobId, Attempt)>,
        events: &mut Vec<Event>,
    ) -> Granted {
        // Each task of a job has a writer of its own; a retry of the grant is answered from the session.
        if job.is_none()
            && let Some(writer) = self.live_writer(ino, incarnation, job)
        {
            return Granted { writer, new: false };
        }
        let names = &mut self.names;
        let id = WriterId(issue(&mut names.next_writer));
        let job = job.map(|(job, attempt)| JobWriter {
            job,
            attempt,
            watermark: Seq(0),
        });
        names.writers.insert(
            id,
            Writer {
                ino,
                incarnation,
                job,
                phase: WriterPhase::Open,
                timed: Seq(0),
                read: false,
                room: 0,
            },
        );
        let file = names.file_mut(ino);
        file.writers.insert(id);
        if file.segments.is_empty() {
            names.add_segment(ino, 0);
            self.fill_up(ino, events);
        }
        events.push(Event::Writers(ino));
        Granted {
            writer: id,
            new: true,
        }
    }

    fn live_writer(
        &self,
        ino: Ino,
        incarnation: Incarnation,
        job: Option<(JobId, Attempt)>,
    ) -> Option<WriterId> {
        let file = self.names.regular(ino).ok()?;
        file.writers.iter().copied().find(|id| {
            let writer = &self.names.writers[id];
            writer.incarnation == incarnation && writer.job.map(|j| (j.job, j.attempt)) == job
        })
    }
}
