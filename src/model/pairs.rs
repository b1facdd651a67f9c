//! The configurations that run with every test: one for each pair of the seven rules. Each is small enough that all of its
//! states are looked at in seconds.

use crate::{Config, Plant::*, config::QUIET};

/// The slot leader, or another replica, may be expired.
const EXPIRY: Config = Config {
    expires: &[0b001, 0b010],
    changes: 1,
    ..QUIET
};

/// Two members are synced; the third is wanted, too, and so a learner from the planner's first step on.
const LEARNING: Config = Config {
    synced: 0b011,
    ..QUIET
};

/// Two copies; the third member is to take the place of the second.
const REPLACING: Config = Config {
    copies: 2,
    synced: 0b011,
    ring: 0b101,
    ..QUIET
};

/// Two copies; the slot leader is to give its place to the third member.
const MOVING: Config = Config {
    copies: 2,
    synced: 0b011,
    ring: 0b011,
    rings: &[0b110],
    changes: 1,
    ..QUIET
};

/// Two copies of which one or both may end; what comes back may be re-admitted.
const FREEZING: Config = Config {
    copies: 2,
    synced: 0b011,
    ring: 0b011,
    members: 2,
    expires: &[0b001, 0b011],
    changes: 1,
    restarts: 2,
    restarting: 0b11,
    ..QUIET
};

