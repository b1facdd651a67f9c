//! The endpoint of one member: binds the socket, serves peers, and is the [`Net`] that everything above calls.

use crate::{
    Counters, Identity, TransportError, call,
    counters::add,
    hello::Hello,
    pool::Pool,
    serve, thread,
    tls::Tls,
    tuning::{self, CALLS_MAX, HANDSHAKES_MAX, REQUEST_BYTES_MAX, SHUTDOWN_TIMEOUT},
    wire::close,
};
use bytes::Bytes;
use hydfs_types::{BoxFuture, ClusterId, Frame, Handler, Incarnation, MemberId, Net, NetError};
use quinn::{Endpoint, TokioRuntime};
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SetOnce, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// What this member says of itself in each hello. A joiner learns it later, see [`Quic::set_who`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Who {
    pub cluster: Option<ClusterId>,
    pub member: Option<MemberId>,
    pub incarnation: Option<Incarnation>,
}

/// A fault that tests put between this member and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything that goes this way is lost: calls time out, datagrams vanish.
    Drop,
    /// Everything arrives this much later.
    Delay(Duration),
    /// So many percent of the packets are lost. A datagram vanishes; what a stream loses is sent again and comes later.
    Loss(u8),
}

/// A lost packet of a stream is sent again after about this long, if it is lost again after twice as long, and so on.
const RESEND: Duration = Duration::from_millis(40);
/// A packet is lost at most this many times in a row.
const LOSSES_MAX: u32 = 5;

impl Fault {
    /// How much later something on a stream arrives; `None`: never.
    fn lateness(self) -> Option<Duration> {
        match self {
            Self::Drop => None,
            Self::Delay(by) => Some(by),
            Self::Loss(percent) => {
                let losses = (0..LOSSES_MAX)
                    .take_while(|_| rand::random_range(0..100) < percent)
                    .count() as u32;
                Some(RESEND * ((1 << losses) - 1))
            }
        }
    }
}

/// Chooses a fault by the peer's address.
pub type FaultHook = Arc<dyn Fn(SocketAddr) -> Option<Fault> + Send + Sync>;

/// How to start an endpoint.
pub struct Options {
    /// The address to bind; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that peers use; needed where `listen` is 0.0.0.0 or [::]. Port 0 means the bound one.
    pub advertise: Option<SocketAddr>,
    pub identity: Identity,
    pub who: Who,
    pub counters: Arc<Counters>,
    /// Where handlers run; None: on the endpoint's own runtime, which they must then never block.
    pub serve_on: Option<Handle>,
}

impl Options {
    /// Options for `identity` at `listen`, all else at its default.
    pub fn new(listen: SocketAddr, identity: Identity) -> Self {
        let counters = Arc::default();
        Self {
            listen,
            advertise: None,
            identity,
            who: Who::default(),
            counters,
            serve_on: None,
        }
    }
}

/// One member's end of the network. Dropped, it closes all connections.
pub struct Quic {
    pub(crate) inner: Arc<Inner>,
    /// Ends the endpoint's own thread, where it has one.
    _stop: Option<oneshot::Sender<()>>,
}

/// What the tasks of one endpoint share.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) runtime: Handle,
    pub(crate) serve_on: Option<Handle>,
    pub(crate) name: String,
    pub(crate) pool: Pool,
    pub(crate) counters: Arc<Counters>,
    /// Places for calls, by service.
    pub(crate) calls: [Arc<Semaphore>; 4],
    pub(crate) request_bytes: Arc<Semaphore>,
    pub(crate) handshakes: Arc<Semaphore>,
    addr: SocketAddr,
    who: RwLock<Who>,
    tls: RwLock<Arc<Tls>>,
    /// Taken at shutdown: handlers usually hold this network, and the circle must be cut.
    handler: RwLock<Option<Arc<dyn Handler>>>,
    faults: RwLock<Option<FaultHook>>,
    incoming_faults: RwLock<Option<FaultHook>>,
    /// The cluster whose member first called here while this one was in none.
    knocked: SetOnce<ClusterId>,
}

impl Quic {
    /// Binds and serves on the tokio runtime that this is called in.
    pub fn bind(options: Options, handler: Arc<dyn Handler>) -> Result<Arc<Self>, TransportError> {
        let runtime =
            Handle::try_current().map_err(|error| TransportError::Runtime(error.to_string()))?;
        Self::on(runtime, None, options, handler)
    }

