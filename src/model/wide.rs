//! Larger configurations: some for one planted bug that no pair has room for, the others for `scripts/model`, which looks at
//! as much of them as time and memory allow.

use crate::{Config, Plant::*, config::QUIET};

/// For bugs and holes that need more than a pair of rules.
pub const MORE: [Config; 3] = [
    Config {
        name: "frozen",
        about: "both replicas end together and come back without what power took",
        members: 2,
        copies: 2,
        synced: 0b011,
        ring: 0b011,
        expires: &[0b011],
        changes: 1,
        powers: 2,
        records: 1,
        merges: false,
        finds: &[FrozenForEver, AnyBootReadmitted],
        ..QUIET
    },
    Config {
        name: "heir",
        about: "one replica after the other is expired while a third member learns",
        copies: 2,
        synced: 0b011,
        ring: 0b111,
        expires: &[0b001, 0b010],
        changes: 2,
        records: 1,
        merges: false,
        finds: &[NoFreeze],
        ..QUIET
    },
    Config {
        name: "order",
        about: "two records that came in an order, and a merge by who learned them",
        members: 2,
        copies: 1,
        synced: 0b10,
        ring: 0b01,
        lists: 1,
        finds: &[PulledLast],
        ..QUIET
    },
];

/// Up to 4 members, 2 reconfigurations, 1 power loss.
pub const WIDE: [Config; 6] = [
    Config {
        name: "wide-repair",
        about: "4 members, 3 copies: two replicas are expired one after the other, one of them also loses power",
        members: 4,
        ring: 0b1111,
        expires: &[0b0001, 0b0010],
        changes: 2,
        powers: 1,
        losing: 0b0001,
        records: 1,
        durable: 0b01,
        ..QUIET
    },
    Config {
        name: "wide-move",
        about: "4 members, 2 copies: both go to other members, one after the other; a machine loses power",
        members: 4,
        copies: 2,
        synced: 0b0011,
        ring: 0b0011,
        rings: &[0b0110, 0b1100],
        changes: 2,
        powers: 1,
        losing: 0b0010,
        records: 1,
        ..QUIET
    },
    Config {
        name: "wide-merge",
        about: "3 members, 2 writers: any one is expired and comes back, merges begin twice",
        expires: &[0b001, 0b010],
        changes: 1,
        restarts: 1,
        restarting: 0b011,
        ends: true,
        ..QUIET
    },
    Config {
        name: "wide-ends",
        about: "3 members, 2 copies, 2 writers, each of which may end alone, with its cut: one replica is replaced, one expired",
        copies: 2,
        synced: 0b011,
        ring: 0b101,
        expires: &[0b001, 0b010],
        changes: 1,
        ends: true,
        ..QUIET
    },
    Config {
        name: "wide-roll",
        about: "3 members, 2 writers: a segment is rolled, the next one retired; one is expired, one loses power",
        rolls: true,
        retires: true,
        expires: &[0b001],
        changes: 1,
        powers: 1,
        losing: 0b010,
        durable: 0b01,
        ..QUIET
    },
    Config {
        name: "wide-all",
        about: "4 members, 2 writers: 2 reconfigurations of any kind, a restart, a power loss, a roll",
        members: 4,
        ring: 0b0111,
        rings: &[0b1110],
        expires: &[0b0001, 0b0010, 0b0011],
        changes: 2,
        restarts: 1,
        restarting: 0b1111,
        powers: 1,
        rolls: true,
        durable: 0b01,
        ..QUIET
    },
];
