//! The coordinator's way through one attempt: deploy, barrier, commit, and again.

use crate::attempt::frame;
use crate::change;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::header::Headers;
use crate::message::{Deploy, Report, Request, Response};
use crate::moment::Moment;
use crate::planted::Planted;
use crate::position::{Positions, attempt_of, state_prefix};
use crate::rate::{RateOrder, Shares};
use crate::receipt::{self, First};
use crate::run::{End, Run, refused};
use crate::scale::Wish;
use futures_util::future::try_join_all;
use hydfs_types::{
    AgreementError, CommandError, JobCommand, JobCommit, JobEpoch, JobId, JobInfo, MemberId,
    PAYLOAD_BYTES_MAX, Reply, Seq, WriterId,
};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// Deadline of one call to a member; it answers well before.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Members that wait for others at a barrier are called this often.
const CONTACT_EVERY: Duration = Duration::from_millis(500);
/// How long a proposal without an answer is looked after.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(30);

impl Driver {
    /// Hands the attempt out and commits job epochs until the job is done.
    pub async fn epochs(&self, run: &mut Run) -> Result<(), End> {
        self.find_old_states(run).await;
        let mut headers = Headers::begin(&self.storage, &run.plan, &run.info).await?;
        self.deploy(run).await?;
        self.tell(&run.info, Moment::HandedOut);
        for barrier in 1.. {
            let members = run.members_running();
            let missing = watch::Sender::new(members.len());
            let asked = members
                .iter()
                .map(|&member| self.pass(&run.info, member, barrier, &missing));
            let reports: Vec<Report> = try_join_all(asked).await?.into_iter().flatten().collect();
            self.tell(&run.info, Moment::Passed { barrier });
            let old = run.positions.clone();
            let mut watermarks = run.merge(&reports);
            let headers = std::mem::take(&mut headers);
            watermarks.extend(headers.durable().await?);
            let order = self.rate_order(run.info.id);
            run.positions.rate = order.or(run.positions.rate);
            let done = run.positions.tasks.iter().flatten().all(|task| task.ended);
            if done || !watermarks.is_empty() || run.positions != old {
                run.positions.border = None;
                watermarks.extend(self.write_receipt(run, &old, &reports, &headers).await?);
                let now = match self.options.planted {
                    Some(Planted::PositionsKept) => old.encode(),
                    _ => run.positions.encode(),
                };
                self.commit(run, watermarks, now.to_vec(), done).await?;
                self.drop_old_states(run, old);
            }
            if done {
                return Ok(());
            }
            let rows = reports
                .iter()
                .map(|report| (report.id, report.counters.rows_in));
            if let Some(shares) = run.rates.barrier(&run.plan, &run.positions, rows) {
                self.tell_shares(run, shares).await?;
            }
            let wishes = run.loads.barrier(&run.plan, &run.positions, &reports);
            if !wishes.is_empty() && self.can_scale(run, &wishes).await {
                return Err(End::Scale(wishes));
            }
        }
        Ok(())
    }

    /// Whether the job can go on so: no attempt ends for a wish that cannot come true.
    async fn can_scale(&self, run: &mut Run, wishes: &[Wish]) -> bool {
        let job = self.job(run.info.id);
        let goes_on = |job: &JobInfo| job.attempt == run.info.attempt && !job.positions.is_empty();
        let Some(job) = job.filter(goes_on) else {
            return false;
        };
        let Err(error) = change::scaled(&job, wishes) else {
            return true;
        };
        tracing::warn!(job = %job.id, name = job.name, %error, "the job cannot be scaled");
        self.log(&job, &format!("cannot be scaled: {error}")).await;
        run.loads.give_up(wishes);
        false
    }

    fn rate_order(&self, job: JobId) -> Option<RateOrder> {
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.get(&job).copied()
    }

