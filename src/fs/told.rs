//! Sizes that this mount has told of files which are written to, beyond what is agreed.
//!
//! `stat` counts what is pending at the slot leaders; a lookup and a listing ask nobody. Without this they would take back
//! what `stat` has said: the kernel makes its size smaller by them, copies end early, and pages of mappings go. So they
//! answer what was told, as long as the agreed content is the same. Once it is another (a merge, a truncate) only the slot
//! leaders can tell, until the file is clean.

use hydfs_state::{Inode, State};
use hydfs_types::{Attr, Ino};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Files that are remembered. Of more, lookups say what is agreed.
const FILES_MAX: usize = 65_536;

#[derive(Default)]
pub(crate) struct Told {
    files: Mutex<BTreeMap<Ino, Seen>>,
    /// Whether there are any: most looks need no lock.
    any: AtomicBool,
}

struct Seen {
    /// Version of the content that was agreed then.
    version: u64,
    attr: Attr,
}

impl Told {
    /// These attributes are told of an inode, by whoever asked everybody that may know more.
    pub fn note(&self, state: &State, inode: &Inode, attr: &Attr) {
        let more = attr.size > inode.attr.size;
        if !more && !self.any.load(Relaxed) {
            return;
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if !more {
            // What is agreed says as much.
            files.remove(&attr.ino);
            self.any.store(!files.is_empty(), Relaxed);
            return;
        }
        let version = inode.data_version;
        if let Some(seen) = files.get_mut(&attr.ino) {
            let attr = match seen.version == version {
                true => larger(*attr, &seen.attr),
                false => *attr,
            };
            *seen = Seen { version, attr };
            return;
        }
        if files.len() >= FILES_MAX {
            files.retain(|ino, _| !state.is_clean_file(*ino));
        }
        if files.len() < FILES_MAX {
            files.insert(
                attr.ino,
                Seen {
                    version,
                    attr: *attr,
                },
            );
            self.any.store(true, Relaxed);
        }
    }

    /// What is known of an inode without asking, and no less than was told. `None`: slot leaders have to be asked.
    pub fn at_least(&self, state: &State, inode: &Inode, known: Attr) -> Option<Attr> {
        if !self.any.load(Relaxed) {
            return Some(known);
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = files.get(&known.ino) else {
            return Some(known);
        };
        if state.is_clean_file(known.ino) {
            files.remove(&known.ino);
            self.any.store(!files.is_empty(), Relaxed);
            return Some(known);
        }
        (seen.version == inode.data_version).then(|| larger(known, &seen.attr))
    }
}

/// Size and times of both, whichever is more; but times that were set since, which may be less, as they are.
fn larger(attr: Attr, other: &Attr) -> Attr {
    let (mtime, ctime) = match attr.ctime > other.ctime {
        true => (attr.mtime, attr.ctime),
        false => (attr.mtime.max(other.mtime), other.ctime),
    };
    Attr {
        size: attr.size.max(other.size),
        stored: attr.stored.max(other.stored),
        mtime,
        ctime,
        ..attr
    }
}
