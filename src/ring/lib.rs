//! The ring: which members *should* keep which slot, and the steps from what is to what should be.
//!
//! Pure: no clock, no randomness, no network, integers only, so that every member computes the same answer.
//! It only chooses and proposes; who keeps a slot is its agreed config (`SlotConfig`, R2).

mod plan;
mod point;
mod ring;

pub use plan::plan;
pub use point::{POSITIONS_PER_SLOT, point, segment_slot, slot_of, slot_position};
pub use ring::{COPIES_MAX, Ring, RingMember, Share, VIRTUAL_NODES};
