//! Members and slots: R1, R2, R12.

use crate::bench::{Bench, admission};
use hydfs_state::Event;
use hydfs_types::*;

const SLOT: SlotId = SlotId(17);

fn acting(parts: &[(u64, bool)]) -> Vec<Acting> {
    let acting = |(at, synced): &(u64, bool)| Acting {
        incarnation: Incarnation(*at),
        synced: *synced,
    };
    parts.iter().map(acting).collect()
}

fn configure(bench: &Bench, parts: &[(u64, bool)], leader: u64) -> Command {
    let expected = bench.state.config(SLOT).unwrap().epoch;
    let change = SlotChange {
        slot: SLOT,
        expected,
        acting: acting(parts),
        leader: Incarnation(leader),
    };
    Command::Configure {
        changes: vec![change],
    }
}

fn promote(bench: &Bench, incarnation: u64) -> Command {
    let epoch = bench.state.config(SLOT).unwrap().epoch;
    Command::Promote {
        learners: vec![(SLOT, epoch, Incarnation(incarnation))],
    }
}

/// A file that this incarnation writes, whose segment is in `SLOT`: the slot has something to lose.
fn fill(bench: &mut Bench, by: u64) {
    let (probe, ..) = bench.open_new("probe", by);
    let ino = probe.0 + 1;
    let lands = |name: &String| {
        let key = [
            &ROOT_INO.0.to_le_bytes()[..],
            name.as_bytes(),
            &ino.to_le_bytes(),
        ]
        .concat();
        hydfs_state::slot_of(&Digest::of(&key), 0) == SLOT
    };
    let name = (0..).map(|n| format!("f{n}")).find(lands).unwrap();
    let (_, _, segment) = bench.open_new(&name, by);
    assert_eq!(bench.state.segment(segment).unwrap().slot, SLOT);
}

/// `SLOT` on members 1, 2 and 3, all synced.
fn replicated(members: u8) -> Bench {
    let mut bench = Bench::new(members);
    let command = configure(&bench, &[(1, true), (2, false), (3, false)], 1);
    bench.ok(command);
    for learner in [2, 3] {
        let command = promote(&bench, learner);
        assert_eq!(bench.ok(command), Reply::Promoted(vec![SLOT]));
    }
    bench
}

#[test]
fn bootstrap_happens_once() {
    let mut bench = Bench::empty();
    assert!(matches!(
        bench.refused(Command::Admit(admission("n1", 1, 1, 1))),
        CommandError::Admission(_)
    ));
    let command = Command::Bootstrap {
        cluster: ClusterId([1; 16]),
        copies: 9,
    };
    assert!(matches!(bench.refused(command), CommandError::Invalid(_)));
    let command = Command::Bootstrap {
        cluster: ClusterId([1; 16]),
        copies: 2,
    };
    bench.ok(command.clone());
    assert_eq!(bench.refused(command), CommandError::Bootstrapped);
    let root = bench.attr(ROOT_INO);
    assert_eq!((root.mode, root.nlink, root.uid), (0o755, 2, 0));
}

#[test]
fn the_first_member_holds_every_slot() {
    let mut bench = Bench::new(0);
    let admitted = bench.admit(admission("n1", 1, 1, 1));
    assert_eq!(
        admitted,
        Admitted {
            member: MemberId(1),
            incarnation: Incarnation(1),
            resumed: false
        }
    );
    assert_eq!(bench.state.cluster.slots.len(), SLOTS as usize);
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!(
        (config.epoch, config.acting.clone()),
        (SlotEpoch(1), acting(&[(1, true)]))
    );
    bench.admit(admission("n2", 2, 2, 1));
    assert_eq!(bench.state.config(SLOT).unwrap().epoch, SlotEpoch(1));
    assert_eq!(bench.state.cluster.map, MapVersion(bench.state.index.0));
}

#[test]
fn a_lost_admission_answer_is_the_same_again() {
    let mut bench = Bench::new(1);
    let first = bench.admit(admission("n2", 2, 1, 1));
    assert_eq!(bench.admit(admission("n2", 2, 1, 1)), first);
    let resumed = bench.admit(admission("n2", 2, 1, 2));
    assert_eq!(
        resumed,
        Admitted {
            resumed: true,
            ..first
        }
    );
    assert_eq!(bench.admit(admission("n2", 2, 1, 2)), resumed);
}

