//! Names and inodes, as POSIX has them. Permissions are the kernel's affair.

mod attributes;
mod create;
mod entries;
mod links;
mod orphans;
mod rename;

pub use attributes::XATTR_TOTAL_BYTES_MAX;
pub(crate) use create::Make;
pub use links::LINKS_MAX;
pub(crate) use rename::Move;

use hydfs_types::{CommandError, NAME_BYTES_MAX};

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