/// One model for each pair of R2, R3, R4, R6, R8, R11 and R12.
pub const PAIRS: [Config; 23] = [
    Config {
        name: "r2-r3",
        about: "a replica is expired while two writers append and another replica restarts, with old messages on their way",
        finds: &[EpochUnchecked, FenceNotJournaled],
        expires: &[0b010],
        merges: false,
        restarts: 1,
        restarting: 0b100,
        ..EXPIRY
    },
    Config {
        name: "r2-r4",
        about: "a member joins: appends need it as a holder as soon as a config names it",
        finds: &[LearnerIsNoHolder],
        rings: &[0b111],
        ring: 0b011,
        changes: 1,
        merges: false,
        ..LEARNING
    },
    Config {
        name: "r2-r6",
        about: "the slot leader is replaced while it merges",
        finds: &[MergeAtOldEpoch, DroppedBeforePromote],
        records: 1,
        lists: 1,
        ..MOVING
    },
    Config {
        name: "r2-r8",
        about: "a replica is expired while the segment is rolled",
        finds: &[RolledUnfenced],
        copies: 2,
        members: 2,
        synced: 0b011,
        ring: 0b011,
        expires: &[0b001, 0b010],
        rolls: true,
        lists: 1,
        ..EXPIRY
    },
    Config {
        name: "r2-r11",
        about: "the slot leader is replaced: a learner pulls and is promoted, then the old one goes",
        finds: &[NoCompare, PromoteUnpulled],
        records: 1,
        merges: false,
        ..MOVING
    },
    Config {
        name: "r2-r12",
        about: "one or both replicas are expired and come back",
        finds: &[ReadmittedUnfrozen],
        records: 1,
        merges: false,
        ..FREEZING
    },
    Config {
        name: "r3-r4",
        about: "the slot leader is expired while two writers append, a replica restarts",
        finds: &[FenceNotJournaled, OneMissing],
        expires: &[0b001],
        merges: false,
        restarts: 1,
        restarting: 0b010,
        ..EXPIRY
    },
    Config {
        name: "r3-r6",
        about: "the slot leader is expired while it merges two records",
        finds: &[EpochUnchecked, ProposeUnprepared],
        expires: &[0b001],
        lists: 1,
        ..EXPIRY
    },
    Config {
        name: "r3-r7",
        about: "the slot leader is expired while a writer that is alone ends with its cut, or is merged",
        finds: &[EpochUnchecked],
        ends: true,
        records: 1,
        ..EXPIRY
    },
    Config {
        name: "r3-r8",
        about: "the slot leader is expired while it rolls the segment, and a replica restarts",
        finds: &[DeletedByAbsence, FenceNotJournaled, ResumedBehind],
        copies: 2,
        members: 2,
        synced: 0b011,
        ring: 0b011,
        expires: &[0b001],
        rolls: true,
        restarts: 1,
        restarting: 0b010,
        lists: 1,
        ..EXPIRY
    },
    Config {
        name: "r3-r11",
        about: "a learner is promoted while an old epoch's appends are on their way and the slot leader restarts",
        finds: &[EpochUnchecked, FenceNotJournaled],
        records: 1,
        merges: false,
        restarts: 1,
        restarting: 0b001,
        ..LEARNING
    },
    Config {
        name: "r3-r12",
        about: "a replica is expired, comes back as a learner, and is promoted",
        finds: &[ReadmittedUnfrozen, EpochUnchecked],
        copies: 2,
        members: 2,
        synced: 0b011,
        ring: 0b011,
        expires: &[0b001],
        records: 1,
        merges: false,
        restarts: 1,
        restarting: 0b001,
        ..EXPIRY
    },
    Config {
        name: "r4-r6",
        about: "two writers append while the slot leader merges",
        finds: &[ForgetMerged, PrepareWithoutRecords],
        ..QUIET
    },
    Config {
        name: "r4-r8",
        about: "two writers append while the segment is rolled, and the next one is retired",
        finds: &[ResentAcrossRoll, RolledUnfenced, UnfencedInDoubt, Reopened],
        rolls: true,
        retires: true,
        lists: 1,
        ..QUIET
    },
    Config {
        name: "r4-r11",
        about: "a writer appends while a learner is promoted and the slot leader restarts",
        finds: &[LearnerIsNoHolder, PromoteUnpulled],
        records: 1,
        merges: false,
        restarts: 1,
        restarting: 0b001,
        ..REPLACING
    },
    Config {
        name: "r4-r12",
        about: "a record goes to disk while a machine loses power",
        finds: &[CommittedInMemory],
        durable: 0b01,
        records: 1,
        merges: false,
        powers: 1,
        losing: 0b101,
        ..QUIET
    },
    Config {
        name: "r6-r8",
        about: "a segment is rolled and merged while a job's record waits for its watermark",
        finds: &[RolledAboveWatermark],
        rolls: true,
        job: true,
        ..QUIET
    },
    Config {
        name: "r6-r11",
        about: "a learner is promoted while the slot leader merges, and restarts",
        finds: &[
            PromotedBySource,
            PullOverDoubt,
            LearnedBehind,
            LatePromote,
            StaleProposals,
        ],
        records: 1,
        restarts: 1,
        restarting: 0b001,
        ..LEARNING
    },
    Config {
        name: "r6-r12",
        about: "a machine loses power while the slot leader merges",
        finds: &[PrepareUnsynced, KeptAfterPowerLoss],
        records: 1,
        lists: 1,
        powers: 1,
        losing: 0b010,
        ..QUIET
    },
    Config {
        name: "r7-r11",
        about: "a learner is promoted while a writer that is alone ends with its cut, or is merged",
        finds: &[EndedUnpulled, LearnedBehind],
        records: 1,
        ends: true,
        ..REPLACING
    },
    Config {
        name: "r8-r11",
        about: "a learner is promoted while the segment is rolled",
        finds: &[PromotedBySource],
        records: 1,
        rolls: true,
        lists: 1,
        ..LEARNING
    },
    Config {
        name: "r8-r12",
        about: "a segment is truncated while a machine loses power",
        finds: &[TruncatedTwice, PrepareUnsynced],
        copies: 2,
        members: 2,
        synced: 0b011,
        ring: 0b011,
        truncates: true,
        records: 1,
        powers: 1,
        losing: 0b10,
        ..QUIET
    },
    Config {
        name: "r11-r12",
        about: "a machine loses power, comes back as a learner, and is promoted",
        finds: &[ReadmittedUnfrozen, KeptAfterPowerLoss],
        copies: 2,
        members: 2,
        synced: 0b011,
        ring: 0b011,
        records: 1,
        powers: 1,
        losing: 0b01,
        ..QUIET
    },
];
