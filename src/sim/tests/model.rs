//! The protocol of one slot as a model: fence (R3), append (R4), prepare and merge (R6), and one change of its config, with
//! three replicas and two writers of one record each. Every order of events is tried; nothing here runs production's code.
//!
//! The agreement group is a log of commands; every member has applied a prefix of it. Messages are never consumed: each
//! may come late, twice or never. Planted bugs show that the invariants have teeth.
#![allow(clippy::unwrap_used)]

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

const REPLICAS: [u8; 3] = [0, 1, 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The fence is only in memory: a restart forgets it.
    FenceNotJournaled,
    /// The slot leader proposes a cut that the others have not prepared.
    ProposeUnprepared,
    /// A replica answers a prepare before it has all records of the list.
    PrepareWithoutRecords,
    /// The merge command is not refused where the epoch moved on.
    MergeAtOldEpoch,
    /// A write is acknowledged by the synced replicas alone, without the learner.
    LearnerIsNoHolder,
    /// A learner is promoted though nobody included it in merges and it has pulled nothing.
    PromoteUnpulled,
    /// The slot leader answers a pull while it does not know whether a merge without the learner was committed.
    PullOverDoubt,
    /// A record is merged again though it is in the base.
    ForgetMerged,
}

/// What the one change of the config is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Three synced replicas; the slot leader is expired and another one leads.
    Expire,
    /// Two synced replicas; the third becomes a learner, pulls, and is promoted.
    Learn,
}

struct Slot {
    change: Change,
    bug: Bug,
    /// How many writers there are, of one record each: one or two.
    records: u8,
    /// Merges that may begin at one version, those that come to nothing included.
    lists_max: u8,
    /// Times that replica 1 may restart.
    restarts: u8,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
enum Command {
    /// The next epoch begins.
    Config,
    Cut(Vec<u8>),
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Append {
        record: u8,
        epoch: u8,
        map: u8,
    },
    Appended {
        record: u8,
        epoch: u8,
        from: u8,
    },
    Prepare {
        epoch: u8,
        map: u8,
        base: u8,
        list: Vec<u8>,
    },
    Prepared {
        epoch: u8,
        base: u8,
        list: Vec<u8>,
        from: u8,
    },
    /// What the slot leader holds, for the learner.
    Pulled {
        version: u8,
        pending: Vec<u8>,
    },
}

#[derive(Debug, Clone, Default, Hash, PartialEq, Eq)]
struct Replica {
    /// Entries of the agreement log that it has applied.
    at: u8,
    promised: u8,
    version: u8,
    pending: Vec<u8>,
    prepared: BTreeSet<(u8, Vec<u8>)>,
}

#[derive(Debug, Clone, Default, Hash, PartialEq, Eq)]
struct State {
    log: Vec<Command>,
    replicas: [Replica; 3],
    /// Sent and not taken off again; of appends and prepares what they say is known from the state.
    messages: BTreeSet<Message>,
    sent: [bool; 2],
    acked: [bool; 2],
    /// The record was sent only after the other one was acknowledged.
    later: [bool; 2],
    /// Merges begun at this version.
    lists: u8,
    /// The slot leader includes the learner in merges.
    included: bool,
    pulled: bool,
    restarts: u8,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
enum Action {
    Reconfigure,
    Promote,
    CatchUp { replica: u8 },
    Send { record: u8 },
    Deliver { message: Message, to: u8 },
    Acknowledge { record: u8, epoch: u8 },
    List { leader: u8 },
    Merge { base: u8, list: Vec<u8>, epoch: u8 },
    Pull,
    Restart,
}

fn epoch_at(log: &[Command], at: u8) -> u8 {
    1 + log[..usize::from(at)]
        .iter()
        .filter(|command| **command == Command::Config)
        .count() as u8
}

fn now(state: &State) -> u8 {
    epoch_at(&state.log, state.log.len() as u8)
}

fn lists(log: &[Command]) -> impl Iterator<Item = &Vec<u8>> {
    log.iter().filter_map(|command| {
        if let Command::Cut(list) = command {
            Some(list)
        } else {
            None
        }
    })
}

fn cuts(log: &[Command]) -> u8 {
    lists(log).count() as u8
}

fn is_cut(log: &[Command], version: u8, list: &[u8]) -> bool {
    lists(log)
        .nth(usize::from(version))
        .is_some_and(|cut| cut == list)
}

/// Records of the base at a version, in order.
fn content(log: &[Command], version: u8) -> Vec<u8> {
    lists(log)
        .take(usize::from(version))
        .flatten()
        .copied()
        .collect()
}

/// The shortest prefix with this epoch and this many cuts: all that a receiver needs to know. The real map may say more,
/// which only makes receivers learn sooner.
fn map_of(log: &[Command], epoch: u8, base: u8) -> u8 {
    (0..=log.len() as u8)
        .find(|at| epoch_at(log, *at) >= epoch && cuts(&log[..usize::from(*at)]) >= base)
        .unwrap()
}

fn holds(state: &State, replica: u8, record: u8) -> bool {
    let one = &state.replicas[usize::from(replica)];
    one.pending.contains(&record) || content(&state.log, one.version).contains(&record)
}

impl Slot {
    fn acting(&self, epoch: u8) -> &'static [u8] {
        match (self.change, epoch) {
            (Change::Expire, 1) => &[0, 1, 2],
            (Change::Expire, _) => &[1, 2],
            (Change::Learn, 1) => &[0, 1],
            (Change::Learn, _) => &[0, 1, 2],
        }
    }

