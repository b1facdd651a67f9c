//! The network seam: calls and datagrams between members. Production is QUIC with mutual TLS
//! (`hydfs-transport`); the simulator hands in a network in memory.

use crate::{Frame, MemberId};
use bytes::Bytes;
use std::{future::Future, net::SocketAddr, pin::Pin, time::Duration};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who sent a frame: proven by its certificate, not claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The member name in the certificate.
    pub name: String,
    /// The address that the peer serves at (from its hello), not the ephemeral one.
    pub addr: SocketAddr,
    /// Its member id, if its hello named one.
    pub member: Option<MemberId>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Nothing was sent: the peer cannot be reached now.
    #[error("cannot reach {addr}: {why}")]
    Unreachable { addr: SocketAddr, why: String },
    /// Sent or not, we do not know: the effect is unknown, retry under the same identity.
    #[error("no answer from {addr} within {millis} ms")]
    TimedOut { addr: SocketAddr, millis: u64 },
    /// The peer (or we) refused the connection: wrong certificate, cluster or protocol.
    #[error("{addr} refused: {why}")]
    Refused { addr: SocketAddr, why: String },
    /// The connection broke during the call: the effect is unknown.
    #[error("connection to {addr} broke: {why}")]
    Broken { addr: SocketAddr, why: String },
}

/// One member's view of the network.
pub trait Net: Send + Sync + 'static {
    /// Sends `frame` to the member that serves at `to` and waits at most `deadline` for its answer.
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>>;
    /// Sends at most 1,100 bytes, unreliably. Never waits: where there is no connection yet, one is opened
    /// in the background and the datagram follows or is dropped.
    fn send_datagram(&self, to: SocketAddr, payload: Bytes);
    /// The address that this member serves at.
    fn local_addr(&self) -> SocketAddr;
}

/// What a member does with what arrives. The receive path never awaits a handler (fault M6): each call runs
/// in a task of its own, under a limit on tasks.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call. A handler never panics on malformed input: it answers an error of its service.
    fn serve(&self, from: Peer, frame: Frame) -> BoxFuture<'static, Frame>;
    /// Takes a datagram. Must return at once.
    fn datagram(&self, from: Peer, payload: Bytes);
}
