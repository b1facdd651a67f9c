//! The model as `stateright` wants it.

use crate::{
    Action, Broken, Config, State, action,
    agreed::{Command, Then},
};
use stateright::{Model, Property};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What is reached somewhere, unless the configuration is not worth its name.
pub const GOAL: &str =
    "all records are acknowledged and merged, and everything happened that may happen";

/// One slot under a configuration.
pub struct Slot {
    pub config: Config,
    /// Nothing more is looked at once this is set.
    pub stop: Arc<AtomicBool>,
}

impl Slot {
    fn breaks(state: &State, broken: Broken) -> bool {
        state.broken == Some(broken)
    }

    fn is_done(&self, state: &State) -> bool {
        let config = &self.config;
        let did = |wanted: Then| {
            state
                .log
                .iter()
                .any(|command| matches!(command, Command::Merge(merge) if merge.cut.then == wanted))
        };
        let spent = &state.spent;
        let written = (0..config.records).all(|record| {
            state.writers[usize::from(record)].acked && (!config.merges || state.is_merged(record))
        });
        written
            && (spent.changes, spent.restarts, spent.powers)
                == (config.changes, config.restarts, config.powers)
            && (!config.ends || did(Then::Sole))
            && (!config.rolls || did(Then::Full))
            && (!config.truncates || did(Then::Empty))
            && (!config.retires || did(Then::Retire))
    }
}

impl Model for Slot {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.stop.load(Ordering::Relaxed) {
            action::actions(state, &self.config, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        action::next(last, action, &self.config)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(Broken::I1.promise(), |_, state| {
                !Self::breaks(state, Broken::I1)
            }),
            Property::always(Broken::I2.promise(), |_, state| {
                !Self::breaks(state, Broken::I2)
            }),
            Property::always(Broken::I3.promise(), |_, state| {
                !Self::breaks(state, Broken::I3)
            }),
            Property::always(Broken::I4.promise(), |_, state| {
                !Self::breaks(state, Broken::I4)
            }),
            Property::always(Broken::I5.promise(), |_, state| {
                !Self::breaks(state, Broken::I5)
            }),
            Property::always(Broken::I6.promise(), |_, state| {
                !Self::breaks(state, Broken::I6)
            }),
            Property::always(Broken::I7.promise(), |_, state| {
                !Self::breaks(state, Broken::I7)
            }),
            Property::always(Broken::R12.promise(), |_, state| {
                !Self::breaks(state, Broken::R12)
            }),
            Property::sometimes(GOAL, |model: &Self, state| model.is_done(state)),
        ]
    }
}
