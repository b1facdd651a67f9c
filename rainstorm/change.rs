//! Changes a job between two job epochs: another version of its spec, or another number of tasks. The protocol, and who may
//! crash between its steps, is in `docs/ARCHITECTURE.md`; whether the job can go on is decided by `upgrade`.

use crate::circles;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::position::Positions;
use crate::prepare::{self, Before, SpecFile};
use crate::rights;
use crate::run::End;
use crate::scale::{Scaled, Wish};
use crate::seams::Owner;
use crate::spec::{Partition, TASKS_MAX};
use crate::spec_tree::{Fault, nearest};
use crate::upgrade::{self, ANEW, Version};
use hydfs_types::{Attempt, Ino, JobCommand, JobId, JobInfo, JobPhase};

/// A job that changes under our hands is looked at again so often.
const TRIES: usize = 8;
/// What a refusal begins with in the job's message.
const REFUSED: &str = "the new spec was refused: ";

/// A spec's inode and generation, and its owner.
type Identity = (Ino, u64, Owner);

/// What a job becomes, and what there is to say about it.
pub struct Next {
    positions: Positions,
    /// `changed` or `scaled`.
    how: &'static str,
    notes: Vec<String>,
}

impl Next {
    /// Itself, if it is not too much to be agreed on: no attempt ends for what cannot be.
    fn fits(self) -> Result<Self> {
        match self.positions.too_large() {
            None => Ok(self),
            Some(why) => Err(Error::Job(why)),
        }
    }
}

/// A message of the job, which keeps the refusal that `before` told of.
pub fn with_refusal(before: &str, message: &str) -> String {
    match before.lines().find(|line| line.starts_with(REFUSED)) {
        Some(refusal) if message.is_empty() => refusal.to_owned(),
        Some(refusal) => format!("{message}\n{refusal}"),
        None => message.to_owned(),
    }
}

/// A new version of the spec of `job`, which has not ended for good. A refusal is for the job's status.
pub async fn rewrite(driver: &Driver, job: &JobInfo, file: &SpecFile) -> Result<()> {
    let identity = (file.source.ino, file.source.generation, file.owner);
    let tried = try_rewrite(driver, job, file, identity).await;
    match tried {
        Err(Error::Spec(why) | Error::Job(why)) => refuse(driver, job.id, identity, &why).await,
        other => other,
    }
}

