//! What a [`crate::MemDisk`] is made of: files as sparse pages, each in two versions, what a running machine sees
//! and what a power cut leaves. Pure data: the same seed and the same calls give the same bytes.

use crate::Space;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

pub(crate) const PAGE_BYTES: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// What a process that is killed has written whole or not at all. In fact it is a page.
const WORD_BYTES: u64 = 8;

type Page = [u8; PAGE_BYTES];

/// How a machine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: all it wrote stays.
    Kill,
    /// The power fails: everything that was not synced is gone.
    PowerCut,
    /// The power fails: of what was not synced any part may be there, sector by sector and name by name, by the seed.
    PowerCutTorn,
}

/// A call that a fault may hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOp {
    Read,
    Write,
    Sync,
    Allocate,
    Open,
}

/// An error to come.
#[derive(Debug, Clone)]
pub struct Fault {
    pub op: DiskOp,
    /// Only paths that contain this.
    pub path: String,
    /// Calls that still succeed before.
    pub skip: u32,
    /// Calls that fail then.
    pub times: u32,
    /// As in errno(3): `libc::EIO`, `libc::ENOSPC`.
    pub errno: i32,
}

/// Content of a file. Absent pages are zeros.
#[derive(Debug, Clone, Default)]
struct Image {
    pages: BTreeMap<u64, Arc<Page>>,
    len: u64,
}

/// A file.
#[derive(Debug, Clone, Default)]
struct Inode {
    path: String,
    now: Image,
    safe: Image,
    /// Pages that differ, or may.
    dirty: BTreeSet<u64>,
    /// Pages whose write-back failed: a running machine sees them, calls them clean, and never writes them again by itself.
    lost: BTreeSet<u64>,
    /// Shortest length since the last sync: a cut is one step of the file system's own journal, all or nothing.
    cut: Option<u64>,
    reserved: u64,
    handles: u32,
}

