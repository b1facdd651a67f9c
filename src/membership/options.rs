//! Timing. The defaults are for a LAN: a dead member is suspected after about 0.8 s and down after about 2.4 s.

use crate::wire::FOCA_BYTES_MAX;
use foca::{Config, PeriodicParams};
use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

/// How long foca remembers the dead.
const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 60 * 60);
/// In effect no suspicion: foca refuses zero.
const NO_SUSPICION: Duration = Duration::from_millis(1);

/// Timing of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// One member is probed in each period, all of them in turn.
    pub probe_period: Duration,
    /// Without an answer after this, others are asked to probe. Less than a third of the period.
    pub probe_rtt: Duration,
    /// How many others are asked.
    pub indirect_probes: usize,
    /// How long a suspect has to refute.
    pub suspect_to_down: Duration,
    /// News is passed on this often, besides riding on probes, ...
    pub gossip_every: Duration,
    /// ... to so many.
    pub gossip_fanout: usize,
    /// The whole view goes to one other member this often (anti-entropy).
    pub sync_every: Duration,
    /// Expected members that were not heard of yet, and everybody when nobody is left, are greeted this often.
    pub announce_every: Duration,
    /// A member that is expected but was never heard of counts as down after this.
    pub unheard_down_after: Duration,
    /// Without suspicion, a failed probe means down (faster, and wrong under packet loss).
    pub suspicion: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(400),
            probe_rtt: Duration::from_millis(150),
            indirect_probes: 3,
            suspect_to_down: Duration::from_millis(1500),
            gossip_every: Duration::from_millis(200),
            gossip_fanout: 3,
            sync_every: Duration::from_secs(1),
            announce_every: Duration::from_secs(1),
            unheard_down_after: Duration::from_secs(4),
            suspicion: true,
        }
    }
}

impl Options {
    /// foca's configuration in a cluster of this size, this member included.
    pub(crate) fn config(&self, members: usize) -> Config {
        let every = |frequency, count| {
            Some(PeriodicParams {
                frequency,
                num_members: at_least_one(count),
            })
        };
        Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: at_least_one(self.indirect_probes),
            max_transmissions: NonZeroU8::new(transmissions(members)).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: self.suspicion_time(),
            remove_down_after: Some(REMEMBER_DOWN),
            max_packet_size: at_least_one(FOCA_BYTES_MAX),
            notify_down_members: true,
            // Whole views (`sync_every`) say more than a feed of the active members would.
            periodic_announce: None,
            periodic_announce_to_down_members: every(self.announce_every, 2),
            periodic_gossip: every(self.gossip_every, self.gossip_fanout),
        }
    }

    /// Time to refute. Lifeguard's local health would stretch it here, where others' probes of this member fail too.
    fn suspicion_time(&self) -> Duration {
        if self.suspicion {
            self.suspect_to_down
        } else {
            NO_SUSPICION
        }
    }
}

fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

/// How often one piece of news is sent on: 2 log2 n, at least 6.
fn transmissions(members: usize) -> u8 {
    (2 * (members.max(1).ilog2() as u8 + 1)).max(6)
}
