//! Members on loopback for the tests of the transport.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests; each file uses its part"
)]

use bytes::Bytes;
use hydfs_transport::{Identity, Options, Quic, Who, certs};
use hydfs_types::{BoxFuture, ClusterId, Frame, Handler, Net, NetError, Peer, Service};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const LONG: Duration = Duration::from_secs(10);

/// Answers a frame with itself; never answers one whose head is "hang".
#[derive(Default)]
pub struct Echo {
    pub calls: Mutex<Vec<Peer>>,
    pub datagrams: Mutex<Vec<(Peer, Bytes)>>,
}

impl Echo {
    /// Everything that reached the handler.
    pub fn seen(&self) -> usize {
        self.calls.lock().unwrap().len() + self.datagrams.lock().unwrap().len()
    }
}

impl Handler for Echo {
    fn serve(&self, from: Peer, frame: Frame) -> BoxFuture<'static, Frame> {
        self.calls.lock().unwrap().push(from);
        Box::pin(async move {
            match &frame.head[..] {
                b"hang" => std::future::pending().await,
                b"panic" => panic!("as the test asked"),
                _ => frame,
            }
        })
    }

    fn datagram(&self, from: Peer, payload: Bytes) {
        self.datagrams.lock().unwrap().push((from, payload));
    }
}

/// A folder with a CA.
pub struct Lab {
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path(), "lab").unwrap();
        Self { dir }
    }

    pub fn identity(&self, name: &str) -> Identity {
        if !self.dir.path().join(format!("{name}.crt")).exists() {
            certs::issue(self.dir.path(), name, &[], 10).unwrap();
        }
        Identity::load(self.dir.path(), name).unwrap()
    }

    pub fn options(&self, name: &str) -> Options {
        options(self.identity(name))
    }

    pub fn member(&self, name: &str) -> (Arc<Quic>, Arc<Echo>) {
        start(self.options(name))
    }
}

pub fn options(identity: Identity) -> Options {
    let who = Who {
        cluster: Some(CLUSTER),
        ..Who::default()
    };
    Options {
        who,
        ..Options::new("127.0.0.1:0".parse().unwrap(), identity)
    }
}

pub fn start(options: Options) -> (Arc<Quic>, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    (Quic::bind(options, echo.clone()).unwrap(), echo)
}

pub fn frame(head: &'static str, body: impl Into<Bytes>) -> Frame {
    Frame {
        service: Service::Data,
        head: Bytes::from_static(head.as_bytes()),
        body: body.into(),
    }
}

pub async fn echo(from: &Quic, to: SocketAddr) -> Result<(), NetError> {
    let answer = from.call(to, frame("hello", "body"), LONG).await?;
    assert_eq!(
        (&answer.head[..], &answer.body[..]),
        (&b"hello"[..], &b"body"[..])
    );
    Ok(())
}

/// Waits for `condition`, with a deadline.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}
