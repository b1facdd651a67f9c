//! Quotas: what counts, what is refused, and what ends so that room is free again.

use crate::bench::{Bench, create, rename, unlink};
use hydfs_state::{Usage, WriterPhase};
use hydfs_types::*;

fn limit(bench: &mut Bench, dir: Ino, limit: Limit, most: u64) {
    let most = Some(most);
    bench.ok(Command::SetQuota { dir, limit, most });
}

fn used(bench: &Bench, dir: Ino) -> Usage {
    bench.state.quota_of(dir).expect("it has a quota").used
}

fn reserve(writer: WriterId, bytes: u64, instead_of: Option<WriterId>) -> Command {
    Command::Reserve {
        writer,
        bytes,
        spare: 0,
        instead_of,
    }
}

fn over(error: &CommandError) -> bool {
    matches!(error, CommandError::OverQuota(_))
}

/// A file with a writer of member 1 in a directory whose bytes are limited.
fn limited(bench: &mut Bench, most: u64) -> (Ino, Ino, WriterId) {
    let dir = bench.make(ROOT_INO, "d", FileKind::Directory);
    limit(bench, dir, Limit::Bytes, most);
    let by = Some(Incarnation(1));
    let Reply::Created(made) = bench.ok(create(dir, "f", FileKind::Regular, by)) else {
        panic!("not created")
    };
    (dir, made.attr.ino, made.grant.unwrap().writer)
}

#[test]
fn inodes_are_counted_and_limited_at_every_depth() {
    let mut bench = Bench::new(1);
    let top = bench.make(ROOT_INO, "top", FileKind::Directory);
    let sub = bench.make(top, "sub", FileKind::Directory);
    bench.make(sub, "old", FileKind::Regular);
    limit(&mut bench, top, Limit::Inodes, 4);
    limit(&mut bench, sub, Limit::Inodes, 3);
    assert_eq!((used(&bench, top).inodes, used(&bench, sub).inodes), (2, 1));
    bench.make(sub, "a", FileKind::Symlink);
    bench.make(top, "b", FileKind::Fifo);
    let refused = bench.refused(create(sub, "c", FileKind::Regular, None));
    assert!(over(&refused), "{refused}");
    bench.ok(unlink(top, "b", false));
    bench.make(sub, "c", FileKind::Directory);
    assert!(over(&bench.refused(create(
        sub,
        "e",
        FileKind::Directory,
        None
    ))));
    bench.ok(unlink(sub, "c", true));
    bench.ok(Command::SetQuota {
        dir: sub,
        limit: Limit::Inodes,
        most: None,
    });
    assert_eq!(bench.state.quota_of(sub), None);
    bench.make(sub, "e", FileKind::Directory);
    assert!(over(&bench.refused(create(
        sub,
        "g",
        FileKind::Regular,
        None
    ))));
}

#[test]
fn a_name_does_not_cross_a_quota() {
    let mut bench = Bench::new(1);
    let (dir, file, _) = limited(&mut bench, 1000);
    let out = bench.make(ROOT_INO, "out", FileKind::Regular);
    let link = |ino, parent, name: &str| Command::Link {
        ino,
        parent,
        name: name.into(),
    };
    for crossing in [
        link(file, ROOT_INO, "f"),
        link(out, dir, "out"),
        rename(dir, "f", ROOT_INO, "f"),
        rename(ROOT_INO, "out", dir, "out"),
    ] {
        assert_eq!(bench.refused(crossing), CommandError::CrossesQuota);
    }
    bench.ok(link(file, dir, "g"));
    bench.ok(rename(dir, "g", dir, "h"));
    bench.ok(rename(ROOT_INO, "d", ROOT_INO, "moved"));
    assert_eq!(used(&bench, dir).inodes, 1);
    bench.ok(unlink(dir, "h", false));
    assert_eq!(used(&bench, dir).inodes, 1);
    bench.ok(unlink(dir, "f", false));
    assert_eq!(used(&bench, dir), Usage::default());
}

#[test]
fn a_quota_is_not_set_across_links() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "d", FileKind::Directory);
    let file = bench.make(dir, "f", FileKind::Regular);
    bench.ok(Command::Link {
        ino: file,
        parent: ROOT_INO,
        name: b"f".to_vec(),
    });
    let set = Command::SetQuota {
        dir,
        limit: Limit::Bytes,
        most: Some(1),
    };
    let refused = bench.refused(set.clone()).to_string();
    assert!(refused.contains("names inside and outside"), "{refused}");
    bench.ok(unlink(ROOT_INO, "f", false));
    bench.ok(set);
}

#[test]
fn room_is_kept_until_the_writer_is_forgotten() {
    let mut bench = Bench::new(2);
    let (dir, file, writer) = limited(&mut bench, 1000);
    bench.ok(reserve(writer, 600, None));
    let other = bench.grant(file, 2);
    assert!(over(&bench.refused(reserve(other, 401, None))));
    bench.ok(reserve(other, 400, None));
    let segment = bench.segment_at(file, 0);
    let item = bench.item(segment, &[(writer, 3), (other, 2)], 500);
    bench.merge(item);
    // What is merged counts twice while the writers live.
    let both = |bytes, room| Usage {
        inodes: 1,
        bytes,
        room,
    };
    assert_eq!(used(&bench, dir), both(500, 1000));
    bench.end(writer, 4, &[(segment, None)]);
    assert_eq!(used(&bench, dir), both(500, 1000));
    let item = bench.item(segment, &[(writer, 4), (other, 2)], 550);
    bench.merge(item);
    assert_eq!(used(&bench, dir), both(550, 400));
    bench.end(other, 2, &[]);
    assert_eq!(used(&bench, dir), both(550, 0));
}

