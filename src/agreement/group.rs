//! One member's part in the group: starting, stopping, and what the other modules share.

use crate::{
    barrier::{self, BARRIERS_MAX, Lease, Waiter},
    error::Error,
    leases::{self, Held, Holders},
    log::Storage,
    machine::{Machine, StateMachine},
    network::Peers,
    options::{Options, Timing},
    progress::Progress,
    raft::{Raft, Runtime},
    serve::{ASKED_MAX, Incoming},
    session::Session,
    snapshots::Snapshots,
};
use hydfs_store::SyncMode;
use hydfs_types::{
    Agreement, AgreementError, AppliedWatch, BoxFuture, Clock, Command, CommandIdentity,
    Incarnation, LogIndex, MemberId, Reply, SessionId, Time,
};
use openraft::async_runtime::WatchReceiver;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

/// Most commands of one member that wait for an answer. The state's window of answers holds at least as many.
pub const PROPOSALS_MAX: usize = 1024;
/// Pauses between attempts.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(25);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// Default deadline for the local copy to catch up with an index.
const APPLIED_DEADLINE: Duration = Duration::from_secs(10);

/// Term and leader as this member knows them. A term has at most one leader.
pub type Leadership = (u64, Option<MemberId>);

/// Keeps parts of the local copy for others to look at: the kernel of a mount.
pub trait Onlooker: Send + Sync + 'static {
    /// Resolves when nothing is kept any more that an entry applied before this call has changed.
    fn settled(&self) -> BoxFuture<'static, ()>;
}

/// A member of the agreement group. [`Group::shutdown`] ends it; merely dropped, it ends soon after.
pub struct Group {
    me: MemberId,
    raft: Raft,
    storage: Storage,
    peers: Peers,
    clock: Arc<dyn Clock>,
    timing: Timing,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Leadership>,
    session: Session,
    proposals: Semaphore,
    /// Places for commands of other members.
    asked: Semaphore,
    barriers: mpsc::Sender<Waiter>,
    lease: Lease,
    holders: Holders,
    held: Held,
    onlooker: OnceLock<Arc<dyn Onlooker>>,
    /// Everything up to here is applied, and the onlooker has been told.
    told: AtomicU64,
    this: Weak<Self>,
    incoming: Mutex<Incoming>,
    monitor: JoinHandle<()>,
}

