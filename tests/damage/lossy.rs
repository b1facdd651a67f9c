//! A disk whose power can be cut, mounted through FUSE: what a member wrote and did not sync is gone then, or torn. POSIX
//! read strictly: bytes and length are safe after `fsync` of the file, names after `fsync` of their folder, a rename too.
//! All of it is in memory, page by page; the same seed tears the same way.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

const PAGE: u64 = 4096;
const ROOT: u64 = 1;
const TTL: Duration = Duration::from_secs(1);
const GENERATION: Generation = Generation(0);
/// Blocks that the disk says it has, and has free.
const BLOCKS: u64 = 1 << 24;

type Page = [u8; PAGE as usize];
type Names = BTreeMap<OsString, u64>;

/// Content as the machine sees it, and as a power cut leaves it.
#[derive(Default)]
struct Content {
    now: BTreeMap<u64, Box<Page>>,
    safe: BTreeMap<u64, Box<Page>>,
    len: u64,
    safe_len: u64,
    /// Pages that may differ.
    dirty: BTreeSet<u64>,
}

impl Content {
    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.len.min(offset + len);
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let some = (PAGE - at % PAGE).min(end - at) as usize;
            match self.now.get(&page) {
                Some(bytes) => out.extend_from_slice(&bytes[from..from + some]),
                None => out.resize(out.len() + some, 0),
            }
            at += some as u64;
        }
        out
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let (part, more) = rest.split_at(rest.len().min(PAGE as usize - from));
            let whole = self.now.entry(page).or_insert_with(|| Box::new([0; _]));
            whole[from..from + part.len()].copy_from_slice(part);
            self.dirty.insert(page);
            at += part.len() as u64;
            rest = more;
        }
        self.len = self.len.max(at);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let gone = self.now.split_off(&len.div_ceil(PAGE));
            self.dirty.extend(gone.into_keys());
            if let Some(page) = self.now.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
                self.dirty.insert(len / PAGE);
            }
        }
        self.len = len;
    }

    fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            copy(&self.now, &mut self.safe, page);
        }
        self.safe_len = self.len;
    }

    /// Pages and the length that `kept` says come through, all others are as they were at the last sync.
    fn cut(&mut self, mut kept: impl FnMut() -> bool) {
        for page in std::mem::take(&mut self.dirty) {
            match kept() {
                true => copy(&self.now, &mut self.safe, page),
                false => copy(&self.safe, &mut self.now, page),
            }
        }
        if !kept() {
            let len = self.safe_len;
            self.set_len(len);
        }
        self.sync();
    }
}

fn copy(from: &BTreeMap<u64, Box<Page>>, to: &mut BTreeMap<u64, Box<Page>>, page: u64) {
    match from.get(&page) {
        Some(bytes) => to.insert(page, bytes.clone()),
        None => to.remove(&page),
    };
}

enum Body {
    Folder { now: Names, safe: Names },
    File(Content),
    Socket,
}

struct Inode {
    mode: u32,
    owner: (u32, u32),
    time: SystemTime,
    body: Body,
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    last: u64,
    off: bool,
    syncs: u64,
}

/// The disk of one machine; clones are the same one.
#[derive(Clone, Default)]
pub struct LossyDisk(Arc<Mutex<State>>);

impl State {
    fn inode(&mut self, ino: u64) -> Result<&mut Inode, Errno> {
        match self.off {
            true => Err(Errno::EIO),
            false => self.inodes.get_mut(&ino).ok_or(Errno::ENOENT),
        }
    }

