//! One attempt of a job on one member: what its tasks share, their failure and their reports.

use crate::cell::Cells;
use crate::error::{Error, Result};
use crate::inbox::Inbox;
use crate::lookup::Records;
use crate::message::{Deploy, Report, Request, Response, TaskId};
use crate::moment::{Moment, Seen, task_of};
use crate::options::Options;
use crate::plan::{NodeId, Pinned, Plan, Step};
use crate::position::{TaskPosition, state_prefix};
use crate::rate::{self, Shares};
use crate::room::Rooms;
use crate::seams::{Cluster, Owner, Storage};
use crate::sink::Target;
use crate::stderr::Place;
use crate::task;
use futures_util::FutureExt;
use hydfs_types::{Frame, JobInfo, JobPhase, MemberId, Service};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What the tasks of an attempt on this member share.
pub struct Context {
    pub storage: Arc<dyn Storage>,
    pub cluster: Arc<dyn Cluster>,
    pub options: Arc<Options>,
    pub cells: Arc<Cells>,
    pub rooms: Arc<Rooms>,
    pub info: JobInfo,
    pub plan: Plan,
    pub sources: Vec<Arc<Pinned>>,
    pub chunk_bytes: u32,
    /// For each node, what its tasks join lines with.
    pub records: Vec<OnceCell<Arc<Records>>>,
    /// The life of the member that handed it out: nobody else may let its barriers through.
    pub coordinator: u64,
    places: Vec<Vec<MemberId>>,
    inboxes: BTreeMap<TaskId, Arc<Inbox>>,
    /// Tasks of this member that have not ended in an earlier attempt.
    tasks: BTreeMap<TaskId, TaskPosition>,
    asked: watch::Sender<u64>,
    shares: watch::Sender<Shares>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// `None` once the attempt is over here.
    running: Option<JoinSet<()>>,
    reports: BTreeMap<u64, Vec<Report>>,
    /// The barrier that each ended task ended with.
    ended: BTreeMap<TaskId, u64>,
    failure: Option<(bool, String)>,
    heard: Instant,
}

impl Context {
    /// Prepares this member's part of an attempt; nothing runs yet.
    pub fn new(
        storage: Arc<dyn Storage>,
        cluster: Arc<dyn Cluster>,
        options: Arc<Options>,
        (cells, rooms): (Arc<Cells>, Arc<Rooms>),
        deploy: Deploy,
    ) -> Result<Arc<Self>> {
        let Deploy {
            info,
            positions,
            places,
            lives: _,
            coordinator,
        } = deploy;
        let broken = |what: String| Error::Spec(format!("/.jobs/{}: {what}", info.name));
        let spec = positions.parse().map_err(|fault| broken(fault.what))?;
        let plan = Plan::resolve(&spec, &info.name, &positions.sources)
            .map_err(|fault| broken(fault.what))?;
        let shape = |rows: &[usize]| {
            plan.steps
                .iter()
                .map(|step| step.tasks as usize)
                .eq(rows.iter().copied())
        };
        let sizes: Vec<usize> = places.iter().map(Vec::len).collect();
        let task_sizes: Vec<usize> = positions.tasks.iter().map(Vec::len).collect();
        if !shape(&sizes) || !shape(&task_sizes) {
            return Err(Error::Attempt(format!(
                "job {}: places or positions are not those of its plan",
                info.id
            )));
        }
        let me = cluster.me();
        let ended = |id: TaskId| positions.tasks[id.node as usize][id.task as usize].ended;
        let mut tasks: BTreeMap<TaskId, TaskPosition> = BTreeMap::new();
        let mut inboxes = BTreeMap::new();
        for (node, step) in plan.steps.iter().enumerate() {
            for task in 0..step.tasks {
                let id = TaskId {
                    node: node as NodeId,
                    task,
                };
                if places[node][task as usize] != me || ended(id) {
                    continue;
                }
                tasks.insert(id, positions.tasks[node][task as usize].clone());
                let feeders = plan
                    .feeders(id.node, task)
                    .into_iter()
                    .map(|(node, task)| TaskId { node, task });
                inboxes.insert(
                    id,
                    Arc::new(Inbox::new(feeders.map(|from| (from, ended(from))))),
                );
            }
        }
        let shares = rate::equal_shares(&plan, &positions);
        let sources = positions.sources.into_iter().map(Arc::new).collect();
        let records = plan.steps.iter().map(|_| OnceCell::new()).collect();
        let state = State {
            running: Some(JoinSet::new()),
            reports: BTreeMap::new(),
            ended: BTreeMap::new(),
            failure: None,
            heard: Instant::now(),
        };
        Ok(Arc::new(Self {
            storage,
            cluster,
            options,
            cells,
            rooms,
            info,
            plan,
            sources,
            records,
            chunk_bytes: positions.chunk_bytes,
            coordinator,
            places,
            inboxes,
            tasks,
            asked: watch::Sender::new(0),
            shares: watch::Sender::new(shares),
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the tasks.
    pub fn start(self: &Arc<Self>) {
        for (&id, position) in &self.tasks {
            self.spawn(task::run(self.clone(), id, position.clone()));
        }
    }

    /// Runs `work` until it ends or the attempt does; its error is the attempt's.
    pub fn spawn(self: &Arc<Self>, work: impl Future<Output = Result<()>> + Send + 'static) {
        let context = self.clone();
        let mut state = self.lock();
        let Some(running) = &mut state.running else {
            return;
        };
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let error = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => Error::Attempt("a task panicked; the member's log says where".into()),
            };
            context.fail(&error);
        });
    }

    /// Ends the attempt here with an error; the first one counts.
    fn fail(&self, error: &Error) {
        let running = {
            let mut state = self.lock();
            state
                .failure
                .get_or_insert_with(|| (error.is_final(), error.to_string()));
            state.running.take()
        };
        self.changed.notify_waiters();
        drop(running);
    }

    /// Ends the attempt here.
    pub fn stop(&self) {
        let running = self.lock().running.take();
        self.changed.notify_waiters();
        drop(running);
    }

    /// It neither failed nor was stopped.
    pub fn is_running(&self) -> bool {
        self.lock().running.is_some()
    }

    /// The attempt may not go on: the job table says so, or its coordinator is silent.
    pub fn is_over(&self) -> bool {
        let silent = self.lock().heard.elapsed() > self.options.contact_timeout;
        let known = self.cluster.job(self.info.id);
        silent
            || known.is_some_and(|job| {
                job.attempt > self.info.attempt || job.phase != JobPhase::Running
            })
    }

    /// Lets barrier `id` through and waits a while for all tasks to report it.
    pub async fn barrier(&self, id: u64, patience: Duration) -> Response {
        {
            let mut state = self.lock();
            state.heard = Instant::now();
            state.reports.retain(|&barrier, _| barrier >= id);
        }
        self.asked
            .send_if_modified(|asked| std::mem::replace(asked, id.max(*asked)) < id);
        let until = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = self.answer(id) {
                return answer;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Response::Waiting;
            }
        }
    }

