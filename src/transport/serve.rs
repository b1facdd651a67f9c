//! The serving side. Nothing here waits for a handler but the task of the one call that it answers (fault M6).

use crate::{
    counters::add,
    hello::{HELLO_BYTES_MAX, Hello, cut_reason, other_cluster},
    quic::Inner,
    tls,
    tuning::{CONNECTIONS_MAX, HANDLER_TIMEOUT, HANDSHAKES_MAX, HELLO_TIMEOUT, STREAM_TIMEOUT},
    wire::{self, ReadFault, Stream, close, stream},
};
use hydfs_types::{ClusterId, Frame, Handler, Peer};
use quinn::{Connection, Incoming, RecvStream};
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let free = inner.handshakes.available_permits();
        let permit = inner.handshakes.clone().try_acquire_owned();
        match permit {
            Ok(_)
                if free < HANDSHAKES_MAX / 2
                    && incoming.may_retry()
                    && !incoming.remote_address_validated() =>
            {
                // Under a flood, an address has to be proven before it costs a handshake. Fails only if validated.
                incoming.retry().ok();
            }
            Ok(permit) if inner.endpoint.open_connections() < CONNECTIONS_MAX => {
                let inner = inner.clone();
                inner
                    .runtime
                    .clone()
                    .spawn(welcome(inner, incoming, permit));
            }
            _ => {
                add(&inner.counters.overloads, 1);
                incoming.refuse();
            }
        }
    }
}

async fn welcome(inner: Arc<Inner>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let from = incoming.remote_address();
    let greeted = match timeout(HELLO_TIMEOUT, greet(&inner, incoming)).await {
        Ok(greeted) => greeted,
        Err(_) => Err("no hello in time".into()),
    };
    drop(permit);
    match greeted {
        Ok((connection, peer, cluster)) => {
            add(&inner.counters.accepts, 1);
            tracing::debug!(peer = %peer.name, addr = %peer.addr, "accepted");
            serve(inner, connection, peer, cluster).await;
        }
        Err(why) => {
            add(&inner.counters.refused, 1);
            tracing::debug!(%from, "refused a connection: {why}");
        }
    }
}

