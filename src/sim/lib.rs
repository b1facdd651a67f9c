//! The cluster in one process: members under virtual time, faults by seed, so that a failure can be repeated.
//!
//! Members run production's code over a network, disks and clocks in memory. An oracle watches what users were promised.
//! It never decides anything for a member.

mod client;
mod host;
mod net;
mod net_state;
mod oracle;
mod scenario;
mod world;

#[cfg(test)]
mod net_tests;

pub use net::{End, SimNet};
pub use net_state::{Link, Sent};
pub use oracle::{Oracle, Tally};
pub use scenario::{Plan, Scenario, Verdict};
