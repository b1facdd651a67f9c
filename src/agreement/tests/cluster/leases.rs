//! Read leases: what a holder shows without asking is never older than what anybody was told, and holders that are gone
//! delay commands no longer than a lease lasts. `HYDFS_SEED=n HYDFS_SEEDS=count` runs other seeds.
#![allow(clippy::unwrap_used)]

use crate::common::{APPEND, Cluster, LEASE, set};
use hydfs_store::Crash;
use hydfs_types::{Agreement, MemberId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// As the leader counts it, and a little for rounds.
const LEASE_ENDS: Duration = Duration::from_millis(1300);
const SOON: Duration = Duration::from_millis(50);

/// What node `id` may show without asking anybody, if anything.
fn shown(cluster: &Cluster, id: u64) -> Option<Vec<String>> {
    let node = cluster.node(id);
    let visible = node.group.as_ref()?.leased()?;
    let kept = node.kept();
    (visible >= kept.index).then_some(kept.values)
}

#[tokio::test(start_paused = true)]
async fn a_lease_in_use_costs_a_round_now_and_then_and_ends_when_nobody_uses_it() {
    let cluster = Cluster::start(3, 21).await;
    cluster.node(1).put("a").await;
    cluster.group(2).barrier().await.unwrap();
    let before = cluster.seen(LEASE);
    for _ in 0..1000 {
        assert_eq!(shown(&cluster, 2).unwrap(), ["a"]);
        sleep(Duration::from_millis(10)).await;
    }
    let rounds = cluster.seen(LEASE) - before;
    assert!(rounds <= 34, "{rounds} rounds in 10 s of reading");
    sleep(LEASE_ENDS).await;
    assert!(shown(&cluster, 2).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_delays_a_command_until_its_lease_has_ended() {
    let cluster = Cluster::start(3, 22).await;
    cluster.group(3).barrier().await.unwrap();
    cluster.isolate(3);
    let begun = Instant::now();
    cluster.node(2).put("a").await;
    let waited = begun.elapsed();
    assert!(waited < LEASE_ENDS && waited > LEASE_ENDS / 2, "{waited:?}");
    assert!(
        cluster.group(3).leased().is_none(),
        "it knows that it has none"
    );
    let begun = Instant::now();
    cluster.node(2).put("b").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_in_order_delays_nobody() {
    let cluster = Cluster::start(3, 23).await;
    cluster.group(3).barrier().await.unwrap();
    cluster.group(3).shutdown().await.unwrap();
    let begun = Instant::now();
    cluster.node(2).put("a").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// The new leader cannot know whom the old one granted leases, however fast it took over.
#[tokio::test(start_paused = true)]
async fn a_new_leader_counts_on_the_leases_of_the_old_one() {
    let cluster = Cluster::start(5, 24).await;
    // Cut off from everybody but the leader.
    for other in 2..5 {
        cluster.cut(5, other);
        cluster.cut(other, 5);
    }
    cluster.group(5).barrier().await.unwrap();
    cluster.group(1).transfer_leader(MemberId(2)).await.unwrap();
    assert!(
        shown(&cluster, 5).is_some(),
        "its lease outlives the leader's term"
    );
    cluster.node(2).put("a").await;
    assert!(shown(&cluster, 5).is_none_or(|values| values == ["a"]));
}

/// Writers and readers on all members, through crashes and cuts: each read has all that was acknowledged to anybody
/// before, and all that any earlier read has shown.
async fn never_old(seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(5, seed).await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut reads, mut longest) = (0, 0);
    for step in 0..1500 {
        if step % 10 == 0 {
            let id = rng.random_range(1..=5);
            let (group, acknowledged) = (cluster.group(id).clone(), acknowledged.clone());
            tokio::spawn(async move {
                let value = format!("{step}");
                if group.propose(set(&value)).await.is_ok() {
                    acknowledged.lock().unwrap().insert(value);
                }
            });
        }
        match rng.random_range(0..200) {
            0 => {
                let victim = rng.random_range(1..=5);
                cluster.crash(victim, Crash::Kill);
                cluster.run(victim).await;
            }
            1 => cluster.isolate(rng.random_range(1..=5)),
            2 => cluster.cut(rng.random_range(1..=5), rng.random_range(1..=5)),
            3..6 => cluster.heal(),
            _ => {}
        }
        for id in 1..=5 {
            if rng.random_range(0..20) == 0 {
                let group = cluster.group(id).clone();
                tokio::spawn(async move { drop(group.barrier().await) });
            }
            let Some(values) = shown(&cluster, id) else {
                continue;
            };
            reads += 1;
            let seen: BTreeSet<&String> = values.iter().collect();
            let known = acknowledged.lock().unwrap();
            let missing: Vec<_> = known.iter().filter(|value| !seen.contains(value)).collect();
            assert!(
                missing.is_empty(),
                "seed {seed}: member {id} does not show {missing:?}, which was acknowledged"
            );
            assert!(
                values.len() >= longest,
                "seed {seed}: member {id} shows less than was shown before"
            );
            longest = values.len();
        }
        sleep(Duration::from_millis(rng.random_range(1..20))).await;
    }
    reads
}

#[test]
fn reads_under_leases_are_never_old() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (first, count) = (number("HYDFS_SEED", 1), number("HYDFS_SEEDS", 12));
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let reads = runtime.block_on(never_old(seed));
        assert!(reads > 300, "seed {seed}: only {reads} reads under a lease");
    }
}

/// A machine that is slow and busy asks for a lease with each call. Each one would delay everybody until it has ended.
#[tokio::test(start_paused = true)]
async fn a_holder_that_stays_behind_delays_one_command_not_each() {
    let cluster = Cluster::start(3, 25).await;
    cluster.group(3).barrier().await.unwrap();
    cluster.lose_requests(APPEND, 3);
    let busy = cluster.group(3).clone();
    let busy = tokio::spawn(async move {
        loop {
            drop(busy.barrier_by(Instant::now() + SOON).await);
        }
    });
    let begun = Instant::now();
    for n in 0..10 {
        cluster.node(2).put(&n.to_string()).await;
        sleep(SOON).await;
    }
    let waited = begun.elapsed();
    assert!(waited < 2 * LEASE_ENDS, "{waited:?}");
    // It has one again some time after it has caught up.
    cluster.heal();
    sleep(Duration::from_secs(8)).await;
    assert!(shown(&cluster, 3).is_some());
    busy.abort();
}
