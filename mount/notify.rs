//! Tells the kernel what changed elsewhere, from threads of their own. One is for attributes and entries: the kernel forgets
//! those without waiting for anybody, so that others can wait for it. The other is for pages: that may wait inside the
//! kernel for a request that is being served, so neither session threads nor tasks may make the call, or wait for it.
//!
//! A change and an answer that is on its way do not get past each other: the kernel numbers attributes, and entries by
//! *epochs*, from the moment of the request, and an answer that is older than a notice is not kept. Two answers are an
//! exception: attributes of an inode that the kernel has not got yet, which have no number to be compared with, so that a
//! notice without an inode makes a new epoch, and is sent again when answers on their way have arrived; and entries of a
//! listing, see `listings`.
//!
//! Access control lists have no time-out of their own: the kernel uses what it keeps of them as long as attributes are fresh,
//! and lookups and listings make attributes fresh without a new look at the list. So notices of lists are never dropped
//! (`ACLS_MAX`), and until one has arrived no attributes of its inode may be kept (`forgets_acls`).
//!
//! The queue of attributes and entries holds `NOTICES_MAX` distinct notices. One more drops the oldest, and what was dropped then
//! ends by time: whatever the kernel holds was given with a time-out of at most `ttl`, so `settled` waits that long
//! after the last drop. Pages end by no time: no notice of them is dropped, and there are no more than open files. Nothing is
//! ever reported as invalidated that is not.

use crate::{
    Handle, KernelCache,
    listings::{LISTED, Listings, REPLY_SLACK},
};
use fuser::{INodeNo, Notifier, PollHandle};
use hydfs_types::{BoxFuture, Ino};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Notices of attributes and entries waiting at most.
pub const NOTICES_MAX: usize = 4_096;
/// Of access control lists. With one more, attributes are not kept any more at all.
pub const ACLS_MAX: usize = 65_536;
/// The thread looks this often whether it is still needed.
const IDLE: Duration = Duration::from_secs(1);

/// FUSE_NOTIFY_INC_EPOCH, which fuser does not know: the length of the message, the code in the place of an error, no request.
const NEXT_EPOCH: [u8; 16] = {
    let (len, code) = (16_u32.to_ne_bytes(), 8_u32.to_ne_bytes());
    [
        len[0], len[1], len[2], len[3], code[0], code[1], code[2], code[3], 0, 0, 0, 0, 0, 0, 0, 0,
    ]
};