    fn names(&mut self, folder: INodeNo) -> Result<&mut Names, Errno> {
        match &mut self.inode(folder.0)?.body {
            Body::Folder { now, .. } => Ok(now),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn content(&mut self, ino: INodeNo) -> Result<&mut Content, Errno> {
        match &mut self.inode(ino.0)?.body {
            Body::File(content) => Ok(content),
            _ => Err(Errno::EINVAL),
        }
    }

    fn attr(&mut self, ino: u64) -> Result<FileAttr, Errno> {
        let inode = self.inode(ino)?;
        let (kind, size) = match &inode.body {
            Body::Folder { .. } => (FileType::Directory, 0),
            Body::File(content) => (FileType::RegularFile, content.len),
            Body::Socket => (FileType::Socket, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: inode.time,
            mtime: inode.time,
            ctime: inode.time,
            crtime: inode.time,
            kind,
            perm: inode.mode as u16 & 0o7777,
            nlink: 1,
            uid: inode.owner.0,
            gid: inode.owner.1,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn make(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        body: Body,
    ) -> Result<FileAttr, Errno> {
        let ino = self.last.max(ROOT) + 1;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.names(parent)?.insert(name.to_owned(), ino);
        self.last = ino;
        self.inodes.insert(ino, Inode::new(mode, body));
        self.attr(ino)
    }

    fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let ino = *self.names(from.0)?.get(from.1).ok_or(Errno::ENOENT)?;
        self.names(to.0)?.insert(to.1.to_owned(), ino);
        if from != to {
            self.names(from.0)?.remove(from.1);
        }
        Ok(())
    }

    fn sync_names(&mut self, ino: INodeNo) -> Result<(), Errno> {
        match &mut self.inode(ino.0)?.body {
            Body::Folder { now, safe } => safe.clone_from(now),
            _ => return Err(Errno::ENOTDIR),
        }
        Ok(())
    }

    fn cut_power(&mut self, torn: Option<u64>) {
        let mut chance = torn.map(|seed| seed | 1);
        let mut kept = || {
            let Some(state) = &mut chance else {
                return false;
            };
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            state.count_ones().is_multiple_of(2)
        };
        for inode in self.inodes.values_mut() {
            match &mut inode.body {
                Body::Folder { now, safe } => now.clone_from(safe),
                Body::File(content) => content.cut(&mut kept),
                Body::Socket => {}
            }
        }
        // What no name leads to is gone; sockets belong to a process that is.
        let bodies = self.inodes.values().map(|inode| &inode.body);
        let names = bodies.filter_map(|body| match body {
            Body::Folder { now, .. } => Some(now.values().copied()),
            _ => None,
        });
        let named: BTreeSet<u64> = names.flatten().chain([ROOT]).collect();
        self.inodes.retain(|ino, _| named.contains(ino));
    }
}

impl Inode {
    fn new(mode: u32, body: Body) -> Self {
        Self {
            mode,
            owner: (0, 0),
            time: SystemTime::now(),
            body,
        }
    }
}

impl Body {
    fn folder() -> Self {
        Self::Folder {
            now: Names::new(),
            safe: Names::new(),
        }
    }
}

impl LossyDisk {
    pub fn new() -> Self {
        let disk = Self::default();
        let root = Inode::new(0o755, Body::folder());
        disk.state().inodes.insert(ROOT, root);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mount(&self, at: &Path) -> BackgroundSession {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("hydfs-test-disk".into())];
        config.n_threads = Some(2);
        fuser::spawn_mount(self.clone(), at, &config).expect("the test's disk is mounted")
    }

    /// From now on nothing reaches the disk any more; every call fails.
    pub fn power_off(&self) {
        self.state().off = true;
    }

    /// What was not synced is gone; with a seed, any of its pages may be there.
    pub fn power_on(&self, torn: Option<u64>) {
        let mut state = self.state();
        state.cut_power(torn);
        state.off = false;
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

/// Answers with what a closure says, one way or the other.
macro_rules! answer {
    ($reply:expr, $result:expr, $value:pat => $good:expr) => {
        #[allow(clippy::redundant_closure_call, reason = "its body may use `?`")]
        match (|| $result)() {
            Ok($value) => $good,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for LossyDisk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        answer!(reply, {
            let ino = *state.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
            state.attr(ino)
        }, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let mut state = self.state();
        answer!(reply, state.attr(ino.0), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        answer!(reply, {
            if let Some(size) = size {
                state.content(ino)?.set_len(size);
            }
            let inode = state.inode(ino.0)?;
            inode.mode = mode.unwrap_or(inode.mode);
            inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
            state.attr(ino.0)
        }, attr => reply.attr(&TTL, &attr));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let body = match mode & libc::S_IFMT {
            libc::S_IFSOCK => Body::Socket,
            _ => Body::File(Content::default()),
        };
        let mut state = self.state();
        answer!(reply, state.make(parent, name, mode, body), attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let mut state = self.state();
        answer!(reply, state.make(parent, name, mode, Body::folder()), attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        answer!(reply, state.names(parent)?.remove(name).ok_or(Errno::ENOENT), _ => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let mut state = self.state();
        answer!(reply, state.rename((parent, name), (to, to_name)), () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.state();
        answer!(reply, state.inode(ino.0).map(|_| ()), () => reply.opened(FileHandle(0), FopenFlags::empty()));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.state();
        let body = Body::File(Content::default());
        answer!(reply, state.make(parent, name, mode, body), attr => {
            reply.created(&TTL, &attr, GENERATION, FileHandle(0), FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        answer!(reply, Ok(state.content(ino)?.read(offset, size.into())), bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        answer!(reply, {
            state.content(ino)?.write(offset, data);
            Ok(())
        }, () => reply.written(data.len() as u32));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        state.syncs += 1;
        answer!(reply, {
            state.content(ino)?.sync();
            Ok(())
        }, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        answer!(reply, state.sync_names(ino), () => reply.ok());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut state = self.state();
        let names = match state.names(ino) {
            Ok(names) => names.clone(),
            Err(errno) => return reply.error(errno),
        };
        for (at, (name, ino)) in (1..).zip(&names).skip(offset as usize) {
            let Ok(attr) = state.attr(*ino) else { continue };
            if reply.add(attr.ino, at, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.state();
        answer!(reply, {
            let content = state.content(ino)?;
            content.len = content.len.max(offset + length);
            Ok(())
        }, () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(
            BLOCKS,
            BLOCKS,
            BLOCKS,
            BLOCKS,
            BLOCKS,
            PAGE as u32,
            255,
            PAGE as u32,
        );
    }
}
