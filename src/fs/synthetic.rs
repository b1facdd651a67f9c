//! Control is files: the tree below `.cluster` and the status files of jobs. Their text comes from the node; nothing in
//! here is stored, and nothing waits for the network. Sizes are 0, as in /proc: readers read to the end. Only files that are followed have one.

use crate::lines::Lines;
use bytes::Bytes;
use hydfs_mount::FsError;
use hydfs_types::{Attr, DirEntry, FileKind, Ino, Time};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

/// Name of the control directory in the root: reachable, not listed.
pub const CLUSTER_DIR: &[u8] = b".cluster";
/// Synthetic inodes are from here on.
const FIRST: u64 = 1 << 62;
/// Paths that one mount may have been asked for.
const PATHS_MAX: usize = 65_536;

/// What stands at a path of the control tree.
pub enum Node {
    /// Names and whether each is a directory.
    Directory(Vec<(String, bool)>),
    File(Bytes),
}

/// Who writes the control tree. Paths have no leading slash: `cluster/members`, `jobs/NAME/status`.
pub trait Control: Send + Sync + 'static {
    fn node(&self, path: &str) -> Option<Node>;
    /// The lines of the file at `path`, if it is one that is followed.
    fn lines(&self, _path: &str) -> Option<Arc<Lines>> {
        None
    }
    /// A person makes the file at `path`, or writes all of `text` into it. Refused for what is made here.
    fn put(&self, _path: &str, _text: &[u8]) -> Result<(), FsError> {
        Err(read_only())
    }
    /// A person removes the file at `path`.
    fn remove(&self, _path: &str) -> Result<(), FsError> {
        Err(read_only())
    }
}

/// What the control tree answers to changes.
pub fn read_only() -> FsError {
    FsError::NotPermitted("`.cluster` is read-only".into())
}

#[derive(Default)]
struct Paths {
    by_ino: BTreeMap<u64, String>,
    by_path: BTreeMap<String, u64>,
}

/// FNV-1a: the same in every worker, so that a number that the kernel remembers never comes to mean another file.
fn hash(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Inode numbers of the control tree on this mount.
#[derive(Default)]
pub struct Synthetic(Mutex<Paths>);

impl Synthetic {
    fn paths(&self) -> MutexGuard<'_, Paths> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether an inode is of the control tree.
    pub fn is(ino: Ino) -> bool {
        ino.0 >= FIRST
    }

    /// The path behind a synthetic inode.
    pub fn path(&self, ino: Ino) -> Option<String> {
        self.paths().by_ino.get(&ino.0).cloned()
    }

    /// The inode of a path.
    pub fn ino(&self, path: &str) -> Option<Ino> {
        let mut paths = self.paths();
        if let Some(ino) = paths.by_path.get(path) {
            return Some(Ino(*ino));
        }
        if paths.by_ino.len() >= PATHS_MAX {
            return None;
        }
        let mut ino = FIRST | hash(path) >> 2;
        while paths.by_ino.contains_key(&ino) {
            ino = FIRST | (ino + 1);
        }
        paths.by_ino.insert(ino, path.to_owned());
        paths.by_path.insert(path.to_owned(), ino);
        Some(Ino(ino))
    }

    /// Attributes of a node.
    pub fn attr(ino: Ino, node: &Node, now: Time) -> Attr {
        let (kind, mode, nlink) = match node {
            Node::Directory(_) => (FileKind::Directory, 0o555, 2),
            Node::File(_) => (FileKind::Regular, 0o444, 1),
        };
        Attr {
            ino,
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink,
            rdev: 0,
            size: 0,
            stored: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        }
    }

    /// A listing after `cookie`.
    pub fn list(
        &self,
        path: &str,
        names: &[(String, bool)],
        cookie: u64,
        limit: usize,
    ) -> Vec<DirEntry> {
        let entries = names.iter().enumerate().skip(cookie as usize).take(limit);
        entries
            .filter_map(|(at, (name, directory))| {
                let ino = self.ino(&format!("{path}/{name}"))?;
                let kind = if *directory {
                    FileKind::Directory
                } else {
                    FileKind::Regular
                };
                Some(DirEntry {
                    name: name.clone().into_bytes(),
                    ino,
                    kind,
                    cookie: at as u64 + 1,
                })
            })
            .collect()
    }
}
