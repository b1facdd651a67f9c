//! `Cluster` of one life of a member, and the job commands of the agreed state.

use super::{Inner, Member};
use hydfs_types::{
    AgreementError, Attempt, BoxFuture, CommandError, Frame, JobCommand, JobEpoch, JobId, JobInfo,
    JobPhase, LogIndex, MemberId, Reply, Time,
};
use rainstorm::{CallError, Cluster};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

impl Cluster for Member {
    fn me(&self) -> MemberId {
        self.id
    }

    fn members(&self) -> Vec<(MemberId, String)> {
        let inner = self.world.lock();
        inner
            .members
            .iter()
            .filter(|(_, life)| life.listed)
            .map(|(id, _)| (*id, format!("vm{}", id.0)))
            .collect()
    }

    fn call(
        &self,
        to: MemberId,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, CallError>> {
        let (world, from) = (self.world.clone(), self.id);
        Box::pin(async move {
            world.counts.calls.fetch_add(1, Relaxed);
            world
                .counts
                .wire_bytes
                .fetch_add(frame.body.len() as u64, Relaxed);
            world.tape(to, &frame);
            let lost = |why: &str| {
                Err(CallError {
                    to,
                    why: why.into(),
                })
            };
            if world.happens(&world.knobs.lost_calls) {
                return lost("lost on the way");
            }
            let Some(rain) = world.rain(to) else {
                return lost("it is down");
            };
            let answered = timeout(deadline, tokio::spawn(rain.serve(from, frame))).await;
            if world.happens(&world.knobs.lost_calls) || world.rain(to).is_none() {
                return lost("its answer is lost");
            }
            match answered {
                Ok(Ok(frame)) => Ok(frame),
                _ => lost("no answer in time"),
            }
        })
    }

    fn leader(&self) -> watch::Receiver<Option<MemberId>> {
        self.world.leader.subscribe()
    }

    fn jobs(&self) -> Vec<JobInfo> {
        self.world.lock().jobs.values().cloned().collect()
    }

    fn changes(&self) -> watch::Receiver<LogIndex> {
        self.world.changes.subscribe()
    }

    fn propose(&self, command: JobCommand) -> BoxFuture<'_, Result<Reply, AgreementError>> {
        Box::pin(async move {
            self.alive().await;
            let no_quorum = || AgreementError::NoQuorum {
                millis: 300,
                why: "planted".into(),
            };
            let mut leader = self.world.leader.subscribe();
            if timeout(Duration::from_millis(300), leader.wait_for(Option::is_some))
                .await
                .is_err()
            {
                return Err(no_quorum());
            }
            if self.world.happens(&self.world.knobs.lost_proposals) {
                return Err(no_quorum());
            }
            self.alive().await;
            if matches!(command, JobCommand::Restart { .. }) {
                let delay = self.world.knobs.restart_delay_ms.load(Relaxed);
                sleep(Duration::from_millis(delay)).await;
            }
            if let JobCommand::SetPhase { phase, .. } = command
                && phase == JobPhase::Failed
            {
                let delay = self.world.knobs.failure_delay_ms.load(Relaxed);
                sleep(Duration::from_millis(delay)).await;
            }
            let positions = match &command {
                JobCommand::Commit(commit) => &commit.positions[..],
                JobCommand::Change {
                    positions: Some((_, positions)),
                    ..
                } => positions,
                _ => &[],
            };
            let most = self.world.knobs.command_bytes_max.load(Relaxed);
            if most > 0 && positions.len() as u64 > most {
                let why = format!("a command of more than {most} bytes");
                return Err(AgreementError::Refused(CommandError::Invalid(why)));
            }
            let is_change = matches!(command, JobCommand::Change { .. });
            if is_change && self.world.happens(&self.world.knobs.lost_changes) {
                return Err(no_quorum());
            }
            if matches!(command, JobCommand::Commit(_)) && !self.world.commit_comes_through() {
                sleep(Duration::from_millis(5)).await;
                return Err(no_quorum());
            }
            let reply = apply(&mut self.world.lock(), command);
            self.world.bump();
            if self.world.happens(&self.world.knobs.lost_proposals) {
                return Err(no_quorum());
            }
            sleep(Duration::from_millis(1)).await;
            self.alive().await;
            Ok(reply?)
        })
    }
}

