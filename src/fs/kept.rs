//! What the kernel of this mount may keep of names and attributes, and that it is told when they change.
//!
//! The kernel's copy is part of this member's copy of the agreed state, under its read lease:
//! - nothing is kept for longer than the lease lasts, and nothing of a file that is dirty, whose size no command tells;
//! - what is kept is noted here under the state's lock, so that no later command misses it; each command that changes it
//!   makes a notice, and this member says that it has applied a command only when the kernel has the notice
//!   (`Onlooker` of `hydfs-agreement`). So nobody is told of a change before no kernel answers as it was before.
//!
//! Access control lists go along with the attributes. The kernel keeps them for as long as it has the inode, and a lookup
//! makes old ones good again, so each change of a list is told, kept or not, and until the kernel knows no attributes of the
//! inode are kept. What it may have got before this worker could tell it (`Acls`) is told at the first look at the inode.
//!
//! Cost: a lookup in two maps for each answer and each change. A change of an entry that the kernel keeps makes it look all
//! of its entries up again: the notice for a single one needs the directory's lock, which two members that change the same
//! directory would hold against each other.

use crate::{synthetic::Synthetic, volume::Volume};
use hydfs_mount::{Keep, KernelCache};
use hydfs_state::{Event, State};
use hydfs_types::{Attr, BoxFuture, DirEntry, Ino, suspend};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Attributes, and entries, that are noted at most; what is past that is not kept.
const KEPT_MAX: usize = 65_536;
/// Where so many are noted, those that have ended are looked for this often.
const SWEEP: Duration = Duration::from_millis(50);
/// The kernel counts in ticks and from a moment later: so much of the lease is not given away.
const SLACK: Duration = Duration::from_millis(50);
/// It begins to count when whoever asked gets to run again. What it keeps counts as kept for so much longer: a change then
/// still makes a notice, which nobody needs if it has ended.
const LATE: Duration = Duration::from_secs(1);

/// How often it is looked whether the machine has slept.
const SLEEP_LOOK: Duration = Duration::from_millis(50);

/// An entry: directory and name.
type Name = (Ino, Vec<u8>);

/// What the kernel may have, until when.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// And when they were given.
    attrs: BTreeMap<Ino, Given>,
    entries: BTreeMap<Name, Instant>,
    /// Entries that the kernel takes away itself when this member's command is through: how many requests are at it.
    going: BTreeMap<Name, usize>,
    acls: Acls,
    /// When those that had ended were last looked for.
    swept: Option<Instant>,
    /// Nothing is kept any more.
    over: bool,
    counts: KeptCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    until: Instant,
    /// The last time.
    at: Instant,
}

/// Access control lists that the kernel may have got before each change of them was told.
#[derive(Default)]
struct Acls {
    /// Of these inodes, from this worker before it knew its kernel.
    early: BTreeSet<Ino>,
    /// Of any, from an earlier worker or before the state was replaced, but for the inodes of which it was told to forget them.
    doubted_but: Option<BTreeSet<Ino>>,
}

impl Acls {
    /// Whether the kernel has none of this inode that is not the agreed one. Else it is told, and knows soon.
    fn are_known(&mut self, ino: Ino, kernel: &dyn KernelCache) -> bool {
        if let Some(told) = &mut self.doubted_but
            && !told.contains(&ino)
        {
            if told.len() >= KEPT_MAX {
                told.clear();
            }
            told.insert(ino);
            kernel.forget_acls(ino);
            return false;
        }
        !kernel.forgets_acls(ino)
    }
}

/// How often, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// Answers of which the kernel was let keep something.
    pub answers: u64,
    /// Notices to the kernel that something it keeps has changed.
    pub notices: u64,
}

