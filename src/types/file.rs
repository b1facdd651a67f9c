//! What a file is to its users.

use crate::{Ino, Time};
use serde::{Deserialize, Serialize};

/// Longest name of a directory entry in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link in bytes.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Largest value of an extended attribute in bytes.
pub const XATTR_BYTES_MAX: usize = 65_536;

/// The extended attributes that access control lists are: who may use an inode, and what is made in a directory begins with.
/// Their values are the kernel's (`struct posix_acl_xattr_header` and its entries).
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Largest access control list in bytes: kernels read a page of it.
pub const ACL_BYTES_MAX: usize = 4096;

/// The directory of jobs, in the root: it stays where it is.
pub const JOBS_DIR: &[u8] = b".jobs";

/// Kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Attributes of an inode, as `stat` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes held, holes not counted.
    pub stored: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl Attr {
    /// The mode without set-id bits, as Linux clears them when content or owner change: set-group-id only where the group
    /// may execute (else it is a mark of mandatory locking), and only on regular files.
    pub fn mode_without_set_id(&self) -> u16 {
        const SET_USER: u16 = 0o4000;
        const SET_GROUP: u16 = 0o2000;
        const GROUP_EXECUTES: u16 = 0o010;
        if self.kind != FileKind::Regular {
            return self.mode;
        }
        let group = if self.mode & GROUP_EXECUTES != 0 {
            SET_GROUP
        } else {
            0
        };
        self.mode & !(SET_USER | group)
    }

    /// Whether there is anything to clear.
    pub fn has_set_id(&self) -> bool {
        self.mode_without_set_id() != self.mode
    }
}

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub ino: Ino,
    pub kind: FileKind,
    /// Where the next listing goes on after this entry; never 0.
    pub cookie: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_are_cleared_as_linux_does() {
        let without = |kind, mode| {
            let at = Time::default();
            let attr = Attr {
                ino: Ino(2),
                kind,
                mode,
                uid: 1,
                gid: 1,
                nlink: 1,
                rdev: 0,
                size: 0,
                stored: 0,
                atime: at,
                mtime: at,
                ctime: at,
                btime: at,
            };
            assert_eq!(attr.has_set_id(), attr.mode_without_set_id() != mode);
            attr.mode_without_set_id()
        };
        assert_eq!(without(FileKind::Regular, 0o6755), 0o755);
        assert_eq!(without(FileKind::Regular, 0o2644), 0o2644);
        assert_eq!(without(FileKind::Directory, 0o2755), 0o2755);
    }
}
