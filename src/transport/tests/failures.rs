//! Dead, restarted and hung peers.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Echo, LONG, Lab, echo, frame, start, until};
use hydfs_transport::{Fault, Options, Quic, TransportError};
use hydfs_types::{Net, NetError};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

/// Binds once the former owner's socket is closed.
async fn rebind(lab: &Lab, name: &str, listen: SocketAddr) -> Arc<Quic> {
    let began = Instant::now();
    loop {
        match Quic::bind(
            Options {
                listen,
                ..lab.options(name)
            },
            Arc::new(Echo::default()),
        ) {
            Ok(quic) => return quic,
            Err(TransportError::Listen { .. }) if began.elapsed() < LONG => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_peer_restarted_in_order_is_reached_by_the_next_call() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    let addr = b.local_addr();
    echo(&a, addr).await.unwrap();
    b.shutdown().await;
    drop(b);
    let _b = rebind(&lab, "vm2", addr).await;
    echo(&a, addr)
        .await
        .expect("the old connection was closed with a goodbye");
}

#[tokio::test]
async fn a_peer_that_crashed_and_restarted_is_reached_by_one_retry() {
    let lab = Lab::new();
    let (a, _) = lab.member("vm1");
    let doomed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let b = doomed.block_on_within(async { start(lab.options("vm2")).0 });
    let addr = b.local_addr();
    echo(&a, addr).await.unwrap();
    doomed.shutdown_background(); // no goodbye leaves the socket
    drop(b);
    let _b = rebind(&lab, "vm2", addr).await;
    let began = Instant::now();
    if let Err(error) = echo(&a, addr).await {
        assert!(matches!(error, NetError::Broken { .. }), "{error}");
        echo(&a, addr)
            .await
            .expect("one retry reaches the restarted peer");
    }
    // Without resets that survive a restart it would take the idle time-out of three seconds.
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_dead_peer_costs_one_dial_and_then_nothing() {
    let lab = Lab::new();
    let (a, _) = lab.member("vm1");
    let hung = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = hung.local_addr().unwrap();
    let began = Instant::now();
    let error = a.call(addr, frame("x", ""), LONG).await.unwrap_err();
    assert!(
        error.to_string().contains("is hydfs running there"),
        "{error}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    let began = Instant::now();
    assert_eq!(a.call(addr, frame("x", ""), LONG).await.unwrap_err(), error);
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    a.forget(addr);
    let error = a
        .call(addr, frame("x", ""), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no connection within 50 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn a_peer_that_froze_is_dropped_and_dialled_afresh() {
    let lab = Lab::new();
    let (a, _) = lab.member("vm1");
    let frozen = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let b = frozen.block_on_within(async { start(lab.options("vm2")).0 });
    let addr = b.local_addr();
    let thaw = frozen.run_in_thread();
    echo(&a, addr).await.unwrap();
    let frozen = thaw.stop();
    let error = a
        .call(addr, frame("x", ""), Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::TimedOut { .. }), "{error}");
    let error = a.call(addr, frame("x", ""), LONG).await.unwrap_err();
    assert!(
        matches!(error, NetError::Unreachable { .. }),
        "the dead connection was not used again: {error}"
    );
    let _thaw = frozen.run_in_thread();
    a.forget(addr);
    echo(&a, addr).await.unwrap();
}

#[tokio::test]
async fn fault_s16_descriptors_stay_flat() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    let addr = b.local_addr();
    echo(&a, addr).await.unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..3_000 {
        echo(&a, addr).await.unwrap();
    }
    for _ in 0..30 {
        a.forget(addr);
        echo(&a, addr).await.unwrap();
    }
    let hung = UdpSocket::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    for _ in 0..20 {
        a.call(
            hung.local_addr().unwrap(),
            frame("x", ""),
            Duration::from_millis(30),
        )
        .await
        .unwrap_err();
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "a hung peer costs the deadline only: {:?}",
        began.elapsed()
    );
    drop(hung);
    // Other tests of this file run in this process and open some of their own.
    let after = descriptors();
    assert!(
        after < before + 60,
        "{before} descriptors before, {after} after 3,000 calls"
    );
    until("closed connections are gone", || a.connections() <= 3).await;
}

#[tokio::test]
async fn shutdown_ends_calls_and_says_why() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    let addr = b.local_addr();
    echo(&a, addr).await.unwrap();
    let hanging = tokio::spawn(a.call(addr, frame("hang", ""), LONG));
    until("served", || {
        b.counters().get("hydfs_net_received_bytes_total").unwrap() > 30
    })
    .await;
    b.shutdown().await;
    let error = hanging.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    a.shutdown().await;
    assert!(matches!(
        echo(&a, addr).await,
        Err(NetError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn test_faults_cut_and_delay() {
    let lab = Lab::new();
    let ((a, _), (b, b_echo)) = (lab.member("vm1"), lab.member("vm2"));
    a.set_faults(Some(Arc::new(|_| Some(Fault::Drop))));
    let error = a
        .call(b.local_addr(), frame("x", ""), Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::TimedOut { .. }), "{error}");
    a.send_datagram(b.local_addr(), "lost".into());
    a.set_faults(Some(Arc::new(|_| {
        Some(Fault::Delay(Duration::from_millis(30)))
    })));
    let began = Instant::now();
    echo(&a, b.local_addr()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(b_echo.seen(), 1);
}

#[test]
fn a_busy_port_and_an_unusable_address_are_explained() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let lab = Lab::new();
    let busy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = |listen: SocketAddr, advertise| {
        let options = Options {
            listen,
            advertise,
            ..lab.options("vm1")
        };
        Quic::bind(options, Arc::new(Echo::default()))
    };
    let error = bind(busy.local_addr().unwrap(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ss -ulpn"), "{error}");
    let error = bind("0.0.0.0:0".parse().unwrap(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("set an address to advertise"), "{error}");
    let bound = bind(
        "0.0.0.0:0".parse().unwrap(),
        Some("127.0.0.1:0".parse().unwrap()),
    )
    .unwrap();
    assert_ne!(bound.local_addr().port(), 0);
}

/// Runtimes that tests stop at will.
trait Stoppable {
    fn block_on_within<T: Send>(&self, work: impl Future<Output = T> + Send) -> T;
    fn run_in_thread(self) -> Running;
}

struct Running {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<tokio::runtime::Runtime>>,
}

impl Running {
    fn stop(mut self) -> tokio::runtime::Runtime {
        self.end().unwrap()
    }

    fn end(&mut self) -> Option<tokio::runtime::Runtime> {
        drop(self.stop.take());
        self.thread.take().map(|thread| thread.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.end() {
            runtime.shutdown_background();
        }
    }
}

impl Stoppable for tokio::runtime::Runtime {
    /// Like `block_on`, which is not allowed inside another runtime.
    fn block_on_within<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(work)).join().unwrap())
    }

    fn run_in_thread(self) -> Running {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            self.block_on(stopped).ok();
            self
        });
        Running {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}
