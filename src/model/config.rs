//! Which rules are at work, and how much may happen: one value describes a whole model.

use crate::{Plant, list::Set};

/// A model: what may happen, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub name: &'static str,
    /// What it is about, in one line.
    pub about: &'static str,
    pub members: u8,
    pub copies: u8,
    /// Who is synced at first; the first of them leads.
    pub synced: Set,
    /// Who is wanted at first.
    pub ring: Set,
    /// Who may be wanted later: the change of a ring is a reconfiguration.
    pub rings: &'static [Set],
    /// Who may be expired, alone or together: each is a reconfiguration.
    pub expires: &'static [Set],
    /// Whether bases, and hence merges, are part of it.
    pub merges: bool,
    /// Merges that may begin at one version, those that come to nothing included.
    pub lists: u8,
    pub records: u8,
    /// Records that are acknowledged only when they are on disk.
    pub durable: Set,
    /// Reconfigurations from outside; what the planner makes of them comes on top.
    pub changes: u8,
    /// Restarts of processes, of members that were expired included.
    pub restarts: u8,
    /// Who may restart.
    pub restarting: Set,
    /// Machines that lose power and come back.
    pub powers: u8,
    /// Which machines may lose power.
    pub losing: Set,
    /// A writer that is alone may end with its cut.
    pub ends: bool,
    /// The first segment may be rolled.
    pub rolls: bool,
    /// The last segment may be truncated to nothing, once.
    pub truncates: bool,
    /// The second segment may be retired, once.
    pub retires: bool,
    /// The second writer is a job's: its record waits for its watermark.
    pub job: bool,
    pub plant: Option<Plant>,
    /// Bugs and holes that break an invariant here.
    pub finds: &'static [Plant],
}

/// Three members that are all synced, two writers, merges; nothing goes wrong.
pub(crate) const QUIET: Config = Config {
    name: "",
    about: "",
    members: 3,
    copies: 3,
    synced: 0b111,
    ring: 0b111,
    rings: &[],
    expires: &[],
    merges: true,
    lists: 2,
    records: 2,
    durable: 0,
    changes: 0,
    restarts: 0,
    restarting: 0,
    powers: 0,
    losing: 0b1111,
    ends: false,
    rolls: false,
    truncates: false,
    retires: false,
    job: false,
    plant: None,
    finds: &[],
};

impl Config {
    /// The same with a bug or a hole.
    pub fn with(self, plant: Plant) -> Self {
        Self {
            plant: Some(plant),
            ..self
        }
    }
}
