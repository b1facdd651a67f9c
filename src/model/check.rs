//! The invariants (docs/ARCHITECTURE.md, docs/RELIABILITY.md), looked at after every step.

use crate::{
    Config, State,
    agreed::{Agreed, Command, Phase, Role},
    append,
    list::{each, has},
    state::{Store, Views},
};

/// The invariant that a state breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    R12,
}

impl Broken {
    pub const ALL: [Self; 8] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::R12,
    ];

    /// What it promises.
    pub fn promise(self) -> &'static str {
        match self {
            Self::I1 => {
                "I1: what is acknowledged is on every synced replica (on its disk, where that was asked for), or in a committed cut"
            }
            Self::I2 => {
                "I2: a cut that is committed can be made, with its records, from the disk of every synced replica"
            }
            Self::I3 => {
                "I3: every synced replica can bring its base to the agreed version, with what it holds and what is on its disk"
            }
            Self::I4 => {
                "I4: nothing but a truncate that was asked for after it was written takes a record out of the file"
            }
            Self::I5 => {
                "I5: each record at most once, after what was acknowledged before it was sent"
            }
            Self::I6 => "I6: no replica's fence is below an epoch that it answered at",
            Self::I7 => {
                "I7: successive configs share a synced life; a live one leaves only when enough are synced"
            }
            Self::R12 => "R12: a slot does not stay frozen when all that it names have come back",
        }
    }
}

/// What the last step broke, if anything.
pub fn broken(
    last: &State,
    state: &State,
    views: &Views,
    before: &Agreed,
    commit: Option<Command>,
    config: &Config,
) -> Option<Broken> {
    let now = views.now();
    if succession(before, now, commit, config) {
        return Some(Broken::I7);
    }
    if is_stuck(state, now) {
        return Some(Broken::R12);
    }
    if let Some(behind) = unreachable(state, now, commit, config) {
        return Some(behind);
    }
    if lost(state, now, config) {
        return Some(Broken::I1);
    }
    if cut_off(state, now, config) {
        return Some(Broken::I4);
    }
    if misplaced(state, now, config) {
        return Some(Broken::I5);
    }
    append::check_fences(last, state, views)
}

fn succession(before: &Agreed, now: &Agreed, commit: Option<Command>, config: &Config) -> bool {
    if before.epoch == now.epoch {
        return false;
    }
    let same = |member: u8| before.named[usize::from(member)] == now.named[usize::from(member)];
    let kept = before.synced() & now.synced();
    // R12: whoever is re-admitted is the same replica under another life.
    let readmitted =
        |member: u8| matches!(commit, Some(Command::Admit { member: one, .. }) if one == member);
    let shared = each(kept).any(|member| same(member) || readmitted(member));
    let live = |member: u8| {
        has(now.alive, member)
            && before.named[usize::from(member)] == now.lives[usize::from(member)]
    };
    let dropped = each(before.synced() & !now.synced()).any(live);
    !shared || dropped && now.synced().count_ones() < now.wanted(config)
}

/// Frozen, though everybody that the config names is back.
fn is_stuck(state: &State, now: &Agreed) -> bool {
    let back = |member: u8| {
        let life = state.members[usize::from(member)].life;
        has(now.alive, member) && life > now.named[usize::from(member)]
    };
    now.frozen && each(now.synced()).all(back)
}

/// Synced replicas, and what they have when they know everything that is agreed: in memory, and on disk where power is lost.
fn stores<'a>(
    state: &'a State,
    now: &'a Agreed,
    config: &'a Config,
) -> impl Iterator<Item = (Store, Option<Store>)> + 'a {
    let serves = |member: &u8| {
        let life = state.members[usize::from(*member)].life;
        !now.frozen && now.role(*member, life) == Role::Synced
    };
    each(now.synced()).filter(serves).map(|member| {
        let one = &state.members[usize::from(member)];
        let current = |mut store: Store| {
            store.bring_up(now, config);
            store
        };
        (
            current(one.store),
            (config.powers > 0).then(|| current(one.disk)),
        )
    })
}

fn unreachable(
    state: &State,
    now: &Agreed,
    commit: Option<Command>,
    config: &Config,
) -> Option<Broken> {
    let reaches = |store: &Store| {
        store.held.iter().zip(&now.segments).all(|(held, segment)| {
            matches!(segment.phase, Phase::Absent | Phase::Retired)
                || held.version >= segment.version
        })
    };
    let all = stores(state, now, config)
        .all(|(memory, disk)| reaches(&memory) && disk.as_ref().is_none_or(reaches));
    let merged = matches!(commit, Some(Command::Merge(_)));
    (!all).then_some(if merged { Broken::I2 } else { Broken::I3 })
}

fn lost(state: &State, now: &Agreed, config: &Config) -> bool {
    let waiting =
        |store: &Store, record: u8| store.held.iter().any(|held| held.pending.contains(record));
    (0..config.records).any(|record| {
        let durable = has(config.durable, record);
        let judged = state.writers[usize::from(record)].acked && !state.is_merged(record);
        judged
            && (durable || !now.amended)
            && stores(state, now, config).any(|(memory, disk)| {
                let kept = !durable || disk.as_ref().is_none_or(|disk| waiting(disk, record));
                !waiting(&memory, record) || !kept
            })
    })
}

fn cut_off(state: &State, now: &Agreed, config: &Config) -> bool {
    (0..config.records).any(|record| {
        let visible = now.segments.iter().any(|segment| {
            segment.phase != Phase::Retired
                && segment.content(segment.version).any(|one| one == record)
        });
        state.writers[usize::from(record)].fresh && state.is_merged(record) && !visible
    })
}

fn misplaced(state: &State, now: &Agreed, config: &Config) -> bool {
    let truncated = state.is_truncated();
    let mut places = [None; crate::RECORDS];
    for (at, command) in state.log.iter().enumerate() {
        let Command::Merge(merge) = command else {
            continue;
        };
        for (index, record) in merge.cut.list.items().enumerate() {
            // Of what was truncated only the order in time is left.
            let segment = if truncated { 0 } else { merge.segment };
            if places[usize::from(record)]
                .replace((segment, at, index))
                .is_some()
            {
                return true;
            }
        }
    }
    (0..config.records).any(|then| {
        let first = usize::from(1 - then);
        let gone = now.amended && !has(config.durable, 1 - then) && places[first].is_none();
        // A job's record becomes visible with its watermark, whenever it was acknowledged.
        let held_back = config.job && first == 1;
        let ordered =
            places[usize::from(then)].is_none_or(|at| places[first].is_some_and(|one| one < at));
        state.writers[usize::from(then)].later && !ordered && !gone && !held_back
    })
}
