//! Quotas of directories: how many bytes and inodes may be below one, exact when a call is answered.
//!
//! A quota counts each inode below its directory once, and of each file its agreed size and the *room* of its writers: bytes
//! that they were promised in advance and may have answered for, though no merge has shown them yet. A writer keeps its
//! room until it is forgotten, when all that it wrote is in sizes; until then some bytes may count twice, never not at all.
//! So nothing that is answered takes a quota past its limit. Who is refused has other writers' room given back first
//! (`Command::Reclaim`), so nothing is refused that would fit.
//!
//! All names of an inode are below the same quotas: a link or a rename across the border of one is refused, as across
//! file systems, and programs copy instead. Unlinked files that are still open count nowhere.

use crate::{Body, Event, Namespace, State};
use hydfs_types::{CommandError, Incarnation, Ino, Limit, ROOT_INO, Reply, WriterId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most inodes below a directory that is given its first limit: all members count them in one step.
pub const COUNTED_MAX: u64 = 200_000;

/// Of what a reservation leaves free, a writer gets one part in so many in advance.
const SPARE_PARTS: u64 = 16;

/// Limits of one directory, and what is below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub bytes_max: Option<u64>,
    pub inodes_max: Option<u64>,
    pub used: Usage,
}

/// What counts below a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub inodes: u64,
    /// Sizes of files.
    pub bytes: u64,
    /// Room of their writers.
    pub room: u64,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.inodes += other.inodes;
        self.bytes += other.bytes;
        self.room += other.room;
    }

    fn take(&mut self, other: Self) {
        self.inodes -= other.inodes;
        self.bytes -= other.bytes;
        self.room -= other.room;
    }
}

impl Quota {
    /// Bytes that may come on top; `None`: any number.
    fn bytes_free(&self) -> Option<u64> {
        let used = self.used.bytes.saturating_add(self.used.room);
        self.bytes_max.map(|max| max.saturating_sub(used))
    }

    fn inodes_free(&self) -> Option<u64> {
        self.inodes_max
            .map(|max| max.saturating_sub(self.used.inodes))
    }
}

impl Namespace {
    fn quota(&self, dir: Ino) -> Option<&Quota> {
        self.directory(dir).ok()?.quota.as_ref()
    }

    fn quota_mut(&mut self, dir: Ino) -> Option<&mut Quota> {
        match &mut self.inodes.get_mut(&dir)?.body {
            Body::Directory(directory) => directory.quota.as_mut(),
            _ => None,
        }
    }

    /// Directories with a quota that an entry of this directory counts for.
    pub(crate) fn quotas_at(&self, mut dir: Ino) -> Vec<Ino> {
        let mut found = Vec::new();
        if self.quotas == 0 {
            return found;
        }
        while let Ok(directory) = self.directory(dir) {
            found.extend(directory.quota.is_some().then_some(dir));
            if dir == ROOT_INO {
                break;
            }
            dir = directory.parent;
        }
        found
    }

    /// Directories with a quota that an inode counts for: none where it has no name.
    pub(crate) fn quotas_of(&self, ino: Ino) -> Vec<Ino> {
        if self.quotas == 0 {
            return Vec::new();
        }
        let inode = self.inodes.get(&ino);
        let parent = inode.and_then(|inode| inode.names.first());
        parent.map_or_else(Vec::new, |(parent, _)| self.quotas_at(*parent))
    }

    /// Whether some quota limits the bytes of a file.
    pub fn limits_bytes(&self, ino: Ino) -> bool {
        let mut quotas = self.quotas_of(ino).into_iter();
        quotas.any(|dir| self.quota(dir).is_some_and(|one| one.bytes_max.is_some()))
    }

    /// What an inode counts.
    fn usage_of(&self, ino: Ino) -> Usage {
        let Some(inode) = self.inodes.get(&ino) else {
            return Usage::default();
        };
        let (bytes, room) = match &inode.body {
            Body::File(file) => (inode.attr.size, file.room),
            _ => (0, 0),
        };
        Usage {
            inodes: 1,
            bytes,
            room,
        }
    }

    /// Bytes that still fit below all of these; `None`: any number.
    fn bytes_free(&self, quotas: &[Ino]) -> Option<u64> {
        let free = |dir: &Ino| self.quota(*dir).and_then(Quota::bytes_free);
        quotas.iter().filter_map(free).min()
    }

    /// Whether so much more fits below a directory.
    pub(crate) fn fits(&self, quotas: &[Ino], inodes: u64, bytes: u64) -> Result<(), CommandError> {
        for dir in quotas {
            let Some(quota) = self.quota(*dir) else {
                continue;
            };
            if quota.inodes_free().is_some_and(|free| inodes > free) {
                return Err(CommandError::OverQuota(format!(
                    "{} inodes are allowed below inode {dir}",
                    quota.inodes_max.unwrap_or_default()
                )));
            }
            if quota.bytes_free().is_some_and(|free| bytes > free) {
                return Err(CommandError::OverQuota(format!(
                    "{} bytes are allowed below inode {dir}",
                    quota.bytes_max.unwrap_or_default()
                )));
            }
        }
        Ok(())
    }

