//! The protocol without clock, network or task: `(now, event) -> effects`.

mod company;
mod views;

use crate::{
    Counters, Identity, Opinion, Options, Seen,
    outside::{Fact, Outside, Timer},
    table::{Cause, Table},
    wire::{self, Kind, View},
};
use bytes::Bytes;
use foca::{Foca, Identity as _, Member, NoCustomBroadcast, PostcardCodec, State};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

/// Seeds remembered for joining.
const SEEDS_MAX: usize = 64;
/// Greetings sent in one round.
const GREETINGS_MAX: usize = 8;

/// A member that the agreed map lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub name: Arc<str>,
    pub addr: SocketAddr,
}

/// What happens to the protocol.
#[derive(Debug, Clone)]
pub enum Event {
    /// This came in.
    Datagram { from: SocketAddr, payload: Bytes },
    /// Some time has passed; due when [`Swim::next_tick`] says so.
    Tick,
    /// Join whoever serves there, any of them.
    Announce(Vec<SocketAddr>),
    /// The agreed map lists these members now, this one included or not.
    Expect(Vec<Expected>),
    /// Switches suspicion; a failed probe means down while it is off. Suspects keep the time that they were given.
    Suspicion(bool),
    /// Forget this member, if it is not alive.
    Remove(String),
    /// Say goodbye. Nothing happens afterwards.
    Leave,
}

/// What the protocol wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Send {
        to: SocketAddr,
        payload: Bytes,
    },
    /// The view changed.
    Changed,
    /// Others took this member for dead; it came back as this life.
    Renewed(Identity),
}

/// One member's side of the protocol. The same seed and events give the same effects.
pub struct Swim {
    foca: Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
    outside: Outside,
    table: Table,
    options: Options,
    rng: SmallRng,
    seeds: BTreeSet<SocketAddr>,
    greeted: usize,
    left: bool,
}

