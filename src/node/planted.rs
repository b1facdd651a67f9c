//! Bugs that the simulator plants in a whole member. Production hands in none (see [`Planted`]).

use hydfs_agreement::Group;
use hydfs_data::Trial;
use hydfs_types::{
    Agreement, AgreementError, AppliedWatch, BoxFuture, Command, CommandIdentity, Incarnation,
    LogIndex, MemberId, Planted, Reply, SlotChange,
};
use std::{collections::BTreeSet, sync::Arc};

/// The group as the member's parts see it.
pub(crate) fn agreement(group: Arc<Group>, trial: Trial) -> Arc<dyn Agreement> {
    match trial.planted {
        Some(Planted::BarrierSkipped) => Arc::new(Hasty(group)),
        _ => group,
    }
}

/// Never asks whether the local state is current.
struct Hasty(Arc<Group>);

impl Agreement for Hasty {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, AgreementError>> {
        self.0.propose(command)
    }

    fn propose_kept<'a>(
        &'a self,
        command: Command,
        identity: &'a dyn CommandIdentity,
    ) -> BoxFuture<'a, Result<Reply, AgreementError>> {
        self.0.propose_kept(command, identity)
    }

    fn forget(&self, seq: u64) {
        self.0.forget(seq);
    }

    fn barrier(&self) -> BoxFuture<'_, Result<LogIndex, AgreementError>> {
        let applied = *self.0.applied().borrow();
        Box::pin(async move { Ok(applied) })
    }

    fn wait_applied(&self, index: LogIndex) -> BoxFuture<'_, Result<(), AgreementError>> {
        self.0.wait_applied(index)
    }

    fn visible(&self) -> LogIndex {
        self.0.visible()
    }

    fn leased(&self) -> Option<LogIndex> {
        Some(*self.0.applied().borrow())
    }

    fn applied(&self) -> AppliedWatch {
        self.0.applied()
    }

    fn leader(&self) -> Option<MemberId> {
        self.0.leader()
    }
}

/// Takes their places from synced replicas that will not stay, before those that will are synced.
pub(crate) fn drop_early(change: &mut SlotChange, wanted: &BTreeSet<Incarnation>) {
    let stays = |one: &Incarnation| wanted.contains(one);
    let heir = change
        .acting
        .iter()
        .find(|acting| acting.synced && stays(&acting.incarnation));
    let Some(heir) = heir.map(|acting| acting.incarnation) else {
        return;
    };
    change
        .acting
        .retain(|acting| !acting.synced || stays(&acting.incarnation));
    change.leader = heir;
}
