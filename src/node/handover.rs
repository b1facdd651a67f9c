//! From one worker to the next: what of the memory file concerns the member as a whole. Requests and open files are the
//! volume's.

use crate::{Error, member::Member};
use hydfs_agreement::{KeptSession, Resumed, SessionKeeper};
use hydfs_data::{Data, Past};
use hydfs_memory::Memory;
use hydfs_state::WriterPhase;
use hydfs_store::{Folder, Position, StoreError, Witness};
use hydfs_types::{Agreement, Command, SessionId, WriterEnd, WriterId};
use std::{collections::BTreeSet, os::fd::RawFd, sync::Arc, time::Duration};

/// How often it is looked whether requests that an earlier worker had in hand are done.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The memory file behind a descriptor that the supervisor passed over.
pub fn open(fd: RawFd) -> Result<Arc<Memory>, Error> {
    Ok(Memory::open(crate::own(fd))?)
}

/// The session that commands belong to: the one of the worker before, whose answers can still be asked for.
pub fn session(memory: &Arc<Memory>) -> KeptSession {
    let left = memory.session().filter(|_| memory.takes_over());
    KeptSession {
        keeper: Arc::new(Keeper(memory.clone())),
        resumed: left.map(|left| Resumed {
            id: left.id,
            last: left.last,
            known: left.known,
            open: memory.seqs(),
        }),
    }
}

struct Keeper(Arc<Memory>);

impl SessionKeeper for Keeper {
    fn save(&self, id: SessionId, last: u64, known: bool) {
        self.0
            .save_session(hydfs_memory::KeptSession { id, last, known });
    }
}

/// What is known of the life before, by what it left in the folder and in memory.
pub fn past(folder: &Folder, memory: Option<&Arc<Memory>>) -> Past {
    Past {
        rebooted: folder.rebooted(),
        sync_failed: folder.sync_failed(),
        journaled: memory.and_then(|memory| memory.journal_end()).map(Position),
    }
}

/// The journal is open, as far as it goes: whoever lost its end is somebody else from here on, and how far it goes now is
/// kept for the next worker. In this order, so that a start that is killed in between leaves both to the next.
pub fn opened(
    data: &Data,
    folder: &Folder,
    memory: Option<&Arc<Memory>>,
) -> Result<(), StoreError> {
    let log = data.replica.journal.log();
    if data.has_lost() {
        tracing::error!(end = %log.tail(), "the end of the journal may be lost after a failed sync: others bring this member up, as after a power loss");
        folder.lose()?;
    }
    if let Some(memory) = memory {
        log.set_witness(Arc::new(JournalEnd(memory.clone())));
    }
    folder.settled()
}

struct JournalEnd(Arc<Memory>);

impl Witness for JournalEnd {
    fn written(&self, end: Position) {
        self.0.save_journal_end(end.0);
    }
}

impl Member {
    /// What this member's earlier lives had in flight is settled: says so, so that it need not be kept (R5). Of writers that
    /// requests in the memory file have records under, only once those requests are done.
    pub(crate) async fn own_up(self: &Arc<Self>) {
        let fenced = self.fenced_before();
        let in_hand: BTreeSet<WriterId> = match &self.memory {
            Some(memory) => memory.writers(),
            None => BTreeSet::new(),
        };
        // Until all that was answered is sent, other mounts have to ask for it (R10).
        let unsent = self.volume.has_left();
        let (later, now): (Vec<WriterId>, Vec<WriterId>) = fenced
            .into_iter()
            .partition(|writer| unsent || in_hand.contains(writer));
        self.say_known(now).await;
        if let Some(memory) = self.memory.clone()
            && !later.is_empty()
        {
            let member = self.clone();
            tokio::spawn(async move {
                member.volume.all_left_is_sent().await;
                let open = |writer: &WriterId| memory.writers().contains(writer);
                while later.iter().any(open) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                member.say_known(later).await;
            });
        }
    }

    /// Writers of this member that a fence ended.
    fn fenced_before(&self) -> Vec<WriterId> {
        let state = self.ctx.state();
        let id = self.id();
        let mine = |incarnation| {
            let life = state.cluster.lives.get(&incarnation);
            life.is_none_or(|life| life.member == id)
        };
        let fenced = state.names.writers.iter().filter(|(_, writer)| {
            matches!(writer.phase, WriterPhase::Fenced { .. }) && mine(writer.incarnation)
        });
        fenced.map(|(writer, _)| *writer).collect()
    }

    async fn say_known(&self, writers: Vec<WriterId>) {
        let ends: Vec<WriterEnd> = writers
            .into_iter()
            .map(|writer| WriterEnd {
                writer,
                last: Default::default(),
                touched: Vec::new(),
                mtime: None,
            })
            .collect();
        if !ends.is_empty()
            && let Err(error) = self.group.propose(Command::End { ends }).await
        {
            tracing::info!(%error, "writers of an earlier life could not be settled");
        }
    }
}