    fn synced(&self, epoch: u8) -> &'static [u8] {
        match (self.change, epoch) {
            (Change::Learn, 2) => &[0, 1],
            _ => self.acting(epoch),
        }
    }

    fn leader(&self, epoch: u8) -> u8 {
        u8::from(self.change == Change::Expire && epoch > 1)
    }

    fn last_epoch(&self) -> u8 {
        if self.change == Change::Learn { 3 } else { 2 }
    }

    /// R3: catches up with the sender's map, then takes only the config's epoch, and none below the fence.
    fn gate(&self, state: &mut State, to: u8, epoch: u8, map: u8) -> bool {
        let replica = &mut state.replicas[usize::from(to)];
        replica.at = replica.at.max(map);
        if epoch_at(&state.log, replica.at) != epoch
            || !self.acting(epoch).contains(&to)
            || epoch < replica.promised
        {
            return false;
        }
        replica.promised = epoch;
        true
    }

    fn deliver(&self, state: &mut State, message: &Message, to: u8) {
        match message {
            Message::Append { record, epoch, map } => {
                if !self.gate(state, to, *epoch, *map) {
                    return;
                }
                let merged = self.bug != Bug::ForgetMerged
                    && content(&state.log, state.replicas[usize::from(to)].version)
                        .contains(record);
                let replica = &mut state.replicas[usize::from(to)];
                if !merged && !replica.pending.contains(record) {
                    replica.pending.push(*record);
                }
                state.messages.insert(Message::Appended {
                    record: *record,
                    epoch: *epoch,
                    from: to,
                });
            }
            Message::Prepare {
                epoch,
                map,
                base,
                list,
            } => self.prepare(state, to, (*epoch, *map), (*base, list)),
            Message::Pulled { version, pending } => {
                let replica = &mut state.replicas[usize::from(to)];
                replica.version = replica.version.max(*version);
                let base = content(&state.log, replica.version);
                let direct = std::mem::take(&mut replica.pending);
                for record in pending.iter().chain(&direct) {
                    if !base.contains(record) && !replica.pending.contains(record) {
                        replica.pending.push(*record);
                    }
                }
                state.pulled = true;
            }
            Message::Appended { .. } | Message::Prepared { .. } => {}
        }
    }

    fn prepare(
        &self,
        state: &mut State,
        to: u8,
        (epoch, map): (u8, u8),
        (base, list): (u8, &Vec<u8>),
    ) {
        let synced = self.synced(epoch).contains(&to);
        if !(synced || state.included) || !self.gate(state, to, epoch, map) {
            return;
        }
        self.apply(state, to);
        let replica = &mut state.replicas[usize::from(to)];
        if synced && replica.version != base {
            return; // it waits for its base first
        }
        if self.bug != Bug::PrepareWithoutRecords {
            let missing: Vec<u8> = list
                .iter()
                .copied()
                .filter(|record| !replica.pending.contains(record))
                .collect();
            replica.pending.extend(missing);
        }
        replica.prepared.insert((base, list.clone()));
        state.messages.insert(Message::Prepared {
            epoch,
            base,
            list: list.clone(),
            from: to,
        });
    }

