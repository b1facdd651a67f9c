//! What this member tells of the others.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// How a member seems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SeenState {
    Alive,
    /// Did not answer somebody; it has a moment to refute.
    Suspect,
    Down,
}

/// How one other member seems from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub name: String,
    pub addr: SocketAddr,
    pub generation: u64,
    pub state: SeenState,
    /// How long it has been so.
    pub age: Duration,
    /// Why, for people.
    pub evidence: String,
    /// Since its last datagram, if there ever was one.
    pub silent: Option<Duration>,
}

/// What this member would testify about another one (R1: nobody is expired on one member's view).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    /// `None`: never heard of.
    pub state: Option<SeenState>,
    /// The state is `Down`.
    pub down: bool,
    /// How long it has been in that state.
    pub since: Duration,
    /// Our own probes went unanswered since we last heard from it: an observation, not hearsay.
    pub direct: bool,
    /// How many accuse it, we among them if `direct`.
    pub by: usize,
    pub evidence: String,
}
