//! Every limit and setting of the transport, in one place, with its reason.

use crate::{Identity, TransportError};
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// Largest payload of a datagram: fits every path before its MTU is known.
pub const DATAGRAM_BYTES_MAX: usize = 1_100;
/// Packets on loopback: twice the throughput of 1,452. With segmentation offload ten packets must fit 64 KiB.
pub(crate) const LOOPBACK_MTU_BYTES: u16 = 6_500;
/// Calls of one service served at once by one member; further ones are turned away. Counted by service, so that data
/// in plenty never keeps the agreement group from its heartbeats.
pub(crate) const CALLS_MAX: usize = 1_024;
/// Streams of one connection at once; the peer's further calls wait there.
const STREAMS_MAX: u32 = 2 * CALLS_MAX as u32;
/// Bytes of large requests held at once; small ones are bounded by [`CALLS_MAX`].
pub(crate) const REQUEST_BYTES_MAX: usize = 128 << 20;
/// Requests below this size do not count towards [`REQUEST_BYTES_MAX`].
pub(crate) const SMALL_REQUEST_BYTES: usize = 64 << 10;
/// Handshakes (up to a passed hello) at once; beyond, newcomers are refused, from half of it they prove their address first.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// Connections at once, in both directions.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;
/// Datagrams kept for a peer while it is dialled.
pub(crate) const DIAL_DATAGRAMS_MAX: usize = 16;
/// A peer that does not answer within this is unreachable.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// For how long a failed dial answers further calls at once.
pub(crate) const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// From the first packet of a newcomer to its hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request to arrive completely, and for an answer to be taken.
pub(crate) const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// For memory to hold a large request.
pub(crate) const REQUEST_MEMORY_TIMEOUT: Duration = Duration::from_secs(1);
/// For a handler to answer: no call holds its place for ever.
pub(crate) const HANDLER_TIMEOUT: Duration = Duration::from_secs(60);
/// For the last packets at shutdown.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const SEND_WINDOW_BYTES: u64 = 32 << 20;
const IDLE_TIMEOUT_MS: u32 = 3_000;
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const INITIAL_RTT: Duration = Duration::from_millis(5);
const INITIAL_WINDOW_BYTES: u64 = 512 << 10;
const ACK_EVERY_PACKETS: u32 = 40;
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
const UNREAD_DATAGRAMS_BYTES: usize = 4 << 10;
const INCOMING_MAX: usize = 1_024;
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 16 << 20;

/// Connections that we dial: the peer answers on our streams and opens none.
pub(crate) fn dialled(mtu: Option<u16>) -> TransportConfig {
    let mut config = common(mtu);
    config.max_concurrent_bidi_streams(VarInt::from_u32(0));
    // Peers send datagrams on connections of their own. None here would forbid ours too.
    config.datagram_receive_buffer_size(Some(UNREAD_DATAGRAMS_BYTES));
    config.keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// Connections that peers dialled: they call, we answer. Their keep-alive serves both ends.
pub(crate) fn accepted(mtu: Option<u16>) -> TransportConfig {
    let mut config = common(mtu);
    config.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
    config
}

fn common(mtu: Option<u16>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_concurrent_uni_streams(VarInt::from_u32(0));
    config.stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
    config.receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    config.send_window(SEND_WINDOW_BYTES);
    config.max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))));
    config.initial_rtt(INITIAL_RTT);
    // The default of 14 KiB would make the first large record of a connection wait for several delayed acks.
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    config.congestion_controller_factory(Arc::new(cubic));
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY_PACKETS));
    acks.max_ack_delay(Some(ACK_DELAY_MAX));
    config.ack_frequency_config(Some(acks));
    if let Some(mtu) = mtu {
        config.initial_mtu(mtu);
        config.min_mtu(mtu);
        config.mtu_discovery_config(None);
    }
    config
}

/// Bounds what strangers can make us hold before they have shown a certificate.
pub(crate) fn limit_incoming(config: &mut ServerConfig) {
    config.max_incoming(INCOMING_MAX);
    config.incoming_buffer_size(INCOMING_BYTES_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
}

/// The endpoint recognizes connections of its former life, so that peers of a restarted member learn of it at once
/// ("stateless reset", RFC 9000 section 10.3) instead of by a time-out.
pub(crate) fn endpoint(identity: &Identity) -> EndpointConfig {
    let reset = hmac::Key::new(
        hmac::HMAC_SHA256,
        &identity.derived_secret("hydfs stateless reset 1"),
    );
    let mut config = EndpointConfig::new(Arc::new(reset));
    let secret = identity.derived_secret("hydfs connection ids 1");
    let key = u64::from_le_bytes(secret[..8].try_into().expect("a secret has 32 bytes"));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    // The receiver must allow what a dialler on the same machine sends.
    config
        .max_udp_payload_size(LOOPBACK_MTU_BYTES)
        .expect("6,500 is between 1,200 and 65,527");
    config
}

/// The UDP socket, with buffers for bursts of many peers.
pub(crate) fn socket(listen: SocketAddr) -> Result<UdpSocket, TransportError> {
    open(listen).map_err(|source| TransportError::Listen {
        addr: listen,
        source,
    })
}

fn open(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel caps these silently at net.core.{r,w}mem_max.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let got = socket.recv_buffer_size()?;
    if got < SOCKET_BUFFER_BYTES / 2 {
        tracing::warn!(
            got_bytes = got,
            wanted_bytes = SOCKET_BUFFER_BYTES,
            "small UDP buffers will lose packets under load; raise them: sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        );
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}
