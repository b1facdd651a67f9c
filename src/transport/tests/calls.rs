//! Calls and datagrams between members over real loopback sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use bytes::Bytes;
use common::{CLUSTER, Echo, LONG, Lab, echo, frame, start, until};
use hydfs_transport::{DATAGRAM_BYTES_MAX, Options, Quic, Who};
use hydfs_types::{FRAME_BODY_BYTES_MAX, Frame, MemberId, Net, NetError, Service};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[tokio::test]
async fn both_sides_call_each_other_and_learn_proven_names() {
    let lab = Lab::new();
    let ((a, a_echo), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    let (there, back) = tokio::join!(echo(&a, b.local_addr()), echo(&b, a.local_addr()));
    there.unwrap();
    back.unwrap();
    let peer = b_echo.calls.lock().unwrap()[0].clone();
    assert_eq!((peer.name.as_str(), peer.addr), ("vm1", a.local_addr()));
    assert_eq!(a_echo.calls.lock().unwrap()[0].name, "vm2");
    echo(&a, a.local_addr())
        .await
        .expect("a member may call itself");
}

#[tokio::test]
async fn large_bodies_arrive_whole_and_too_large_ones_are_not_sent() {
    let lab = Lab::new();
    let ((a, _), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    let body: Bytes = (0..8u32 << 20).map(|at| (at % 251) as u8).collect();
    let answer = a
        .call(b.local_addr(), frame("large", body.clone()), LONG)
        .await
        .unwrap();
    assert_eq!(answer.body, body);
    let empty = a.call(b.local_addr(), frame("", ""), LONG).await.unwrap();
    assert!(empty.head.is_empty() && empty.body.is_empty());
    let before = b_echo.seen();
    let too_large = a
        .call(
            b.local_addr(),
            frame("", vec![0; FRAME_BODY_BYTES_MAX + 1]),
            LONG,
        )
        .await
        .unwrap_err();
    assert!(matches!(too_large, NetError::Refused { .. }), "{too_large}");
    assert_eq!(b_echo.seen(), before);
}

#[tokio::test]
async fn one_connection_serves_all_calls() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    let to = b.local_addr();
    let calls: Vec<_> = (0..200)
        .map(|_| tokio::spawn(a.call(to, frame("x", "y"), LONG)))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(a.counters().get("hydfs_net_connects_total"), Some(1));
    assert_eq!(
        a.counters()
            .get("hydfs_net_calls_sent_total{service=\"data\"}"),
        Some(200)
    );
    until("all served", || {
        b.counters()
            .get("hydfs_net_calls_served_total{service=\"data\"}")
            == Some(200)
    })
    .await;
}

#[tokio::test]
async fn a_silent_handler_costs_the_deadline_and_not_the_connection() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    echo(&a, b.local_addr()).await.unwrap();
    let began = Instant::now();
    let error = a
        .call(
            b.local_addr(),
            frame("hang", ""),
            Duration::from_millis(200),
        )
        .await
        .unwrap_err();
    assert_eq!(
        error,
        NetError::TimedOut {
            addr: b.local_addr(),
            millis: 200
        }
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    echo(&a, b.local_addr()).await.unwrap();
    assert_eq!(a.counters().get("hydfs_net_connects_total"), Some(1));
    assert_eq!(a.counters().get("hydfs_net_timeouts_total"), Some(1));
}

#[tokio::test]
async fn a_failing_handler_breaks_its_call_only() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    let error = a
        .call(b.local_addr(), frame("panic", ""), LONG)
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::Broken { .. }), "{error}");
    echo(&a, b.local_addr()).await.unwrap();
}

#[tokio::test]
async fn handlers_may_run_on_another_runtime() {
    let lab = Lab::new();
    let handlers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let options = Options {
        serve_on: Some(handlers.handle().clone()),
        ..lab.options("vm2")
    };
    let b = Quic::bind_on_own_thread(options, Arc::new(Echo::default())).unwrap();
    let a = Quic::bind_on_own_thread(lab.options("vm1"), Arc::new(Echo::default())).unwrap();
    for _ in 0..50 {
        echo(&a, b.local_addr()).await.unwrap();
    }
    let error = a
        .call(b.local_addr(), frame("panic", ""), LONG)
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::Broken { .. }), "{error}");
    b.shutdown().await;
    handlers.shutdown_background();
}

