//! Counters of one member's membership plane.

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams handed to the network.
    pub messages_out: u64,
    /// Bytes in them.
    pub bytes_out: u64,
    /// Datagrams received, malformed ones included.
    pub messages_in: u64,
    /// Datagrams that were not ours to read: dropped without effect.
    pub malformed: u64,
    /// Own probes without an answer, direct or indirect.
    pub probes_failed: u64,
    /// Members that became suspect here.
    pub suspicions: u64,
    /// Suspects that turned out to be alive.
    pub refutations: u64,
    /// Suspicions of this member that it refuted.
    pub refuted_here: u64,
    /// Members that went down here.
    pub downs: u64,
    /// Times that this member learned that it was taken for dead and came back under a higher generation.
    pub renewals: u64,
    /// Times that this process was found to have been stopped, so that its timers were put off.
    pub stalls: u64,
}
