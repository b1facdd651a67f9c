//! Finding company and leaving it.

use super::{Effect, Expected, GREETINGS_MAX, SEEDS_MAX, Swim};
use crate::Identity;
use foca::Member;
use std::{collections::BTreeSet, net::SocketAddr};

impl Swim {
    pub(super) fn announce(&mut self, addrs: Vec<SocketAddr>) {
        for addr in addrs {
            if self.seeds.len() < SEEDS_MAX {
                self.seeds.insert(addr);
            }
            self.hello(addr);
        }
    }

    pub(super) fn hello(&mut self, addr: SocketAddr) {
        self.greet_life(Identity::unknown(addr));
    }

    pub(super) fn greet_life(&mut self, who: Identity) {
        if let Err(error) = self.foca.announce(who, &mut self.outside) {
            tracing::debug!(%error, "membership greeting");
        }
    }

    /// Greets members that were never heard of; when nobody is left, everybody that ever was.
    pub(super) fn greet(&mut self) {
        let now = self.outside.pace.now();
        if self.table.give_up(
            now,
            self.options.unheard_down_after,
            &mut self.outside.counters,
        ) {
            self.outside.effects.push(Effect::Changed);
        }
        let alone = self.foca.num_members() == 0;
        let mut addrs: BTreeSet<SocketAddr> = self.table.addrs(alone).collect();
        if alone {
            addrs.extend(&self.seeds);
        }
        addrs.remove(&self.foca.identity().addr);
        let start = self.greeted % addrs.len().max(1);
        let count = addrs.len().min(GREETINGS_MAX);
        let turn: Vec<SocketAddr> = addrs
            .iter()
            .copied()
            .cycle()
            .skip(start)
            .take(count)
            .collect();
        self.greeted = self.greeted.wrapping_add(count);
        turn.into_iter().for_each(|addr| self.hello(addr));
    }

    pub(super) fn expect(&mut self, expected: &[Expected]) {
        let me = self.foca.identity().clone();
        let others: Vec<_> = expected
            .iter()
            .filter(|e| e.name != me.name)
            .cloned()
            .collect();
        if self.table.expect(self.outside.pace.now(), &others) {
            self.outside.effects.push(Effect::Changed);
        }
        self.drop_forgotten();
        let unheard: Vec<SocketAddr> = self.table.addrs(false).take(GREETINGS_MAX).collect();
        unheard.into_iter().for_each(|addr| self.hello(addr));
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.foca.iter_members().any(|m| *m.id().name == *name) {
            return;
        }
        if self.table.forget(name) {
            self.outside.effects.push(Effect::Changed);
        }
        self.drop_forgotten();
    }

    /// Everybody is told once; whoever misses it finds out by gossip, or by probing.
    pub(super) fn leave(&mut self) {
        let me = self.foca.identity().clone();
        let active: Vec<SocketAddr> = self.foca.iter_members().map(|m| m.id().addr).collect();
        for addr in active {
            self.send_view(addr, true, std::iter::once(Member::down(me.clone())));
        }
        if let Err(error) = self.foca.leave_cluster(&mut self.outside) {
            tracing::debug!(%error, "membership goodbye");
        }
        self.left = true;
    }
}
