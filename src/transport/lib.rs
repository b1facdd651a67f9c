//! How members talk: QUIC with mutual TLS, one UDP port a member, and the certificates behind it.
//!
//! [`Quic`] is the production [`Net`](hydfs_types::Net). It opens one connection per peer on demand, proves names by
//! certificate, says hello both ways before any other byte is served, and turns every failure into a
//! [`NetError`](hydfs_types::NetError) that tells what to do. [`certs`] makes the cluster's CA and its members'
//! certificates.
//!
//! This crate never reads what is in a frame, never retries a call that may have had an effect, and never waits
//! without a deadline.

mod call;
pub mod certs;
mod counters;
mod dial;
mod error;
mod hello;
mod identity;
mod pool;
mod quic;
mod serve;
mod thread;
mod tls;
mod tuning;
mod wire;

#[cfg(test)]
mod garbage_tests;

pub use counters::Counters;
pub use error::TransportError;
pub use identity::Identity;
pub use quic::{Fault, FaultHook, Options, Quic, Who};
pub use tuning::DATAGRAM_BYTES_MAX;
