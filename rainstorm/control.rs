//! Orders to jobs: words written to `/.jobs/NAME/control`, and the removal of a spec. The leader obeys and removes the
//! file; one that dies in between leaves it to its successor, to whom the same words mean the same.

use crate::change;
use crate::driver::Driver;
use crate::error::Error;
use crate::position::Positions;
use crate::prepare::job_name;
use crate::rate::{self, RateOrder};
use crate::savepoint;
use crate::seams::{Entry, Owner};
use hydfs_types::{JobCommand, JobId, JobInfo, JobPhase};
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{self, Instant};

/// Most bytes of one order.
const ORDER_BYTES_MAX: usize = 4 << 10;
/// The orders there are.
const ORDERS: &str =
    "`pause`, `resume`, `cancel`, `rate=1000/s`, `rate=off`, `tasks.STAGE=2` or `savepoint NAME`";
/// How long the job epoch that brings a new rate is waited for, before the order is read again.
const RATE_DEADLINE: Duration = Duration::from_secs(10);
/// How long one look for an order may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// The job that a control file is for.
pub fn job_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/.jobs/")?.strip_suffix("/control")?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

fn is_active(job: &JobInfo) -> bool {
    matches!(job.phase, JobPhase::Running | JobPhase::Paused)
}

/// Control files that are there: their notice may have been lost.
pub async fn pending(driver: &Driver, entries: &[Entry]) -> Vec<String> {
    let mut found = Vec::new();
    for job in driver.cluster.jobs().into_iter().filter(is_active) {
        if !entries.iter().any(|entry| entry.name == job.name) {
            continue;
        }
        let path = format!("/.jobs/{}/control", job.name);
        let stat = time::timeout(LOOK_DEADLINE, driver.storage.stat(&path)).await;
        if matches!(stat, Ok(Ok(_))) {
            found.push(path);
        }
    }
    found
}

/// Cancels jobs whose spec was not there at this scan and the one before (editors replace files: once is no sign).
/// Returns those that are missed for the first time.
pub async fn without_spec(
    driver: &Driver,
    entries: &[Entry],
    before: &BTreeSet<JobId>,
) -> BTreeSet<JobId> {
    let mut gone = BTreeSet::new();
    for job in driver.cluster.jobs().into_iter().filter(is_active) {
        let is_spec = |entry: &Entry| {
            let path = format!("/.jobs/{}", entry.name);
            job_name(&path).is_some_and(|(name, _)| name == job.name)
        };
        if entries.iter().any(is_spec) {
            continue;
        }
        if !before.contains(&job.id) {
            gone.insert(job.id);
            continue;
        }
        set(driver, &job, JobPhase::Cancelled, "its spec was removed").await;
    }
    gone
}

/// Does what the control file says, and removes it.
pub async fn obey(driver: &Driver, name: &str, path: &str) {
    let storage = &driver.storage;
    let Ok(entry) = storage.stat(path).await else {
        return;
    };
    if entry.busy {
        // The next scan finds it as it stays.
        return;
    }
    let text = match storage.read_small(path, Owner::ROOT, ORDER_BYTES_MAX).await {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.is_temporary() => return,
        Err(error) => error.to_string(),
    };
    // An order that cannot be obeyed yet waits for the next scan. What is behind it does, too, but no `cancel`.
    let mut waits = false;
    for word in text.lines().map(str::trim).filter(|word| !word.is_empty()) {
        if waits && word != "cancel" {
            continue;
        }
        let jobs = driver.cluster.jobs().into_iter();
        let Some(job) = jobs.filter(|job| job.name == name).max_by_key(|job| job.id) else {
            break;
        };
        match (word, job.phase) {
            ("pause", JobPhase::Running) => {
                let how = "paused by its control file; write `resume` there to go on";
                waits = !set(driver, &job, JobPhase::Paused, how).await;
            }
            ("resume", JobPhase::Paused) => {
                waits = !set(driver, &job, JobPhase::Running, "").await;
            }
            ("cancel", JobPhase::Running | JobPhase::Paused) => {
                let how = "cancelled by its control file";
                waits = !set(driver, &job, JobPhase::Cancelled, how).await;
            }
            ("pause" | "resume" | "cancel", _) => {}
            _ if let Some(name) = word.strip_prefix("savepoint ") => {
                let name = name.trim();
                let made = match savepoint::is_name(name) {
                    _ if !is_active(&job) || job.positions.is_empty() => {
                        Ok("the job has ended, or has committed nothing".to_owned())
                    }
                    false => Ok(
                        "a savepoint's name has 1 to 64 letters, digits, `_` and `-`".to_owned(),
                    ),
                    true => tokio::select! {
                        biased;
                        made = savepoint::save(driver, &job, name) => made,
                        () = cancelled_instead(driver, path, word) => {
                            // It is read next.
                            Err(Error::Over)
                        }
                    },
                };
                match made {
                    Ok(line) => {
                        driver
                            .log(&job, &format!("control: `{word}`: {line}"))
                            .await
                    }
                    Err(error) => {
                        tell_why(driver, &job, (&entry, word), &error).await;
                        waits = true;
                    }
                }
            }
            _ if let Some((stage, tasks)) = tasks_order(word) => {
                if !is_active(&job) {
                    continue;
                }
                match change::set_tasks(driver, &job, stage, tasks).await {
                    Ok(()) => {}
                    Err(Error::Job(why)) => {
                        driver.log(&job, &format!("control: `{word}`: {why}")).await;
                    }
                    Err(error) => {
                        tell_why(driver, &job, (&entry, word), &error).await;
                        waits = true;
                    }
                }
            }
            _ => match (rate_order(word), job.phase) {
                (Some(order), JobPhase::Running) => {
                    waits = !set_rate(driver, &job, order).await;
                    if waits {
                        let error = Error::Attempt("no job epoch has it yet".into());
                        tell_why(driver, &job, (&entry, word), &error).await;
                    }
                }
                (Some(_), JobPhase::Paused) => {
                    let line = format!("control: `{word}`: the job is paused; resume it first");
                    driver.log(&job, &line).await;
                }
                (Some(_), _) => {}
                (None, _) => {
                    let short: String = word.chars().take(80).collect();
                    let line = format!("control: `{short}` is no order; write {ORDERS}");
                    driver.log(&job, &line).await;
                }
            },
        }
    }
    let is_another = |now: Entry| (now.ino, now.generation) != (entry.ino, entry.generation);
    if waits || storage.stat(path).await.is_ok_and(is_another) {
        // The next scan finds it, or what was written there meanwhile.
        return;
    }
    let told = || driver.told.lock().unwrap_or_else(PoisonError::into_inner);
    told().remove(name);
    if let Err(error) = storage.remove(path, Some(entry.ino)).await {
        tracing::warn!(path, %error, "cannot remove an order that was obeyed; it is obeyed again");
    }
}

