//! Whether a history of calls could have happened one at a time, each between its beginning and its end
//! (Herlihy and Wing, "Linearizability"). A call that failed may have happened at any time since, or never.
//!
//! The checker walks through the history and keeps every state that the object may be in (Lowe, "Testing for
//! linearizability"). Calls of unknown outcome multiply these; past a limit it gives up and says so.

use std::collections::{BTreeMap, BTreeSet};

/// Most states that are followed at once.
const STATES_MAX: usize = 20_000;

/// Which of the calls that are open have happened: one bit for each, so that no more than 128 can be open at once.
type Done = u128;

/// An object and its calls.
pub trait Object {
    type State: Clone + Ord + Default;
    type Call: std::fmt::Debug;

    /// The state after the call, or `None` where it could not have answered so. What is unknown of an answer fits all.
    fn after(&self, number: u64, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether an order that has this call, which was never answered, would be as good without it: nobody saw it.
    fn is_unseen(&self, _: &Self::Call) -> bool {
        false
    }
}

enum Event {
    Began(u64),
    Answered(u64),
    Ended(u64),
}

/// Calls in the order in which they began and ended.
pub struct History<C> {
    calls: BTreeMap<u64, C>,
    events: Vec<Event>,
    confirmed: BTreeSet<u64>,
    next: u64,
}

impl<C> Default for History<C> {
    fn default() -> Self {
        Self {
            calls: BTreeMap::new(),
            events: Vec::new(),
            confirmed: BTreeSet::new(),
            next: 0,
        }
    }
}

/// What was found of a history.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    Fine,
    /// Too many outcomes are unknown.
    GivenUp,
    /// No order explains it up to this call's end.
    Broken(String),
}

impl<C> History<C> {
    /// A call begins; it is `call` unless it is told otherwise at its end.
    pub fn begin(&mut self, call: C) -> u64 {
        let number = self.next;
        self.next += 1;
        self.calls.insert(number, call);
        self.events.push(Event::Began(number));
        number
    }

    /// It was answered; whether that counts is known later.
    pub fn answered(&mut self, number: u64) {
        self.events.push(Event::Answered(number));
    }

    /// The answer counts: it ended then.
    pub fn confirm(&mut self, number: u64) {
        self.confirmed.insert(number);
    }

    /// It was answered, and this is the call with its answer.
    pub fn end(&mut self, number: u64, call: C) {
        self.calls.insert(number, call);
        self.events.push(Event::Ended(number));
    }

    /// It changed nothing and says nothing.
    pub fn forget(&mut self, number: u64) {
        self.calls.remove(&number);
    }

    /// Calls recorded.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Calls with their answers, as far as there are any.
    pub fn calls(&self) -> impl Iterator<Item = &C> {
        self.calls.values()
    }

    /// Judges all of it.
    pub fn check<O: Object<Call = C>>(&self, object: &O) -> Finding
    where
        C: std::fmt::Debug,
    {
        let ended = |event: &Event| match event {
            Event::Ended(number) => Some(*number),
            Event::Answered(number) => Some(*number).filter(|one| self.confirmed.contains(one)),
            Event::Began(_) => None,
        };
        let ended: BTreeSet<u64> = self.events.iter().filter_map(ended).collect();
        let mut open = Open::default();
        let mut states = BTreeSet::from([(O::State::default(), 0)]);
        for event in &self.events {
            match event {
                Event::Began(number) => {
                    let Some(call) = self.calls.get(number) else {
                        continue;
                    };
                    if !ended.contains(number) && object.is_unseen(call) {
                        continue;
                    }
                    if !open.begin(*number) {
                        return Finding::GivenUp;
                    }
                }
                Event::Answered(number) if !self.confirmed.contains(number) => {}
                // It has happened in every state already.
                Event::Ended(number) | Event::Answered(number) if open.bit(*number) == 0 => {}
                Event::Ended(number) | Event::Answered(number) => {
                    let Some(after) = self.through(object, &states, &open, *number) else {
                        return Finding::GivenUp;
                    };
                    if after.is_empty() {
                        return Finding::Broken(self.tell(*number));
                    }
                    open.end(*number);
                    states = open.without_settled(after);
                }
            }
        }
        Finding::Fine
    }

    /// Every state after call `number` has happened, whatever else did before it; `None` where there are too many.
    fn through<O: Object<Call = C>>(
        &self,
        object: &O,
        states: &BTreeSet<(O::State, Done)>,
        open: &Open,
        number: u64,
    ) -> Option<BTreeSet<(O::State, Done)>> {
        let this = open.bit(number);
        let mut after = BTreeSet::new();
        let mut seen = states.clone();
        let mut waiting: Vec<_> = states.iter().cloned().collect();
        while let Some((state, done)) = waiting.pop() {
            if done & this != 0 {
                after.insert((state, done & !this));
                continue;
            }
            for (other, bit) in &open.calls {
                if done & bit != 0 {
                    continue;
                }
                let Some(next) = object.after(*other, &state, &self.calls[other]) else {
                    continue;
                };
                let next = (next, done | bit);
                if seen.insert(next.clone()) {
                    waiting.push(next);
                }
            }
            if seen.len() > STATES_MAX {
                return None;
            }
        }
        Some(after)
    }