async fn try_rewrite(
    driver: &Driver,
    job: &JobInfo,
    file: &SpecFile,
    identity: Identity,
) -> Result<()> {
    let storage = &*driver.storage;
    let text = prepare::text(storage, file).await?;
    let who = (file.name.as_str(), file.owner);
    let (cluster, place) = (&*driver.cluster, (&*file.path, &*file.name));
    let is_another = (job.uid, job.gid) != (file.owner.uid, file.owner.gid);
    if job.positions.is_empty() {
        // Nothing was committed: there is nothing to go on from.
        let (positions, plan) =
            prepare::check(storage, &driver.options, &file.path, who, text).await?;
        if is_another
            && let Some(fault) = rights::check(storage, (&job.name, &plan), file.owner).await?
        {
            return Err(Error::Spec(fault.located(&file.path, &positions.spec)));
        }
        let _alone = driver.ends.lock().await;
        circles::located(storage, cluster, place, &positions).await?;
        let next = |job: &JobInfo| match job.positions.is_empty() {
            true => Ok(Next {
                positions: positions.clone(),
                how: "changed",
                notes: Vec::new(),
            }),
            false => Err(Error::Attempt("the job has committed meanwhile".into())),
        };
        return change(driver, job.id, Some(identity), &next).await;
    }
    let before = Before::of(&job.name, Positions::decode(&job.positions)?)?;
    let options = &driver.options;
    let ready = prepare::resolve(storage, options, &file.path, who, text, Some(&before)).await?;
    let new = Version {
        spec: &ready.spec,
        plan: &ready.plan,
    };
    let located = |fault: Fault| Error::Spec(fault.located(&file.path, &ready.text));
    if is_another
        && let Some(fault) = rights::check(storage, (&job.name, &ready.plan), file.owner).await?
    {
        return Err(located(fault));
    }
    if before.spec.receipt != ready.spec.receipt {
        let what = "`receipt` has changed, but a receipt is of a whole job";
        return Err(located(Fault::new(
            0,
            what,
            format!("give it back, {ANEW}"),
        )));
    }
    let _alone = driver.ends.lock().await;
    if let Some(fault) = circles::check(storage, cluster, &file.name, &ready.spec).await? {
        return Err(located(fault));
    }
    let sources = &before.positions.sources;
    let next = |job: &JobInfo| {
        let now = Before::of(&job.name, Positions::decode(&job.positions)?)?;
        if now.positions.sources != *sources {
            return Err(Error::Attempt("the job's sources have changed".into()));
        }
        let positions = &now.positions;
        let states = |node, task: u32| {
            positions.tasks[usize::from(node)][task as usize].states(job, node, task)
        };
        let onto = upgrade::onto(positions, &states, now.version(), new).map_err(located)?;
        Ok(Next {
            positions: Positions {
                spec: ready.text.clone(),
                json: ready.json,
                sources: ready.sources.clone(),
                chunk_bytes: positions.chunk_bytes,
                tasks: onto.tasks,
                rate: None,
                counts: ready.counts.clone(),
                border: Some(onto.border),
                scaled: Default::default(),
            },
            how: "changed",
            notes: onto.notes,
        })
    };
    change(driver, job.id, Some(identity), &next).await
}

/// Gives a stage another number of tasks. `Error::Job` says why not.
pub async fn set_tasks(driver: &Driver, job: &JobInfo, stage: &str, tasks: u32) -> Result<()> {
    if job.positions.is_empty() {
        let what = "the job has committed nothing yet";
        return Err(match job.phase {
            // Nor will it.
            JobPhase::Paused => Error::Job(format!("{what}; resume it first")),
            _ => Error::Attempt(what.into()),
        });
    }
    let next = |job: &JobInfo| {
        if !matches!(job.phase, JobPhase::Running | JobPhase::Paused) {
            return Err(Error::Job("the job has ended".into()));
        }
        let now = Before::of(&job.name, Positions::decode(&job.positions)?)?;
        check_tasks(&now, stage, tasks)?;
        with_tasks(job, now, &[(stage, tasks)])
    };
    let now = Before::of(&job.name, Positions::decode(&job.positions)?)?;
    check_tasks(&now, stage, tasks)?;
    let has = |known: &crate::spec::StageSpec| known.name == stage && known.tasks == tasks;
    if now.spec.stages.iter().any(has) {
        return Ok(());
    }
    change(driver, job.id, None, &next).await
}

/// Gives stages of a job that runs the numbers of tasks that it needs.
pub async fn scale(driver: &Driver, id: JobId, wishes: &[Wish]) -> Result<()> {
    let next = |job: &JobInfo| match job.phase {
        JobPhase::Running => scaled(job, wishes),
        _ => Err(Error::Over),
    };
    change(driver, id, None, &next).await
}

/// What a job becomes so. An error if it is no more as it was when that was wished.
pub fn scaled(job: &JobInfo, wishes: &[Wish]) -> Result<Next> {
    let now = Before::of(&job.name, Positions::decode(&job.positions)?)?;
    let mut scaled = now.positions.scaled.clone();
    let mut counts: Vec<(&str, u32)> = Vec::new();
    for wish in wishes {
        check_tasks(&now, &wish.stage, wish.to)?;
        let known = now.spec.stages.iter().find(|s| s.name == wish.stage);
        if known.is_none_or(|known| known.scale.is_none() || known.tasks != wish.from) {
            let what = format!("the stage `{}` has changed meanwhile", wish.stage);
            return Err(Error::Attempt(what));
        }
        counts.push((&wish.stage, wish.to));
        let last = Scaled {
            from: wish.from,
            to: wish.to,
            epoch: job.epoch.0,
            why: wish.why.clone(),
        };
        scaled.insert(wish.stage.clone(), last);
    }
    let mut next = with_tasks(job, now, &counts)?;
    next.positions.scaled = scaled;
    next.how = "scaled";
    next.notes
        .extend(wishes.iter().map(|wish| wish.why.clone()));
    next.fits()
}

