//! The lazy ends: writers that no descriptor uses are closed in batches, unlinked files that nobody holds are released.
//!
//! A writer that only wrote at offsets ends with its cut once its records are durable: the file is clean, and the next
//! reader asks nobody. Appends stay pending until somebody reads them.

use crate::volume::Volume;
use futures_util::future::join_all;
use hydfs_state::WriterPhase;
use hydfs_types::{Command, Ino, Seq, WriterEnd, WriterId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

type Gate = tokio::sync::OwnedMutexGuard<()>;

/// A writer stays live this long after its last descriptor was closed: `>>` in a loop costs one grant.
const LINGER: Duration = Duration::from_millis(400);
const EVERY: Duration = Duration::from_millis(100);
/// Writers that end in one command.
const ENDS_MAX: usize = 128;
/// An unlinked file can be opened this long: the kernel may be between looking its name up and opening it, and it tries
/// a stale one only once more.
const GRACE: Duration = Duration::from_secs(2);
/// Writers that nobody has taken up are looked for this often; one that is found twice is ended.
const UNTAKEN_EVERY: Duration = Duration::from_secs(5);
const ORPHANS_EVERY: Duration = Duration::from_secs(5);
/// Orphans released in one command.
const RELEASES_MAX: usize = 1024;

impl Volume {
    /// Ends idle writers for ever. One task per mount runs it.
    pub async fn end_writers(self: Arc<Self>) {
        let mut untaken = BTreeSet::new();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(EVERY).await;
            if looked.elapsed() >= UNTAKEN_EVERY {
                looked = Instant::now();
                untaken = self.end_untaken(untaken).await;
            }
            let Some(since) = Instant::now().checked_sub(LINGER) else {
                continue;
            };
            let mut idle = self.table.idle_writers(since);
            idle.extend(self.fenced());
            idle.truncate(ENDS_MAX);
            self.end(idle).await;
        }
    }

    /// Writers of this mount that the cluster has ended and that have nothing left to send.
    fn fenced(&self) -> Vec<Ino> {
        self.table
            .with_writers()
            .into_iter()
            .filter(|ino| {
                self.table
                    .writer(*ino)
                    .is_some_and(|writer| !writer.is_open() && writer.is_idle())
            })
            .collect()
    }

    /// Ends writers that were granted to this mount and that nobody has taken up: whoever asked had stopped waiting, or could
    /// not open the file. Their files would be written to for everybody, for as long as this worker lives. `before`: what was
    /// found at the last look; answers what is found now.
    async fn end_untaken(&self, before: BTreeSet<WriterId>) -> BTreeSet<WriterId> {
        let found = self.untaken();
        let (mut ends, mut gates) = (Vec::new(), Vec::new());
        for (writer, ino) in found.iter().filter(|(writer, _)| before.contains(writer)) {
            let gate = self.table.with(*ino, |used| used.gate.clone());
            // Whoever has it may be about to take it up.
            let Ok(gate) = gate.try_lock_owned() else {
                continue;
            };
            if ends.len() < ENDS_MAX && self.table.writer(*ino).is_none() {
                ends.push(WriterEnd {
                    writer: *writer,
                    last: Seq::default(),
                    touched: Vec::new(),
                    mtime: None,
                });
                gates.push((gate, *ino));
            }
        }
        if !ends.is_empty()
            && let Err(error) = self.ctx.agreement.propose(Command::End { ends }).await
        {
            tracing::info!(%error, "writers that nobody has taken up could not be ended yet");
        }
        for (gate, ino) in gates {
            drop(gate);
            self.table.forget_unused(ino);
        }
        found.into_keys().collect()
    }

    fn untaken(&self) -> BTreeMap<WriterId, Ino> {
        let (me, state) = (self.ctx.me(), self.ctx.state());
        let granted = state.names.writers.iter().filter(|(_, writer)| {
            writer.incarnation == me && writer.job.is_none() && writer.phase == WriterPhase::Open
        });
        let is_taken = |ino, id| self.table.writer(ino).is_some_and(|mine| mine.writer == id);
        granted
            .filter(|(id, writer)| !is_taken(writer.ino, **id))
            .map(|(id, writer)| (*id, writer.ino))
            .collect()
    }

    /// Ends every writer of this mount: a clean stop.
    pub async fn end_all(&self) {
        self.table.close_all();
        self.end(self.table.with_writers()).await;
    }

    /// Ends the writers of these inodes in one command. Their gates stay closed until the command is in: a writer that
    /// was granted again before that would give out seqs anew.
    pub(crate) async fn end(&self, mut inos: Vec<Ino>) {
        // One turn each: who is idle and ended by the cluster is named twice, and would wait for itself.
        inos.sort_unstable();
        inos.dedup();
        let all = inos.clone();
        let finished: Vec<(WriterEnd, Gate)> =
            join_all(inos.into_iter().map(|ino| self.finish(ino)))
                .await
                .into_iter()
                .flatten()
                .collect();
        let (ends, gates): (Vec<WriterEnd>, Vec<Gate>) = finished.into_iter().unzip();
        while !ends.is_empty() {
            match self
                .ctx
                .agreement
                .propose(Command::End { ends: ends.clone() })
                .await
            {
                Ok(_) => break,
                Err(error) if error.is_silence() => tokio::time::sleep(EVERY).await,
                Err(error) => {
                    // This incarnation is over: the cluster has ended them, or will.
                    tracing::info!(%error, "idle writers were ended by the cluster");
                    break;
                }
            }
        }
        drop(gates);
        all.into_iter()
            .for_each(|ino| self.table.forget_unused(ino));
    }

    async fn finish(&self, ino: Ino) -> Option<(WriterEnd, Gate)> {
        let gate = self
            .table
            .with(ino, |used| used.gate.clone())
            .lock_owned()
            .await;
        let (writer, appended) = self.table.with(ino, |used| {
            let idle = used.writing == 0 && used.busy == 0;
            (
                used.writer
                    .clone()
                    .filter(|writer| idle || !writer.is_open()),
                used.appended,
            )
        });
        let writer = writer?;
        if writer.has_behind() && !writer.is_open() {
            // Whoever sends it in the background takes a new one.
            return None;
        }
        if writer.is_open() {
            let settled = if appended {
                writer.flush().await
            } else {
                writer.sync().await
            };
            if let Err(error) = settled {
                tracing::info!(%ino, %error, "a writer is not done yet");
                return None;
            }
        }
        let taken = self.table.with(ino, |used| {
            let unused = used.busy == 0 && (used.writing == 0 || !writer.is_open());
            if unused {
                used.writer = None;
            }
            unused
        });
        taken.then(|| (writer.finish(!appended), gate))
    }

    /// Releases unlinked inodes that this mount does not hold open, for ever. One task per mount runs it.
    pub async fn release_orphans(self: Arc<Self>) {
        let mut since: BTreeMap<Ino, Instant> = BTreeMap::new();
        loop {
            let pause = if since.is_empty() {
                ORPHANS_EVERY
            } else {
                GRACE / 4
            };
            drop(tokio::time::timeout(pause, self.orphans.notified()).await);
            // Many unlinks make one command.
            tokio::time::sleep(EVERY).await;
            let free = self.ripe_orphans(&mut since);
            if free.is_empty() {
                continue;
            }
            let more = free.len() == RELEASES_MAX;
            let release = Command::ReleaseOrphans {
                incarnation: self.ctx.me(),
                inos: free.clone(),
            };
            if let Err(error) = self.ctx.agreement.propose(release).await {
                tracing::info!(%error, "unlinked files could not be released yet");
            }
            self.table.released(&free);
            if more {
                self.orphans.notify_one();
            }
        }
    }

    /// Unlinked inodes to give up now: not open here, and unlinked for as long as an open may be on its way. `since`
    /// remembers when each was first seen.
    fn ripe_orphans(&self, since: &mut BTreeMap<Ino, Instant>) -> Vec<Ino> {
        let (me, now) = (self.ctx.me(), Instant::now());
        let state = self.ctx.state();
        let mine = |ino: &Ino| {
            state
                .inode(*ino)
                .ok()
                .and_then(|inode| inode.orphan.as_ref())
                .is_some_and(|waiting| waiting.contains(&me))
        };
        since.retain(|ino, _| mine(ino));
        for ino in state.names.orphans.iter().filter(|ino| mine(ino)) {
            since.entry(*ino).or_insert(now);
        }
        let ripe = since
            .iter()
            .filter(|(_, seen)| now.duration_since(**seen) >= GRACE)
            .map(|(ino, _)| *ino);
        ripe.filter(|ino| self.table.release(*ino))
            .take(RELEASES_MAX)
            .collect()
    }
}
