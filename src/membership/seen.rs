//! What this member has seen of the others, and on what evidence.

use crate::{Counters, Expected, Identity};
use foca::{Member, State};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// Tellers remembered for one member: enough for any question of the form "at least two?".
const TELLERS_MAX: usize = 8;
/// A suspect is told of the suspicion this often at most.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How a member seems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SeenState {
    Alive,
    /// Did not answer somebody; it has a moment to refute.
    Suspect,
    Down,
}

/// How one other member seems from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub name: String,
    pub addr: SocketAddr,
    pub generation: u64,
    pub state: SeenState,
    /// How long it has been so.
    pub age: Duration,
    /// Why, for people.
    pub evidence: String,
    /// Since its last datagram, if there ever was one.
    pub silent: Option<Duration>,
}

/// What this member would testify about another one (R1: nobody is expired on one member's view).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    /// `None`: never heard of.
    pub state: Option<SeenState>,
    /// The state is `Down`.
    pub down: bool,
    /// How long it has been in that state.
    pub since: Duration,
    /// Our own probes went unanswered since we last heard from it: an observation, not hearsay.
    pub direct: bool,
    /// How many accuse it, we among them if `direct`.
    pub by: usize,
    pub evidence: String,
}

/// What made foca change its mind.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// A timer here: our probe failed, or a suspect's time is over.
    Timer,
    /// A datagram of this member.
    Told(Arc<str>),
    /// Its own goodbye.
    Goodbye(Arc<str>),
}

/// Everybody else, by name.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    addr: SocketAddr,
    generation: u64,
    state: SeenState,
    since: Duration,
    evidence: String,
    heard: Option<Duration>,
    direct: bool,
    told_by: BTreeSet<Arc<str>>,
    /// It said something since the last look at suspects.
    talks: bool,
    /// When we last told it that it is suspected.
    warned: Option<Duration>,
    /// Some life of it was seen, or heard of.
    met: bool,
    /// The agreed map lists it.
    expected: bool,
}

impl Table {
    /// A datagram of this life came in.
    pub fn heard(&mut self, now: Duration, who: &Identity) {
        if let Some(entry) = self
            .entries
            .get_mut(&who.name)
            .filter(|e| e.generation <= who.generation)
        {
            entry.heard = Some(now);
            entry.direct = false;
            entry.talks = true;
        }
    }

    /// Suspects that should be told so now: those that our own probe accused, again and again, and those that go on
    /// talking to us.
    pub fn take_warnings(&mut self, now: Duration) -> Vec<Identity> {
        let mut warn = Vec::new();
        for (name, entry) in &mut self.entries {
            let rested = entry.warned.is_none_or(|at| now >= at + TELL_EVERY);
            let suspected = entry.met && entry.state == SeenState::Suspect;
            if suspected && rested && (entry.direct || entry.talks) {
                entry.warned = Some(now);
                warn.push(Identity {
                    name: name.clone(),
                    addr: entry.addr,
                    generation: entry.generation,
                });
            }
            entry.talks = false;
        }
        warn
    }

    /// Our probe of this life failed.
    pub fn probe_failed(&mut self, who: &Identity) {
        if let Some(entry) = self
            .entries
            .get_mut(&who.name)
            .filter(|e| e.generation == who.generation)
        {
            entry.direct = true;
        }
    }

    /// Takes over what foca holds of one member. True if that changed anything.
    pub fn update(
        &mut self,
        now: Duration,
        member: &Member<Identity>,
        cause: &Cause,
        counters: &mut Counters,
    ) -> bool {
        let id = member.id();
        let state = match member.state() {
            State::Alive => SeenState::Alive,
            State::Suspect => SeenState::Suspect,
            State::Down => SeenState::Down,
        };
        let Some(entry) = self.entries.get_mut(&id.name) else {
            // Nobody asks for the dead that we never met or have forgotten.
            let wanted = state != SeenState::Down;
            if wanted {
                self.entries
                    .insert(id.name.clone(), Entry::new(now, id, state, cause));
            }
            return wanted;
        };
        let before = (entry.met, entry.state, entry.addr, entry.generation);
        let changed = entry.concerns(id, state) && before != (true, state, id.addr, id.generation);
        if changed {
            count(counters, entry.state, state);
            entry.change(now, id, state, cause);
        }
        changed
    }

