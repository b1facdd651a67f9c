//! Names and inodes, as POSIX has them. Permissions are the kernel's affair.

mod acls;
mod attributes;
mod create;
mod entries;
mod links;
mod orphans;
mod rename;

pub(crate) use acls::NewAcl;
pub(crate) use attributes::Asks;
pub use attributes::XATTR_TOTAL_BYTES_MAX;
pub(crate) use create::Make;
pub use links::LINKS_MAX;
pub(crate) use rename::Move;

use crate::State;
use hydfs_types::{CommandError, Ino, JOBS_DIR, NAME_BYTES_MAX, ROOT_INO};

/// Only owners take something out of a directory with this bit.
const STICKY: u16 = 0o1000;

/// Whether this may become the name of an entry. Names are keys, never paths (fault S14).
fn valid_name(name: &[u8]) -> Result<(), CommandError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(CommandError::NameTooLong);
    }
    let invalid = |why: &str| Err(CommandError::Invalid(why.to_owned()));
    match name {
        b"" => invalid("an empty name"),
        b"." | b".." => invalid("the names . and .. belong to every directory"),
        _ if name.contains(&b'/') || name.contains(&0) => {
            invalid("a name holds no slash and no NUL")
        }
        _ => Ok(()),
    }
}

/// Whether an entry may go away or become another's. The members look for the directory of jobs under its name.
fn may_move(parent: Ino, name: &[u8]) -> Result<(), CommandError> {
    if parent == ROOT_INO && name == JOBS_DIR {
        return Err(CommandError::InUse(
            "the directory of jobs keeps its name".to_owned(),
        ));
    }
    Ok(())
}

impl State {
    /// Whether a user may take an inode out of a directory.
    fn may_take(&self, dir: Ino, ino: Ino, user: Option<u32>) -> Result<(), CommandError> {
        let (dir, attr) = (&self.inode(dir)?.attr, &self.inode(ino)?.attr);
        let owns = |user| user == dir.uid || user == attr.uid;
        if dir.mode & STICKY != 0 && !user.is_none_or(owns) {
            return Err(CommandError::NotPermitted(
                "the directory is sticky, and whoever takes this away owns neither".to_owned(),
            ));
        }
        Ok(())
    }
}
