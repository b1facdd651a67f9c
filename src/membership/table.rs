//! What this member has seen of the others.

use crate::{
    Counters, Expected, Identity, Opinion, Seen, SeenState,
    entry::{Entry, count},
};
use foca::{Member, State};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// A suspect is told of the suspicion this often at most.
const TELL_EVERY: Duration = Duration::from_millis(200);

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

    /// The agreed map lists these; others that are down are forgotten. True if that changed anything.
    pub fn expect(&mut self, now: Duration, expected: &[Expected]) -> bool {
        let known = self.entries.len();
        self.entries
            .values_mut()
            .for_each(|entry| entry.expected = false);
        for Expected { name, addr } in expected {
            let entry = self
                .entries
                .entry(name.clone())
                .or_insert_with(|| Entry::unheard(now, *addr));
            entry.expected = true;
            if !entry.met {
                entry.addr = *addr;
            }
        }
        let all = self.entries.len();
        self.entries
            .retain(|_, e| e.expected || (e.met && e.state != SeenState::Down));
        known != all || all != self.entries.len()
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

    /// True if it was known.
    pub fn forget(&mut self, name: &str) -> bool {
        self.entries.remove(name).is_some()
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