    fn tell(&self, number: u64) -> String
    where
        C: std::fmt::Debug,
    {
        let near = self.calls.range(number.saturating_sub(12)..=number);
        let calls: Vec<String> = near.map(|(at, call)| format!("{at}: {call:?}")).collect();
        format!("call {number} has no place among {}", calls.join("; "))
    }
}

/// Calls that have begun and not ended, each with its bit.
#[derive(Default)]
struct Open {
    calls: BTreeMap<u64, Done>,
    used: Done,
}

impl Open {
    /// Whether there was a bit left for it.
    fn begin(&mut self, number: u64) -> bool {
        let free = !self.used;
        let bit = free & free.wrapping_neg();
        self.used |= bit;
        self.calls.insert(number, bit);
        bit != 0
    }

    fn bit(&self, number: u64) -> Done {
        self.calls.get(&number).copied().unwrap_or_default()
    }

    fn end(&mut self, number: u64) {
        self.used &= !self.calls.remove(&number).unwrap_or_default();
    }

    /// Calls that have happened in every state are over, answered or not.
    fn without_settled<S: Ord>(&mut self, states: BTreeSet<(S, Done)>) -> BTreeSet<(S, Done)> {
        let settled = states.iter().fold(self.used, |all, (_, done)| all & done);
        if settled == 0 {
            return states;
        }
        self.calls.retain(|_, bit| *bit & settled == 0);
        self.used &= !settled;
        let rest = states
            .into_iter()
            .map(|(state, done)| (state, done & !settled));
        rest.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Register;

    #[derive(Debug, Clone, Copy)]
    enum Call {
        Write(u8),
        Read(u8),
    }

    impl Object for Register {
        type State = u8;
        type Call = Call;

        fn after(&self, _: u64, state: &u8, call: &Call) -> Option<u8> {
            match call {
                Call::Write(value) => Some(*value),
                Call::Read(value) => (state == value).then_some(*state),
            }
        }
    }

    fn one_by_one(calls: &[Call]) -> Finding {
        let mut history = History::default();
        for call in calls {
            let number = history.begin(*call);
            history.end(number, *call);
        }
        history.check(&Register)
    }

    #[test]
    fn a_read_sees_the_last_write() {
        let fine = [Call::Read(0), Call::Write(1), Call::Read(1)];
        assert_eq!(one_by_one(&fine), Finding::Fine);
        let stale = [Call::Write(1), Call::Write(2), Call::Read(1)];
        assert!(matches!(one_by_one(&stale), Finding::Broken(_)));
    }

    #[test]
    fn calls_at_the_same_time_have_either_order() {
        for seen in [1, 2] {
            let mut history = History::default();
            let both = [1, 2].map(|value| (history.begin(Call::Write(value)), value));
            for (number, value) in both {
                history.end(number, Call::Write(value));
            }
            let read = history.begin(Call::Read(seen));
            history.end(read, Call::Read(seen));
            assert_eq!(history.check(&Register), Finding::Fine);
        }
    }

    /// Those that nobody saw: a register does not need them.
    struct Unseen;

    impl Object for Unseen {
        type State = u8;
        type Call = Call;

        fn after(&self, number: u64, state: &u8, call: &Call) -> Option<u8> {
            Register.after(number, state, call)
        }

        fn is_unseen(&self, call: &Call) -> bool {
            matches!(call, Call::Write(value) if *value > 100)
        }
    }

    #[test]
    fn many_unknown_outcomes_are_judged_where_few_of_them_were_seen() {
        let mut history = History::default();
        for round in 0..60 {
            history.begin(Call::Write(101 + round));
            history.begin(Call::Write(1 + round));
            let read = history.begin(Call::Read(1 + round));
            history.end(read, Call::Read(1 + round));
        }
        assert_eq!(history.check(&Register), Finding::GivenUp);
        assert_eq!(history.check(&Unseen), Finding::Fine);
        let read = history.begin(Call::Read(7));
        history.end(read, Call::Read(7));
        assert!(matches!(history.check(&Unseen), Finding::Broken(_)));
    }

    #[test]
    fn a_call_may_end_long_after_it_was_seen() {
        let mut history = History::default();
        let write = history.begin(Call::Write(1));
        for _ in 0..3 {
            let read = history.begin(Call::Read(1));
            history.end(read, Call::Read(1));
        }
        history.end(write, Call::Write(1));
        let read = history.begin(Call::Read(1));
        history.end(read, Call::Read(1));
        assert_eq!(history.check(&Register), Finding::Fine);
    }

    #[test]
    fn what_failed_may_have_happened_or_not_but_not_twice() {
        let reads = |seen: &[u8]| {
            let mut history = History::default();
            history.begin(Call::Write(1));
            for value in seen {
                let number = history.begin(Call::Read(*value));
                history.end(number, Call::Read(*value));
            }
            history.check(&Register)
        };
        assert_eq!(reads(&[0, 0]), Finding::Fine);
        assert_eq!(reads(&[0, 1, 1]), Finding::Fine);
        assert!(matches!(reads(&[1, 0]), Finding::Broken(_)));
    }
}