/// All files of one disk.
#[derive(Debug)]
pub(crate) struct Medium {
    rng: SmallRng,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    safe_names: BTreeMap<String, u64>,
    dirs: BTreeSet<String>,
    /// Raised by each crash: handles of earlier lives are dead.
    pub life: u64,
    pub capacity: Option<u64>,
    pub faults: Vec<Fault>,
    /// Changes until the power goes; `None` for never.
    pub changes_left: Option<u64>,
    pub changes: u64,
    /// The call that was cut off by the end of `changes_left` has been.
    stopped: bool,
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Image {
    fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES as u64) as usize;
            let count = (PAGE_BYTES - within).min(len - done);
            match self.pages.get(&(at / PAGE_BYTES as u64)) {
                Some(page) => {
                    buf[done..done + count].copy_from_slice(&page[within..within + count])
                }
                None => buf[done..done + count].fill(0),
            }
            done += count;
        }
        len
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        Arc::make_mut(
            self.pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES])),
        )
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let count = (PAGE_BYTES - within).min(bytes.len() - done);
            self.now.page_mut(page)[within..within + count]
                .copy_from_slice(&bytes[done..done + count]);
            self.dirty.insert(page);
            self.lost.remove(&page);
            done += count;
        }
        self.now.len = self.now.len.max(offset + bytes.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.now.len {
            self.cut = Some(self.cut.map_or(len, |cut| cut.min(len)));
            let (page, within) = (len / PAGE_BYTES as u64, (len % PAGE_BYTES as u64) as usize);
            let gone = self.now.pages.split_off(&(page + u64::from(within > 0)));
            self.dirty.extend(gone.keys());
            self.lost.split_off(&(page + u64::from(within > 0)));
            if within > 0 && self.now.pages.contains_key(&page) {
                self.now.page_mut(page)[within..].fill(0);
                self.dirty.insert(page);
            }
            self.reserved = self.reserved.min(len);
        }
        self.now.len = len;
    }

    /// As Linux has it: an error of writing back is told once, and the pages are clean after it.
    fn fail_sync(&mut self) {
        self.lost.append(&mut self.dirty);
    }

    /// The machine lets go of clean pages as it likes: those that were lost show what the disk has.
    fn reclaim(&mut self) {
        for page in std::mem::take(&mut self.lost) {
            match self.safe.pages.get(&page) {
                Some(bytes) => self.now.pages.insert(page, Arc::clone(bytes)),
                None => self.now.pages.remove(&page),
            };
        }
    }

    fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            match self.now.pages.get(&page) {
                Some(bytes) => self.safe.pages.insert(page, Arc::clone(bytes)),
                None => self.safe.pages.remove(&page),
            };
        }
        self.safe.len = self.now.len;
        self.cut = None;
    }

    /// Leaves a part of what was not synced.
    fn tear(&mut self, rng: &mut SmallRng) {
        let mut len = if rng.random() {
            self.now.len
        } else {
            self.safe.len
        };
        if let Some(cut) = self.cut.take() {
            if rng.random() {
                // The cut came through: what was behind it is gone, whatever was written there since may be there.
                let mut safe = Self {
                    now: self.safe.clone(),
                    ..Self::default()
                };
                safe.set_len(cut.min(safe.now.len));
                self.safe = safe.now;
                len = if rng.random() { self.now.len } else { cut };
            } else {
                let _lost = self.dirty.split_off(&(cut / PAGE_BYTES as u64));
                len = self.safe.len;
            }
        }
        for page in std::mem::take(&mut self.dirty) {
            let zeros = Arc::new([0; PAGE_BYTES]);
            let now = self.now.pages.get(&page).unwrap_or(&zeros);
            let mut mixed = **self.safe.pages.get(&page).unwrap_or(&zeros);
            let whole = rng.random_range(0..3u8);
            for (at, sector) in mixed.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                if whole == 1 || (whole == 2 && rng.random()) {
                    sector.copy_from_slice(&now[at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES]);
                }
            }
            self.safe.pages.insert(page, Arc::new(mixed));
        }
        self.now = self.safe.clone();
        self.now.len = self.now.len.max(len);
        self.set_len(len);
        self.dirty.clear();
        self.cut = None;
        self.safe = self.now.clone();
    }

    fn charge(&self) -> u64 {
        (self.now.pages.len() as u64 * PAGE_BYTES as u64).max(self.reserved)
    }
}

