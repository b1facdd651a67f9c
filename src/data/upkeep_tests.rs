//! What a replica does by itself: it keeps its journal short, lets go of what is gone, and follows what is agreed.

use crate::{
    Data,
    bench::{File, World, readable},
};
use hydfs_store::{Crash, DiskOp, Fault, JournalEntry, MemDisk};
use hydfs_types::*;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{sleep, timeout};

fn journaled(data: &Data) -> u64 {
    data.replica.journal.log().stats().bytes
}

/// Bytes of all bases.
fn base_bytes(disk: &MemDisk) -> u64 {
    disk.files("base").iter().map(|(_, bytes)| bytes).sum()
}

/// Waits until no base is left.
async fn without_bases(disk: &MemDisk) {
    let gone = async {
        while base_bytes(disk) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), gone).await.expect("none");
}

/// A file whose bytes are all in its base.
async fn merged(world: &Arc<World>, data: &Data) -> File {
    let file = world.create("a");
    file.write(data, 1..=1, 100_000).await;
    file.merge(data).await;
    file
}

/// Removes the file of [`merged`]; nobody holds it open.
fn delete(world: &World, file: &File) {
    let (parent, name, dir) = (ROOT_INO, "a".into(), false);
    let unlink = Command::Unlink { parent, name, dir };
    world.apply(unlink).expect("it is there");
    let (incarnation, inos) = (Incarnation(1), vec![file.ino]);
    let release = Command::ReleaseOrphans { incarnation, inos };
    world.apply(release).expect("it was held open");
    let state = world.state.read().unwrap();
    assert!(state.segment(file.segment).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_is_carried_forward_once_and_merged_before_the_next_time() {
    let world = World::new(1);
    let data = world.open(1, &MemDisk::new(1), false);
    let file = world.create("a");
    file.write(&data, 1..=8, 100_000).await;
    let other = world.create("b");
    assert_eq!(data.leader.overdue(), []);
    other.write(&data, 1..=70, 100_000).await;
    let overdue = data.leader.overdue();
    assert!(overdue.contains(&(file.slot, file.segment)));
    let before = journaled(&data);
    tokio::spawn(data.replica.clone().checkpoint_when_long());
    sleep(Duration::from_secs(20)).await;
    let copied = journaled(&data) - before;
    assert!((7_800_000..8_000_000).contains(&copied), "{copied}");
    assert_eq!(readable(&data.replica, file.segment).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_held_up_goes_on_where_it_was_and_its_base_is_pulled() {
    let world = World::new(2);
    let (one, two) = (MemDisk::new(1), MemDisk::new(2));
    let source = world.open(1, &one, false);
    let data = world.open(2, &two, false);
    let (held, other) = (world.create("a"), world.create("b"));
    for file in [held, other] {
        world.configure(file.slot, &[(1, true), (2, false)]);
        world.promote(file.slot, &[2]);
        file.write(&source, 1..=4, 100_000).await;
        file.write(&data, 1..=4, 100_000).await;
    }
    held.merge(&source).await;
    let merged = data.replica.wait_version(held.segment, SegmentVersion(1));
    merged.await.expect("it is prepared here");
    data.replica
        .journal
        .sync()
        .await
        .expect("the disk is sound");
    two.crash(Crash::Kill);
    let data = world.open(2, &two, false);
    two.inject(Fault {
        op: DiskOp::Read,
        path: format!("{:016x}.sum", held.segment.0),
        skip: 0,
        times: 1000,
        errno: libc::EIO,
    });
    data.replica
        .checkpoint()
        .await
        .expect_err("a base cannot be opened");
    let before = journaled(&data);
    data.replica
        .checkpoint()
        .await
        .expect_err("it still cannot");
    assert_eq!(journaled(&data), before);
    let pulled = data.replica.pull_base(held.slot, held.segment);
    pulled.await.expect("the other has it");
    assert_eq!(
        data.ctx.counters.repaired_segments.load(Ordering::Relaxed),
        1
    );
    two.heal();
    data.replica
        .checkpoint()
        .await
        .expect("nothing is wrong any more");
    assert_eq!(
        data.replica.bases.read(held.segment, 0, 1).unwrap()[..],
        [1]
    );
    assert_eq!(readable(&data.replica, other.segment), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_file_makes_room_on_a_full_disk() {
    let world = World::new(1);
    let disk = MemDisk::new(1);
    let data = world.open(1, &disk, false);
    let file = merged(&world, &data).await;
    assert!(
        data.ctx.state().segment(file.segment).is_some(),
        "its writer lives"
    );
    assert!(base_bytes(&disk) > 0);
    disk.set_capacity(Some(disk.used()));
    let (slot, epoch) = (SlotId(0), SlotEpoch(1));
    while data
        .replica
        .journal
        .append(&JournalEntry::Fence { slot, epoch })
        .is_ok()
    {}
    delete(&world, &file);
    without_bases(&disk).await;
    // Once there is room the journal says so, too.
    disk.set_capacity(None);
    data.repair.collect_garbage().expect("there is room");
    assert!(data.replica.index().segments.is_empty());
    disk.crash(Crash::Kill);
    let data = world.open(1, &disk, false);
    assert!(data.replica.index().segments.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_does_not_come_back_after_a_power_loss() {
    let world = World::new(1);
    let disk = MemDisk::new(1);
    let data = world.open(1, &disk, false);
    let file = merged(&world, &data).await;
    delete(&world, &file);
    without_bases(&disk).await;
    data.replica
        .journal
        .sync()
        .await
        .expect("the disk is sound");
    disk.crash(Crash::PowerCut);
    disk.set_capacity(Some(disk.used()));
    let data = world.open(1, &disk, true);
    assert_eq!(base_bytes(&disk), 0);
    assert!(data.replica.index().segments.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bases_that_nobody_names_go_at_the_next_start() {
    let world = World::new(1);
    let disk = MemDisk::new(1);
    let data = world.open(1, &disk, false);
    let file = world.create("a");
    file.write(&data, 1..=1, 1000).await;
    file.merge(&data).await;
    data.replica
        .bases
        .write(SegmentId(0x999), 0, b"left")
        .unwrap();
    disk.crash(Crash::Kill);
    let data = world.open(1, &disk, false);
    assert_eq!(data.replica.bases.list().unwrap(), [file.segment]);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_nobody_has_holds_up_no_other() {
    let world = World::new(2);
    let data = world.open(1, &MemDisk::new(1), false);
    let _other = world.open(2, &MemDisk::new(2), false);
    let (broken, file) = (world.create("a"), world.create("b"));
    world.configure(broken.slot, &[(1, true), (2, false)]);
    world.promote(broken.slot, &[2]);
    broken.lose_a_cut(&world);
    sleep(Duration::from_millis(100)).await;
    file.write(&data, 1..=1, 1000).await;
    let merged = timeout(Duration::from_secs(1), file.merge(&data));
    merged.await.expect("nothing is wrong with this one");
}

#[tokio::test(start_paused = true)]
async fn a_slot_leader_that_is_replaced_while_it_waits_for_its_base_answers_no_look() {
    let world = World::new(2);
    // The other one cannot be reached, so that nothing can be pulled from it.
    let one = world.open(1, &MemDisk::new(1), false);
    let file = world.create("a");
    world.configure(file.slot, &[(1, true), (2, false)]);
    world.promote(file.slot, &[2]);
    // Its base is behind, as on a disk that is full, when a record is acknowledged and somebody looks.
    file.lose_a_cut(&world);
    file.write(&one, 1..=1, 10).await;
    let look = Look {
        slot: file.slot,
        epoch: one.ctx.config(file.slot).unwrap().epoch,
        map: one.ctx.map(),
        segments: vec![file.segment],
    };
    let leader = one.leader.clone();
    let looking = tokio::spawn(async move { leader.look(look).await });
    sleep(Duration::from_millis(100)).await;
    assert!(!looking.is_finished(), "it waits for its base");
    // Another one leads, its own copy goes, and the file, which is emptied, is easily brought up.
    let expire = Command::Expire {
        incarnations: vec![Incarnation(1)],
        why: "it is slow".into(),
    };
    world.apply(expire).expect("it lives");
    one.replica.drop_segment(file.segment).unwrap();
    let versions = one.ctx.state().truncate_versions(file.ino, 0);
    let empty = Command::Truncate {
        ino: file.ino,
        size: 0,
        sole: None,
        versions,
    };
    world.apply(empty).expect("nobody else writes");
    let looked = looking.await.expect("it ends");
    assert!(looked.is_err(), "{looked:?}");
}
