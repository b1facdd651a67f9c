//! The cluster in one process: members under virtual time, faults by seed, so that a failure can be repeated.

mod net;
mod net_state;

#[cfg(test)]
mod net_tests;

pub use net::SimNet;
pub use net_state::{Link, Sent};
