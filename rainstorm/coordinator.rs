//! The leader's part of RainStorm: finds specs, registers jobs and drives those that run. It acts only while this
//! member leads the agreement group, and keeps no state that its successor would miss.

use crate::beat::Beat;
use crate::change;
use crate::circles;
use crate::control;
use crate::driver::{Driver, FIRST_ATTEMPT};
use crate::error::Error;
use crate::forget;
use crate::plan::{Plan, default_output};
use crate::position::Positions;
use crate::prepare::{SpecFile, is_job_name, job_name, prepare};
use crate::receipt::receipt_path;
use crate::savepoint;
use crate::seams::{Entry, Owner, StorageError};
use crate::spec::SourceSpec;
use hydfs_types::{
    AgreementError, CommandError, FileKind, Ino, JobCommand, JobId, JobInfo, JobPhase, Reply,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{self, MissedTickBehavior};

/// A look at one spec takes at most this long, or so long for each step of what takes long; the next scan looks again.
const INTAKE_DEADLINE: Duration = Duration::from_secs(60);
/// A list of `/.jobs` takes at most this long.
const SCAN_DEADLINE: Duration = Duration::from_secs(5);
/// Specs looked at at the same time.
const INTAKES_MAX: usize = 16;

/// What this leader knows of the specs that it registers, by their identity.
type Registered = Arc<Mutex<Known>>;

#[derive(Default)]
struct Known {
    /// The positions of their jobs, until a driver takes them.
    positions: BTreeMap<(Ino, u64), Option<Positions>>,
    /// Those that cannot start yet: their users were told.
    refused: BTreeSet<(Ino, u64)>,
}

/// Runs for the life of the member.
pub async fn run(driver: Driver, mut closed: mpsc::Receiver<String>) {
    let mut leader = driver.cluster.leader();
    let me = driver.cluster.me();
    loop {
        if *leader.borrow_and_update() == Some(me) {
            tokio::select! {
                biased;
                () = async { while leader.wait_for(|leader| *leader != Some(me)).await.is_err() { std::future::pending::<()>().await } } => {}
                () = lead(&driver, &mut closed) => return,
            }
            continue;
        }
        tokio::select! {
            biased;
            changed = leader.changed() => if changed.is_err() { return },
            path = closed.recv() => if path.is_none() { return },
        }
    }
}

/// Returns only when nobody can close specs any more. Dropping it stops everything it started.
async fn lead(driver: &Driver, closed: &mut mpsc::Receiver<String>) {
    let registered = Registered::default();
    let mut drivers: JoinSet<()> = JoinSet::new();
    let mut driven: BTreeMap<Id, JobId> = BTreeMap::new();
    let mut intakes: JoinSet<()> = JoinSet::new();
    let mut looking: BTreeMap<Id, String> = BTreeMap::new();
    let mut waiting: BTreeSet<String> = BTreeSet::new();
    // Jobs whose spec was not there at the last scan.
    let mut gone: BTreeSet<JobId> = BTreeSet::new();
    // Jobs that nobody needed at the last scan.
    let mut needless: BTreeSet<JobId> = BTreeSet::new();
    let mut scan = time::interval(driver.options.scan_every);
    scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = driver.cluster.changes();
    loop {
        let busy: BTreeSet<JobId> = driven.values().copied().collect();
        for job in driver.cluster.jobs_running() {
            if busy.contains(&job.id) {
                continue;
            }
            let mut known = registered.lock().unwrap_or_else(PoisonError::into_inner);
            let prepared = known
                .positions
                .get_mut(&(job.spec, job.generation))
                .and_then(Option::take);
            let prepared = prepared.filter(|_| job.attempt == FIRST_ATTEMPT);
            driven.insert(
                drivers.spawn(driver.clone().drive(job.id, prepared)).id(),
                job.id,
            );
        }
        while looking.len() < INTAKES_MAX
            && let Some(path) = waiting
                .iter()
                .find(|path| {
                    !looking
                        .values()
                        .any(|other| subject(other) == subject(path))
                })
                .cloned()
        {
            waiting.remove(&path);
            let beat = Beat::default();
            let of_intake = Driver {
                beat: beat.clone(),
                ..driver.clone()
            };
            let intake = intake(of_intake, registered.clone(), path.clone());
            let spawned = intakes.spawn(async move { beat.follow(INTAKE_DEADLINE, intake).await });
            looking.insert(spawned.id(), path);
        }
        tokio::select! {
            biased;
            Some(ended) = drivers.join_next_with_id() => { driven.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id)); }
            Some(ended) = intakes.join_next_with_id() => { looking.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id)); }
            path = closed.recv() => match path {
                Some(path) => { waiting.insert(path); }
                None => return,
            },
            changed = changes.changed() => if changed.is_err() { return },
            _ = scan.tick() => {
                let listed = time::timeout(SCAN_DEADLINE, driver.storage.list("/.jobs")).await;
                if let Ok(Ok(entries)) = listed {
                    waiting.extend(unknown_specs(driver, &entries));
                    let misnamed = tell_misnamed(driver, &registered, &entries);
                    // Another scan says what is left.
                    drop(time::timeout(SCAN_DEADLINE, misnamed).await);
                    waiting.extend(control::pending(driver, &entries).await);
                    gone = control::without_spec(driver, &entries, &gone).await;
                    needless = forget::needless_jobs(driver, &entries, &needless).await;
                }
            }
        }
    }
}

