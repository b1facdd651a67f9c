//! Whole views between members: they repair what gossip lost (anti-entropy), warn suspects and say goodbye.

use super::Swim;
use crate::{
    Identity,
    outside::Fact,
    table::Cause,
    wire::{View, ViewHead},
};
use foca::{Member, State};
use rand::RngExt;
use std::net::SocketAddr;

impl Swim {
    /// Takes over another's view. False if it claims to be ours.
    pub(super) fn view_of(&mut self, view: View) -> bool {
        let ViewHead { from, leaving } = view.head;
        if from.addr == self.foca.identity().addr {
            return false;
        }
        // Strangers, and those that others took for dead, have no say until they are admitted again.
        if !self.foca.iter_members().any(|member| *member.id() == from) {
            return true;
        }
        self.outside.facts.push(Fact::Heard(from.clone()));
        let accused = view
            .members
            .iter()
            .any(|m| m.id() == self.foca.identity() && m.state() == State::Suspect);
        let applied = self
            .foca
            .apply_many(view.members.into_iter(), true, &mut self.outside);
        if accused {
            // Any message of ours refutes; gossip alone might not reach the accuser in time.
            self.greet_life(from.clone());
        }
        let cause = if leaving {
            Cause::Goodbye(from.name)
        } else {
            Cause::Told(from.name)
        };
        self.observe(&cause);
        applied.is_ok()
    }

    /// Tells a suspect that it is suspected: gossip alone may reach it too late (Lifeguard's buddy system).
    pub(super) fn warn(&mut self, who: &Identity) {
        let accused = self
            .foca
            .iter_members()
            .find(|m| m.id() == who && m.state() == State::Suspect)
            .cloned();
        if accused.is_some() {
            self.send_view(who.addr, false, accused.into_iter());
        }
    }

    /// Sends the view to one other member, from a random place on so that all of a large one gets around.
    pub(super) fn sync(&mut self) {
        self.drop_forgotten();
        let active: Vec<SocketAddr> = self.foca.iter_members().map(|m| m.id().addr).collect();
        if active.is_empty() {
            return;
        }
        let to = active[self.rng.random_range(0..active.len())];
        let mut members: Vec<Member<Identity>> =
            self.foca.iter_membership_state().cloned().collect();
        // Who sees most others dead does not insist on it.
        if (active.len() + 1) * 2 < members.len() + 1 {
            members.retain(|m| m.state() != State::Down);
        }
        let start = self.rng.random_range(0..members.len());
        members.rotate_left(start);
        self.send_view(to, false, members.into_iter());
    }

    /// The dead that nobody asks for any more are not gossiped back in.
    pub(super) fn drop_forgotten(&mut self) {
        let forgotten =
            |m: &&Member<Identity>| m.state() == State::Down && !self.table.knows(&m.id().name);
        let forgotten: Vec<Identity> = self
            .foca
            .iter_membership_state()
            .filter(forgotten)
            .map(|m| m.id().clone())
            .collect();
        forgotten.into_iter().for_each(|id| self.drop_down(id));
    }

    pub(super) fn drop_down(&mut self, id: Identity) {
        // As if it had been remembered for long enough; never fails.
        let dropped = self
            .foca
            .handle_timer(foca::Timer::RemoveDown(id), &mut self.outside);
        debug_assert!(dropped.is_ok());
    }

    pub(super) fn send_view(
        &mut self,
        to: SocketAddr,
        leaving: bool,
        members: impl Iterator<Item = Member<Identity>>,
    ) {
        let head = ViewHead {
            from: self.foca.identity().clone(),
            leaving,
        };
        if let Some(payload) = View::wrap(&head, members) {
            self.outside.send(to, payload);
        }
    }
}
