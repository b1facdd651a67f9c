//! Members as the agreed state knows them.

use crate::{BootId, Incarnation, LogIndex, MemberId, StorageId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a member says of itself when it asks to be admitted (R12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub name: String,
    pub addr: SocketAddr,
    pub zone: String,
    /// Multiplies the virtual nodes on the ring, in percent.
    pub weight: u32,
    pub storage: StorageId,
    pub boot: BootId,
    /// Starts of this data folder so far, this one included; a copied or rolled-back folder shows here.
    pub start_count: u64,
    /// Drawn by each start. Two processes on copies of one folder that count alike differ here.
    pub drawn: u64,
    /// The last entry in the folder's agreement log.
    pub last: LogIndex,
}

/// A member of the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    pub id: MemberId,
    pub said: Admission,
    /// Its latest incarnation.
    pub incarnation: Incarnation,
    /// The incarnation is admitted and neither expired nor gone.
    pub alive: bool,
    /// Cannot take more data.
    pub full: bool,
    /// It left on purpose (`leave`): its copies are moved without alarm.
    pub left: bool,
    /// Its copies move to others, in order that it can go without a repair (`drain`).
    pub draining: bool,
    /// Its folder has had the agreement log on disk up to here: a later start that has less was rolled back.
    pub kept: LogIndex,
}

/// Answer to an admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub member: MemberId,
    pub incarnation: Incarnation,
    /// The incarnation is the one it had before: it keeps its slot places and writers.
    pub resumed: bool,
}