/// The accepting half of the hello. Until it returns, no stream but the hello's is looked at.
async fn greet(
    inner: &Inner,
    incoming: Incoming,
) -> Result<(Connection, Peer, Option<ClusterId>), String> {
    let tls = inner.tls();
    let local = incoming.remote_address().ip().to_canonical().is_loopback();
    let config = if local {
        tls.server_local.clone()
    } else {
        tls.server.clone()
    };
    let connection = incoming
        .accept_with(config)
        .map_err(text)?
        .await
        .map_err(text)?;
    let certified = tls::peer_name(&connection).unwrap_or_default();
    let (mut send, mut recv) = connection.accept_bi().await.map_err(text)?;
    let ours = inner.hello();
    let judged = match recv.read_to_end(HELLO_BYTES_MAX).await {
        Err(error) => Err(format!("no hello: {error}")),
        Ok(bytes) => Hello::decode(&bytes),
    };
    let judged = judged.and_then(|theirs| {
        match Hello::objection(&ours, &theirs, &certified)
            .or_else(|| inner.stranger(&ours, &theirs))
        {
            Some(why) => Err(why),
            None => Ok(theirs),
        }
    });
    match judged {
        Ok(theirs) => {
            send.write_all(&ours.encode()).await.map_err(text)?;
            send.finish().map_err(text)?;
            let peer = Peer {
                name: theirs.name,
                addr: theirs.addr,
                member: theirs.member,
            };
            Ok((connection, peer, theirs.cluster))
        }
        Err(why) => {
            connection.close(close::REFUSED, cut_reason(&why).as_bytes());
            tracing::warn!(from = %connection.remote_address(), member = certified, "refused a member: {why}");
            Err(why)
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn serve(inner: Arc<Inner>, connection: Connection, peer: Peer, cluster: Option<ClusterId>) {
    loop {
        tokio::select! {
            biased;
            datagram = connection.read_datagram() => {
                let Ok(payload) = datagram else { break };
                let Some(handler) = inner.admit(&connection, &peer, cluster) else { break };
                add(&inner.counters.datagrams_in, 1);
                match inner.datagram_from(peer.addr) {
                    Some(Duration::ZERO) => handler.datagram(peer.clone(), payload),
                    Some(late) => {
                        let peer = peer.clone();
                        drop(inner.runtime.spawn(async move {
                            tokio::time::sleep(late).await;
                            handler.datagram(peer, payload);
                        }));
                    }
                    None => add(&inner.counters.datagrams_dropped, 1),
                }
            }
            opened = connection.accept_bi() => {
                let Ok(opened) = opened else { break };
                let Some(handler) = inner.admit(&connection, &peer, cluster) else { break };
                let stream = Stream::new(opened, stream::OVERLOADED);
                drop(inner.runtime.spawn(answer(inner.clone(), handler, peer.clone(), stream)));
            }
        }
    }
}

impl Inner {
    /// The handler, unless this member has left the peer's cluster or stopped since the hello.
    fn admit(
        &self,
        connection: &Connection,
        peer: &Peer,
        cluster: Option<ClusterId>,
    ) -> Option<Arc<dyn Handler>> {
        let who = self.who();
        if let (Some(here), Some(there)) = (who.cluster, cluster)
            && here != there
        {
            let why = other_cluster(&self.name, here, &peer.name, there);
            connection.close(close::REFUSED, cut_reason(&why).as_bytes());
            add(&self.counters.refused, 1);
            return None;
        }
        self.handler()
    }
}

/// A request and what it holds while it is in hand.
struct Request {
    frame: Frame,
    _call: OwnedSemaphorePermit,
    _memory: Option<OwnedSemaphorePermit>,
}

async fn receive(inner: &Inner, recv: &mut RecvStream) -> Result<Request, ReadFault> {
    let announced = wire::read_prefix(recv).await?;
    let call = inner.calls[announced.service as usize - 1]
        .clone()
        .try_acquire_owned()
        .map_err(|_| ReadFault::Overload)?;
    let memory = wire::reserve(announced, &inner.request_bytes).await?;
    let frame = wire::read_rest(recv, announced).await?;
    Ok(Request {
        frame,
        _call: call,
        _memory: memory,
    })
}

/// Reads one request, has it handled and sends the answer.
async fn answer(inner: Arc<Inner>, handler: Arc<dyn Handler>, peer: Peer, mut stream: Stream) {
    let Request {
        frame: request,
        _call,
        _memory,
    } = match timeout(STREAM_TIMEOUT, receive(&inner, &mut stream.recv)).await {
        Ok(Ok(request)) => request,
        Ok(Err(ReadFault::Overload)) => return add(&inner.counters.overloads, 1),
        Ok(Err(ReadFault::Frame(error))) => {
            stream.end = stream::MALFORMED;
            add(&inner.counters.malformed, 1);
            return tracing::debug!(peer = %peer.name, "not a frame: {error}");
        }
        // The caller gave up, or its bytes do not come: nothing was handled.
        Ok(Err(ReadFault::Stream(_))) => return,
        Err(_) => return add(&inner.counters.timeouts, 1),
    };
    // Under a fault the caller hears nothing until its own deadline.
    let Some(late) = inner.lateness_from(peer.addr) else {
        return tokio::time::sleep(STREAM_TIMEOUT).await;
    };
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    add(&inner.counters.bytes_in, wire::frame_bytes(&request));
    stream.end = stream::FAILED;
    let service = request.service;
    let Some(answer) = handle(&inner, handler, &peer, request).await else {
        return;
    };
    if let Err(error) = wire::check_size(&answer) {
        return tracing::error!(peer = %peer.name, ?service, "answer not sent: {error}; this is a defect of hydfs, please report it");
    }
    let Some(late) = inner.lateness_to(peer.addr) else {
        return tokio::time::sleep(STREAM_TIMEOUT).await;
    };
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    let bytes = wire::frame_bytes(&answer);
    if let Ok(Ok(())) = timeout(STREAM_TIMEOUT, wire::write_frame(&mut stream.send, answer)).await {
        stream.finished();
        add(&inner.counters.bytes_out, bytes);
        inner.counters.served(service);
    }
}

async fn handle(
    inner: &Inner,
    handler: Arc<dyn Handler>,
    peer: &Peer,
    request: Frame,
) -> Option<Frame> {
    let service = request.service;
    let serving = handler.serve(peer.clone(), request);
    let outcome = match &inner.serve_on {
        None => timeout(HANDLER_TIMEOUT, serving).await.ok(),
        // The task runs on where a time-out lets go of it: the effect of a call is never cut in half.
        Some(runtime) => match timeout(HANDLER_TIMEOUT, runtime.spawn(serving)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) => {
                tracing::error!(peer = %peer.name, ?service, "a handler stopped without an answer");
                return None;
            }
            Err(_) => None,
        },
    };
    if outcome.is_none() {
        tracing::warn!(peer = %peer.name, ?service, "no answer of the handler within {HANDLER_TIMEOUT:?}; the call was given up");
    }
    outcome
}
