//! Writers, segments and cuts: R5, R6, R8, R9.

use crate::bench::{Bench, admission};
use hydfs_state::{Cut, Event, Place, State, WriterPhase, slot_of};
use hydfs_types::*;

const SEG: u64 = SEGMENT_BYTES;

fn extend(ino: Ino, starts: &[u64]) -> Command {
    Command::Extend {
        ino,
        starts: starts.to_vec(),
    }
}

#[test]
fn one_writer_per_member_and_file() {
    let mut bench = Bench::new(2);
    let (ino, writer, segment) = bench.open_new("a", 1);
    assert!(!bench.state.is_clean_file(ino) && !bench.state.is_clean_segment(segment));
    let again = Command::Grant {
        ino,
        incarnation: Incarnation(1),
        job: None,
    };
    assert_eq!(
        bench.ok(again),
        Reply::Granted(Granted { writer, new: false })
    );
    assert!(bench.events.is_empty());
    assert_ne!(bench.grant(ino, 2), writer);
    assert_eq!(bench.events, [Event::Writers(ino)]);
    let dead = Command::Grant {
        ino,
        incarnation: Incarnation(9),
        job: None,
    };
    assert_eq!(bench.refused(dead), CommandError::Ended(Incarnation(9)));
    let dir = Command::Grant {
        ino: ROOT_INO,
        incarnation: Incarnation(1),
        job: None,
    };
    assert_eq!(bench.refused(dir), CommandError::IsDirectory);
}

#[test]
fn slots_come_from_the_key() {
    let mut bench = Bench::new(1);
    let (ino, ..) = bench.open_new("a", 1);
    bench.ok(extend(ino, &[SEG]));
    let key = bench.state.inode(ino).unwrap().key;
    let slot = |start| {
        bench
            .state
            .segment(bench.segment_at(ino, start))
            .unwrap()
            .slot
    };
    assert_eq!(
        (slot(0), slot(SEG)),
        (slot_of(&key, 0), State::slot_of(&key, 1))
    );
    assert!(slot(0).0 < SLOTS && slot(SEG).0 < SLOTS);
}

#[test]
fn places_are_a_grid_with_holes() {
    let mut bench = Bench::new(1);
    let (ino, _, first) = bench.open_new("a", 1);
    let at = |bench: &Bench, offset| bench.state.place(ino, offset).unwrap();
    assert_eq!(
        at(&bench, 10),
        Place::In {
            segment: first,
            start: 0,
            offset_in_segment: 10,
            room: SEG - 10
        }
    );
    assert_eq!(at(&bench, SEG), Place::Missing { start: SEG });
    assert_eq!(at(&bench, 5 * SEG + 7), Place::Missing { start: 5 * SEG });
    bench.ok(extend(ino, &[5 * SEG, 5 * SEG + 1, 3]));
    assert_eq!(
        bench.state.file(ino).unwrap().1.segments.len(),
        2,
        "what is covered is not made again"
    );
    assert_eq!(at(&bench, 4 * SEG + 7), Place::Missing { start: 4 * SEG });
    let far = bench.segment_at(ino, 5 * SEG);
    assert_eq!(
        at(&bench, 5 * SEG + 7),
        Place::In {
            segment: far,
            start: 5 * SEG,
            offset_in_segment: 7,
            room: SEG - 7
        }
    );
    assert!(matches!(
        bench.refused(extend(ino, &[u64::MAX])),
        CommandError::Invalid(_)
    ));
    assert_eq!(
        bench.state.place(ROOT_INO, 0),
        Err(CommandError::IsDirectory)
    );
}

#[test]
fn appends_make_a_segment_longer_than_the_grid() {
    let mut bench = Bench::new(1);
    let (ino, writer, first) = bench.open_new("a", 1);
    let long = bench.item(first, &[(writer, 1)], SEG + 100);
    assert_eq!(bench.merge(long), MergeOutcome::Merged(SegmentVersion(1)));
    assert!(matches!(
        bench.state.place(ino, SEG + 50),
        Ok(Place::In { room: 50, .. })
    ));
    assert_eq!(
        bench.state.place(ino, 3 * SEG),
        Ok(Place::Missing {
            start: 2 * SEG + 100
        })
    );
}

