//! Truncate where nobody else writes.

use crate::bench::Bench;
use hydfs_state::{Cut, Event, was_cut};
use hydfs_types::*;

const SEG: u64 = SEGMENT_BYTES;

fn truncate(bench: &Bench, ino: Ino, size: u64, sole: Option<(WriterId, u64)>) -> Command {
    let versions = bench.state.truncate_versions(ino, size);
    Command::Truncate {
        ino,
        size,
        sole: sole.map(|(writer, seq)| (writer, Seq(seq))),
        versions,
    }
}

/// A clean file of `len` bytes in one segment.
fn clean(bench: &mut Bench, len: u64) -> (Ino, SegmentId) {
    let (ino, writer, segment) = bench.open_new("a", 1);
    let cut = SegmentCut {
        base: SegmentVersion(0),
        digest: Digest([1; 32]),
        len,
    };
    bench.end(writer, 1, &[(segment, Some(cut))]);
    (ino, segment)
}

#[test]
fn shrinks_a_clean_file() {
    let mut bench = Bench::new(1);
    let (ino, segment) = clean(&mut bench, 100);
    let before = bench.attr(ino);
    let version = |bench: &Bench| bench.state.inode(ino).unwrap().data_version;
    let pinned = version(&bench);
    let digest = bench.state.segment(segment).unwrap().digest;
    let command = truncate(&bench, ino, 40, None);
    assert!(
        matches!(bench.ok(command.clone()), Reply::Attr(attr) if attr.size == 40 && attr.mtime > before.mtime)
    );
    let known = bench.state.segment(segment).unwrap();
    assert_eq!((known.len, known.digest), (40, digest.after_set_len(40)));
    assert_eq!(
        bench.refused(command),
        CommandError::Changed,
        "the version has moved on"
    );
    assert!(was_cut(pinned, version(&bench)) && version(&bench) > pinned);
    let command = truncate(&bench, ino, 0, None);
    bench.ok(command);
    assert_eq!((bench.attr(ino).size, bench.state.stat_fs().bytes), (0, 0));
}

#[test]
fn grows_so_that_appends_begin_at_the_end() {
    let mut bench = Bench::new(1);
    let (ino, segment) = clean(&mut bench, 100);
    let command = truncate(&bench, ino, 500, None);
    bench.ok(command);
    assert_eq!(
        (
            bench.attr(ino).size,
            bench.state.segment(segment).unwrap().len
        ),
        (500, 500)
    );
    let command = truncate(&bench, ino, 9 * SEG, None);
    bench.ok(command);
    assert_eq!(
        (
            bench.attr(ino).size,
            bench.state.segment(segment).unwrap().len
        ),
        (9 * SEG, 500)
    );
    assert!(
        !bench
            .events
            .iter()
            .any(|event| matches!(event, Event::Cut { .. })),
        "a hole is no data"
    );
    let command = truncate(&bench, ino, 1_000, None);
    bench.ok(command);
    assert_eq!(bench.attr(ino).size, 1_000);
    let empty = bench.make(ROOT_INO, "empty", FileKind::Regular);
    let command = truncate(&bench, empty, 77, None);
    bench.ok(command);
    assert_eq!((bench.attr(empty).size, bench.attr(empty).stored), (77, 0));
}

#[test]
fn retires_what_lies_behind() {
    let mut bench = Bench::new(1);
    let (ino, writer, first) = bench.open_new("a", 1);
    bench.ok(Command::Extend {
        ino,
        starts: vec![SEG, 2 * SEG],
    });
    for (start, seq) in [(0, 1), (SEG, 2), (2 * SEG, 3)] {
        let item = bench.item(bench.segment_at(ino, start), &[(writer, seq)], SEG);
        bench.merge(item);
    }
    assert_eq!(bench.attr(ino).size, 3 * SEG);
    let mut command = truncate(&bench, ino, SEG, Some((writer, 3)));
    bench.ok(command.clone());
    assert_eq!((bench.attr(ino).size, bench.attr(ino).stored), (SEG, SEG));
    assert_eq!(
        bench
            .events
            .iter()
            .filter(|event| matches!(event, Event::Retired { .. }))
            .count(),
        2
    );
    assert!(
        !bench
            .events
            .iter()
            .any(|event| matches!(event, Event::Cut { .. })),
        "the first is whole"
    );
    assert_eq!(
        bench.state.segment(first).unwrap().version,
        SegmentVersion(1)
    );
    if let Command::Truncate { versions, .. } = &mut command {
        versions.clear();
    }
    let Command::Truncate { ino, sole, .. } = command else {
        unreachable!()
    };
    let unnamed = Command::Truncate {
        ino,
        size: 5,
        sole,
        versions: vec![],
    };
    assert_eq!(
        bench.refused(unnamed),
        CommandError::Changed,
        "every segment reached is named"
    );
    let command = truncate(&bench, ino, 5, Some((writer, 3)));
    bench.ok(command);
    assert_eq!(bench.attr(ino).size, 5);
}