    async fn tell_shares(&self, run: &Run, shares: Shares) -> Result<(), End> {
        let (job, attempt, coordinator) = (run.info.id, run.info.attempt, self.options.life);
        let request = Request::Shares {
            job,
            attempt,
            coordinator,
            shares,
        };
        let to = |member| {
            let request = request.clone();
            async move {
                match self.insist(member, request).await? {
                    Response::Done => Ok(()),
                    other => Err(refused(member, other)),
                }
            }
        };
        try_join_all(run.members_running().into_iter().map(to))
            .await
            .map(drop)
    }

    async fn deploy(&self, run: &Run) -> Result<(), End> {
        let info = JobInfo {
            positions: Vec::new(),
            progress: Vec::new(),
            ..run.info.clone()
        };
        let hello = |member| async move {
            match self.insist(member, Request::Hello).await? {
                Response::Life(life) => Ok((member, life)),
                other => Err(refused(member, other)),
            }
        };
        let lives = try_join_all(run.members_running().into_iter().map(hello))
            .await?
            .into_iter()
            .collect();
        let deploy = Deploy {
            info,
            positions: run.positions.clone(),
            places: run.places.clone(),
            lives,
            coordinator: self.options.life,
        };
        let request = Request::Deploy(Box::new(deploy));
        let to = |member| {
            let request = request.clone();
            async move {
                match self.insist(member, request).await? {
                    Response::Done => Ok(()),
                    other => Err(refused(member, other)),
                }
            }
        };
        try_join_all(run.members_running().into_iter().map(to))
            .await
            .map(drop)
    }

    /// Waits until all tasks on `member` have passed a barrier, and then until those of the other `missing`
    /// members have: it is told meanwhile that its coordinator lives, and we learn if it fails.
    async fn pass(
        &self,
        info: &JobInfo,
        member: MemberId,
        barrier: u64,
        missing: &watch::Sender<usize>,
    ) -> Result<Vec<Report>, End> {
        let mut others = missing.subscribe();
        let mut counted = false;
        let (job, attempt, coordinator) = (info.id, info.attempt, self.options.life);
        let request = Request::Barrier {
            job,
            attempt,
            barrier,
            coordinator,
        };
        loop {
            match self.insist(member, request.clone()).await? {
                Response::Passed(reports) => {
                    if !std::mem::replace(&mut counted, true) {
                        missing.send_modify(|missing| *missing -= 1);
                    }
                    if time::timeout(CONTACT_EVERY, others.wait_for(|missing| *missing == 0))
                        .await
                        .is_ok()
                    {
                        return Ok(reports);
                    }
                }
                Response::Waiting => {}
                other => return Err(refused(member, other)),
            }
        }
    }