/// What a change takes away from the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lost {
    /// With when they were given last.
    attrs: Vec<(Ino, Instant)>,
    /// Directories of which entries are lost; `None`: any.
    entries: Vec<Option<Ino>>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel moves what it keeps of one name to another, and back: either may be kept for as long as the other.
    fn couple(&self, one: (Ino, &[u8]), other: (Ino, &[u8])) {
        let mut noted = self.lock();
        let keys = [one, other].map(|(parent, name)| (parent, name.to_vec()));
        let until = keys
            .iter()
            .filter_map(|key| noted.entries.get(key))
            .max()
            .copied();
        if let Some(until) = until {
            noted.entries.extend(keys.map(|key| (key, until)));
        }
    }
}

fn note<K: Ord>(map: &mut BTreeMap<K, Instant>, key: K, until: Instant) -> bool {
    if map.len() >= KEPT_MAX && !map.contains_key(&key) {
        return false;
    }
    let noted = map.entry(key).or_insert(until);
    *noted = until.max(*noted);
    true
}

impl Noted {
    fn note_attr(&mut self, ino: Ino, until: Instant) -> bool {
        self.sweep();
        if self.attrs.len() >= KEPT_MAX && !self.attrs.contains_key(&ino) {
            return false;
        }
        let at = Instant::now();
        let given = self.attrs.entry(ino).or_insert(Given { until, at });
        *given = Given {
            until: until.max(given.until),
            at,
        };
        true
    }

    fn note_entry(&mut self, name: Name, until: Instant) -> bool {
        self.sweep();
        note(&mut self.entries, name, until)
    }

    /// Makes room, where there is none.
    fn sweep(&mut self) {
        if self.attrs.len().max(self.entries.len()) < KEPT_MAX {
            return;
        }
        let now = Instant::now();
        if self.swept.is_none_or(|at| at + SWEEP <= now) {
            self.swept = Some(now);
            self.attrs.retain(|_, given| given.until > now);
            self.entries.retain(|_, until| *until > now);
        }
    }

    /// `own`: by a command of this member.
    fn changed(&mut self, event: &Event, own: bool, lost: &mut Lost) {
        let now = Instant::now();
        match event {
            Event::Inode(ino)
            | Event::Data(ino)
            | Event::Writers(ino)
            | Event::Orphan(ino)
            | Event::Gone(ino) => {
                let given = self.attrs.remove(ino).filter(|given| given.until > now);
                lost.attrs.extend(given.map(|given| (*ino, given.at)));
            }
            Event::Entry { parent, name } => {
                let name = (*parent, name.clone());
                let kept = self.entries.remove(&name).is_some_and(|until| until > now);
                let told = kept && !(own && self.going.contains_key(&name));
                lost.entries.extend(told.then_some(Some(*parent)));
            }
            Event::Replaced => self.all(lost),
            _ => {}
        }
    }

    fn all(&mut self, lost: &mut Lost) {
        let attrs = std::mem::take(&mut self.attrs).into_iter();
        lost.attrs.extend(attrs.map(|(ino, given)| (ino, given.at)));
        let kept = !std::mem::take(&mut self.entries).is_empty();
        lost.entries.extend(kept.then_some(None));
    }
}

impl Volume {
    /// How long the kernel may keep what it is about to be answered: only what is in the agreed state now, as it is there.
    pub(crate) fn let_keep(&self, entry: Option<(Ino, &[u8])>, attr: &Attr) -> Keep {
        if Synthetic::is(attr.ino) {
            return Keep::default();
        }
        let kept = self.keeping(|state, noted, kernel, left| {
            let (names, until) = (kernel.keeps_entries(), Instant::now() + left + LATE);
            let attr_kept = is_exact(state, attr)
                && noted.acls.are_known(attr.ino, kernel)
                && noted.note_attr(attr.ino, until);
            let is_entry =
                |(parent, name): &(Ino, &[u8])| state.lookup(*parent, name) == Ok(attr.ino);
            if !entry.as_ref().is_none_or(is_entry) {
                // It went while the answer was made.
                self.moved.note([attr.ino].into_iter());
            }
            let entry_kept = entry
                .filter(|_| names)
                .filter(is_entry)
                .is_some_and(|(parent, name)| noted.note_entry((parent, name.to_vec()), until));
            noted.counts.answers += u64::from(attr_kept || entry_kept);
            Keep {
                attr: if attr_kept { left } else { Duration::ZERO },
                entry: if entry_kept { left } else { Duration::ZERO },
            }
        });
        kept.unwrap_or_default()
    }