#[test]
fn a_merge_is_a_compare_and_swap() {
    let mut bench = Bench::new(2);
    let (ino, writer, segment) = bench.open_new("a", 1);
    let good = bench.item(segment, &[(writer, 3)], 30);
    let bad = [
        MergeItem {
            slot_epoch: SlotEpoch(7),
            ..good.clone()
        },
        MergeItem {
            segment: SegmentId(99),
            ..good.clone()
        },
        MergeItem {
            cut: SegmentCut {
                base: SegmentVersion(1),
                ..good.cut
            },
            ..good.clone()
        },
        MergeItem {
            through: vec![(WriterId(99), Seq(1))],
            ..good.clone()
        },
        MergeItem {
            through: vec![(writer, Seq(1)), (writer, Seq(2))],
            ..good.clone()
        },
        MergeItem {
            then: Then::SetLen(5),
            ..good.clone()
        },
    ];
    let items = bad.to_vec();
    let Reply::Merged(outcomes) = bench.ok(Command::Merge {
        incarnation: Incarnation(1),
        items,
    }) else {
        panic!()
    };
    assert_eq!(outcomes, [MergeOutcome::Refused; 6]);
    let other = Command::Merge {
        incarnation: Incarnation(2),
        items: vec![good.clone()],
    };
    assert_eq!(
        bench.ok(other),
        Reply::Merged(vec![MergeOutcome::Refused]),
        "only the slot leader"
    );
    let before = bench.attr(ino);
    assert_eq!(
        bench.merge(good.clone()),
        MergeOutcome::Merged(SegmentVersion(1))
    );
    let after = bench.attr(ino);
    assert_eq!(
        (after.size, after.stored, bench.state.stat_fs().bytes),
        (30, 30, 30)
    );
    assert!(after.mtime > before.mtime);
    let slot = bench.state.segment(segment).unwrap().slot;
    let how = Cut::Prepared {
        digest: good.cut.digest,
    };
    assert_eq!(
        bench.events[0],
        Event::Cut {
            segment,
            slot,
            version: SegmentVersion(1),
            how
        }
    );
    assert_eq!(
        bench.merge(good),
        MergeOutcome::Refused,
        "the base has moved on"
    );
    let back = bench.item(segment, &[(writer, 2)], 40);
    assert_eq!(
        bench.merge(back),
        MergeOutcome::Refused,
        "lanes never go back"
    );
}

#[test]
fn a_sole_end_leaves_the_file_clean() {
    let mut bench = Bench::new(2);
    let (ino, writer, segment) = bench.open_new("a", 1);
    let cut = SegmentCut {
        base: SegmentVersion(0),
        digest: Digest([1; 32]),
        len: 100,
    };
    bench.end(writer, 4, &[(segment, Some(cut))]);
    assert!(bench.state.is_clean_file(ino));
    assert_eq!(
        (
            bench.attr(ino).size,
            bench.state.segment(segment).unwrap().version
        ),
        (100, SegmentVersion(1))
    );
    assert!(
        bench.state.writer(writer).is_none()
            && bench.state.segment(segment).unwrap().through.is_empty()
    );
    let sole = |event: &Event| {
        matches!(
            event,
            Event::Cut {
                how: Cut::Sole { last: Seq(4), .. },
                ..
            }
        )
    };
    assert!(bench.events.iter().any(sole));
    bench.end(writer, 4, &[(segment, Some(cut))]);
    assert!(bench.events.is_empty(), "the same end again");
}

#[test]
fn an_end_beside_others_leaves_its_records_pending() {
    let mut bench = Bench::new(2);
    let (ino, one, segment) = bench.open_new("a", 1);
    let two = bench.grant(ino, 2);
    let cut = SegmentCut {
        base: SegmentVersion(0),
        digest: Digest([1; 32]),
        len: 100,
    };
    bench.end(one, 4, &[(segment, Some(cut))]);
    assert_eq!(bench.state.segment(segment).unwrap().ended[&one], Seq(4));
    bench.end(two, 2, &[(segment, Some(cut))]);
    assert!(!bench.state.is_clean_file(ino));
    let over = bench.item(segment, &[(one, 5)], 10);
    assert_eq!(bench.merge(over), MergeOutcome::Refused, "past its last");
    let half = bench.item(segment, &[(one, 4), (two, 1)], 10);
    assert_eq!(bench.merge(half), MergeOutcome::Merged(SegmentVersion(1)));
    assert!(!bench.state.is_clean_file(ino));
    let mtime = bench.attr(ino).mtime;
    let rest = bench.item(segment, &[(two, 2)], 20);
    bench.merge(rest);
    assert!(bench.state.is_clean_file(ino) && bench.state.names.writers.is_empty());
    assert_eq!(
        bench.attr(ino).mtime,
        mtime,
        "an ended writer has told its time"
    );
}