/// The job that a path speaks of: what is done about one job is done one after the other.
fn subject(path: &str) -> &str {
    let of_spec = || Some(job_name(path)?.0);
    control::job_of(path).or_else(of_spec).unwrap_or(path)
}

/// A spec, or an order to a job.
async fn intake(driver: Driver, registered: Registered, path: String) {
    match control::job_of(&path) {
        Some(name) => control::obey(&driver, name, &path).await,
        None => look(driver, registered, path).await,
    }
}

/// Specs in `/.jobs` that nobody writes and the job table does not know.
fn unknown_specs(driver: &Driver, entries: &[Entry]) -> Vec<String> {
    let known: BTreeSet<(Ino, u64)> = driver
        .cluster
        .jobs()
        .iter()
        .map(|job| (job.spec, job.generation))
        .collect();
    let new = entries.iter().filter(|e| {
        e.kind == FileKind::Regular
            && !e.busy
            && e.size > 0
            && !known.contains(&(e.ino, e.generation))
    });
    new.map(|entry| format!("/.jobs/{}", entry.name))
        .filter(|path| job_name(path).is_some())
        .collect()
}

/// Says of specs that are called as no job can be that they start nothing.
async fn tell_misnamed(driver: &Driver, registered: &Registered, entries: &[Entry]) {
    for entry in entries {
        let stem = entry.name.strip_suffix(".toml");
        let Some(stem) = stem.or_else(|| entry.name.strip_suffix(".json")) else {
            continue;
        };
        let is_saved = entry.kind == FileKind::Regular && !entry.busy && entry.size > 0;
        if !is_saved || !entry.is_text || stem.starts_with('.') || is_job_name(stem) {
            continue;
        }
        let (path, key) = (
            format!("/.jobs/{}", entry.name),
            (entry.ino, entry.generation),
        );
        let (uid, gid) = (entry.uid, entry.gid);
        let why = "the name of a job has up to 128 of the letters a to z and A to Z, digits, `_ - . +` and spaces; rename it";
        waits(
            driver,
            registered,
            (&path, stem, Owner { uid, gid }),
            key,
            why,
        )
        .await;
    }
}

