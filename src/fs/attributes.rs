//! Attributes: exact where the file is clean or this mount is its only writer, else after the slot leaders were asked.

use crate::{
    call::Call,
    error::of_command,
    table::Busy,
    volume::{Outcome, ROOT_WAIT, Volume},
};
use hydfs_data::FileWriter;
use hydfs_mount::{Caller, Capability, Change, FsError, SetTime};
use hydfs_state::{Body, Inode, State};
use hydfs_types::{Attr, Command, Ino, Peeked, ROOT_INO, Reply, SegmentId, SetAttr};
use std::sync::Arc;
use tokio::time::Instant;

/// What stands between the agreed attributes of a file and the truth.
struct Doubt {
    /// Segments that others may have written, or that wait for a merge.
    look: Vec<SegmentId>,
    /// This mount's live writer.
    mine: Option<Arc<FileWriter>>,
}

/// What a change sets, its size aside.
fn wanted(change: &Change) -> SetAttr {
    let mut set = SetAttr {
        mode: change.mode,
        uid: change.uid,
        gid: change.gid,
        ..SetAttr::default()
    };
    match change.atime {
        Some(SetTime::Now) => set.atime_now = true,
        Some(SetTime::At(time)) => set.atime = Some(time),
        None => {}
    }
    match change.mtime {
        Some(SetTime::Now) => set.mtime_now = true,
        Some(SetTime::At(time)) => set.mtime = Some(time),
        None => {}
    }
    set
}

/// Who has to own the inode, by the attributes that are agreed when the change is applied: the kernel has checked it by those
/// that it had. Not of sizes and of the present time, for which it takes leave to write.
fn owner_wanted(caller: Caller, change: &Change) -> Option<u32> {
    let is_set = |time| matches!(time, Some(SetTime::At(_)));
    let chowns = change.uid.is_some() || change.gid.is_some();
    let others = change.mode.is_some() || is_set(change.atime) || is_set(change.mtime);
    let may = |asked: bool, capability| !asked || caller.uid == 0 || caller.has(capability);
    let free = may(chowns, Capability::Chown) && may(others, Capability::FileOwner);
    (!free).then_some(caller.uid)
}

fn has_set_id(inode: &Inode) -> bool {
    inode.attr.has_set_id()
}

impl Volume {
    /// Attributes as of now. The caller has passed the barrier.
    /// Cost: clean, or written here alone: nothing. Else one round to the slot leaders in doubt.
    pub(crate) async fn fresh(&self, ino: Ino) -> Outcome<Attr> {
        let _look = self.pages.look(ino);
        self.send_behind(ino).await?;
        self.recall(ino).await?;
        let doubt = self.doubt(&self.ctx.state(), ino)?;
        if !doubt.look.is_empty() {
            self.data
                .reader
                .look(&doubt.look)
                .await
                .map_err(Self::data_error)?;
        }
        self.with_mine(&self.ctx.state(), ino, doubt.mine.as_deref())
    }

    /// As [`Volume::fresh`], and what others have appended stays pending: `stat` and the checks of an open merge nothing
    /// unless content changed that was readable before.
    pub(crate) async fn peeked(&self, ino: Ino) -> Outcome<Attr> {
        let _look = self.pages.look(ino);
        self.send_behind(ino).await?;
        self.recall(ino).await?;
        let doubt = self.doubt(&self.ctx.state(), ino)?;
        if doubt.look.is_empty() {
            return self.with_mine(&self.ctx.state(), ino, doubt.mine.as_deref());
        }
        let peeked = match self.data.reader.peek(&doubt.look).await {
            Ok(peeked) => peeked,
            // A truncate took a segment away meanwhile.
            Err(hydfs_data::DataError::Refused(hydfs_types::Refusal::Retired(_))) => {
                return self.fresh(ino).await;
            }
            Err(error) => return Err(Self::data_error(error)),
        };
        if let Some(attr) = self.with_pending(ino, &peeked)? {
            Ok(attr)
        } else {
            self.fresh(ino).await
        }
    }

    /// Attributes with what slot leaders have pending; `None` where only a merge can tell, or one has just been.
    fn with_pending(&self, ino: Ino, peeked: &[Peeked]) -> Outcome<Option<Attr>> {
        let state = self.ctx.state();
        let (inode, file) = state.file(ino).map_err(of_command)?;
        let mut attr = inode.attr;
        for one in peeked {
            let known = state.segment(one.segment).filter(|known| {
                known.version == one.version
                    && file.segments.get(&known.start) == Some(&one.segment)
            });
            let (Some(known), Some(len)) = (known, one.len) else {
                return Ok(None);
            };
            if len > known.len {
                attr.size = attr.size.max(known.start + len);
                attr.stored += len - known.len;
            }
            if let Some(time) = one.time {
                attr.mtime = attr.mtime.max(time);
                attr.ctime = attr.ctime.max(time);
            }
        }
        self.told.note(&state, inode, &attr);
        Ok(Some(attr))
    }

