//! Commands and the snapshot as bytes. A change here is a change of the agreement log: old members cannot read it.
#![allow(clippy::unwrap_used)]

use hydfs_state::State;
use hydfs_types::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn envelope(command: Command) -> Envelope {
    Envelope {
        session: SessionId(300),
        seq: 2,
        done_through: 1,
        incarnation: Incarnation(4),
        start: 6,
        time: Time {
            sec: 1_700_000_000,
            nsec: 5,
        },
        command,
    }
}

#[track_caller]
fn golden(command: Command, wanted: &str) {
    let envelope = envelope(command);
    let bytes = encode(&envelope);
    assert_eq!(hex(&bytes), wanted, "{:?}", envelope.command);
    assert_eq!(decode::<Envelope>(&bytes).unwrap(), envelope);
}

fn admission() -> Admission {
    Admission {
        name: "n1".to_owned(),
        addr: ([127, 0, 0, 1], 7000).into(),
        zone: "z".to_owned(),
        weight: 100,
        storage: StorageId([1; 16]),
        boot: BootId([2; 16]),
        start_count: 3,
        drawn: 4,
        last: LogIndex(5),
    }
}

#[test]
fn cluster_commands_keep_their_bytes() {
    golden(
        Command::Bootstrap {
            cluster: ClusterId([0xab; 16]),
            copies: 3,
        },
        "0100ac020201040680c49fd50c0500abababababababababababababababab03",
    );
    golden(
        Command::Admit(admission()),
        "0100ac020201040680c49fd50c0501026e31007f000001d836017a640101010101010101010101010101010102020202020202020202020202020202030405",
    );
    golden(
        Command::TakeOver(admission()),
        "0100ac020201040680c49fd50c051a026e31007f000001d836017a640101010101010101010101010101010102020202020202020202020202020202030405",
    );
    golden(
        Command::Leave {
            incarnation: Incarnation(7),
            forever: true,
            kept: LogIndex(300),
        },
        "0100ac020201040680c49fd50c05030701ac02",
    );
    golden(
        Command::Expire {
            incarnations: vec![Incarnation(7)],
            why: "lease".to_owned(),
        },
        "0100ac020201040680c49fd50c05020107056c65617365",
    );
    let acting = vec![
        Acting {
            incarnation: Incarnation(1),
            synced: true,
        },
        Acting {
            incarnation: Incarnation(2),
            synced: false,
        },
    ];
    let change = SlotChange {
        slot: SlotId(4095),
        expected: SlotEpoch(9),
        acting,
        leader: Incarnation(1),
    };
    golden(
        Command::Configure {
            changes: vec![change],
        },
        "0100ac020201040680c49fd50c050401ff1f09020101020001",
    );
}

#[test]
fn namespace_commands_keep_their_bytes() {
    let create = Command::Create {
        parent: ROOT_INO,
        name: b"name".to_vec(),
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: vec![],
        grant: Some(Incarnation(4)),
        umask: 0o027,
    };
    golden(
        create,
        "0100ac020201040680c49fd50c050801046e616d6500a403e807e8070000010417",
    );
    let rename = Command::Rename {
        parent: ROOT_INO,
        name: b"a".to_vec(),
        to_parent: Ino(5),
        to_name: b"b".to_vec(),
        no_replace: true,
        exchange: false,
    };
    golden(rename, "0100ac020201040680c49fd50c050b0101610501620100");
    let set = SetAttr {
        mode: Some(0o600),
        mtime: Some(Time { sec: -1, nsec: 2 }),
        settled: Some((WriterId(3), Seq(4))),
        ..SetAttr::default()
    };
    golden(
        Command::SetAttr { ino: Ino(6), set },
        "0100ac020201040680c49fd50c050c060180030000000101020000010304",
    );
    let change = Command::SetAttrAs {
        ino: Ino(6),
        set,
        owner: Some(7),
        clear_set_id: true,
    };
    golden(
        change,
        "0100ac020201040680c49fd50c051b060180030000000101020000010304010701",
    );
    let list = Command::SetAcl {
        ino: Ino(6),
        default: true,
        list: vec![2, 0, 0, 0],
        owner: Some(7),
        set_gid: SetGid::OfGroup(9),
    };
    golden(list, "0100ac020201040680c49fd50c05200601040200000001070109");
    let unlink = Command::UnlinkAs {
        parent: Ino(1),
        name: b"a".to_vec(),
        dir: true,
        caller: 1000,
    };
    golden(unlink, "0100ac020201040680c49fd50c052101016101e807");
    let rename = Command::RenameAs {
        parent: Ino(1),
        name: b"a".to_vec(),
        to_parent: Ino(2),
        to_name: b"b".to_vec(),
        no_replace: true,
        exchange: false,
        caller: 1000,
    };
    golden(rename, "0100ac020201040680c49fd50c05220101610201620100e807");
}