    /// Calls until there is an answer, or the member has been silent for too long.
    async fn insist(&self, member: MemberId, request: Request) -> Result<Response, End> {
        if member == self.cluster.me() {
            return Ok(self.worker.handle(request, bytes::Bytes::new()).await);
        }
        let frame = frame(&request);
        let begin = Instant::now();
        loop {
            let why = match self
                .cluster
                .call(member, frame.clone(), CALL_DEADLINE)
                .await
            {
                Ok(answer) => match answer.message() {
                    Ok(response) => return Ok(response),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if begin.elapsed() > self.options.member_timeout {
                let why = format!("member {member} does not answer: {why}");
                return Err(End::Again {
                    why,
                    blame: Some(member),
                });
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes the line of the job epoch that is to be committed; returns what becomes visible with it.
    async fn write_receipt(
        &self,
        run: &mut Run,
        old: &Positions,
        reports: &[Report],
        headers: &Headers,
    ) -> Result<Option<(WriterId, Seq)>, End> {
        let Some(writer) = &mut run.receipt else {
            return Ok(None);
        };
        let names = self.cluster.members().into_iter().collect();
        let first = match &old.border {
            // Nothing of this plan is visible yet: its outputs are as it found them.
            Some(border) => Some(First {
                positions: old,
                border,
                lengths: receipt::lengths(&*self.storage, &run.plan).await?,
            }),
            None => None,
        };
        let mut line = receipt::line(
            &run.info,
            &run.plan,
            first,
            headers.written(),
            reports,
            &names,
            &run.places,
        )?;
        while !line.is_empty() {
            let record = line.split_to(line.len().min(PAYLOAD_BYTES_MAX));
            writer.append(record).await?;
        }
        match writer.mark() {
            Some(mark) => Ok(Some(mark.durable().await?)),
            None => Ok(None),
        }
    }

    async fn commit(
        &self,
        run: &mut Run,
        watermarks: Vec<(WriterId, Seq)>,
        positions: Vec<u8>,
        done: bool,
    ) -> Result<(), End> {
        let (job, attempt) = (run.info.id, run.info.attempt);
        let epoch = JobEpoch(run.info.epoch.0 + 1);
        let commit = JobCommand::Commit(JobCommit {
            job,
            attempt,
            epoch,
            watermarks,
            positions,
            progress: hydfs_types::encode(&run.progress).to_vec(),
            done,
        });
        self.tell(&run.info, Moment::Proposed(epoch));
        self.agree(commit, || {
            self.job(job)
                .is_some_and(|job| job.attempt == attempt && job.epoch == epoch)
        })
        .await?;
        self.tell(&run.info, Moment::Committed(epoch));
        run.info.epoch = epoch;
        Ok(())
    }

    /// Proposes until it is answered. A refusal of what an unanswered try already did is success.
    pub async fn agree(
        &self,
        command: JobCommand,
        is_done: impl Fn() -> bool,
    ) -> Result<Reply, End> {
        let begin = Instant::now();
        loop {
            match self.cluster.propose(command.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(AgreementError::Refused(_)) if is_done() => return Ok(Reply::Done),
                Err(AgreementError::Refused(CommandError::Stale(ino))) => {
                    return Err(End::Removed(ino));
                }
                Err(AgreementError::Refused(CommandError::Invalid(why))) => {
                    let what =
                        format!("what the job would have to remember cannot be agreed on: {why}");
                    return Err(End::Final(format!(
                        "{what}; read fewer files at once, or use fewer tasks"
                    )));
                }
                Err(AgreementError::Refused(_)) => return Err(End::Over),
                Err(error) if begin.elapsed() > PROPOSE_PATIENCE => {
                    return Err(Error::from(error).into());
                }
                Err(error) => tracing::debug!(%error, "a proposal is repeated"),
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Removes files of state that nothing needs since a commit; while a savepoint copies them, with the next one.
    fn drop_old_states(&self, run: &mut Run, old: Positions) {
        // Files of a savepoint are not the job's.
        let own = state_prefix(&run.info);
        let now = run.positions.states(&run.info);
        let gone = old.states(&run.info).into_iter();
        run.needless
            .extend(gone.filter(|path| path.starts_with(&own) && !now.contains(path)));
        if run.needless.is_empty() || self.copying.has(run.info.id) {
            return;
        }
        let (storage, gone) = (self.storage.clone(), std::mem::take(&mut run.needless));
        tokio::spawn(async move {
            for path in gone {
                drop(storage.remove(&path, None).await);
            }
        });
    }

    /// Finds the files of state that earlier attempts have left and nothing needs: of attempts that never committed, or that ended
    /// while a savepoint was made. What cannot be listed now is found by a later attempt.
    async fn find_old_states(&self, run: &mut Run) {
        let (prefix, now) = (state_prefix(&run.info), run.positions.states(&run.info));
        let Some((dir, name)) = prefix.rsplit_once('/') else {
            return;
        };
        let listed = time::timeout(CALL_DEADLINE, self.storage.list(dir)).await;
        for entry in listed.unwrap_or(Ok(Vec::new())).unwrap_or_default() {
            let path = format!("{dir}/{}", entry.name);
            let attempt = attempt_of(&entry.name);
            let is_old = attempt.is_some_and(|attempt| attempt < run.info.attempt);
            if entry.name.starts_with(name) && is_old && !now.contains(&path) {
                run.needless.insert(path);
            }
        }
    }
}