    /// The same for entries of a directory that were listed, name and attributes of each together, `most` at most.
    pub(crate) fn let_keep_listed(
        &self,
        dir: Ino,
        entries: &[(DirEntry, Option<Attr>)],
        most: Duration,
    ) -> Vec<Duration> {
        if Synthetic::is(dir) {
            return Vec::new();
        }
        let kept = self.keeping(|state, noted, kernel, left| {
            let (names, left) = (kernel.keeps_entries(), left.min(most));
            let until = Instant::now() + left + LATE;
            let mut keeps = |entry: &DirEntry, attr: &Attr| {
                names
                    && !Synthetic::is(attr.ino)
                    && is_exact(state, attr)
                    && state.lookup(dir, &entry.name) == Ok(attr.ino)
                    && noted.acls.are_known(attr.ino, kernel)
                    && noted.note_attr(attr.ino, until)
                    && noted.note_entry((dir, entry.name.clone()), until)
            };
            let kept: Vec<Duration> = entries
                .iter()
                .map(|(entry, attr)| match attr {
                    Some(attr) if keeps(entry, attr) => left,
                    _ => Duration::ZERO,
                })
                .collect();
            noted.counts.answers += u64::from(kept.iter().any(|left| !left.is_zero()));
            kept
        });
        kept.unwrap_or_default()
    }

    /// Notes what the kernel keeps: of the state, for what is left of the lease. `None`: nothing.
    fn keeping<T>(
        &self,
        note: impl FnOnce(&State, &mut Noted, &dyn KernelCache, Duration) -> T,
    ) -> Option<T> {
        let kernel = self.kernel.get().filter(|_| self.begun.initialized())?;
        // Held until it is noted: a later command finds it there. Not waited for: this may be a session thread.
        let state = self.ctx.state.try_read().ok()?;
        let visible = self.ctx.agreement.leased()?;
        if visible < state.index {
            return None;
        }
        let left = self.ctx.agreement.lease_left().checked_sub(SLACK)?;
        let mut noted = self.kept.lock();
        if noted.over {
            return None;
        }
        Some(note(&state, &mut noted, kernel.as_ref(), left))
    }

    /// Tells the kernel what of access control lists these changed. Before anybody sees the change: under the state's lock.
    pub fn note_acls(&self, events: &[Event]) {
        let Some(kernel) = self.kernel.get() else {
            return;
        };
        for event in events {
            match event {
                Event::Acl(ino) => kernel.forget_acls(*ino),
                Event::Replaced => self.kept.lock().acls.doubted_but = Some(BTreeSet::new()),
                _ => {}
            }
        }
    }

    /// The kernel gets to know an access control list of an inode. The state is held.
    pub(crate) fn acl_is_shown(&self, ino: Ino) {
        if self.kernel.get().is_some() {
            return;
        }
        let mut noted = self.kept.lock();
        // Asked again: whoever sets it looks at what is noted afterwards.
        if let Some(kernel) = self.kernel.get() {
            kernel.forget_acls(ino);
        } else if noted.acls.early.len() < KEPT_MAX {
            noted.acls.early.insert(ino);
        } else {
            noted.acls.doubted_but = Some(BTreeSet::new());
        }
    }

    /// The kernel can be told, from now on. `inherited`: an earlier worker served it.
    pub(crate) fn tell_early(&self, kernel: &dyn KernelCache, inherited: bool) {
        let mut noted = self.kept.lock();
        let early = std::mem::take(&mut noted.acls.early);
        early.into_iter().for_each(|ino| kernel.forget_acls(ino));
        if inherited {
            noted.acls.doubted_but = Some(BTreeSet::new());
        }
    }