#[test]
fn file_commands_keep_their_bytes() {
    let cut = SegmentCut {
        base: SegmentVersion(3),
        digest: Digest([0xcd; 32]),
        len: 100,
    };
    let item = MergeItem {
        segment: SegmentId(8),
        slot_epoch: SlotEpoch(2),
        map: MapVersion(77),
        through: vec![(WriterId(5), Seq(6))],
        time: Time::default(),
        cut,
        then: Then::SetLen(100),
    };
    golden(
        Command::Merge {
            incarnation: Incarnation(4),
            items: vec![item],
        },
        "0100ac020201040680c49fd50c0513040108024d010506000003cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd640264",
    );
    let touched = vec![Touched {
        segment: SegmentId(8),
        cut: Some(cut),
    }];
    let end = WriterEnd {
        writer: WriterId(5),
        last: Seq(6),
        touched,
        mtime: None,
    };
    golden(
        Command::End { ends: vec![end] },
        "0100ac020201040680c49fd50c051201050601080103cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd6400",
    );
    let truncate = Command::Truncate {
        ino: Ino(6),
        size: 1 << 20,
        sole: Some((WriterId(5), Seq(6))),
        versions: vec![(SegmentId(8), SegmentVersion(3))],
    };
    golden(
        truncate,
        "0100ac020201040680c49fd50c051406808040010506010803",
    );
    let grow = Command::Grow {
        ino: Ino(6),
        size: 1 << 20,
        sole: Some((WriterId(5), Seq(6))),
        versions: vec![(SegmentId(8), SegmentVersion(3))],
    };
    golden(grow, "0100ac020201040680c49fd50c051c06808040010506010803");
    let commit = JobCommit {
        job: JobId(1),
        attempt: Attempt(2),
        epoch: JobEpoch(3),
        watermarks: vec![(WriterId(5), Seq(6))],
        positions: vec![1, 2],
        progress: vec![3],
        done: true,
    };
    golden(
        Command::Job(JobCommand::Commit(commit)),
        "0100ac020201040680c49fd50c051502010203010506020102010301",
    );
    let change = JobCommand::Change {
        job: JobId(1),
        from: Attempt(2),
        phase: JobPhase::Paused,
        spec: Ino(6),
        generation: 3,
        positions: Some((JobEpoch(7), vec![1, 2])),
        uid: 4,
        gid: 5,
        message: "m".into(),
    };
    let failed = JobCommand::SetPhase {
        job: JobId(1),
        attempt: Some(Attempt(2)),
        phase: JobPhase::Failed,
        message: "m".into(),
    };
    golden(
        Command::Job(failed),
        "0100ac020201040680c49fd50c05150301010203016d",
    );
    golden(
        Command::Job(change),
        "0100ac020201040680c49fd50c051505010201060301070201020405016d",
    );
    golden(
        Command::Fence {
            writer: WriterId(5),
        },
        "0100ac020201040680c49fd50c051605",
    );
    let drain = Command::Drain {
        incarnation: Incarnation(7),
        on: true,
    };
    golden(drain, "0100ac020201040680c49fd50c05170701");
    let lock = Command::Lock {
        ino: Ino(6),
        incarnation: Incarnation(7),
        lock: Lock {
            start: 1,
            end: 2,
            owner: 3,
            pid: 4,
            exclusive: true,
        },
    };
    golden(lock, "0100ac020201040680c49fd50c051806070102030401");
    let unlock = Command::Unlock {
        ino: Ino(6),
        incarnation: Incarnation(7),
        owner: 3,
        start: 1,
        end: 2,
    };
    golden(unlock, "0100ac020201040680c49fd50c05190607030102");
    let quota = Command::SetQuota {
        dir: Ino(6),
        limit: Limit::Inodes,
        most: Some(7),
    };
    golden(quota, "0100ac020201040680c49fd50c051d06010107");
    let reserve = Command::Reserve {
        writer: WriterId(5),
        bytes: 6,
        spare: 7,
        instead_of: Some(WriterId(8)),
    };
    golden(reserve, "0100ac020201040680c49fd50c051e0506070108");
    golden(
        Command::Reclaim { ino: Ino(6) },
        "0100ac020201040680c49fd50c051f06",
    );
}

#[test]
fn a_small_state_keeps_its_bytes() {
    let mut state = State::default();
    let bootstrap = envelope(Command::Bootstrap {
        cluster: ClusterId([0xab; 16]),
        copies: 3,
    });
    let bootstrap = Envelope {
        incarnation: Incarnation(0),
        start: 0,
        ..bootstrap
    };
    state
        .apply(LogIndex(1), &bootstrap, &mut Vec::new())
        .unwrap();
    let bytes = state.snapshot();
    assert_eq!(
        hex(&bytes),
        "01000180c49fd50c0501abababababababababababababababab03010000000000000001010101ed0300000200000080c49fd50c0580c49fd50c0580c49fd50c0580c49fd50c05008a5edab282632443219e051e4ade2d1d5bbc671c781051bf1437897cbdfea0f100010100000000000000000000000000020000000000f5a0b761"
    );
    assert_eq!(State::restore(&bytes), Ok(state));
}
