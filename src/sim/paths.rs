//! Files by their paths, through the mounts of machines that are up.

use crate::{
    client::read_whole,
    kernel::{Ask, Kernel, call},
};
use bytes::Bytes;
use hydfs_mount::{Answer, FsError, How, Request};
use hydfs_types::{FileKind, Ino, ROOT_INO};
use rand::{RngExt, rngs::SmallRng};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of one write.
const WRITE_BYTES: usize = 128 << 10;

/// The mounts that are served now.
#[derive(Clone, Default)]
pub struct Mounts(Arc<Mutex<Vec<Arc<Kernel>>>>);

impl Mounts {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Kernel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are served from now on.
    pub fn set(&self, mounts: Vec<Arc<Kernel>>) {
        *self.all() = mounts;
    }

    /// One of them.
    pub fn any(&self, rng: &mut SmallRng) -> Option<Arc<Kernel>> {
        let all = self.all();
        (!all.is_empty()).then(|| all[rng.random_range(0..all.len())].clone())
    }
}

fn unexpected(answer: Answer) -> FsError {
    FsError::Invalid(format!("unexpected answer {answer:?}"))
}

/// The inode that a path names, from the root on.
pub async fn walk(mount: &dyn Ask, path: &str) -> Result<Ino, FsError> {
    let mut at = ROOT_INO;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let (parent, name) = (at, name.as_bytes().to_vec());
        at = match call(mount, Request::Lookup { parent, name }).await? {
            Answer::Attr(attr) => attr.ino,
            other => return Err(unexpected(other)),
        };
    }
    Ok(at)
}

fn split(path: &str) -> (&str, Vec<u8>) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name.as_bytes().to_vec())
}

/// Makes a directory; one that is there is fine.
pub async fn make_dir(mount: &dyn Ask, path: &str) -> Result<(), FsError> {
    let (dir, name) = split(path);
    let request = Request::Make {
        parent: walk(mount, dir).await?,
        name,
        kind: FileKind::Directory,
        mode: 0o755,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
    };
    match call(mount, request).await {
        Ok(_) | Err(FsError::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Appends to a file, which is made where it is not there, and closes it.
pub async fn append(mount: &dyn Ask, path: &str, text: &[u8]) -> Result<(), FsError> {
    let (dir, name) = split(path);
    let request = Request::Create {
        parent: walk(mount, dir).await?,
        name,
        mode: 0o755,
        umask: 0,
        how: How {
            write: true,
            append: true,
            ..How::default()
        },
    };
    let (ino, handle) = match call(mount, request).await? {
        Answer::Created(attr, opened) => (attr.ino, opened.handle),
        other => return Err(unexpected(other)),
    };
    let write = async {
        for piece in text.chunks(WRITE_BYTES) {
            let request = Request::Write {
                ino,
                handle,
                offset: 0,
                data: Bytes::copy_from_slice(piece),
                append: true,
                sync: false,
            };
            call(mount, request).await?;
        }
        let owner = None;
        call(mount, Request::Flush { ino, handle, owner }).await
    };
    let written = write.await;
    call(mount, Request::Release { ino, handle }).await?;
    written.map(drop)
}

/// All of a file.
pub async fn read(mount: &dyn Ask, path: &str) -> Result<Vec<u8>, FsError> {
    let ino = walk(mount, path).await?;
    read_whole(mount, ino, || {}).await
}