#[test]
fn the_end_of_a_writer_tells_its_time() {
    let mut bench = Bench::new(1);
    let (ino, writer, segment) = bench.open_new("a", 1);
    let mtime = Time {
        sec: 5_000,
        nsec: 1,
    };
    let touched = vec![
        Touched { segment, cut: None },
        Touched {
            segment: SegmentId(77),
            cut: None,
        },
    ];
    let end = WriterEnd {
        writer,
        last: Seq(1),
        touched,
        mtime: Some(mtime),
    };
    bench.ok(Command::End { ends: vec![end] });
    assert_eq!(bench.attr(ino).mtime, mtime);
    assert!(bench.events.contains(&Event::Data(ino)));
}

#[test]
fn a_fence_is_fixed_by_the_first_merge_that_knows_it() {
    let mut bench = Bench::new(2);
    let (ino, _, segment) = bench.open_new("a", 1);
    let fenced = bench.grant(ino, 2);
    let early = bench.item(segment, &[(fenced, 2)], 20);
    bench.expire(&[2]);
    assert!(matches!(
        bench.state.writer(fenced).unwrap().phase,
        WriterPhase::Fenced { .. }
    ));
    let late = bench.item(segment, &[(fenced, 3)], 30);
    assert_eq!(
        bench.merge(early.clone()),
        MergeOutcome::Refused,
        "listed before the fence"
    );
    let unaware = MergeItem {
        through: vec![],
        ..early
    };
    bench.merge(unaware);
    assert!(
        bench
            .state
            .segment(segment)
            .unwrap()
            .fenced
            .contains(&fenced)
    );
    let late = MergeItem {
        cut: SegmentCut {
            base: SegmentVersion(1),
            ..late.cut
        },
        ..late
    };
    assert!(matches!(bench.merge(late), MergeOutcome::Merged(_)));
    assert!(bench.state.segment(segment).unwrap().fenced.is_empty());
    let void = bench.item(segment, &[(fenced, 4)], 40);
    assert_eq!(
        bench.merge(void),
        MergeOutcome::Refused,
        "later records are void"
    );
}

#[test]
fn a_fence_with_nothing_pending_keeps_the_version() {
    let mut bench = Bench::new(2);
    let (ino, writer, segment) = bench.open_new("a", 2);
    bench.expire(&[2]);
    assert!(!bench.state.is_clean_file(ino));
    let nothing = bench.item(segment, &[], 0);
    assert_eq!(
        bench.merge(nothing),
        MergeOutcome::Merged(SegmentVersion(0))
    );
    assert_eq!(bench.events, [Event::Writers(ino)]);
    assert!(bench.state.is_clean_file(ino) && bench.state.writer(writer).is_some());
    bench.end(writer, 0, &[]);
    assert!(bench.state.writer(writer).is_none());
}

#[test]
fn where_a_fence_ended_a_writer_is_kept_until_its_owner_has_read_it() {
    let mut bench = Bench::new(2);
    let (ino, _, segment) = bench.open_new("a", 1);
    let fenced = bench.grant(ino, 2);
    bench.expire(&[2]);
    let item = bench.item(segment, &[(fenced, 3)], 30);
    bench.merge(item);
    let end = |bench: &Bench| {
        let known = bench.state.segment(segment).unwrap();
        known.through.get(&fenced).copied()
    };
    bench.admit(admission("n2", 2, 2, 2));
    assert_eq!(end(&bench), Some(Seq(3)));
    let mut read = bench.clone();
    read.end(fenced, 0, &[]);
    assert!(end(&read).is_none() && read.state.writer(fenced).is_none());
    // Who does not read it in a whole life never does: nothing is kept for ever.
    let mut left = bench.clone();
    left.ok(Command::Leave {
        incarnation: Incarnation(3),
        forever: true,
        kept: LogIndex(0),
    });
    assert!(left.state.writer(fenced).is_none());
    bench.admit(admission("n2", 2, 2, 3));
    assert!(bench.state.writer(fenced).is_none());
}

#[test]
fn an_owner_may_fence_its_writer_and_learns_what_became_of_its_records() {
    let mut bench = Bench::new(1);
    let (ino, writer, segment) = bench.open_new("a", 1);
    let early = bench.item(segment, &[(writer, 2)], 20);
    bench.ok(Command::Fence { writer });
    bench.ok(Command::Fence { writer });
    assert_eq!(bench.merge(early), MergeOutcome::Refused);
    let late = bench.item(segment, &[(writer, 3)], 30);
    assert!(matches!(bench.merge(late), MergeOutcome::Merged(_)));
    let known = bench.state.segment(segment).unwrap();
    assert_eq!(
        known.through.get(&writer),
        Some(&Seq(3)),
        "kept until it is read"
    );
    assert_ne!(bench.grant(ino, 1), writer);
    bench.end(writer, 0, &[]);
    assert!(bench.state.writer(writer).is_none());
}

