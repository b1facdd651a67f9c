//! Membership: who seems alive, who is suspected, and on what evidence. SWIM (Das, Gupta, Motivala 2002) by `foca`,
//! with what it lacks added around it: the accused are told at once, whole views are exchanged, a member that was
//! itself stopped does not blame the others, and one that hears nobody keeps asking.
//!
//! It *suspects*; it never decides. Placement, expiry and admission are the agreement group's.
//!
//! [`Swim`] is the protocol as `(now, event) -> effects`, without clock, network or task. [`Membership`] drives it.

mod counters;
mod driver;
mod entry;
mod identity;
mod options;
mod outside;
mod pace;
mod seen;
mod swim;
mod table;
mod wire;

pub use counters::Counters;
pub use driver::Membership;
pub use identity::{Identity, MembershipError, NAME_BYTES_MAX};
pub use options::Options;
pub use seen::{Opinion, Seen, SeenState};
pub use swim::{Effect, Event, Expected, Swim};
pub use wire::{DATAGRAM_BYTES_MAX, Kind};