impl Medium {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            safe_names: BTreeMap::new(),
            dirs: BTreeSet::from([String::new()]),
            life: 0,
            capacity: None,
            faults: Vec::new(),
            changes_left: None,
            changes: 0,
            stopped: false,
        }
    }

    /// A copy without limits and faults; nobody has a file open in it.
    pub fn fork(&self) -> Self {
        let mut inodes = self.inodes.clone();
        inodes.values_mut().for_each(|inode| inode.handles = 0);
        Self {
            rng: self.rng.clone(),
            inodes,
            names: self.names.clone(),
            safe_names: self.safe_names.clone(),
            dirs: self.dirs.clone(),
            next_inode: self.next_inode,
            ..Self::new(0)
        }
    }

    /// Counts a change; an error once the power is gone.
    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.changes_left {
            *left = left.checked_sub(1).ok_or_else(|| errno(libc::EIO))?;
        }
        self.changes += 1;
        Ok(())
    }

    fn fault(&mut self, op: DiskOp, path: &str) -> io::Result<()> {
        let Some(fault) = self
            .faults
            .iter_mut()
            .find(|f| f.op == op && f.times > 0 && path.contains(&f.path))
        else {
            return Ok(());
        };
        if fault.skip > 0 {
            fault.skip -= 1;
            return Ok(());
        }
        fault.times -= 1;
        Err(errno(fault.errno))
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| errno(libc::EBADF))
    }

    fn fault_inode(&mut self, op: DiskOp, id: u64) -> io::Result<()> {
        let path = self.inode(id)?.path.clone();
        self.fault(op, &path)
    }

    pub fn open(&mut self, path: &str, create: bool) -> io::Result<u64> {
        self.fault(DiskOp::Open, path)?;
        let id = match self.names.get(path) {
            Some(&id) => id,
            None if create && self.dirs.contains(parent(path)) => {
                self.change()?;
                let id = self.next_inode;
                self.next_inode += 1;
                self.names.insert(path.into(), id);
                self.inodes.insert(
                    id,
                    Inode {
                        path: path.into(),
                        ..Inode::default()
                    },
                );
                id
            }
            None => return Err(errno(libc::ENOENT)),
        };
        self.inode(id)?.handles += 1;
        Ok(id)
    }

    pub fn close(&mut self, id: u64) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handles -= 1;
            self.collect(id);
        }
    }

    fn collect(&mut self, id: u64) {
        let Some(inode) = self.inodes.get(&id) else {
            return;
        };
        let named = [&self.names, &self.safe_names]
            .iter()
            .any(|names| names.get(&inode.path) == Some(&id));
        if !named && inode.handles == 0 {
            self.inodes.remove(&id);
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        self.names.contains_key(path) || self.dirs.contains(path)
    }

    pub fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        if !self.dirs.contains(dir) {
            return Err(errno(libc::ENOENT));
        }
        let all = self
            .names
            .keys()
            .chain(self.dirs.iter().filter(|d| !d.is_empty()));
        let inside = all.filter(|path| parent(path) == dir);
        let names: BTreeSet<_> = inside
            .filter_map(|path| path.rsplit('/').next())
            .map(str::to_owned)
            .collect();
        Ok(names.into_iter().collect())
    }

    pub fn create_dir_all(&mut self, dir: &str) -> io::Result<()> {
        self.change()?;
        let mut at = dir;
        while !at.is_empty() {
            self.dirs.insert(at.into());
            at = parent(at);
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        self.change()?;
        let id = self.names.remove(path).ok_or_else(|| errno(libc::ENOENT))?;
        self.collect(id);
        Ok(())
    }

    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        let id = self.names.remove(from).ok_or_else(|| errno(libc::ENOENT))?;
        self.safe_names.remove(from);
        let over = [
            self.names.insert(to.into(), id),
            self.safe_names.insert(to.into(), id),
        ];
        self.inode(id)?.path = to.into();
        over.into_iter().flatten().for_each(|id| self.collect(id));
        self.sync_names(parent(from));
        self.sync_names(parent(to));
        Ok(())
    }

    pub fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        self.change()?;
        self.fault(DiskOp::Sync, dir)?;
        self.sync_names(dir);
        Ok(())
    }

    fn sync_names(&mut self, dir: &str) {
        let mut old = Vec::new();
        self.safe_names.retain(|path, id| {
            let inside = parent(path) == dir;
            if inside {
                old.push(*id);
            }
            !inside
        });
        let new = self.names.iter().filter(|(path, _)| parent(path) == dir);
        self.safe_names
            .extend(new.map(|(path, &id)| (path.clone(), id)));
        old.into_iter().for_each(|id| self.collect(id));
    }

    pub fn read(&mut self, id: u64, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.changes_left == Some(0) {
            return Err(errno(libc::EIO));
        }
        self.fault_inode(DiskOp::Read, id)?;
        Ok(self.inode(id)?.now.read(buf, offset))
    }

    pub fn write(&mut self, id: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.change() {
            // The call during which the machine stops got some way.
            if !std::mem::replace(&mut self.stopped, true) {
                let some = self.rng.random_range(0..=bytes.len());
                let odd = ((offset + some as u64) % WORD_BYTES) as usize;
                let some = if some < bytes.len() {
                    some.saturating_sub(odd)
                } else {
                    some
                };
                self.inode(id)?.write(&bytes[..some], offset);
            }
            return Err(error);
        }
        self.fault_inode(DiskOp::Write, id)?;
        self.room(id, offset + bytes.len() as u64, bytes.len() as u64)?;
        self.inode(id)?.write(bytes, offset);
        Ok(())
    }

    /// Refuses what does not fit. Pages already there or reserved cost nothing.
    fn room(&mut self, id: u64, end: u64, bytes: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        let inode = self.inode(id)?;
        let more = if end <= inode.reserved { 0 } else { bytes };
        if more > 0 && self.used() + more > capacity {
            Err(errno(libc::ENOSPC))
        } else {
            Ok(())
        }
    }

    pub fn sync(&mut self, id: u64) -> io::Result<()> {
        self.change()?;
        let fault = self.fault_inode(DiskOp::Sync, id);
        let inode = self.inode(id)?;
        match fault {
            Ok(()) => inode.sync(),
            Err(_) => inode.fail_sync(),
        }
        fault
    }

    pub fn allocate(&mut self, id: u64, len: u64) -> io::Result<()> {
        self.change()?;
        self.fault_inode(DiskOp::Allocate, id)?;
        let more = len.saturating_sub(self.inode(id)?.charge());
        self.room(id, len, more)?;
        let inode = self.inode(id)?;
        inode.reserved = inode.reserved.max(len);
        inode.now.len = inode.now.len.max(len);
        Ok(())
    }

    pub fn set_len(&mut self, id: u64, len: u64) -> io::Result<()> {
        self.change()?;
        self.fault_inode(DiskOp::Write, id)?;
        self.inode(id)?.set_len(len);
        Ok(())
    }

    pub fn len(&mut self, id: u64) -> io::Result<u64> {
        Ok(self.inode(id)?.now.len)
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes
            .iter()
            .filter(|(id, inode)| named.contains(id) || inode.handles > 0)
            .map(|(_, inode)| inode.charge())
            .sum()
    }

    pub fn space(&self) -> Space {
        let total = self.capacity.unwrap_or(1 << 40);
        Space {
            total,
            free: total.saturating_sub(self.used()),
        }
    }

    /// Paths below `dir` that files have now, with their lengths, sorted.
    pub fn files(&self, dir: &str) -> Vec<(String, u64)> {
        let below = |path: &&String| {
            path.strip_prefix(dir)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let names = self.names.iter().filter(|(path, _)| below(path));
        names
            .filter_map(|(path, id)| Some((path.clone(), self.inodes.get(id)?.now.len)))
            .collect()
    }

    /// Flips one bit of a file, unseen by everybody.
    pub fn flip(&mut self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let id = *self.names.get(path).ok_or_else(|| errno(libc::ENOENT))?;
        let inode = self.inode(id)?;
        for image in [&mut inode.now, &mut inode.safe] {
            if offset >= image.len {
                continue;
            }
            image.page_mut(offset / PAGE_BYTES as u64)[(offset % PAGE_BYTES as u64) as usize] ^=
                1 << bit;
        }
        Ok(())
    }

    pub fn crash(&mut self, how: Crash) {
        self.life += 1;
        self.changes_left = None;
        self.stopped = false;
        if how == Crash::Kill {
            let rng = &mut self.rng;
            let lost = self.inodes.values_mut().filter(|one| !one.lost.is_empty());
            lost.filter(|_| rng.random()).for_each(Inode::reclaim);
        } else {
            self.lose_names(how);
            for inode in self.inodes.values_mut() {
                match how {
                    Crash::PowerCutTorn => inode.tear(&mut self.rng),
                    _ => {
                        inode.now = inode.safe.clone();
                        inode.dirty.clear();
                        inode.cut = None;
                    }
                }
                inode.lost.clear();
                inode.reserved = inode.reserved.min(inode.now.len);
            }
        }
        self.inodes.values_mut().for_each(|inode| inode.handles = 0);
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.safe_names.values())
            .copied()
            .collect();
        self.inodes.retain(|id, _| named.contains(id));
    }

    fn lose_names(&mut self, how: Crash) {
        let all: BTreeSet<String> = self
            .names
            .keys()
            .chain(self.safe_names.keys())
            .cloned()
            .collect();
        for path in all {
            let kept = how == Crash::PowerCutTorn && self.rng.random();
            let id = if kept {
                self.names.get(&path)
            } else {
                self.safe_names.get(&path)
            }
            .copied();
            for names in [&mut self.names, &mut self.safe_names] {
                match id {
                    Some(id) => names.insert(path.clone(), id),
                    None => names.remove(&path),
                };
            }
        }
    }
}