#[test]
fn a_copied_or_rolled_back_folder_is_refused() {
    let mut bench = Bench::new(1);
    bench.admit(admission("n2", 2, 1, 4));
    let refused = bench.refused(Command::Admit(admission("n2", 2, 9, 4)));
    assert!(
        refused.to_string().contains("copy or was rolled back"),
        "{refused}"
    );
    bench.admit(admission("n2", 2, 9, 6));
}

/// A copy of the run before, on the same boot, counts as the run that the cluster has seen.
#[test]
fn a_folder_that_counts_alike_is_told_by_what_its_start_drew() {
    let mut bench = Bench::new(1);
    let said = |drawn| Admission {
        drawn,
        ..admission("n2", 2, 1, 4)
    };
    let first = bench.admit(said(7));
    assert_eq!(bench.admit(said(7)), first, "it asks again");
    let refused = bench.refused(Command::Admit(said(8)));
    assert!(
        refused.to_string().contains("copy or was rolled back"),
        "{refused}"
    );
}

#[test]
fn a_folder_without_what_it_had_at_its_clean_stop_is_refused() {
    let mut bench = Bench::new(1);
    let said = |last| Admission {
        last: LogIndex(last),
        ..admission("n2", 2, 1, 5)
    };
    let first = bench.admit(admission("n2", 2, 1, 4));
    bench.ok(Command::Leave {
        incarnation: first.incarnation,
        forever: false,
        kept: LogIndex(40),
    });
    let refused = bench.refused(Command::Admit(said(39)));
    assert!(refused.to_string().contains("was rolled back"), "{refused}");
    assert_eq!(bench.admit(said(40)).member, first.member);
}

#[test]
fn an_admission_asked_again_after_an_expiry_begins_a_new_life() {
    let mut bench = Bench::new(1);
    let first = bench.admit(admission("n2", 2, 1, 4));
    bench.expire(&[first.incarnation.0]);
    // The answer to the first was lost; who asks does not know that it was expired since.
    let again = bench.admit(admission("n2", 2, 1, 4));
    assert_eq!(again.member, first.member);
    assert!(again.incarnation > first.incarnation && !again.resumed);
}

#[test]
fn a_name_belongs_to_one_member() {
    let mut bench = Bench::new(2);
    let refused = bench.refused(Command::Admit(admission("n2", 7, 7, 1)));
    assert!(refused.to_string().contains("live member m2"), "{refused}");
    bench.expire(&[2]);
    let admitted = bench.admit(admission("n2", 7, 7, 1));
    assert_eq!(admitted.member, MemberId(3));
    assert_eq!(
        bench.state.member(MemberId(2)).unwrap().said.name,
        "n2 (gone m2)"
    );
    assert_eq!(bench.state.member_named("n2").unwrap().id, MemberId(3));
}

#[test]
fn a_new_boot_ends_the_old_life_first() {
    let mut bench = replicated(3);
    let admitted = bench.admit(admission("n3", 3, 99, 2));
    assert_eq!(
        admitted,
        Admitted {
            member: MemberId(3),
            incarnation: Incarnation(4),
            resumed: false
        }
    );
    assert!(!bench.state.is_alive(Incarnation(3)));
    assert_eq!(
        bench.state.config(SLOT).unwrap().acting,
        acting(&[(1, true), (2, true)])
    );
}

#[test]
fn an_expire_hands_the_slot_over() {
    let mut bench = replicated(3);
    let epoch = bench.state.config(SLOT).unwrap().epoch;
    bench.expire(&[1]);
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!(
        (config.leader, config.epoch.0),
        (Incarnation(2), epoch.0 + 1)
    );
    assert_eq!(config.acting, acting(&[(2, true), (3, true)]));
    assert!(bench.events.contains(&Event::Members));
    bench.expire(&[1]);
    assert!(bench.events.is_empty(), "the same again is nothing");
}

