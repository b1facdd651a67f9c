//! Writes that an earlier worker has answered early and that may not be on their replicas: this one sends them.
//!
//! Whatever shows or changes the content of such a file waits until that is done; all other files, and the end of an open file,
//! wait for nothing. Nothing is given up because it takes long: the bytes stay in the memory file, for the worker after this one,
//! too, until every replica has them or it is certain that none will.

use crate::{
    call::Call,
    content::Content,
    volume::{Outcome, Volume},
};
use futures_util::future::join_all;
use hydfs_data::DataError;
use hydfs_memory::{Behind, Kept, Left, Piece};
use hydfs_mount::{FsError, Request};
use hydfs_types::{Ino, WriterId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

const AGAIN: Duration = Duration::from_millis(100);
/// What takes longer is said in the log.
const LONG: Duration = Duration::from_secs(60);

/// What an earlier worker left.
#[derive(Default)]
pub(crate) struct Unsent {
    /// Until it is sent.
    taken: Mutex<Vec<Left>>,
    /// Files of which something is not sent.
    files: Mutex<BTreeSet<Ino>>,
    /// Whether there are any: most looks need no lock.
    any: AtomicBool,
    /// Rung when one of them is through.
    sent: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unsent {
    fn take_over(&self, left: Vec<Left>) {
        let files = left.iter().map(|one| one.behind.ino).collect();
        self.any.store(!left.is_empty(), SeqCst);
        *lock(&self.files) = files;
        *lock(&self.taken) = left;
    }

    /// Whether something of this file is not sent.
    pub fn has(&self, ino: Ino) -> bool {
        self.any.load(SeqCst) && lock(&self.files).contains(&ino)
    }

    fn is_sent(&self, ino: Ino) {
        let mut files = lock(&self.files);
        files.remove(&ino);
        self.any.store(!files.is_empty(), SeqCst);
        drop(files);
        self.sent.notify_waiters();
    }

    /// Waits until this holds no more.
    async fn until_not(&self, waits: impl Fn() -> bool) {
        while waits() {
            let mut rung = std::pin::pin!(self.sent.notified());
            rung.as_mut().enable();
            if waits() {
                rung.await;
            }
        }
    }
}

/// Whether trying again may help.
fn may_pass(error: &FsError) -> bool {
    matches!(
        error,
        FsError::Unreachable(_)
            | FsError::ReadOnly(_)
            | FsError::TimedOut(_)
            | FsError::TryAgain
            | FsError::Damaged(_)
    )
}

/// Files whose content the request shows or changes.
fn content_of(request: &Request) -> [Option<Ino>; 2] {
    match request {
        Request::GetAttr { ino, .. }
        | Request::SetAttr { ino, .. }
        | Request::Read { ino, .. }
        | Request::Write { ino, .. }
        | Request::Flush { ino, .. }
        | Request::Sync { ino, .. }
        | Request::Allocate { ino, .. }
        | Request::Seek { ino, .. }
        | Request::GetXattr { ino, .. } => [Some(*ino), None],
        Request::Open { ino, how } if how.truncate => [Some(*ino), None],
        Request::Copy { from, ino, .. } => [Some(*from), Some(*ino)],
        _ => [None, None],
    }
}

impl Volume {
    /// Takes over what an earlier worker has answered early. Nothing about those files is answered before it is sent.
    pub(crate) fn keep_left(&self, left: Vec<Left>) {
        self.left.take_over(left);
    }

    /// Whether something that an earlier worker has answered early is not sent.
    pub fn has_left(&self) -> bool {
        self.left.any.load(SeqCst)
    }

    /// Waits until what an earlier worker has answered early of a file is sent.
    pub(crate) async fn left_is_sent(&self, ino: Ino) {
        self.left.until_not(|| self.left.has(ino)).await;
    }

    /// The same of the files that the request is about.
    pub(crate) async fn left_for_is_sent(&self, request: &Request) {
        if self.has_left() {
            for ino in content_of(request).into_iter().flatten() {
                self.left_is_sent(ino).await;
            }
        }
    }

    /// Waits until all that an earlier worker has answered early is sent.
    pub async fn all_left_is_sent(&self) {
        self.left.until_not(|| self.has_left()).await;
    }

    pub(crate) async fn send_left(self: Arc<Self>) {
        let mut files: BTreeMap<Ino, Vec<Left>> = BTreeMap::new();
        for left in std::mem::take(&mut *lock(&self.left.taken)) {
            files.entry(left.behind.ino).or_default().push(left);
        }
        let volume = &self;
        let sent = files.into_iter().map(|(ino, left)| async move {
            volume.send_left_of(ino, left).await;
            volume.left.is_sent(ino);
        });
        join_all(sent).await;
    }

    /// Sends what was answered of one file and is not merged, in its order.
    async fn send_left_of(&self, ino: Ino, left: Vec<Left>) {
        let sent = left.iter().filter_map(|one| one.sent.as_ref());
        let writers: BTreeSet<WriterId> = sent.map(|piece| piece.writer).collect();
        let count = left.len();
        let mut outcome = self
            .try_for_left(ino, || self.fix_ends(ino, &writers))
            .await;
        for one in left {
            let kept = Arc::new(one.kept);
            if outcome.is_ok() {
                outcome = self.queue_left(one.behind, one.sent, &kept).await;
            }
            if outcome.is_err() {
                kept.free();
            }
        }
        if outcome.is_ok() {
            outcome = self.try_for_left(ino, || self.drain(ino)).await;
        }
        match outcome {
            Ok(()) => {
                tracing::info!(%ino, writes = count, "what the worker before had answered early is on its replicas");
            }
            // It was unlinked, and nobody has it open.
            Err(FsError::NotFound | FsError::Stale) => {}
            Err(error) => {
                self.note_lost(ino, &error);
                // What was queued before that.
                self.send_soon(ino);
            }
        }
    }

    fn note_lost(&self, ino: Ino, error: &FsError) {
        tracing::error!(%ino, %error, "writes that the worker before had answered may be lost");
        let lost = match error {
            FsError::NoSpace(_) => DataError::NoSpace,
            other => DataError::TimedOut {
                millis: 0,
                why: other.to_string(),
            },
        };
        self.table.note_lost(ino, lost);
    }

    /// Queues one write that was answered, unless it is merged.
    async fn queue_left(
        &self,
        behind: Behind,
        sent: Option<Piece>,
        kept: &Arc<Kept>,
    ) -> Outcome<()> {
        let ino = behind.ino;
        let memory = self.table.memory();
        let slot = memory.and_then(|memory| memory.slot_left(behind.unique));
        let call = Call::left(slot, kept.clone());
        match sent.map(|piece| self.is_merged(ino, &piece)) {
            Some(Ok(true)) => {
                call.set_made(behind.bytes.len());
                return Ok(());
            }
            // What was answered behind it is none the worse for that.
            Some(Err(error)) => {
                kept.free();
                self.note_lost(ino, &error);
                return Ok(());
            }
            Some(Ok(false)) | None => {}
        }
        let queued = || async {
            let writer = self.writer(ino).await?;
            let content = Content::Bytes(behind.bytes.clone());
            match self.queue(&call, &writer, behind.at, content, false).await {
                Ok(_) => Ok(()),
                Err(DataError::WriterEnded(_)) => {
                    self.replace_writer(ino, &writer).await?;
                    Err(FsError::TryAgain)
                }
                // Its segment went before it was queued.
                Err(DataError::Retired(_)) => Err(FsError::TryAgain),
                Err(error) => Err(Self::data_error(error)),
            }
        };
        self.try_for_left(ino, queued).await
    }

    /// Tries until it is done, or cannot be.
    async fn try_for_left<F: Future<Output = Outcome<()>>>(
        &self,
        ino: Ino,
        work: impl Fn() -> F,
    ) -> Outcome<()> {
        let begun = Instant::now();
        let mut is_said = false;
        loop {
            match work().await {
                // A command in doubt is asked for again under its identity.
                Err(error) if may_pass(&error) => {
                    if begun.elapsed() >= LONG && !std::mem::replace(&mut is_said, true) {
                        tracing::warn!(%ino, %error, "what the worker before had answered is not on its replicas yet; trying on");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hydfs_memory::Memory;
    use hydfs_mount::How;
    use hydfs_types::Time;

    /// A worker answers a write of each of these files and dies.
    fn left_of(files: &[Ino]) -> (Vec<Left>, Arc<Memory>) {
        let file = hydfs_memory::create().unwrap();
        let worker = || Memory::open(file.try_clone().unwrap().into()).unwrap();
        for (at, ino) in files.iter().enumerate() {
            let unique = 2 * at as u64 + 2;
            let kept = worker().keep_behind(unique, *ino, None, Time::default(), b"text");
            kept.unwrap();
        }
        let next = worker();
        (next.left_behind(), next)
    }

    #[tokio::test]
    async fn only_files_with_something_unsent_are_waited_for() {
        let unsent = Unsent::default();
        let (left, _memory) = left_of(&[Ino(5), Ino(6)]);
        unsent.take_over(left);
        assert!(unsent.has(Ino(5)) && unsent.has(Ino(6)) && !unsent.has(Ino(7)));
        unsent.until_not(|| unsent.has(Ino(7))).await;
        let waits = unsent.until_not(|| unsent.has(Ino(5)));
        tokio::join!(waits, async { unsent.is_sent(Ino(5)) });
        assert!(!unsent.has(Ino(5)) && unsent.has(Ino(6)));
        unsent.is_sent(Ino(6));
        assert!(!unsent.any.load(SeqCst));
    }

    #[test]
    fn the_end_of_an_open_file_waits_for_nothing() {
        let (ino, handle) = (Ino(5), 7);
        let asks = |request| content_of(&request).contains(&Some(ino));
        assert!(!asks(Request::Release { ino, handle }));
        let truncate = How {
            truncate: true,
            ..How::default()
        };
        for (how, waits) in [(How::default(), false), (truncate, true)] {
            assert_eq!(asks(Request::Open { ino, how }), waits);
        }
        assert!(asks(Request::Sync { ino, handle }));
    }
}
