//! A few members over a network in memory: commands and barriers from anywhere, through crashes, cuts and restarts.

use crate::common::{APPEND, Cluster, ENDED, ENDS_AFTER, LEASE, PIECE, PROPOSE, addr, set};
use hydfs_agreement::{ChangeError, Retention, propose_via};
use hydfs_store::Crash;
use hydfs_types::{
    Admission, Agreement, AgreementError, BootId, Command, CommandError, Envelope, Incarnation,
    LogIndex, MemberId, SessionId, StorageId, Time,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_member_bootstraps_and_returns_with_everything() {
    let mut cluster = Cluster::start(1, 1).await;
    assert!(
        matches!(
            cluster.group(1).bootstrap().await,
            Err(ChangeError::Refused(_))
        ),
        "a group is made once"
    );
    for value in numbers(10) {
        cluster.node(1).put(&value).await;
    }
    for how in [Crash::Kill, Crash::PowerCut] {
        cluster.crash(1, how);
        cluster.run(1).await;
        assert!(cluster.group(1).has_log().await.unwrap());
        let begun = Instant::now();
        cluster.group(1).barrier().await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "the only voter waits for nobody: {:?}",
            begun.elapsed()
        );
        assert_eq!(cluster.node(1).values(), numbers(10));
    }
    // Found: nobody acknowledged anything, so after a second it led no more, and whoever joined later waited for ever.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(cluster.group(1).leads_within(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn every_member_proposes_and_sees_all_behind_a_barrier() {
    let cluster = Cluster::start(3, 2).await;
    for (n, value) in numbers(9).into_iter().enumerate() {
        cluster.node(1 + n as u64 % 3).put(&value).await;
    }
    for id in 1..=3 {
        let index = cluster.group(id).barrier().await.unwrap();
        assert!(*cluster.group(id).applied().borrow() >= index);
        assert_eq!(cluster.node(id).values(), numbers(9), "member {id}");
    }
    let metrics = cluster.group(1).metrics();
    assert_eq!(metrics.voters, (1..=3).map(MemberId).collect());
    assert_eq!(metrics.matched.len(), 2);
    assert!(
        cluster
            .node(2)
            .kept()
            .times
            .iter()
            .all(|time| time.sec >= 1000),
        "stamped by the leader"
    );
}

