//! Entries of directories: the primitives that create, link, unlink and rename are made of.

use crate::{Body, DirectoryBody, Entry, Event, Inode, Namespace, State};
use hydfs_types::{CommandError, FileKind, Ino, ROOT_INO, Time};

/// First cookie of a directory; those before it are for `.` and `..`.
pub(crate) const FIRST_COOKIE: u64 = 3;

impl Namespace {
    pub(crate) fn directory(&self, ino: Ino) -> Result<&DirectoryBody, CommandError> {
        match self.inodes.get(&ino).ok_or(CommandError::Stale(ino))?.body {
            Body::Directory(ref directory) => Ok(directory),
            _ => Err(CommandError::NotDirectory),
        }
    }

    pub(crate) fn entry(&self, parent: Ino, name: &[u8]) -> Result<Ino, CommandError> {
        self.directory(parent)?
            .entries
            .get(name)
            .map(|entry| entry.ino)
            .ok_or(CommandError::NotFound)
    }

    /// The entry, `None` where the name is free.
    pub(crate) fn entry_if_any(
        &self,
        parent: Ino,
        name: &[u8],
    ) -> Result<Option<Ino>, CommandError> {
        Ok(self
            .directory(parent)?
            .entries
            .get(name)
            .map(|entry| entry.ino))
    }

    pub(crate) fn is_directory(&self, ino: Ino) -> bool {
        self.inodes
            .get(&ino)
            .is_some_and(|inode| inode.attr.kind == FileKind::Directory)
    }

    /// Whether `ino` is `ancestor` or below it.
    pub(crate) fn is_within(&self, mut ino: Ino, ancestor: Ino) -> bool {
        while ino != ancestor {
            match self.directory(ino) {
                Ok(directory) if ino != ROOT_INO => ino = directory.parent,
                _ => return false,
            }
        }
        true
    }

    pub(crate) fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        self.inodes
            .get_mut(&ino)
            .expect("callers looked the inode up in this command")
    }

    fn directory_mut(&mut self, ino: Ino) -> (&mut u32, &mut DirectoryBody) {
        let inode = self.inode_mut(ino);
        match &mut inode.body {
            Body::Directory(directory) => (&mut inode.attr.nlink, directory),
            _ => unreachable!("callers know {ino} as a directory"),
        }
    }

    /// Puts a free name into a directory, at the end of its order or at a cookie that has just become free.
    pub(crate) fn add_entry(&mut self, parent: Ino, name: &[u8], ino: Ino, cookie: Option<u64>) {
        let is_directory = self.is_directory(ino);
        let (parent_links, directory) = self.directory_mut(parent);
        let cookie = cookie.unwrap_or_else(|| {
            let cookie = directory.next_cookie.max(FIRST_COOKIE);
            directory.next_cookie = cookie + 1;
            cookie
        });
        directory
            .entries
            .insert(name.to_vec(), Entry { ino, cookie });
        directory.order.insert(cookie, name.to_vec());
        if is_directory {
            *parent_links += 1;
        }
        self.recount(ino, |names| {
            let inode = names.inode_mut(ino);
            inode.names.insert((parent, cookie));
            match &mut inode.body {
                Body::Directory(directory) => directory.parent = parent,
                _ => inode.attr.nlink += 1,
            }
        });
    }

    /// Takes a name out of a directory. The inode stays, perhaps without a name.
    pub(crate) fn take_entry(&mut self, parent: Ino, name: &[u8]) -> Entry {
        let (_, directory) = self.directory_mut(parent);
        let entry = directory
            .entries
            .remove(name)
            .expect("callers looked the entry up in this command");
        directory.order.remove(&entry.cookie);
        let is_directory = self.is_directory(entry.ino);
        if is_directory {
            *self.directory_mut(parent).0 -= 1;
        }
        self.recount(entry.ino, |names| {
            let inode = names.inode_mut(entry.ino);
            inode.names.remove(&(parent, entry.cookie));
            if !is_directory {
                inode.attr.nlink -= 1;
            }
        });
        entry
    }
}

impl Inode {
    /// Attributes or links changed.
    pub(crate) fn changed(&mut self, now: Time) {
        self.attr.ctime = now.after(self.attr.ctime);
    }

    /// Content changed: file bytes or directory entries.
    pub(crate) fn modified(&mut self, now: Time) {
        self.attr.mtime = now.after(self.attr.mtime);
        self.changed(now);
    }
}

impl State {
    /// An entry of this directory changed: its times follow.
    pub(crate) fn entry_changed(&mut self, parent: Ino, name: &[u8], events: &mut Vec<Event>) {
        let now = self.time;
        self.names.inode_mut(parent).modified(now);
        events.push(Event::Entry {
            parent,
            name: name.to_vec(),
        });
        events.push(Event::Inode(parent));
    }

    /// Links or attributes of this inode changed.
    pub(crate) fn meta_changed(&mut self, ino: Ino, events: &mut Vec<Event>) {
        let now = self.time;
        self.names.inode_mut(ino).changed(now);
        events.push(Event::Inode(ino));
    }
}
