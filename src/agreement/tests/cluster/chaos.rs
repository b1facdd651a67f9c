//! Random crashes and cuts under load: nothing acknowledged is lost, doubled or reordered, and no barrier is stale.
//! `HYDFS_SEED=n HYDFS_SEEDS=count` runs others.

#![allow(clippy::unwrap_used)]

use crate::common::{Cluster, set};
use hydfs_agreement::Retention;
use hydfs_store::Crash;
use hydfs_types::Agreement;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::sleep;

const ROUNDS: u32 = 4;

/// Writes numbers one after the other through one member and notes what was acknowledged.
async fn writer(
    group: Arc<hydfs_agreement::Group>,
    name: String,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
) {
    for n in 0..40 {
        let value = format!("{name}.{n:02}");
        if group.propose(set(&value)).await.is_ok() {
            acknowledged.lock().unwrap().insert(value);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let retention = Retention {
        snapshot_entries: 30,
        keep_entries: 10,
    };
    let mut cluster = Cluster::start_with(3, seed, retention).await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..ROUNDS {
        for id in 1..=3 {
            tokio::spawn(writer(
                cluster.group(id).clone(),
                format!("{round}.{id}"),
                acknowledged.clone(),
            ));
        }
        sleep(Duration::from_millis(rng.random_range(1..1500))).await;
        let victim = rng.random_range(1..=3);
        match rng.random_range(0..3) {
            0 => {
                cluster.crash(
                    victim,
                    [Crash::Kill, Crash::PowerCut, Crash::PowerCutTorn][rng.random_range(0..3)],
                );
                sleep(Duration::from_millis(rng.random_range(1..3000))).await;
                cluster.run(victim).await;
            }
            1 => {
                cluster.isolate(victim);
                sleep(Duration::from_millis(rng.random_range(1..4000))).await;
                cluster.heal();
            }
            _ => {
                cluster.cut(victim, 1 + victim % 3);
                cluster.cut(1 + (victim + 1) % 3, victim);
                sleep(Duration::from_millis(rng.random_range(1..6000))).await;
                cluster.heal();
            }
        }
        // What was acknowledged to anybody by now is behind a barrier anywhere.
        let before: Vec<String> = acknowledged.lock().unwrap().iter().cloned().collect();
        for id in 1..=3 {
            if let Err(error) = cluster.group(id).barrier().await {
                let views: Vec<_> = cluster
                    .nodes
                    .values()
                    .map(|node| node.group().metrics())
                    .collect();
                panic!("seed {seed}, round {round}, member {id}: {error}\n{views:#?}");
            }
            let values: BTreeSet<String> = cluster.node(id).values().into_iter().collect();
            let missing = before.iter().find(|value| !values.contains(*value));
            assert_eq!(missing, None, "member {id}, seed {seed}, round {round}");
        }
    }
    // Longer than any command that still waits for an answer.
    sleep(Duration::from_secs(11)).await;
    for id in 1..=3 {
        cluster.group(id).barrier().await.unwrap();
    }
    let values = cluster.node(1).values();
    assert_eq!(values, cluster.node(2).values(), "seed {seed}");
    assert_eq!(values, cluster.node(3).values(), "seed {seed}");
    assert_eq!(
        values.len(),
        values.iter().collect::<BTreeSet<_>>().len(),
        "seed {seed}: something was applied twice"
    );
    for id in 1..=3 {
        for round in 0..ROUNDS {
            let own = values
                .iter()
                .filter(|value| value.starts_with(&format!("{round}.{id}.")));
            assert!(
                own.is_sorted(),
                "seed {seed}: commands of member {id} changed places"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered() {
    let first: u64 = std::env::var("HYDFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(100);
    let count: u64 = std::env::var("HYDFS_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2);
    for seed in first..first + count {
        run(seed).await;
    }
}
