//! The inodes of `MemoryFs` and what moves between directories.

use super::content::Content;
use crate::FsError;
use hydfs_types::{Attr, DirEntry, FileKind, Ino, NAME_BYTES_MAX, ROOT_INO, Time};
use std::collections::BTreeMap;

pub(super) const LINKS_MAX: u32 = 65_000;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub attr: Attr,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
    /// Handles that keep an unlinked inode.
    pub opens: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
    Special,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    pub parent: Ino,
    /// Inode and cookie by name.
    pub entries: BTreeMap<Vec<u8>, (Ino, u64)>,
    pub order: BTreeMap<u64, Vec<u8>>,
    next_cookie: u64,
}

impl Directory {
    pub(super) fn insert(&mut self, name: Vec<u8>, ino: Ino) {
        self.next_cookie += 1;
        self.order.insert(self.next_cookie, name.clone());
        self.entries.insert(name, (ino, self.next_cookie));
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((_, cookie)) = self.entries.remove(name) {
            self.order.remove(&cookie);
        }
    }

    /// Puts another inode below a name that keeps its place.
    fn point(&mut self, name: &[u8], ino: Ino) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.0 = ino;
        }
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    pub nodes: BTreeMap<Ino, Node>,
    /// Bytes held by all files.
    pub stored: u64,
    last_ino: u64,
}

/// A name that may stand in a directory.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        name if name.len() > NAME_BYTES_MAX => Err(FsError::NameTooLong),
        b"" | b"." | b".." => Err(FsError::Invalid("name".into())),
        name if name.iter().any(|b| matches!(b, b'/' | 0)) => Err(FsError::Invalid("name".into())),
        _ => Ok(()),
    }
}

/// Both ends of a rename.
pub(super) struct Move<'a> {
    pub parent: Ino,
    pub name: &'a [u8],
    pub to_parent: Ino,
    pub to_name: &'a [u8],
    pub no_replace: bool,
    pub exchange: bool,
}

