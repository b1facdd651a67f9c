//! Extended attributes: which names go to the file system at all, and the size protocol of getxattr(2).

use crate::{Caller, Capability, FsError};
use hydfs_types::{ACL_ACCESS, ACL_DEFAULT};

/// Names with this begin are seen and used by administrators alone. The kernel refuses to read and set them, not to list.
const TRUSTED: &[u8] = b"trusted.";

/// Whether a name is answered here, without a round, and how. Security labels and file capabilities are not
/// kept: the kernel asks for `security.capability` on writes and at each exec. Of `system.*` there are access control lists.
pub(crate) fn refused(name: &[u8], reading: bool) -> Option<FsError> {
    if name == b"user." || name == TRUSTED {
        return Some(FsError::Invalid("a name needs more than its prefix".into()));
    }
    if name.starts_with(b"security.") {
        return Some(if reading {
            FsError::NoAttribute
        } else {
            FsError::NotSupported("security attributes".into())
        });
    }
    if name.starts_with(b"system.") && name != ACL_ACCESS && name != ACL_DEFAULT {
        return Some(FsError::NotSupported("attributes of the system".into()));
    }
    None
}

/// How to answer a caller with room for `room` bytes; 0 asks for the size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Size(u32),
    Whole,
    TooSmall,
}

pub(crate) fn fit(len: usize, room: u32) -> Fit {
    match (room, u32::try_from(len)) {
        (_, Err(_)) => Fit::TooSmall,
        (0, Ok(len)) => Fit::Size(len),
        (room, Ok(len)) if len <= room => Fit::Whole,
        _ => Fit::TooSmall,
    }
}

/// The names that a caller may see.
pub(crate) fn visible(mut names: Vec<Vec<u8>>, caller: Caller) -> Vec<Vec<u8>> {
    let is_trusted = |name: &Vec<u8>| name.starts_with(TRUSTED);
    if caller.uid != 0 && names.iter().any(is_trusted) && !caller.has(Capability::Administer) {
        names.retain(|name| !is_trusted(name));
    }
    names
}

/// listxattr(2)'s form: each name ended by a NUL.
pub(crate) fn list(names: &[Vec<u8>]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|name| name.iter().copied().chain([0]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_protocol() {
        assert_eq!(fit(5, 0), Fit::Size(5));
        assert_eq!(fit(5, 5), Fit::Whole);
        assert_eq!(fit(5, 4), Fit::TooSmall);
        assert_eq!(fit(0, 0), Fit::Size(0));
        assert_eq!(
            list(&[b"user.a".to_vec(), b"user.b".to_vec()]),
            b"user.a\0user.b\0"
        );
    }

    #[test]
    fn names_answered_here() {
        assert_eq!(
            refused(b"security.capability", true),
            Some(FsError::NoAttribute)
        );
        assert!(matches!(
            refused(b"security.selinux", false),
            Some(FsError::NotSupported(_))
        ));
        assert!(matches!(
            refused(b"system.nfs4_acl", true),
            Some(FsError::NotSupported(_))
        ));
        assert_eq!(refused(ACL_ACCESS, true), None);
        assert_eq!(refused(ACL_DEFAULT, false), None);
        for reading in [false, true] {
            assert!(matches!(
                refused(b"user.", reading),
                Some(FsError::Invalid(_))
            ));
        }
        assert_eq!(refused(b"user.hydfs.x", true), None);
        assert_eq!(refused(b"trusted.x", false), None);
    }

    #[test]
    fn trusted_names_are_listed_to_administrators_alone() {
        let names = vec![b"trusted.a".to_vec(), b"user.b".to_vec()];
        let seen = |uid| {
            let caller = Caller {
                uid,
                gid: 0,
                pid: 0,
                unique: 0,
            };
            visible(names.clone(), caller)
        };
        assert_eq!(seen(0), names);
        assert_eq!(seen(1000), names[1..]);
    }
}
