//! Writes that are answered before any replica has them (R10), as the mount sees them; `hydfs_data` has the queue.
//!
//! Who may see what, and when: a write is answered early under a read lease, by the only writer of its file. Whoever asks
//! for the file elsewhere, later, sees in the agreed state that it has a writer, and recalls it before it looks. So does
//! whoever gets a grant beside it, before the first record; neither of them answers early while both are there. On this
//! mount everything that looks at content or size sends first what is queued.
//!
//! What may be lost: a member that dies or is expired takes along what was neither closed nor synced, some milliseconds'
//! worth. One that is expired alive sends it again under a new writer, so it turns up later than others' reads. A worker's
//! death loses nothing: bytes and identities are in the memory file, and the next worker sends them before it answers
//! anything about the file (`left.rs`). What fails after its answer is told to each open file here that may write (`table/losses.rs`).

use crate::{
    call::Call,
    content::OFFSET_MAX,
    error::of_command,
    synthetic::Synthetic,
    table::Asks,
    volume::{Outcome, Volume},
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_data::{DataError, Draft, FileWriter, Pushed, TRUSTED, Target, WriteBehind};
use hydfs_memory::Kept;
use hydfs_mount::{Answer, FsError, Handle, How, Request};
use hydfs_state::{Place, State};
use hydfs_types::{BoxFuture, Incarnation, Ino, Op, PAYLOAD_BYTES_MAX, Planted, WriterId, suspend};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Longest that a recall tries.
const RECALL: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);
/// A round waits this long for more to go with it; nobody waits for the round.
const GATHER: Duration = Duration::from_millis(1);
/// Writers remembered before those that are none any more are forgotten.
const REMEMBERED: usize = 1024;

/// What a volume knows of writes that are answered early.
pub(crate) struct Behind {
    /// Files with something to send in the background.
    wanted: mpsc::UnboundedSender<Ino>,
    asked: Mutex<Option<mpsc::UnboundedReceiver<Ino>>>,
    /// Somebody sends in the background.
    started: AtomicBool,
    /// Writers elsewhere that answer nothing early for now.
    recalled: Mutex<BTreeMap<WriterId, Trust>>,
}

/// How long a recall need not be repeated.
#[derive(Clone, Copy)]
struct Trust {
    until: Instant,
    /// How long this machine had been suspended when it recalled.
    suspended: Duration,
}

impl Trust {
    /// Counted from before the recall was sent.
    fn begin() -> Self {
        Self {
            until: Instant::now() + TRUSTED,
            suspended: suspend::suspended(),
        }
    }

    fn lasts(&self, now: Instant) -> bool {
        now < self.until && suspend::ran_on(self.suspended, suspend::suspended())
    }
}