    /// A file may become this long.
    pub(crate) fn may_reach(&self, ino: Ino, size: u64) -> Result<(), CommandError> {
        let quotas = self.quotas_of(ino);
        match quotas.is_empty() {
            true => Ok(()),
            false => {
                let more = size.saturating_sub(self.inodes[&ino].attr.size);
                self.fits(&quotas, 0, more)
            }
        }
    }

    /// Changes something of an inode that counts, where it is or where it stands.
    pub(crate) fn recount<T>(&mut self, ino: Ino, change: impl FnOnce(&mut Self) -> T) -> T {
        if self.quotas == 0 {
            return change(self);
        }
        let (before, was) = (self.quotas_of(ino), self.usage_of(ino));
        let changed = change(self);
        let (after, is) = (self.quotas_of(ino), self.usage_of(ino));
        for dir in before {
            if let Some(quota) = self.quota_mut(dir) {
                quota.used.take(was);
            }
        }
        for dir in after {
            if let Some(quota) = self.quota_mut(dir) {
                quota.used.add(is);
            }
        }
        changed
    }

    /// Gives a writer another amount of room.
    pub(crate) fn set_room(&mut self, id: WriterId, room: u64) {
        let Some(writer) = self.writers.get_mut(&id) else {
            return;
        };
        let (ino, before) = (writer.ino, std::mem::replace(&mut writer.room, room));
        if before == room {
            return;
        }
        self.recount(ino, |names| {
            let file = names.file_mut(ino);
            file.room = file.room - before + room;
        });
    }

    /// Everything below a directory, counted.
    pub(crate) fn count_below(&self, dir: Ino, most: u64) -> Result<Usage, CommandError> {
        let mut counted = BTreeSet::new();
        let mut used = Usage::default();
        let mut dirs = vec![dir];
        while let Some(dir) = dirs.pop() {
            for entry in self.directory(dir)?.entries.values() {
                if !counted.insert(entry.ino) {
                    continue;
                }
                used.add(self.usage_of(entry.ino));
                if self.is_directory(entry.ino) {
                    dirs.push(entry.ino);
                }
                if used.inodes > most {
                    return Err(CommandError::Invalid(format!(
                        "more than {most} inodes are below it: set quotas before a directory has so many"
                    )));
                }
            }
        }
        let inside = |parent: &Ino| *parent == dir || counted.contains(parent);
        let outside = counted.iter().find(|ino| {
            let names = self.inodes.get(ino).map(|inode| &inode.names);
            names.is_some_and(|names| names.iter().any(|(parent, _)| !inside(parent)))
        });
        match outside {
            None => Ok(used),
            Some(ino) => Err(CommandError::Invalid(format!(
                "inode {ino} has names inside and outside: remove those on one side first (find -inum {ino})"
            ))),
        }
    }
}

impl State {
    /// The quota of a directory.
    pub fn quota_of(&self, dir: Ino) -> Option<&Quota> {
        self.names.quota(dir)
    }

    /// Sets or (with `None`) takes away a limit. What is there already stays, also past the limit. Writers below it end:
    /// the next ones ask for room.
    pub(crate) fn set_quota(
        &mut self,
        dir: Ino,
        limit: Limit,
        most: Option<u64>,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.names.directory(dir)?;
        let had = self.names.quota(dir).copied();
        let mut quota = had.unwrap_or_default();
        match limit {
            Limit::Bytes => quota.bytes_max = most,
            Limit::Inodes => quota.inodes_max = most,
        }
        let kept = quota.bytes_max.is_some() || quota.inodes_max.is_some();
        if had.is_none() && kept {
            quota.used = self.names.count_below(dir, COUNTED_MAX)?;
        }
        self.names.quotas = self.names.quotas - u64::from(had.is_some()) + u64::from(kept);
        if let Body::Directory(directory) = &mut self.names.inode_mut(dir).body {
            directory.quota = kept.then_some(quota);
        }
        if limit == Limit::Bytes && most.is_some() {
            let unknown = |names: &Namespace, id: &WriterId| names.writers[id].room == 0;
            self.fence_below(&[dir], unknown, events);
        }
        self.meta_changed(dir, events);
        Ok(Reply::Done)
    }