#[test]
fn only_the_sole_writer_may() {
    let mut bench = Bench::new(2);
    let (ino, writer, _) = bench.open_new("a", 1);
    let other = bench.grant(ino, 2);
    let command = truncate(&bench, ino, 0, Some((writer, 1)));
    assert_eq!(bench.refused(command), CommandError::Busy);
    bench.end(other, 0, &[]);
    let command = truncate(&bench, ino, 0, None);
    assert_eq!(bench.refused(command), CommandError::Busy);
    bench.end(writer, 0, &[]);
    let command = truncate(&bench, ino, 0, Some((writer, 1)));
    assert_eq!(bench.refused(command), CommandError::Changed);
}

#[test]
fn to_nothing_drops_everything_pending() {
    let mut bench = Bench::new(3);
    let (ino, own, segment) = bench.open_new("a", 1);
    let ended = bench.grant(ino, 2);
    let fenced = bench.grant(ino, 3);
    bench.end(ended, 5, &[(segment, None)]);
    bench.expire(&[3]);
    let command = truncate(&bench, ino, 8, Some((own, 4)));
    assert_eq!(
        bench.refused(command),
        CommandError::Busy,
        "merge first what 8 may divide"
    );
    let command = truncate(&bench, ino, 0, Some((own, 4)));
    bench.ok(command.clone());
    let dropped = vec![(own, Seq(4)), (ended, Seq(5)), (fenced, Seq(u64::MAX))];
    assert!(bench.events.iter().any(
        |event| matches!(event, Event::Cut { how: Cut::SetLen { len: 0, dropped: d, .. }, .. } if *d == dropped)
    ));
    let known = bench.state.segment(segment).unwrap();
    assert_eq!((known.through[&own], known.through.len()), (Seq(4), 1));
    bench.end(own, 4, &[(segment, None)]);
    assert!(
        bench.state.is_clean_file(ino),
        "nothing of it is left to merge"
    );
}

#[test]
fn own_pending_records_are_merged_first() {
    let mut bench = Bench::new(1);
    let (ino, own, segment) = bench.open_new("a", 1);
    let command = truncate(&bench, ino, 50, Some((own, 2)));
    assert_eq!(bench.refused(command), CommandError::Busy);
    let item = bench.item(segment, &[(own, 2)], 100);
    bench.merge(item);
    let command = truncate(&bench, ino, 50, Some((own, 2)));
    bench.ok(command);
    assert_eq!(bench.attr(ino).size, 50);
}

#[test]
fn a_void_lane_stays_void_while_its_writer_is_known() {
    let mut bench = Bench::new(2);
    let (ino, own, first) = bench.open_new("a", 1);
    let ended = bench.grant(ino, 2);
    bench.end(ended, 5, &[(first, None)]);
    let cut = MergeItem {
        then: Then::SetLen(0),
        ..bench.item(first, &[], 0)
    };
    bench.merge(cut);
    assert!(bench.state.writer(ended).is_none());
    let another = bench.grant(ino, 2);
    bench.ok(Command::Extend {
        ino,
        starts: vec![SEG],
    });
    let second = bench.segment_at(ino, SEG);
    bench.end(another, 9, &[(first, None), (second, None)]);
    let cut = MergeItem {
        then: Then::SetLen(3),
        ..bench.item(first, &[(own, 1)], 3)
    };
    bench.merge(cut);
    assert_eq!(
        bench.state.segment(first).unwrap().through[&another],
        Seq(9),
        "its records here do not come back"
    );
    assert_eq!(bench.state.segment(second).unwrap().ended[&another], Seq(9));
}