/// FUSE_NOTIFY_INVAL_INODE for attributes alone (a negative offset). fuser has it, but does not say whether the kernel knows
/// the inode.
fn attr_goes(ino: Ino) -> [u8; 40] {
    let mut message = [0; 40];
    message[..4].copy_from_slice(&40_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&2_u32.to_ne_bytes());
    message[16..24].copy_from_slice(&ino.0.to_ne_bytes());
    message[24..32].copy_from_slice(&(-1_i64).to_ne_bytes());
    message
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Notice {
    Pages(Ino),
    /// With when the kernel was given them last.
    Attr(Ino, Instant),
    /// A second time, of an inode that the kernel had not got at the first.
    AttrAgain(Ino),
    /// Its access control lists.
    Acls(Ino),
    /// Of this directory.
    Entries(Ino),
    AllEntries,
    /// A second time, of what a listing may have brought back.
    EntriesAgain,
    Poll(u64),
}

/// The kernel's cache of one mount.
pub struct Kernel {
    pages: Arc<Notices>,
    known: Arc<Notices>,
    listings: Arc<Listings>,
    strangers: Arc<Strangers>,
    /// Known from when the threads run.
    keeps_entries: OnceLock<bool>,
}

impl Kernel {
    /// `ttl` is the longest time that the kernel may keep anything.
    pub(crate) fn new(ttl: Duration) -> Arc<Self> {
        Arc::new(Self {
            pages: Arc::new(Notices::new(usize::MAX, ttl)),
            known: Arc::new(Notices::new(NOTICES_MAX, ttl)),
            listings: Arc::default(),
            strangers: Arc::default(),
            keeps_entries: OnceLock::new(),
        })
    }

    /// Starts the threads. `device` is another descriptor of the mount that `notifier` is of. Once.
    pub(crate) fn start(&self, notifier: Notifier, device: OwnedFd) -> io::Result<()> {
        let device = File::from(device);
        let can_tell = || tell(&device, &NEXT_EPOCH).is_ok();
        if !*self.keeps_entries.get_or_init(can_tell) {
            tracing::info!(
                "the kernel keeps no names: it cannot be told of changes to them (Linux 6.16 can)"
            );
        }
        let thread = self.pages.clone();
        let for_pages = notifier.clone();
        let pages = move |notice: &Notice| {
            if let Notice::Pages(ino) = notice {
                logged(notice, for_pages.inval_inode(INodeNo(ino.0), 0, 0));
            }
        };
        std::thread::Builder::new()
            .name("fuse-pages".into())
            .spawn(move || thread.deliver(pages))?;
        let (thread, listings) = (self.known.clone(), self.listings.clone());
        let strangers = self.strangers.clone();
        std::thread::Builder::new()
            .name("fuse-notify".into())
            .spawn(move || {
                thread.deliver(|notice| match notice {
                    Notice::Poll(poller) => logged(notice, notifier.poll(PollHandle(*poller))),
                    _ => forget(
                        |message| tell(&device, message),
                        &listings,
                        &strangers,
                        notice,
                    ),
                })
            })?;
        Ok(())
    }

    /// Ends the threads: the mount is gone, and its cache with it.
    pub(crate) fn close(&self) {
        self.pages.close();
        self.known.close();
    }

    /// A listing of `dir` goes out through a handle: `keep` says, right before, how long each of its entries may be kept.
    pub(crate) fn listing(
        &self,
        dir: Ino,
        handle: Handle,
        keep: impl FnOnce() -> Vec<Duration>,
    ) -> Vec<Duration> {
        // Before it is noted that anything is kept: no change comes between.
        if !self.keeps_entries() || !self.listings.begin(dir, handle) {
            return Vec::new();
        }
        let kept = keep();
        if kept.iter().all(Duration::is_zero) {
            self.listed(handle);
        }
        kept
    }

    /// Of the last listing through a handle nothing is on its way any more.
    pub(crate) fn listed(&self, handle: Handle) {
        let again = || self.known.push(Notice::EntriesAgain);
        self.listings.end(handle, again);
    }

    /// The kernel changes names of a directory: it has that directory's lock, which whoever lists it had.
    pub(crate) fn changes(&self, dir: Ino) {
        let again = || self.known.push(Notice::EntriesAgain);
        self.listings.end_all_of(dir, again);
    }
}

/// Inodes that the kernel was told of and had not got, and when what was on its way with them has arrived: it is told
/// again then.
#[derive(Default)]
struct Strangers(Mutex<BTreeMap<Ino, Instant>>);

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ino, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Queue {
    /// With the number each was accepted under.
    waiting: VecDeque<(u64, Notice)>,
    known: BTreeSet<Notice>,
    /// What the thread is at.
    sending: Option<Notice>,
    /// Access control lists among those that wait.
    acls: usize,
    /// There were too many of them: the kernel may keep old ones.
    acls_are_lost: bool,
    /// Notices accepted so far, repeats included.
    accepted: u64,
    closed: bool,
}

/// How far the thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    /// All notices accepted up to this number are delivered or dropped.
    done: u64,
    /// When all that was dropped has timed out.
    lost_until: Option<Instant>,
}

/// Notices on their way to the kernel.
struct Notices {
    queue: Mutex<Queue>,
    arrived: Condvar,
    progress: watch::Sender<Progress>,
    /// That wait.
    most: usize,
    ttl: Duration,
}