    /// Binds and serves on a thread of its own. Give [`Options::serve_on`] so that handlers run elsewhere.
    pub fn bind_on_own_thread(
        options: Options,
        handler: Arc<dyn Handler>,
    ) -> Result<Arc<Self>, TransportError> {
        let (runtime, stop) = thread::start("hydfs-net")?;
        Self::on(runtime, Some(stop), options, handler)
    }

    fn on(
        runtime: Handle,
        stop: Option<oneshot::Sender<()>>,
        options: Options,
        handler: Arc<dyn Handler>,
    ) -> Result<Arc<Self>, TransportError> {
        let tls = Tls::new(&options.identity)?;
        let socket = tuning::socket(options.listen)?;
        let listen_error = |source| TransportError::Listen {
            addr: options.listen,
            source,
        };
        let bound = socket.local_addr().map_err(listen_error)?;
        let addr = serving_address(bound, options.advertise)?;
        let entered = runtime.enter();
        let endpoint = Endpoint::new(
            tuning::endpoint(&options.identity),
            Some((*tls.server).clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(listen_error)?;
        drop(entered);
        let inner = Arc::new(Inner {
            endpoint,
            runtime,
            serve_on: options.serve_on,
            name: options.identity.name().into(),
            pool: Pool::default(),
            counters: options.counters,
            calls: std::array::from_fn(|_| Arc::new(Semaphore::new(CALLS_MAX))),
            request_bytes: Arc::new(Semaphore::new(REQUEST_BYTES_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            addr,
            who: RwLock::new(options.who),
            tls: RwLock::new(Arc::new(tls)),
            handler: RwLock::new(Some(handler)),
            faults: RwLock::new(None),
            incoming_faults: RwLock::new(None),
            knocked: SetOnce::new(),
        });
        inner.runtime.spawn(serve::accept(inner.clone()));
        Ok(Arc::new(Self { inner, _stop: stop }))
    }

    /// What later hellos say. Connections are opened afresh, so that peers learn it.
    pub fn set_who(&self, who: Who) {
        let mut current = self
            .inner
            .who
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if *current != who {
            *current = who;
            drop(current);
            self.inner.pool.clear();
        }
    }

    /// Uses another certificate of the same name, or other CAs, for connections from now on.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), TransportError> {
        if identity.name() != self.inner.name {
            let (name, other) = (self.inner.name.clone(), identity.name().into());
            return Err(TransportError::Renamed { name, other });
        }
        let tls = Arc::new(Tls::new(identity)?);
        self.inner
            .endpoint
            .set_server_config(Some((*tls.server).clone()));
        *self
            .inner
            .tls
            .write()
            .unwrap_or_else(PoisonError::into_inner) = tls;
        self.inner.pool.clear();
        Ok(())
    }

    /// Puts faults on what this member sends to its peers; for tests.
    pub fn set_faults(&self, hook: Option<FaultHook>) {
        *self
            .inner
            .faults
            .write()
            .unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Puts faults on what this member gets from its peers; for tests. Peers are told by the address that they serve at.
    pub fn set_incoming_faults(&self, hook: Option<FaultHook>) {
        *self
            .inner
            .incoming_faults
            .write()
            .unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Waits until a member of a cluster calls here while this one is in none, and is refused: it takes this machine for one of
    /// its own, as after the loss of a data folder.
    pub async fn knocked(&self) -> ClusterId {
        *self.inner.knocked.wait().await
    }

    /// Closes the connection to `addr` (calls on it break) and forgets that it could not be reached.
    pub fn forget(&self, addr: SocketAddr) {
        self.inner.pool.forget(addr);
    }

    /// The counts of this endpoint.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// Connections open now, in both directions.
    pub fn connections(&self) -> usize {
        self.inner.endpoint.open_connections()
    }

    /// Ends all connections, tells peers why, lets go of the handler, and waits a moment for the last packets.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner
            .endpoint
            .close(close::SHUTDOWN, b"the member is shutting down");
        inner.pool.clear();
        drop(
            inner
                .handler
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if timeout(SHUTDOWN_TIMEOUT, inner.endpoint.wait_idle())
            .await
            .is_err()
        {
            tracing::debug!("some peers did not confirm the end of their connection");
        }
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.inner
            .endpoint
            .close(close::SHUTDOWN, b"the member is shutting down");
        self.inner.pool.clear();
    }
}

impl Inner {
    pub(crate) fn who(&self) -> Who {
        *self.who.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello::new(&self.name, self.addr, self.who())
    }

    pub(crate) fn tls(&self) -> Arc<Tls> {
        self.tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn handler(&self) -> Option<Arc<dyn Handler>> {
        self.handler
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why a member of a cluster may not call this one, if it is in none yet. Whoever wants to join calls others.
    pub(crate) fn stranger(&self, ours: &Hello, theirs: &Hello) -> Option<String> {
        let (None, Some(cluster)) = (ours.cluster, theirs.cluster) else {
            return None;
        };
        // Whoever knocks again says no more.
        drop(self.knocked.set(cluster));
        Some(format!(
            "{} is in no cluster (yet), {} in {cluster}: it may be called once it has joined",
            ours.name, theirs.name
        ))
    }

    fn fault(&self, to: SocketAddr) -> Option<Fault> {
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        faults.as_ref().and_then(|choose| choose(to))
    }

    fn incoming_fault(&self, from: SocketAddr) -> Option<Fault> {
        let faults = self
            .incoming_faults
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        faults.as_ref().and_then(|choose| choose(from))
    }

    /// How much later something on a stream to that peer leaves; `None`: it is lost.
    pub(crate) fn lateness_to(&self, to: SocketAddr) -> Option<Duration> {
        self.fault(to).map_or(Some(Duration::ZERO), Fault::lateness)
    }

    /// How much later something on a stream from that peer arrives; `None`: it is lost.
    pub(crate) fn lateness_from(&self, from: SocketAddr) -> Option<Duration> {
        self.incoming_fault(from)
            .map_or(Some(Duration::ZERO), Fault::lateness)
    }

    /// What becomes of a datagram under this fault: when it goes on, or `None`.
    fn datagram_lateness(fault: Option<Fault>) -> Option<Duration> {
        match fault {
            None => Some(Duration::ZERO),
            Some(Fault::Drop) => None,
            Some(Fault::Delay(by)) => Some(by),
            Some(Fault::Loss(percent)) => {
                (rand::random_range(0..100) >= percent).then_some(Duration::ZERO)
            }
        }
    }

    /// As [`Inner::lateness_from`], for a datagram.
    pub(crate) fn datagram_from(&self, from: SocketAddr) -> Option<Duration> {
        Self::datagram_lateness(self.incoming_fault(from))
    }

    /// Whether a connection to that cluster may be used; one that knows none yet may.
    pub(crate) fn same_cluster(&self, theirs: Option<ClusterId>) -> bool {
        match (self.who().cluster, theirs) {
            (Some(here), Some(there)) => here == there,
            _ => true,
        }
    }
}

impl Net for Quic {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let runtime = inner.runtime.clone();
            let calling = call::call(inner, to, frame, deadline);
            // From another runtime, one hand-over each way costs less than each packet waking the caller.
            if Handle::try_current().is_ok_and(|here| here.id() == runtime.id()) {
                return calling.await;
            }
            match AbortOnDrop(runtime.spawn(calling)).join().await {
                Some(answer) => answer,
                None => Err(NetError::Broken {
                    addr: to,
                    why: "this member's network stopped".into(),
                }),
            }
        })
    }

    fn send_datagram(&self, to: SocketAddr, payload: Bytes) {
        match Inner::datagram_lateness(self.inner.fault(to)) {
            None => add(&self.inner.counters.datagrams_dropped, 1),
            Some(Duration::ZERO) => self.inner.datagram_to(to, payload),
            Some(late) => {
                let inner = self.inner.clone();
                drop(self.inner.runtime.spawn(async move {
                    tokio::time::sleep(late).await;
                    inner.datagram_to(to, payload);
                }));
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.addr
    }
}

/// A caller that goes away takes its call along.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serving_address(
    bound: SocketAddr,
    advertise: Option<SocketAddr>,
) -> Result<SocketAddr, TransportError> {
    let mut addr = advertise.unwrap_or(bound);
    if addr.ip().is_unspecified() {
        return Err(TransportError::Advertise { listen: bound });
    }
    if addr.port() == 0 {
        addr.set_port(bound.port());
    }
    Ok(addr)
}
