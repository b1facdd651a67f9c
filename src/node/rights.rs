//! What the owner of a job may reach: RainStorm works in-process, so no kernel checks for it. Of its groups only the first
//! is known here.

use crate::streaming::of_fs;
use hydfs_fs::Volume;
use hydfs_mount::FsError;
use hydfs_types::{Attr, FileKind, ROOT_INO};
use rainstorm::{Owner, StorageError, StorageResult};

/// Whether a user may do what a bit (4, 2, 1) says, by mode and access control list.
pub(crate) fn may(volume: &Volume, attr: &Attr, owner: Owner, bit: u16) -> bool {
    if owner.uid == 0 {
        return true;
    }
    let state = volume.state();
    // Of the control tree there is a mode alone, the same for all.
    let inode = state.inode(attr.ino).ok();
    inode.map_or(attr.mode & bit != 0, |inode| {
        inode.grants(owner.uid, |gid| Some(gid == owner.gid), bit)
    })
}

/// Follows a path as this user would: every directory must be enterable.
pub(crate) async fn walk(volume: &Volume, path: &str, owner: Owner) -> StorageResult<Attr> {
    let mut attr = volume
        .stat(ROOT_INO)
        .await
        .map_err(|error| of_fs(path, error))?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if attr.kind == FileKind::Directory && !may(volume, &attr, owner, 1) {
            return Err(StorageError::Denied(path.into()));
        }
        attr = volume
            .lookup(attr.ino, name.as_bytes())
            .await
            .map_err(|error| of_fs(path, error))?;
    }
    Ok(attr)
}

pub(crate) fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    let at = path.rfind('/').unwrap_or_default();
    (&path[..at], path[at..].trim_start_matches('/'))
}

/// Makes what is missing: a directory or a file, owned by `owner`. What is there is of this kind, or an error.
pub(crate) async fn ensure(
    volume: &Volume,
    path: &str,
    owner: Owner,
    kind: FileKind,
) -> StorageResult<Attr> {
    match walk(volume, path, owner).await {
        Err(StorageError::NotFound(_)) => {}
        Ok(attr) if attr.kind != kind => {
            let wanted = if kind == FileKind::Directory {
                "directory"
            } else {
                "regular file"
            };
            return Err(StorageError::Invalid(format!("{path}: not a {wanted}")));
        }
        found => return found,
    }
    let (dir, name) = split(path);
    let parent = Box::pin(ensure(volume, dir, owner, FileKind::Directory)).await?;
    // The folder of a job is made for its owner, who may write nothing else there.
    let of_job = dir == "/.jobs" && kind == FileKind::Directory;
    if !may(volume, &parent, owner, 2) && !of_job {
        return Err(StorageError::Denied(path.into()));
    }
    let mode = if kind == FileKind::Directory {
        0o755
    } else {
        0o644
    };
    match volume
        .make_owned(
            parent.ino,
            name.as_bytes(),
            kind,
            mode,
            owner.uid,
            owner.gid,
        )
        .await
    {
        Ok(attr) => Ok(attr),
        Err(FsError::Exists) => walk(volume, path, owner).await,
        Err(error) => Err(of_fs(path, error)),
    }
}

/// Whether a user may write what is there, or make what is missing as `ensure` does.
pub(crate) async fn may_write(volume: &Volume, path: &str, owner: Owner) -> StorageResult<()> {
    let may = match walk(volume, path, owner).await {
        Ok(attr) => may(volume, &attr, owner, 2),
        Err(StorageError::NotFound(_)) => match split(path).0 {
            "/.jobs" => true,
            dir => return Box::pin(may_write(volume, dir, owner)).await,
        },
        Err(error) => return Err(error),
    };
    match may {
        true => Ok(()),
        false => Err(StorageError::Denied(path.into())),
    }
}