    /// R6 d: a replica redoes the cuts that it knows of and has prepared.
    fn apply(&self, state: &mut State, replica: u8) {
        let one = &mut state.replicas[usize::from(replica)];
        let known = cuts(&state.log[..usize::from(one.at)]);
        while one.version < known
            && one
                .prepared
                .iter()
                .any(|(base, list)| *base == one.version && is_cut(&state.log, one.version, list))
        {
            one.version += 1;
            let base = content(&state.log, one.version);
            if self.bug != Bug::ForgetMerged {
                one.pending.retain(|record| !base.contains(record));
            }
            let version = one.version;
            one.prepared.retain(|(base, _)| *base >= version);
        }
    }

    /// The merge command as the state machine decides it.
    fn merge(&self, state: &mut State, base: u8, list: &[u8], epoch: u8) {
        let now = now(state);
        if cuts(&state.log) != base || now != epoch && self.bug != Bug::MergeAtOldEpoch {
            return;
        }
        let durable = list.iter().all(|record| {
            self.synced(now)
                .iter()
                .all(|replica| holds(state, *replica, *record))
        });
        if !durable {
            state.broken =
                Some("a committed cut names a record that a synced replica does not hold");
        }
        state.log.push(Command::Cut(list.to_vec()));
        // Everything else that was listed at this version is void.
        state.lists = 0;
        state.messages.retain(|message| {
            !matches!(message, Message::Prepare { .. } | Message::Prepared { .. })
        });
    }

    fn of_replica(&self, state: &State, replica: u8, actions: &mut Vec<Action>) {
        let one = &state.replicas[usize::from(replica)];
        // Whoever has nothing to do with what it would learn learns it with the next message.
        let leads = self.leader(now(state)) == replica;
        let learns =
            self.change == Change::Learn && replica == 2 && epoch_at(&state.log, one.at) == 1;
        let applies = lists(&state.log)
            .nth(usize::from(one.version))
            .is_some_and(|cut| one.prepared.contains(&(one.version, cut.clone())));
        if usize::from(one.at) < state.log.len() && (leads || learns || applies) {
            actions.push(Action::CatchUp { replica });
        }
        let current = one.version == cuts(&state.log[..usize::from(one.at)]);
        if state.lists < self.lists_max
            && self.leader(epoch_at(&state.log, one.at)) == replica
            && current
            && !one.pending.is_empty()
        {
            actions.push(Action::List { leader: replica });
        }
    }

    fn of_record(&self, state: &State, record: u8, actions: &mut Vec<Action>) {
        let me = usize::from(record);
        if state.acked[me] {
            return;
        }
        if !state.sent[me] {
            // The writers are alike: the first to send is the first.
            if record == 0 || state.sent[0] {
                actions.push(Action::Send { record });
            }
            return;
        }
        for epoch in 1..=now(state) {
            let message = Message::Append {
                record,
                epoch,
                map: map_of(&state.log, epoch, 0),
            };
            actions.extend(self.acting(epoch).iter().map(|to| Action::Deliver {
                message: message.clone(),
                to: *to,
            }));
            let holders = if self.bug == Bug::LearnerIsNoHolder {
                self.synced(epoch)
            } else {
                self.acting(epoch)
            };
            if holders.iter().all(|from| {
                state.messages.contains(&Message::Appended {
                    record,
                    epoch,
                    from: *from,
                })
            }) {
                actions.push(Action::Acknowledge { record, epoch });
            }
        }
    }

    fn of_merge(&self, state: &State, message: &Message, actions: &mut Vec<Action>) {
        let Message::Prepare {
            epoch, base, list, ..
        } = message
        else {
            return;
        };
        if cuts(&state.log) != *base {
            return; // it would be refused, and what it prepared is void
        }
        actions.extend(self.acting(*epoch).iter().map(|to| Action::Deliver {
            message: message.clone(),
            to: *to,
        }));
        let learner = (self.change == Change::Learn && *epoch == 2 && state.included).then_some(2);
        let has = |from| {
            state.messages.contains(&Message::Prepared {
                epoch: *epoch,
                base: *base,
                list: list.clone(),
                from,
            })
        };
        if self.synced(*epoch).iter().copied().chain(learner).all(has)
            || self.bug == Bug::ProposeUnprepared
        {
            actions.push(Action::Merge {
                base: *base,
                list: list.clone(),
                epoch: *epoch,
            });
        }
    }
}

