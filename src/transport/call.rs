//! One call: a stream of its own on the shared connection, under one deadline that covers connecting too.

use crate::{
    counters::add,
    dial::Link,
    quic::Inner,
    wire::{self, ReadFault, Stream, stream},
};
use hydfs_types::{Frame, NetError};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Sends `frame` to `to` and waits for the answer. Nothing is sent twice.
pub(crate) async fn call(
    inner: Arc<Inner>,
    to: SocketAddr,
    frame: Frame,
    deadline: Duration,
) -> Result<Frame, NetError> {
    let until = Instant::now() + deadline;
    let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    add_fault(&inner, to, until, millis).await?;
    wire::check_size(&frame).map_err(|error| NetError::Refused {
        addr: to,
        why: format!("not sent: {error}"),
    })?;
    inner.counters.sent(frame.service);
    let Ok(link) = timeout_at(until, inner.link(to)).await else {
        add(&inner.counters.timeouts, 1);
        return Err(NetError::Unreachable {
            addr: to,
            why: format!("no connection within {millis} ms"),
        });
    };
    let link = link?;
    let heard = link.connection.stats().udp_rx.datagrams;
    let sent_bytes = wire::frame_bytes(&frame);
    match timeout_at(until, exchange(&link, frame)).await {
        Ok(Ok(answer)) => {
            answer_fault(&inner, to, until, millis).await?;
            add(&inner.counters.bytes_out, sent_bytes);
            add(&inner.counters.bytes_in, wire::frame_bytes(&answer));
            Ok(answer)
        }
        Ok(Err(fault)) => {
            if link.connection.close_reason().is_some() {
                inner.pool.drop_link(to, &link);
            }
            Err(fault.explain(to))
        }
        Err(_) => {
            add(&inner.counters.timeouts, 1);
            // Not even an acknowledgement came: the connection may be dead, the next call opens another.
            if link.connection.stats().udp_rx.datagrams == heard {
                inner.pool.drop_link(to, &link);
            }
            Err(NetError::TimedOut { addr: to, millis })
        }
    }
}

async fn add_fault(
    inner: &Inner,
    to: SocketAddr,
    until: Instant,
    millis: u64,
) -> Result<(), NetError> {
    match inner.lateness_to(to) {
        Some(Duration::ZERO) => Ok(()),
        Some(late) => {
            sleep_until(until.min(Instant::now() + late)).await;
            Ok(())
        }
        None => {
            sleep_until(until).await;
            Err(NetError::TimedOut { addr: to, millis })
        }
    }
}

/// What happens to the answer on its way here.
async fn answer_fault(
    inner: &Inner,
    from: SocketAddr,
    until: Instant,
    millis: u64,
) -> Result<(), NetError> {
    match inner.lateness_from(from) {
        Some(Duration::ZERO) => Ok(()),
        Some(late) if Instant::now() + late < until => {
            sleep_until(Instant::now() + late).await;
            Ok(())
        }
        _ => {
            sleep_until(until).await;
            Err(NetError::TimedOut { addr: from, millis })
        }
    }
}

async fn exchange(link: &Link, frame: Frame) -> Result<Frame, CallFault> {
    let opened = link
        .connection
        .open_bi()
        .await
        .map_err(CallFault::NotSent)?;
    let mut stream = Stream::new(opened, stream::CANCELLED);
    wire::write_frame(&mut stream.send, frame).await?;
    let announced = wire::read_prefix(&mut stream.recv).await?;
    let answer = wire::read_rest(&mut stream.recv, announced).await?;
    stream.finished();
    Ok(answer)
}

/// How an exchange ended without an answer.
enum CallFault {
    NotSent(ConnectionError),
    Lost(ConnectionError),
    /// The peer ended the stream with this code.
    Ended(VarInt),
    Garbled(String),
}

impl From<WriteError> for CallFault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Ended(code),
            WriteError::ConnectionLost(error) => Self::Lost(error),
            other => Self::Garbled(other.to_string()),
        }
    }
}

impl From<ReadFault> for CallFault {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Stream(ReadError::Reset(code)) => Self::Ended(code),
            ReadFault::Stream(ReadError::ConnectionLost(error)) => Self::Lost(error),
            ReadFault::Stream(other) => Self::Garbled(other.to_string()),
            ReadFault::Frame(error) => Self::Garbled(error.to_string()),
            ReadFault::Overload => Self::Ended(stream::OVERLOADED),
        }
    }
}

impl CallFault {
    fn explain(self, addr: SocketAddr) -> NetError {
        match self {
            Self::NotSent(error) => NetError::Unreachable {
                addr,
                why: error.to_string(),
            },
            Self::Lost(error) => NetError::Broken {
                addr,
                why: error.to_string(),
            },
            Self::Ended(stream::OVERLOADED) => NetError::Unreachable {
                addr,
                why: "it has too many calls in hand; retry after a pause".into(),
            },
            Self::Ended(stream::MALFORMED) => NetError::Refused {
                addr,
                why: "it could not read the frame; run the same hydfs version on both".into(),
            },
            Self::Ended(_) => NetError::Broken {
                addr,
                why: "it gave up the call without an answer; see its log".into(),
            },
            Self::Garbled(why) => NetError::Broken {
                addr,
                why: format!("its answer is not a frame: {why}"),
            },
        }
    }
}
