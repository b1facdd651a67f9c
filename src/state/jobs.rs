//! Jobs (R13): attempts, committed job epochs and the watermarks of their writers.

use crate::{Event, State, WriterPhase, apply::issue};
use hydfs_types::{
    Attempt, CommandError, JobCommand, JobCommit, JobEpoch, JobId, JobInfo, JobPhase,
    NAME_BYTES_MAX, Reply, WriterId,
};
use std::collections::BTreeSet;

/// Jobs that are remembered, ended ones included, until the leader forgets those that nobody needs.
pub const JOBS_MAX: usize = 4096;
/// Largest positions and progress of one job epoch in bytes.
pub const POSITIONS_BYTES_MAX: usize = 4 << 20;

fn has_ended(phase: JobPhase) -> bool {
    match phase {
        JobPhase::Running | JobPhase::Paused => false,
        JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled => true,
    }
}

impl State {
    pub(crate) fn job(
        &mut self,
        command: &JobCommand,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        match command {
            JobCommand::Start { .. } => self.start_job(command, events),
            JobCommand::Restart { job, from, why } => self.restart_job(*job, *from, why, events),
            JobCommand::Commit(commit) => self.commit_job(commit, events),
            JobCommand::SetPhase {
                job,
                attempt,
                phase,
                message,
            } => self.set_job_phase((*job, *attempt), *phase, message, events),
            JobCommand::Forget { job } => self.forget_job(*job, events),
            JobCommand::Change { .. } => self.change_job(command, events),
        }
    }

