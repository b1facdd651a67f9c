//! One member on a real disk, with threads and real time: what production does that the simulator does not.

#![allow(clippy::unwrap_used)]

use crate::common::{List, MemNet, addr, set};
use hydfs_agreement::{Group, Options, Retention, Timing};
use hydfs_store::{LogOptions, RealDisk};
use hydfs_types::{Agreement, Incarnation, LogIndex, MemberId, SessionId, SystemClock};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

async fn start(disk: &Arc<RealDisk>, list: &List, life: u64) -> Arc<Group> {
    let options = Options {
        me: MemberId(1),
        disk: disk.clone(),
        dir: "raft".into(),
        log: LogOptions {
            file_bytes: 1 << 20,
            ..LogOptions::new(1)
        },
        net: Arc::new(MemNet {
            me: addr(1),
            wires: Arc::default(),
        }),
        resolve: Arc::new(|_| None),
        clock: Arc::new(SystemClock),
        timing: Timing::default(),
        retention: Retention {
            snapshot_entries: 100,
            keep_entries: 10,
        },
        session: SessionId(life),
        kept: None,
        seed: life,
        planted: None,
    };
    let group = Group::start(options, Box::new(list.clone())).await.unwrap();
    group.set_incarnation(Incarnation(1), 1);
    group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_disk_keeps_what_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(root.path()).unwrap());
    for life in 1..=3u64 {
        let list = List::default();
        let group = start(&disk, &list, life).await;
        if life == 1 {
            group.bootstrap().await.unwrap();
        }
        group.barrier().await.unwrap();
        assert_eq!(
            list.0.lock().unwrap().values.len() as u64,
            (life - 1) * 150,
            "life {life}"
        );
        let begun = Instant::now();
        let proposals: Vec<_> = (0..150)
            .map(|n| {
                let group = group.clone();
                tokio::spawn(async move { group.propose(set(&n.to_string())).await })
            })
            .collect();
        for proposal in proposals {
            proposal.await.unwrap().unwrap();
        }
        eprintln!("150 commands took {:?}", begun.elapsed());
        let deadline = Instant::now() + Duration::from_secs(10);
        while group.metrics().snapshot < Some(LogIndex(100 * life)) {
            assert!(
                Instant::now() < deadline,
                "no snapshot: {:?}",
                group.metrics()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        group.shutdown().await.unwrap();
    }
}