impl Tree {
    pub(super) fn new(now: Time) -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            stored: 0,
            last_ino: 0,
        };
        let root = tree.add(
            FileKind::Directory,
            Body::Directory(Directory {
                parent: ROOT_INO,
                ..Directory::default()
            }),
            now,
        );
        debug_assert_eq!(root, ROOT_INO);
        tree
    }

    /// A new inode without a name: mode 0755, owned by root, links as if it had one.
    pub(super) fn add(&mut self, kind: FileKind, body: Body, now: Time) -> Ino {
        self.last_ino += 1;
        let ino = Ino(self.last_ino);
        let (size, nlink) = match &body {
            Body::Symlink(target) => (target.len() as u64, 1),
            Body::Directory(_) => (0, 2),
            _ => (0, 1),
        };
        let attr = Attr {
            ino,
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink,
            rdev: 0,
            size,
            stored: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        self.nodes.insert(
            ino,
            Node {
                attr,
                xattrs: BTreeMap::new(),
                body,
                opens: 0,
            },
        );
        ino
    }

    pub(super) fn node(&self, ino: Ino) -> Result<&Node, FsError> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&ino).ok_or(FsError::Stale)
    }

    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory, FsError> {
        match &self.node(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// A directory that still has a name, to put something into.
    pub(super) fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory, FsError> {
        match self.node_mut(ino)? {
            Node { attr, .. } if attr.kind == FileKind::Directory && attr.nlink == 0 => {
                Err(FsError::NotFound)
            }
            Node {
                body: Body::Directory(directory),
                ..
            } => Ok(directory),
            _ => Err(FsError::NotDirectory),
        }
    }

    pub(super) fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>, FsError> {
        let directory = self.directory(parent)?;
        check_name(name)?;
        Ok(directory.entries.get(name).map(|entry| entry.0))
    }

    fn found(&self, parent: Ino, name: &[u8]) -> Result<Ino, FsError> {
        self.find(parent, name)?.ok_or(FsError::NotFound)
    }

    pub(super) fn is_directory(&self, ino: Ino) -> bool {
        self.nodes
            .get(&ino)
            .is_some_and(|node| node.attr.kind == FileKind::Directory)
    }

    /// Gives an inode a name.
    pub(super) fn enter(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        now: Time,
    ) -> Result<(), FsError> {
        self.directory_mut(parent)?.insert(name.to_vec(), ino);
        if self.is_directory(ino) {
            self.relink(parent, 1)?;
            if let Body::Directory(directory) = &mut self.node_mut(ino)?.body {
                directory.parent = parent;
            }
        }
        self.touched(parent, now)
    }

    /// Takes a name away without a look at what becomes of its inode.
    fn leave(&mut self, parent: Ino, name: &[u8], ino: Ino, now: Time) -> Result<(), FsError> {
        self.directory_mut(parent)?.remove(name);
        if self.is_directory(ino) {
            self.relink(parent, -1)?;
        }
        self.touched(parent, now)
    }

    fn relink(&mut self, ino: Ino, by: i32) -> Result<(), FsError> {
        let attr = &mut self.node_mut(ino)?.attr;
        attr.nlink = attr.nlink.saturating_add_signed(by);
        Ok(())
    }

    /// A directory's entries changed.
    fn touched(&mut self, ino: Ino, now: Time) -> Result<(), FsError> {
        let attr = &mut self.node_mut(ino)?.attr;
        attr.mtime = now.after(attr.mtime);
        attr.ctime = now.after(attr.ctime);
        Ok(())
    }

    pub(super) fn changed(&mut self, ino: Ino, now: Time) -> Result<(), FsError> {
        let attr = &mut self.node_mut(ino)?.attr;
        attr.ctime = now.after(attr.ctime);
        Ok(())
    }

    /// An inode lost a name.
    fn unnamed(&mut self, ino: Ino, now: Time) -> Result<(), FsError> {
        self.changed(ino, now)?;
        let attr = &mut self.node_mut(ino)?.attr;
        attr.nlink = if attr.kind == FileKind::Directory {
            0
        } else {
            attr.nlink - 1
        };
        self.collect(ino);
        Ok(())
    }

    /// Removes an inode that nothing refers to.
    pub(super) fn collect(&mut self, ino: Ino) {
        if self
            .nodes
            .get(&ino)
            .is_some_and(|node| node.attr.nlink == 0 && node.opens == 0)
            && let Some(node) = self.nodes.remove(&ino)
        {
            self.stored -= node.attr.stored;
        }
    }

    pub(super) fn link(
        &mut self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        now: Time,
    ) -> Result<(), FsError> {
        let attr = self.node(ino)?.attr;
        if attr.kind == FileKind::Directory {
            return Err(FsError::NotPermitted("link of a directory".into()));
        }
        if self.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        match attr.nlink {
            0 => Err(FsError::NotFound),
            LINKS_MAX.. => Err(FsError::TooManyLinks),
            _ => {
                self.enter(parent, name, ino, now)?;
                self.relink(ino, 1)?;
                self.changed(ino, now)
            }
        }
    }

    pub(super) fn remove(
        &mut self,
        parent: Ino,
        name: &[u8],
        directory: bool,
        now: Time,
    ) -> Result<(), FsError> {
        let ino = self.found(parent, name)?;
        match (directory, self.is_directory(ino)) {
            (false, true) => return Err(FsError::IsDirectory),
            (true, false) => return Err(FsError::NotDirectory),
            (true, true) if !self.directory(ino)?.entries.is_empty() => {
                return Err(FsError::NotEmpty);
            }
            _ => {}
        }
        self.leave(parent, name, ino, now)?;
        self.unnamed(ino, now)
    }

    /// Whether `ino` is `below` or a directory above it.
    fn holds(&self, ino: Ino, mut below: Ino) -> Result<bool, FsError> {
        while below != ROOT_INO && below != ino {
            below = self.directory(below)?.parent;
        }
        Ok(below == ino)
    }

    pub(super) fn rename(&mut self, how: &Move<'_>, now: Time) -> Result<(), FsError> {
        if how.no_replace && how.exchange {
            return Err(FsError::Invalid("rename flags".into()));
        }
        let source = self.found(how.parent, how.name)?;
        let target = self.find(how.to_parent, how.to_name)?;
        if how.no_replace && target.is_some() {
            return Err(FsError::Exists);
        }
        if self.is_directory(source) && self.holds(source, how.to_parent)? {
            return Err(FsError::Invalid(
                "a directory cannot move into itself".into(),
            ));
        }
        match target {
            Some(target) if target == source => Ok(()),
            Some(target) if how.exchange => self.exchange(how, source, target, now),
            None if how.exchange => Err(FsError::NotFound),
            target => self.replace(how, source, target, now),
        }
    }

    fn replace(
        &mut self,
        how: &Move<'_>,
        source: Ino,
        target: Option<Ino>,
        now: Time,
    ) -> Result<(), FsError> {
        if let Some(target) = target {
            match (self.is_directory(source), self.is_directory(target)) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) if !self.directory(target)?.entries.is_empty() => {
                    return Err(FsError::NotEmpty);
                }
                _ => {}
            }
            self.leave(how.to_parent, how.to_name, target, now)?;
            self.unnamed(target, now)?;
        }
        self.leave(how.parent, how.name, source, now)?;
        self.enter(how.to_parent, how.to_name, source, now)?;
        self.changed(source, now)
    }

    fn exchange(
        &mut self,
        how: &Move<'_>,
        source: Ino,
        target: Ino,
        now: Time,
    ) -> Result<(), FsError> {
        if self.is_directory(target) && self.holds(target, how.parent)? {
            return Err(FsError::Invalid(
                "a directory cannot move into itself".into(),
            ));
        }
        for (parent, name, from, to) in [
            (how.parent, how.name, source, target),
            (how.to_parent, how.to_name, target, source),
        ] {
            self.directory_mut(parent)?.point(name, to);
            self.relink(
                parent,
                i32::from(self.is_directory(to)) - i32::from(self.is_directory(from)),
            )?;
            if let Body::Directory(directory) = &mut self.node_mut(to)?.body {
                directory.parent = parent;
            }
            self.touched(parent, now)?;
            self.changed(to, now)?;
        }
        Ok(())
    }

    pub(super) fn list(
        &self,
        ino: Ino,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<(DirEntry, Option<Attr>)>, FsError> {
        let directory = self.directory(ino)?;
        let after = directory.order.range(cookie + 1..).take(limit);
        let entry = |(cookie, name): (&u64, &Vec<u8>)| {
            let attr = self.node(directory.entries.get(name)?.0).ok()?.attr;
            let entry = DirEntry {
                name: name.clone(),
                ino: attr.ino,
                kind: attr.kind,
                cookie: *cookie,
            };
            Some((entry, Some(attr)))
        };
        Ok(after.filter_map(entry).collect())
    }
}
