//! Appends: the sender, the gate of a replica (R3), and what counts as acknowledged (R4).

use crate::{
    Broken, Config, Plant, State,
    action::Action,
    agreed::{Agreed, Command, Cut, Merge, Phase, Role, Then},
    list::{List, Set, each, has, only},
    state::Views,
};

/// Everything that a record may have happen to it now.
pub fn actions(state: &State, views: &Views, config: &Config, actions: &mut Vec<Action>) {
    let now = views.now();
    for record in 0..config.records {
        let writer = &state.writers[usize::from(record)];
        if writer.sent == 0 {
            // The writers are alike, unless one of them is a job's: the first to send is the first.
            let alike = !config.job && config.durable == 0;
            let first = !alike || record == 0 || state.writers[0].sent != 0;
            if first && now.tail().is_some() {
                actions.push(Action::Send { record });
            }
            continue;
        }
        if config.ends && is_alone(state, views, record) {
            actions.push(Action::End { record });
        }
        if !writer.acked && now.tail().is_some_and(|tail| tail != writer.target) {
            actions.push(Action::Retarget { record });
        }
        for segment in each(writer.sent) {
            for epoch in 1..=now.epoch {
                if views.of_append(epoch, segment).is_none() {
                    continue;
                }
                let acting = views.of_epoch(epoch).acting();
                actions.extend(each(acting).map(|to| Action::Append {
                    record,
                    segment,
                    epoch,
                    to,
                }));
                let answers = writer.answers[usize::from(segment)][usize::from(epoch)];
                if !writer.acked && is_enough(views.of_epoch(epoch), answers, config) {
                    actions.push(Action::Acknowledge {
                        record,
                        segment,
                        epoch,
                    });
                }
            }
        }
    }
}

/// R4: every acting replica at one epoch, and at least min(copies, up) holders.
fn is_enough(config_then: &Agreed, answers: Set, config: &Config) -> bool {
    let acting = config_then.acting();
    let needed = match config.plant {
        Some(Plant::LearnerIsNoHolder) => config_then.synced(),
        _ => acting,
    };
    let missing = (needed & !answers).count_ones();
    let allowed = u32::from(config.plant == Some(Plant::OneMissing));
    !config_then.frozen && acting.count_ones() >= config_then.wanted(config) && missing <= allowed
}

pub fn send(state: &mut State, views: &Views, record: u8) -> Option<()> {
    let tail = views.now().tail()?;
    let (truncated, other) = (
        state.is_truncated(),
        state.writers[usize::from(1 - record)].acked,
    );
    let writer = &mut state.writers[usize::from(record)];
    writer.target = tail;
    writer.sent = only(writer.target);
    writer.later = other;
    writer.fresh = truncated;
    Some(())
}

/// The end of the file has moved: what the roll took is acknowledged, the rest goes on there under the same identity.
pub fn retarget(state: &mut State, views: &Views, record: u8, config: &Config) -> Option<()> {
    let tail = views.now().tail()?;
    let taken = state.is_merged(record) && config.plant != Some(Plant::ResentAcrossRoll);
    let writer = &mut state.writers[usize::from(record)];
    if taken {
        writer.acked = true;
        writer.answers = Default::default();
    } else {
        writer.target = tail;
        writer.sent |= only(writer.target);
    }
    Some(())
}

/// A replica takes a record, or refuses it, which changes nothing.
pub fn take(
    state: &mut State,
    views: &Views,
    config: &Config,
    what: (u8, u8, u8),
    to: u8,
) -> Option<()> {
    let (record, segment, epoch) = what;
    let one = &mut state.members[usize::from(to)];
    let at = one.at.max(views.of_append(epoch, segment)?);
    let view = views.at(at);
    let acting = view.role(to, one.life) != Role::None && !view.frozen;
    let current = view.epoch == epoch && acting;
    let unchecked = config.plant == Some(Plant::EpochUnchecked);
    let here = &view.segments[usize::from(segment)];
    let fenced = has(one.fenced, segment);
    if !(current || unchecked) || here.phase != Phase::Open || fenced {
        return None;
    }
    if epoch < one.store.promised && !unchecked {
        return None;
    }
    one.at = at;
    one.store.promised = one.store.promised.max(epoch);
    one.store.bring_up(view, config);
    let held = &mut one.store.held[usize::from(segment)];
    let forgets = config.plant == Some(Plant::ForgetMerged);
    let merged =
        has(here.through, record) || here.content(held.version).any(|other| other == record);
    if !merged || forgets {
        held.pending.push(record);
    }
    if has(config.durable, record) && config.plant != Some(Plant::CommittedInMemory) {
        one.sync(config);
    }
    let writer = &mut state.writers[usize::from(record)];
    if !writer.acked {
        writer.answers[usize::from(segment)][usize::from(epoch)] |= only(to);
    }
    Some(())
}

pub fn acknowledge(state: &mut State, record: u8) {
    let writer = &mut state.writers[usize::from(record)];
    writer.acked = true;
    writer.answers = Default::default();
}

/// Whether this writer's end is a cut: its record waits, and nobody else has, or may have, anything waiting (R7).
fn is_alone(state: &State, views: &Views, record: u8) -> bool {
    let (writer, other) = (
        &state.writers[usize::from(record)],
        &state.writers[usize::from(1 - record)],
    );
    let quiet = other.sent == 0 || state.is_merged(1 - record);
    writer.acked && !state.is_merged(record) && quiet && !views.cuts_max(writer.target)
}

/// The end of a writer that is alone. It asks no replica: all of them have acknowledged its record.
pub fn end(state: &State, views: &Views, record: u8) -> Command {
    let segment = state.writers[usize::from(record)].target;
    let now = views.now();
    Command::Merge(Merge {
        segment,
        epoch: now.epoch,
        leader: now.leader,
        base: now.segments[usize::from(segment)].version,
        cut: Cut {
            list: List::of([record]),
            then: Then::Sole,
        },
    })
}

/// I6: nobody's fence is below an epoch that it answered at, nor did it answer below its fence just now.
pub fn check_fences(last: &State, state: &State, views: &Views) -> Option<Broken> {
    for epoch in 1..=views.now().epoch {
        let then = views.of_epoch(epoch);
        let (answered, before) = (answered(state, epoch), answered(last, epoch));
        let wrong = each(answered).any(|member| {
            let at = usize::from(member);
            let (one, old) = (&state.members[at], &last.members[at]);
            let late = !has(before, member) && old.store.promised > epoch;
            then.named[at] == one.life && (one.store.promised < epoch || late)
        });
        if wrong {
            return Some(Broken::I6);
        }
    }
    None
}

/// Who has answered at an epoch.
fn answered(state: &State, epoch: u8) -> Set {
    let answers = state.writers.iter().flat_map(|writer| writer.answers);
    let appended = answers.fold(0, |set, of| set | of[usize::from(epoch)]);
    let rounds = state.rounds.iter().filter(|round| round.epoch == epoch);
    rounds.fold(appended, |set, round| set | round.answered)
}