/// Registers the job of a spec, unless it is known; if a job of that name can go on, this is another version of its spec.
async fn look(driver: Driver, registered: Registered, path: String) {
    let Some((name, json)) = job_name(&path) else {
        return;
    };
    let (Ok(source), Ok(entry)) = (
        driver.storage.pin(&path, Owner::ROOT).await,
        driver.storage.stat(&path).await,
    ) else {
        return;
    };
    let generation = source.generation;
    let jobs = driver.cluster.jobs();
    let is_known = jobs
        .iter()
        .any(|job| job.spec == source.ino && job.generation == generation);
    // Who still writes, or has just ended, changes the generation once more: a later look finds the spec as it stays.
    let stays = entry.ino == source.ino && entry.generation == generation && !entry.busy;
    if !stays || source.len == 0 || is_known {
        return;
    }
    let owner = Owner {
        uid: entry.uid,
        gid: entry.gid,
    };
    let file = SpecFile {
        path: path.clone(),
        name: name.to_owned(),
        owner,
        source: source.clone(),
    };
    let last = jobs.into_iter().filter(|job| job.name == name);
    if let Some(job) = last.max_by_key(|job| job.id)
        && goes_on(&driver, &job).await
    {
        let other = format!("/.jobs/{name}.{}", if json { "toml" } else { "json" });
        let of_other = driver.storage.stat(&other).await;
        if of_other.is_ok_and(|other| other.ino == job.spec) {
            // Both are called as the job: it is the other's, and this one waits for its end.
            return;
        }
        if let Err(error) = change::rewrite(&driver, &job, &file).await {
            tracing::warn!(path, %error, "the job cannot take the new version of its spec yet");
        }
        return;
    }
    let mut prepared = prepare(&*driver.storage, &driver.options, &file).await;
    if let Ok((positions, _)) = &prepared
        && let Err(error) = savepoint::check(&driver, positions, &file).await
    {
        prepared = Err(error);
    }
    // Two that would make a circle together come one after the other. One that follows nothing is in none.
    let follows = |(_, plan): &(_, Plan)| plan.sources.iter().any(|source| source.follow);
    let _alone = match prepared.as_ref().is_ok_and(follows) {
        true => Some(driver.ends.lock().await),
        false => None,
    };
    if let Ok((positions, _)) = &prepared
        && let Err(error) =
            circles::located(&*driver.storage, &*driver.cluster, (&path, name), positions).await
    {
        prepared = Err(error);
    }
    let (phase, message, positions) = match prepared {
        Ok((positions, plan)) => {
            if let Err(error) = make_room(&driver, &file, plan.outputs()).await {
                tracing::warn!(path, %error, "cannot make the job's folder yet");
                return;
            }
            (JobPhase::Running, String::new(), Some(positions))
        }
        Err(error @ (Error::Spec(_) | Error::Job(_))) => {
            // Its `status` is read in the job's folder, too.
            if let Err(error) = make_room(&driver, &file, std::iter::empty()).await {
                tracing::warn!(path, %error, "cannot make the job's folder");
            }
            (JobPhase::Failed, error.to_string(), None)
        }
        Err(error) => {
            let key = (file.source.ino, generation);
            return waits(
                &driver,
                &registered,
                (&path, name, owner),
                key,
                &error.to_string(),
            )
            .await;
        }
    };
    let waits_for = positions.as_ref().map(nothing_yet).unwrap_or_default();
    tracing::info!(path, ?phase, message, "spec");
    let key = (source.ino, generation);
    registered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .positions
        .insert(key, positions);
    let Owner { uid, gid } = owner;
    let start = JobCommand::Start {
        name: name.to_owned(),
        spec: source.ino,
        generation,
        uid,
        gid,
        phase,
        message,
    };
    match driver.cluster.propose(start).await {
        Ok(Reply::Job(id)) => {
            tracing::info!(path, job = %id, "job registered");
            if let (false, Some(job)) = (waits_for.is_empty(), driver.job(id)) {
                driver.log(&job, &waits_for.join("\n")).await;
            }
        }
        Ok(other) => tracing::warn!(path, ?other, "unexpected answer to a job's start"),
        Err(AgreementError::Refused(CommandError::Invalid(why))) => {
            waits(&driver, &registered, (&path, name, owner), key, &why).await;
        }
        Err(error) => tracing::warn!(path, %error, "cannot register the job yet"),
    }
}