/// The job commands as the state machine has them.
pub fn apply(inner: &mut Inner, command: JobCommand) -> Result<Reply, CommandError> {
    match command {
        JobCommand::Start {
            name,
            spec,
            generation,
            uid,
            gid,
            phase,
            message,
        } => {
            if let Some(job) = inner
                .jobs
                .values()
                .find(|job| job.spec == spec && job.generation == generation)
            {
                return Ok(Reply::Job(job.id));
            }
            if inner.jobs_max.is_some_and(|most| inner.jobs.len() >= most) {
                return Err(CommandError::Invalid("there are too many jobs".into()));
            }
            inner.next_job += 1;
            let id = JobId(inner.next_job);
            let (attempt, epoch) = (Attempt(1), JobEpoch(0));
            let (started, changed) = (Time::default(), Time::default());
            let (positions, progress) = (Vec::new(), Vec::new());
            inner.jobs.insert(
                id,
                JobInfo {
                    id,
                    name,
                    spec,
                    generation,
                    uid,
                    gid,
                    phase,
                    message,
                    attempt,
                    epoch,
                    positions,
                    progress,
                    started,
                    changed,
                },
            );
            Ok(Reply::Job(id))
        }
        JobCommand::Restart { job, from, why } => {
            let known = inner.jobs.get_mut(&job).ok_or(CommandError::NoJob)?;
            if matches!(
                known.phase,
                JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled
            ) {
                return Err(CommandError::NoJob);
            }
            if known.attempt != from {
                return Err(CommandError::Changed);
            }
            known.attempt.0 += 1;
            known.message = why;
            end_writers(inner, job);
            Ok(Reply::Done)
        }
        JobCommand::Commit(commit) => {
            let known = inner.jobs.get_mut(&commit.job).ok_or(CommandError::NoJob)?;
            if known.attempt != commit.attempt
                || known.epoch.0 + 1 != commit.epoch.0
                || known.phase != JobPhase::Running
            {
                return Err(CommandError::Changed);
            }
            let mut inos = commit
                .watermarks
                .iter()
                .map(|(id, _)| inner.writers[id].ino);
            if let Some(gone) = inos.find(|ino| !inner.is_named(*ino)) {
                return Err(CommandError::Stale(gone));
            }
            let known = inner.jobs.get_mut(&commit.job).unwrap();
            known.epoch = commit.epoch;
            known.positions = commit.positions;
            known.progress = commit.progress;
            if commit.done {
                known.phase = JobPhase::Done;
            }
            for (id, seq) in commit.watermarks {
                let writer = inner.writers.get_mut(&id).unwrap();
                if writer.job != Some((commit.job, commit.attempt))
                    || writer.durable < seq.0
                    || seq.0 < writer.watermark
                {
                    inner
                        .violations
                        .push(format!("commit of {id} {seq}: durable {}", writer.durable));
                }
                writer.watermark = seq.0;
            }
            if commit.done {
                end_writers(inner, commit.job);
            }
            Ok(Reply::Done)
        }
        JobCommand::SetPhase {
            job,
            attempt,
            phase,
            message,
        } => {
            let known = inner.jobs.get_mut(&job).ok_or(CommandError::NoJob)?;
            if attempt.is_some_and(|attempt| attempt != known.attempt) {
                return Err(CommandError::Changed);
            }
            if matches!(
                known.phase,
                JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled
            ) {
                return Err(CommandError::NoJob);
            }
            known.phase = phase;
            known.message = message;
            if !matches!(phase, JobPhase::Running | JobPhase::Paused) {
                end_writers(inner, job);
            }
            Ok(Reply::Done)
        }
        JobCommand::Change {
            job,
            from,
            phase,
            spec,
            generation,
            positions,
            uid,
            gid,
            message,
        } => {
            let known = inner.jobs.get_mut(&job).ok_or(CommandError::NoJob)?;
            if known.attempt != from || known.phase != phase || phase == JobPhase::Done {
                return Err(CommandError::Changed);
            }
            if positions
                .as_ref()
                .is_some_and(|(epoch, _)| *epoch != known.epoch)
            {
                return Err(CommandError::Changed);
            }
            (known.spec, known.generation, known.message) = (spec, generation, message);
            let Some((_, positions)) = positions else {
                return Ok(Reply::Job(job));
            };
            known.attempt.0 += 1;
            known.positions = positions;
            (known.uid, known.gid) = (uid, gid);
            if known.phase != JobPhase::Paused {
                known.phase = JobPhase::Running;
            }
            end_writers(inner, job);
            Ok(Reply::Job(job))
        }
        JobCommand::Forget { job } => inner
            .jobs
            .remove(&job)
            .map(|_| Reply::Done)
            .ok_or(CommandError::NoJob),
    }
}

fn end_writers(inner: &mut Inner, job: JobId) {
    let mine = inner
        .writers
        .values_mut()
        .filter(|writer| writer.job.is_some_and(|(of, _)| of == job));
    mine.for_each(|writer| writer.ended = true);
}
