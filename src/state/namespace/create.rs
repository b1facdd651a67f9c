//! New inodes.

use super::valid_name;
use crate::{Body, DirectoryBody, Event, FileBody, Inode, State, acl::RIGHTS, apply::issue};
use hydfs_types::{
    ACL_ACCESS, ACL_DEFAULT, Attr, CommandError, Created, Digest, FileKind, Incarnation, Ino,
    Reply, SYMLINK_BYTES_MAX,
};
use std::collections::{BTreeMap, BTreeSet};

const SET_GID: u16 = 0o2000;
const MODE_BITS: u16 = 0o7777;

/// What `Command::Create` asks for.
pub(crate) struct Make<'a> {
    pub parent: Ino,
    pub name: &'a [u8],
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub target: &'a [u8],
    pub grant: Option<Incarnation>,
    pub umask: u16,
}

/// Mode and access control lists of a new inode: from the list that its directory passes on, else from the umask.
fn inherited(above: &Inode, make: &Make) -> (u16, BTreeMap<Vec<u8>, Vec<u8>>) {
    let asked = make.mode & MODE_BITS;
    let mut lists = BTreeMap::new();
    if make.kind == FileKind::Symlink {
        return (asked, lists);
    }
    let Some(default) = above.acl(ACL_DEFAULT) else {
        return (asked & !(make.umask & RIGHTS), lists);
    };
    let (access, mode) = default.of_new(asked);
    if !access.is_mode_alone() {
        lists.insert(ACL_ACCESS.to_vec(), access.bytes());
    }
    if make.kind == FileKind::Directory {
        lists.insert(ACL_DEFAULT.to_vec(), default.bytes());
    }
    (mode, lists)
}

impl State {
    pub(crate) fn create(
        &mut self,
        make: &Make,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.may_create(make)?;
        let ino = Ino(issue(&mut self.names.next_ino));
        let inode = self.new_inode(ino, make);
        self.names.inodes.insert(ino, inode);
        self.names.add_entry(make.parent, make.name, ino, None);
        self.entry_changed(make.parent, make.name, events);
        let grant = make
            .grant
            .map(|incarnation| self.grant_writer(ino, incarnation, None, events));
        Ok(Reply::Created(Created {
            attr: self.names.inodes[&ino].attr,
            grant,
        }))
    }

    fn may_create(&self, make: &Make) -> Result<(), CommandError> {
        valid_name(make.name)?;
        if self.names.entry_if_any(make.parent, make.name)?.is_some() {
            return Err(CommandError::Exists);
        }
        self.names.fits(&self.names.quotas_at(make.parent), 1, 0)?;
        if let Some(incarnation) = make.grant {
            if make.kind != FileKind::Regular {
                return Err(CommandError::Invalid(
                    "only a regular file has writers".to_owned(),
                ));
            }
            if !self.cluster.alive.contains_key(&incarnation) {
                return Err(CommandError::Ended(incarnation));
            }
        }
        match (make.kind, make.target.len()) {
            (FileKind::Symlink, 0) => Err(CommandError::Invalid("an empty target".to_owned())),
            (FileKind::Symlink, len) if len > SYMLINK_BYTES_MAX => Err(CommandError::NameTooLong),
            _ => Ok(()),
        }
    }

    fn new_inode(&self, ino: Ino, make: &Make) -> Inode {
        let above = &self.names.inodes[&make.parent];
        let parent = &above.attr;
        let inherits = parent.mode & SET_GID != 0;
        let is_directory = make.kind == FileKind::Directory;
        let (mode, xattrs) = inherited(above, make);
        let mode = mode | if inherits && is_directory { SET_GID } else { 0 };
        let is_device = matches!(make.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let attr = Attr {
            ino,
            kind: make.kind,
            mode,
            uid: make.uid,
            gid: if inherits { parent.gid } else { make.gid },
            nlink: if is_directory { 2 } else { 0 },
            rdev: if is_device { make.rdev } else { 0 },
            size: if make.kind == FileKind::Symlink {
                make.target.len() as u64
            } else {
                0
            },
            stored: 0,
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: self.time,
        };
        let body = match make.kind {
            FileKind::Regular => Body::File(FileBody::default()),
            FileKind::Directory => Body::Directory(DirectoryBody {
                parent: make.parent,
                ..DirectoryBody::default()
            }),
            FileKind::Symlink => Body::Symlink(make.target.to_vec()),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                Body::Special
            }
        };
        let key = [
            &make.parent.0.to_le_bytes()[..],
            make.name,
            &ino.0.to_le_bytes(),
        ]
        .concat();
        Inode {
            attr,
            data_version: 0,
            key: Digest::of(&key),
            xattrs,
            body,
            names: BTreeSet::new(),
            orphan: None,
        }
    }
}
