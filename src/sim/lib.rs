//! The cluster in one process: members under virtual time, faults by seed, so that a failure can be repeated.
//!
//! Members run production's code over a network, disks and clocks in memory. An oracle watches what users were promised.
//! It never decides anything for a member.

mod autopsy;
mod blocks;
mod chaos;
mod client;
mod history;
mod host;
mod jobs;
mod kernel;
mod kills;
mod moments;
mod names;
mod net;
mod net_state;
mod oracle;
mod outputs;
mod paths;
mod quiet;
mod sample;
mod scenario;
mod story;
mod streams;
mod watch;
mod world;

#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod learn_tests;
#[cfg(test)]
mod net_tests;
#[cfg(test)]
mod rejoin_tests;
#[cfg(test)]
mod start_tests;

pub use chaos::{Faults, Kind};
pub use kills::{Kill, Victim, When};
pub use net::{End, SimNet, Tap};
pub use net_state::{Link, Sent};
pub use oracle::{Oracle, Tally};
pub use sample::Shape;
pub use scenario::{Plan, Scenario, Verdict};