/// What is said of followed sources of which nothing is there: a path may be wrong, or its files come later.
fn nothing_yet(positions: &Positions) -> Vec<String> {
    let Ok(spec) = positions.parse() else {
        return Vec::new();
    };
    let sources = spec.sources.iter().zip(&positions.sources);
    let empty = sources.filter(|(source, pinned)| source.follow && pinned.files.is_empty());
    let line = |(source, _): (&SourceSpec, _)| {
        let (name, path) = (&source.name, &source.path);
        format!("source `{name}`: there is nothing to read at {path} yet; what comes there will be")
    };
    empty.map(line).collect()
}

/// Says once why a spec waits. There is no job yet whose `status` could say it, so its log does.
async fn waits(
    driver: &Driver,
    registered: &Registered,
    (path, name, owner): (&str, &str, Owner),
    key: (Ino, u64),
    why: &str,
) {
    tracing::warn!(path, why, "a job cannot start yet");
    let is_new = {
        let mut known = registered.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused.insert(key)
    };
    if !is_new {
        return;
    }
    let line = format!("{path} cannot start yet, and is tried again: {why}\n");
    let log = format!("/.jobs/{name}/log");
    let said = async {
        let storage = &driver.storage;
        storage.make_dir(&format!("/.jobs/{name}"), owner).await?;
        storage.append_text(&log, owner, line.into()).await
    };
    if let Err(error) = said.await {
        tracing::warn!(path, %error, "cannot write to the job's log");
        let mut known = registered.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused.remove(&key);
    }
}

/// Whether the job goes on when its spec is rewritten: it has not ended, or what it would go on from is still there.
async fn goes_on(driver: &Driver, job: &JobInfo) -> bool {
    match job.phase {
        JobPhase::Running | JobPhase::Paused => true,
        JobPhase::Done => false,
        JobPhase::Failed | JobPhase::Cancelled => {
            let folder = driver.storage.stat(&format!("/.jobs/{}", job.name)).await;
            // Whether it is there is not known: the next scan looks again, and until then nothing begins anew.
            let is_there = !matches!(folder, Err(StorageError::NotFound(_)));
            !job.positions.is_empty() && is_there
        }
    }
}

/// The folder of a job, without the state, the dead letters, the words of executables, the receipt and the default output of an earlier job of that name. Nothing of the new job is
/// there yet, and the old file is named by its inode: a late call removes nothing of a successor's.
async fn make_room(
    driver: &Driver,
    file: &SpecFile,
    mut outputs: impl Iterator<Item = &str>,
) -> Result<(), Error> {
    driver
        .storage
        .make_dir(&format!("/.jobs/{}", file.name), file.owner)
        .await?;
    let output = default_output(&file.name);
    let mut earlier = vec![receipt_path(&file.name)];
    if outputs.any(|path| path == output) {
        earlier.push(output);
    }
    for folder in ["state", "dead"] {
        let folder = format!("/.jobs/{}/{folder}", file.name);
        for entry in driver.storage.list(&folder).await.unwrap_or_default() {
            earlier.push(format!("{folder}/{}", entry.name));
        }
    }
    let tasks = format!("/.jobs/{}/tasks", file.name);
    for task in driver.storage.list(&tasks).await.unwrap_or_default() {
        earlier.push(format!("{tasks}/{}/stderr", task.name));
    }
    for path in earlier {
        if let Ok(old) = driver.storage.stat(&path).await {
            driver.storage.remove(&path, Some(old.ino)).await?;
        }
    }
    Ok(())
}