/// Replicas that all lost power make lengths again from the agreed state; it keeps few of them.
#[test]
fn lengths_are_remembered_until_a_merge_and_are_bounded() {
    let mut bench = Bench::new(1);
    let (ino, segment) = clean(&mut bench, 100);
    let lengths = |bench: &Bench| -> Vec<u64> {
        let known = bench.state.segment(segment).unwrap();
        let last = known.lengths.last().unwrap();
        assert_eq!((last.version, last.digest), (known.version, known.digest));
        known.lengths.iter().map(|set| set.len).collect()
    };
    let mut size = 99;
    while !bench.state.must_cut_off(ino, size) {
        let command = truncate(&bench, ino, size, None);
        bench.ok(command);
        size -= 1;
        assert_eq!(lengths(&bench), (size + 1..=99).rev().collect::<Vec<_>>());
    }
    let command = truncate(&bench, ino, size, None);
    assert_eq!(bench.refused(command), CommandError::Busy);
    let cut = MergeItem {
        then: Then::SetLen(size),
        ..bench.item(segment, &[], size)
    };
    assert!(matches!(bench.merge(cut), MergeOutcome::Merged(_)));
    assert!(bench.state.segment(segment).unwrap().lengths.is_empty());
    for size in [20, 0, 30] {
        let command = truncate(&bench, ino, size, None);
        bench.ok(command);
    }
    assert_eq!(lengths(&bench), [0, 30], "nothing before the 0 is needed");
}

/// `echo x > f`, again and again, each time by another writer: what is remembered of it does not grow.
#[test]
fn a_file_that_is_overwritten_for_ever_stays_small() {
    let mut bench = Bench::new(1);
    let (ino, segment) = clean(&mut bench, 100);
    let mut sizes = Vec::new();
    for n in 0..40 {
        let writer = bench.grant(ino, 1);
        let command = truncate(&bench, ino, 0, Some((writer, 0)));
        bench.ok(command);
        let known = bench.state.segment(segment).unwrap();
        let cut = SegmentCut {
            base: known.version,
            digest: Digest([n; 32]),
            len: 2,
        };
        bench.end(writer, 1, &[(segment, Some(cut))]);
        sizes.push(encode(bench.state.segment(segment).unwrap()).len());
    }
    // Versions and ids of writers are numbers whose encoding grows.
    assert!(sizes[39] <= sizes[2] + 8, "{sizes:?}");
}

fn grow(bench: &Bench, ino: Ino, size: u64, sole: Option<(WriterId, u64)>) -> Command {
    let Command::Truncate {
        ino,
        size,
        sole,
        versions,
    } = truncate(bench, ino, size, sole)
    else {
        unreachable!()
    };
    Command::Grow {
        ino,
        size,
        sole,
        versions,
    }
}

#[test]
fn growing_a_file_that_is_already_as_long_changes_nothing() {
    let mut bench = Bench::new(2);
    let (ino, segment) = clean(&mut bench, 100);
    let before = bench.state.inode(ino).unwrap().clone();
    for size in [0, 40, 100] {
        // With a writer elsewhere, too.
        if size == 40 {
            bench.grant(ino, 2);
        }
        let command = grow(&bench, ino, size, None);
        assert_eq!(bench.ok(command), Reply::Attr(before.attr));
        assert!(bench.events.is_empty());
    }
    let command = grow(&bench, ino, 101, None);
    assert_eq!(bench.refused(command), CommandError::Busy);
    let longer = MergeItem {
        then: Then::Grow(500),
        ..bench.item(segment, &[], 500)
    };
    assert!(matches!(bench.merge(longer), MergeOutcome::Merged(_)));
    assert_eq!(bench.attr(ino).size, 500);
    let shorter = MergeItem {
        then: Then::Grow(300),
        ..bench.item(segment, &[], 300)
    };
    assert_eq!(bench.merge(shorter), MergeOutcome::Refused);
}

#[test]
fn growing_takes_no_size_back_and_no_segment() {
    let mut bench = Bench::new(2);
    let (ino, segment) = clean(&mut bench, 100);
    let command = grow(&bench, ino, 200, None);
    bench.ok(command);
    assert_eq!(bench.attr(ino).size, 200);
    assert_eq!(bench.state.segment(segment).unwrap().len, 200);
    // A size that somebody has set meanwhile, past what the slot leader knows.
    let command = truncate(&bench, ino, 9 * SEG, None);
    bench.ok(command);
    let item = MergeItem {
        then: Then::Grow(500),
        ..bench.item(segment, &[], 500)
    };
    bench.merge(item);
    assert_eq!(bench.attr(ino).size, 9 * SEG);
    // A record of the caller's own may be on its way to a segment past the end.
    let (other, own, _) = bench.open_new("b", 1);
    bench.ok(Command::Extend {
        ino: other,
        starts: vec![SEG],
    });
    let command = grow(&bench, other, 10, Some((own, 1)));
    bench.ok(command);
    assert_eq!(bench.attr(other).size, 10);
    bench.segment_at(other, SEG);
}