    /// Fences open writers of callers below any of these directories, if they are such.
    fn fence_below(
        &mut self,
        dirs: &[Ino],
        such: impl Fn(&Namespace, &WriterId) -> bool,
        events: &mut Vec<Event>,
    ) {
        let below = |ino: Ino| {
            let quotas = self.names.quotas_of(ino);
            quotas.iter().any(|dir| dirs.contains(dir))
        };
        let open = self.names.writers.iter().filter(|(id, writer)| {
            writer.is_open() && writer.job.is_none() && such(&self.names, id) && below(writer.ino)
        });
        let writers: BTreeSet<WriterId> = open.map(|(id, _)| *id).collect();
        self.fence_writers(&writers, events);
    }

    /// Promises a writer that so many bytes more fit, and some to spare. `instead_of`: an ended writer of the same file
    /// gives its room up for it; what it had answered for counts as before.
    pub(crate) fn reserve(
        &mut self,
        id: WriterId,
        bytes: u64,
        spare: u64,
        instead_of: Option<WriterId>,
    ) -> Result<Reply, CommandError> {
        let writer = self.names.writers.get(&id).filter(|one| one.is_open());
        let Some(writer) = writer else {
            return Err(CommandError::Changed);
        };
        let (ino, has) = (writer.ino, writer.room);
        let old = instead_of.and_then(|old| self.names.writers.get(&old));
        let carried = old.filter(|old| old.ino == ino && !old.is_open());
        let carried = carried.map_or(0, |old| old.room);
        let quotas = self.names.quotas_of(ino);
        let free = self.names.bytes_free(&quotas);
        let new = bytes.saturating_sub(carried);
        if free.is_some_and(|free| new > free) {
            self.names.fits(&quotas, 0, new)?;
        }
        let spare = free.map_or(spare, |free| spare.min((free - new) / SPARE_PARTS));
        if let Some(old) = instead_of.filter(|_| carried > 0) {
            self.names.set_room(old, 0);
        }
        self.names.set_room(id, has + bytes + spare);
        Ok(Reply::Reserved(bytes + spare))
    }

    /// Room of fenced writers whose incarnation has ended is free once all that they wrote is in sizes, though what became of
    /// it is kept until their owner returns (R5): no other writer goes on for them.
    pub(crate) fn release_room(&mut self, ino: Ino) {
        let Ok(file) = self.names.regular(ino) else {
            return;
        };
        if file.room == 0 {
            return;
        }
        let segments = || file.segments.values().map(|id| &self.names.segments[id]);
        let waits = |id: &WriterId| {
            segments().any(|one| one.ended.contains_key(id) || one.fenced.contains(id))
        };
        let over = |id: &WriterId| {
            let writer = &self.names.writers[id];
            !self.cluster.alive.contains_key(&writer.incarnation) && !waits(id)
        };
        let over: Vec<WriterId> = file.unread.iter().copied().filter(|id| over(id)).collect();
        over.into_iter().for_each(|id| self.names.set_room(id, 0));
    }

    /// The same for all that an ended incarnation wrote.
    pub(crate) fn release_rooms(&mut self, ended: &BTreeSet<Incarnation>) {
        if self.names.quotas == 0 {
            return;
        }
        let writers = self.names.writers.values();
        let own = writers.filter(|one| one.room > 0 && ended.contains(&one.incarnation));
        let inos: BTreeSet<Ino> = own.map(|writer| writer.ino).collect();
        inos.into_iter().for_each(|ino| self.release_room(ino));
    }

    /// Somebody was refused: writers that hold room below the same quotas as this file end, so that what they do not need
    /// is free again.
    pub(crate) fn reclaim(
        &mut self,
        ino: Ino,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.names.regular(ino)?;
        let quotas = self.names.quotas_of(ino);
        let holds = |names: &Namespace, id: &WriterId| names.writers[id].room > 0;
        self.fence_below(&quotas, holds, events);
        Ok(Reply::Done)
    }

    /// What was written past the new end of a file may have been checked against the old one, and be on its way: it needs
    /// room now, so its writer ends.
    pub(crate) fn fence_shrunk(&mut self, events: &mut Vec<Event>) {
        for ino in std::mem::take(&mut self.shrunk) {
            let Ok(file) = self.names.regular(ino) else {
                continue;
            };
            let own = |id: &&WriterId| self.names.writers[*id].job.is_none();
            let writers = file.writers.iter().filter(own).copied().collect();
            self.fence_writers(&writers, events);
        }
    }

    /// Files below the same quotas as this one that have room.
    pub fn files_with_room(&self, ino: Ino) -> BTreeSet<Ino> {
        let quotas = self.names.quotas_of(ino);
        let shares = |other: Ino| {
            let others = self.names.quotas_of(other);
            others.iter().any(|dir| quotas.contains(dir))
        };
        let writers = self.names.writers.values();
        let holding = writers.filter(|writer| writer.room > 0 && shares(writer.ino));
        holding.map(|writer| writer.ino).collect()
    }
}
