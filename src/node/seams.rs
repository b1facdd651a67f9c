//! What a member is assembled from. Production hands in QUIC, the machine's disk and clock; the simulator its own, so
//! that many members run in one process, from one seed, with the code that production runs.

use crate::faults::Faults;
use hydfs_data::Trial;
use hydfs_memory::Memory;
use hydfs_store::{Folder, LogOptions};
use hydfs_transport::{Counters, Quic, Who};
use hydfs_types::{BoxFuture, Clock, ClusterId, Incarnation, MemberId, Net};
use std::sync::Arc;

/// A member's end of the network, with what only its owner does to it.
pub trait Wire: Net {
    /// From now on peers see this in what the member sends.
    fn known_as(&self, cluster: Option<ClusterId>, member: MemberId, incarnation: Incarnation);
    /// Waits for a cluster that takes this member for one of its own though it is in none, and calls it.
    fn knocked(&self) -> BoxFuture<'_, ClusterId>;
    /// What the transport counted, where it counts.
    fn counters(&self) -> Option<Arc<Counters>>;
    /// Stops serving; what is under way is cut off.
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl Wire for Quic {
    fn known_as(&self, cluster: Option<ClusterId>, member: MemberId, incarnation: Incarnation) {
        self.set_who(Who {
            cluster,
            member: Some(member),
            incarnation: Some(incarnation),
        });
    }

    fn knocked(&self) -> BoxFuture<'_, ClusterId> {
        Box::pin(Quic::knocked(self))
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Quic::counters(self).clone())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shutdown())
    }
}

/// Everything of the outside world that a member touches, mount and control socket apart.
pub struct Seams {
    pub folder: Folder,
    pub net: Arc<dyn Wire>,
    /// How the agreement log and the record journal are kept.
    pub log: LogOptions,
    pub clock: Arc<dyn Clock>,
    /// Every random choice of the member is drawn from it.
    pub seed: u64,
    pub streams: Streams,
    /// Faults that may be injected; the network and the disk handed in ask it.
    pub faults: Option<Arc<Faults>>,
    /// What outlives this worker, and what the one before left.
    pub memory: Option<Arc<Memory>>,
    /// What only a simulated member has otherwise.
    pub trial: Trial,
}

/// Where RainStorm runs.
#[derive(Debug, Clone)]
pub enum Streams {
    Nowhere,
    /// On threads of its own: what it computes holds up nothing else.
    OwnThreads,
    /// On the member's own runtime, with these settings: nothing but time and the member decides what it does.
    Here(Box<rainstorm::Options>),
}

/// A part of the member that draws random numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Group,
    Swim,
    Cluster,
    Start,
}

/// A seed of its own for each part, the same one for the same seed.
pub(crate) fn part_seed(seed: u64, part: Part) -> u64 {
    (seed ^ (part as u64 + 1) << 56)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