#[test]
fn a_replaced_writer_hands_its_room_on() {
    let mut bench = Bench::new(2);
    let (dir, file, writer) = limited(&mut bench, 1000);
    bench.ok(reserve(writer, 1000, None));
    bench.ok(Command::Fence { writer });
    let next = bench.grant(file, 1);
    assert!(over(&bench.refused(reserve(next, 1, None))));
    assert_eq!(
        bench.ok(reserve(next, 300, Some(writer))),
        Reply::Reserved(300)
    );
    assert_eq!(used(&bench, dir).room, 300);
    assert_eq!(
        bench.refused(reserve(writer, 1, None)),
        CommandError::Changed
    );
}

#[test]
fn the_room_of_a_dead_member_is_free_when_its_end_is_merged() {
    let mut bench = Bench::new(2);
    let (dir, file, _) = limited(&mut bench, 1000);
    let writer = bench.grant(file, 2);
    bench.ok(reserve(writer, 600, None));
    bench.expire(&[2]);
    assert_eq!(used(&bench, dir).room, 600);
    let segment = bench.segment_at(file, 0);
    let item = bench.item(segment, &[(writer, 2)], 200);
    bench.merge(item);
    let merged = Usage {
        inodes: 1,
        bytes: 200,
        room: 0,
    };
    assert_eq!(used(&bench, dir), merged);
}

#[test]
fn the_room_of_a_fenced_writer_is_free_when_its_member_dies() {
    let mut bench = Bench::new(2);
    let (dir, file, writer) = limited(&mut bench, 1000);
    bench.ok(reserve(writer, 600, None));
    bench.ok(Command::Reclaim { ino: file });
    let segment = bench.segment_at(file, 0);
    let item = bench.item(segment, &[(writer, 2)], 200);
    bench.merge(item);
    // Its owner may hand it on.
    assert_eq!(used(&bench, dir).room, 600);
    bench.expire(&[1]);
    assert_eq!(used(&bench, dir).room, 0);
}

#[test]
fn whoever_is_refused_has_others_end() {
    let mut bench = Bench::new(2);
    let (dir, file, writer) = limited(&mut bench, 1000);
    bench.ok(reserve(writer, 900, None));
    let make = create(dir, "g", FileKind::Regular, Some(Incarnation(2)));
    let Reply::Created(made) = bench.ok(make) else {
        panic!("not created")
    };
    let mine = made.grant.unwrap().writer;
    let roomless = bench.grant(file, 2);
    assert!(over(&bench.refused(reserve(mine, 500, None))));
    bench.ok(Command::Reclaim { ino: made.attr.ino });
    let phase = |bench: &Bench, id| bench.state.writer(id).map(|writer| writer.phase);
    assert!(matches!(
        phase(&bench, writer),
        Some(WriterPhase::Fenced { .. })
    ));
    assert_eq!(phase(&bench, roomless), Some(WriterPhase::Open));
    assert_eq!(phase(&bench, mine), Some(WriterPhase::Open));
    assert_eq!(
        bench
            .state
            .files_with_room(file)
            .into_iter()
            .collect::<Vec<_>>(),
        [file]
    );
}

#[test]
fn some_is_given_in_advance_but_never_all() {
    let mut bench = Bench::new(1);
    let (dir, _, writer) = limited(&mut bench, 1600);
    let wish = Command::Reserve {
        writer,
        bytes: 100,
        spare: 1 << 30,
        instead_of: None,
    };
    assert_eq!(bench.ok(wish), Reply::Reserved(100 + 1500 / 16));
    assert_eq!(used(&bench, dir).room, 193);
}

#[test]
fn a_size_that_is_set_counts() {
    let mut bench = Bench::new(1);
    let (dir, file, writer) = limited(&mut bench, 1000);
    bench.end(writer, 0, &[]);
    let grow = |bench: &Bench, size| Command::Grow {
        ino: file,
        size,
        sole: None,
        versions: bench.state.truncate_versions(file, size),
    };
    let command = grow(&bench, 1001);
    assert!(over(&bench.refused(command)));
    let command = grow(&bench, 1000);
    bench.ok(command);
    assert_eq!(used(&bench, dir).bytes, 1000);
    // Whoever wrote into it may have looked at the old size.
    let writer = bench.grant(file, 1);
    let cut = Command::Truncate {
        ino: file,
        size: 10,
        sole: Some((writer, Seq(0))),
        versions: bench.state.truncate_versions(file, 10),
    };
    bench.ok(cut);
    assert_eq!(used(&bench, dir).bytes, 10);
    let after = bench.state.writer(writer).map(|writer| writer.phase);
    assert_ne!(after, Some(WriterPhase::Open));
}

#[test]
fn writers_that_were_there_before_the_limit_end() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "d", FileKind::Directory);
    let by = Some(Incarnation(1));
    let Reply::Created(made) = bench.ok(create(dir, "f", FileKind::Regular, by)) else {
        panic!("not created")
    };
    limit(&mut bench, dir, Limit::Inodes, 5);
    let writer = made.grant.unwrap().writer;
    let open = |bench: &Bench| {
        let known = bench.state.writer(writer);
        known.is_some_and(|writer| writer.phase == WriterPhase::Open)
    };
    assert!(open(&bench));
    limit(&mut bench, dir, Limit::Bytes, 5);
    assert!(!open(&bench));
}
