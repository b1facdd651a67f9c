//! Answers at hand: given on the session thread that asks, from memory, without a wait and without a task.
//!
//! As coherent as the way over a task: under a read lease that covers all that is applied here, a look at the state is
//! both after everything acknowledged before the call and visible to whoever asks later. The state is held while it is
//! looked at, so nothing is applied meanwhile. Bytes are read without it, and what is applied then is asked for again.
//!
//! Whatever is missing (the lease, a lock that somebody has, a page of the disk, knowledge of slot leaders) makes the
//! call take the usual way; so do errors that need more than the state to be judged. Nothing here waits for a lock that
//! the core thread holds while it works. Locks are taken in the order state, table, writer; the core takes a writer's
//! before the state's, which cannot meet itself here: nobody but the core ever wants the state for writing.

use crate::{
    call::Call,
    content::{Piece, dirty_segments, padded},
    control::job_dir_name,
    directories::bare,
    quotas::limit_of,
    synthetic::Synthetic,
    volume::{Outcome, Volume},
};
use bytes::Bytes;
use hydfs_mount::{Answer, FsError, Handle, How, Request};
use hydfs_state::{Body, State};
use hydfs_types::{Ino, JOBS_DIR, ROOT_INO};
use std::sync::RwLockReadGuard;

impl Volume {
    /// The answer to a request, if it is at hand.
    /// `unique`: the kernel's number for it.
    pub(crate) fn at_hand(&self, unique: u64, request: &Request) -> Option<Outcome> {
        if let Some(answer) = self.followed_at_hand(request) {
            return Some(Ok(answer));
        }
        if !self.begun.initialized() {
            return None;
        }
        match request {
            Request::Forget { .. } | Request::ReleaseDir { .. } => Some(Ok(Answer::Done)),
            Request::Flush { ino, handle, owner } => self.flush_at_hand(*ino, *handle, *owner),
            Request::Release { ino, handle } => self.release_at_hand(*ino, *handle),
            Request::Read {
                ino,
                handle,
                offset,
                len,
            } => self.read_at_hand(*ino, *handle, *offset, *len),
            Request::Write {
                ino,
                handle,
                offset,
                data,
                append,
                sync,
            } => {
                let at = (!append).then_some(*offset);
                self.write_at_hand(unique, request, (*ino, *handle), (at, data, *sync))
            }
            Request::StatFs => {
                let files = self.ctx.state.try_read().ok()?.names.inodes.len();
                Some(self.space_of(files as u64))
            }
            other => plain(self.looked_up(unique, other)?),
        }
    }

    /// Of files that are followed: this worker's own word, which needs nobody.
    fn followed_at_hand(&self, request: &Request) -> Option<Answer> {
        match request {
            Request::Poll { ino, handle, wake } => {
                Some(Answer::Ready(self.is_ready(*ino, *handle, *wake)))
            }
            Request::Read {
                ino,
                handle,
                offset,
                len,
            } => {
                let read = self.read_followed(*ino, *handle, *offset, *len);
                read.map(Answer::Data)
            }
            Request::Release { ino, handle } if Synthetic::is(*ino) => {
                self.follow_closed(*handle);
                None
            }
            _ => None,
        }
    }

    /// What the state alone answers.
    fn looked_up(&self, unique: u64, request: &Request) -> Option<Outcome> {
        match request {
            Request::Lookup { parent, name } if !Self::may_be_control(*parent, name) => {
                let state = self.covered()?;
                match self.find_in(&state, *parent, name) {
                    Ok((ino, _)) if self.is_behind(ino) => None,
                    Ok((_, attr)) => Some(Ok(Answer::Attr(attr?))),
                    Err(error) => Some(Err(error)),
                }
            }
            Request::GetAttr { ino, .. } if !Synthetic::is(*ino) => {
                let state = self.covered()?;
                Some(self.attr_at_hand(&state, *ino)?.map(Answer::Attr))
            }
            Request::ReadLink { ino } => Some(Self::link_in(&*self.covered()?, *ino)),
            Request::Open { ino, how } if !Synthetic::is(*ino) && !how.truncate => {
                self.open_at_hand(unique, request, *ino, *how)
            }
            Request::OpenDir { ino } if !Synthetic::is(*ino) => {
                Some(self.dir_in(&*self.covered()?, *ino))
            }
            Request::ReadDir {
                ino,
                cookie,
                limit,
                attrs,
                ..
            } if !Synthetic::is(*ino) => {
                let state = self.covered()?;
                if job_dir_name(&state, *ino).is_some() {
                    return None;
                }
                let entries = Self::entries_in(&state, *ino, (*cookie, *limit));
                let listed = entries.map(|entries| match attrs {
                    true => self.with_attrs(&state, entries),
                    false => Some(bare(entries)),
                });
                listed.transpose().map(|listed| listed.map(Answer::Entries))
            }
            Request::GetXattr { ino, .. } if Synthetic::is(*ino) => Some(Err(FsError::NoAttribute)),
            Request::GetXattr { ino, name }
                if !name.starts_with(b"user.hydfs.") && limit_of(name).is_none() =>
            {
                Some(self.xattr_in(&*self.covered()?, *ino, name))
            }
            Request::ListXattr { ino } if !Synthetic::is(*ino) => {
                Some(Self::xattrs_in(&*self.covered()?, *ino))
            }
            _ => None,
        }
    }