/// Says once why an order waits.
async fn tell_why(driver: &Driver, job: &JobInfo, (entry, word): (&Entry, &str), error: &Error) {
    tracing::warn!(job = %job.id, %error, word, "an order cannot be obeyed yet");
    let order = (entry.ino, entry.generation, word.to_owned());
    let is_new = {
        let mut told = driver.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(job.name.clone(), order.clone()) != Some(order)
    };
    if is_new && !matches!(error, Error::Over) {
        let line = format!("control: `{word}` waits, and is tried again: {error}");
        driver.log(job, &line).await;
    }
}

/// Returns once `cancel` stands in the place of an order that is being obeyed. Behind it, it waits for it.
async fn cancelled_instead(driver: &Driver, path: &str, word: &str) {
    loop {
        time::sleep(driver.options.scan_every).await;
        let text = driver
            .storage
            .read_small(path, Owner::ROOT, ORDER_BYTES_MAX);
        let Ok(text) = text.await else { continue };
        let text = String::from_utf8_lossy(&text);
        let has = |order: &str| text.lines().any(|line| line.trim() == order);
        if has("cancel") && !has(word) {
            return;
        }
    }
}

/// `tasks.STAGE=N`.
fn tasks_order(word: &str) -> Option<(&str, u32)> {
    let (stage, tasks) = word.strip_prefix("tasks.")?.split_once('=')?;
    Some((stage.trim(), tasks.trim().parse().ok()?))
}

/// `rate=N/s` or `rate=off`.
fn rate_order(word: &str) -> Option<RateOrder> {
    match word
        .strip_prefix("rate")?
        .trim_start()
        .strip_prefix('=')?
        .trim()
    {
        "off" => Some(RateOrder::Off),
        rate => rate::parse(rate).map(RateOrder::Lines),
    }
}

/// Hands a rate to the job's driver, and waits until a job epoch has it: then any leader knows it. Whether one has.
async fn set_rate(driver: &Driver, job: &JobInfo, order: RateOrder) -> bool {
    let has_it = || {
        let now = driver.job(job.id)?;
        let goes_on = now.phase == JobPhase::Running;
        let positions = Positions::decode(&now.positions).ok();
        (!goes_on || positions.is_some_and(|positions| positions.rate == Some(order))).then_some(())
    };
    let rates = || driver.rates.lock().unwrap_or_else(PoisonError::into_inner);
    rates().insert(job.id, order);
    let mut changes = driver.cluster.changes();
    let limit = Instant::now() + RATE_DEADLINE;
    while has_it().is_none() {
        if !matches!(time::timeout_at(limit, changes.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    rates().remove(&job.id);
    has_it().is_some()
}

/// Whether the job has the phase now.
async fn set(driver: &Driver, job: &JobInfo, phase: JobPhase, message: &str) -> bool {
    let id = job.id;
    let command = JobCommand::SetPhase {
        job: id,
        attempt: None,
        phase,
        message: change::with_refusal(&job.message, message),
    };
    let is_set = || driver.job(id).is_some_and(|job| job.phase == phase);
    if driver.agree(command, is_set).await.is_err() {
        tracing::warn!(job = %id, ?phase, "cannot change the phase of the job; its order stays");
        return false;
    }
    tracing::info!(job = %id, name = job.name, ?phase, message, "order to a job");
    if phase == JobPhase::Cancelled {
        driver.clean_up(id).await;
    }
    true
}