    fn answer(&self, id: u64) -> Option<Response> {
        let state = self.lock();
        if let Some((is_final, why)) = &state.failure {
            return Some(Response::Failed {
                is_final: *is_final,
                why: why.clone(),
            });
        }
        let before = state
            .ended
            .values()
            .filter(|&&barrier| barrier < id)
            .count();
        let reports = state.reports.get(&id).map_or(&[][..], Vec::as_slice);
        if reports.len() + before >= self.tasks.len() {
            return Some(Response::Passed(reports.to_vec()));
        }
        state.running.is_none().then_some(Response::Unknown)
    }

    /// Tells whoever watches of a moment.
    pub fn tell(&self, moment: Moment) {
        let seen = Seen {
            job: self.info.id,
            attempt: self.info.attempt,
            by: self.cluster.me(),
            moment,
        };
        seen.tell(self.options.onlooker.as_ref());
    }

    /// A task has passed a barrier and everything of it is durable.
    pub fn report(&self, barrier: u64, report: Report) {
        let task = task_of(report.id);
        self.tell(Moment::Reported { barrier, task });
        let mut state = self.lock();
        if report.position.ended {
            state.ended.insert(report.id, barrier);
        }
        state.reports.entry(barrier).or_default().push(report);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Barriers asked for.
    pub fn asked(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// What each task may read, where there is a rate.
    pub fn shares(&self) -> watch::Receiver<Shares> {
        self.shares.subscribe()
    }

    /// From now on.
    pub fn set_shares(&self, shares: Shares) {
        self.shares.send_replace(shares);
    }

    pub fn step(&self, node: NodeId) -> &Step {
        &self.plan.steps[node as usize]
    }

    /// The inbox of a task that runs here.
    pub fn inbox(&self, id: TaskId) -> Option<Arc<Inbox>> {
        self.inboxes.get(&id).cloned()
    }

    /// The member that runs a task.
    pub fn place(&self, id: TaskId) -> Result<MemberId> {
        let place = self
            .places
            .get(id.node as usize)
            .and_then(|tasks| tasks.get(id.task as usize));
        place
            .copied()
            .ok_or_else(|| Error::Attempt(format!("task {id} has no place")))
    }

    pub fn owner(&self) -> Owner {
        Owner {
            uid: self.info.uid,
            gid: self.info.gid,
        }
    }

    /// What a writer of results needs to know.
    pub fn output(&self, path: String) -> Target {
        Target {
            exactly_once: self.plan.exactly_once,
            ..self.target(path)
        }
    }

    /// What a writer of this attempt needs to know.
    pub fn target(&self, path: String) -> Target {
        let (job, attempt) = (self.info.id, self.info.attempt);
        Target {
            storage: self.storage.clone(),
            path,
            owner: self.owner(),
            job,
            attempt,
            exactly_once: true,
        }
    }

    /// What this member is called.
    pub fn member_name(&self) -> String {
        let me = self.cluster.me();
        let members = self.cluster.members();
        let member = members.into_iter().find(|(id, _)| *id == me);
        member.map_or_else(|| me.to_string(), |(_, name)| name)
    }

    /// Where a task's executables write what they write to stderr.
    pub fn stderr(&self, id: TaskId) -> Place {
        let folder = format!("/.jobs/{}", self.info.name);
        let stage = self.step(id.node).stage();
        Place {
            storage: self.storage.clone(),
            cluster: self.cluster.clone(),
            owner: self.owner(),
            job: self.info.id,
            attempt: self.info.attempt,
            path: format!("{folder}/tasks/{stage}-{}/stderr", id.task),
            folder,
        }
    }

    /// What the paths of a task's state files begin with.
    pub fn state_path(&self, id: TaskId) -> String {
        format!("{}{}-{}.", state_prefix(&self.info), id.node, id.task)
    }

    /// Calls another member.
    pub async fn call(&self, to: MemberId, frame: Frame, deadline: Duration) -> Result<Response> {
        Ok(self.cluster.call(to, frame, deadline).await?.message()?)
    }
}

/// A frame with a message and no body.
pub fn frame(request: &Request) -> Frame {
    Frame::new(Service::Streaming, request, bytes::Bytes::new())
}