impl Notices {
    fn new(most: usize, ttl: Duration) -> Self {
        Self {
            most,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            progress: watch::Sender::default(),
            ttl,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, notice: Notice) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        queue.accepted += 1;
        let number = queue.accepted;
        // A repeat is done when the first, which still waits, is.
        if !queue.known.insert(notice) {
            return;
        }
        if matches!(notice, Notice::Acls(_)) {
            if queue.acls >= ACLS_MAX {
                queue.known.remove(&notice);
                queue.acls_are_lost = true;
                return;
            }
            queue.acls += 1;
        } else if queue.waiting.len() - queue.acls >= self.most {
            self.drop_oldest(&mut queue);
        }
        queue.waiting.push_back((number, notice));
        self.arrived.notify_one();
    }

    fn drop_oldest(&self, queue: &mut Queue) {
        let may_go = |(_, notice): &(u64, Notice)| !matches!(notice, Notice::Acls(_));
        let oldest = queue.waiting.iter().position(may_go);
        if let Some((_, oldest)) = oldest.and_then(|at| queue.waiting.remove(at)) {
            queue.known.remove(&oldest);
            self.progress.send_modify(|progress| {
                progress.lost_until = Some(Instant::now() + self.ttl + REPLY_SLACK)
            });
        }
    }

    /// Whether this is on its way to the kernel.
    fn has(&self, notice: Notice) -> bool {
        let queue = self.lock();
        queue.known.contains(&notice) || queue.sending == Some(notice)
    }

    fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
        queue.known.clear();
        queue.acls = 0;
        self.progress.send_replace(Progress {
            done: u64::MAX,
            lost_until: None,
        });
        self.arrived.notify_one();
    }

    fn deliver(&self, mut send: impl FnMut(&Notice)) {
        let mut queue = self.lock();
        while !queue.closed {
            let Some((_, notice)) = queue.waiting.pop_front() else {
                queue = self
                    .arrived
                    .wait_timeout(queue, IDLE)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            };
            // From here on a repeat is a new notice: the kernel may be past the first one's effect.
            queue.known.remove(&notice);
            queue.acls -= usize::from(matches!(notice, Notice::Acls(_)));
            queue.sending = Some(notice);
            drop(queue);
            send(&notice);
            queue = self.lock();
            queue.sending = None;
            let done = queue
                .waiting
                .front()
                .map_or(queue.accepted, |(number, _)| number - 1);
            self.progress
                .send_modify(|progress| progress.done = progress.done.max(done));
        }
    }
}

impl Notices {
    /// Resolves when all that was accepted so far is delivered, or has timed out.
    fn settled(&self) -> BoxFuture<'static, ()> {
        let wanted = self.lock().accepted;
        let mut progress = self.progress.subscribe();
        Box::pin(async move {
            // An error says that the mount is gone, and its cache with it.
            let lost_until = progress
                .wait_for(|progress| progress.done >= wanted)
                .await
                .ok()
                .and_then(|progress| progress.lost_until);
            if let Some(until) = lost_until {
                tokio::time::sleep_until(until).await;
            }
        })
    }
}

impl KernelCache for Kernel {
    fn invalidate_pages(&self, ino: Ino) -> BoxFuture<'static, ()> {
        self.pages.push(Notice::Pages(ino));
        self.pages.settled()
    }

    fn invalidate_attr(&self, ino: Ino, given: Instant) {
        self.known.push(Notice::Attr(ino, given));
    }

    fn forget_acls(&self, ino: Ino) {
        self.known.push(Notice::Acls(ino));
    }

    fn forgets_acls(&self, ino: Ino) -> bool {
        self.known.has(Notice::Acls(ino)) || self.known.lock().acls_are_lost
    }

    fn invalidate_entries(&self, dir: Option<Ino>) {
        self.known.push(match dir {
            Some(dir) => Notice::Entries(dir),
            None => Notice::AllEntries,
        });
    }

    fn wake(&self, poller: u64) {
        self.known.push(Notice::Poll(poller));
    }

    fn keeps_entries(&self) -> bool {
        self.keeps_entries.get().is_some_and(|keeps| *keeps)
    }

    fn settled(&self) -> BoxFuture<'static, ()> {
        let told = self.known.settled();
        let (known, listings) = (self.known.clone(), self.listings.clone());
        let strangers = self.strangers.clone();
        Box::pin(async move {
            told.await;
            let strange: Vec<Ino> = strangers.lock().keys().copied().collect();
            listings.settled().await;
            {
                let (mut strangers, now) = (strangers.lock(), Instant::now());
                for ino in strange {
                    let Some(until) = strangers.get(&ino).copied() else {
                        // Whoever waited for the same has told it.
                        continue;
                    };
                    known.push(Notice::AttrAgain(ino));
                    // Else another answer with it is on its way, for which somebody else waits.
                    if until <= now {
                        strangers.remove(&ino);
                    }
                }
            }
            // What was told again meanwhile, for this change or for others.
            known.settled().await;
        })
    }
}