impl Model for Slot {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        state
            .replicas
            .iter_mut()
            .for_each(|replica| replica.promised = 1);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let known = |replica: usize| epoch_at(&state.log, state.replicas[replica].at);
        if now(state) == 1 {
            actions.push(Action::Reconfigure);
        }
        if self.change == Change::Learn && now(state) == 2 {
            // The slot leader knows how all merges ended that began without the learner.
            let decided = cuts(&state.log[..usize::from(state.replicas[0].at)]) == cuts(&state.log)
                || self.bug == Bug::PullOverDoubt;
            if !state.included && decided && known(0) == 2 && known(2) == 2 {
                actions.push(Action::Pull);
            }
            if state.pulled || self.bug == Bug::PromoteUnpulled {
                actions.push(Action::Promote);
            }
        }
        REPLICAS
            .iter()
            .for_each(|replica| self.of_replica(state, *replica, actions));
        (0..self.records).for_each(|record| self.of_record(state, record, actions));
        for message in &state.messages {
            self.of_merge(state, message, actions);
            if matches!(message, Message::Pulled { .. }) && !state.pulled {
                actions.push(Action::Deliver {
                    message: message.clone(),
                    to: 2,
                });
            }
        }
        if state.restarts < self.restarts && state.replicas[1].promised > 1 {
            actions.push(Action::Restart);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Reconfigure | Action::Promote => state.log.push(Command::Config),
            Action::CatchUp { replica } => {
                state.replicas[usize::from(replica)].at = state.log.len() as u8
            }
            Action::Send { record } => {
                state.sent[usize::from(record)] = true;
                state.later[usize::from(record)] = state.acked[usize::from(1 - record)];
            }
            Action::Deliver { message, to } => self.deliver(&mut state, &message, to),
            Action::Acknowledge { record, .. } => {
                state.acked[usize::from(record)] = true;
                state.messages.retain(|message| !matches!(message, Message::Appended { record: one, .. } if *one == record));
            }
            Action::List { leader } => {
                let one = &state.replicas[usize::from(leader)];
                let (epoch, base, list) = (
                    epoch_at(&state.log, one.at),
                    one.version,
                    one.pending.clone(),
                );
                let prepare = Message::Prepare {
                    epoch,
                    map: map_of(&state.log, epoch, base),
                    base,
                    list,
                };
                self.deliver(&mut state, &prepare, leader);
                state.lists += 1;
                state.messages.insert(prepare);
            }
            Action::Merge { base, list, epoch } => self.merge(&mut state, base, &list, epoch),
            Action::Pull => {
                // The slot leader waits for merges that run without the learner: what was prepared so far is void.
                state.included = true;
                state
                    .messages
                    .retain(|message| !matches!(message, Message::Prepared { epoch: 2, .. }));
                let one = &mut state.replicas[0];
                one.promised = 2;
                state.messages.insert(Message::Pulled {
                    version: one.version,
                    pending: one.pending.clone(),
                });
            }
            Action::Restart => {
                // Replica 1 comes back with what it had journaled, and with an old prefix of the agreement log.
                state.restarts += 1;
                state.replicas[1].at = 0;
                if self.bug == Bug::FenceNotJournaled {
                    state.replicas[1].promised = 0;
                }
            }
        }
        REPLICAS
            .iter()
            .for_each(|replica| self.apply(&mut state, *replica));
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "I1: what is acknowledged is on every synced replica, or in a committed cut",
                |model: &Slot, state: &State| {
                    let merged = content(&state.log, cuts(&state.log));
                    let mut acked =
                        (0..model.records).filter(|record| state.acked[usize::from(*record)]);
                    let kept = |record: &u8| {
                        merged.contains(record)
                            || model
                                .synced(now(state))
                                .iter()
                                .all(|replica| holds(state, *replica, *record))
                    };
                    acked.all(|record| kept(&record))
                },
            ),
            Property::always(
                "I2: a committed cut is durable on every synced replica",
                |_, state: &State| state.broken.is_none(),
            ),
            Property::always(
                "I3: every synced replica can bring its base to the agreed version",
                |model: &Slot, state: &State| {
                    model.synced(now(state)).iter().all(|replica| {
                        let one = &state.replicas[usize::from(*replica)];
                        (one.version..cuts(&state.log)).all(|version| {
                            one.prepared.iter().any(|(base, list)| {
                                *base == version && is_cut(&state.log, version, list)
                            })
                        })
                    })
                },
            ),
            Property::always(
                "I5: each record at most once, and after what was acknowledged before it was sent",
                |model: &Slot, state: &State| {
                    let merged = content(&state.log, cuts(&state.log));
                    let at = |record| merged.iter().position(|one| *one == record);
                    let once = (0..model.records)
                        .all(|record| merged.iter().filter(|one| **one == record).count() <= 1);
                    let ordered = |first: u8, then: u8| {
                        !state.later[usize::from(then)]
                            || at(then)
                                .is_none_or(|then| at(first).is_some_and(|first| first < then))
                    };
                    once && ordered(0, 1) && ordered(1, 0)
                },
            ),
            Property::always(
                "I6: no replica's fence is below an epoch that it answered at",
                |_, state: &State| {
                    state.messages.iter().all(|message| match message {
                        Message::Appended { epoch, from, .. }
                        | Message::Prepared { epoch, from, .. } => {
                            state.replicas[usize::from(*from)].promised >= *epoch
                        }
                        _ => true,
                    })
                },
            ),
            Property::sometimes(
                "all records are acknowledged and merged, over the change",
                |model: &Slot, state: &State| {
                    let acked = (0..model.records).all(|record| state.acked[usize::from(record)]);
                    cuts(&state.log) == model.records && now(state) == model.last_epoch() && acked
                },
            ),
        ]
    }
}

