//! Bugs that a simulation plants in RainStorm to prove that it would find them; those of the file system are in
//! `hydfs_types`. Production hands in none, and nothing that a user can set makes it.

/// A bug that all simulated members may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A task that starts again does not put its state back.
    StateForgotten,
    /// A commit makes outputs and state visible without the positions that belong to them.
    PositionsKept,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::StateForgotten, Self::PositionsKept];

    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::StateForgotten => "state-forgotten",
            Self::PositionsKept => "positions-kept",
        }
    }
}