fn tell(mut device: &File, message: &[u8]) -> io::Result<()> {
    device.write_all(message)
}

/// Has the kernel forget attributes or entries. `tell` gives it a message.
fn forget(
    tell: impl Fn(&[u8]) -> io::Result<()>,
    listings: &Listings,
    strangers: &Strangers,
    notice: &Notice,
) {
    match notice {
        Notice::Pages(_) | Notice::Poll(_) => {}
        Notice::Attr(ino, given) => {
            let told = tell(&attr_goes(*ino));
            // Evicted, or not there yet: then what is on its way brings it.
            let unknown = told
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if !unknown {
                return logged(notice, told);
            }
            let (now, answered) = (Instant::now(), *given + REPLY_SLACK);
            if answered + LISTED <= now {
                return;
            }
            // In this order: whoever finds it waits for the answers.
            listings.doubt(None);
            if answered > now {
                listings.doubt_answers(answered);
                let mut strangers = strangers.lock();
                let until = strangers.entry(*ino).or_insert(answered);
                *until = answered.max(*until);
            }
            // Where there are no epochs each name is looked up again anyway.
            drop(tell(&NEXT_EPOCH));
        }
        // The lists go with them. What the kernel has not got it has no list of: it asks for those of inodes that it has.
        Notice::AttrAgain(ino) | Notice::Acls(ino) => logged(notice, tell(&attr_goes(*ino))),
        Notice::Entries(dir) => {
            listings.doubt(Some(*dir));
            logged(notice, tell(&NEXT_EPOCH));
        }
        Notice::AllEntries => {
            listings.doubt(None);
            logged(notice, tell(&NEXT_EPOCH));
        }
        Notice::EntriesAgain => logged(notice, tell(&NEXT_EPOCH)),
    }
}