impl Default for Behind {
    fn default() -> Self {
        let (wanted, asked) = mpsc::unbounded_channel();
        Self {
            wanted,
            asked: Mutex::new(Some(asked)),
            started: AtomicBool::new(false),
            recalled: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volume {
    /// Sends what is answered early, for ever, and what an earlier worker left. One task per mount runs it.
    pub async fn write_behind(self: Arc<Self>) {
        tokio::spawn(self.clone().send_left());
        let asked = lock(&self.behind.asked).take();
        let Some(mut asked) = asked else { return };
        self.behind.started.store(true, SeqCst);
        while let Some(ino) = asked.recv().await {
            tokio::spawn(self.clone().send(ino));
        }
    }

    /// Has what is queued of a file sent in the background.
    pub(crate) fn send_soon(&self, ino: Ino) {
        self.behind.wanted.send(ino).ok();
    }

    async fn send(self: Arc<Self>, ino: Ino) {
        loop {
            if self
                .table
                .writer(ino)
                .is_some_and(|writer| writer.has_little())
            {
                tokio::time::sleep(GATHER).await;
            }
            if let Err(error) = self.drain(ino).await {
                tracing::debug!(%ino, %error, "what was answered early is not on its replicas yet");
                tokio::time::sleep(AGAIN).await;
            }
            let writer = self.table.writer(ino);
            if writer.is_none_or(|writer| writer.stop_sending()) {
                return;
            }
        }
    }

    /// A write that is answered on the thread that asks. `None`: to be written the usual way.
    pub(crate) fn write_at_hand(
        &self,
        unique: u64,
        request: &Request,
        (ino, handle): (Ino, Handle),
        (at, data, sync): (Option<u64>, &Bytes, bool),
    ) -> Option<Outcome> {
        if self.table.has_lost(handle) || self.left.has(ino) {
            return None;
        }
        let how = self.table.get(handle)?.writing(sync);
        let early = self.early(ino, at, data, how)?;
        if early.writer.is_crowded(data.len()) {
            return None;
        }
        let memory = self.table.memory();
        let call = Call::of(memory, unique, request).ok()?;
        if call.sent_again().is_some() {
            return None;
        }
        let written = self.write_early(&call, early, at, data);
        if written.is_none()
            && let Some(memory) = memory
        {
            // The usual way begins anew.
            memory.replied(unique);
        }
        written
    }

    /// The same where only the queue was too long: once it is shorter.
    pub(crate) async fn write_when_uncrowded(
        &self,
        call: &Call,
        ino: Ino,
        at: Option<u64>,
        data: &Bytes,
        how: How,
    ) -> Option<Outcome> {
        let begun = call.slot().is_some() || self.table.memory().is_none();
        if !begun || call.sent_again().is_some() {
            return None;
        }
        let early = self.early(ino, at, data, how)?;
        if early.writer.is_crowded(data.len()) {
            early.writer.uncrowded().await;
        }
        let early = self.early(ino, at, data, how)?;
        self.write_early(call, early, at, data)
    }

    /// Who writes and where, if a write may be answered early.
    fn early(&self, ino: Ino, at: Option<u64>, data: &Bytes, how: How) -> Option<Early> {
        let fits = !data.is_empty()
            && data.len() <= PAYLOAD_BYTES_MAX
            && at.is_none_or(|at| at <= OFFSET_MAX);
        if !fits || how.sync || Synthetic::is(ino) || !self.behind.started.load(SeqCst) {
            return None;
        }
        let state = self.covered()?;
        let writer = self.table.writer(ino)?;
        // Below a quota a write has room before it is answered.
        if !self.is_only_writer(&state, &writer) || state.names.limits_bytes(ino) {
            return None;
        }
        let (target, op) = match at {
            None if Self::gap(&state, ino).ok()?.is_some() => return None,
            None => (Target::Tail, Op::Append),
            Some(at) => match state.place(ino, at).ok()? {
                Place::In {
                    segment,
                    offset_in_segment,
                    room,
                    ..
                } if data.len() as u64 <= room => {
                    (Target::Segment(segment), Op::WriteAt(offset_in_segment))
                }
                _ => return None,
            },
        };
        drop(state);
        writer.room(Some(target)).ok()?;
        Some(Early { writer, target, op })
    }

    fn write_early(
        &self,
        call: &Call,
        early: Early,
        at: Option<u64>,
        data: &Bytes,
    ) -> Option<Outcome> {
        let Early { writer, target, op } = early;
        let (ino, time, len) = (writer.ino, self.clock.now(), data.len());
        let kept = match (self.table.memory(), call.slot()) {
            (Some(memory), Some(slot)) => {
                let kept = memory.keep_behind(slot.unique(), ino, at, time, data);
                Some(Arc::new(kept.ok()?))
            }
            _ => None,
        };
        if at.is_none() {
            self.table.with(ino, |used| used.appended = true);
        }
        let note = call.note_kept(len, kept.clone());
        let draft = Draft::new(target, op, data.clone(), time).noted(note);
        let Ok(Pushed::Behind { first }) = writer.push_behind(draft) else {
            kept.as_deref().map(Kept::free);
            return None;
        };
        if first {
            self.send_soon(ino);
        }
        call.set_answered();
        Some(Ok(Answer::Written(len as u32)))
    }

    /// Whether this mount's writer is the only one that the file has.
    pub(crate) fn is_only_writer(&self, state: &State, writer: &FileWriter) -> bool {
        let only = state.file(writer.ino).is_ok_and(|(_, file)| {
            file.writers.len() == 1 && file.writers.contains(&writer.writer)
        });
        only && writer.is_live_in(state)
    }

    /// Whether writes to a file were answered here that are not acknowledged.
    pub(crate) fn is_behind(&self, ino: Ino) -> bool {
        if self.left.has(ino) {
            return true;
        }
        let writer = self.table.writer(ino);
        writer.is_some_and(|writer| writer.may_have_behind())
    }

    /// What this mount has answered early of a file is acknowledged, or lost, which is not told here: whoever only looks is
    /// not concerned. Cost: nothing where there is none.
    pub(crate) async fn send_behind(&self, ino: Ino) -> Outcome<()> {
        self.left_is_sent(ino).await;
        if !self.is_behind(ino) {
            return Ok(());
        }
        match self.drain(ino).await {
            Err(FsError::NoSpace(_)) if !self.is_behind(ino) => Ok(()),
            sent => sent,
        }
    }

    /// Everything queued is acknowledged, under new writers where the cluster ended one.
    pub(crate) async fn drain(&self, ino: Ino) -> Outcome<()> {
        loop {
            let Some(writer) = self.table.writer(ino) else {
                return Ok(());
            };
            match writer.flush().await {
                Err(_) if self.ctx.state().inode(ino).is_err() => {
                    writer.forget();
                    self.table.with(ino, |used| used.writer = None);
                    return Ok(());
                }
                Err(DataError::WriterEnded(_) | DataError::Retired(_)) => {
                    self.replace_writer(ino, &writer).await?;
                }
                Err(DataError::NoSpace) => {
                    self.give_up(ino, &writer).await;
                    return Err(Self::data_error(DataError::NoSpace));
                }
                flushed => return flushed.map_err(Self::data_error),
            }
        }
    }

    /// Fails where writes to a file that were answered are lost and this open file was not told.
    pub(crate) fn heed_losses(&self, handle: Handle, asks: Asks) -> Outcome<()> {
        let lost = self.table.lost(handle, asks);
        lost.map_or(Ok(()), |why| Err(Self::data_error(why)))
    }
}

/// Where a write goes that may be answered early.
struct Early {
    writer: Arc<FileWriter>,
    target: Target,
    op: Op,
}

impl Volume {
    /// What other mounts have answered early of a file is on its replicas, and they answer nothing of it early for a while.
    /// The caller has passed the barrier. Cost: one round to the members that write the file, every few seconds at most.
    pub(crate) async fn recall(&self, ino: Ino) -> Outcome<()> {
        let deadline = Instant::now() + RECALL;
        loop {
            let asked = self.writers_elsewhere(ino);
            if asked.is_empty() || self.ctx.has(Planted::RecallSkipped) {
                return Ok(());
            }
            let trust = Trust::begin();
            let recalls = asked.into_iter().map(|(member, writers)| async move {
                let recalled = self.data.recall(member, ino, writers.clone()).await;
                recalled.map(|()| writers)
            });
            let mut failed = None;
            for recalled in join_all(recalls).await {
                match recalled {
                    Ok(writers) => {
                        let known = writers.into_iter().map(|writer| (writer, trust));
                        lock(&self.behind.recalled).extend(known);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                if Instant::now() >= deadline {
                    return Err(Self::data_error(error));
                }
                // It was expired, or will be; or it takes its time.
                tokio::time::sleep(AGAIN).await;
                self.barrier().await?;
            }
        }
    }

    /// Members with writers of a file under which they may have answered early.
    fn writers_elsewhere(&self, ino: Ino) -> BTreeMap<Incarnation, Vec<WriterId>> {
        let mut elsewhere: BTreeMap<Incarnation, Vec<WriterId>> = BTreeMap::new();
        let state = self.ctx.state();
        let Ok((_, file)) = state.file(ino) else {
            return elsewhere;
        };
        if file.writers.is_empty() && file.unread.is_empty() {
            return elsewhere;
        }
        let now = Instant::now();
        let mut recalled = lock(&self.behind.recalled);
        // What a fenced one has answered goes on under another, which its owner may not have yet.
        for id in file.writers.iter().chain(&file.unread) {
            let early = state.writer(*id).filter(|writer| {
                writer.job.is_none()
                    && writer.incarnation != self.ctx.me()
                    && state.is_alive(writer.incarnation)
            });
            let trusted = recalled.get(id).is_some_and(|trust| trust.lasts(now));
            if let Some(writer) = early.filter(|_| !trusted) {
                elsewhere.entry(writer.incarnation).or_default().push(*id);
            }
        }
        if recalled.len() > REMEMBERED {
            recalled.retain(|_, trust| trust.lasts(now));
        }
        elsewhere
    }

    async fn recalled(&self, ino: Ino, writers: Vec<WriterId>) -> Result<(), DataError> {
        self.table.recall(ino, writers);
        self.table
            .forget_recalled(REMEMBERED, |id| self.ctx.state().writer(id).is_some());
        self.left_is_sent(ino).await;
        // Whoever writes on meanwhile waits for their answers: nobody has to wait with them.
        // Where the cluster has ended their writer, what it answered early is on its way to the next one.
        let unsent = |writer: Arc<FileWriter>| writer.may_have_behind() || !writer.is_open();
        if !self.table.writer(ino).is_some_and(unsent) {
            return Ok(());
        }
        self.drain(ino).await.map_err(|error| DataError::TimedOut {
            millis: 0,
            why: error.to_string(),
        })
    }
}

impl WriteBehind for Volume {
    fn recall(&self, ino: Ino, writers: Vec<WriterId>) -> BoxFuture<'_, Result<(), DataError>> {
        Box::pin(self.recalled(ino, writers))
    }
}

impl Volume {
    /// Where appends go past the end that the file's segments have: a size grown by truncate.
    pub(crate) fn gap(state: &State, ino: Ino) -> Outcome<Option<u64>> {
        let (_, file) = state.file(ino).map_err(of_command)?;
        let end = file
            .segments
            .iter()
            .next_back()
            .and_then(|(start, id)| state.segment(*id).map(|known| start + known.len));
        Ok((file.size_min > end.unwrap_or_default() && file.size_min > 0).then_some(file.size_min))
    }
}
