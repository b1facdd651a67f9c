//! The network in memory behaves as told, and the same seed tells it the same.

use crate::{Link, SimNet};
use bytes::Bytes;
use hydfs_types::{BoxFuture, Frame, Handler, MemberId, Net, NetError, Peer, Service};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

#[derive(Default)]
struct Echo {
    served: AtomicUsize,
    peers: Mutex<Vec<Peer>>,
    datagrams: AtomicUsize,
}

impl Handler for Echo {
    fn serve(&self, from: Peer, frame: Frame) -> BoxFuture<'static, Frame> {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.peers.lock().unwrap().push(from);
        Box::pin(async move {
            if frame.head == "slow" {
                sleep(Duration::from_secs(5)).await;
            }
            frame
        })
    }

    fn datagram(&self, _: Peer, _: Bytes) {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
    }
}

fn addr(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number))
}

fn start(net: &Arc<SimNet>, number: u16) -> (Arc<dyn Net>, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    (
        Arc::new(net.member(addr(number), &format!("vm{number}"), echo.clone())),
        echo,
    )
}

fn frame(head: &'static str) -> Frame {
    Frame {
        service: Service::Data,
        head: head.into(),
        body: "body".into(),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn calls_take_the_latency_of_both_directions() {
    let net = SimNet::new(1);
    let ((a, _), (_b, b_echo)) = (start(&net, 1), start(&net, 2));
    net.set_link(
        addr(1),
        addr(2),
        Link {
            latency: Duration::from_millis(30),
            ..Link::default()
        },
    );
    net.set_member_id(addr(1), Some(MemberId(4)));
    let began = Instant::now();
    assert_eq!(
        a.call(addr(2), frame("x"), SECOND).await.unwrap().body,
        "body"
    );
    assert!(
        (31..35).contains(&began.elapsed().as_millis()),
        "{:?}",
        began.elapsed()
    );
    let peer = Peer {
        name: "vm1".into(),
        addr: addr(1),
        member: Some(MemberId(4)),
    };
    assert_eq!(*b_echo.peers.lock().unwrap(), [peer]);
    assert_eq!(
        (net.sent().requests_of(Service::Data), net.deliveries()),
        (1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_effect_unknown() {
    let net = SimNet::new(1);
    let ((a, _), (_b, b_echo)) = (start(&net, 1), start(&net, 2));
    net.set_link(
        addr(2),
        addr(1),
        Link {
            reply_loss: 1.0,
            ..Link::default()
        },
    );
    let began = Instant::now();
    let error = a.call(addr(2), frame("x"), SECOND).await.unwrap_err();
    assert_eq!(
        (error, began.elapsed()),
        (
            NetError::TimedOut {
                addr: addr(2),
                millis: 1_000
            },
            SECOND
        )
    );
    assert_eq!(
        b_echo.served.load(Ordering::Relaxed),
        1,
        "served, but the caller cannot know"
    );
    net.set_link(
        addr(1),
        addr(2),
        Link {
            request_loss: 1.0,
            ..Link::default()
        },
    );
    a.call(addr(2), frame("x"), SECOND).await.unwrap_err();
    assert_eq!(b_echo.served.load(Ordering::Relaxed), 1);
    net.heal();
    a.call(addr(2), frame("x"), SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cuts_are_one_way_and_partitions_both() {
    let net = SimNet::new(1);
    let ((a, _), (b, b_echo), (c, c_echo)) = (start(&net, 1), start(&net, 2), start(&net, 3));
    net.cut(addr(2), addr(1));
    a.send_datagram(addr(2), "there".into());
    a.call(addr(2), frame("x"), SECOND).await.unwrap_err();
    assert_eq!(
        (
            b_echo.datagrams.load(Ordering::Relaxed),
            b_echo.served.load(Ordering::Relaxed)
        ),
        (1, 1)
    );
    net.heal();
    net.partition(&[&[addr(1), addr(2)]]);
    a.call(addr(2), frame("x"), SECOND).await.unwrap();
    c.call(addr(1), frame("x"), SECOND).await.unwrap_err();
    b.call(addr(3), frame("x"), SECOND).await.unwrap_err();
    assert_eq!(c_echo.served.load(Ordering::Relaxed), 0);
    net.heal();
    b.call(addr(3), frame("x"), SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_calls_in_hand_and_the_old_life() {
    let net = SimNet::new(1);
    let ((a, _), (old_b, b_echo)) = (start(&net, 1), start(&net, 2));
    let slow = tokio::spawn(a.call(addr(2), frame("slow"), 10 * SECOND));
    sleep(SECOND).await;
    assert_eq!(b_echo.served.load(Ordering::Relaxed), 1);
    net.crash(addr(2));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(Arc::strong_count(&b_echo), 1, "the handler is dropped");
    let error = a.call(addr(2), frame("x"), 10 * SECOND).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");

    let (_b, b_echo) = start(&net, 2);
    a.call(addr(2), frame("x"), SECOND).await.unwrap();
    assert_eq!(b_echo.served.load(Ordering::Relaxed), 1);
    old_b
        .call(addr(1), frame("x"), SECOND)
        .await
        .expect_err("a zombie reaches nobody");
    assert!(matches!(
        slow.await.unwrap(),
        Err(NetError::TimedOut { .. })
    ));
}

/// Traffic with every fault; gives the trace and what arrived.
async fn storm(seed: u64) -> (u64, u64, usize) {
    let net = SimNet::new(seed);
    let link = Link {
        latency: Duration::from_millis(2),
        jitter: Duration::from_millis(20),
        datagram_loss: 0.3,
        datagram_twice: 0.2,
        request_twice: 0.1,
        request_loss: 0.1,
        reply_loss: 0.1,
    };
    net.set_usual_link(link);
    let members: Vec<_> = (1..=5).map(|number| start(&net, number)).collect();
    let mut calls = Vec::new();
    for at in 0..400u16 {
        let (from, to) = (usize::from(at) % 5, addr(1 + at * 7 % 5));
        members[from]
            .0
            .send_datagram(to, Bytes::from(at.to_le_bytes().to_vec()));
        calls.push(tokio::spawn(members[from].0.call(to, frame("x"), SECOND)));
        sleep(Duration::from_millis(3)).await;
        match at {
            100 => net.cut(addr(1), addr(2)),
            200 => net.crash(addr(3)),
            300 => net.heal(),
            _ => {}
        }
    }
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.unwrap().is_ok());
    }
    (net.trace_hash(), net.deliveries(), answered)
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(storm(seed))
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first.0, run(8).0);
    assert!((150..350).contains(&first.2), "{first:?}");
}
