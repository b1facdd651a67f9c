//! File commands over the file-system seam: names resolved from the root, contents moved in pieces.

use crate::{Error, Kind, Merged, protocol::PATH_BYTES_MAX};
use bytes::Bytes;
use hydfs_mount::{Answer, Caller, FileSystem, Handle, How, Request};
use hydfs_types::{Attr, FileKind, Ino, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, ROOT_INO};
use tokio::time::Instant;

/// Symbolic links followed in one path, as Linux does.
const LINKS_MAX: usize = 40;
/// Permission bits of a file made by `hydfs create`.
const NEW_FILE_MODE: u16 = 0o644;

/// An open file of one connection.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub ino: Ino,
    pub handle: Handle,
    pub size: u64,
}

/// One call, with an answer of the wrong shape turned into an error.
macro_rules! ask {
    ($fs:expr, $caller:expr, $request:expr, $shape:pat => $value:expr) => {
        match $fs.call($caller, $request).await? {
            $shape => Ok($value),
            other => Err(Error::new(
                Kind::Io,
                format!("unexpected answer of the file system: {other:?}"),
            )),
        }
    };
}

/// Attributes of the file behind a path, links followed. The size counts all that is acknowledged.
pub async fn stat(fs: &dyn FileSystem, caller: Caller, path: &str) -> Result<Attr, Error> {
    let ino = resolve(fs, caller, path).await?;
    get_attr(fs, caller, ino, None)
        .await
        .map_err(|e| e.on(path))
}

/// Appends `data` in records of at most 1 MiB and returns when all of it is durable on every replica.
pub async fn append_bytes(
    fs: &dyn FileSystem,
    caller: Caller,
    path: &str,
    data: Bytes,
) -> Result<u64, Error> {
    let file = open(fs, caller, path, append_how()).await?;
    let written = write_all(fs, caller, &file, 0, data.clone(), true).await;
    finish(fs, caller, &file, written)
        .await
        .map_err(|e| e.on(path))?;
    Ok(data.len() as u64)
}

/// Opens, reads the last byte and closes: whatever was acknowledged before is merged when it returns.
pub async fn merge_by_reading(
    fs: &dyn FileSystem,
    caller: Caller,
    path: &str,
) -> Result<Merged, Error> {
    let began = Instant::now();
    let file = open(fs, caller, path, read_how()).await?;
    let attr = get_attr(fs, caller, file.ino, None).await;
    // Only a read obliges the slot leader to merge.
    let read = match &attr {
        Ok(attr) if attr.size > 0 => read(fs, caller, &file, attr.size - 1, 1).await.map(drop),
        _ => Ok(()),
    };
    close(fs, caller, &file).await;
    read.map_err(|e| e.on(path))?;
    let size = attr.map_err(|e| e.on(path))?.size;
    Ok(Merged {
        size,
        micros: began.elapsed().as_micros() as u64,
    })
}

/// Makes a new file; an existing one is refused.
pub(crate) async fn create(
    fs: &dyn FileSystem,
    caller: Caller,
    path: &str,
) -> Result<OpenFile, Error> {
    let (parent, name) = parent_of(fs, caller, path).await?;
    let how = How {
        write: true,
        exclusive: true,
        ..How::default()
    };
    let request = Request::Create {
        parent,
        name,
        mode: NEW_FILE_MODE,
        umask: 0,
        how,
    };
    let made = async {
        ask!(fs, caller, request, Answer::Created(attr, opened) => OpenFile {
            ino: attr.ino,
            handle: opened.handle,
            size: 0,
        })
    };
    made.await.map_err(|e: Error| e.on(path))
}

/// Opens an existing regular file.
pub(crate) async fn open(
    fs: &dyn FileSystem,
    caller: Caller,
    path: &str,
    how: How,
) -> Result<OpenFile, Error> {
    let ino = resolve(fs, caller, path).await?;
    let opened = async {
        let attr = get_attr(fs, caller, ino, None).await?;
        if attr.kind == FileKind::Directory {
            return Err(Error::new(Kind::Invalid, "is a directory: name a file"));
        }
        ask!(fs, caller, Request::Open { ino, how }, Answer::Opened(opened) => OpenFile {
            ino,
            handle: opened.handle,
            size: attr.size,
        })
    };
    opened.await.map_err(|e| e.on(path))
}

/// Writes all of `data`: at `offset`, or at the end wherever that is.
pub(crate) async fn write_all(
    fs: &dyn FileSystem,
    caller: Caller,
    file: &OpenFile,
    mut offset: u64,
    mut data: Bytes,
    append: bool,
) -> Result<(), Error> {
    while !data.is_empty() {
        let piece = data.slice(..data.len().min(PAYLOAD_BYTES_MAX));
        let request = Request::Write {
            ino: file.ino,
            handle: file.handle,
            offset,
            data: piece,
            append,
            sync: false,
        };
        let written = ask!(fs, caller, request, Answer::Written(n) => n as usize)?;
        if written == 0 || written > data.len() {
            return Err(Error::new(
                Kind::Io,
                format!("the file system took {written} of {} bytes", data.len()),
            ));
        }
        drop(data.split_to(written));
        offset += written as u64;
    }
    Ok(())
}