#[test]
fn a_slot_freezes_and_thaws_on_the_same_boot() {
    let mut bench = replicated(4);
    fill(&mut bench, 1);
    bench.expire(&[1, 2, 3]);
    let frozen = bench.state.config(SLOT).unwrap().clone();
    assert!(frozen.frozen);
    assert_eq!(frozen.acting, acting(&[(1, true), (2, true), (3, true)]));
    let command = configure(&bench, &[(4, true)], 4);
    assert_eq!(bench.refused(command), CommandError::Changed);
    // After a power loss one of three may have lost what the others have.
    bench.admit(admission("n1", 1, 99, 2));
    assert!(bench.state.config(SLOT).unwrap().frozen);
    let back = bench.admit(admission("n2", 2, 2, 2));
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!(
        (config.frozen, config.epoch.0, config.leader),
        (false, frozen.epoch.0 + 1, back.incarnation)
    );
    assert_eq!(config.acting, acting(&[(back.incarnation.0, true)]));
    // The third finds the slot running without it.
    bench.admit(admission("n3", 3, 3, 2));
    assert_eq!(
        bench.state.config(SLOT).unwrap().acting,
        acting(&[(back.incarnation.0, true)])
    );
}

#[test]
fn the_last_replica_that_comes_back_thaws_a_slot_that_lost_power_everywhere() {
    let mut bench = replicated(3);
    fill(&mut bench, 1);
    bench.expire(&[1, 2, 3]);
    bench.admit(admission("n3", 3, 93, 2));
    bench.admit(admission("n1", 1, 91, 2));
    // It went once more, and is no more whole for it.
    bench.admit(admission("n3", 3, 93, 3));
    assert!(bench.state.config(SLOT).unwrap().frozen, "n2 may be whole");
    let back = bench.admit(admission("n2", 2, 92, 2));
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!((config.frozen, config.leader), (false, back.incarnation));
    assert_eq!(config.acting, acting(&[(back.incarnation.0, true)]));
}

#[test]
fn the_only_replica_thaws_after_a_power_loss() {
    let mut bench = Bench::new(2);
    fill(&mut bench, 2);
    bench.expire(&[1]);
    assert!(bench.state.config(SLOT).unwrap().frozen);
    assert_eq!(
        bench.state.member_of(Incarnation(1)).unwrap().id,
        MemberId(1)
    );
    let back = bench.admit(admission("n1", 1, 50, 2));
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!((config.frozen, config.leader), (false, back.incarnation));
    assert!(
        bench.state.member_of(Incarnation(1)).is_none(),
        "no config names it any more"
    );
}

#[test]
fn a_slot_that_holds_nothing_goes_to_whoever_lives() {
    let mut bench = replicated(4);
    let epoch = bench.state.config(SLOT).unwrap().epoch;
    bench.expire(&[1, 2, 3]);
    let config = bench.state.config(SLOT).unwrap().clone();
    assert_eq!(config.acting, acting(&[(4, true)]));
    assert_eq!((config.frozen, config.leader), (false, Incarnation(4)));
    assert_eq!(config.epoch.0, epoch.0 + 1);
    // Nobody lives: it goes to the next who comes, whoever that is.
    bench.expire(&[4]);
    assert!(bench.state.config(SLOT).unwrap().frozen);
    let new = bench.admit(admission("n5", 5, 5, 1));
    let config = bench.state.config(SLOT).unwrap();
    assert_eq!((config.frozen, config.leader), (false, new.incarnation));
    assert_eq!(config.acting, acting(&[(new.incarnation.0, true)]));
}

#[test]
fn configs_keep_a_synced_replica() {
    let mut bench = replicated(4);
    let refused = |bench: &mut Bench, parts: &[(u64, bool)], leader| {
        let command = configure(bench, parts, leader);
        bench.refused(command)
    };
    let invalid = |error| matches!(error, CommandError::Invalid(_));
    assert!(
        invalid(refused(&mut bench, &[(1, true), (4, true)], 1)),
        "only a promotion syncs"
    );
    assert!(
        invalid(refused(&mut bench, &[(1, true), (2, true), (4, false)], 1)),
        "3 leaves too early"
    );
    assert!(
        invalid(refused(&mut bench, &[(1, true), (2, true), (3, true)], 4)),
        "the leader acts"
    );
    assert!(invalid(refused(&mut bench, &[], 1)));
    assert_eq!(
        refused(&mut bench, &[(1, true), (9, false)], 1),
        CommandError::Ended(Incarnation(9))
    );
    let command = configure(&bench, &[(1, true), (2, true), (3, true), (4, false)], 2);
    bench.ok(command.clone());
    assert_eq!(
        bench.refused(command),
        CommandError::Changed,
        "a compare-and-swap"
    );
    let command = promote(&bench, 4);
    assert_eq!(bench.ok(command), Reply::Promoted(vec![SLOT]));
    let command = configure(&bench, &[(2, true), (3, true), (4, true)], 4);
    bench.ok(command);
}

