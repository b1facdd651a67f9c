//! The agreed state as openraft drives it: entries in, answers and snapshots out.

use crate::{
    error::Error,
    progress::Progress,
    raft::{
        Entry, LogId, Outcome, Payload, Sealed, Snapshot, SnapshotMeta, StoredMembership, Types,
    },
    snapshots::Snapshots,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hydfs_store::blocking;
use hydfs_types::{CommandError, Envelope, LogIndex, Reply};
use openraft::{
    RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// The local copy of the agreed state, handed in by the member. Called in log order, on the runtime of the group: each call returns soon.
pub trait StateMachine: Send + 'static {
    /// Applies the command at `index`. Deterministic: a refusal changes nothing but the index.
    fn apply(&mut self, index: LogIndex, envelope: Envelope) -> Result<Reply, CommandError>;
    /// An entry that is none of the state's (a new leader's first, a change of voters): only the index advances.
    fn skip(&mut self, index: LogIndex);
    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;
    /// Puts the state of a snapshot, taken at `index`, in place of what is there. An error stops the group here.
    fn restore(&mut self, bytes: &[u8], index: LogIndex) -> Result<(), String>;
}

/// Adapter between [`StateMachine`] and openraft.
pub struct Machine {
    /// In a mutex only to be `Sync`; all access is through `&mut self`.
    state: Mutex<Box<dyn StateMachine>>,
    applied: Option<LogId>,
    members: StoredMembership,
    progress: Arc<Progress>,
    snapshots: Arc<Snapshots>,
}

/// A state on its way into a file.
pub struct Builder {
    meta: SnapshotMeta,
    state: Bytes,
    snapshots: Arc<Snapshots>,
}

impl Machine {
    pub fn new(
        state: Box<dyn StateMachine>,
        progress: Arc<Progress>,
        snapshots: Arc<Snapshots>,
    ) -> Self {
        Self {
            state: Mutex::new(state),
            applied: None,
            members: StoredMembership::default(),
            progress,
            snapshots,
        }
    }

    fn state(&mut self) -> &mut dyn StateMachine {
        &mut **self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Outcome, Error> {
        let index = LogIndex(entry.log_id.index);
        let outcome = match entry.payload {
            Payload::Normal(Sealed(bytes)) => {
                let envelope =
                    hydfs_types::decode(&bytes).map_err(|source| Error::Entry { index, source })?;
                Some(self.state().apply(index, envelope))
            }
            Payload::Blank => {
                self.state().skip(index);
                None
            }
            Payload::Membership(members) => {
                self.members = StoredMembership::new(Some(entry.log_id), members);
                self.state().skip(index);
                None
            }
        };
        self.applied = Some(entry.log_id);
        self.progress.advance(index);
        Ok(outcome)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
            // A long log is applied without starving heartbeats that run on the same thread.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
        };
        let state = blocking(|| self.state().snapshot()).into();
        Builder {
            meta,
            state,
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        state: Bytes,
    ) -> Result<(), io::Error> {
        let index = LogIndex(meta.last_log_id.map_or(0, |id| id.index));
        self.snapshots.save(meta, state.clone()).await?;
        blocking(|| self.state().restore(&state, index))
            .map_err(|why| Error::Restore { index, why })?;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        self.progress.advance(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.load().await?)
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.snapshots.save(&self.meta, self.state.clone()).await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: self.state.clone(),
        })
    }
}