    /// Attributes as agreed, with what this mount's writer has on top; of what others have pending there is as much in them
    /// as was told before. `None` where only the slot leaders know how much that is.
    pub(crate) fn as_known(&self, state: &State, ino: Ino) -> Outcome<Option<Attr>> {
        let mine = self
            .table
            .writer(ino)
            .filter(|writer| writer.is_live_in(state));
        let known = self.with_own(state, ino, mine.as_deref())?;
        let inode = state.inode(ino).map_err(of_command)?;
        Ok(self.told.at_least(state, inode, known))
    }

    /// Whether nobody but this writer of this mount has or may have records of the file that are not merged.
    pub(crate) fn is_sole(&self, state: &State, ino: Ino, writer: &FileWriter) -> bool {
        self.doubt(state, ino).is_ok_and(|doubt| {
            doubt.look.is_empty() && doubt.mine.is_some_and(|mine| mine.writer == writer.writer)
        })
    }

    /// Attributes where nobody has to be asked; `None` where slot leaders may know more.
    pub(crate) fn attr_at_hand(&self, state: &State, ino: Ino) -> Option<Outcome<Attr>> {
        if self.is_behind(ino) {
            return None;
        }
        match self.doubt(state, ino) {
            Ok(doubt) if doubt.look.is_empty() => {
                Some(self.with_mine(state, ino, doubt.mine.as_deref()))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Attributes where nobody but this live writer may know more than is agreed.
    fn with_mine(&self, state: &State, ino: Ino, mine: Option<&FileWriter>) -> Outcome<Attr> {
        let attr = self.with_own(state, ino, mine)?;
        let inode = state.inode(ino).map_err(of_command)?;
        self.told.note(state, inode, &attr);
        Ok(attr)
    }

    /// Attributes as agreed, with this live writer's acknowledged records on top.
    pub(crate) fn with_own(
        &self,
        state: &State,
        ino: Ino,
        mine: Option<&FileWriter>,
    ) -> Outcome<Attr> {
        let inode = state.inode(ino).map_err(of_command)?;
        let mut attr = inode.attr;
        let (Body::File(file), Some(mine)) = (&inode.body, mine) else {
            return Ok(attr);
        };
        for segment in mine.touched() {
            let known = state
                .segment(segment)
                .filter(|known| file.segments.get(&known.start) == Some(&segment));
            let Some((start, agreed)) = known.map(|known| (known.start, known.len)) else {
                continue;
            };
            if let Some(len) = mine.local_len_in(state, segment) {
                attr.size = attr.size.max(start + len);
                attr.stored += len.saturating_sub(agreed);
            }
        }
        if let Some(time) = mine.unmerged_time(state) {
            attr.mtime = attr.mtime.max(time);
            attr.ctime = attr.ctime.max(time);
        }
        Ok(attr)
    }

    fn doubt(&self, state: &State, ino: Ino) -> Outcome<Doubt> {
        let inode = state.inode(ino).map_err(of_command)?;
        let Body::File(file) = &inode.body else {
            return Ok(Doubt {
                look: Vec::new(),
                mine: None,
            });
        };
        let mine = self
            .table
            .writer(ino)
            .filter(|writer| writer.is_live_in(state));
        let others = file
            .writers
            .iter()
            .any(|writer| mine.as_ref().is_none_or(|mine| mine.writer != *writer));
        let others = others || state.has_unsent(file, |owner| owner != self.ctx.me());
        let segments = file.segments.values().copied();
        let look = if others {
            segments.collect()
        } else {
            // What is pending is this mount's own, and its writer knows it, unless ended writers left something.
            let known_here = |id: &SegmentId| {
                let told = mine.as_ref().is_none_or(|mine| {
                    !mine.touched().contains(id) || mine.local_len_in(state, *id).is_some()
                });
                told && state.segment(*id).is_none_or(|segment| segment.settled())
            };
            segments.filter(|segment| !known_here(segment)).collect()
        };
        Ok(Doubt { look, mine })
    }

    pub(crate) async fn get_attr(&self, ino: Ino) -> Outcome<Attr> {
        if crate::synthetic::Synthetic::is(ino) {
            let (path, _) = self.control_of(ino)?;
            return self.control_attr(&path);
        }
        if !self.barrier_or_root(ino).await? {
            return Ok(self.ctx.state().inode(ino).map_err(of_command)?.attr);
        }
        self.peeked(ino).await
    }

    /// The barrier, for what an inode is. False: it is not passed, and this is the root. The way to `.cluster` leads through
    /// it: it has to be there when nothing else can be agreed.
    pub(crate) async fn barrier_or_root(&self, ino: Ino) -> Outcome<bool> {
        if ino == ROOT_INO && self.silent().is_some() {
            return Ok(false);
        }
        match tokio::time::timeout(ROOT_WAIT, self.barrier()).await {
            Ok(Ok(())) => Ok(true),
            _ if ino == ROOT_INO => {
                self.ask_on();
                Ok(false)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => self.barrier().await.map(|()| true),
        }
    }

    /// setattr: size through truncate, the rest in one command.
    pub(crate) async fn set_attr(
        &self,
        call: &Call,
        caller: Caller,
        ino: Ino,
        change: Change,
    ) -> Outcome<Attr> {
        if crate::synthetic::Synthetic::is(ino) {
            return self.set_control_attr(ino);
        }
        if let Some(size) = change.size {
            self.truncate(call, ino, size).await?;
        }
        let others = self.set_others(call, caller, ino, &change).await;
        others.map_err(|error| match error {
            FsError::ReadOnly(why) if change.size.is_some() => {
                FsError::TimedOut(format!("the size is set, and nothing else: {why}"))
            }
            other => other,
        })
    }

    /// What a change sets besides the size, which is set.
    async fn set_others(
        &self,
        call: &Call,
        caller: Caller,
        ino: Ino,
        change: &Change,
    ) -> Outcome<Attr> {
        let mut set = wanted(change);
        let mut clear_set_id = change.clear_set_id && change.mode.is_none();
        if clear_set_id && set == SetAttr::default() {
            self.barrier().await?;
            clear_set_id = self.ctx.state().inode(ino).is_ok_and(has_set_id);
        }
        if set == SetAttr::default() && !clear_set_id {
            if change.size.is_some() {
                return self.changed_attr(ino, None).await;
            }
            if change.clear_set_id {
                // A write asked, which looks at no answer. The barrier has been passed.
                return Ok(self.ctx.state().inode(ino).map_err(of_command)?.attr);
            }
            self.barrier().await?;
            return self.peeked(ino).await;
        }
        let owner = owner_wanted(caller, change);
        if !clear_set_id && self.leaves_all(ino, &set, owner).await? {
            let attr = self.peeked(ino).await;
            return self.shown(attr).await;
        }
        let mut written = None;
        let _busy = change.mtime.is_some().then(|| Busy::new(&self.table, ino));
        if change.mtime.is_some()
            && let Some(writer) = self.table.writer(ino)
        {
            // Merging what was written before must not move the time that is set now.
            self.drain(ino).await?;
            let time = writer.time();
            set.settled = Some((writer.writer, writer.last_sent()));
            written = Some((writer, time));
        }
        if change.mtime.is_some() {
            // As for what others wrote: the command takes it for settled.
            self.barrier().await?;
            self.fresh(ino).await?;
        }
        let asked = Instant::now();
        let command = Command::SetAttrAs {
            ino,
            set,
            owner,
            clear_set_id,
        };
        let agreed = Self::attr_of(self.propose_for(call, command).await?)?;
        if let Some((writer, time)) = written {
            writer.forget_time(time);
        }
        self.recent.note(ino, agreed.ctime, asked);
        self.changed_attr(ino, Some(agreed)).await
    }

    /// Attributes after a change that is made: whatever keeps slot leaders from answering, it has not failed. `agreed`: what
    /// the group answered.
    pub(crate) async fn changed_attr(&self, ino: Ino, agreed: Option<Attr>) -> Outcome<Attr> {
        let error = match self.peeked(ino).await {
            Ok(attr) => return Ok(attr),
            Err(error) => error,
        };
        let known = self
            .ctx
            .state()
            .inode(ino)
            .map_or(agreed, |inode| Some(inode.attr));
        known.ok_or(error)
    }

    /// Whether this sets owner or mode to what they are, within a tick of the last change.
    async fn leaves_all(&self, ino: Ino, set: &SetAttr, owner: Option<u32>) -> Outcome<bool> {
        let named = SetAttr {
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            ..SetAttr::default()
        };
        if *set != named || !self.recent.has(ino, Instant::now()) {
            return Ok(false);
        }
        self.barrier().await?;
        let state = self.ctx.state();
        let attr = state.inode(ino).map_err(of_command)?.attr;
        let same = set.mode.is_none_or(|mode| mode == attr.mode)
            && set.uid.is_none_or(|uid| uid == attr.uid)
            && set.gid.is_none_or(|gid| gid == attr.gid)
            && owner.is_none_or(|owner| owner == attr.uid);
        Ok(same && self.recent.is_now(ino, attr.ctime, Instant::now()))
    }

    /// Whether a write to a file has to clear set-id bits first, as far as is known at once.
    pub(crate) fn may_have_set_id(&self, ino: Ino) -> bool {
        if crate::synthetic::Synthetic::is(ino) {
            return false;
        }
        self.covered()
            .is_none_or(|state| state.inode(ino).is_ok_and(has_set_id))
    }

    pub(crate) fn attr_of(reply: Reply) -> Outcome<Attr> {
        match reply {
            Reply::Attr(attr) => Ok(attr),
            Reply::Created(created) => Ok(created.attr),
            other => Err(FsError::Unreachable(format!(
                "unexpected answer of the agreement group: {other:?}"
            ))),
        }
    }
}
