//! RainStorm on one member: what the node starts, feeds and stops.

use crate::attempt::frame;
use crate::audit::{self, Audited, Far};
use crate::beat::Beat;
use crate::circles;
use crate::coordinator;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::message::{Request, Response};
use crate::options::Options;
use crate::prepare;
use crate::seams::{Cluster, Owner, Storage};
use crate::worker::Worker;
use bytes::Bytes;
use hydfs_types::{BoxFuture, Frame, MemberId, Service};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Notices of closed specs that may wait; those above are found by the next scan.
const NOTICES_MAX: usize = 1024;

/// RainStorm on one member. Dropping it stops it at once.
pub struct Rainstorm {
    storage: Arc<dyn Storage>,
    options: Arc<Options>,
    cluster: Arc<dyn Cluster>,
    worker: Arc<Worker>,
    closed: mpsc::Sender<String>,
    coordinator: Mutex<Option<JoinHandle<()>>>,
}

impl Rainstorm {
    /// Starts on the current tokio runtime.
    pub fn start(
        storage: Arc<dyn Storage>,
        cluster: Arc<dyn Cluster>,
        options: Options,
    ) -> Arc<Self> {
        let options = Arc::new(options);
        let worker = Arc::new(Worker::new(
            storage.clone(),
            cluster.clone(),
            options.clone(),
        ));
        let (closed, notices) = mpsc::channel(NOTICES_MAX);
        let driver = Driver {
            rates: Arc::default(),
            told: Arc::default(),
            changing: Arc::default(),
            copying: Arc::default(),
            ends: Arc::default(),
            beat: Beat::default(),
            storage: storage.clone(),
            cluster: cluster.clone(),
            options: options.clone(),
            worker: worker.clone(),
        };
        let coordinator = Mutex::new(Some(tokio::spawn(coordinator::run(driver, notices))));
        Arc::new(Self {
            storage,
            options,
            cluster,
            worker,
            closed,
            coordinator,
        })
    }

    /// Answers a frame of `Service::Streaming` from another member. Malformed ones are answered, too.
    pub fn serve(&self, _from: MemberId, frame: Frame) -> BoxFuture<'static, Frame> {
        let worker = self.worker.clone();
        let closed = self.closed.clone();
        Box::pin(async move {
            let response = match frame.message::<Request>() {
                Ok(Request::SpecClosed { path }) => {
                    // A full queue is no loss: the next scan finds the spec.
                    drop(closed.try_send(path));
                    Response::Done
                }
                Ok(request) => worker.handle(request, frame.body).await,
                Err(error) => Response::Bad(error.to_string()),
            };
            Frame::new(Service::Streaming, &response, Bytes::new())
        })
    }

    /// Whether a spec would start, with the sources as they are now; nothing is started. `path` is what messages
    /// call it, and its ending says whether it is TOML or JSON. `Error::Spec` says where and what to do.
    pub async fn check(&self, path: &str, owner: Owner, text: String) -> Result<()> {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.rsplit_once('.').map_or(file, |(name, _)| name);
        let (storage, cluster) = (&*self.storage, &*self.cluster);
        let (positions, _) =
            prepare::check(storage, &self.options, path, (name, owner), text).await?;
        circles::located(storage, cluster, (path, name), &positions).await
    }

    /// Checks the last job of this name against its receipt, as far as it has committed: reads all its input and output
    /// again. `Error::Job` says what does not hold.
    pub async fn audit(&self, name: &str) -> Result<Audited> {
        self.audit_seen(name, &Far::default()).await
    }

    /// The same; how far it is can be seen meanwhile.
    pub async fn audit_seen(&self, name: &str, far: &Far) -> Result<Audited> {
        let jobs = self.cluster.jobs().into_iter();
        let job = jobs.filter(|job| job.name == name).max_by_key(|job| job.id);
        let Some(job) = job else {
            return Err(Error::Job(format!("there is no job {name}")));
        };
        audit::audit(&self.storage, &job, far).await
    }

    /// A file in `/.jobs` or a job's `control` was closed after writing, or renamed there, on this member. Never waits.
    pub fn spec_closed(&self, path: &str) {
        let leader = *self.cluster.leader().borrow();
        match leader {
            Some(leader) if leader != self.cluster.me() => {
                let notice = frame(&Request::SpecClosed {
                    path: path.to_owned(),
                });
                let call = self.cluster.call(leader, notice, Duration::from_secs(2));
                tokio::spawn(async move {
                    if let Err(error) = call.await {
                        tracing::debug!(%error, "the leader will find the spec by itself");
                    }
                });
            }
            // As in `serve`.
            _ => drop(self.closed.try_send(path.to_owned())),
        }
    }

    /// Stops coordinating and drops all tasks and their processes.
    pub fn shutdown(&self) {
        let coordinator = self
            .coordinator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(coordinator) = coordinator {
            coordinator.abort();
        }
        self.worker.stop();
    }
}

impl Drop for Rainstorm {
    fn drop(&mut self) {
        self.shutdown();
    }
}