/// Up to `len` bytes from `offset`; fewer only at the end.
pub(crate) async fn read(
    fs: &dyn FileSystem,
    caller: Caller,
    file: &OpenFile,
    offset: u64,
    len: u32,
) -> Result<Bytes, Error> {
    let request = Request::Read {
        ino: file.ino,
        handle: file.handle,
        offset,
        len,
    };
    ask!(fs, caller, request, Answer::Data(data) => data)
}

/// Makes everything durable and closes; the first failure counts, the handle is gone in any case.
pub(crate) async fn finish(
    fs: &dyn FileSystem,
    caller: Caller,
    file: &OpenFile,
    written: Result<(), Error>,
) -> Result<(), Error> {
    let (ino, handle) = (file.ino, file.handle);
    let result =
        match written {
            Ok(()) => async {
                ask!(fs, caller, Request::Flush { ino, handle, owner: None }, Answer::Done => ())?;
                ask!(fs, caller, Request::Sync { ino, handle }, Answer::Done => ())
            }
            .await,
            Err(error) => Err(error),
        };
    close(fs, caller, file).await;
    result
}

/// Gives the handle back.
pub(crate) async fn close(fs: &dyn FileSystem, caller: Caller, file: &OpenFile) {
    let (ino, handle) = (file.ino, file.handle);
    if let Err(error) = fs.call(caller, Request::Release { ino, handle }).await {
        tracing::warn!(%ino, %error, "a file of the control socket was not released");
    }
}

/// Removes a file that was not finished.
pub(crate) async fn remove(fs: &dyn FileSystem, caller: Caller, path: &str) -> Result<(), Error> {
    let (parent, name) = parent_of(fs, caller, path).await?;
    ask!(fs, caller, Request::Unlink { parent, name }, Answer::Done => ())
}

pub(crate) fn append_how() -> How {
    How {
        write: true,
        append: true,
        ..How::default()
    }
}

pub(crate) fn read_how() -> How {
    How {
        read: true,
        ..How::default()
    }
}

async fn get_attr(
    fs: &dyn FileSystem,
    caller: Caller,
    ino: Ino,
    handle: Option<Handle>,
) -> Result<Attr, Error> {
    ask!(fs, caller, Request::GetAttr { ino, handle }, Answer::Attr(attr) => attr)
}

/// The names of a path, from the root. Names are keys, never paths of the host (fault S14).
fn names(path: &str) -> Result<Vec<&str>, Error> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Error::new(
            Kind::Invalid,
            format!("path is longer than {PATH_BYTES_MAX} bytes"),
        ));
    }
    let names: Vec<&str> = path
        .split('/')
        .filter(|n| !n.is_empty() && *n != ".")
        .collect();
    for name in &names {
        if *name == ".." || name.contains('\0') || name.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("{path}: give the absolute path inside the file system, without `..`"),
            ));
        }
    }
    Ok(names)
}

async fn parent_of(
    fs: &dyn FileSystem,
    caller: Caller,
    path: &str,
) -> Result<(Ino, Vec<u8>), Error> {
    let mut names = names(path)?;
    let Some(last) = names.pop() else {
        return Err(Error::new(Kind::Invalid, format!("{path}: name a file")));
    };
    let parent = resolve(fs, caller, &names.join("/")).await?;
    Ok((parent, last.as_bytes().to_vec()))
}

/// The inode behind a path, links followed.
async fn resolve(fs: &dyn FileSystem, caller: Caller, path: &str) -> Result<Ino, Error> {
    let mut todo: Vec<String> = names(path)?.into_iter().rev().map(str::to_owned).collect();
    let mut trail = vec![ROOT_INO];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        let here = *trail.last().unwrap_or(&ROOT_INO);
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let request = Request::Lookup {
            parent: here,
            name: name.into_bytes(),
        };
        let found = async { ask!(fs, caller, request, Answer::Attr(attr) => attr) };
        let attr: Attr = found.await.map_err(|e: Error| e.on(path))?;
        if attr.kind != FileKind::Symlink {
            trail.push(attr.ino);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("{path}: more than {LINKS_MAX} symbolic links"),
            ));
        }
        let target = ask!(fs, caller, Request::ReadLink { ino: attr.ino }, Answer::Target(t) => t)?;
        let target = String::from_utf8_lossy(&target).into_owned();
        if target.starts_with('/') {
            // An absolute target leaves the mount: what it means there is not this file system's business.
            return Err(Error::new(
                Kind::Invalid,
                format!("{path}: is a link to {target}, outside of the file system"),
            ));
        }
        let parts = target.split('/').filter(|n| !n.is_empty() && *n != ".");
        todo.extend(parts.rev().map(str::to_owned));
    }
    Ok(*trail.last().unwrap_or(&ROOT_INO))
}
