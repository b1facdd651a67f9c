//! Slots and their agreed configs (R2).

use crate::{Incarnation, SlotEpoch, SlotId};
use serde::{Deserialize, Serialize};

/// Number of slots that the key space is cut into.
pub const SLOTS: u32 = 4096;

/// One replica of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Acting {
    pub incarnation: Incarnation,
    /// Holds every acknowledged record; a learner (`false`) serves nothing.
    pub synced: bool,
}

/// Who keeps a slot's segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotConfig {
    pub epoch: SlotEpoch,
    pub acting: Vec<Acting>,
    /// A synced one of `acting`.
    pub leader: Incarnation,
    /// No live synced replica: nothing is acknowledged until one of `acting` returns (R2, R12).
    pub frozen: bool,
}

/// A wanted change of one config, refused unless the slot is at `expected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotChange {
    pub slot: SlotId,
    pub expected: SlotEpoch,
    pub acting: Vec<Acting>,
    pub leader: Incarnation,
}

impl SlotConfig {
    /// The synced replicas.
    pub fn synced(&self) -> impl Iterator<Item = Incarnation> + '_ {
        self.acting
            .iter()
            .filter(|a| a.synced)
            .map(|a| a.incarnation)
    }

    /// Whether this incarnation is one of the acting replicas, and if so whether it is synced.
    pub fn role(&self, incarnation: Incarnation) -> Option<bool> {
        self.acting
            .iter()
            .find(|a| a.incarnation == incarnation)
            .map(|a| a.synced)
    }
}