    fn start_job(
        &mut self,
        command: &JobCommand,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let JobCommand::Start {
            name,
            spec,
            generation,
            uid,
            gid,
            phase,
            message,
        } = command
        else {
            unreachable!("called for a start only");
        };
        if let Some(known) = self
            .jobs
            .values()
            .find(|job| job.spec == *spec && job.generation == *generation)
        {
            return Ok(Reply::Job(known.id));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(CommandError::Invalid(format!(
                "a job's name has 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
        if self
            .jobs
            .values()
            .any(|job| job.name == *name && !has_ended(job.phase))
        {
            return Err(CommandError::Exists);
        }
        if self.jobs.len() >= JOBS_MAX {
            return Err(CommandError::Invalid(format!(
                "there are {JOBS_MAX} jobs already: remove specs of ended ones, and their folders"
            )));
        }
        let id = JobId(issue(&mut self.next_job));
        let info = JobInfo {
            id,
            name: name.clone(),
            spec: *spec,
            generation: *generation,
            uid: *uid,
            gid: *gid,
            phase: *phase,
            message: message.clone(),
            attempt: Attempt(1),
            epoch: JobEpoch(0),
            positions: Vec::new(),
            progress: Vec::new(),
            started: self.time,
            changed: self.time,
        };
        self.jobs.insert(id, info);
        events.push(Event::Job(id));
        Ok(Reply::Job(id))
    }

    fn restart_job(
        &mut self,
        id: JobId,
        from: Attempt,
        why: &str,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let job = self
            .jobs
            .get_mut(&id)
            .filter(|job| !has_ended(job.phase))
            .ok_or(CommandError::NoJob)?;
        if job.attempt != from {
            return Err(CommandError::Changed);
        }
        job.attempt = Attempt(from.0 + 1);
        job.message = why.to_owned();
        job.changed = self.time;
        let open = self.open_writers(id);
        self.fence_writers(&open, events);
        events.push(Event::Job(id));
        Ok(Reply::Job(id))
    }

    /// Open writers of a job. They all are of its present attempt: a restart ends the others.
    fn open_writers(&self, id: JobId) -> BTreeSet<WriterId> {
        let writers = self.names.writers.iter();
        let open = writers.filter(|(_, w)| {
            w.phase == WriterPhase::Open && w.job.is_some_and(|job| job.job == id)
        });
        open.map(|(writer, _)| *writer).collect()
    }

    fn commit_job(
        &mut self,
        commit: &JobCommit,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let job = self.jobs.get(&commit.job).ok_or(CommandError::NoJob)?;
        if job.attempt != commit.attempt {
            return Err(CommandError::Changed);
        }
        if commit.epoch == job.epoch && commit.epoch != JobEpoch(0) {
            return Ok(Reply::Done);
        }
        if job.phase != JobPhase::Running {
            return Err(CommandError::NoJob);
        }
        if commit.epoch.0 != job.epoch.0 + 1 {
            return Err(CommandError::Changed);
        }
        self.watermarks_agree(commit)?;
        for (id, seq) in &commit.watermarks {
            let writer = self.names.writers.get_mut(id).expect("checked above");
            writer.job.as_mut().expect("checked above").watermark = *seq;
        }
        let job = self.jobs.get_mut(&commit.job).expect("checked above");
        job.epoch = commit.epoch;
        job.positions.clone_from(&commit.positions);
        job.progress.clone_from(&commit.progress);
        job.changed = self.time;
        if commit.done {
            job.phase = JobPhase::Done;
            // Why an earlier attempt was broken off matters no more.
            job.message.clear();
            let open = self.open_writers(commit.job);
            self.close_at_watermarks(&open, events);
        }
        events.push(Event::Job(commit.job));
        Ok(Reply::Done)
    }

    fn watermarks_agree(&self, commit: &JobCommit) -> Result<(), CommandError> {
        if commit.positions.len() + commit.progress.len() > POSITIONS_BYTES_MAX {
            return Err(CommandError::Invalid(format!(
                "positions are over {POSITIONS_BYTES_MAX} bytes"
            )));
        }
        let mut seen = BTreeSet::new();
        for (id, seq) in &commit.watermarks {
            let writer = self
                .names
                .writers
                .get(id)
                .filter(|w| w.phase == WriterPhase::Open);
            let job = writer
                .and_then(|writer| writer.job)
                .ok_or(CommandError::Changed)?;
            if job.job != commit.job || job.attempt != commit.attempt || *seq < job.watermark {
                return Err(CommandError::Changed);
            }
            // What becomes visible in a file without a name is lost with it.
            let ino = self.names.writers[id].ino;
            if self.names.orphans.contains(&ino) {
                return Err(CommandError::Stale(ino));
            }
            if !seen.insert(*id) {
                return Err(CommandError::Invalid(format!("writer {id} is named twice")));
            }
        }
        Ok(())
    }

    fn set_job_phase(
        &mut self,
        (id, attempt): (JobId, Option<Attempt>),
        phase: JobPhase,
        message: &str,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let job = self.jobs.get_mut(&id).ok_or(CommandError::NoJob)?;
        if has_ended(job.phase) && job.phase != phase {
            return Err(CommandError::NoJob);
        }
        if attempt.is_some_and(|attempt| attempt != job.attempt) {
            return Err(CommandError::Changed);
        }
        job.phase = phase;
        job.message = message.to_owned();
        job.changed = self.time;
        if has_ended(phase) {
            let open = self.open_writers(id);
            self.close_at_watermarks(&open, events);
        }
        events.push(Event::Job(id));
        Ok(Reply::Done)
    }

    fn change_job(
        &mut self,
        command: &JobCommand,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let JobCommand::Change {
            job: id,
            from,
            phase,
            spec,
            generation,
            positions,
            uid,
            gid,
            message,
        } = command
        else {
            unreachable!("called for a change only");
        };
        let job = self.jobs.get(id).ok_or(CommandError::NoJob)?;
        if job.phase == JobPhase::Done {
            return Err(CommandError::NoJob);
        }
        if job.attempt != *from || job.phase != *phase {
            return Err(CommandError::Changed);
        }
        let (name, ended) = (job.name.clone(), has_ended(job.phase));
        if let Some((epoch, positions)) = positions {
            if job.epoch != *epoch {
                return Err(CommandError::Changed);
            }
            if positions.len() + job.progress.len() > POSITIONS_BYTES_MAX {
                return Err(CommandError::Invalid(format!(
                    "positions are over {POSITIONS_BYTES_MAX} bytes"
                )));
            }
            let mut others = self.jobs.values().filter(|other| other.id != *id);
            if ended && others.any(|other| other.name == name && !has_ended(other.phase)) {
                return Err(CommandError::Exists);
            }
            let open = self.open_writers(*id);
            self.fence_writers(&open, events);
        }
        let changed = self.time;
        let job = self.jobs.get_mut(id).expect("found above");
        if let Some((_, positions)) = positions {
            job.attempt = Attempt(from.0 + 1);
            job.positions.clone_from(positions);
            (job.uid, job.gid) = (*uid, *gid);
            if ended {
                job.phase = JobPhase::Running;
            }
        }
        (job.spec, job.generation) = (*spec, *generation);
        job.message.clone_from(message);
        job.changed = changed;
        events.push(Event::Job(*id));
        Ok(Reply::Job(*id))
    }

    fn forget_job(&mut self, id: JobId, events: &mut Vec<Event>) -> Result<Reply, CommandError> {
        let job = self.jobs.get(&id).ok_or(CommandError::NoJob)?;
        if !has_ended(job.phase) {
            return Err(CommandError::Busy);
        }
        self.jobs.remove(&id);
        events.push(Event::Job(id));
        Ok(Reply::Done)
    }
}
