//! What can be wrong on purpose. A model that cannot fail shows nothing.
//!
//! Bugs are what the rules forbid. Holes are what production does, or may do, where a rule is not kept to the letter: each of
//! them breaks an invariant here, in a state that production reaches rarely or never (docs/RELIABILITY.md says which).

/// A bug or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// R2: a change of a config is committed though the config is another by then.
    NoCompare,
    /// R2: the last live synced replica ends, and a learner leads instead of nobody.
    NoFreeze,
    /// R2: a live synced replica is dropped before its replacement is promoted.
    DroppedBeforePromote,
    /// R3: the fence is only in memory: a restart forgets it.
    FenceNotJournaled,
    /// R3: a replica takes what comes at an older epoch than its config's.
    EpochUnchecked,
    /// R4: a write is acknowledged by the synced replicas alone, without the learner.
    LearnerIsNoHolder,
    /// R4: a write is acknowledged when all but one have it.
    OneMissing,
    /// R4: what is to be on disk is acknowledged from memory.
    CommittedInMemory,
    /// R6: the slot leader proposes a cut that the others have not prepared.
    ProposeUnprepared,
    /// R6: a replica answers a prepare before it has all records of the list.
    PrepareWithoutRecords,
    /// R6: a replica answers a prepare before it is on disk.
    PrepareUnsynced,
    /// R6: the merge command is not refused where the epoch moved on.
    MergeAtOldEpoch,
    /// R6: a record is merged again though it is in the base.
    ForgetMerged,
    /// R8: the slot leader takes records while it lists for a roll.
    RolledUnfenced,
    /// R8: a segment is rolled while an acknowledged record waits for its watermark.
    RolledAboveWatermark,
    /// R8: a record whose round failed goes to the next segment, whether the roll took it or not.
    ResentAcrossRoll,
    /// R8: a truncate that is served again cuts again.
    TruncatedTwice,
    /// R8: a replica drops what its agreed state does not know (yet).
    DeletedByAbsence,
    /// R11: a learner is promoted though nobody included it in merges and it has pulled nothing.
    PromoteUnpulled,
    /// R11: the slot leader promotes a learner when it answers its pull.
    PromotedBySource,
    /// R11: pulled records come after those that were sent to the learner.
    PulledLast,
    /// R12: a machine that lost power resumes its incarnation.
    KeptAfterPowerLoss,
    /// R12: a frozen slot is given to whoever comes first, though power took what it had and another has it.
    AnyBootReadmitted,
    /// R12: a process that restarts serves before its agreed state is as new as its admission.
    ResumedBehind,
    /// R12: who comes back is synced though the slot went on without it.
    ReadmittedUnfrozen,

    /// A hole of R11: the slot leader answers a pull while it does not know whether a merge without the learner comes through.
    PullOverDoubt,
    /// A hole of R11: a learner that has not applied what its source had applied takes its own old version for the whole.
    LearnedBehind,
    /// A hole of R11: what the source has named and has no more is taken for what the base has, whichever base that is.
    EndedUnpulled,
    /// A hole of R11: a request to be promoted after one pull is served when the slot leader has restarted and answered another.
    LatePromote,
    /// A hole of R8: the fence of a roll is lifted while nobody knows whether the roll comes through.
    UnfencedInDoubt,
    /// A hole of R8: a segment takes appends again after the next one was retired, and late ones of before the roll, too.
    Reopened,
    /// A hole of R12: what a process proposed comes through after the next process of its incarnation began.
    StaleProposals,
    /// A hole of R12: a slot whose replicas ended together and all lost power stays frozen for ever.
    FrozenForEver,
}

impl Plant {
    /// Every one of them.
    pub const ALL: [Self; 33] = [
        Self::NoCompare,
        Self::NoFreeze,
        Self::DroppedBeforePromote,
        Self::FenceNotJournaled,
        Self::EpochUnchecked,
        Self::LearnerIsNoHolder,
        Self::OneMissing,
        Self::CommittedInMemory,
        Self::ProposeUnprepared,
        Self::PrepareWithoutRecords,
        Self::PrepareUnsynced,
        Self::MergeAtOldEpoch,
        Self::ForgetMerged,
        Self::RolledUnfenced,
        Self::RolledAboveWatermark,
        Self::ResentAcrossRoll,
        Self::TruncatedTwice,
        Self::DeletedByAbsence,
        Self::PromoteUnpulled,
        Self::PromotedBySource,
        Self::PulledLast,
        Self::KeptAfterPowerLoss,
        Self::AnyBootReadmitted,
        Self::ReadmittedUnfrozen,
        Self::ResumedBehind,
        Self::PullOverDoubt,
        Self::LearnedBehind,
        Self::EndedUnpulled,
        Self::LatePromote,
        Self::UnfencedInDoubt,
        Self::Reopened,
        Self::StaleProposals,
        Self::FrozenForEver,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}