#[test]
fn a_worker_that_resumes_has_its_writers_fenced() {
    let mut bench = Bench::new(1);
    let (ino, writer, segment) = bench.open_new("a", 1);
    let resumed = bench.admit(admission("n1", 1, 1, 2));
    assert!(resumed.resumed);
    assert!(
        bench
            .state
            .segment(segment)
            .unwrap()
            .fenced
            .contains(&writer)
    );
    assert_ne!(bench.grant(ino, 1), writer);
}

/// Calls may still wait for what became of a record that was sent two workers ago.
#[test]
fn what_was_fenced_is_kept_until_a_worker_that_takes_over_says_that_it_knows() {
    let mut bench = Bench::new(1);
    let (_, writer, _) = bench.open_new("a", 1);
    for start in 2..6 {
        bench.ok(Command::TakeOver(admission("n1", 1, 1, start)));
        assert!(bench.state.writer(writer).is_some(), "start {start}");
    }
    bench.end(writer, 0, &[]);
    let known = bench.state.writer(writer).unwrap();
    assert!(known.read);
}

#[test]
fn a_frozen_slot_merges_nothing() {
    let mut bench = Bench::new(2);
    let (_, writer, segment) = bench.open_new("a", 2);
    let item = bench.item(segment, &[(writer, 1)], 10);
    bench.expire(&[1]);
    let item = MergeItem {
        map: MapVersion(1_000),
        ..item
    };
    assert_eq!(bench.merge(item), MergeOutcome::Refused);
}

#[test]
fn a_full_segment_is_followed_by_the_next() {
    let mut bench = Bench::new(2);
    let (ino, writer, first) = bench.open_new("a", 1);
    let full = MergeItem {
        then: Then::Full,
        ..bench.item(first, &[(writer, 9)], SEG + 5)
    };
    assert!(matches!(bench.merge(full), MergeOutcome::Merged(_)));
    assert!(bench.state.segment(first).unwrap().is_full());
    let next = bench.segment_at(ino, SEG + 5);
    assert_eq!(bench.state.segment(next).unwrap().len, 0);
    assert_eq!(bench.attr(ino).size, SEG + 5);
    let empty = MergeItem {
        then: Then::Full,
        ..bench.item(next, &[], 0)
    };
    assert_eq!(
        bench.merge(empty),
        MergeOutcome::Refused,
        "nothing follows nothing"
    );
    let retire = MergeItem {
        then: Then::Retire,
        ..bench.item(next, &[], 0)
    };
    assert!(matches!(bench.merge(retire), MergeOutcome::Merged(_)));
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::Retired { segment, .. } if *segment == next))
    );
    let newer = bench.grant(ino, 2);
    let last = bench.state.segment(first).unwrap();
    assert!(!last.is_full(), "the last segment takes appends");
    assert!(last.takes_appends_of(newer));
    assert!(
        !last.takes_appends_of(writer),
        "what it sent before the segment was full may be on its way"
    );
}

#[test]
fn a_cutoff_voids_what_is_pending() {
    let mut bench = Bench::new(2);
    let (ino, _, segment) = bench.open_new("a", 1);
    let two = bench.grant(ino, 2);
    bench.end(two, 6, &[(segment, None)]);
    let cut = MergeItem {
        then: Then::SetLen(7),
        ..bench.item(segment, &[(two, 2)], 7)
    };
    assert!(matches!(bench.merge(cut), MergeOutcome::Merged(_)));
    assert!(
        bench.state.writer(two).is_none() && bench.state.segment(segment).unwrap().ended.is_empty()
    );
    assert_eq!(bench.attr(ino).size, 7);
}

#[test]
fn a_snapshot_is_the_state() {
    let mut bench = Bench::new(3);
    let (ino, _, _) = bench.open_new("a", 1);
    bench.grant(ino, 2);
    bench.expire(&[2]);
    let bytes = bench.state.snapshot();
    assert_eq!(State::restore(&bytes).unwrap(), bench.state);
    for at in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(State::restore(&bad).is_err());
    }
    assert!(State::restore(&bytes[..3]).is_err() && State::restore(&[]).is_err());
    assert_eq!(
        State::restore(&State::default().snapshot()).unwrap(),
        State::default()
    );
}