fn with_tasks(job: &JobInfo, now: Before, counts: &[(&str, u32)]) -> Result<Next> {
    let mut positions = now.positions.clone();
    for &(stage, tasks) in counts {
        positions.counts.insert(stage.to_owned(), tasks);
        positions.scaled.remove(stage);
    }
    let new = Before::planned(&job.name, positions)?;
    let states = |node, task: u32| {
        now.positions.tasks[usize::from(node)][task as usize].states(job, node, task)
    };
    let onto = upgrade::onto(&now.positions, &states, now.version(), new.version());
    let onto = onto.map_err(|fault| Error::Job(format!("{}; {}", fault.what, fault.remedy)))?;
    Ok(Next {
        positions: Positions {
            tasks: onto.tasks,
            border: Some(onto.border),
            ..new.positions
        },
        how: "changed",
        notes: onto.notes,
    })
}

fn check_tasks(job: &Before, stage: &str, tasks: u32) -> Result<()> {
    let stages = &job.spec.stages;
    let Some(known) = stages.iter().find(|known| known.name == stage) else {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        let what = format!("there is no stage `{stage}`; {}", nearest(stage, &names));
        return Err(Error::Job(what));
    };
    if matches!(known.partition, Partition::Range(..)) {
        let what = format!("the `bounds` of `{stage}` say how many tasks it has; rewrite the spec");
        return Err(Error::Job(what));
    }
    match known.scale {
        Some(bounds) if !bounds.allow(tasks) => Err(Error::Job(format!(
            "the spec lets `{stage}` have {bounds} tasks; use one of these, or rewrite the spec"
        ))),
        None if !(1..=TASKS_MAX).contains(&i64::from(tasks)) => {
            Err(Error::Job(format!("use 1 to {TASKS_MAX} tasks")))
        }
        _ => Ok(()),
    }
}

