//! `MemoryFs`: a whole file system in memory. It is what the adapter is tested over, and the model that
//! other file systems are compared with, so it prefers the plain way to the fast one.
//!
//! Permissions are the kernel's business, set-id bits the adapter's. `atime` changes only on request. Times of
//! a file never stand still or go back, except where they are set.

mod content;
mod files;
mod tree;

use crate::{
    Answer, Caller, Change, FileSystem, FsError, Handle, How, Opened, Request, SetTime, StatFs,
};
use content::{BLOCK, Content};
use hydfs_types::{
    BoxFuture, Clock, FileKind, Ino, NAME_BYTES_MAX, SYMLINK_BYTES_MAX, SystemClock, Time,
    XATTR_BYTES_MAX,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tree::{Body, Directory, Move, Node, Tree};

/// Bytes of all extended attributes of one inode, names included.
const XATTRS_BYTES_MAX: usize = 256 << 10;
/// Bytes of all files, unless told otherwise.
const CAPACITY: u64 = 4 << 30;
/// Inodes at most.
const INODES_MAX: u64 = 1 << 20;

/// A file system in memory.
pub struct MemoryFs {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

struct State {
    tree: Tree,
    open: BTreeMap<Handle, Open>,
    last_handle: Handle,
    capacity: u64,
}

struct Open {
    ino: Ino,
    how: How,
}

impl Default for MemoryFs {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock), CAPACITY)
    }
}

impl MemoryFs {
    /// An empty one with room for `capacity` bytes.
    pub fn new(clock: Arc<dyn Clock>, capacity: u64) -> Self {
        let tree = Tree::new(clock.now());
        let state = State {
            tree,
            open: BTreeMap::new(),
            last_handle: 0,
            capacity,
        };
        Self {
            state: Mutex::new(state),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    pub fn apply(&self, caller: Caller, request: &Request) -> Result<Answer, FsError> {
        let now = self.clock.now();
        self.lock().apply(caller, request, now)
    }

    /// Inodes and open handles there are, to see that nothing leaks.
    pub fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.tree.nodes.len(), state.open.len())
    }
}

impl FileSystem for MemoryFs {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        let answer = self.apply(caller, &request);
        Box::pin(async move {
            // Others get a turn, as if there were something to wait for.
            tokio::task::yield_now().await;
            answer
        })
    }

    /// Names and attributes at once, the rest through tasks: both ways are there to be tested.
    fn call_now(&self, caller: Caller, request: &Request) -> Option<Result<Answer, FsError>> {
        use Request::{Forget, GetAttr, GetXattr, Lookup, ReadDir, ReadLink, StatFs};
        let now = matches!(
            request,
            Lookup { .. }
                | Forget { .. }
                | GetAttr { .. }
                | ReadLink { .. }
                | ReadDir { .. }
                | StatFs
                | GetXattr { .. }
        );
        now.then(|| self.apply(caller, request))
    }
}

