//! Runs one job from the leader: hands out attempts, injects barriers, commits job epochs, and starts again from
//! the last committed one after any failure. It keeps nothing that the job table does not hold: another leader
//! goes on from there (fault R1).

use crate::attempt::frame;
use crate::error::{Error, Result};
use crate::message::{Deploy, Report, Request, Response};
use crate::options::Options;
use crate::plan::{Input, Plan};
use crate::position::{Positions, Progress, state_prefix};
use crate::prepare::{SpecFile, prepare};
use crate::seams::{Cluster, Owner, Storage};
use crate::spec::Spec;
use crate::worker::Worker;
use futures_util::future::try_join_all;
use hydfs_types::{
    AgreementError, Attempt, JobCommand, JobCommit, JobEpoch, JobId, JobInfo, JobPhase, MemberId,
    Reply, Seq, WriterId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// Deadline of one call to a member; it answers well before.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Members that wait for others at a barrier are called this often.
const CONTACT_EVERY: Duration = Duration::from_millis(500);
/// How long a proposal without an answer is looked after.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(30);

/// What a driver works with.
#[derive(Clone)]
pub struct Driver {
    pub storage: Arc<dyn Storage>,
    pub cluster: Arc<dyn Cluster>,
    pub options: Arc<Options>,
    pub worker: Arc<Worker>,
}

/// How an attempt ended.
enum End {
    Done,
    /// The job table says so: another attempt, or the job's end.
    Over,
    Final(String),
    Again {
        why: String,
        blame: Option<MemberId>,
    },
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Over => Self::Over,
            error if error.is_final() => Self::Final(error.to_string()),
            error => Self::Again {
                why: error.to_string(),
                blame: None,
            },
        }
    }
}

struct Run {
    info: JobInfo,
    plan: Plan,
    positions: Positions,
    progress: Progress,
    places: Vec<Vec<MemberId>>,
    /// What has been committed of each writer.
    watermarks: BTreeMap<WriterId, Seq>,
}

impl Driver {
    /// The job as the table has it.
    fn job(&self, id: JobId) -> Option<JobInfo> {
        self.cluster.job(id)
    }