/// Lets the job go on from what `next` makes of its last committed job epoch, under a new identity or the one that it has then. It is
/// tried on the job as it is first: what cannot be disturbs nothing.
async fn change(
    driver: &Driver,
    id: JobId,
    identity: Option<Identity>,
    next: &(dyn Fn(&JobInfo) -> Result<Next> + Sync),
) -> Result<()> {
    let began = driver.job(id).ok_or(Error::Over)?;
    next(&began)?.fits()?;
    let _hold = driver.changing.hold(id);
    for _ in 0..TRIES {
        let job = driver.job(id).ok_or(Error::Over)?;
        match job.phase {
            JobPhase::Done => return Err(Error::Over),
            JobPhase::Cancelled if began.phase != JobPhase::Cancelled => {
                let why = "the job was cancelled meanwhile; save the spec again to go on with it";
                return Err(Error::Job(why.into()));
            }
            _ => {}
        }
        let Some(job) = freeze(driver, job).await? else {
            continue;
        };
        let Next {
            positions,
            how,
            notes,
        } = next(&job)?.fits()?;
        let message = match job.phase {
            JobPhase::Paused => job.message.lines().next().unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        let own = Owner {
            uid: job.uid,
            gid: job.gid,
        };
        let (spec, generation, owner) = identity.unwrap_or((job.spec, job.generation, own));
        // A version that was refused is that still.
        let message = match (job.spec, job.generation) == (spec, generation) {
            true => with_refusal(&job.message, &message),
            false => message,
        };
        let (uid, gid) = (owner.uid, owner.gid);
        let positions = positions.encode().to_vec();
        let command = JobCommand::Change {
            job: id,
            from: job.attempt,
            phase: job.phase,
            spec,
            generation,
            positions: Some((job.epoch, positions.clone())),
            uid,
            gid,
            message,
        };
        let is_done = || {
            let now = driver.job(id);
            now.is_some_and(|now| follows(&now, &job) && now.positions == positions)
        };
        match driver.agree(command, is_done).await {
            Ok(_) => {
                let notes = match notes.is_empty() {
                    true => String::new(),
                    false => format!(": {}", notes.join("; ")),
                };
                let line = format!("{how} behind job epoch {}{notes}", job.epoch);
                tracing::info!(job = %id, name = job.name, line, "a job goes on changed");
                driver.log(&job, &line).await;
                return Ok(());
            }
            Err(End::Over) => {}
            Err(end) => return Err(failed(end)),
        }
    }
    Err(Error::Attempt("the job changes all the time".into()))
}

fn follows(now: &JobInfo, job: &JobInfo) -> bool {
    now.attempt == Attempt(job.attempt.0 + 1)
}

fn failed(end: End) -> Error {
    match end {
        End::Again { why, .. } => Error::Attempt(why),
        End::Removed(ino) => {
            Error::Attempt(format!("a file that the job writes ({ino}) was removed"))
        }
        End::Final(why) => Error::Job(why),
        End::Done | End::Over | End::Scale(_) => Error::Over,
    }
}

/// Ends the attempt of a job that has not ended, so that its last job epoch stays the last; `None` if somebody else began another
/// one. A paused one has an attempt, too: what it proposed may land behind a resume.
async fn freeze(driver: &Driver, job: JobInfo) -> Result<Option<JobInfo>> {
    let why = match job.phase {
        JobPhase::Running => with_refusal(&job.message, "it is being changed"),
        JobPhase::Paused => job.message.clone(),
        JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled => return Ok(Some(job)),
    };
    let restart = JobCommand::Restart {
        job: job.id,
        from: job.attempt,
        why: why.clone(),
    };
    let own = |now: &JobInfo| follows(now, &job) && now.message == why;
    let is_done = || driver.job(job.id).is_some_and(|now| own(&now));
    match driver.agree(restart, is_done).await {
        Ok(_) => Ok(driver.job(job.id).filter(own)),
        Err(End::Over) => Ok(None),
        Err(end) => Err(failed(end)),
    }
}

/// Notes a version of the spec as seen, and why the job does not take it.
async fn refuse(
    driver: &Driver,
    id: JobId,
    (spec, generation, owner): Identity,
    why: &str,
) -> Result<()> {
    let why = why.replace('\n', " ");
    for _ in 0..TRIES {
        let job = driver.job(id).ok_or(Error::Over)?;
        let mut message = format!("{REFUSED}{why}");
        let before = job.message.lines().find(|line| !line.starts_with(REFUSED));
        match (job.phase, before) {
            (JobPhase::Running, _) => message.push_str("; the job goes on as it was"),
            (_, Some(before)) => message = format!("{before}\n{message}"),
            (_, None) => {}
        }
        let command = JobCommand::Change {
            job: id,
            from: job.attempt,
            phase: job.phase,
            spec,
            generation,
            positions: None,
            uid: owner.uid,
            gid: owner.gid,
            message,
        };
        let is_done = || {
            driver
                .job(id)
                .is_some_and(|now| (now.spec, now.generation) == (spec, generation))
        };
        match driver.agree(command, is_done).await {
            Ok(_) => {
                tracing::warn!(job = %id, name = job.name, why, "a new version of a spec was refused");
                driver.log(&job, &format!("{REFUSED}{why}")).await;
                return Ok(());
            }
            Err(End::Over) => {}
            Err(end) => return Err(failed(end)),
        }
    }
    Err(Error::Attempt("the job changes all the time".into()))
}
