//! Repair (R11): a learner pulls from the slot leader, fetches what it was told of, and is promoted.

use crate::{
    Config, Plant, SEGMENTS, State,
    action::Action,
    agreed::{Agreed, Command, Phase, Role, Segment},
    list::{List, each, has, only},
    state::{Held, Pulled, Views},
};

pub fn actions(state: &State, views: &Views, config: &Config, actions: &mut Vec<Action>) {
    let now = views.now();
    for learner in each(only(config.members) - 1) {
        let one = &state.members[usize::from(learner)];
        let view = views.at(one.at);
        if view.role(learner, one.life) == Role::Learner && view.epoch == now.epoch && !view.frozen
        {
            let included = state.includes(view.leader, view.epoch, learner);
            let idle = one.pulled.is_none() && one.ready != view.epoch;
            if (!included || idle) && is_decided(state, views, config, view.leader) {
                actions.push(Action::Pull { learner });
            }
            if one.pulled.is_some() {
                actions.push(Action::Learn { learner });
            }
            let ready = one.ready == view.epoch && included;
            if ready || config.plant == Some(Plant::PromoteUnpulled) {
                actions.push(Action::Promote { learner });
            }
            if ready && config.plant == Some(Plant::StaleProposals) {
                actions.push(Action::AskPromote { learner });
            }
        }
        if is_promotable_late(state, now, learner) {
            actions.push(Action::Promote { learner });
        }
    }
}

/// Proposed by a process that is gone.
fn is_promotable_late(state: &State, now: &Agreed, learner: u8) -> bool {
    let life = state.members[usize::from(learner)].life;
    state.promotes & only(learner) != 0 && now.role(learner, life) == Role::Learner
}

/// Whether the slot leader knows how all merges ended that began without the learner.
fn is_decided(state: &State, views: &Views, config: &Config, leader: u8) -> bool {
    let known = views.at(state.members[usize::from(leader)].at);
    let versions = |view: &Agreed| [view.segments[0].version, view.segments[1].version];
    known.epoch == views.now().epoch
        && (versions(known) == versions(views.now()) || config.plant == Some(Plant::PullOverDoubt))
}

/// The slot leader includes the learner, and says what it holds.
pub fn pull(state: &mut State, views: &Views, config: &Config, learner: u8) -> Option<()> {
    let at = state.members[usize::from(learner)].at;
    let (leader, epoch) = (views.at(at).leader, views.at(at).epoch);
    let source = state.member(leader);
    source.at = source.at.max(at);
    let view = *views.at(source.at);
    if view.epoch != epoch || !view.leads(leader, source.life) || source.store.promised > epoch {
        return None;
    }
    let others = if source.included.0 == epoch {
        source.included.1
    } else {
        0
    };
    source.included = (epoch, others | only(learner));
    source.store.promised = epoch;
    source.store.bring_up(&view, config);
    let held = source.store.held;
    let told = Pulled {
        epoch,
        versions: held.map(|held| held.version),
        pending: held.map(|held| held.pending),
    };
    let asker = state.member(learner);
    asker.pulled = Some(told);
    if config.plant != Some(Plant::LatePromote) {
        asker.ready = 0;
    }
    // Merges that run without the learner are waited for: what was not proposed by then never is.
    let doubt = config.plant == Some(Plant::PullOverDoubt);
    state.rounds.retain(|round| {
        let without =
            round.epoch == epoch && round.leader == leader && round.learners & only(learner) == 0;
        let complete = view.synced() & !round.answered == 0;
        !without || doubt && complete
    });
    Some(())
}

/// The learner fetches what it was told of: pending records, then bases. Ready is who has every segment at the version
/// that is agreed as far as it knows, which is as far as whoever cut what the source had named and has no more.
pub fn learn(state: &mut State, views: &Views, config: &Config, learner: u8) -> Option<()> {
    let one = state.members[usize::from(learner)];
    let (told, view) = (one.pulled?, views.at(one.at));
    let source = state.members[usize::from(view.leader)].store;
    let behind = |at: usize| told.versions[at] > view.segments[at].version;
    if (0..SEGMENTS).any(behind) && config.plant != Some(Plant::LearnedBehind) {
        return None; // it catches up first
    }
    let mut complete = true;
    for at in 0..SEGMENTS {
        let held = &mut state.member(learner).store.held[at];
        let there = source.held[at].pending;
        complete &= learn_pending(held, &view.segments[at], told.pending[at], there, config);
    }
    let old = [Plant::EndedUnpulled, Plant::LearnedBehind].map(Some);
    let levels = !old.contains(&config.plant);
    if levels && !complete {
        state.member(learner).at = state.log.len() as u8;
    }
    let one = state.member(learner);
    let view = views.at(one.at);
    if view.epoch != told.epoch {
        return None; // it asks anew
    }
    one.store.bring_up(view, config);
    for at in 0..SEGMENTS {
        let (segment, held) = (&view.segments[at], &mut one.store.held[at]);
        let wanted = match levels {
            true => segment.version,
            false => told.versions[at].min(segment.version),
        };
        let open = matches!(segment.phase, Phase::Open | Phase::Full);
        if open && held.version < wanted {
            if source.held[at].version < segment.version {
                return None; // the source is asked again
            }
            adopt(held, segment, config);
        }
    }
    (one.pulled, one.ready) = (None, told.epoch);
    Some(())
}

/// The source's pending records, before everything that came directly; whether all that it named are here now.
fn learn_pending(
    held: &mut Held,
    segment: &Segment,
    told: List,
    there: List,
    config: &Config,
) -> bool {
    let merged = |record: u8| segment.content(held.version).any(|other| other == record);
    let here = held.pending.set() | there.set();
    let fetched = told
        .items()
        .filter(|record| has(here, *record) && !merged(*record));
    let fetched = List::of(fetched);
    let direct = held.pending;
    held.pending = match config.plant {
        Some(Plant::PulledLast) => List::of(direct.items().chain(fetched.items())),
        _ => List::of(fetched.items().chain(direct.items())),
    };
    told.items().all(|record| has(here, record))
}

/// A base is put in place whole.
fn adopt(held: &mut Held, segment: &Segment, config: &Config) {
    held.version = segment.version;
    held.settle(segment, config.plant == Some(Plant::ForgetMerged));
}

/// The learner makes what it holds durable, and the slot leader proposes its promotion.
pub fn promotion(state: &mut State, views: &Views, config: &Config, learner: u8) -> Command {
    let epoch = views.now().epoch;
    state.member(learner).sync(config);
    Command::Promote { learner, epoch }
}
