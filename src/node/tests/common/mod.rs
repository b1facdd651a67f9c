//! Members in one process on loopback, without a mount.

use hydfs_node::{Config, Detection, Member};
use hydfs_transport::certs;
use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::IntoRawFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

fn free_address() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address")
}

fn config(folder: &Path, name: &str, join: &[SocketAddr]) -> Config {
    certs::issue(&folder.join("certs"), name, &[], certs::MEMBER_DAYS).expect("a certificate");
    let data = folder.join(name);
    std::fs::create_dir(&data).expect("a data folder");
    let listen = free_address();
    Config {
        name: name.into(),
        data,
        listen,
        advertise: listen,
        join: join.iter().map(ToString::to_string).collect(),
        bootstrap: join.is_empty(),
        certs: folder.join("certs"),
        mount: None,
        memory: None,
        copies: 3,
        zone: String::new(),
        weight: 100,
        op_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(30),
        voter_replace_after: Duration::from_secs(60),
        allow_root_jobs: false,
        scrub_bytes_per_s: hydfs_data::SCRUB_BYTES_PER_S,
        repair_bytes_per_s: 0,
        allow_faults: false,
        detection: Detection::default(),
    }
}

/// The first member of a cluster, to be started.
#[allow(dead_code, reason = "not all tests use it")]
pub fn first(folder: &Path) -> Config {
    certs::init(&folder.join("certs"), "conformance").expect("a CA");
    config(folder, "n1", &[])
}

/// A cluster of one member that keeps what outlives its worker.
#[allow(dead_code, reason = "not all tests use it")]
pub async fn start_kept(folder: &Path) -> Vec<Arc<Member>> {
    let memory = hydfs_memory::create().expect("a memory file");
    let config = Config {
        memory: Some(memory.into_raw_fd()),
        ..first(folder)
    };
    vec![Member::start(config).await.expect("a member")]
}

/// So many members of one cluster.
pub async fn start(folder: &Path, members: usize) -> Vec<Arc<Member>> {
    certs::init(&folder.join("certs"), "conformance").expect("a CA");
    let mut started: Vec<Arc<Member>> = Vec::new();
    for number in 1..=members {
        let join: Vec<SocketAddr> = started
            .iter()
            .map(|member| member.config.advertise)
            .collect();
        started.push(
            Member::start(config(folder, &format!("n{number}"), &join))
                .await
                .expect("a member"),
        );
    }
    started
}

/// Stops them in order. Nothing was damaged.
pub async fn stop(members: Vec<Arc<Member>>) {
    for member in &members {
        // The scrub found nothing where nothing was damaged.
        let damaged = &member.ctx.counters.damaged_blocks;
        assert_eq!(damaged.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert!(member.data.replica.health.lost().is_empty());
    }
    for member in members.into_iter().rev() {
        member.shut_down().await;
    }
}
