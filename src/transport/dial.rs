//! Opening a connection: handshake, certificate, hello, and what a failure means to a person.

use crate::{
    hello::{HELLO_BYTES_MAX, Hello, cut_reason},
    quic::Inner,
    tls,
    tuning::DIAL_TIMEOUT,
    wire::close,
};
use hydfs_types::{ClusterId, NetError};
use quinn::{Connection, ConnectionError, ReadError, ReadToEndError, WriteError};
use std::net::SocketAddr;
use tokio::time::timeout;

/// A connection that passed the hello.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// The cluster that the peer named.
    pub(crate) cluster: Option<ClusterId>,
}

/// Opens a connection to the member that serves at `to`.
pub(crate) async fn dial(inner: &Inner, to: SocketAddr) -> Result<Link, NetError> {
    match timeout(DIAL_TIMEOUT, attempt(inner, to)).await {
        Ok(done) => done,
        Err(_) => Err(silent(to)),
    }
}

async fn attempt(inner: &Inner, to: SocketAddr) -> Result<Link, NetError> {
    let unreachable = |why: String| NetError::Unreachable { addr: to, why };
    let tls = inner.tls();
    let config = if to.ip().to_canonical().is_loopback() {
        &tls.client_local
    } else {
        &tls.client
    };
    let connecting = inner
        .endpoint
        .connect_with(config.clone(), to, "member.hydfs")
        .map_err(|error| unreachable(error.to_string()))?;
    let connection = connecting
        .await
        .map_err(|error| connect_error(to, &error))?;
    let certified = tls::peer_name(&connection).unwrap_or_default();

    let ours = inner.hello();
    let theirs = exchange(&connection, &ours)
        .await
        .map_err(|error| match error {
            HelloFault::Connection(error) => connect_error(to, &error),
            HelloFault::Content(why) => NetError::Refused {
                addr: to,
                why: format!("it answered {why}"),
            },
        })?;
    if let Some(why) = Hello::objection(&ours, &theirs, &certified) {
        connection.close(close::REFUSED, cut_reason(&why).as_bytes());
        return Err(NetError::Refused { addr: to, why });
    }
    tracing::debug!(peer = %theirs.name, addr = %to, "connected");
    Ok(Link {
        connection,
        cluster: theirs.cluster,
    })
}

enum HelloFault {
    Connection(ConnectionError),
    Content(String),
}

/// The dialler's half of the hello. A certificate that the peer refuses shows here, not in the handshake.
async fn exchange(connection: &Connection, ours: &Hello) -> Result<Hello, HelloFault> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(HelloFault::Connection)?;
    let lost = |error: Option<ConnectionError>| match error {
        Some(error) => HelloFault::Connection(error),
        None => HelloFault::Content("no hello".into()),
    };
    send.write_all(&ours.encode())
        .await
        .map_err(|error| match error {
            WriteError::ConnectionLost(error) => lost(Some(error)),
            _ => lost(None),
        })?;
    send.finish().map_err(|_| lost(None))?;
    let bytes = recv
        .read_to_end(HELLO_BYTES_MAX)
        .await
        .map_err(|error| match error {
            ReadToEndError::Read(ReadError::ConnectionLost(error)) => lost(Some(error)),
            _ => lost(None),
        })?;
    Hello::decode(&bytes).map_err(HelloFault::Content)
}

fn silent(to: SocketAddr) -> NetError {
    let why = format!(
        "no answer within {} ms: is hydfs running there, and is UDP port {} open in its firewall?",
        DIAL_TIMEOUT.as_millis(),
        to.port()
    );
    NetError::Unreachable { addr: to, why }
}

/// What a connection that did not come about means.
fn connect_error(addr: SocketAddr, error: &ConnectionError) -> NetError {
    match error {
        ConnectionError::ApplicationClosed(end) if end.error_code == close::REFUSED => {
            NetError::Refused {
                addr,
                why: String::from_utf8_lossy(&end.reason).into_owned(),
            }
        }
        ConnectionError::ApplicationClosed(end) if end.error_code == close::SHUTDOWN => {
            NetError::Unreachable {
                addr,
                why: "it is shutting down".into(),
            }
        }
        ConnectionError::TransportError(error) => match tls_alert(error.code.into()) {
            Some(alert) => NetError::Refused {
                addr,
                why: certificate_text("its certificate", alert, &error.reason),
            },
            None => NetError::Unreachable {
                addr,
                why: error.to_string(),
            },
        },
        ConnectionError::ConnectionClosed(end) => match tls_alert(end.error_code.into()) {
            Some(alert) => {
                let reason = String::from_utf8_lossy(&end.reason);
                NetError::Refused {
                    addr,
                    why: certificate_text("our certificate", alert, &reason),
                }
            }
            None if u64::from(end.error_code) == CONNECTION_REFUSED => NetError::Unreachable {
                addr,
                why: "it has too many connections now; it is tried again".into(),
            },
            None => NetError::Unreachable {
                addr,
                why: error.to_string(),
            },
        },
        ConnectionError::TimedOut => silent(addr),
        other => NetError::Unreachable {
            addr,
            why: other.to_string(),
        },
    }
}

/// Transport error 2 of RFC 9000.
const CONNECTION_REFUSED: u64 = 2;

/// RFC 9001: TLS alerts are transport errors 0x100 to 0x1ff.
fn tls_alert(code: u64) -> Option<u8> {
    (0x100..0x200).contains(&code).then_some(code as u8)
}

fn certificate_text(whose: &str, alert: u8, detail: &str) -> String {
    let issue = "issue it from this cluster's CA (same ca.crt on all members)";
    let what = match alert {
        45 => "has expired: issue a new one, or set the clocks".into(),
        42 | 48 | 51 => format!("is not of the same certificate authority: {issue}"),
        116 => format!("is missing: {issue}"),
        120 => {
            return "it does not speak hydfs/1: is that the port of a hydfs member of this version?"
                .into();
        }
        _ => format!("was not accepted: {issue}"),
    };
    format!("{whose} {what} (TLS alert {alert}: {detail})")
}