impl Swim {
    /// A member that knows nobody yet. `now` is any clock that never goes back.
    pub fn new(me: Identity, options: Options, seed: u64, now: Duration) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut outside = Outside::new(me.addr, now);
        outside.pace.set(options.sync_every, 7, Timer::Sync);
        outside.pace.set(options.announce_every, 8, Timer::Announce);
        let foca = Foca::new(
            me,
            options.config(1),
            SmallRng::seed_from_u64(rng.random()),
            PostcardCodec,
        );
        Self {
            foca,
            outside,
            table: Table::default(),
            options,
            rng,
            seeds: BTreeSet::new(),
            greeted: 0,
            left: false,
        }
    }

    /// One step.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        if self.outside.pace.advance(now) {
            self.outside.counters.stalls += 1;
        }
        if !self.left {
            match event {
                Event::Datagram { from, payload } => self.datagram(from, &payload),
                Event::Tick => self.tick(),
                Event::Announce(addrs) => self.announce(addrs),
                Event::Expect(expected) => self.expect(&expected),
                Event::Suspicion(on) => {
                    self.options.suspicion = on;
                    self.configure();
                }
                Event::Remove(name) => self.remove(&name),
                Event::Leave => self.leave(),
            }
        }
        std::mem::take(&mut self.outside.effects)
    }

    /// When [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Duration> {
        if self.left {
            None
        } else {
            self.outside.pace.next()
        }
    }

    /// This member's present life.
    pub fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// The others, by name.
    pub fn view(&self, now: Duration) -> Vec<Seen> {
        self.table.view(self.outside.pace.at(now))
    }

    /// What this member would testify about another.
    pub fn opinion(&self, now: Duration, name: &str) -> Opinion {
        self.table.opinion(self.outside.pace.at(now), name)
    }

    pub fn counters(&self) -> Counters {
        self.outside.counters
    }

    fn datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.outside.counters.messages_in += 1;
        let understood = match wire::unwrap(datagram) {
            Some((Kind::Foca, payload)) => {
                let done = self.foca.handle_data(payload, &mut self.outside);
                let teller = self.table.name_at(from);
                self.observe(&Cause::Told(teller));
                done.is_ok()
            }
            Some((Kind::View, payload)) => {
                View::read(payload).is_some_and(|view| self.view_of(view))
            }
            None => false,
        };
        if !understood {
            self.outside.counters.malformed += 1;
        }
    }

    fn tick(&mut self) {
        while let Some(timer) = self.outside.pace.pop() {
            match timer {
                Timer::Foca(timer) if self.refuted(&timer) => {}
                Timer::Foca(timer) => {
                    // An incomplete probe cycle, from which foca recovers by itself.
                    if let Err(error) = self.foca.handle_timer(timer, &mut self.outside) {
                        tracing::debug!(%error, "membership timer");
                    }
                    self.observe(&Cause::Timer);
                }
                Timer::Sync => {
                    self.outside
                        .pace
                        .set(self.options.sync_every, 7, Timer::Sync);
                    self.configure();
                    self.sync();
                }
                Timer::Announce => {
                    self.outside
                        .pace
                        .set(self.options.announce_every, 8, Timer::Announce);
                    self.greet();
                }
            }
        }
    }

    /// Whether this is the end of a suspicion that was refuted. foca 2.0 would leave the member alive, but still tell it
    /// that it is down, so that it would give up its life for nothing and be deaf until the others know the next one.
    fn refuted(&self, timer: &foca::Timer<Identity>) -> bool {
        let foca::Timer::ChangeSuspectToDown {
            member_id,
            incarnation,
            ..
        } = timer
        else {
            return false;
        };
        let suspect =
            |m: &Member<Identity>| m.state() == State::Suspect && m.incarnation() == *incarnation;
        !self
            .foca
            .iter_members()
            .any(|m| m.id() == member_id && suspect(m))
    }

    /// Follows foca: news of members, accusations to pass on, the end of company.
    fn observe(&mut self, cause: &Cause) {
        let now = self.outside.pace.now();
        let mut alone = false;
        for fact in std::mem::take(&mut self.outside.facts) {
            match fact {
                Fact::Heard(who) => self.table.heard(now, &who),
                Fact::ProbeFailed(who) => self.table.probe_failed(&who),
                Fact::Renewed(me) => self.outside.effects.push(Effect::Renewed(me)),
                Fact::Alone => alone = true,
            }
        }
        let mut changed = false;
        let mut later_life = None;
        let me = self.foca.identity();
        for member in self.foca.iter_membership_state() {
            let id = member.id();
            if id.addr != me.addr && id.name != me.name {
                changed |= self
                    .table
                    .update(now, member, cause, &mut self.outside.counters);
            } else if id.win_addr_conflict(me) {
                later_life = later_life.max(Some(id.generation));
            }
        }
        if changed {
            self.outside.effects.push(Effect::Changed);
        }
        let suspects = self.table.take_warnings(now);
        suspects.iter().for_each(|who| self.warn(who));
        if alone {
            self.start_over();
        }
        if let Some(generation) = later_life {
            self.outgrow(generation);
        }
    }

    /// Others believe in a later life of this member, or in somebody else in its place, and would ignore it for as long:
    /// it takes the life after that.
    fn outgrow(&mut self, generation: u64) {
        let Some(generation) = generation.checked_add(1) else {
            return;
        };
        let me = Identity {
            generation,
            ..self.foca.identity().clone()
        };
        self.outside.restarted_life();
        if let Err(error) = self.foca.change_identity(me.clone(), &mut self.outside) {
            tracing::debug!(%error, "membership renewal");
        }
        self.outside.counters.renewals += 1;
        self.outside.effects.push(Effect::Renewed(me));
    }

    /// Nobody is left: more likely this member is cut off than everybody else dead. What it believes of them is not
    /// carried back into the cluster, where it would make them all renew themselves.
    fn start_over(&mut self) {
        self.outside.restarted();
        let me = self.foca.identity().clone();
        let rng = SmallRng::seed_from_u64(self.rng.random());
        self.foca = Foca::new(me, self.options.config(1), rng, PostcardCodec);
    }

    /// foca's configuration follows the cluster's size.
    fn configure(&mut self) {
        let config = self.options.config(self.foca.num_members() + 1);
        let accepted = self.foca.set_config(config);
        debug_assert!(accepted.is_ok(), "periods are never changed");
    }
}