#[tokio::test]
async fn calls_beyond_the_limit_are_turned_away_at_once() {
    let lab = Lab::new();
    let ((a, _), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    let to = b.local_addr();
    let hanging: Vec<_> = (0..1_024)
        .map(|_| tokio::spawn(a.call(to, frame("hang", ""), LONG)))
        .collect();
    until("all places taken", || b_echo.seen() == 1_024).await;
    let began = Instant::now();
    let error = a.call(to, frame("x", ""), LONG).await.unwrap_err();
    assert!(error.to_string().contains("too many calls"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
    let agreement = Frame {
        service: Service::Agreement,
        ..frame("x", "")
    };
    a.call(to, agreement, LONG)
        .await
        .expect("other services have places of their own");
    hanging.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn fault_m6_hung_handlers_do_not_stop_the_receive_path() {
    let lab = Lab::new();
    let ((a, _), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    let to = b.local_addr();
    let hanging: Vec<_> = (0..300)
        .map(|_| tokio::spawn(a.call(to, frame("hang", ""), LONG)))
        .collect();
    until("all hang", || b_echo.seen() == 300).await;
    echo(&a, to).await.unwrap();
    a.send_datagram(to, Bytes::from_static(b"ping"));
    until("the datagram", || b_echo.seen() == 302).await;
    hanging.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn datagrams_follow_once_connected() {
    let lab = Lab::new();
    let ((a, _), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    for at in 0..20u8 {
        a.send_datagram(b.local_addr(), Bytes::from(vec![at; DATAGRAM_BYTES_MAX]));
    }
    until("the first sixteen", || b_echo.seen() == 16).await;
    assert_eq!(
        b_echo.datagrams.lock().unwrap()[3].1,
        vec![3; DATAGRAM_BYTES_MAX]
    );
    assert_eq!(
        a.counters().get("hydfs_net_datagrams_dropped_total"),
        Some(4)
    );
    a.send_datagram(b.local_addr(), Bytes::from(vec![0; DATAGRAM_BYTES_MAX + 1]));
    assert_eq!(
        a.counters().get("hydfs_net_datagrams_dropped_total"),
        Some(5)
    );
    a.send_datagram(b.local_addr(), Bytes::from_static(b"now"));
    until("the direct one", || b_echo.seen() == 17).await;
}

#[tokio::test]
async fn a_joiner_becomes_a_member_without_a_restart() {
    let lab = Lab::new();
    let (b, b_echo) = lab.member("vm2");
    let (a, _) = start(Options {
        who: Who::default(),
        ..lab.options("vm1")
    });
    echo(&a, b.local_addr()).await.unwrap();
    a.set_who(Who {
        cluster: Some(CLUSTER),
        member: Some(MemberId(5)),
        incarnation: None,
    });
    echo(&a, b.local_addr()).await.unwrap();
    let seen: Vec<_> = b_echo
        .calls
        .lock()
        .unwrap()
        .iter()
        .map(|peer| peer.member)
        .collect();
    assert_eq!(seen, [None, Some(MemberId(5))]);
}

#[tokio::test]
async fn a_member_that_moves_to_another_cluster_ends_its_old_connections() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    echo(&a, b.local_addr()).await.unwrap();
    b.set_who(Who {
        cluster: Some(hydfs_types::ClusterId([9; 16])),
        ..Who::default()
    });
    let first = echo(&a, b.local_addr()).await.unwrap_err();
    assert!(
        matches!(first, NetError::Broken { .. } | NetError::Refused { .. }),
        "{first}"
    );
    let second = echo(&a, b.local_addr()).await.unwrap_err();
    assert!(matches!(second, NetError::Refused { .. }), "{second}");
}