    /// The agreed map lists these; others that are down are forgotten. Answers with whom was forgotten.
    pub fn expect(&mut self, now: Duration, expected: &[Expected]) -> Vec<Arc<str>> {
        self.entries
            .values_mut()
            .for_each(|entry| entry.expected = false);
        for Expected { name, addr } in expected {
            match self.entries.get_mut(name) {
                Some(entry) => {
                    entry.expected = true;
                    // Never met: wherever the map says.
                    if !entry.met {
                        entry.addr = *addr;
                    }
                }
                None => {
                    self.entries
                        .insert(name.clone(), Entry::unheard(now, *addr));
                }
            }
        }
        let gone = |e: &Entry| !e.expected && (e.state == SeenState::Down || !e.met);
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| gone(e))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.forget(name));
        gone
    }

    /// Those that were expected and never seen count as down after `limit`. True if that changed anything.
    pub fn give_up(&mut self, now: Duration, limit: Duration, counters: &mut Counters) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut() {
            let unseen = !entry.met && entry.state == SeenState::Suspect;
            if unseen && now >= entry.since + limit {
                count(counters, entry.state, SeenState::Down);
                entry.state = SeenState::Down;
                entry.evidence = format!(
                    "no answer to any greeting in {} ms, never heard of",
                    limit.as_millis()
                );
                entry.since = now;
                entry.direct = true;
                changed = true;
            }
        }
        changed
    }

    /// Where those are that no life is known of (`everybody`: and all the others).
    pub fn addrs(&self, everybody: bool) -> impl Iterator<Item = SocketAddr> + '_ {
        self.entries
            .values()
            .filter(move |e| everybody || !e.met)
            .map(|e| e.addr)
    }

    pub fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    pub fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Name of who serves at this address.
    pub fn name_at(&self, addr: SocketAddr) -> Arc<str> {
        let named = self
            .entries
            .iter()
            .find(|(_, e)| e.addr == addr)
            .map(|(name, _)| name.clone());
        named.unwrap_or_else(|| addr.to_string().into())
    }

    pub fn view(&self, now: Duration) -> Vec<Seen> {
        let seen = |(name, entry): (&Arc<str>, &Entry)| Seen {
            name: name.to_string(),
            addr: entry.addr,
            generation: entry.generation,
            state: entry.state,
            age: now.saturating_sub(entry.since),
            evidence: entry.evidence.clone(),
            silent: entry.heard.map(|at| now.saturating_sub(at)),
        };
        self.entries.iter().map(seen).collect()
    }

    pub fn opinion(&self, now: Duration, name: &str) -> Opinion {
        let entry = self.entries.get(name);
        Opinion {
            state: entry.map(|e| e.state),
            down: entry.is_some_and(|e| e.state == SeenState::Down),
            since: entry.map_or(Duration::ZERO, |e| now.saturating_sub(e.since)),
            direct: entry.is_some_and(|e| e.direct),
            by: entry.map_or(0, |e| e.told_by.len() + usize::from(e.direct)),
            evidence: entry.map_or_else(|| "never heard of".into(), |e| e.evidence.clone()),
        }
    }
}

impl Entry {
    fn new(now: Duration, id: &Identity, state: SeenState, cause: &Cause) -> Self {
        let mut entry = Self::unheard(now, id.addr);
        entry.expected = false;
        entry.change(now, id, state, cause);
        entry
    }

    /// Listed by the agreed map, not met yet.
    fn unheard(now: Duration, addr: SocketAddr) -> Self {
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
    fn concerns(&self, id: &Identity, state: SeenState) -> bool {
        if !self.met {
            return true;
        }
        match id.generation.cmp(&self.generation) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => id.addr == self.addr || state < self.state,
        }
    }

    fn change(&mut self, now: Duration, id: &Identity, state: SeenState, cause: &Cause) {
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

fn count(counters: &mut Counters, before: SeenState, after: SeenState) {
    match (before, after) {
        (SeenState::Suspect, SeenState::Alive) => counters.refutations += 1,
        (SeenState::Alive | SeenState::Down, SeenState::Suspect) => counters.suspicions += 1,
        (SeenState::Alive | SeenState::Suspect, SeenState::Down) => counters.downs += 1,
        _ => {}
    }
}
