//! Many `Swim`s on one event loop: virtual time, a network that loses, cuts and delays, members that die, stop and return.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use foca::{Header, Message};
use hydfs_membership::{Effect, Event, Identity, Options, SeenState, Swim};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::Duration,
};

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Something that one member came to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    pub at: Duration,
    pub observer: usize,
    pub subject: usize,
    pub state: SeenState,
    pub generation: u64,
}

/// A datagram under way: sender, receiver, bytes.
pub type Filter = Box<dyn FnMut(usize, usize, &Bytes) -> bool>;

pub struct World {
    pub now: Duration,
    pub rng: SmallRng,
    /// Part of the datagrams that is lost.
    pub loss: f64,
    /// One-way cuts: sender, receiver.
    pub cuts: BTreeSet<(usize, usize)>,
    /// Says which datagrams are lost, besides.
    pub drop_if: Option<Filter>,
    pub sent: u64,
    pub sights: Vec<Sight>,
    pub renewals: Vec<(Duration, usize)>,
    options: Options,
    nodes: Vec<Node>,
    flying: BTreeMap<(Duration, u64), (usize, usize, Bytes)>,
    flights: u64,
    trace: DefaultHasher,
}

struct Node {
    swim: Option<Swim>,
    seen: BTreeMap<String, (SeenState, u64)>,
    stopped_until: Duration,
    lives: u64,
}

impl World {
    /// `count` members, none running.
    pub fn new(seed: u64, count: usize) -> Self {
        Self::with_options(seed, count, Options::default())
    }

    pub fn with_options(seed: u64, count: usize, options: Options) -> Self {
        let node = |_| Node {
            swim: None,
            seen: BTreeMap::new(),
            stopped_until: Duration::ZERO,
            lives: 0,
        };
        Self {
            now: Duration::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            loss: 0.0,
            cuts: BTreeSet::new(),
            drop_if: None,
            sent: 0,
            sights: Vec::new(),
            renewals: Vec::new(),
            options,
            nodes: (0..count).map(node).collect(),
            flying: BTreeMap::new(),
            flights: 0,
            trace: DefaultHasher::new(),
        }
    }