    /// Tells the kernel what these changed of what it keeps. `own`: by a command of this member.
    pub(crate) fn tell_kernel(&self, events: &[Event], own: bool) {
        let mut lost = Lost::default();
        {
            let mut noted = self.kept.lock();
            let changed = |event| noted.changed(event, own, &mut lost);
            events.iter().for_each(changed);
        }
        if !own && !lost.entries.is_empty() {
            // Names of these, or of their directories.
            self.moved
                .note(events.iter().filter_map(|event| match event {
                    Event::Inode(ino) => Some(*ino),
                    _ => None,
                }));
        }
        self.tell_lost(&lost);
    }

    pub fn kept_counts(&self) -> KeptCounts {
        self.kept.lock().counts
    }

    /// Has the kernel forget all when this machine has slept: its clock for what it keeps stood still, that of the read lease
    /// did not. Until a first look after the machine woke the kernel may show what was kept when it fell asleep.
    pub async fn forget_after_sleep(self: Arc<Self>) {
        let mut before = suspend::suspended();
        loop {
            tokio::time::sleep(SLEEP_LOOK).await;
            let now = suspend::suspended();
            if !suspend::ran_on(before, now) {
                let mut lost = Lost::default();
                self.kept.lock().all(&mut lost);
                self.tell_lost(&lost);
            }
            before = now;
        }
    }

    /// From now on nothing is kept.
    pub fn keep_nothing(&self) -> BoxFuture<'static, ()> {
        let mut lost = Lost::default();
        {
            let mut noted = self.kept.lock();
            noted.over = true;
            noted.all(&mut lost);
        }
        self.tell_lost(&lost);
        match self.kernel.get() {
            Some(kernel) => kernel.settled(),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn tell_lost(&self, lost: &Lost) {
        let Some(kernel) = self.kernel.get().filter(|_| *lost != Lost::default()) else {
            return;
        };
        self.kept.lock().counts.notices += (lost.attrs.len() + lost.entries.len()) as u64;
        lost.attrs
            .iter()
            .for_each(|(ino, given)| kernel.invalidate_attr(*ino, *given));
        for dir in &lost.entries {
            kernel.invalidate_entries(*dir);
        }
    }

    /// Resolves when the kernel has taken notice of all that is applied here.
    pub(crate) async fn kernel_told(&self) {
        if let Some(kernel) = self.kernel.get() {
            kernel.settled().await;
        }
    }

    /// The kernel asks for this entry to go. Until the end of this the kernel keeps it; if it is [`Going::gone`] then, the
    /// kernel drops it by itself.
    pub(crate) fn going(&self, parent: Ino, name: &[u8]) -> Going<'_> {
        let name = (parent, name.to_vec());
        *self.kept.lock().going.entry(name.clone()).or_default() += 1;
        Going {
            volume: self,
            name,
            gone: false,
        }
    }

    /// The kernel asked for a rename, and moves what it keeps itself.
    pub(crate) fn moving(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) {
        self.kept.couple(from, to);
    }
}

/// A request of the kernel that takes an entry away.
pub(crate) struct Going<'a> {
    volume: &'a Volume,
    name: Name,
    pub gone: bool,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut noted = self.volume.kept.lock();
        if let Some(requests) = noted.going.get_mut(&self.name) {
            *requests -= 1;
            if *requests == 0 {
                noted.going.remove(&self.name);
            }
        }
        if self.gone {
            return;
        }
        // It did not go, or nobody knows; what changed meanwhile made no notice.
        noted.entries.remove(&self.name);
        drop(noted);
        let dir = self.name.0;
        self.volume.tell_lost(&Lost {
            entries: vec![Some(dir)],
            ..Lost::default()
        });
    }
}

