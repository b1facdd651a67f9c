//! What `MemoryFs` does with the bytes of files.

use super::{BLOCK, Body, Content, State};
use crate::{Answer, FsError, Handle, How, Opened};
use bytes::Bytes;
use hydfs_types::{Attr, FileKind, Ino, Time};

/// Largest file: the kernel's offsets are signed.
const SIZE_MAX: u64 = i64::MAX as u64;
/// Bytes that one request copies at most.
const COPY_BYTES_MAX: u32 = 1 << 20;

impl State {
    fn file(&mut self, ino: Ino) -> Result<(&mut Attr, &mut Content), FsError> {
        let node = self.tree.node_mut(ino)?;
        match &mut node.body {
            Body::File(content) => Ok((&mut node.attr, content)),
            Body::Directory(_) => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid("not a regular file".into())),
        }
    }

    pub(super) fn open_file(&mut self, ino: Ino, how: How, now: Time) -> Result<Opened, FsError> {
        // A name that is a link or a device by now: the kernel shall look again.
        match self.tree.node(ino)?.attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Stale),
        }
        if how.truncate {
            self.resize(ino, 0, now)?;
        }
        self.hold(ino, how)
    }

    pub(super) fn resize(&mut self, ino: Ino, size: u64, now: Time) -> Result<(), FsError> {
        let (attr, content) = self.file(ino)?;
        if size > SIZE_MAX {
            return Err(FsError::TooLarge);
        }
        if size < attr.size {
            content.truncate(size);
        }
        attr.size = size;
        self.modified(ino, now)
    }

    fn modified(&mut self, ino: Ino, now: Time) -> Result<(), FsError> {
        let (attr, content) = self.file(ino)?;
        let (before, after) = (
            std::mem::replace(&mut attr.stored, content.stored()),
            content.stored(),
        );
        attr.mtime = now.after(attr.mtime);
        attr.ctime = now.after(attr.ctime);
        self.tree.stored = self.tree.stored - before + after;
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Result<Answer, FsError> {
        self.opened(ino, handle)?;
        let (attr, content) = self.file(ino)?;
        let len = attr.size.saturating_sub(offset).min(u64::from(len));
        Ok(Answer::Data(Bytes::from(
            content.read(offset, len as usize),
        )))
    }

    /// At `offset`, or at the end.
    pub(super) fn write(
        &mut self,
        ino: Ino,
        handle: Handle,
        offset: Option<u64>,
        data: &[u8],
        now: Time,
    ) -> Result<Answer, FsError> {
        if !self.opened(ino, handle)?.how.write {
            return Err(FsError::BadHandle);
        }
        let (stored, capacity) = (self.tree.stored, self.capacity);
        let (attr, content) = self.file(ino)?;
        let offset = offset.unwrap_or(attr.size);
        let len = data.len() as u64;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= SIZE_MAX)
            .ok_or(FsError::TooLarge)?;
        if stored - content.stored() + content.stored_after(offset, len) > capacity {
            return Err(FsError::NoSpace("memory".into()));
        }
        content.write(offset, data);
        if !data.is_empty() {
            attr.size = attr.size.max(end);
            self.modified(ino, now)?;
        }
        Ok(Answer::Written(len as u32))
    }

    pub(super) fn allocate(
        &mut self,
        ino: Ino,
        handle: Handle,
        (offset, len): (u64, u64),
        keep_size: bool,
        punch: bool,
        now: Time,
    ) -> Result<Answer, FsError> {
        if !self.opened(ino, handle)?.how.write {
            return Err(FsError::BadHandle);
        }
        let (attr, content) = self.file(ino)?;
        if len == 0 {
            return Err(FsError::Invalid("length 0".into()));
        }
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= SIZE_MAX)
            .ok_or(FsError::TooLarge)?;
        if punch {
            content.zero(offset, len);
        }
        if !keep_size {
            attr.size = attr.size.max(end);
        }
        self.modified(ino, now)?;
        Ok(Answer::Done)
    }

    pub(super) fn copy(
        &mut self,
        (from, from_handle, from_offset): (Ino, Handle, u64),
        (to, to_handle, to_offset): (Ino, Handle, u64),
        len: u64,
        now: Time,
    ) -> Result<Answer, FsError> {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(COPY_BYTES_MAX);
        match self.read(from, from_handle, from_offset, len)? {
            Answer::Data(data) => self.write(to, to_handle, Some(to_offset), &data, now),
            other => Ok(other),
        }
    }

    pub(super) fn seek(
        &mut self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: bool,
    ) -> Result<Answer, FsError> {
        self.opened(ino, handle)?;
        let (attr, content) = self.file(ino)?;
        if offset >= attr.size {
            return Err(FsError::NoData);
        }
        match data {
            // A block may lie past the end only by its own length, so the start tells.
            true => content
                .data_from(offset)
                .filter(|at| *at < attr.size)
                .map(Answer::Offset)
                .ok_or(FsError::NoData),
            false => Ok(Answer::Offset(content.hole_from(offset).min(attr.size))),
        }
    }
}

const _: () = assert!(BLOCK.is_power_of_two());