/// More steps than this and the model has outgrown a test: time and memory are not without end.
const STEPS_MAX: usize = 60_000_000;

/// Tries every order of events.
fn proven(change: Change, records: u8, lists_max: u8, restarts: u8) {
    let slot = Slot {
        change,
        bug: Bug::None,
        records,
        lists_max,
        restarts,
    };
    let checker = slot
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(STEPS_MAX)
        .spawn_bfs()
        .join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!(
        "{change:?}, {records} records, {lists_max} lists, {restarts} restarts: {states} states in {steps} steps"
    );
    assert!(
        checker.state_count() < STEPS_MAX,
        "not all states were looked at"
    );
    checker.assert_properties();
}

/// The planted bug breaks an invariant.
fn found(change: Change, bug: Bug) {
    let slot = Slot {
        change,
        bug,
        records: 2,
        lists_max: 2,
        restarts: 1,
    };
    let checker = slot
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(STEPS_MAX)
        .spawn_bfs()
        .join();
    let broken: Vec<&str> = checker
        .discoveries()
        .into_keys()
        .filter(|name| name.starts_with('I'))
        .collect();
    println!(
        "{bug:?} breaks {broken:?} within {} states",
        checker.unique_state_count()
    );
    assert!(
        !broken.is_empty(),
        "{bug:?} was planted and no invariant noticed it"
    );
}

#[test]
fn no_order_of_events_breaks_a_promise_when_the_slot_leader_is_expired() {
    proven(Change::Expire, 2, 2, 0);
    proven(Change::Expire, 2, 1, 1);
}

#[test]
fn no_order_of_events_breaks_a_promise_while_a_learner_is_promoted() {
    proven(Change::Learn, 1, 2, 0);
    proven(Change::Learn, 1, 2, 1);
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::FenceNotJournaled,
        Bug::ProposeUnprepared,
        Bug::PrepareWithoutRecords,
        Bug::ForgetMerged,
    ] {
        found(Change::Expire, bug);
    }
    for bug in [
        Bug::MergeAtOldEpoch,
        Bug::LearnerIsNoHolder,
        Bug::PromoteUnpulled,
        Bug::PullOverDoubt,
    ] {
        found(Change::Learn, bug);
    }
}