#[tokio::test(start_paused = true)]
async fn proposals_are_pipelined() {
    let cluster = Cluster::start(3, 3).await;
    let begun = Instant::now();
    let tasks: Vec<_> = numbers(500)
        .into_iter()
        .map(|value| {
            let group = cluster.group(2).clone();
            tokio::spawn(async move { group.propose(set(&value)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // One after the other they would take 500 rounds of some 3 ms.
    assert!(
        begun.elapsed() < Duration::from_millis(150),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(cluster.node(2).values().len(), 500);
}

/// The predecessor's leader was hard-coded and its state was lost with it.
#[tokio::test(start_paused = true)]
async fn fault_r1_another_leader_takes_over_without_loss() {
    let mut cluster = Cluster::start(3, 4).await;
    let mut expected = Vec::new();
    for round in 0..6 {
        let leader = cluster.elected().await;
        let other = 1 + leader % 3;
        for n in 0..3 {
            let value = format!("{round}.{n}");
            cluster.node(other).put(&value).await;
            expected.push(value);
        }
        cluster.crash(
            leader,
            if round % 2 == 0 {
                Crash::Kill
            } else {
                Crash::PowerCutTorn
            },
        );
        let begun = Instant::now();
        let value = format!("{round} after");
        cluster.node(other).put(&value).await;
        expected.push(value);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "leader {leader} was missed for {:?}",
            begun.elapsed()
        );
        cluster.run(leader).await;
        cluster.group(leader).barrier().await.unwrap();
        assert_eq!(cluster.node(leader).values(), expected);
    }
    let terms: BTreeSet<u64> = cluster
        .nodes
        .values()
        .map(|node| node.group().metrics().term)
        .collect();
    assert_eq!(terms.len(), 1, "all agree on the term");
}

#[tokio::test(start_paused = true)]
async fn retries_keep_their_identity() {
    let cluster = Cluster::start(3, 5).await;
    cluster.lose_answers(PROPOSE, 2);
    cluster.node(2).put("once").await;
    assert_eq!(cluster.node(2).values(), ["once"]);
    let arrived = cluster.node(2).kept().arrived;
    assert_eq!(arrived.len(), 3, "it was committed with each attempt");
    assert_eq!(
        arrived.iter().collect::<BTreeSet<_>>().len(),
        1,
        "under one identity"
    );
    cluster.node(2).put("twice").await;
    assert_eq!(cluster.node(2).values(), ["once", "twice"]);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_loses_nothing_acknowledged() {
    for (seed, how) in [
        (6, Crash::PowerCut),
        (7, Crash::PowerCutTorn),
        (8, Crash::Kill),
    ] {
        let mut cluster = Cluster::start(3, seed).await;
        let group = cluster.group(3).clone();
        let mut acknowledged = Vec::new();
        for value in numbers(30) {
            group.propose(set(&value)).await.unwrap();
            acknowledged.push(value);
        }
        // One more that nobody waits for.
        tokio::spawn(async move { group.propose(set("unknown")).await });
        tokio::time::sleep(Duration::from_micros(900)).await;
        (1..=3).for_each(|id| cluster.crash(id, how));
        for id in 1..=3 {
            cluster.run(id).await;
        }
        for id in 1..=3 {
            cluster.group(id).barrier().await.unwrap();
            let values = cluster.node(id).values();
            assert_eq!(values[..30], acknowledged, "member {id}, seed {seed}");
            assert!(values.len() == 30 || values[30..] == ["unknown"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_learner_gets_a_snapshot_in_pieces_and_keeps_it() {
    let retention = Retention {
        snapshot_entries: 20,
        keep_entries: 4,
    };
    let mut cluster = Cluster::start_with(1, 9, retention).await;
    // 10 MB of state, three pieces.
    let values: Vec<String> = (0..10)
        .map(|n| char::from(b'a' + n).to_string().repeat(1 << 20))
        .collect();
    for value in &values {
        cluster.node(1).put(value).await;
    }
    for value in numbers(60) {
        cluster.node(1).put(&value).await;
    }
    cluster
        .until("the log is purged", |this| {
            this.group(1).metrics().purged > Some(LogIndex(30))
        })
        .await;
    cluster.add(2).await;
    assert!(!cluster.group(2).has_log().await.unwrap());
    cluster
        .group(1)
        .add_learner(MemberId(2), addr(2))
        .await
        .unwrap();
    cluster.node(1).put("last").await;
    cluster
        .until("the learner is there", |this| {
            this.node(2).values().last().is_some_and(|v| v == "last")
        })
        .await;
    assert_eq!(cluster.node(2).values(), cluster.node(1).values());
    assert!(
        cluster.node(2).kept().restored >= 1 && cluster.seen(PIECE) >= 3,
        "{} pieces",
        cluster.seen(PIECE)
    );
    assert_eq!(
        cluster.group(2).metrics().learners,
        BTreeSet::from([MemberId(2)])
    );

    // Both start from their snapshots and the log behind them, whatever the power cut took.
    for id in [1, 2] {
        cluster.crash(id, Crash::PowerCut);
        cluster.run(id).await;
        cluster.group(id).barrier().await.unwrap();
        assert_eq!(cluster.node(id).values().len(), 71);
        assert!(cluster.node(id).kept().restored >= 1);
    }
    let names = cluster.node(1).disk.attach().list("raft").unwrap();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("snapshot-"))
            .count(),
        1,
        "only the last is kept: {names:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_minority_answers_no_quorum_in_time_and_never_stale() {
    let cluster = Cluster::start(3, 10).await;
    cluster.node(1).put("before").await;
    cluster.isolate(1);
    let begun = Instant::now();
    let cut_off = cluster.group(1).clone();
    // The others elect a leader and go on, while the old one must not answer from what it has.
    cluster.node(2).put("meanwhile").await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(!cut_off.leads_within(Duration::from_secs(1)));
    match cut_off.barrier().await {
        Err(AgreementError::NoQuorum { millis, why }) => {
            assert!((4900..5200).contains(&millis), "{millis} ms: {why}")
        }
        other => panic!("{other:?}"),
    }
    match cut_off.propose(set("lost")).await {
        Err(AgreementError::NoQuorum { millis, .. }) => {
            assert!((9500..10_200).contains(&millis), "{millis} ms")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.node(1).values(), ["before"]);
    let barrier = tokio::spawn({
        let group = cut_off.clone();
        async move {
            group
                .barrier_by(Instant::now() + Duration::from_secs(20))
                .await
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.heal();
    barrier
        .await
        .unwrap()
        .expect("answered once the cut is healed");
    assert_eq!(cluster.node(1).values()[..2], ["before", "meanwhile"]);
}

/// A leader that is heard but hears nobody must not keep the others from electing one (R14).
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_falls_silent() {
    let cluster = Cluster::start(3, 11).await;
    cluster.cut(2, 1);
    cluster.cut(3, 1);
    let begun = Instant::now();
    cluster
        .until("another leader", |this| {
            this.leader().is_some_and(|leader| leader != 1)
        })
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    cluster.node(2).put("goes on").await;
    cluster.heal();
    cluster.group(1).barrier().await.unwrap();
    assert_eq!(cluster.node(1).values(), ["goes on"]);
}

#[tokio::test(start_paused = true)]
async fn barriers_share_rounds_and_the_leader_asks_nobody() {
    let cluster = Cluster::start(3, 12).await;
    cluster.node(2).put("x").await;
    let barriers = |id: u64| {
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let group = cluster.group(id).clone();
                tokio::spawn(async move { group.barrier().await })
            })
            .collect();
        async move {
            for task in tasks {
                task.await.unwrap().unwrap();
            }
        }
    };
    let before = cluster.seen(LEASE);
    barriers(2).await;
    assert!(
        cluster.seen(LEASE) - before <= 2,
        "{} rounds for 200 callers",
        cluster.seen(LEASE) - before
    );
    let before = (cluster.seen(LEASE), cluster.seen(APPEND));
    let begun = Instant::now();
    barriers(1).await;
    assert_eq!(
        (cluster.seen(LEASE), cluster.seen(APPEND), begun.elapsed()),
        (before.0, before.1, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go() {
    let mut cluster = Cluster::start(3, 13).await;
    cluster.add(4).await;
    cluster
        .group(1)
        .add_learner(MemberId(4), addr(4))
        .await
        .unwrap();
    cluster
        .group(1)
        .add_learner(MemberId(4), addr(4))
        .await
        .unwrap();
    assert_eq!(
        cluster.group(2).add_learner(MemberId(5), addr(5)).await,
        Err(ChangeError::NotLeader(Some(MemberId(1))))
    );
    cluster.node(4).put("from the learner").await;
    cluster
        .until("it has all", |this| {
            this.group(1).metrics().matched[&MemberId(4)] == this.group(1).metrics().last
        })
        .await;
    cluster
        .group(1)
        .set_voters([1, 2, 4].map(MemberId).into())
        .await
        .unwrap();
    let metrics = cluster.group(1).metrics();
    assert_eq!(
        (metrics.voters, metrics.learners, metrics.joint),
        ([1, 2, 4].map(MemberId).into(), [MemberId(3)].into(), false)
    );

    assert!(
        matches!(
            cluster.group(1).transfer_leader(MemberId(3)).await,
            Err(ChangeError::Refused(_))
        ),
        "no voter"
    );
    cluster.group(1).transfer_leader(MemberId(4)).await.unwrap();
    assert_eq!(cluster.elected().await, 4);
    cluster
        .group(1)
        .propose(set("to the new leader"))
        .await
        .unwrap();

    cluster.group(4).remove(MemberId(1)).await.unwrap();
    cluster.group(4).remove(MemberId(1)).await.unwrap();
    let metrics = cluster.group(4).metrics();
    assert_eq!(
        (metrics.voters, metrics.learners),
        ([2, 4].map(MemberId).into(), [MemberId(3)].into())
    );
    cluster.node(3).put("goes on").await;
    assert!(matches!(
        cluster.group(4).remove(MemberId(4)).await,
        Err(ChangeError::Refused(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_its_command_proposed_by_any_member() {
    let cluster = Cluster::start(3, 14).await;
    let net = crate::common::MemNet {
        me: addr(9),
        wires: cluster.wires.clone(),
    };
    let envelope = Envelope {
        session: SessionId(0),
        seq: 0,
        done_through: 0,
        incarnation: Incarnation(0),
        start: 0,
        time: Time::default(),
        command: set("admit me"),
    };
    for id in 1..=3 {
        let applied = propose_via(&net, addr(id), envelope.clone(), Duration::from_secs(2))
            .await
            .unwrap();
        assert!(applied.reply.is_ok());
        cluster.group(id).wait_applied(applied.index).await.unwrap();
        assert_eq!(cluster.node(id).values().len(), id as usize);
    }
    let nobody = propose_via(&net, addr(7), envelope, Duration::from_secs(2)).await;
    assert!(matches!(nobody, Err(AgreementError::NoQuorum { .. })));
}

/// It leads, as far as it knows: the command is in its log, and might be committed by whoever leads next.
#[tokio::test(start_paused = true)]
async fn a_command_that_may_be_in_a_log_is_in_doubt() {
    let cluster = Cluster::start(3, 31).await;
    cluster.node(1).put("before").await;
    cluster.isolate(1);
    match cluster.group(1).propose(set("perhaps")).await {
        Err(AgreementError::InDoubt { millis, .. }) => {
            assert!((9500..10_200).contains(&millis), "{millis} ms")
        }
        other => panic!("{other:?}"),
    }
}

/// It was done, the answer was lost, and the member was expired before it asked again.
#[tokio::test(start_paused = true)]
async fn a_command_of_an_ended_incarnation_that_may_have_been_done_is_in_doubt() {
    let cluster = Cluster::start(3, 33).await;
    cluster.group(2).set_incarnation(ENDS_AFTER, 1);
    cluster.lose_answers(PROPOSE, 1);
    let answer = cluster.group(2).propose(set("done")).await;
    assert!(
        matches!(answer, Err(AgreementError::InDoubt { .. })),
        "{answer:?}"
    );
    assert_eq!(cluster.node(2).values(), ["done"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_and_ends_are_told_apart() {
    let cluster = Cluster::start(1, 15).await;
    let group = cluster.group(1);
    let refused = group
        .propose(Command::Promote {
            learners: Vec::new(),
        })
        .await;
    assert_eq!(refused, Err(AgreementError::Refused(CommandError::NoJob)));
    let huge = group.propose(set(&"x".repeat(3 << 20))).await;
    assert!(
        matches!(huge, Err(AgreementError::Refused(CommandError::Invalid(_)))),
        "{huge:?}"
    );
    group.set_incarnation(ENDED, 1);
    assert_eq!(group.propose(set("x")).await, Err(AgreementError::Expired));
    let waiting = tokio::spawn({
        let group = Arc::clone(group);
        async move { group.wait_applied(LogIndex(1000)).await }
    });
    tokio::task::yield_now().await;
    group.shutdown().await.unwrap();
    assert!(matches!(
        waiting.await.unwrap(),
        Err(AgreementError::Stopped(_))
    ));
    assert!(matches!(
        group.propose(set("x")).await,
        Err(AgreementError::Stopped(_))
    ));
    assert!(matches!(
        group.barrier().await,
        Err(AgreementError::Stopped(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_broken_disk_stops_the_member_and_the_others_go_on() {
    let cluster = Cluster::start(3, 16).await;
    cluster.node(1).disk.stop_after(3);
    cluster.node(2).put("a").await;
    cluster.node(2).put("b").await;
    cluster
        .until("it stopped", |this| this.group(1).leader().is_none())
        .await;
    assert!(matches!(
        cluster.group(1).barrier().await,
        Err(AgreementError::Stopped(_))
    ));
    cluster.node(2).put("c").await;
    assert_eq!(cluster.node(2).values(), ["a", "b", "c"]);
}

/// Two runs with one seed: same terms, same leaders, same log.
#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    async fn history(seed: u64) -> Vec<(u64, Option<MemberId>, LogIndex, u128)> {
        let mut cluster = Cluster::start(3, seed).await;
        let begun = Instant::now();
        let mut seen = Vec::new();
        for round in 0..3 {
            let leader = cluster.elected().await;
            cluster.crash(leader, Crash::PowerCut);
            cluster.node(1 + leader % 3).put(&round.to_string()).await;
            cluster.run(leader).await;
            let index = cluster.group(leader).barrier().await.unwrap();
            let metrics = cluster.group(leader).metrics();
            seen.push((
                metrics.term,
                metrics.leader,
                index,
                begun.elapsed().as_micros(),
            ));
        }
        seen
    }
    assert_eq!(history(17).await, history(17).await);
}

/// The leader believes that the member has what it once had, and streamed what comes after that, for ever.
#[tokio::test(start_paused = true)]
async fn a_member_whose_folder_was_rolled_back_is_fed_again() {
    let mut cluster = Cluster::start(3, 31).await;
    cluster.node(1).put("before").await;
    cluster
        .until("node 3 has it", |this| this.node(3).values().len() == 1)
        .await;
    let copy = cluster.node(3).disk.fork();
    for value in numbers(20) {
        cluster.node(1).put(&value).await;
    }
    cluster
        .until("node 3 has all", |this| this.node(3).values().len() == 21)
        .await;
    cluster.crash(3, Crash::Kill);
    copy.crash(Crash::Kill);
    cluster.nodes.get_mut(&3).unwrap().disk = copy;
    cluster.run(3).await;
    let before = cluster.seen(APPEND);
    cluster.node(1).put("after").await;
    cluster
        .until("node 3 has all again", |this| {
            this.node(3).values().len() == 22
        })
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    // Heartbeats to two members alone are 200.
    let appends = cluster.seen(APPEND) - before;
    assert!(appends < 400, "{appends} appends");
}

/// Nobody feeds a member that the group does not let in: it would never see its own refusal.
#[tokio::test(start_paused = true)]
async fn a_refused_admission_is_heard_before_it_is_applied() {
    let cluster = Cluster::start(3, 32).await;
    cluster.lose_requests(APPEND, 3);
    let said = Admission {
        name: "no".into(),
        addr: addr(3),
        zone: String::new(),
        weight: 100,
        storage: StorageId([3; 16]),
        boot: BootId([3; 16]),
        start_count: 1,
        drawn: 0,
        last: LogIndex(0),
    };
    let begun = Instant::now();
    let answer = cluster.group(3).propose(Command::Admit(said)).await;
    assert_eq!(answer, Err(CommandError::Admission("no".into()).into()));
    assert!(
        begun.elapsed() < Duration::from_millis(1300),
        "{:?}",
        begun.elapsed()
    );
}

/// A candidate writes its own vote first, then the others write theirs: two syncs have to fit into one election.
#[tokio::test(start_paused = true)]
async fn voters_with_slow_disks_elect_a_leader() {
    for seed in 34..40 {
        let mut cluster = Cluster::start(3, seed).await;
        cluster.sync = Duration::from_millis(430);
        for id in [2, 3] {
            cluster.crash(id, Crash::Kill);
            cluster.run(id).await;
        }
        cluster.node(1).put("before").await;
        cluster.crash(1, Crash::Kill);
        let begun = Instant::now();
        cluster.elected().await;
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(5), "seed {seed}: {waited:?}");
    }
}

/// One process at the addresses of two members: its disk would count twice in a majority.
#[tokio::test(start_paused = true)]
async fn who_answers_for_another_is_not_counted() {
    let mut cluster = Cluster::start(5, 35).await;
    cluster.node(1).put("before").await;
    for id in [3, 4, 5] {
        cluster.crash(id, Crash::Kill);
    }
    cluster.serve_also(2, 3);
    let soon = Instant::now() + Duration::from_secs(5);
    let answer = cluster.group(1).propose_by(set("two of five"), soon).await;
    assert!(
        matches!(answer, Err(AgreementError::InDoubt { .. })),
        "{answer:?}"
    );
    assert_eq!(cluster.node(1).values(), ["before"]);
}

/// Commands that wait, of however many members, leave room for what ends their wait. The transport has 1,024 places.
#[tokio::test(start_paused = true)]
async fn commands_that_wait_leave_places_for_others() {
    let cluster = Cluster::start(5, 36).await;
    cluster.group(5).barrier().await.unwrap();
    cluster.isolate(5);
    let waiting: Vec<_> = numbers(1500)
        .into_iter()
        .enumerate()
        .map(|(n, value)| {
            let group = cluster.group(2 + n as u64 % 2).clone();
            tokio::spawn(async move { group.propose(set(&value)).await })
        })
        .collect();
    // Those who found no place have been turned away, and try again later.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let in_hand = cluster.in_hand(1);
    assert!((700..900).contains(&in_hand), "{in_hand} in hand");
    for command in waiting {
        command.await.unwrap().unwrap();
    }
}
