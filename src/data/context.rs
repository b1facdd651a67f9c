//! What every part of the data plane works with, and the gate that each request passes (R3).

use crate::{counters::Counters, error::DataError, throttle::Throttle};
use bytes::Bytes;
use hydfs_state::{Event, State};
use hydfs_types::{
    Agreement, DataRequest, DataResponse, Frame, Incarnation, LogIndex, MapVersion, Net, Planted,
    Refusal, SEGMENT_BYTES, Service, SlotConfig, SlotEpoch, SlotId,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// The local copy of the agreed state.
pub type SharedState = Arc<RwLock<State>>;

/// How long a replica waits to reach the map that a request names.
const CATCH_UP: Duration = Duration::from_millis(1500);
/// Deadline of one round to one replica.
pub const ROUND: Duration = Duration::from_secs(4);

/// What a simulated member may have otherwise than a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Appends end a segment that is this long.
    pub segment_bytes: u64,
    /// A bug to be found.
    pub planted: Option<Planted>,
}

impl Default for Trial {
    /// As every real member has it.
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            planted: None,
        }
    }
}

/// The seams of one member's data plane.
pub struct Context {
    pub net: Arc<dyn Net>,
    pub agreement: Arc<dyn Agreement>,
    pub state: SharedState,
    pub counters: Counters,
    /// The pace of repair.
    pub throttle: Throttle,
    /// Rung whenever a local segment moved to another version.
    pub moved: Notify,
    /// Rung whenever members may have begun or ended.
    pub members: Notify,
    /// Rung whenever members or slot configs have changed.
    pub configs: Notify,
    trial: Trial,
    me: AtomicU64,
    /// Index of the last command that changed members or slot configs.
    configured: AtomicU64,
}

impl Context {
    pub fn new(
        net: Arc<dyn Net>,
        agreement: Arc<dyn Agreement>,
        state: SharedState,
        trial: Trial,
    ) -> Self {
        Self {
            net,
            agreement,
            state,
            counters: Counters::default(),
            throttle: Throttle::default(),
            moved: Notify::new(),
            members: Notify::new(),
            configs: Notify::new(),
            trial,
            me: AtomicU64::new(0),
            configured: AtomicU64::new(u64::MAX),
        }
    }

    /// The state, for a look without waiting.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends end a segment that is this long.
    pub fn segment_bytes(&self) -> u64 {
        self.trial.segment_bytes
    }

    /// Whether this bug is planted here; never in production.
    pub fn has(&self, bug: Planted) -> bool {
        self.trial.planted == Some(bug)
    }

    /// This member's incarnation.
    pub fn me(&self) -> Incarnation {
        Incarnation(self.me.load(Ordering::Acquire))
    }

    /// Sets it after an admission.
    pub fn set_me(&self, incarnation: Incarnation) {
        self.me.store(incarnation.0, Ordering::Release);
    }

    /// What a message must name so that its receiver knows all that this member knows.
    pub fn map(&self) -> MapVersion {
        MapVersion(self.state().index.0)
    }

    /// Config of a slot.
    pub fn config(&self, slot: SlotId) -> Result<SlotConfig, DataError> {
        self.state()
            .config(slot)
            .cloned()
            .ok_or(DataError::NoCluster)
    }

    /// Takes note of events of the command at `index`. Called before anybody can see what it changed.
    pub fn note(&self, index: LogIndex, events: &[Event]) {
        let configures =
            |event: &Event| matches!(event, Event::Members | Event::Slots(_) | Event::Replaced);
        if events.iter().any(configures) {
            self.configured.store(index.0, Ordering::Release);
        }
    }

    /// Index of the last command that changed members or slot configs.
    pub fn configured(&self) -> LogIndex {
        LogIndex(self.configured.load(Ordering::Acquire))
    }

    /// Waits until members or slot configs are others than at `seen`, but not for longer than this.
    pub async fn reconfigured(&self, seen: LogIndex, at_most: Duration) {
        let changed = async {
            loop {
                let mut rung = std::pin::pin!(self.configs.notified());
                rung.as_mut().enable();
                if self.configured() != seen {
                    return;
                }
                rung.await;
            }
        };
        // A wait that ends without a change is the usual one.
        drop(tokio::time::timeout(at_most, changed).await);
    }

    /// R4, R7: what was done at a slot config counts only when that config is visible, since a reader with a lease may
    /// still ask the slot leader of the one before. Costs nothing but soon after a change.
    pub async fn config_is_visible(&self) -> Result<(), DataError> {
        if self.agreement.visible() < self.configured() {
            self.agreement.barrier().await?;
        }
        Ok(())
    }

    /// Where an incarnation serves.
    pub fn addr(&self, incarnation: Incarnation) -> Option<SocketAddr> {
        self.state()
            .member_of(incarnation)
            .map(|member| member.said.addr)
    }

    /// Waits until the local state is at `map`.
    pub async fn catch_up(&self, map: MapVersion) -> Result<(), Refusal> {
        if self.state().index.0 >= map.0 {
            return Ok(());
        }
        match tokio::time::timeout(CATCH_UP, self.agreement.wait_applied(LogIndex(map.0))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Refusal::Behind),
        }
    }

    /// R3: catches up with the request's map, then refuses another epoch than the config's.
    pub async fn gate(
        &self,
        slot: SlotId,
        epoch: SlotEpoch,
        map: MapVersion,
    ) -> Result<SlotConfig, Refusal> {
        self.catch_up(map).await?;
        self.check(slot, epoch)
    }

    /// The gate's second half, without a wait: called again after any wait, right before a record is taken.
    pub fn check(&self, slot: SlotId, epoch: SlotEpoch) -> Result<SlotConfig, Refusal> {
        let state = self.state();
        let config = state.config(slot).ok_or(Refusal::NotActing)?;
        if config.epoch != epoch {
            return Err(Refusal::StaleEpoch(config.clone()));
        }
        Ok(config.clone())
    }

    /// Waits until the agreed state has ended this incarnation.
    async fn ended(&self, incarnation: Incarnation) {
        loop {
            let mut rung = std::pin::pin!(self.members.notified());
            rung.as_mut().enable();
            if !self.state().cluster.alive.contains_key(&incarnation) {
                return;
            }
            rung.await;
        }
    }

    /// One request to one member and its answer with body. Nobody waits for the dead: once the member is expired the
    /// answer could count for nothing.
    pub async fn call(
        &self,
        to: Incarnation,
        request: &DataRequest,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(DataResponse, Bytes), DataError> {
        let addr = self.addr(to).ok_or(DataError::Gone(to))?;
        self.counters.round(request);
        let frame = Frame::new(Service::Data, request, body);
        let answer = tokio::select! {
            biased;
            answer = self.net.call(addr, frame, deadline) => answer?,
            () = self.ended(to) => return Err(DataError::Gone(to)),
        };
        let message = answer
            .message()
            .map_err(|error| DataError::Malformed(error.to_string()))?;
        Ok((message, answer.body))
    }
}
