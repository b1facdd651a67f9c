//! One other member, and the evidence on it.

use crate::{Counters, Identity, SeenState, table::Cause};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

/// Tellers remembered for one member: enough for any question of the form "at least two?".
const TELLERS_MAX: usize = 8;

/// One other member.
#[derive(Debug)]
pub(crate) struct Entry {
    pub addr: SocketAddr,
    pub generation: u64,
    pub state: SeenState,
    pub since: Duration,
    pub evidence: String,
    pub heard: Option<Duration>,
    pub direct: bool,
    pub told_by: BTreeSet<Arc<str>>,
    /// It said something since the last look at suspects.
    pub talks: bool,
    /// When we last told it that it is suspected.
    pub warned: Option<Duration>,
    /// Some life of it was seen, or heard of.
    pub met: bool,
    /// The agreed map lists it.
    pub expected: bool,
}

impl Entry {
    pub fn new(now: Duration, id: &Identity, state: SeenState, cause: &Cause) -> Self {
        let mut entry = Self::unheard(now, id.addr);
        entry.expected = false;
        entry.change(now, id, state, cause);
        entry
    }

    /// Listed by the agreed map, not met yet.
    pub fn unheard(now: Duration, addr: SocketAddr) -> Self {
        Self {
            addr,
            generation: 0,
            state: SeenState::Suspect,
            since: now,
            evidence: "listed as a member, not heard of yet".into(),
            heard: None,
            direct: false,
            told_by: BTreeSet::new(),
            talks: false,
            warned: None,
            met: false,
            expected: true,
        }
    }

    /// Whether news of this life is news of this member: a member that moved to another address leaves its old life
    /// behind there, and that one's end is not its own.
    pub fn concerns(&self, id: &Identity, state: SeenState) -> bool {
        if !self.met {
            return true;
        }
        match id.generation.cmp(&self.generation) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => id.addr == self.addr || state < self.state,
        }
    }

    pub fn change(&mut self, now: Duration, id: &Identity, state: SeenState, cause: &Cause) {
        let new_life = !self.met || id.generation != self.generation;
        self.met = true;
        if new_life || state == SeenState::Alive {
            self.direct = false;
            self.told_by.clear();
        }
        self.evidence = self.explain(now, id, state, cause);
        match cause {
            Cause::Told(who) if state != SeenState::Alive && self.told_by.len() < TELLERS_MAX => {
                self.told_by.insert(who.clone());
            }
            Cause::Goodbye(who) => {
                self.told_by.insert(who.clone());
            }
            Cause::Timer | Cause::Told(_) => {}
        }
        if new_life || state != self.state {
            self.since = now;
        }
        self.addr = id.addr;
        self.generation = id.generation;
        self.state = state;
    }

    fn explain(&self, now: Duration, id: &Identity, state: SeenState, cause: &Cause) -> String {
        match (cause, state) {
            (Cause::Goodbye(_), SeenState::Down) => "said that it leaves".into(),
            (Cause::Told(who) | Cause::Goodbye(who), SeenState::Alive) if *who == id.name => {
                "heard from it".into()
            }
            (Cause::Told(who) | Cause::Goodbye(who), SeenState::Alive) => {
                format!("{who} knows it as alive")
            }
            (Cause::Told(who) | Cause::Goodbye(who), SeenState::Suspect) => {
                format!("{who} told that it is suspected")
            }
            (Cause::Told(who), SeenState::Down) => {
                format!("{who} told that it is down")
            }
            (Cause::Timer, SeenState::Alive) => "alive".into(),
            (Cause::Timer, SeenState::Suspect) => {
                "no answer to our probe, nor to those of others for us".into()
            }
            (Cause::Timer, SeenState::Down) => {
                let waited = now.saturating_sub(self.since).as_millis();
                format!(
                    "suspected for {waited} ms without refuting: {}",
                    self.evidence
                )
            }
        }
    }
}

/// Counts a change of state.
pub(crate) fn count(counters: &mut Counters, before: SeenState, after: SeenState) {
    match (before, after) {
        (SeenState::Suspect, SeenState::Alive) => counters.refutations += 1,
        (SeenState::Alive | SeenState::Down, SeenState::Suspect) => counters.suspicions += 1,
        (SeenState::Alive | SeenState::Suspect, SeenState::Down) => counters.downs += 1,
        _ => {}
    }
}
