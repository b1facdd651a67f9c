//! Restarts (R12): of a process, of a member that was expired, of a machine that lost power.

use crate::{
    Config, EPOCHS, Plant, State,
    action::Action,
    agreed::Command,
    list::{each, has, only},
    plan::plan,
    state::Views,
};

/// Changes of configs and lives that come from outside, and the planner's next step.
pub fn actions(state: &State, views: &Views, config: &Config, actions: &mut Vec<Action>) {
    let now = views.now();
    if usize::from(now.epoch) + 3 > EPOCHS {
        return;
    }
    if state.spent.changes < config.changes {
        let alive = |ended: &&u8| now.alive & **ended == **ended;
        let expires = config.expires.iter().filter(alive);
        actions.extend(expires.map(|ended| Action::Expire { ended: *ended }));
        let others = config.rings.iter().filter(|ring| **ring != now.ring);
        actions.extend(others.map(|ring| Action::Ring { ring: *ring }));
    }
    if let Some(change) = plan(now, config) {
        actions.push(Action::Configure { change });
    }
    if config.plant == Some(Plant::NoCompare) && state.spent.changes <= config.changes {
        let late = views.past().filter_map(|view| plan(view, config));
        actions.extend(late.map(|change| Action::Configure { change }));
    }
    for member in each(only(config.members) - 1) {
        if state.spent.restarts < config.restarts && has(config.restarting, member) {
            actions.push(Action::Restart {
                member,
                power: false,
            });
        }
        if state.spent.powers < config.powers && has(config.losing, member) {
            actions.push(Action::Restart {
                member,
                power: true,
            });
        }
    }
    if config.job && state.writers[1].acked && !now.committed {
        actions.push(Action::Watermark);
    }
}

/// The member's process begins anew. `Some` is the command that admits another life of it.
pub fn restart(
    state: &mut State,
    views: &Views,
    config: &Config,
    member: u8,
    power: bool,
) -> Option<Command> {
    let (now, len) = (views.now(), state.log.len() as u8);
    let doubt = config.plant == Some(Plant::StaleProposals);
    let at = usize::from(member);
    let life = state.members[at].life;
    let alive = has(now.alive, member) && now.lives[at] == life;
    let kept = power && config.plant == Some(Plant::KeptAfterPowerLoss);
    let resumes = alive && (!power || kept);
    // What its process proposed comes through before the next one begins, or never.
    state.rounds.retain(|round| {
        let synced = views.of_epoch(round.epoch).synced() | round.learners;
        let proposed = synced & !round.answered == 0;
        round.leader != member || doubt && proposed
    });
    let one = &mut state.members[at];
    (one.fenced, one.included, one.pulled, one.ready) = (0, (0, 0), None, 0);
    if power {
        one.store = one.disk;
        one.boot += u8::from(!kept);
        state.spent.powers += 1;
    } else {
        state.spent.restarts += 1;
    }
    if resumes {
        let behind = [Plant::ResumedBehind, Plant::DeletedByAbsence].map(Some);
        one.at = if behind.contains(&config.plant) {
            0
        } else {
            len
        };
        if config.plant == Some(Plant::FenceNotJournaled) {
            one.store.promised = 0;
        }
        return None;
    }
    one.life += 1;
    one.at = len + 1;
    Some(Command::Admit {
        member,
        boot: one.boot,
    })
}