    /// The state, if a look at it now is covered by a read lease.
    pub(crate) fn covered(&self) -> Option<RwLockReadGuard<'_, State>> {
        let state = self.ctx.state.try_read().ok()?;
        let visible = self.ctx.agreement.leased()?;
        (visible >= state.index).then_some(state)
    }

    fn open_at_hand(&self, unique: u64, request: &Request, ino: Ino, how: How) -> Option<Outcome> {
        let state = self.covered()?;
        let call = Call::of(self.table.memory(), unique, request).ok()?;
        if call.sent_again().is_some() {
            return None;
        }
        let opened = self.open_in(&state, &call, ino, how);
        call.set_answered();
        Some(opened.map(Answer::Opened))
    }

    /// A read of one piece, or of none behind the end, that is clean, held here, and in memory.
    fn read_at_hand(&self, ino: Ino, handle: Handle, offset: u64, len: u32) -> Option<Outcome> {
        let open = self.table.get(handle)?;
        if let Some(text) = &open.text {
            return Some(Ok(Answer::Data(Self::slice(text, offset, len))));
        }
        // Where the cluster has ended the writer, the file is clean while that is not on its way yet.
        if self.is_behind(ino) {
            return None;
        }
        let (version, segment, at, len) = {
            let state = self.covered()?;
            if !dirty_segments(&state, ino, offset, u64::from(len))
                .ok()?
                .is_empty()
            {
                return None;
            }
            match Self::pieces(&state, ino, offset, u64::from(len)).ok()?[..] {
                [] => return Some(Ok(Answer::Data(Bytes::new()))),
                [
                    Piece {
                        segment: Some((segment, at)),
                        len,
                    },
                ] => {
                    let version = state.inode(ino).ok()?.data_version;
                    let held = self.data.reader.at_hand(&state, segment)?;
                    (version, held, at, len)
                }
                _ => return None,
            }
        };
        let bytes = self.data.reader.read_at_hand(segment, at, len as u32)?;
        // What was read may be of a cut that was agreed since.
        let state = self.ctx.state.try_read().ok()?;
        let shown = self.ctx.agreement.visible() >= state.index;
        // Zeros are where there is a hole, not where the file was cut meanwhile.
        let same = || {
            state
                .inode(ino)
                .is_ok_and(|now| now.data_version == version)
        };
        let shown = shown && (bytes.len() >= len || same());
        shown.then(|| Ok(Answer::Data(padded(bytes, len))))
    }

    /// Everything queued is acknowledged, and the owner has no locks.
    fn flush_at_hand(&self, ino: Ino, handle: Handle, owner: Option<u64>) -> Option<Outcome> {
        if owner.is_some_and(|owner| self.table.is_locker(ino, owner))
            || self.table.has_lost(handle)
            || self.left.has(ino)
        {
            return None;
        }
        let writer = self.table.writer(ino);
        let flushed = writer.is_none_or(|writer| writer.is_flushed());
        flushed.then_some(Ok(Answer::Done))
    }

    /// A release that ends no lock and closes no file of a job.
    fn release_at_hand(&self, ino: Ino, handle: Handle) -> Option<Outcome> {
        if Synthetic::is(ino) || self.table.has_lockers(ino) {
            return None;
        }
        let state = self.ctx.state.try_read().ok()?;
        if self.table.get(handle)?.how.write && Self::may_be_job_file(&state, ino) {
            return None;
        }
        let (closed, last) = self.table.close(handle)?;
        if last
            && state
                .inode(closed.ino)
                .is_ok_and(|inode| inode.orphan.is_some())
        {
            self.orphans.notify_one();
        }
        Some(Ok(Answer::Done))
    }

    /// Whether a file stands in the directory of jobs or in one below it.
    fn may_be_job_file(state: &State, ino: Ino) -> bool {
        let Ok(jobs) = state.lookup(ROOT_INO, JOBS_DIR) else {
            return false;
        };
        let Ok(inode) = state.inode(ino) else {
            return false;
        };
        let below = |dir: &Ino| match state.inode(*dir).map(|inode| &inode.body) {
            Ok(Body::Directory(directory)) => directory.parent == jobs,
            _ => false,
        };
        inode
            .names
            .iter()
            .any(|(parent, _)| *parent == jobs || below(parent))
    }
}

/// Errors that say no more than what the state does are answers, too.
fn plain(outcome: Outcome) -> Option<Outcome> {
    match outcome {
        Ok(_) | Err(FsError::NotFound | FsError::NoAttribute) => Some(outcome),
        Err(_) => None,
    }
}
