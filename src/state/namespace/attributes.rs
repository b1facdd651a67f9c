//! Attributes and extended attributes.

use crate::{Event, State};
use hydfs_types::{
    ACL_ACCESS, CommandError, Ino, NAME_BYTES_MAX, Reply, SetAttr, SetXattrMode, Time,
    XATTR_BYTES_MAX,
};

/// Names and values of all extended attributes of one inode in bytes.
pub const XATTR_TOTAL_BYTES_MAX: usize = 256 << 10;

const MODE_BITS: u16 = 0o7777;

/// What an attribute change asks of the attributes that are agreed when it is applied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asks {
    /// Who has to own the inode, and keeps it: only root gives files away.
    pub owner: Option<u32>,
    pub clear_set_id: bool,
}

fn valid_time(time: Option<Time>) -> Result<(), CommandError> {
    match time {
        Some(time) if time.nsec > 999_999_999 => Err(CommandError::Invalid(
            "a second has 999,999,999 nanoseconds at most".to_owned(),
        )),
        _ => Ok(()),
    }
}

impl State {
    pub(crate) fn set_attr(
        &mut self,
        ino: Ino,
        set: &SetAttr,
        asks: Asks,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let now = self.time;
        valid_time(set.atime)?;
        valid_time(set.mtime)?;
        let inode = self.inode(ino)?;
        let (agreed, access) = (inode.attr, inode.acl(ACL_ACCESS));
        if let Some(owner) = asks.owner
            && (agreed.uid != owner || set.uid.is_some_and(|uid| uid != owner))
        {
            return Err(CommandError::NotPermitted(
                "it is not owned by whoever changes it".to_owned(),
            ));
        }
        let cleared = Some(agreed.mode_without_set_id())
            .filter(|mode| asks.clear_set_id && *mode != agreed.mode);
        let mode = set.mode.map(|mode| mode & MODE_BITS).or(cleared);
        if *set == SetAttr::default() && mode.is_none() {
            return Ok(Reply::Attr(agreed));
        }
        let inode = self.names.inode_mut(ino);
        let attr = &mut inode.attr;
        attr.mode = mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = if set.atime_now {
            now
        } else {
            set.atime.unwrap_or(attr.atime)
        };
        // Asked for by name: also back from a future that somebody had set.
        attr.mtime = if set.mtime_now {
            now
        } else {
            set.mtime.unwrap_or(attr.mtime)
        };
        if let (Some(mode), Some(access)) = (set.mode, access) {
            let list = access.with_mode(mode).bytes();
            inode.xattrs.insert(ACL_ACCESS.to_vec(), list);
            events.push(Event::Acl(ino));
        }
        inode.changed(now);
        events.push(Event::Inode(ino));
        let attr = inode.attr;
        if set.mtime.is_some() || set.mtime_now {
            self.settle_times(ino);
        }
        if let Some((id, seq)) = set.settled
            && let Some(writer) = self
                .names
                .writers
                .get_mut(&id)
                .filter(|writer| writer.ino == ino)
        {
            writer.timed = seq.max(writer.timed);
        }
        Ok(Reply::Attr(attr))
    }

    /// A time was set: what is merged by now moves it no more, also not when its writers end.
    fn settle_times(&mut self, ino: Ino) {
        let Ok(file) = self.names.regular(ino) else {
            return;
        };
        for id in file.writers.clone() {
            let segments = self.names.regular(ino).into_iter();
            let ids = segments.flat_map(|file| file.segments.values());
            let merged = ids
                .map(|segment| self.names.segments[segment].merged(id))
                .max();
            if let Some(writer) = self.names.writers.get_mut(&id) {
                writer.timed = writer.timed.max(merged.unwrap_or_default());
            }
        }
    }

    pub(crate) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: SetXattrMode,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let xattrs = &self.inode(ino)?.xattrs;
        if name.len() > NAME_BYTES_MAX {
            return Err(CommandError::NameTooLong);
        }
        if name.is_empty() || name.contains(&0) {
            return Err(CommandError::Invalid(
                "an attribute's name is not empty and holds no NUL".to_owned(),
            ));
        }
        if name.starts_with(b"system.") {
            return Err(CommandError::Invalid(
                "this attribute means something, and has a command of its own".to_owned(),
            ));
        }
        match (mode, xattrs.contains_key(name)) {
            (SetXattrMode::Create, true) => return Err(CommandError::Exists),
            (SetXattrMode::Replace, false) => return Err(CommandError::NoAttribute),
            _ => {}
        }
        self.has_room(ino, name, value)?;
        self.names
            .inode_mut(ino)
            .xattrs
            .insert(name.to_vec(), value.to_vec());
        self.meta_changed(ino, events);
        Ok(Reply::Done)
    }

    /// Whether an extended attribute may take the place of the one of this name.
    pub(super) fn has_room(&self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), CommandError> {
        let xattrs = &self.inode(ino)?.xattrs;
        let others = xattrs.iter().filter(|(other, _)| other.as_slice() != name);
        let total = others
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
            + name.len()
            + value.len();
        if value.len() > XATTR_BYTES_MAX || total > XATTR_TOTAL_BYTES_MAX {
            return Err(CommandError::NoSpace);
        }
        Ok(())
    }

    pub(crate) fn remove_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.inode(ino)?;
        if name.starts_with(b"system.") || self.names.inode_mut(ino).xattrs.remove(name).is_none() {
            return Err(CommandError::NoAttribute);
        }
        self.meta_changed(ino, events);
        Ok(Reply::Done)
    }
}