/// Whether these are the agreed attributes of something whose attributes change by commands alone.
fn is_exact(state: &State, attr: &Attr) -> bool {
    state.is_clean_file(attr.ino) && state.inode(attr.ino).is_ok_and(|inode| inode.attr == *attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_kept_makes_a_notice_and_only_once() {
        let kept = Kept::default();
        kept.lock().note_attr(Ino(5), soon());
        kept.lock().note_entry((Ino(1), b"a".to_vec()), soon());
        let change = |event: Event| {
            let mut lost = Lost::default();
            kept.lock().changed(&event, false, &mut lost);
            lost
        };
        let entry = |name: &[u8]| Event::Entry {
            parent: Ino(1),
            name: name.to_vec(),
        };
        assert_eq!(change(Event::Inode(Ino(6))), Lost::default());
        assert_eq!(change(entry(b"b")), Lost::default());
        let given = (Ino(5), Instant::now());
        assert_eq!(change(Event::Writers(Ino(5))).attrs, [given]);
        assert_eq!(change(Event::Data(Ino(5))), Lost::default());
        assert_eq!(change(entry(b"a")).entries, [Some(Ino(1))]);
        assert_eq!(change(entry(b"a")), Lost::default());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_kernel_takes_away_itself_makes_no_notice_unless_somebody_else_did_it() {
        for (own, notice) in [(true, 0), (false, 1)] {
            let mut noted = Noted::default();
            let name = (Ino(1), b"a".to_vec());
            noted.note_entry(name.clone(), soon());
            noted.going.insert(name, 1);
            let mut lost = Lost::default();
            let event = Event::Entry {
                parent: Ino(1),
                name: b"a".to_vec(),
            };
            noted.changed(&event, own, &mut lost);
            assert_eq!((lost.entries.len(), noted.entries.len()), (notice, 0));
        }
    }

    /// A kernel to which nothing gets through.
    #[derive(Default)]
    struct Deaf(Mutex<Vec<Ino>>);

    impl KernelCache for Deaf {
        fn invalidate_pages(&self, _: Ino) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
        fn invalidate_attr(&self, _: Ino, _: Instant) {}
        fn invalidate_entries(&self, _: Option<Ino>) {}
        fn keeps_entries(&self) -> bool {
            true
        }
        fn wake(&self, _: u64) {}
        fn settled(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
        fn forget_acls(&self, ino: Ino) {
            self.0.lock().unwrap().push(ino);
        }
        fn forgets_acls(&self, ino: Ino) -> bool {
            self.0.lock().unwrap().contains(&ino)
        }
    }

    #[test]
    fn lists_that_an_earlier_worker_may_have_shown_are_told_once_and_not_trusted_before() {
        let kernel = Deaf::default();
        let mut acls = Acls::default();
        assert!(acls.are_known(Ino(5), &kernel), "a mount of its own");
        acls.doubted_but = Some(BTreeSet::new());
        assert!(!acls.are_known(Ino(5), &kernel));
        assert!(!acls.are_known(Ino(5), &kernel), "it is on its way");
        assert_eq!(*kernel.0.lock().unwrap(), [Ino(5)]);
        kernel.0.lock().unwrap().clear();
        assert!(acls.are_known(Ino(5), &kernel));
        assert!(!acls.are_known(Ino(6), &kernel));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_moved_is_kept_under_both() {
        let kept = Kept::default();
        kept.lock().note_entry((Ino(1), b"a".to_vec()), soon());
        kept.couple((Ino(1), b"a"), (Ino(2), b"b"));
        kept.couple((Ino(1), b"c"), (Ino(2), b"d"));
        assert_eq!(kept.lock().entries.len(), 2);
        let mut lost = Lost::default();
        let event = Event::Entry {
            parent: Ino(2),
            name: b"b".to_vec(),
        };
        kept.lock().changed(&event, true, &mut lost);
        assert_eq!(lost.entries, [Some(Ino(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_noted_than_the_limit_and_what_ended_makes_room() {
        let mut noted = Noted::default();
        for ino in 0..KEPT_MAX as u64 {
            assert!(noted.note_attr(Ino(ino), soon()));
        }
        assert!(!noted.note_attr(Ino(u64::MAX), soon()));
        assert!(noted.note_attr(Ino(3), soon()), "known");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(noted.note_attr(Ino(u64::MAX), soon()));
        assert_eq!(noted.attrs.len(), 1);
    }
}
