//! Merges: list, prepare, propose (R6), with a fence where a segment is rolled, emptied or retired (R8).

use crate::{
    Config, Plant, State,
    action::Action,
    agreed::{Agreed, Command, Merge, Phase, Role, Then},
    list::{List, each, has, only},
    state::{Round, Views},
};

pub fn actions(state: &State, views: &Views, config: &Config, actions: &mut Vec<Action>) {
    for leader in each(only(config.members) - 1) {
        for segment in 0..2 {
            for then in [Then::Nothing, Then::Full, Then::Empty, Then::Retire] {
                if listed(state, views, config, leader, (segment, then)).is_some() {
                    actions.push(Action::List {
                        leader,
                        segment,
                        then,
                    });
                }
            }
        }
        let lifted = config.plant == Some(Plant::UnfencedInDoubt);
        if lifted && state.members[usize::from(leader)].fenced != 0 {
            actions.push(Action::Unfence { leader });
        }
    }
    for (at, round) in state.rounds.iter().enumerate() {
        let round_at = at as u8;
        let then = views.of_epoch(round.epoch);
        let asked = (then.synced() | round.learners) & !round.answered;
        actions.extend(each(asked).map(|to| Action::Prepare {
            round: round_at,
            to,
        }));
        if asked == 0 || config.plant == Some(Plant::ProposeUnprepared) {
            actions.push(Action::Merge { round: round_at });
        }
    }
}

/// What the slot leader would list now, if anything.
fn listed(
    state: &State,
    views: &Views,
    config: &Config,
    leader: u8,
    (segment, then): (u8, Then),
) -> Option<Round> {
    let one = &state.members[usize::from(leader)];
    let view = views.at(one.at);
    let at = usize::from(segment);
    let (target, held) = (&view.segments[at], &one.store.held[at]);
    let here = matches!(target.phase, Phase::Open | Phase::Full);
    if !config.merges || !view.leads(leader, one.life) || !here || held.version != target.version {
        return None;
    }
    let begun = state
        .rounds
        .iter()
        .filter(|round| round.segment == segment)
        .count();
    if begun >= usize::from(config.lists) || views.cuts_max(segment) {
        return None;
    }
    let waits = config.job && !view.committed;
    let void = if config.plant == Some(Plant::ForgetMerged) {
        0
    } else {
        target.through
    };
    let list = held.pending.without(void | if waits { only(1) } else { 0 });
    let may = match then {
        Then::Nothing => !list.is_empty(),
        Then::Full => rolls(
            view,
            config,
            segment,
            list,
            waits && held.pending.contains(1),
        ),
        Then::Sole => false,
        Then::Empty | Then::Retire => cuts(
            state,
            view,
            config,
            (segment, then),
            has(one.fenced, segment),
        ),
    };
    let included = if one.included.0 == view.epoch {
        one.included.1
    } else {
        0
    };
    may.then_some(Round {
        segment,
        epoch: view.epoch,
        base: held.version,
        list,
        then,
        leader,
        map: views.of_list(view, segment),
        learners: included,
        answered: 0,
    })
}

/// R8: it is the file's last segment, the cut adds to it, and nothing acknowledged waits here for a watermark.
fn rolls(view: &Agreed, config: &Config, segment: u8, list: List, waiting: bool) -> bool {
    let last = segment == 0 && view.segments[1].phase == Phase::Absent;
    let waits = waiting && config.plant != Some(Plant::RolledAboveWatermark);
    config.rolls && last && !list.is_empty() && !waits
}

/// The one truncate: its request names the version that it is about, and may be served again.
fn cuts(
    state: &State,
    view: &Agreed,
    config: &Config,
    (segment, then): (u8, Then),
    fenced: bool,
) -> bool {
    let asked = match then {
        Then::Empty => config.truncates && view.tail() == Some(segment),
        _ => config.retires && segment == 1,
    };
    let version = view.segments[usize::from(segment)].version;
    let again = state.cutoff == version + 1 || config.plant == Some(Plant::TruncatedTwice);
    asked && (state.cutoff == 0 || again || fenced)
}

pub fn list(
    state: &mut State,
    views: &Views,
    config: &Config,
    leader: u8,
    what: (u8, Then),
) -> Option<()> {
    let round = listed(state, views, config, leader, what)?;
    if matches!(round.then, Then::Empty | Then::Retire) && state.cutoff == 0 {
        state.cutoff = round.base + 1;
    }
    if round.then != Then::Nothing && config.plant != Some(Plant::RolledUnfenced) {
        state.member(leader).fenced |= only(round.segment);
    }
    let same = |other: &Round| {
        Round {
            answered: 0,
            ..*other
        } == round
    };
    if state.rounds.iter().any(same) {
        return Some(());
    }
    state.rounds.push(round);
    prepare(state, views, config, state.rounds.len() as u8 - 1, leader)
}

/// A replica prepares a cut: it holds every record of it and the list, on disk (R6 b).
pub fn prepare(state: &mut State, views: &Views, config: &Config, round: u8, to: u8) -> Option<()> {
    let Round {
        map,
        segment,
        epoch,
        base,
        list,
        leader,
        learners,
        ..
    } = state.rounds[usize::from(round)];
    let cut = state.rounds[usize::from(round)].cut();
    let at = usize::from(segment);
    let source = state.members[usize::from(leader)].store.held[at].pending;
    let one = &mut state.members[usize::from(to)];
    let known = one.at.max(map);
    let view = views.at(known);
    let role = view.role(to, one.life);
    let asked = role == Role::Synced || role == Role::Learner && has(learners, to);
    if view.epoch != epoch
        || view.frozen
        || view.leader != leader
        || !asked
        || epoch < one.store.promised
    {
        return None;
    }
    one.store.bring_up(view, config);
    let held = &mut one.store.held[at];
    if role == Role::Synced && held.version != base {
        return None;
    }
    let missing = list.without(held.pending.set());
    if config.plant != Some(Plant::PrepareWithoutRecords) {
        if !missing.items().all(|record| source.contains(record)) {
            return None;
        }
        let merged = |record: &u8| {
            view.segments[at]
                .content(held.version)
                .any(|other| other == *record)
        };
        let fetched: Vec<u8> = missing.items().filter(|record| !merged(record)).collect();
        fetched
            .into_iter()
            .for_each(|record| held.pending.push(record));
    }
    held.prepared.add(base, cut);
    one.at = known;
    one.store.promised = epoch;
    if config.plant != Some(Plant::PrepareUnsynced) {
        one.sync(config);
    }
    state.rounds[usize::from(round)].answered |= only(to);
    Some(())
}

/// The command of a round that everybody has answered.
pub fn command(state: &State, round: u8) -> Command {
    let round = state.rounds[usize::from(round)];
    Command::Merge(Merge {
        segment: round.segment,
        epoch: round.epoch,
        leader: round.leader,
        base: round.base,
        cut: round.cut(),
    })
}
