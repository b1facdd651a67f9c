//! Bugs that the simulator plants to prove that it would find them. A plant is a value that is handed in like the clock:
//! production hands in none, and no setting, variable or command can make it hand in one.

/// A bug that a simulated member may have. Each breaks one rule that its documentation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// R3: the promised slot epoch is kept in memory only.
    FenceForgotten,
    /// R12: a member that lost power says that it did not, and keeps its places as synced.
    KeptAfterPowerLoss,
    /// R6: a cut is proposed that only its slot leader has prepared.
    ProposedUnprepared,
    /// R6: a replica answers a prepare before it is on disk.
    PreparedUnsynced,
    /// R6: whoever wants a merge while one runs takes its outcome for an answer.
    MergeShared,
    /// The file system answers from the local state without asking the group whether it is current.
    BarrierSkipped,
    /// R11: the source promotes a learner when it asks what there is to learn.
    PromotedBySource,
    /// R2: a synced replica is dropped when its replacement begins to learn.
    DroppedBeforePromote,
    /// R3: appends of an incarnation that was ended are taken.
    UnlistedAccepted,
    /// R8: a roll lists what it merges without a fence.
    RolledUnfenced,
    /// R4: what is asked to be durable is answered from memory.
    CommittedInMemory,
    /// R15: the ids of a session are used again by the next life of its member.
    IdsReused,
    /// R7: a replica, learner or not, serves whatever version it has.
    OldVersionServed,
    /// The leader tells of a command's effect before the holders of read leases have applied it.
    ToldEarly,
    /// R8: a segment is rolled while acknowledged records of a job wait in it for their watermark.
    RolledAboveWatermark,
    /// R8, R11: copies that the config does not name are deleted before those that it names are complete.
    DeletedByAbsence,
    /// R10: whoever reads a file that another mount writes does not ask for what was answered early there.
    RecallSkipped,
    /// R15: a request that the kernel sends again is done as if it were a new one.
    RepeatedAnew,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::FenceForgotten,
        Self::KeptAfterPowerLoss,
        Self::ProposedUnprepared,
        Self::PreparedUnsynced,
        Self::MergeShared,
        Self::BarrierSkipped,
        Self::PromotedBySource,
        Self::DroppedBeforePromote,
        Self::UnlistedAccepted,
        Self::RolledUnfenced,
        Self::CommittedInMemory,
        Self::IdsReused,
        Self::OldVersionServed,
        Self::DeletedByAbsence,
        Self::ToldEarly,
        Self::RolledAboveWatermark,
        Self::RecallSkipped,
        Self::RepeatedAnew,
    ];

    /// Its name on the simulator's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FenceForgotten => "fence-forgotten",
            Self::KeptAfterPowerLoss => "kept-after-power-loss",
            Self::ProposedUnprepared => "proposed-unprepared",
            Self::PreparedUnsynced => "prepared-unsynced",
            Self::MergeShared => "merge-shared",
            Self::BarrierSkipped => "barrier-skipped",
            Self::PromotedBySource => "promoted-by-source",
            Self::DroppedBeforePromote => "dropped-before-promote",
            Self::UnlistedAccepted => "unlisted-accepted",
            Self::RolledUnfenced => "rolled-unfenced",
            Self::CommittedInMemory => "committed-in-memory",
            Self::IdsReused => "ids-reused",
            Self::OldVersionServed => "old-version-served",
            Self::DeletedByAbsence => "deleted-by-absence",
            Self::ToldEarly => "told-early",
            Self::RolledAboveWatermark => "rolled-above-watermark",
            Self::RecallSkipped => "recall-skipped",
            Self::RepeatedAnew => "repeated-anew",
        }
    }

    /// By its name on the simulator's command line.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|planted| planted.name() == name)
    }
}
