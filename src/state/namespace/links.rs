//! Link and unlink.

use super::{may_move, valid_name};
use crate::{Event, State};
use hydfs_types::{CommandError, FileKind, Ino, Reply};

/// Most names of one file.
pub const LINKS_MAX: u32 = 65_000;

impl State {
    pub(crate) fn link(
        &mut self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        valid_name(name)?;
        let free = self.names.entry_if_any(parent, name)?.is_none();
        let inode = self.inode(ino)?;
        if inode.attr.kind == FileKind::Directory {
            return Err(CommandError::NotPermitted(
                "a directory has one name".to_owned(),
            ));
        }
        if inode.orphan.is_some() {
            return Err(CommandError::Stale(ino));
        }
        if !free {
            return Err(CommandError::Exists);
        }
        if inode.attr.nlink >= LINKS_MAX {
            return Err(CommandError::TooManyLinks);
        }
        if self.names.quotas_of(ino) != self.names.quotas_at(parent) {
            return Err(CommandError::CrossesQuota);
        }
        self.names.add_entry(parent, name, ino, None);
        self.entry_changed(parent, name, events);
        self.meta_changed(ino, events);
        Ok(Reply::Attr(self.names.inodes[&ino].attr))
    }

    pub(crate) fn unlink(
        &mut self,
        parent: Ino,
        name: &[u8],
        dir: bool,
        caller: Option<u32>,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        valid_name(name)?;
        let ino = self.names.entry(parent, name)?;
        self.may_take(parent, ino, caller)?;
        match (dir, self.names.directory(ino)) {
            (true, Ok(directory)) if !directory.entries.is_empty() => {
                return Err(CommandError::NotEmpty);
            }
            (true, Err(error)) => return Err(error),
            (false, Ok(_)) => return Err(CommandError::IsDirectory),
            (true, Ok(_)) => may_move(parent, name)?,
            _ => {}
        }
        self.names.take_entry(parent, name);
        self.entry_changed(parent, name, events);
        self.lost_a_name(ino, events);
        Ok(Reply::Done)
    }

    /// After a name of `ino` went: without any, files become orphans, all else goes at once.
    pub(crate) fn lost_a_name(&mut self, ino: Ino, events: &mut Vec<Event>) {
        let inode = &self.names.inodes[&ino];
        if !inode.names.is_empty() {
            self.meta_changed(ino, events);
        } else if inode.attr.kind == FileKind::Regular && !self.cluster.alive.is_empty() {
            self.names.inode_mut(ino).orphan = Some(self.cluster.alive.keys().copied().collect());
            self.names.orphans.insert(ino);
            self.meta_changed(ino, events);
            events.push(Event::Orphan(ino));
        } else {
            self.remove_inode(ino, events);
        }
    }
}
