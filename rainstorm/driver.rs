//! Runs one job from the leader: hands out attempts, injects barriers, commits job epochs, and starts again from
//! the last committed one after any failure. It keeps nothing that the job table does not hold: another leader
//! goes on from there (fault R1).

use crate::beat::Beat;
use crate::change;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::hold::Holds;
use crate::load::Loads;
use crate::moment::{Moment, Seen};
use crate::options::Options;
use crate::plan::Plan;
use crate::position::{Positions, Progress, attempt_of, state_prefix};
use crate::prepare::{SpecFile, prepare};
use crate::rate::{RateOrder, Rates};
use crate::receipt::receipt_path;
use crate::run::{End, Run, places};
use crate::seams::{Cluster, Owner, Storage, StorageError};
use crate::sink::{Target, Writer};
use crate::tally::Tallying;
use crate::upgrade::ANEW;
use crate::worker::Worker;
use hydfs_types::{AgreementError, Attempt, Ino, JobCommand, JobId, JobInfo, JobPhase, MemberId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time;

/// The inode and generation of a file, and the order in it.
type Told = (Ino, u64, String);

/// What a driver works with.
#[derive(Clone)]
pub struct Driver {
    pub storage: Arc<dyn Storage>,
    pub cluster: Arc<dyn Cluster>,
    pub options: Arc<Options>,
    pub worker: Arc<Worker>,
    /// Rates that `control` asked for and no job epoch has yet.
    pub rates: Arc<Mutex<BTreeMap<JobId, RateOrder>>>,
    /// Orders that wait, as the logs of jobs of these names say.
    pub told: Arc<Mutex<BTreeMap<String, Told>>>,
    /// Jobs that are being changed: no attempt of them is begun.
    pub changing: Arc<Holds>,
    /// Jobs whose state is being copied: no file of it is removed.
    pub copying: Arc<Holds>,
    /// Held from a look at what other jobs read and write to the start or the change of a job.
    pub ends: Arc<tokio::sync::Mutex<()>>,
    /// Of what is done with it.
    pub beat: Beat,
}

impl Driver {
    /// The job as the table has it.
    pub fn job(&self, id: JobId) -> Option<JobInfo> {
        self.cluster.job(id)
    }

    /// Drives a job until it ends or this member leads no more (the caller drops the future). `prepared`: the
    /// job was registered just now, its first attempt has not been handed out.
    pub async fn drive(self, id: JobId, mut prepared: Option<Positions>) {
        let mut barren = 0;
        let mut avoid = BTreeSet::new();
        // What broke off the attempt before is said by whoever drove it, or was nothing: an order, or the end of a leader.
        let mut why = String::new();
        loop {
            self.changing.free(id).await;
            let Some(mut info) = self.job(id).filter(|job| job.phase == JobPhase::Running) else {
                break;
            };
            // One that was changed meanwhile begins elsewhere.
            prepared = prepared.filter(|_| info.attempt == FIRST_ATTEMPT);
            if prepared.is_none() {
                let restart = JobCommand::Restart {
                    job: id,
                    from: info.attempt,
                    why: change::with_refusal(&info.message, &why),
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
            let end = match self.begin(&mut info, prepared.take()).await {
                Ok(positions) => match self.run(&info, positions, &avoid).await {
                    Ok(()) => End::Done,
                    Err(end) => end,
                },
                Err(end) => end,
            };
            let same =
                |job: &JobInfo| job.attempt == info.attempt && job.phase == JobPhase::Running;
            let end = match end {
                End::Over if self.job(id).is_some_and(|job| same(&job)) => End::Again {
                    why: "the job epoch was refused".into(),
                    blame: None,
                },
                End::Removed(ino) => {
                    // Whoever removes the whole folder has not come to its end.
                    time::sleep(REMOVAL_PATIENCE).await;
                    End::Again {
                        why: format!(
                            "a file that the job writes ({ino}) was removed: it is made anew"
                        ),
                        blame: None,
                    }
                }
                // What a pause, a change or an end breaks off has not failed.
                End::Again { .. } if self.job(id).is_some_and(|job| !same(&job)) => End::Over,
                other => other,
            };
            if matches!(end, End::Again { .. } | End::Final(_)) && self.is_removed(&info).await {
                self.cancel_removed(&info).await;
                continue;
            }
            match end {
                End::Done => return self.clean_up(id).await,
                End::Over | End::Removed(_) => why.clear(),
                End::Final(message) => return self.fail(&info, message).await,
                End::Scale(wishes) => {
                    why = "it was scaled".into();
                    if let Err(error) = change::scale(&self, id, &wishes).await {
                        tracing::warn!(job = %id, %error, "cannot scale the job yet");
                    }
                }
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
        // What a task wrote while it was being cancelled goes, too.
        self.clean_up(id).await;
    }

    /// The positions that the attempt begins at.
    async fn begin(
        &self,
        info: &mut JobInfo,
        prepared: Option<Positions>,
    ) -> Result<Positions, End> {
        let positions = match prepared {
            Some(positions) => positions,
            None if info.positions.is_empty() => self.prepare_again(info).await?,
            None => {
                return Positions::decode(&info.positions)
                    .map_err(|error| broken(error.to_string()));
            }
        };
        let spec = positions.parse().map_err(|fault| broken(fault.what))?;
        if spec
            .sources
            .iter()
            .any(|source| source.extent != Extent::Whole)
        {
            self.agree_on_ends(info, &positions).await?;
        }
        Ok(positions)
    }

    /// Where sources end, or a part of one does, is looked at once in the life of a job: no later attempt may find an end that lies
    /// further on. The attempt becomes the next one.
    async fn agree_on_ends(&self, info: &mut JobInfo, positions: &Positions) -> Result<(), End> {
        let encoded = positions.encode().to_vec();
        let command = JobCommand::Change {
            job: info.id,
            from: info.attempt,
            phase: JobPhase::Running,
            spec: info.spec,
            generation: info.generation,
            positions: Some((info.epoch, encoded.clone())),
            uid: info.uid,
            gid: info.gid,
            message: info.message.clone(),
        };
        let attempt = Attempt(info.attempt.0 + 1);
        let agreed = || {
            let now = self.job(info.id);
            now.filter(|now| now.attempt == attempt && now.positions == encoded)
        };
        self.agree(command, || agreed().is_some()).await?;
        *info = agreed().ok_or(End::Over)?;
        Ok(())
    }

    async fn run(
        &self,
        info: &JobInfo,
        positions: Positions,
        avoid: &BTreeSet<MemberId>,
    ) -> Result<(), End> {
        let mut run = self.load(info, positions, avoid).await?;
        let members: BTreeSet<MemberId> = run.places.iter().flatten().copied().collect();
        self.tell(info, Moment::Placed(run.places.clone()));
        tokio::select! {
            biased;
            end = self.overseen(info, &members) => Err(end),
            done = self.epochs(&mut run) => done,
        }
    }

    /// Tells whoever watches of a moment.
    pub fn tell(&self, info: &JobInfo, moment: Moment) {
        let seen = Seen {
            job: info.id,
            attempt: info.attempt,
            by: self.cluster.me(),
            moment,
        };
        seen.tell(self.options.onlooker.as_ref());
    }

    /// Returns when the job table or the set of members ends the attempt.
    async fn overseen(&self, info: &JobInfo, members: &BTreeSet<MemberId>) -> End {
        let mut changes = self.cluster.changes();
        loop {
            let now = self.job(info.id);
            if !now.is_some_and(|now| now.attempt == info.attempt && now.phase == JobPhase::Running)
            {
                // The commit that ends the job ends its attempt, too: let the driver see its own answer first.
                if self
                    .job(info.id)
                    .is_none_or(|now| now.phase == JobPhase::Done)
                {
                    time::sleep(Duration::from_millis(500)).await;
                }
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
        positions: Positions,
        avoid: &BTreeSet<MemberId>,
    ) -> Result<Run, End> {
        let progress = match info.progress.is_empty() {
            true => Progress::default(),
            false => Progress::decode(&info.progress).map_err(|error| broken(error.to_string()))?,
        };
        let spec = positions.parse().map_err(|fault| broken(fault.what))?;
        let plan = Plan::resolve(&spec, &info.name, &positions.sources)
            .map_err(|fault| broken(fault.what))?;
        let tasks = plan.steps.iter().map(|step| step.tasks as usize);
        if !tasks.eq(positions.tasks.iter().map(Vec::len)) {
            // An earlier version of this program made another plan of the same spec.
            return Err(broken(format!("they are of another plan; {ANEW}")));
        }
        let places = places(&plan, &self.cluster.members(), avoid, info.id);
        if places.iter().any(Vec::is_empty) {
            return Err(End::Again {
                why: "no member is alive".into(),
                blame: None,
            });
        }
        let receipt = plan.receipt.then(|| {
            Writer::new(Target {
                storage: self.storage.clone(),
                path: receipt_path(&info.name),
                owner: Owner {
                    uid: info.uid,
                    gid: info.gid,
                },
                job: info.id,
                attempt: info.attempt,
                exactly_once: true,
            })
        });
        Ok(Run {
            info: info.clone(),
            rates: Rates::new(&plan, &positions),
            held: BTreeMap::new(),
            tallying: Tallying::new((&plan, info.attempt), &places, &positions, &progress.tally),
            loads: Loads::new(&spec, self.options.scale_every),
            receipt,
            plan,
            positions,
            progress,
            places,
            watermarks: BTreeMap::new(),
            needless: BTreeSet::new(),
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

    /// Whether the job's folder and its spec are gone, and stay so: editors replace files.
    async fn is_removed(&self, info: &JobInfo) -> bool {
        let gone = async |path: String| {
            let found = self.storage.stat(&path).await;
            matches!(found, Err(StorageError::NotFound(_)))
        };
        let folder = || format!("/.jobs/{}", info.name);
        if !gone(folder()).await {
            return false;
        }
        time::sleep(self.options.scan_every).await;
        gone(folder()).await
            && gone(format!("{}.toml", folder())).await
            && gone(format!("{}.json", folder())).await
    }

    /// Nothing is written of a job that was removed: its folder would be there again.
    async fn cancel_removed(&self, info: &JobInfo) {
        let id = info.id;
        let phase = JobCommand::SetPhase {
            job: id,
            attempt: Some(info.attempt),
            phase: JobPhase::Cancelled,
            message: "its spec and its folder were removed".into(),
        };
        let ended = || {
            self.job(id)
                .is_none_or(|job| job.phase != JobPhase::Running)
        };
        if self.agree(phase, ended).await.is_err() {
            tracing::warn!(job = %id, "cannot cancel the job that was removed yet");
        }
    }

    /// Registers the failure, with the words for its user.
    async fn fail(&self, info: &JobInfo, message: String) {
        tracing::error!(job = %info.id, name = info.name, message, "job failed");
        self.log(info, &format!("failed: {message}")).await;
        let id = info.id;
        let phase = JobCommand::SetPhase {
            job: id,
            attempt: Some(info.attempt),
            phase: JobPhase::Failed,
            message: change::with_refusal(&info.message, &message),
        };
        let ended = || {
            self.job(id)
                .is_none_or(|job| job.phase != JobPhase::Running)
        };
        match self.agree(phase, ended).await {
            Ok(_) => self.clean_up(id).await,
            Err(End::Over) => {
                tracing::info!(job = %id, attempt = %info.attempt, "another attempt was begun meanwhile: it may do better");
            }
            Err(_) => {
                tracing::warn!(job = %id, "cannot register the failure; the next leader will")
            }
        }
    }

    /// Adds a line to the job's log.
    pub async fn log(&self, info: &JobInfo, line: &str) {
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

    /// Removes the state of a job that has ended. What one that is not done would go on from stays, and so does what a later
    /// attempt writes.
    pub async fn clean_up(&self, id: JobId) {
        let Some(job) = self.job(id) else { return };
        let kept: BTreeSet<String> = match job.phase {
            JobPhase::Running | JobPhase::Paused => return,
            JobPhase::Done => BTreeSet::new(),
            JobPhase::Failed | JobPhase::Cancelled => match Positions::decode(&job.positions) {
                Ok(positions) => positions.states(&job),
                Err(_) if job.positions.is_empty() => BTreeSet::new(),
                Err(_) => return,
            },
        };
        let prefix = state_prefix(&job);
        let Some((dir, name)) = prefix.rsplit_once('/') else {
            return;
        };
        for entry in self.storage.list(dir).await.unwrap_or_default() {
            let path = format!("{dir}/{}", entry.name);
            let old = attempt_of(&entry.name).is_some_and(|attempt| attempt <= job.attempt);
            if entry.name.starts_with(name) && old && !kept.contains(&path) {
                // A leftover costs space and nothing else.
                drop(self.storage.remove(&path, Some(entry.ino)).await);
            }
        }
    }
}

fn broken(what: String) -> End {
    End::Final(format!("the job's positions cannot be read: {what}"))
}

/// How long after the removal of one of its files a job looks whether all of them are.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);

/// The attempt number of a job that was registered just now.
pub const FIRST_ATTEMPT: Attempt = Attempt(1);
