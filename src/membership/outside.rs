//! The world as foca sees it: datagrams and timers go in here, notifications become facts for [`crate::Swim`].

use crate::{Counters, Effect, Identity, pace::Pace, wire};
use bytes::Bytes;
use foca::{Notification, Runtime};
use std::{net::SocketAddr, time::Duration};

/// What is due at some time.
#[derive(Debug)]
pub(crate) enum Timer {
    Foca(foca::Timer<Identity>),
    /// Send the whole view to somebody.
    Sync,
    /// Greet those who were not heard of.
    Announce,
}

/// What foca noticed.
#[derive(Debug)]
pub(crate) enum Fact {
    /// This life sent us something.
    Heard(Identity),
    /// Neither it nor any of those asked to probe it answered.
    ProbeFailed(Identity),
    /// We were taken for dead and are this life now.
    Renewed(Identity),
    /// Nobody is left.
    Alone,
}

/// Collects what a step of the protocol wants done.
#[derive(Debug)]
pub(crate) struct Outside {
    pub pace: Pace<Timer>,
    pub effects: Vec<Effect>,
    pub facts: Vec<Fact>,
    pub counters: Counters,
    /// Never sent to: gossip about an earlier life here would make foca greet itself.
    own_addr: SocketAddr,
    /// foca's counter of our refutations in this life.
    own_refutations: u16,
}

impl Outside {
    pub fn new(own_addr: SocketAddr, now: Duration) -> Self {
        Self {
            pace: Pace::new(now),
            effects: Vec::new(),
            facts: Vec::new(),
            counters: Counters::default(),
            own_addr,
            own_refutations: 0,
        }
    }

    pub fn send(&mut self, to: SocketAddr, payload: Bytes) {
        if to == self.own_addr {
            return;
        }
        self.counters.messages_out += 1;
        self.counters.bytes_out += payload.len() as u64;
        self.effects.push(Effect::Send { to, payload });
    }

    /// foca counts from zero in each life.
    pub fn restarted_life(&mut self) {
        self.own_refutations = 0;
    }

    /// foca starts anew.
    pub fn restarted(&mut self) {
        self.restarted_life();
        self.pace.retain(|timer| !matches!(timer, Timer::Foca(_)));
    }
}

impl Runtime<Identity> for Outside {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::DataReceived(header) => self.facts.push(Fact::Heard(header.src.clone())),
            Notification::DataSent(header) => {
                if header.src_incarnation > self.own_refutations {
                    self.counters.refuted_here += 1;
                }
                self.own_refutations = header.src_incarnation;
            }
            Notification::ProbeFailed(_, who) => {
                self.counters.probes_failed += 1;
                self.facts.push(Fact::ProbeFailed(who.clone()));
            }
            Notification::Rejoin(me) => {
                self.counters.renewals += 1;
                self.facts.push(Fact::Renewed(me.clone()));
            }
            Notification::Idle => self.facts.push(Fact::Alone),
            // Changes of members are read from the list itself, which also tells suspects.
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::Active
            | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.send(to.addr, wire::wrap(wire::Kind::Foca, data));
    }

    fn submit_after(&mut self, timer: foca::Timer<Identity>, after: Duration) {
        self.pace.set(after, rank(&timer), Timer::Foca(timer));
    }
}

/// foca wants timers of one time in this order.
fn rank(timer: &foca::Timer<Identity>) -> u8 {
    match timer {
        foca::Timer::SendIndirectProbe { .. } => 0,
        foca::Timer::ProbeRandomMember(_) => 1,
        foca::Timer::ChangeSuspectToDown { .. } => 2,
        foca::Timer::PeriodicAnnounce(_) => 3,
        foca::Timer::PeriodicGossip(_) => 4,
        foca::Timer::RemoveDown(_) => 5,
        foca::Timer::PeriodicAnnounceDown(_) => 6,
    }
}