impl State {
    fn apply(&mut self, caller: Caller, request: &Request, now: Time) -> Result<Answer, FsError> {
        use Request as R;
        match request {
            R::Lookup { parent, name } => {
                let found = self.tree.find(*parent, name)?.ok_or(FsError::NotFound)?;
                self.attr(found)
            }
            R::Forget { .. } => Ok(Answer::Done),
            R::GetAttr { ino, .. } => self.attr(*ino),
            R::SetAttr { ino, set, .. } => self.set_attr(*ino, set, now),
            R::ReadLink { ino } => match &self.tree.node(*ino)?.body {
                Body::Symlink(target) => Ok(Answer::Target(target.clone())),
                _ => Err(FsError::Invalid("not a symbolic link".into())),
            },
            R::Make {
                parent,
                name,
                kind,
                mode,
                umask,
                rdev,
                target,
            } => {
                let body = body_of(*kind, target)?;
                let mode = if *kind == FileKind::Symlink {
                    *mode
                } else {
                    mode & !umask
                };
                let ino = self.make(caller, (*parent, name), (*kind, mode, *rdev), body, now)?;
                self.attr(ino)
            }
            R::Link { ino, parent, name } => {
                self.tree.link(*ino, *parent, name, now)?;
                self.attr(*ino)
            }
            R::Unlink { parent, name } => self.remove(*parent, name, false, now),
            R::RemoveDir { parent, name } => self.remove(*parent, name, true, now),
            R::Rename {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
            } => {
                let (no_replace, exchange) = (*no_replace, *exchange);
                let how = Move {
                    parent: *parent,
                    name,
                    to_parent: *to_parent,
                    to_name,
                    no_replace,
                    exchange,
                };
                self.tree.rename(&how, now)?;
                Ok(Answer::Done)
            }
            R::Open { ino, how } => self.open_file(*ino, *how, now).map(Answer::Opened),
            R::Create {
                parent,
                name,
                mode,
                umask,
                how,
            } => self.create(caller, *parent, name, mode & !umask, *how, now),
            R::Read {
                ino,
                handle,
                offset,
                len,
            } => self.read(*ino, *handle, *offset, *len),
            R::Write {
                ino,
                handle,
                offset,
                data,
                append,
                ..
            } => self.write(*ino, *handle, (!append).then_some(*offset), data, now),
            R::Flush { ino, handle, .. } | R::Sync { ino, handle } => {
                self.opened(*ino, *handle).map(|_| Answer::Done)
            }
            R::Release { ino, handle } | R::ReleaseDir { ino, handle } => {
                self.release(*ino, *handle)
            }
            R::OpenDir { ino } => {
                self.tree.directory(*ino)?;
                self.hold(*ino, How::default()).map(Answer::Opened)
            }
            R::ReadDir {
                ino,
                handle,
                cookie,
                limit,
                ..
            } => {
                self.opened(*ino, *handle)?;
                self.tree.list(*ino, *cookie, *limit).map(Answer::Entries)
            }
            R::Poll { .. } => Ok(Answer::Ready(true)),
            R::StatFs => Ok(Answer::StatFs(self.statfs())),
            R::GetXattr { ino, name } => {
                let value = self
                    .tree
                    .node(*ino)?
                    .xattrs
                    .get(name)
                    .ok_or(FsError::NoAttribute)?;
                Ok(Answer::Value(value.clone()))
            }
            R::ListXattr { ino } => Ok(Answer::Names(
                self.tree.node(*ino)?.xattrs.keys().cloned().collect(),
            )),
            R::SetXattr {
                ino,
                name,
                value,
                create,
                replace,
            } => self.set_xattr(*ino, (name, value), (*create, *replace), now),
            R::RemoveXattr { ino, name } => {
                self.tree
                    .node_mut(*ino)?
                    .xattrs
                    .remove(name)
                    .ok_or(FsError::NoAttribute)?;
                self.tree.changed(*ino, now)?;
                Ok(Answer::Done)
            }
            R::Allocate {
                ino,
                handle,
                offset,
                len,
                keep_size,
                punch,
            } => self.allocate(*ino, *handle, (*offset, *len), *keep_size, *punch, now),
            R::Copy {
                from,
                from_handle,
                from_offset,
                ino,
                handle,
                offset,
                len,
            } => {
                let (from, to) = (
                    (*from, *from_handle, *from_offset),
                    (*ino, *handle, *offset),
                );
                self.copy(from, to, *len, now)
            }
            R::Seek {
                ino,
                handle,
                offset,
                data,
            } => self.seek(*ino, *handle, *offset, *data),
            R::GetLock { .. } | R::SetLock { .. } | R::Unlock { .. } => {
                Err(FsError::NoLocks("the model has none".into()))
            }
        }
    }

    fn attr(&self, ino: Ino) -> Result<Answer, FsError> {
        Ok(Answer::Attr(self.tree.node(ino)?.attr))
    }

    fn make(
        &mut self,
        caller: Caller,
        (parent, name): (Ino, &[u8]),
        (kind, mode, rdev): (FileKind, u16, u32),
        body: Body,
        now: Time,
    ) -> Result<Ino, FsError> {
        if self.tree.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if self.tree.nodes.len() as u64 >= INODES_MAX {
            return Err(FsError::NoSpace("inodes".into()));
        }
        self.tree.directory_mut(parent)?;
        let above = self.tree.node(parent)?.attr;
        let ino = self.tree.add(kind, body, now);
        let attr = &mut self.tree.node_mut(ino)?.attr;
        (attr.mode, attr.rdev, attr.uid, attr.gid) = (mode & 0o7777, rdev, caller.uid, caller.gid);
        if above.mode & 0o2000 != 0 {
            // A set-group-id directory passes its group on, and to directories the bit too.
            attr.gid = above.gid;
            attr.mode |= if kind == FileKind::Directory {
                0o2000
            } else {
                0
            };
        }
        self.tree.enter(parent, name, ino, now)?;
        Ok(ino)
    }

    fn create(
        &mut self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        how: How,
        now: Time,
    ) -> Result<Answer, FsError> {
        let ino = match self.tree.find(parent, name)? {
            Some(_) if how.exclusive => return Err(FsError::Exists),
            Some(ino) => ino,
            None => self.make(
                caller,
                (parent, name),
                (FileKind::Regular, mode, 0),
                Body::File(Content::default()),
                now,
            )?,
        };
        let opened = self.open_file(ino, how, now)?;
        Ok(Answer::Created(self.tree.node(ino)?.attr, opened))
    }

    fn remove(
        &mut self,
        parent: Ino,
        name: &[u8],
        directory: bool,
        now: Time,
    ) -> Result<Answer, FsError> {
        self.tree.remove(parent, name, directory, now)?;
        Ok(Answer::Done)
    }

    fn hold(&mut self, ino: Ino, how: How) -> Result<Opened, FsError> {
        self.tree.node_mut(ino)?.opens += 1;
        self.last_handle += 1;
        self.open.insert(self.last_handle, Open { ino, how });
        Ok(Opened {
            handle: self.last_handle,
            direct: false,
            mappable: true,
            keep_cache: false,
        })
    }

    fn opened(&self, ino: Ino, handle: Handle) -> Result<&Open, FsError> {
        self.open
            .get(&handle)
            .filter(|open| open.ino == ino)
            .ok_or(FsError::BadHandle)
    }

