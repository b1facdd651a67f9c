//! A member running tasks: keeps the attempts deployed here and answers what members ask of them. Late,
//! repeated and unknown requests get an answer, never a panic (fault R17).

use crate::attempt::Context;
use crate::batch::Batch;
use crate::cell::Cells;
use crate::inbox::{Item, Offer};
use crate::message::{Deploy, Push, Request, Response};
use crate::options::Options;
use crate::room::{self, Rooms};
use crate::seams::{Cluster, Storage};
use bytes::Bytes;
use hydfs_types::{Attempt, JobId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time;

/// How long a push waits for room, and a barrier for its tasks, before the caller has to ask again.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often an attempt's right to live is checked, beside changes of the job table.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Jobs remembered before those that the job table forgot are forgotten here, too.
const SEEN_MAX: usize = 10_000;

/// The attempts on this member, at most one per job.
pub struct Worker {
    storage: Arc<dyn Storage>,
    cluster: Arc<dyn Cluster>,
    options: Arc<Options>,
    cells: Arc<Cells>,
    rooms: Arc<Rooms>,
    attempts: Mutex<BTreeMap<JobId, Arc<Context>>>,
    /// The last attempt of each job that ever ran here in this life: none runs twice.
    seen: Mutex<BTreeMap<JobId, Attempt>>,
}

impl Worker {
    pub fn new(
        storage: Arc<dyn Storage>,
        cluster: Arc<dyn Cluster>,
        options: Arc<Options>,
    ) -> Self {
        if !options.scratch_in_memory {
            room::sweep(&options.cache_dir);
        }
        Self {
            storage,
            cluster,
            cells: Arc::new(Cells::new(options.cache_dir.clone(), options.kernel)),
            rooms: Rooms::new(&options),
            options,
            attempts: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Context>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self, job: JobId, attempt: Attempt) -> Option<Arc<Context>> {
        self.attempts()
            .get(&job)
            .filter(|context| context.info.attempt == attempt)
            .cloned()
    }

    /// Answers a request; `SpecClosed` is not for it.
    pub async fn handle(self: &Arc<Self>, request: Request, body: Bytes) -> Response {
        match request {
            Request::Deploy(deploy) => self.deploy(*deploy),
            Request::Barrier {
                job,
                attempt,
                barrier,
                coordinator,
            } => match self.attempt(job, attempt) {
                Some(context) if context.coordinator != coordinator => Response::Over,
                Some(context) => context.barrier(barrier, PATIENCE).await,
                None => Response::Unknown,
            },
            Request::Push {
                job,
                attempt,
                from,
                to,
                seq,
                what,
            } => {
                let Some(context) = self
                    .attempt(job, attempt)
                    .filter(|context| context.is_running())
                else {
                    return Response::Unknown;
                };
                let Some(inbox) = context.inbox(to) else {
                    return Response::Bad(format!("task {to} of {job} does not run here"));
                };
                let item = match what {
                    Push::Lines => Item::Lines(Batch::from_lines(body)),
                    Push::Barrier { id, last, mark } => Item::Barrier { id, last, mark },
                };
                match time::timeout(PATIENCE, inbox.put(from, seq, item)).await {
                    Ok(Offer::Taken) => Response::Done,
                    Ok(Offer::Full) | Err(_) => Response::Full,
                    Ok(Offer::Stranger) => {
                        Response::Bad(format!("task {to} of {job} takes nothing from {from}"))
                    }
                }
            }
            Request::SpecClosed { .. } => Response::Done,
            Request::Shares {
                job,
                attempt,
                coordinator,
                shares,
            } => match self.attempt(job, attempt) {
                Some(context) if context.coordinator != coordinator => Response::Over,
                Some(context) => {
                    context.set_shares(shares);
                    Response::Done
                }
                None => Response::Unknown,
            },
            Request::Hello => Response::Life(self.options.life),
        }
    }

    fn deploy(self: &Arc<Self>, deploy: Deploy) -> Response {
        let (job, attempt) = (deploy.info.id, deploy.info.attempt);
        let outdated = self
            .cluster
            .job(job)
            .is_some_and(|known| known.attempt > attempt);
        let held = self
            .attempts()
            .get(&job)
            .map(|context| (context.info.attempt, context.coordinator));
        match held {
            _ if outdated => return Response::Over,
            Some((held, by)) if held == attempt && by == deploy.coordinator => {
                return Response::Done;
            }
            Some((held, _)) if held >= attempt => return Response::Over,
            _ if deploy.lives.get(&self.cluster.me()) != Some(&self.options.life) => {
                return Response::Unknown;
            }
            _ => {}
        }
        let context = Context::new(
            self.storage.clone(),
            self.cluster.clone(),
            self.options.clone(),
            (self.cells.clone(), self.rooms.clone()),
            deploy,
        );
        let context = match context {
            Ok(context) => context,
            Err(error) => {
                return Response::Failed {
                    is_final: error.is_final(),
                    why: error.to_string(),
                };
            }
        };
        {
            let mut attempts = self.attempts();
            if !self.is_new(job, attempt) {
                return Response::Unknown;
            }
            if let Some(old) = attempts.insert(job, context.clone()) {
                old.stop();
            }
        }
        context.start();
        tokio::spawn(watch(Arc::downgrade(self), context));
        Response::Done
    }

    /// Whether the attempt never ran here; from now on it did.
    fn is_new(&self, job: JobId, attempt: Attempt) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX {
            let known: BTreeSet<JobId> = self.cluster.jobs().iter().map(|job| job.id).collect();
            seen.retain(|job, _| known.contains(job));
        }
        let last = seen.entry(job).or_default();
        let new = *last < attempt;
        *last = attempt.max(*last);
        new
    }

    /// Drops everything.
    pub fn stop(&self) {
        let attempts = std::mem::take(&mut *self.attempts());
        attempts.values().for_each(|context| context.stop());
    }

    fn forget(&self, context: &Arc<Context>) {
        context.stop();
        let mut attempts = self.attempts();
        if attempts
            .get(&context.info.id)
            .is_some_and(|held| Arc::ptr_eq(held, context))
        {
            attempts.remove(&context.info.id);
        }
    }
}

/// Drops an attempt that is over. One that failed stays until then, for its coordinator to learn why.
async fn watch(worker: std::sync::Weak<Worker>, context: Arc<Context>) {
    let mut changes = context.cluster.changes();
    while let Some(worker) = worker.upgrade() {
        let held = worker
            .attempt(context.info.id, context.info.attempt)
            .is_some_and(|held| Arc::ptr_eq(&held, &context));
        if !held || context.is_over() {
            worker.forget(&context);
            return;
        }
        drop(worker);
        tokio::select! {
            biased;
            changed = changes.changed() => if changed.is_err() { time::sleep(CHECK_EVERY).await },
            () = time::sleep(CHECK_EVERY) => {}
        }
    }
    context.stop();
}
