//! What may happen next, and what it does.

use crate::{
    Config, Plant, State,
    agreed::{Agreed, Change, Command, Role, Then},
    append, check,
    list::{Set, each, only},
    merge, repair, restart,
    state::Views,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A writer sends its record.
    Send {
        record: u8,
    },
    /// The file's end has moved, and the writer knows.
    Retarget {
        record: u8,
    },
    /// A record arrives, on time or late.
    Append {
        record: u8,
        segment: u8,
        epoch: u8,
        to: u8,
    },
    Acknowledge {
        record: u8,
        segment: u8,
        epoch: u8,
    },
    /// A writer that is alone ends, with its cut.
    End {
        record: u8,
    },
    /// The slot leader lists what is pending.
    List {
        leader: u8,
        segment: u8,
        then: Then,
    },
    /// It gives up waiting for what became of a merge.
    Unfence {
        leader: u8,
    },
    /// A prepare arrives.
    Prepare {
        round: u8,
        to: u8,
    },
    /// The merge command is committed.
    Merge {
        round: u8,
    },
    /// A member applies all commands.
    CatchUp {
        member: u8,
    },
    Pull {
        learner: u8,
    },
    Learn {
        learner: u8,
    },
    AskPromote {
        learner: u8,
    },
    Promote {
        learner: u8,
    },
    Expire {
        ended: Set,
    },
    Ring {
        ring: Set,
    },
    Configure {
        change: Change,
    },
    Restart {
        member: u8,
        power: bool,
    },
    Watermark,
}

/// Everything that may happen in a state.
pub fn actions(state: &State, config: &Config, actions: &mut Vec<Action>) {
    if state.broken.is_some() {
        return;
    }
    let views = state.views(config);
    restart::actions(state, &views, config, actions);
    append::actions(state, &views, config, actions);
    merge::actions(state, &views, config, actions);
    repair::actions(state, &views, config, actions);
    let behind = each(only(config.members) - 1).filter(|member| learns(state, &views, *member));
    actions.extend(behind.map(|member| Action::CatchUp { member }));
}

/// Whether a member would do anything with what it can learn. Who would not learns it with the next message.
fn learns(state: &State, views: &Views, member: u8) -> bool {
    let one = &state.members[usize::from(member)];
    if usize::from(one.at) == state.log.len() {
        return false;
    }
    let (now, known) = (views.now(), views.at(one.at));
    let role = now.role(member, one.life);
    let news =
        known.role(member, one.life) != role || known.epoch != now.epoch || one.pulled.is_some();
    let applies = one
        .store
        .held
        .iter()
        .zip(&now.segments)
        .any(|(held, segment)| {
            let next = segment.cuts().get(usize::from(held.version));
            next.is_some_and(|cut| {
                let sole = cut.then == Then::Sole;
                sole || held.prepared.has(held.version, *cut)
            })
        });
    let leads = now.leads(member, one.life);
    leads || applies || one.fenced != 0 || role == Role::Learner && news
}

/// The state after it; `None` where nothing changes.
pub fn next(last: &State, action: Action, config: &Config) -> Option<State> {
    let mut state = last.clone();
    let views = state.views(config);
    let mut commit = None;
    match action {
        Action::Send { record } => append::send(&mut state, &views, record)?,
        Action::Retarget { record } => append::retarget(&mut state, &views, record, config)?,
        Action::Append {
            record,
            segment,
            epoch,
            to,
        } => {
            append::take(&mut state, &views, config, (record, segment, epoch), to)?;
        }
        Action::Acknowledge { record, .. } => append::acknowledge(&mut state, record),
        Action::End { record } => commit = Some(append::end(&state, &views, record)),
        Action::List {
            leader,
            segment,
            then,
        } => {
            merge::list(&mut state, &views, config, leader, (segment, then))?;
        }
        Action::Unfence { leader } => state.member(leader).fenced = 0,
        Action::Prepare { round, to } => merge::prepare(&mut state, &views, config, round, to)?,
        Action::Merge { round } => commit = Some(merge::command(&state, round)),
        Action::CatchUp { member } => state.member(member).at = state.log.len() as u8,
        Action::Pull { learner } => {
            repair::pull(&mut state, &views, config, learner)?;
            if config.plant == Some(Plant::PromotedBySource) {
                commit = Some(repair::promotion(&mut state, &views, config, learner));
            }
        }
        Action::Learn { learner } => repair::learn(&mut state, &views, config, learner)?,
        Action::AskPromote { learner } => {
            repair::promotion(&mut state, &views, config, learner);
            state.promotes |= only(learner);
        }
        Action::Promote { learner } => {
            commit = Some(repair::promotion(&mut state, &views, config, learner));
        }
        Action::Expire { ended } => {
            state.spent.changes += 1;
            commit = Some(Command::Expire(ended));
        }
        Action::Ring { ring } => {
            state.spent.changes += 1;
            commit = Some(Command::Ring(ring));
        }
        Action::Configure { change } => {
            // One that comes too late counts: the bug that commits it would do so without end.
            state.spent.changes += u8::from(change.expected != views.now().epoch);
            commit = Some(Command::Configure(change));
        }
        Action::Restart { member, power } => {
            commit = restart::restart(&mut state, &views, config, member, power);
        }
        Action::Watermark => commit = Some(Command::Watermark),
    }
    finish(last, state, views, commit, config)
}

/// Commits what is to be committed, and looks at what became of it.
fn finish(
    last: &State,
    mut state: State,
    mut views: Views,
    commit: Option<Command>,
    config: &Config,
) -> Option<State> {
    let before: Agreed = *views.now();
    if let Some(command) = commit {
        let mut after = before;
        if !after.apply(&command, config) {
            return None; // refused
        }
        state.log.push(command);
        views = state.views(config);
        if after.epoch != before.epoch {
            state.promotes = 0;
        }
    }
    state.settle(&views, config);
    if state == *last {
        return None;
    }
    state.broken = check::broken(last, &state, &views, &before, commit, config);
    Some(state)
}