#[test]
fn fault_m9_a_member_is_in_a_replica_set_once() {
    let mut bench = Bench::new(2);
    let command = configure(&bench, &[(1, true), (2, false), (2, false)], 1);
    assert!(matches!(bench.refused(command), CommandError::Invalid(_)));
    let command = configure(&bench, &[(1, true), (2, false)], 1);
    bench.ok(command);
    let back = bench.admit(admission("n2", 2, 77, 2));
    assert_eq!(
        bench.state.config(SLOT).unwrap().acting,
        acting(&[(1, true)])
    );
    let command = configure(
        &bench,
        &[(1, true), (2, false), (back.incarnation.0, false)],
        1,
    );
    assert_eq!(bench.refused(command), CommandError::Ended(Incarnation(2)));
}

#[test]
fn stale_promotions_are_skipped() {
    let mut bench = Bench::new(2);
    let command = configure(&bench, &[(1, true), (2, false)], 1);
    bench.ok(command);
    let stale = Command::Promote {
        learners: vec![
            (SLOT, SlotEpoch(1), Incarnation(2)),
            (SLOT, SlotEpoch(2), Incarnation(1)),
        ],
    };
    assert_eq!(bench.ok(stale), Reply::Promoted(vec![]));
    assert!(bench.events.is_empty());
}

#[test]
fn leaving_for_ever_is_remembered() {
    let mut bench = Bench::new(3);
    bench.ok(Command::Leave {
        incarnation: Incarnation(2),
        forever: true,
        kept: LogIndex(0),
    });
    let member = bench.state.member(MemberId(2)).unwrap();
    assert!(member.left && !member.alive);
    bench.expire(&[3]);
    bench.ok(Command::Leave {
        incarnation: Incarnation(3),
        forever: true,
        kept: LogIndex(0),
    });
    assert!(
        bench.state.member(MemberId(3)).unwrap().left,
        "a dead member can be given up"
    );
    let unknown = Command::Leave {
        incarnation: Incarnation(40),
        forever: false,
        kept: LogIndex(0),
    };
    assert_eq!(bench.refused(unknown), CommandError::Ended(Incarnation(40)));
}

#[test]
fn full_and_settings() {
    let mut bench = Bench::new(1);
    bench.ok(Command::MarkFull {
        incarnation: Incarnation(1),
        full: true,
    });
    assert!(bench.state.member(MemberId(1)).unwrap().full);
    assert_eq!(
        bench.refused(Command::MarkFull {
            incarnation: Incarnation(5),
            full: true
        }),
        CommandError::Ended(Incarnation(5))
    );
    bench.ok(Command::Set {
        key: "suspicion".into(),
        value: "off".into(),
    });
    assert_eq!(bench.state.cluster.settings["suspicion"], "off");
}

#[test]
fn who_has_ended_is_refused() {
    let mut bench = Bench::new(2);
    bench.expire(&[2]);
    let envelope = Envelope {
        incarnation: Incarnation(2),
        ..bench.envelope(Command::Set {
            key: "k".into(),
            value: String::new(),
        })
    };
    assert_eq!(
        bench.send(&envelope),
        Err(CommandError::Ended(Incarnation(2)))
    );
}

#[test]
fn what_an_earlier_process_proposed_comes_too_late() {
    let mut bench = Bench::new(1);
    let by = |bench: &Bench, start| Envelope {
        incarnation: Incarnation(1),
        start,
        ..bench.envelope(Command::Set {
            key: "k".into(),
            value: start.to_string(),
        })
    };
    let first = by(&bench, 1);
    assert_eq!(bench.send(&first), Ok(Reply::Done));
    bench.ok(Command::TakeOver(admission("n1", 1, 1, 2)));
    let (late, next) = (by(&bench, 1), by(&bench, 2));
    let ended = CommandError::Ended(Incarnation(1));
    assert_eq!(bench.send(&late), Err(ended), "the incarnation goes on");
    assert_eq!(bench.send(&next), Ok(Reply::Done));
}