    /// Drives a job until it ends or this member leads no more (the caller drops the future). `prepared`: the
    /// job was registered just now, its first attempt has not been handed out.
    pub async fn drive(self, id: JobId, mut prepared: Option<Positions>) {
        let mut barren = 0;
        let mut avoid = BTreeSet::new();
        let mut why = "another leader took over".to_owned();
        while let Some(mut info) = self.job(id).filter(|job| job.phase == JobPhase::Running) {
            let first = prepared.is_some();
            if !first {
                let restart = JobCommand::Restart {
                    job: id,
                    from: info.attempt,
                    why: why.clone(),
                };
                match self.cluster.propose(restart).await {
                    Ok(_) => {}
                    // Only an attempt that this driver raised itself is its own.
                    Err(AgreementError::Refused(_))
                        if self.job(id).is_some_and(|job| job.attempt != info.attempt) =>
                    {
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(job = %id, %error, "cannot restart the job yet");
                        time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                }
                let Some(again) = self.job(id) else { return };
                if again.attempt.0 != info.attempt.0 + 1 {
                    continue;
                }
                info = again;
            }
            let epoch = info.epoch;
            let end = match self.run(&info, prepared.take(), &avoid).await {
                Ok(()) => End::Done,
                Err(end) => end,
            };
            let same =
                |job: &JobInfo| job.attempt == info.attempt && job.phase == JobPhase::Running;
            let end = match end {
                End::Over if self.job(id).is_some_and(|job| same(&job)) => End::Again {
                    why: "the job epoch was refused".into(),
                    blame: None,
                },
                other => other,
            };
            match end {
                End::Done => return self.clean_up(&info).await,
                End::Over => why = "another attempt was begun".into(),
                End::Final(message) => return self.fail(&info, message).await,
                End::Again { why: reason, blame } => {
                    let moved = self.job(id).is_some_and(|job| job.epoch > epoch);
                    barren = if moved { 0 } else { barren + 1 };
                    tracing::warn!(job = %id, attempt = %info.attempt, why = reason, "job is tried again");
                    self.log(
                        &info,
                        &format!("attempt {} ended: {reason}", info.attempt.0),
                    )
                    .await;
                    if barren >= self.options.barren_attempts_max {
                        let message = format!(
                            "{barren} attempts in a row came to nothing; the last: {reason}"
                        );
                        return self.fail(&info, message).await;
                    }
                    avoid = blame.into_iter().collect();
                    why = reason;
                    time::sleep(Duration::from_millis(20 << barren.min(6))).await;
                }
            }
        }
    }

    async fn run(
        &self,
        info: &JobInfo,
        prepared: Option<Positions>,
        avoid: &BTreeSet<MemberId>,
    ) -> Result<(), End> {
        let mut run = self.load(info, prepared, avoid).await?;
        let members: BTreeSet<MemberId> = run.places.iter().flatten().copied().collect();
        tokio::select! {
            biased;
            end = self.overseen(info, &members) => Err(end),
            done = self.epochs(&mut run) => done,
        }
    }

    /// Returns when the job table or the set of members ends the attempt.
    async fn overseen(&self, info: &JobInfo, members: &BTreeSet<MemberId>) -> End {
        let mut changes = self.cluster.changes();
        loop {
            let now = self.job(info.id);
            if !now.is_some_and(|now| now.attempt == info.attempt && now.phase == JobPhase::Running)
            {
                // The commit that ends the job ends its attempt, too: let the driver see its own answer first.
                time::sleep(Duration::from_millis(500)).await;
                return End::Over;
            }
            let alive: BTreeSet<MemberId> = self
                .cluster
                .members()
                .into_iter()
                .map(|(member, _)| member)
                .collect();
            if let Some(&gone) = members.difference(&alive).next() {
                return End::Again {
                    why: format!("member {gone} is gone"),
                    blame: None,
                };
            }
            drop(time::timeout(Duration::from_secs(1), changes.changed()).await);
        }
    }

    async fn load(
        &self,
        info: &JobInfo,
        prepared: Option<Positions>,
        avoid: &BTreeSet<MemberId>,
    ) -> Result<Run, End> {
        let broken =
            |what: String| End::Final(format!("the job's positions cannot be read: {what}"));
        let positions = match prepared {
            Some(positions) => positions,
            None if info.positions.is_empty() => self.prepare_again(info).await?,
            None => {
                hydfs_types::decode(&info.positions).map_err(|error| broken(error.to_string()))?
            }
        };
        let progress = match info.progress.is_empty() {
            true => Progress::default(),
            false => {
                hydfs_types::decode(&info.progress).map_err(|error| broken(error.to_string()))?
            }
        };
        let spec =
            Spec::parse(&positions.spec, positions.json).map_err(|fault| broken(fault.what))?;
        let plan = Plan::resolve(&spec, &info.name, &positions.sources)
            .map_err(|fault| broken(fault.what))?;
        let places = places(&plan, &self.cluster.members(), avoid, info.id);
        if places.iter().any(Vec::is_empty) {
            return Err(End::Again {
                why: "no member is alive".into(),
                blame: None,
            });
        }
        Ok(Run {
            info: info.clone(),
            plan,
            positions,
            progress,
            places,
            watermarks: BTreeMap::new(),
        })
    }

    /// Nothing was committed yet: the spec is read once more, if it is still the one that was dropped.
    async fn prepare_again(&self, info: &JobInfo) -> Result<Positions, End> {
        for ending in ["toml", "json"] {
            let path = format!("/.jobs/{}.{ending}", info.name);
            let source = match self.storage.pin(&path, Owner::ROOT).await {
                Ok(source) => source,
                Err(error) if error.is_temporary() => return Err(Error::from(error).into()),
                Err(_) => continue,
            };
            if source.ino == info.spec && source.generation == info.generation {
                let owner = Owner {
                    uid: info.uid,
                    gid: info.gid,
                };
                let file = SpecFile {
                    path,
                    name: info.name.clone(),
                    owner,
                    source,
                };
                return Ok(prepare(&*self.storage, &self.options, &file).await?.0);
            }
        }
        Err(End::Final(
            "the spec was changed or removed before the first job epoch; save it again".into(),
        ))
    }

    /// Hands the attempt out and commits job epochs until the job is done.
    async fn epochs(&self, run: &mut Run) -> Result<(), End> {
        self.deploy(run).await?;
        for barrier in 1.. {
            let members = run.members_running();
            let missing = watch::Sender::new(members.len());
            let asked = members
                .iter()
                .map(|&member| self.pass(&run.info, member, barrier, &missing));
            let reports: Vec<Report> = try_join_all(asked).await?.into_iter().flatten().collect();
            let old = run.positions.clone();
            let watermarks = run.merge(&reports);
            let done = run.positions.tasks.iter().flatten().all(|task| task.ended);
            if done || !watermarks.is_empty() || run.positions != old {
                self.commit(run, watermarks, done).await?;
                self.drop_old_states(run, &old);
            }
            if done {
                return Ok(());
            }
        }
        Ok(())
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

    async fn commit(
        &self,
        run: &mut Run,
        watermarks: Vec<(WriterId, Seq)>,
        done: bool,
    ) -> Result<(), End> {
        let (job, attempt) = (run.info.id, run.info.attempt);
        let epoch = JobEpoch(run.info.epoch.0 + 1);
        let commit = JobCommand::Commit(JobCommit {
            job,
            attempt,
            epoch,
            watermarks,
            positions: hydfs_types::encode(&run.positions).to_vec(),
            progress: hydfs_types::encode(&run.progress).to_vec(),
            done,
        });
        self.agree(commit, || {
            self.job(job)
                .is_some_and(|job| job.attempt == attempt && job.epoch == epoch)
        })
        .await?;
        run.info.epoch = epoch;
        Ok(())
    }

    /// Proposes until it is answered. A refusal of what an unanswered try already did is success.
    async fn agree(&self, command: JobCommand, is_done: impl Fn() -> bool) -> Result<Reply, End> {
        let begin = Instant::now();
        loop {
            match self.cluster.propose(command.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(AgreementError::Refused(_)) if is_done() => return Ok(Reply::Done),
                Err(AgreementError::Refused(_)) => return Err(End::Over),
                Err(error) if begin.elapsed() > PROPOSE_PATIENCE => {
                    return Err(Error::from(error).into());
                }
                Err(error) => tracing::debug!(%error, "a proposal is repeated"),
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn drop_old_states(&self, run: &Run, old: &Positions) {
        let paths = |positions: &Positions| -> BTreeSet<String> {
            let files = positions
                .tasks
                .iter()
                .enumerate()
                .flat_map(|(node, tasks)| {
                    let file = move |(task, position): (usize, &crate::position::TaskPosition)| {
                        Some(position.state?.path(&run.info, node as u16, task as u32))
                    };
                    tasks.iter().enumerate().filter_map(file)
                });
            files.collect()
        };
        let gone: Vec<String> = paths(old)
            .difference(&paths(&run.positions))
            .cloned()
            .collect();
        if !gone.is_empty() {
            let storage = self.storage.clone();
            tokio::spawn(async move {
                for path in gone {
                    // What stays is removed at the job's end.
                    drop(storage.remove(&path, None).await);
                }
            });
        }
    }

    /// Registers the failure, with the words for its user.
    async fn fail(&self, info: &JobInfo, message: String) {
        tracing::error!(job = %info.id, name = info.name, message, "job failed");
        self.log(info, &format!("failed: {message}")).await;
        let id = info.id;
        let phase = JobCommand::SetPhase {
            job: id,
            phase: JobPhase::Failed,
            message,
        };
        let ended = || {
            self.job(id)
                .is_none_or(|job| job.phase != JobPhase::Running)
        };
        match self.agree(phase, ended).await {
            Ok(_) => self.clean_up(info).await,
            Err(_) => {
                tracing::warn!(job = %id, "cannot register the failure; the next leader will")
            }
        }
    }

    async fn log(&self, info: &JobInfo, line: &str) {
        let path = format!("/.jobs/{}/log", info.name);
        let owner = Owner {
            uid: info.uid,
            gid: info.gid,
        };
        if let Err(error) = self
            .storage
            .append_text(&path, owner, format!("{line}\n").into())
            .await
        {
            tracing::warn!(path, %error, line, "cannot write to the job's log");
        }
    }

    /// Removes the state of a job that has ended.
    async fn clean_up(&self, info: &JobInfo) {
        let prefix = state_prefix(info);
        let Some((dir, name)) = prefix.rsplit_once('/') else {
            return;
        };
        for entry in self.storage.list(dir).await.unwrap_or_default() {
            if entry.name.starts_with(name) {
                // A leftover costs space and nothing else.
                drop(
                    self.storage
                        .remove(&format!("{dir}/{}", entry.name), Some(entry.ino))
                        .await,
                );
            }
        }
    }
}

impl Run {
    /// Members with tasks that have not ended.
    fn members_running(&self) -> BTreeSet<MemberId> {
        let places = self.places.iter().flatten();
        let tasks = self.positions.tasks.iter().flatten();
        places
            .zip(tasks)
            .filter(|(_, task)| !task.ended)
            .map(|(&member, _)| member)
            .collect()
    }

    /// Takes the reports of a barrier in; returns the watermarks that moved.
    fn merge(&mut self, reports: &[Report]) -> Vec<(WriterId, Seq)> {
        let mut moved = Vec::new();
        for report in reports {
            let slot = self
                .positions
                .tasks
                .get_mut(report.id.node as usize)
                .and_then(|all| all.get_mut(report.id.task as usize));
            if let Some(slot) = slot {
                *slot = report.position;
            }
            for &(writer, seq) in &report.watermarks {
                if self.watermarks.insert(writer, seq) != Some(seq) {
                    moved.push((writer, seq));
                }
            }
            self.progress.rows_in += report.counters.rows_in;
            self.progress.bytes_in += report.counters.bytes_in;
            self.progress.rows_out += report.counters.rows_out;
            self.progress.retries += report.counters.retries;
        }
        let read: BTreeSet<usize> = self
            .plan
            .steps
            .iter()
            .filter_map(|step| match step.input {
                Input::Source(source) => Some(source),
                Input::Node(_) => None,
            })
            .collect();
        let sources = read.iter().filter_map(|&at| self.positions.sources.get(at));
        self.progress.bytes_total = sources
            .map(|pinned| pinned.source.len - pinned.data_at)
            .sum();
        self.progress.tasks = self.positions.tasks.iter().flatten().count() as u32;
        self.progress.tasks_ended = self
            .positions
            .tasks
            .iter()
            .flatten()
            .filter(|task| task.ended)
            .count() as u32;
        moved
    }
}

/// Tasks in turn over the members; each job begins at another one. Tasks of the same number share a member.
fn places(
    plan: &Plan,
    alive: &[(MemberId, String)],
    avoid: &BTreeSet<MemberId>,
    job: JobId,
) -> Vec<Vec<MemberId>> {
    let mut members: Vec<MemberId> = alive
        .iter()
        .map(|(member, _)| *member)
        .filter(|m| !avoid.contains(m))
        .collect();
    if members.is_empty() {
        members = alive.iter().map(|(member, _)| *member).collect();
    }
    let place = |task: u32| {
        members
            .get((task as usize + job.0 as usize) % members.len().max(1))
            .copied()
    };
    plan.steps
        .iter()
        .map(|step| (0..step.tasks).filter_map(place).collect())
        .collect()
}

fn refused(member: MemberId, response: Response) -> End {
    match response {
        Response::Failed {
            is_final: true,
            why,
        } => End::Final(why),
        Response::Failed {
            is_final: false,
            why,
        } => End::Again {
            why: format!("on {member}: {why}"),
            blame: None,
        },
        Response::Unknown => End::Again {
            why: format!("member {member} lost the attempt"),
            blame: None,
        },
        Response::Over => End::Over,
        other => End::Again {
            why: format!("{member} answered {other:?}"),
            blame: Some(member),
        },
    }
}

/// The attempt number of a job that was registered just now.
pub const FIRST_ATTEMPT: Attempt = Attempt(1);