    /// `count` members that know each other and have nothing left to tell.
    pub fn joined(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed, count);
        for at in 0..count {
            world.start(at, &[0]);
            world.run(ms(20));
        }
        assert!(
            world.run_until(ms(10_000), World::all_agree).is_some(),
            "seed {seed}: no common view after the joins"
        );
        world.run(ms(800));
        world.sights.clear();
        world
    }

    pub fn name(at: usize) -> String {
        format!("vm{at:02}")
    }

    pub fn addr(at: usize) -> SocketAddr {
        ([10, 0, (at / 256) as u8, (at % 256) as u8], 7000).into()
    }

    /// Starts a life of a member, joining through these.
    pub fn start(&mut self, at: usize, seeds: &[usize]) {
        let node = &mut self.nodes[at];
        node.lives += 1;
        let me = Identity::new(&Self::name(at), Self::addr(at), node.lives << 16).unwrap();
        node.swim = Some(Swim::new(
            me,
            self.options.clone(),
            self.rng.random(),
            self.now,
        ));
        node.seen.clear();
        self.handle(
            at,
            Event::Announce(seeds.iter().map(|seed| Self::addr(*seed)).collect()),
        );
    }

    pub fn kill(&mut self, at: usize) {
        self.nodes[at].swim = None;
    }

    /// The process stands still for a while; what arrives waits.
    pub fn stop_for(&mut self, at: usize, pause: Duration) {
        self.nodes[at].stopped_until = self.now + pause;
    }

    pub fn isolate(&mut self, at: usize) {
        for other in 0..self.nodes.len() {
            self.cuts.extend([(at, other), (other, at)]);
        }
    }

    pub fn swim(&self, at: usize) -> &Swim {
        self.nodes[at].swim.as_ref().unwrap()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|at| self.nodes[*at].swim.is_some())
            .collect()
    }

    pub fn state(&self, observer: usize, subject: usize) -> Option<SeenState> {
        self.nodes[observer]
            .seen
            .get(&Self::name(subject))
            .map(|(state, _)| *state)
    }

    /// Everybody sees exactly the running members as alive, in their present lives.
    pub fn all_agree(&self) -> bool {
        let running = self.running();
        running.iter().all(|observer| {
            (0..self.nodes.len())
                .filter(|subject| subject != observer)
                .all(|subject| {
                    let seen = self.nodes[*observer].seen.get(&Self::name(subject));
                    match &self.nodes[subject].swim {
                        Some(swim) => seen == Some(&(SeenState::Alive, swim.identity().generation)),
                        None => seen.is_none_or(|(state, _)| *state == SeenState::Down),
                    }
                })
        })
    }

    pub fn downs(&self) -> usize {
        self.sights
            .iter()
            .filter(|s| s.state == SeenState::Down)
            .count()
    }

    /// Everything that was sent, when and to whom.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Runs until this holds (looked at whenever something was seen) and says how long that took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        holds: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        let mut sights = usize::MAX;
        loop {
            if sights != self.sights.len() {
                sights = self.sights.len();
                if holds(self) {
                    return Some(self.now - start);
                }
            }
            if !self.step(end) {
                return holds(self).then(|| self.now - start);
            }
        }
    }

    /// The next event before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let flight = self.flying.keys().next().copied();
        let tick = (0..self.nodes.len())
            .filter_map(|at| {
                let node = &self.nodes[at];
                let due = node.swim.as_ref()?.next_tick()?.max(node.stopped_until);
                Some((due.max(self.now), at))
            })
            .min();
        let flies = flight.is_some_and(|(at, _)| tick.is_none_or(|(due, _)| at <= due));
        let due = if flies {
            flight.map(|(at, _)| at)
        } else {
            tick.map(|(due, _)| due)
        };
        let Some(due) = due.filter(|due| *due <= end) else {
            self.now = end;
            return false;
        };
        self.now = due;
        if flies {
            self.land();
        } else if let Some((_, at)) = tick {
            self.handle(at, Event::Tick);
        }
        true
    }

    fn land(&mut self) {
        let ((_, _), (from, to, payload)) = self.flying.pop_first().unwrap();
        let node = &self.nodes[to];
        if node.swim.is_some() && node.stopped_until > self.now {
            let at = node.stopped_until;
            self.fly(at, from, to, payload);
        } else if node.swim.is_some() {
            self.handle(
                to,
                Event::Datagram {
                    from: Self::addr(from),
                    payload,
                },
            );
        }
    }

    fn fly(&mut self, at: Duration, from: usize, to: usize, payload: Bytes) {
        self.flights += 1;
        self.flying.insert((at, self.flights), (from, to, payload));
    }

    pub fn handle(&mut self, at: usize, event: Event) {
        let now = self.now;
        let swim = self.nodes[at].swim.as_mut().unwrap();
        for effect in swim.handle(now, event) {
            match effect {
                Effect::Send { to, payload } => self.send(at, to, payload),
                Effect::Changed => self.look(at),
                Effect::Renewed(_) => self.renewals.push((now, at)),
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, payload: Bytes) {
        self.sent += 1;
        assert!(payload.len() <= hydfs_membership::DATAGRAM_BYTES_MAX);
        (self.now, from, to, &payload).hash(&mut self.trace);
        let Some(to) = (0..self.nodes.len()).find(|at| Self::addr(*at) == to) else {
            return;
        };
        let filtered = self
            .drop_if
            .as_mut()
            .is_some_and(|drop| drop(from, to, &payload));
        let lost = self.rng.random::<f64>() < self.loss;
        if filtered || lost || self.cuts.contains(&(from, to)) {
            return;
        }
        let latency = Duration::from_micros(self.rng.random_range(50..1000));
        self.fly(self.now + latency, from, to, payload);
    }

    fn look(&mut self, observer: usize) {
        let node = &mut self.nodes[observer];
        let view = node.swim.as_ref().unwrap().view(self.now);
        let seen: BTreeMap<String, (SeenState, u64)> = view
            .into_iter()
            .map(|seen| (seen.name, (seen.state, seen.generation)))
            .collect();
        for (name, (state, generation)) in &seen {
            if node.seen.get(name) != Some(&(*state, *generation)) {
                // A damaged name is nobody.
                let subject = name
                    .strip_prefix("vm")
                    .and_then(|at| at.parse().ok())
                    .unwrap_or(usize::MAX);
                let sight = Sight {
                    at: self.now,
                    observer,
                    subject,
                    state: *state,
                    generation: *generation,
                };
                self.sights.push(sight);
            }
        }
        node.seen = seen;
    }
}

/// What foca says in a datagram.
pub fn message(datagram: &[u8]) -> Option<Message<Identity>> {
    let header = |payload| postcard::take_from_bytes::<Header<Identity>>(payload).ok();
    (datagram[2] == 1)
        .then(|| header(&datagram[3..]))
        .flatten()
        .map(|(header, _)| header.message)
}