    fn release(&mut self, ino: Ino, handle: Handle) -> Result<Answer, FsError> {
        self.opened(ino, handle)?;
        self.open.remove(&handle);
        self.tree.node_mut(ino)?.opens -= 1;
        self.tree.collect(ino);
        Ok(Answer::Done)
    }

    fn set_attr(&mut self, ino: Ino, set: &Change, now: Time) -> Result<Answer, FsError> {
        if let Some(size) = set.size {
            self.resize(ino, size, now)?;
        }
        let pick = |wanted: Option<SetTime>, was: Time| match wanted {
            None => was,
            Some(SetTime::Now) => now,
            Some(SetTime::At(at)) => at,
        };
        let attr = &mut self.tree.node_mut(ino)?.attr;
        let cleared = (set.clear_set_id && attr.has_set_id()).then(|| attr.mode_without_set_id());
        let clears_alone = Change {
            clear_set_id: true,
            ..Change::default()
        };
        if *set == clears_alone && cleared.is_none() {
            return self.attr(ino);
        }
        let mode = set.mode.map(|mode| mode & 0o7777).or(cleared);
        attr.mode = mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = pick(set.atime, attr.atime);
        attr.mtime = pick(set.mtime, attr.mtime);
        attr.ctime = now.after(attr.ctime);
        self.attr(ino)
    }

    fn set_xattr(
        &mut self,
        ino: Ino,
        (name, value): (&[u8], &[u8]),
        (create, replace): (bool, bool),
        now: Time,
    ) -> Result<Answer, FsError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(FsError::Invalid("attribute name".into()));
        }
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::TooBig);
        }
        if name.starts_with(b"system.") {
            return Err(FsError::NotSupported("the model has modes alone".into()));
        }
        let Node { xattrs, .. } = self.tree.node_mut(ino)?;
        match xattrs.contains_key(name) {
            true if create => return Err(FsError::Exists),
            false if replace => return Err(FsError::NoAttribute),
            _ => {}
        }
        let others: usize = xattrs
            .iter()
            .filter(|(n, _)| n.as_slice() != name)
            .map(|(n, v)| n.len() + v.len())
            .sum();
        if others + name.len() + value.len() > XATTRS_BYTES_MAX {
            return Err(FsError::NoSpace("extended attributes of one file".into()));
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        self.tree.changed(ino, now)?;
        Ok(Answer::Done)
    }

    fn statfs(&self) -> StatFs {
        let files = self.tree.nodes.len() as u64;
        StatFs {
            block: BLOCK as u32,
            blocks: self.capacity / BLOCK,
            free: self.capacity.saturating_sub(self.tree.stored) / BLOCK,
            files: INODES_MAX,
            files_free: INODES_MAX.saturating_sub(files),
            name_max: NAME_BYTES_MAX as u32,
        }
    }
}

fn body_of(kind: FileKind, target: &[u8]) -> Result<Body, FsError> {
    Ok(match kind {
        FileKind::Regular => Body::File(Content::default()),
        FileKind::Directory => Body::Directory(Directory::default()),
        FileKind::Symlink if target.len() > SYMLINK_BYTES_MAX => return Err(FsError::NameTooLong),
        FileKind::Symlink if target.is_empty() => return Err(FsError::NotFound),
        FileKind::Symlink => Body::Symlink(target.to_vec()),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Body::Special
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{tree::check_name, *};

    #[test]
    fn limits_of_names() {
        assert_eq!(check_name(&[b'x'; 255]), Ok(()));
        assert_eq!(check_name(&[b'x'; 256]), Err(FsError::NameTooLong));
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(matches!(check_name(name), Err(FsError::Invalid(_))));
        }
    }

    #[test]
    fn a_full_one_says_so() {
        let fs = MemoryFs::new(Arc::new(SystemClock), 2 * BLOCK);
        let root = Caller {
            uid: 0,
            gid: 0,
            pid: 0,
            unique: 0,
        };
        let how = How {
            write: true,
            ..How::default()
        };
        let create = Request::Create {
            parent: hydfs_types::ROOT_INO,
            name: b"f".to_vec(),
            mode: 0o644,
            umask: 0,
            how,
        };
        let Ok(Answer::Created(attr, opened)) = fs.apply(root, &create) else {
            panic!()
        };
        let write = |len: usize| Request::Write {
            ino: attr.ino,
            handle: opened.handle,
            offset: 0,
            data: vec![1; len].into(),
            append: true,
            sync: false,
        };
        assert_eq!(fs.apply(root, &write(8_192)), Ok(Answer::Written(8_192)));
        assert!(matches!(
            fs.apply(root, &write(1)),
            Err(FsError::NoSpace(_))
        ));
        let set = Change {
            size: Some(10),
            ..Change::default()
        };
        assert!(
            fs.apply(
                root,
                &Request::SetAttr {
                    ino: attr.ino,
                    handle: None,
                    set
                }
            )
            .is_ok()
        );
        assert_eq!(fs.apply(root, &write(1)), Ok(Answer::Written(1)));
    }
}
