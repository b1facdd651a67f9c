//! Which files carry set-user-id or set-group-id bits, so that the adapter can clear them as Linux does on
//! write, truncate, allocate and chown.
//!
//! Why here: with FUSE_HANDLE_KILLPRIV_V2 the kernel leaves the clearing to us and spares a
//! getxattr("security.capability") round trip before each write. File systems below need not know of it: they
//! are sent a `SetAttr` with the new mode. A file that is not in the table is asked for first (fail safe: a
//! table lost with its worker costs a GetAttr, never a bit that stays).

use hydfs_types::{Attr, FileKind, Ino};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Files remembered; past it the table starts afresh.
const FILES_MAX: usize = 65_536;

#[derive(Default)]
pub(crate) struct Privileges {
    /// The mode, for regular files with bits to clear; `None`: nothing to clear.
    seen: Mutex<HashMap<Ino, Option<u16>>>,
}

/// What the table says of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing to clear.
    Plain,
    /// The mode that remains when the bits are cleared.
    Strip(u16),
    Unknown,
}

impl Privileges {
    /// Remembers what an answer to the kernel shows.
    pub(crate) fn observe(&self, attr: &Attr) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= FILES_MAX && !seen.contains_key(&attr.ino) {
            seen.clear();
        }
        seen.insert(
            attr.ino,
            (stripped(attr) != attr.mode).then_some(stripped(attr)),
        );
    }

    pub(crate) fn forget(&self, ino: Ino) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&ino);
    }

    pub(crate) fn known(&self, ino: Ino) -> Known {
        match self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&ino)
        {
            None => Known::Unknown,
            Some(None) => Known::Plain,
            Some(Some(mode)) => Known::Strip(*mode),
        }
    }
}

/// The mode without set-id bits, as Linux clears them: set-group-id only where the group may execute
/// (else it is a mark of mandatory locking), and only on regular files.
pub(crate) fn stripped(attr: &Attr) -> u16 {
    const SET_USER: u16 = 0o4000;
    const SET_GROUP: u16 = 0o2000;
    const GROUP_EXECUTES: u16 = 0o010;
    if attr.kind != FileKind::Regular {
        return attr.mode;
    }
    let group = if attr.mode & GROUP_EXECUTES != 0 {
        SET_GROUP
    } else {
        0
    };
    attr.mode & !(SET_USER | group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs_types::Time;

    fn attr(ino: u64, kind: FileKind, mode: u16) -> Attr {
        let at = Time::default();
        Attr {
            ino: Ino(ino),
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
        }
    }

    #[test]
    fn strips_as_linux_does() {
        assert_eq!(stripped(&attr(2, FileKind::Regular, 0o6755)), 0o755);
        assert_eq!(stripped(&attr(2, FileKind::Regular, 0o2644)), 0o2644);
        assert_eq!(stripped(&attr(2, FileKind::Directory, 0o2755)), 0o2755);
    }

    #[test]
    fn knows_what_it_saw() {
        let table = Privileges::default();
        assert_eq!(table.known(Ino(2)), Known::Unknown);
        table.observe(&attr(2, FileKind::Regular, 0o4711));
        table.observe(&attr(3, FileKind::Regular, 0o644));
        assert_eq!(table.known(Ino(2)), Known::Strip(0o711));
        assert_eq!(table.known(Ino(3)), Known::Plain);
        table.observe(&attr(2, FileKind::Regular, 0o711));
        assert_eq!(table.known(Ino(2)), Known::Plain);
        table.forget(Ino(3));
        assert_eq!(table.known(Ino(3)), Known::Unknown);
    }

    #[test]
    fn stays_bounded() {
        let table = Privileges::default();
        for ino in 0..2 * FILES_MAX as u64 + 5 {
            table.observe(&attr(ino, FileKind::Regular, 0o644));
        }
        assert!(table.seen.lock().unwrap().len() <= FILES_MAX);
    }
}
