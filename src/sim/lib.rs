//! The cluster in one process: members under virtual time, faults by seed, so that a failure can be repeated.

mod net;

#[cfg(test)]
mod net_tests;

pub use net::{Link, Sent, SimNet};