fn logged(notice: &Notice, told: io::Result<()>) {
    if let Err(error) = told {
        tracing::debug!(?notice, %error, "the kernel took no notice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn drain(cache: &Arc<Notices>) -> (std::thread::JoinHandle<()>, Arc<Mutex<Vec<Notice>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (thread, log) = (cache.clone(), seen.clone());
        (
            std::thread::spawn(move || thread.deliver(|notice| log.lock().unwrap().push(*notice))),
            seen,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_delivered_once_and_settle() {
        let cache = Arc::new(Notices::new(NOTICES_MAX, TTL));
        let seven = Notice::Attr(Ino(7), Instant::now());
        for _ in 0..10 {
            cache.push(seven);
            cache.push(Notice::AllEntries);
        }
        let settled = cache.settled();
        let (thread, seen) = drain(&cache);
        settled.await;
        assert_eq!(*seen.lock().unwrap(), [seven, Notice::AllEntries]);
        cache.close();
        thread.join().unwrap();
        cache.settled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn notices_of_pages_are_never_dropped() {
        let kernel = Kernel::new(TTL);
        for ino in 0..NOTICES_MAX as u64 + 3 {
            drop(kernel.invalidate_pages(Ino(ino)));
        }
        let settled = kernel.pages.settled();
        let (thread, seen) = drain(&kernel.pages);
        settled.await;
        assert_eq!(seen.lock().unwrap().len(), NOTICES_MAX + 3);
        kernel.close();
        thread.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_ends_by_time() {
        let cache = Arc::new(Notices::new(NOTICES_MAX, TTL));
        let begun = Instant::now();
        for ino in 0..NOTICES_MAX as u64 + 3 {
            cache.push(Notice::Attr(Ino(ino), begun));
        }
        assert_eq!(cache.lock().waiting.len(), NOTICES_MAX);
        assert_eq!(cache.lock().known.len(), NOTICES_MAX);
        let settled = cache.settled();
        let (thread, seen) = drain(&cache);
        settled.await;
        assert!(
            begun.elapsed() >= TTL,
            "settled before the time-out of the dropped ones"
        );
        assert_eq!(seen.lock().unwrap().len(), NOTICES_MAX);
        cache.close();
        thread.join().unwrap();
    }

    /// Nothing else ends what the kernel keeps of lists.
    #[tokio::test(start_paused = true)]
    async fn lists_are_never_dropped_and_known_to_be_on_their_way_until_they_are_delivered() {
        let kernel = Kernel::new(TTL);
        kernel.forget_acls(Ino(1));
        for ino in 0..NOTICES_MAX as u64 + 3 {
            kernel.invalidate_attr(Ino(ino), Instant::now());
        }
        kernel.forget_acls(Ino(1));
        assert!(kernel.forgets_acls(Ino(1)) && !kernel.forgets_acls(Ino(2)));
        assert_eq!(kernel.known.lock().waiting.len(), NOTICES_MAX + 1);
        let told = Arc::new(Mutex::new(0));
        let (queue, log, asked) = (kernel.known.clone(), told.clone(), kernel.clone());
        let thread = std::thread::spawn(move || {
            queue.deliver(|notice| {
                if *notice == Notice::Acls(Ino(1)) {
                    *log.lock().unwrap() += 1;
                    assert!(asked.forgets_acls(Ino(1)), "the kernel has not got it yet");
                }
            });
        });
        kernel.known.settled().await;
        assert_eq!(*told.lock().unwrap(), 1);
        assert!(!kernel.forgets_acls(Ino(1)));
        kernel.close();
        thread.join().unwrap();
    }

    #[test]
    fn with_too_many_lists_on_their_way_nothing_may_be_kept_any_more() {
        let notices = Kernel::new(TTL);
        for ino in 0..ACLS_MAX as u64 {
            notices.forget_acls(Ino(ino));
        }
        assert!(!notices.forgets_acls(Ino(u64::MAX - 1)));
        notices.forget_acls(Ino(u64::MAX));
        assert!(notices.forgets_acls(Ino(u64::MAX - 1)));
        assert_eq!(notices.known.lock().waiting.len(), ACLS_MAX);
    }

    /// The answer that brings an inode may be on its way while the kernel is told of it.
    #[tokio::test(start_paused = true)]
    async fn attributes_that_the_kernel_had_not_got_are_told_of_again() {
        let kernel = Kernel::new(TTL);
        let told = Arc::new(Mutex::new(Vec::new()));
        let (queue, log) = (kernel.known.clone(), told.clone());
        let (listings, strangers) = (kernel.listings.clone(), kernel.strangers.clone());
        let thread = std::thread::spawn(move || {
            queue.deliver(|notice| {
                log.lock().unwrap().push(*notice);
                let nobody = |message: &[u8]| match message.len() {
                    40 => Err(io::ErrorKind::NotFound.into()),
                    _ => Ok(()),
                };
                forget(nobody, &listings, &strangers, notice);
            });
        });
        let begun = Instant::now();
        kernel.invalidate_attr(Ino(7), begun);
        kernel.settled().await;
        assert!(begun.elapsed() >= REPLY_SLACK);
        let seven = [Notice::Attr(Ino(7), begun), Notice::AttrAgain(Ino(7))];
        assert_eq!(*told.lock().unwrap(), seven);
        let begun = Instant::now();
        kernel.settled().await;
        assert!(begun.elapsed().is_zero(), "once is enough");
        kernel.close();
        thread.join().unwrap();
    }
}
