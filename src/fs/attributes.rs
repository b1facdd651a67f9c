//! Attributes: exact where the file is clean or this mount is its only writer, else after the slot leaders were asked.

use crate::{
    call::Call,
    error::of_command,
    table::Busy,
    volume::{Outcome, Volume},
};
use hydfs_data::FileWriter;
use hydfs_mount::{Answer, Caller, Capability, Change, FsError, SetTime};
use hydfs_state::{Body, Inode, State};
use hydfs_types::{
    Attr, Command, Ino, Peeked, Reply, SegmentId, SetAttr, SetXattrMode, XATTR_BYTES_MAX,
};
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

    pub(crate) async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Outcome {
        if crate::synthetic::Synthetic::is(ino) {
            return Err(FsError::NoAttribute);
        }
        if let Some(rest) = name.strip_prefix(b"user.hydfs.") {
            return self.place_xattr(ino, rest).await;
        }
        self.barrier().await?;
        Self::xattr_in(&self.ctx.state(), ino, name)
    }

    pub(crate) fn xattr_in(state: &State, ino: Ino, name: &[u8]) -> Outcome {
        let inode = state.inode(ino).map_err(of_command)?;
        let value = inode.xattrs.get(name).cloned();
        value.map(Answer::Value).ok_or(FsError::NoAttribute)
    }

    pub(crate) async fn list_xattr(&self, ino: Ino) -> Outcome {
        if crate::synthetic::Synthetic::is(ino) {
            return Ok(Answer::Names(Vec::new()));
        }
        self.barrier().await?;
        Self::xattrs_in(&self.ctx.state(), ino)
    }

    pub(crate) fn xattrs_in(state: &State, ino: Ino) -> Outcome {
        let inode = state.inode(ino).map_err(of_command)?;
        Ok(Answer::Names(inode.xattrs.keys().cloned().collect()))
    }

    pub(crate) async fn set_xattr(
        &self,
        call: &Call,
        ino: Ino,
        name: Vec<u8>,
        value: Vec<u8>,
        create: bool,
        replace: bool,
    ) -> Outcome {
        Self::settable(ino, &name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::TooBig);
        }
        let mode = match (create, replace) {
            (true, _) => SetXattrMode::Create,
            (_, true) => SetXattrMode::Replace,
            _ => SetXattrMode::Any,
        };
        let command = Command::SetXattr {
            ino,
            name,
            value,
            mode,
        };
        let done = self.propose_for(call, command).await;
        done.map(|_| Answer::Done)
    }

    pub(crate) async fn remove_xattr(&self, call: &Call, ino: Ino, name: Vec<u8>) -> Outcome {
        Self::settable(ino, &name)?;
        let done = self
            .propose_for(call, Command::RemoveXattr { ino, name })
            .await;
        done.map(|_| Answer::Done)
    }

    fn settable(ino: Ino, name: &[u8]) -> Outcome<()> {
        if crate::synthetic::Synthetic::is(ino) {
            return Err(FsError::NotSupported(
                "control files have no attributes of their own".into(),
            ));
        }
        if name.starts_with(b"user.hydfs.") {
            return Err(FsError::NotPermitted(
                "user.hydfs.* tells where a file is; it cannot be set".into(),
            ));
        }
        if name.starts_with(b"user.") || name.starts_with(b"trusted.") {
            return Ok(());
        }
        Err(FsError::NotSupported(
            "only user.* and trusted.* attributes are kept".into(),
        ))
    }

    /// `user.hydfs.*`: replicas and segments as agreed, version, and what is pending at the slot leaders.
    async fn place_xattr(&self, ino: Ino, what: &[u8]) -> Outcome {
        self.barrier().await?;
        if what == b"pending" {
            let (records, bytes) = self.pending(ino).await?;
            return Ok(Answer::Value(
                format!("{records} records, {bytes} bytes").into_bytes(),
            ));
        }
        let state = self.ctx.state();
        let inode = state.inode(ino).map_err(of_command)?;
        let Body::File(file) = &inode.body else {
            return Err(FsError::NoAttribute);
        };
        let name_of = |incarnation| {
            state.member_of(incarnation).map_or_else(
                || format!("{incarnation}"),
                |member| member.said.name.clone(),
            )
        };
        let replicas = |segment: &SegmentId| -> Vec<String> {
            let config = state
                .segment(*segment)
                .and_then(|known| state.config(known.slot));
            config
                .map(|config| {
                    config
                        .acting
                        .iter()
                        .map(|one| {
                            name_of(one.incarnation) + if one.synced { "" } else { "(learner)" }
                        })
                        .collect()
                })
                .unwrap_or_default()
        };
        let text = match what {
            b"version" => inode.data_version.to_string(),
            b"replicas" => {
                let mut names: Vec<String> = file.segments.values().flat_map(replicas).collect();
                names.sort();
                names.dedup();
                names.join(" ")
            }
            b"segments" => file
                .segments
                .iter()
                .filter_map(|(start, id)| {
                    let known = state.segment(*id)?;
                    Some(format!(
                        "{start}+{} {id} {} {} {}",
                        known.len,
                        known.slot,
                        known.version,
                        replicas(id).join(",")
                    ))
                })
                .collect::<Vec<_>>()
                .join("\n"),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(Answer::Value(text.into_bytes()))
    }

    /// Records and bytes of a file that wait at the slot leaders.
    async fn pending(&self, ino: Ino) -> Outcome<(u64, u64)> {
        let by_leader = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(|_| FsError::NoAttribute)?;
            let mut by_leader = std::collections::BTreeMap::<_, Vec<SegmentId>>::new();
            for segment in file.segments.values() {
                if let Some(config) = state
                    .segment(*segment)
                    .and_then(|known| state.config(known.slot))
                {
                    by_leader.entry(config.leader).or_default().push(*segment);
                }
            }
            by_leader
        };
        let mut sum = (0, 0);
        for (leader, segments) in by_leader {
            for (_, records, bytes) in self
                .data
                .pending_at(leader, segments)
                .await
                .map_err(Self::data_error)?
            {
                sum = (sum.0 + records, sum.1 + bytes);
            }
        }
        Ok(sum)
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
