//! Malformed input from strangers and from members (fault M7), seen from inside: raw streams on an accepted connection.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use crate::{Identity, Options, Quic, certs};
use bytes::Bytes;
use hydfs_types::{BoxFuture, Frame, Handler, Net, Peer, Service};
use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const LONG: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Echo {
    seen: AtomicUsize,
}

impl Handler for Echo {
    fn serve(&self, _: Peer, frame: Frame) -> BoxFuture<'static, Frame> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { frame })
    }

    fn datagram(&self, _: Peer, _: Bytes) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }
}

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let len = 1 + self.next() % max;
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn member(dir: &std::path::Path, name: &str) -> (Arc<Quic>, Arc<Echo>) {
    certs::issue(dir, name, &[], 10).unwrap();
    let echo = Arc::new(Echo::default());
    let options = Options::new(
        "127.0.0.1:0".parse().unwrap(),
        Identity::load(dir, name).unwrap(),
    );
    (Quic::bind(options, echo.clone()).unwrap(), echo)
}

fn frame() -> Frame {
    Frame {
        service: Service::Control,
        head: "head".into(),
        body: "body".into(),
    }
}

async fn answers(from: &Quic, to: &Quic) {
    let answer = from.call(to.local_addr(), frame(), LONG).await.unwrap();
    assert_eq!((answer.head, answer.body), (frame().head, frame().body));
}

#[tokio::test]
async fn fault_m7_random_datagrams_do_not_end_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    certs::init(dir.path(), "lab").unwrap();
    let ((a, _), (b, seen)) = (member(dir.path(), "vm1"), member(dir.path(), "vm2"));
    answers(&a, &b).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = Random(0x5eed_0007);
    for at in 0..6_000u64 {
        let mut bytes = random.bytes(1_500);
        match at % 4 {
            0 => {}
            // A short header, a long one of version 1 (an Initial where it is padded), one of an unknown version.
            1 => bytes[0] = 0x40 | bytes[0] & 0x3f,
            kind => {
                bytes.resize(1_200.max(bytes.len()), 0);
                bytes[0] = 0xc0 | bytes[0] & 0x0f;
                let version: u32 = if kind == 2 { 1 } else { 0x1a2a_3a4a };
                bytes[1..5].copy_from_slice(&version.to_be_bytes());
                bytes[5] = 8;
            }
        }
        socket.send_to(&bytes, b.local_addr()).unwrap();
        if at % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    answers(&a, &b).await;
    b.forget(a.local_addr());
    a.forget(b.local_addr());
    answers(&a, &b).await;
    assert_eq!(
        seen.seen.load(Ordering::Relaxed),
        3,
        "garbage never reaches the handler"
    );
}

#[tokio::test]
async fn fault_m7_random_streams_of_a_member_do_not_end_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    certs::init(dir.path(), "lab").unwrap();
    let ((a, _), (b, _)) = (member(dir.path(), "vm1"), member(dir.path(), "vm2"));
    let link = a.inner.link(b.local_addr()).await.unwrap();
    let mut random = Random(0x5eed_0017);
    for at in 0..2_000u64 {
        let (mut send, mut recv) = link.connection.open_bi().await.unwrap();
        let mut bytes = random.bytes(300);
        if at % 3 == 0 && bytes.len() > 11 {
            // A plausible prefix: it announces more or less than follows.
            bytes[..11].copy_from_slice(&frame().prefix());
        }
        send.write_all(&bytes).await.ok();
        match at % 5 {
            0 => drop(send.reset(quinn::VarInt::from_u32(9))),
            _ => drop(send.finish()),
        }
        // Nothing that is not a frame is answered with one.
        if at % 5 != 0 {
            let answer = tokio::time::timeout(LONG, recv.read_to_end(1_000))
                .await
                .unwrap();
            assert!(answer.is_err(), "{at}: {answer:?}");
        }
    }
    assert!(link.connection.close_reason().is_none());
    answers(&a, &b).await;
    assert_eq!(a.counters().get("hydfs_net_connects_total"), Some(1));
}

#[tokio::test]
async fn fault_m13_nothing_is_served_before_the_hello() {
    let dir = tempfile::tempdir().unwrap();
    certs::init(dir.path(), "lab").unwrap();
    let ((a, _), (b, seen)) = (member(dir.path(), "vm1"), member(dir.path(), "vm2"));
    let mut random = Random(0x5eed_0013);
    for at in 0..20 {
        let config = a.inner.tls().client_local.clone();
        let connection = a
            .inner
            .endpoint
            .connect_with(config, b.local_addr(), "member.hydfs")
            .unwrap()
            .await
            .unwrap();
        connection.send_datagram("early".into()).unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let first = if at == 0 {
            frame().prefix().to_vec()
        } else {
            random.bytes(2_000)
        };
        send.write_all(&first).await.ok();
        send.finish().ok();
        let (mut second, _) = connection.open_bi().await.unwrap();
        second.write_all(&frame().prefix()).await.ok();
        let end = tokio::time::timeout(LONG, connection.closed())
            .await
            .unwrap()
            .to_string();
        assert!(end.contains("hello"), "{end}");
    }
    assert_eq!(seen.seen.load(Ordering::Relaxed), 0);
    answers(&a, &b).await;
}
