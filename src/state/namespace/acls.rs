//! Access control lists of inodes. They are extended attributes whose values are kept as the kernel writes them; the mode's
//! nine bits always agree with the list of an inode that has one.

use crate::{Acl, Event, Inode, State, acl};
use hydfs_types::{
    ACL_ACCESS, ACL_BYTES_MAX, ACL_DEFAULT, CommandError, FileKind, Ino, Reply, SetGid,
};

const SET_GID: u16 = 0o2000;

/// What `Command::SetAcl` asks for.
pub(crate) struct NewAcl<'a> {
    pub default: bool,
    pub list: &'a [u8],
    pub owner: Option<u32>,
    pub set_gid: SetGid,
}

impl Inode {
    /// The access control list under this name, if there is one.
    pub(crate) fn acl(&self, name: &[u8]) -> Option<Acl> {
        let list = self.xattrs.get(name)?;
        Acl::parse(list).expect("only valid lists are agreed")
    }

    /// Whether this user may do what these bits (4, 2, 1) say, by mode and access control list. `is_in`: whether it
    /// belongs to a group; where nobody knows it may only what it may either way. Capabilities are the caller's affair.
    pub fn grants(&self, uid: u32, is_in: impl Fn(u32) -> Option<bool>, wanted: u16) -> bool {
        acl::grants(&self.attr, self.acl(ACL_ACCESS), uid, is_in, wanted)
    }
}

impl State {
    pub(crate) fn set_acl(
        &mut self,
        ino: Ino,
        new: &NewAcl,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let inode = self.inode(ino)?;
        let agreed = inode.attr;
        match agreed.kind {
            FileKind::Symlink => return Err(CommandError::Denied),
            FileKind::Directory => {}
            _ if new.default && new.list.is_empty() => return Ok(Reply::Done),
            _ if new.default => return Err(CommandError::Denied),
            _ => {}
        }
        if new.owner.is_some_and(|owner| owner != agreed.uid) {
            return Err(CommandError::NotPermitted(
                "it is not owned by whoever changes it".to_owned(),
            ));
        }
        if new.list.len() > ACL_BYTES_MAX {
            return Err(CommandError::NoSpace);
        }
        let acl = Acl::parse(new.list).map_err(|why| CommandError::Invalid(why.to_owned()))?;
        let mut mode = agreed.mode;
        if let Some(acl) = acl.as_ref().filter(|_| !new.default) {
            mode = mode & !acl::RIGHTS | acl.mode();
            let keeps = match new.set_gid {
                SetGid::Anywhere => true,
                SetGid::OfGroup(gid) => gid == agreed.gid,
                SetGid::Nowhere => false,
            };
            mode &= if keeps { !0 } else { !SET_GID };
        }
        let name = if new.default { ACL_DEFAULT } else { ACL_ACCESS };
        let stored = acl.filter(|acl| new.default || !acl.is_mode_alone());
        if stored.is_none() && mode == agreed.mode && !inode.xattrs.contains_key(name) {
            return Ok(Reply::Done);
        }
        if let Some(list) = stored.map(|acl| acl.bytes()) {
            self.has_room(ino, name, &list)?;
            self.names.inode_mut(ino).xattrs.insert(name.to_vec(), list);
        } else {
            self.names.inode_mut(ino).xattrs.remove(name);
        }
        self.names.inode_mut(ino).attr.mode = mode;
        events.push(Event::Acl(ino));
        self.meta_changed(ino, events);
        Ok(Reply::Done)
    }
}