impl Group {
    /// Starts this member's part: loads the last snapshot, applies what is known to be committed, and waits to hear from a
    /// leader (or, the only voter, leads at once). A folder that never was part of a group waits for [`Group::bootstrap`]
    /// or for a leader that adds it.
    pub fn start(
        options: Options,
        state: Box<dyn StateMachine>,
    ) -> BoxFuture<'static, Result<Arc<Self>, Error>> {
        Box::pin(async move {
            let config = options
                .timing
                .config(&options.retention)
                .map_err(|error| Error::Timing(error.to_string()))?;
            let threads = options.log.sync == SyncMode::Thread;
            let snapshots = Arc::new(Snapshots::open(
                options.disk.clone(),
                &options.dir,
                threads,
            )?);
            let storage = Storage::open(options.disk, &options.dir, options.log)?;
            let progress = Arc::new(Progress::new());
            let peers = Peers::new(options.net, options.resolve);
            let machine = Machine::new(state, progress.clone(), snapshots);
            let starting = Raft::new(
                options.me.0,
                Arc::new(config),
                peers.clone(),
                storage.clone(),
                machine,
            );
            let raft = Runtime::scope(options.seed, starting)
                .await
                .map_err(|error| Error::Start(error.to_string()))?;
            let (leadership_changed, leadership) = watch::channel((0, None));
            let (barriers, asked) = mpsc::channel(BARRIERS_MAX);
            let group = Arc::new_cyclic(|this| Self {
                me: options.me,
                monitor: tokio::spawn(monitor(raft.clone(), leadership_changed, progress.clone())),
                raft,
                storage,
                peers,
                clock: options.clock,
                timing: options.timing,
                progress,
                leadership,
                session: Session::new(options.session, options.kept),
                proposals: Semaphore::new(PROPOSALS_MAX),
                asked: Semaphore::new(ASKED_MAX),
                barriers,
                lease: Lease::new(threads),
                holders: Holders::new(options.planted),
                held: Held::default(),
                onlooker: OnceLock::new(),
                told: AtomicU64::new(0),
                this: this.clone(),
                incoming: Mutex::default(),
            });
            tokio::spawn(barrier::run(Arc::downgrade(&group), asked));
            tokio::spawn(leases::renew(Arc::downgrade(&group)));
            Ok(group)
        })
    }

    /// What this member's commands are asked as from now on, by the process with this start count; `Incarnation(0)` until it is
    /// admitted.
    pub fn set_incarnation(&self, incarnation: Incarnation, start: u64) {
        self.session.set_incarnation(incarnation, start);
    }

    /// The cluster has ended this member's incarnation: its commands belong to `session` from the next admission on.
    pub fn renew_session(&self, session: SessionId) {
        self.session.renew(session);
    }

    /// Follows term and leader.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Why nothing is agreed here any more, if so: its disk failed, or it was shut down.
    pub fn failure(&self) -> Option<AgreementError> {
        self.progress.stopped()
    }

    /// Whether this member leads, as far as it knows: a majority may have turned away unheard. See [`Group::leads_within`].
    pub fn is_leader(&self) -> bool {
        self.leadership.borrow().1 == Some(self.me)
    }

    /// Whether this member leads and a majority of voters acknowledged it at most `age` ago.
    pub fn leads_within(&self, age: Duration) -> bool {
        self.is_leader()
            && self
                .metrics()
                .quorum_age
                .is_some_and(|acknowledged| acknowledged <= age)
    }

    /// The last entry that this member's folder has, in its log or its snapshot.
    pub fn last_entry(&self) -> LogIndex {
        self.storage.last().max(self.progress.applied())
    }

    /// Has everything on disk, and says how far it is agreed: no later start of this folder has less.
    pub fn secure(&self) -> BoxFuture<'_, Result<LogIndex, Error>> {
        Box::pin(async move {
            let applied = self.progress.applied();
            self.storage.sync().await?;
            Ok(applied)
        })
    }

    /// Stops taking part, with everything written on disk. Callers that still wait are told that it stopped.
    pub fn shutdown(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.release().await;
            self.progress.stop("shut down".into());
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(%error, "the agreement group did not stop in order");
            }
            self.storage.sync().await
        })
    }

    pub(crate) fn me(&self) -> MemberId {
        self.me
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn proposals(&self) -> &Semaphore {
        &self.proposals
    }

    pub(crate) fn asked(&self) -> &Semaphore {
        &self.asked
    }

    pub(crate) fn barriers(&self) -> &mpsc::Sender<Waiter> {
        &self.barriers
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn holders(&self) -> &Holders {
        &self.holders
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// Who keeps parts of the local copy from now on, under this member's read lease. Once.
    pub fn set_onlooker(&self, onlooker: Arc<dyn Onlooker>) {
        drop(self.onlooker.set(onlooker));
    }

    pub(crate) fn onlooker(&self) -> Option<&Arc<dyn Onlooker>> {
        self.onlooker.get()
    }

    pub(crate) fn tell(&self, index: LogIndex) {
        self.told.fetch_max(index.0, Ordering::AcqRel);
    }

    /// Everything up to here is applied, and told to whoever keeps something of it.
    pub(crate) fn told_through(&self) -> LogIndex {
        match self.onlooker() {
            Some(_) => LogIndex(self.told.load(Ordering::Acquire)),
            None => self.progress.applied(),
        }
    }

    pub(crate) fn this(&self) -> Weak<Self> {
        self.this.clone()
    }

    pub(crate) fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a member serves: the agreed state knows, else the address that it was added to the group with.
    pub(crate) fn address_of(&self, member: MemberId) -> Option<SocketAddr> {
        (self.peers.resolve)(member).or_else(|| {
            let metrics = self.raft.server_metrics();
            let members = metrics.borrow_watched().membership_config.clone();
            members.get_node(&member.0).map(|node| node.0)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.progress.stop("dropped".into());
        let raft = self.raft.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { raft.shutdown().await });
        }
        self.monitor.abort();
    }
}

impl Agreement for Group {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, AgreementError>> {
        Box::pin(self.propose_by(command, Instant::now() + self.timing.propose_deadline))
    }

    fn propose_kept<'a>(
        &'a self,
        command: Command,
        identity: &'a dyn CommandIdentity,
    ) -> BoxFuture<'a, Result<Reply, AgreementError>> {
        let deadline = Instant::now() + self.timing.propose_deadline;
        Box::pin(self.propose_as(command, Some(identity), deadline))
    }

    fn forget(&self, seq: u64) {
        self.session.forget(seq);
    }

    fn barrier(&self) -> BoxFuture<'_, Result<LogIndex, AgreementError>> {
        Box::pin(self.barrier_by(Instant::now() + self.timing.barrier_deadline))
    }

    fn wait_applied(&self, index: LogIndex) -> BoxFuture<'_, Result<(), AgreementError>> {
        Box::pin(
            self.progress
                .reached(index, Instant::now() + APPLIED_DEADLINE),
        )
    }

    fn applied(&self) -> AppliedWatch {
        self.progress.watch()
    }

    fn visible(&self) -> LogIndex {
        self.held.visible()
    }

    fn leased(&self) -> Option<LogIndex> {
        self.held.usable(self.progress.applied())
    }

    fn lease_left(&self) -> Duration {
        self.held.left()
    }

    fn leader(&self) -> Option<MemberId> {
        self.leadership.borrow().1
    }
}

/// Passes on who leads, and the news when openraft stops.
async fn monitor(raft: Raft, leadership: watch::Sender<Leadership>, progress: Arc<Progress>) {
    let mut server = raft.server_metrics();
    loop {
        let now = {
            let metrics = server.borrow_watched();
            (
                metrics.vote.leader_id.term,
                metrics.current_leader.map(MemberId),
            )
        };
        leadership.send_if_modified(|known| std::mem::replace(known, now) != now);
        if server.changed().await.is_err() {
            break;
        }
    }
    let state = raft.metrics().borrow_watched().running_state.clone();
    let why = state
        .err()
        .map_or_else(|| "openraft stopped".to_owned(), |error| error.to_string());
    leadership.send_modify(|known| known.1 = None);
    progress.stop(why);
}
