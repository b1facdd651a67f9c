//! A learner and its source, moment by moment.

use crate::{
    bench::{World, readable},
    learn::Learned,
};
use hydfs_store::{Crash, MemDisk};
use hydfs_types::*;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::sleep};

/// What the source says of slots.
async fn pull(source: &crate::Data, slots: &[(SlotId, SlotEpoch)]) -> Vec<PulledSlot> {
    let pull = PullSlots {
        map: source.ctx.map(),
        from: Incarnation(2),
        slots: slots.to_vec(),
    };
    source.source.pulled(pull).await.expect("it knows of slots")
}

#[tokio::test(start_paused = true)]
async fn what_a_learner_has_fetched_outlives_a_checkpoint_and_a_start() {
    let world = World::new(2);
    let (one, two) = (MemDisk::new(1), MemDisk::new(2));
    let (source, learner) = (world.open(1, &one, false), world.open(2, &two, false));
    let file = world.create("a");
    for seq in 1..=6 {
        file.write(&source, seq..=seq, 600_000).await;
    }
    let epoch = world.configure(file.slot, &[(1, true), (2, false)]);
    let pulled = pull(&source, &[(file.slot, epoch)]).await.remove(0);
    // All fetches after the first wait.
    let gate = Arc::new(Semaphore::new(1));
    let fetched = Arc::new(AtomicUsize::new(0));
    let (holds, count) = (gate.clone(), fetched.clone());
    world.hold(move |_, request| {
        let DataRequest::Fetch { .. } = request else {
            return None;
        };
        count.fetch_add(1, Ordering::Relaxed);
        let gate = holds.clone();
        Some(Box::pin(async move {
            gate.acquire().await.expect("it stays open").forget();
        }))
    });
    let places = Semaphore::new(4);
    let learning = learner
        .repair
        .learn_slot(Incarnation(1), epoch, pulled, &places);
    let meanwhile = async {
        while fetched.load(Ordering::Relaxed) < 2 {
            // The clock goes on only while everybody waits.
            sleep(Duration::from_millis(1)).await;
        }
        // Others write meanwhile, until the journal's first files are old.
        let other = world.create("b");
        world.configure(other.slot, &[(1, true), (2, false)]);
        for seq in 1..=4 {
            other.write(&learner, seq..=seq, 600_000).await;
        }
        learner
            .replica
            .checkpoint()
            .await
            .expect("the disk is sound");
        gate.add_permits(100);
    };
    let (learned, ()) = tokio::join!(learning, meanwhile);
    assert!(matches!(learned, Ok(Learned::Ready(..))));
    assert_eq!(readable(&learner.replica, file.segment), [1, 2, 3, 4, 5, 6]);
    two.crash(Crash::Kill);
    let learner = world.open(2, &two, false);
    assert_eq!(readable(&learner.replica, file.segment), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn one_segment_that_nobody_can_bring_up_holds_up_no_other_slot() {
    let world = World::new(2);
    let source = world.open(1, &MemDisk::new(1), false);
    let (whole, broken) = (world.create("a"), world.create("b"));
    assert_ne!(whole.slot, broken.slot);
    whole.write(&source, 1..=1, 10).await;
    broken.lose_a_cut(&world);
    let slots = [whole, broken].map(|file| {
        (
            file.slot,
            world.configure(file.slot, &[(1, true), (2, false)]),
        )
    });
    let pulled = pull(&source, &slots).await;
    let named: Vec<_> = pulled.iter().map(|one| one.slot).collect();
    assert_eq!(named, [whole.slot]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_pull_is_no_longer_than_a_frame_may_be() {
    let world = World::new(2);
    let source = world.open(1, &MemDisk::new(1), false);
    let mut slots = Vec::new();
    for name in ["a", "b", "c"] {
        let file = world.create(name);
        file.write(&source, 1..=100_000, 1).await;
        slots.push((
            file.slot,
            world.configure(file.slot, &[(1, true), (2, false)]),
        ));
    }
    let pulled = pull(&source, &slots).await;
    assert!(!pulled.is_empty() && pulled.len() < 3, "{}", pulled.len());
    assert!(encode(&DataResponse::Pulled(pulled.clone())).len() <= 4 << 20);
    // It is asked for the rest.
    let rest = pull(&source, &slots[pulled.len()..]).await;
    assert_eq!(pulled.len() + rest.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_learner_without_its_base_fetches_nothing_that_it_has() {
    let world = World::new(2);
    let (source, learner) = (
        world.open(1, &MemDisk::new(1), false),
        world.open(2, &MemDisk::new(2), false),
    );
    let file = world.create("a");
    file.write(&source, 1..=1, 1000).await;
    file.merge(&source).await;
    let epoch = world.configure(file.slot, &[(1, true), (2, false)]);
    pull(&source, &[(file.slot, epoch)]).await;
    // One record reaches both, one the source alone.
    file.write(&source, 2..=3, 1000).await;
    file.write(&learner, 2..=2, 1000).await;
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let heard = fetched.clone();
    world.hold(move |_, request| {
        if let DataRequest::Fetch { runs, .. } = request {
            heard.lock().unwrap().extend(runs.clone());
        }
        None
    });
    file.merge(&source).await;
    let missing = Run {
        writer: file.writer,
        first: Seq(3),
        last: Seq(3),
    };
    assert_eq!(*fetched.lock().unwrap(), [missing]);
    assert_eq!(readable(&learner.replica, file.segment), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_base_that_is_cut_all_the_time_is_learned_all_the_same() {
    let world = World::new(2);
    let (source, learner) = (
        world.open(1, &MemDisk::new(1), false),
        world.open(2, &MemDisk::new(2), false),
    );
    let file = world.create("a");
    file.write(&source, 1..=20, 600_000).await;
    file.merge(&source).await;
    let epoch = world.configure(file.slot, &[(1, true), (2, false)]);
    let pulled = pull(&source, &[(file.slot, epoch)]).await.remove(0);
    let agreed = || world.state.read().unwrap().segment(file.segment).cloned();
    let begun = agreed().unwrap().version;
    let places = Semaphore::new(4);
    let learning = learner
        .repair
        .learn_slot(Incarnation(1), epoch, pulled, &places);
    let writing = async {
        for seq in 21.. {
            file.write(&source, seq..=seq, 100).await;
            file.write(&learner, seq..=seq, 100).await;
            file.merge(&source).await;
        }
    };
    tokio::select! {
        learned = learning => assert!(matches!(learned, Ok(Learned::Ready(..)))),
        () = writing => unreachable!("it never ends"),
    }
    let agreed = agreed().unwrap();
    assert!(agreed.version.0 > begun.0 + 20, "it was cut all the time");
    assert_eq!(learner.replica.version(file.segment), agreed.version);
    let bytes = |data: &crate::Data| {
        data.replica
            .bases
            .read(file.segment, 0, 12_100_000)
            .unwrap()
    };
    assert!(bytes(&source) == bytes(&learner));
}
