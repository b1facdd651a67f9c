//! The file system of one mount: requests over the agreed state and the data plane.
//!
//! Every call begins with the agreement's barrier (one round to the leader, shared by concurrent calls): the local state
//! then holds everything acknowledged anywhere before the call, so no answer rests on a clock or a time-to-live.

use crate::{
    asked::Asked,
    behind::Behind,
    call::Call,
    error::{of_agreement, of_data},
    failures::Failures,
    follow::Following,
    kept::Kept,
    left::Unsent,
    moved::Moved,
    pages::Pages,
    ranges::Place,
    recent::Recent,
    silence::Silence,
    synthetic::{Control, Synthetic},
    table::{Numbers, Table},
    told::Told,
    unanswered::Unanswered,
    xattrs::is_acl,
};
use bytes::Bytes;
use hydfs_data::{Context, Data, WriteBehind};
use hydfs_memory::{Memory, Slot};
use hydfs_mount::{Answer, Caller, FsError, KernelCache, Request, StatFs};
use hydfs_state::{Body, Event, State};
use hydfs_store::Disk;
use hydfs_types::{
    AgreementError, Attr, Clock, Command, Incarnation, Ino, Planted, ROOT_INO, Reply,
};
use std::{
    sync::Mutex,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

/// The root's attributes are answered from the local state when the group gives no answer for so long.
pub(crate) const ROOT_WAIT: Duration = Duration::from_secs(1);

/// Result of a call.
pub type Outcome<T = Answer> = Result<T, FsError>;

/// The file system of one mount.
pub struct Volume {
    pub(crate) data: Arc<Data>,
    pub(crate) ctx: Arc<Context>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) table: Table,
    pub(crate) synthetic: Synthetic,
    pub(crate) control: OnceLock<Arc<dyn Control>>,
    pub(crate) kernel: OnceLock<Arc<dyn KernelCache>>,
    pub(crate) kept: Kept,
    pub(crate) told: Told,
    pub(crate) orphans: tokio::sync::Notify,
    /// Rung when a lock somewhere has gone.
    pub(crate) unlocked: tokio::sync::Notify,
    pub(crate) job_hook: OnceLock<JobHook>,
    pub(crate) failures: Failures,
    pub(crate) asked: Asked,
    pub(crate) open_dirs: Numbers,
    pub(crate) following: Arc<Following>,
    pub(crate) recent: Recent,
    pub(crate) behind: Behind,
    pub(crate) pages: Arc<Pages>,
    /// When room below quotas was last given back on this mount's wish.
    pub(crate) reclaimed: Mutex<Option<Instant>>,
    pub(crate) left: Unsent,
    pub(crate) moved: Moved,
    pub(crate) silence: Arc<Silence>,
    /// The member is admitted.
    pub(crate) begun: tokio::sync::SetOnce<()>,
}

/// Called with the path of a file in the directory of jobs that was closed after writing, or renamed there.
pub type JobHook = Arc<dyn Fn(&str) + Send + Sync>;

impl Volume {
    pub fn new(data: Arc<Data>, clock: Arc<dyn Clock>, disk: Arc<dyn Disk>) -> Arc<Self> {
        let volume = Arc::new(Self {
            ctx: data.ctx.clone(),
            data,
            disk,
            table: Table::of_a_worker_from(clock.now()),
            synthetic: Synthetic::default(),
            control: OnceLock::new(),
            kernel: OnceLock::new(),
            kept: Kept::default(),
            told: Told::default(),
            orphans: tokio::sync::Notify::new(),
            unlocked: tokio::sync::Notify::new(),
            job_hook: OnceLock::new(),
            failures: Failures::default(),
            asked: Asked::default(),
            open_dirs: Numbers::from(clock.now()),
            following: Arc::default(),
            pages: Arc::default(),
            reclaimed: Mutex::default(),
            clock,
            recent: Recent::default(),
            behind: Behind::default(),
            left: Unsent::default(),
            moved: Moved::default(),
            silence: Arc::default(),
            begun: tokio::sync::SetOnce::new(),
        });
        let early: Arc<dyn WriteBehind> = volume.clone();
        volume.data.set_write_behind(Arc::downgrade(&early));
        volume
    }

    /// What outlives this worker, and what the one before left. Once, before the mount is served.
    pub fn keep(&self, memory: Arc<Memory>) {
        self.keep_left(memory.left_behind());
        self.following.keep(memory.clone());
        self.table.keep(memory);
    }

    /// The kernel has sent again all that it will: what no request holds any more goes.
    pub(crate) fn caught_up(&self) {
        let Some(memory) = self.table.memory() else {
            return;
        };
        let (seqs, handles) = memory.settle();
        seqs.into_iter()
            .for_each(|seq| self.ctx.agreement.forget(seq));
        for handle in &handles {
            self.table.close(*handle);
        }
        if !handles.is_empty() {
            self.orphans.notify_one();
        }
    }

    /// Who writes the control tree. Once.
    pub fn set_control(&self, control: Arc<dyn Control>) {
        drop(self.control.set(control));
        self.know_cluster_files();
    }

    /// Whom to tell what changed elsewhere. Once.
    pub fn set_kernel(&self, kernel: Arc<dyn KernelCache>) {
        self.following.set_kernel(kernel.clone());
        drop(self.kernel.set(kernel.clone()));
        let memory = self.table.memory();
        self.tell_early(
            kernel.as_ref(),
            memory.is_some_and(|memory| memory.takes_over()),
        );
        // What changed while no worker served, nobody has told of.
        self.forget_pages();
    }

    /// Has the kernel forget pages of everything that is open.
    pub(crate) fn forget_pages(&self) {
        if let Some(kernel) = self.kernel.get() {
            for ino in self.table.open_inodes() {
                drop(kernel.invalidate_pages(ino));
            }
        }
    }

    /// Whom to tell of new specs. Once.
    pub fn set_job_hook(&self, hook: JobHook) {
        drop(self.job_hook.set(hook));
    }

    /// The agreed state, for a look.
    pub fn state(&self) -> std::sync::RwLockReadGuard<'_, hydfs_state::State> {
        self.ctx.state()
    }

    /// Attributes as of now, everything acknowledged merged.
    pub async fn stat(&self, ino: Ino) -> Outcome<Attr> {
        if Synthetic::is(ino) {
            return self.get_attr(ino).await;
        }
        self.barrier().await?;
        self.shown(self.fresh(ino).await).await
    }

    /// Takes note of what a command of this incarnation changed; never waits.
    pub fn on_events(&self, events: &[Event], by: Incarnation) {
        self.tell_kernel(events, by == self.ctx.me());
        for event in events {
            if matches!(event, Event::Unlocked(_) | Event::Replaced) {
                self.unlocked.notify_waiters();
            }
            if *event == Event::Replaced {
                // Of what changed no event tells.
                self.forget_pages();
            }
            match event {
                Event::Orphan(_) | Event::Replaced | Event::Members => self.orphans.notify_one(),
                Event::Gone(ino) => self.table.forget_losses(*ino),
                Event::Data(ino) | Event::Inode(ino) if self.table.is_open(*ino) => {
                    if let Some(kernel) = self.kernel.get() {
                        self.pages.changed(kernel, *ino);
                    }
                }
                _ => {}
            }
        }
    }

    /// Everything acknowledged anywhere before this call is in the local state after it. Cost: nothing under a read
    /// lease while no command is on its way to becoming visible, else one round to the leader.
    pub(crate) async fn barrier(&self) -> Outcome<()> {
        let visible = self.ctx.agreement.leased();
        if visible.is_some_and(|visible| visible >= self.ctx.state().index) {
            return Ok(());
        }
        self.round().await
    }

    /// What was read of the state since [`Volume::barrier`] may be shown: whoever asks later, anywhere, sees it as well.
    pub(crate) async fn shown<T>(&self, read: Outcome<T>) -> Outcome<T> {
        if self.ctx.agreement.visible() < self.ctx.state().index {
            self.round().await?;
        }
        read
    }

    /// What any member has applied before this call is in the local state after it. Cost: one round to the leader.
    pub(crate) async fn round(&self) -> Outcome<()> {
        let passed = self.unless_silent(self.ctx.agreement.barrier()).await?;
        if matches!(passed, Err(AgreementError::NoQuorum { .. })) {
            self.ask_on();
        }
        passed.map(|_| ()).map_err(of_agreement)
    }

    /// A command, and the kernel of this mount knows what it changed.
    pub(crate) async fn propose(&self, command: Command) -> Outcome<Reply> {
        self.not_in_vain().await?;
        let reply = self.ctx.agreement.propose(command).await;
        self.kernel_told().await;
        reply.map_err(of_agreement)
    }

    pub(crate) async fn answer(self: Arc<Self>, caller: Caller, request: Request) -> Outcome {
        if let Some(answer) = self.may_begin(&request).await {
            return answer;
        }
        self.left_for_is_sent(&request).await;
        let memory = self.table.memory();
        let memory = memory.filter(|_| !self.ctx.has(Planted::RepeatedAnew));
        let call = Call::of(memory, caller.unique, &request)?;
        let mut opened = Unanswered::of(&self, &call);
        if let Some(handle) = call.sent_again().and_then(Slot::handle) {
            // The earlier worker gave it to this request and told nobody.
            self.table.close(handle);
        }
        let read = match &request {
            Request::Lookup { parent: ino, .. }
            | Request::GetAttr { ino, .. }
            | Request::ReadLink { ino }
            | Request::Open { ino, .. }
            | Request::Read { ino, .. }
            | Request::Seek { ino, .. }
            | Request::ReadDir { ino, .. }
            | Request::GetXattr { ino, .. }
            | Request::ListXattr { ino }
            | Request::GetLock { ino, .. } => Some(*ino),
            _ => None,
        };
        let is_of_root =
            matches!(&request, Request::GetXattr { ino: ROOT_INO, name } if is_acl(name));
        let looks_up = matches!(request, Request::Lookup { .. });
        let began = Instant::now();
        let answer = self.clone().work(&call, caller, request).await;
        call.set_answered();
        let synthetic = |ino| {
            Synthetic::is(ino)
                || matches!(&answer, Ok(Answer::Attr(attr)) if Synthetic::is(attr.ino))
        };
        let answer = match read {
            // The root answers also without a majority: the way to the control tree leads over it.
            Some(ROOT_INO)
                if is_of_root
                    || matches!(&answer, Ok(Answer::Attr(attr)) if attr.ino == ROOT_INO) =>
            {
                if self.silent().is_some() {
                    return answer;
                }
                drop(tokio::time::timeout_at(began + ROOT_WAIT, self.shown(Ok(()))).await);
                answer
            }
            // The control tree is this member's own word; it answers also when nobody else does.
            Some(ino) if !synthetic(ino) => self.shown(answer).await,
            _ => answer,
        };
        if looks_up {
            return self.or_moved(caller, answer);
        }
        opened.is_answered = matches!(answer, Ok(Answer::Opened(_) | Answer::Created(..)));
        answer
    }

    async fn work(self: Arc<Self>, call: &Call, caller: Caller, request: Request) -> Outcome {
        match request {
            Request::Lookup { parent, name } => self.find(parent, &name).await.map(Answer::Attr),
            Request::Forget { .. } => Ok(Answer::Done),
            Request::GetAttr { ino, .. } => self.get_attr(ino).await.map(Answer::Attr),
            Request::SetAttr { ino, set, .. } => {
                let changed = self.set_attr(call, caller, ino, set).await;
                changed.map(Answer::Attr)
            }
            Request::ReadLink { ino } => self.read_link(ino).await,
            Request::Make {
                parent,
                name,
                kind,
                mode,
                umask,
                rdev,
                target,
            } => {
                let modes = (mode, umask);
                self.make(call, caller, parent, name, kind, modes, rdev, target)
                    .await
            }
            Request::Link { ino, parent, name } => self.link(call, ino, parent, name).await,
            Request::Unlink { parent, name } => {
                self.take_away(call, caller, parent, name, false).await
            }
            Request::RemoveDir { parent, name } => {
                self.take_away(call, caller, parent, name, true).await
            }
            Request::Rename {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
            } => {
                self.moving((parent, &name), (to_parent, &to_name));
                let flags = (no_replace, exchange);
                self.rename(call, caller, (parent, name), (to_parent, to_name), flags)
                    .await
            }
            Request::Open { ino, how } => self.open(call, call, ino, how).await.map(Answer::Opened),
            Request::Create {
                parent,
                name,
                mode,
                umask,
                how,
            } => {
                let modes = (mode, umask);
                self.create(call, caller, parent, name, modes, how).await
            }
            Request::Read {
                ino,
                handle,
                offset,
                len,
            } => self.read(ino, handle, offset, len).await.map(Answer::Data),
            Request::Write {
                ino,
                handle,
                offset,
                data,
                append,
                sync,
            } => {
                let at = (!append).then_some(offset);
                self.write((ino, handle), at, data, sync, call).await
            }
            Request::Flush { ino, handle, owner } => {
                let flushed = self.flush(ino, handle).await;
                if let Some(owner) = owner {
                    self.unlock_closed(ino, owner).await;
                }
                flushed
            }
            Request::Release { ino, handle } => {
                self.unlock_released(ino, handle);
                self.clone().release(handle)
            }
            Request::GetLock { ino, lock } => self.get_lock(ino, lock).await,
            Request::SetLock {
                ino,
                handle,
                lock,
                wait,
            } => self.set_lock(ino, handle, lock, wait).await,
            Request::Unlock {
                ino,
                owner,
                start,
                end,
            } => self.unlock(ino, owner, start, end).await,
            Request::Sync { ino, handle } => self.sync_through(ino, handle).await,
            Request::OpenDir { ino } => self.open_dir(ino).await,
            Request::ReadDir {
                ino,
                cookie,
                limit,
                attrs,
                ..
            } => self.read_dir(ino, (cookie, limit), attrs).await,
            Request::ReleaseDir { .. } => Ok(Answer::Done),
            Request::Poll { ino, handle, wake } => {
                Ok(Answer::Ready(self.is_ready(ino, handle, wake)))
            }
            Request::StatFs => self.stat_fs(),
            Request::GetXattr { ino, name } => self.get_xattr(ino, &name).await,
            Request::ListXattr { ino } => self.list_xattr(ino).await,
            Request::SetXattr {
                ino,
                name,
                value,
                create,
                replace,
            } => {
                let (what, how) = ((name, value), (create, replace));
                self.set_xattr(call, caller, ino, what, how).await
            }
            Request::RemoveXattr { ino, name } => self.remove_xattr(call, caller, ino, name).await,
            Request::Allocate {
                ino,
                handle,
                offset,
                len,
                keep_size,
                punch,
            } => {
                let at = Place {
                    ino,
                    handle,
                    offset,
                };
                self.allocate(call, at, len, keep_size, punch).await
            }
            Request::Seek {
                ino,
                handle,
                offset,
                data,
            } => {
                let at = Place {
                    ino,
                    handle,
                    offset,
                };
                self.seek(at, data).await.map(Answer::Offset)
            }
            Request::Copy {
                from,
                from_handle,
                from_offset,
                ino,
                handle,
                offset,
                len,
            } => {
                let from = Place {
                    ino: from,
                    handle: from_handle,
                    offset: from_offset,
                };
                let to = Place {
                    ino,
                    handle,
                    offset,
                };
                self.copy(call, from, to, len).await.map(Answer::Written)
            }
        }
    }

    /// An entry of a directory with its attributes as of now.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome<Attr> {
        let attr = self.find(parent, name).await?;
        if Synthetic::is(attr.ino) {
            Ok(attr)
        } else {
            self.fresh(attr.ino).await
        }
    }

    /// An entry of a directory: the control tree first, then the agreed names. Of a file that is written elsewhere the
    /// size may lag, but not behind what was told before: the kernel asks for it where it matters, and who opens a file to
    /// append causes no merge.
    async fn find(&self, parent: Ino, name: &[u8]) -> Outcome<Attr> {
        if let Some(path) = self.control_path(parent, name) {
            return self.control_attr(&path);
        }
        self.barrier().await?;
        let found = self.ctx.state().lookup(parent, name);
        if let Ok(ino) = found {
            self.send_behind(ino).await?;
        }
        let (ino, attr) = self.find_in(&self.ctx.state(), parent, name)?;
        match attr {
            Some(attr) => Ok(attr),
            None => self.peeked(ino).await,
        }
    }

    /// An entry with its attributes, `None` where slot leaders have to be asked for them.
    pub(crate) fn find_in(
        &self,
        state: &State,
        parent: Ino,
        name: &[u8],
    ) -> Outcome<(Ino, Option<Attr>)> {
        let ino = state
            .lookup(parent, name)
            .map_err(crate::error::of_command)?;
        Ok((ino, self.as_known(state, ino)?))
    }

    async fn read_link(&self, ino: Ino) -> Outcome {
        self.barrier().await?;
        Self::link_in(&self.ctx.state(), ino)
    }

    pub(crate) fn link_in(state: &State, ino: Ino) -> Outcome {
        match &state.inode(ino).map_err(crate::error::of_command)?.body {
            Body::Symlink(target) => Ok(Answer::Target(target.clone())),
            _ => Err(FsError::Invalid("not a symbolic link".into())),
        }
    }

    fn stat_fs(&self) -> Outcome {
        let files = self.ctx.state().names.inodes.len() as u64;
        self.space_of(files)
    }

    /// What there is on this member's disk, for a file system of so many files.
    pub(crate) fn space_of(&self, files: u64) -> Outcome {
        const BLOCK: u64 = 4096;
        let (total, free) = self
            .disk
            .space()
            .map(|space| (space.total, space.free))
            .map_err(|error| FsError::Damaged(error.to_string()))?;
        Ok(Answer::StatFs(StatFs {
            block: BLOCK as u32,
            blocks: total / BLOCK,
            free: free / BLOCK,
            files: files + (1 << 32),
            files_free: 1 << 32,
            name_max: 255,
        }))
    }

    pub(crate) fn data_error(error: hydfs_data::DataError) -> FsError {
        of_data(error)
    }

    pub(crate) fn slice(text: &Bytes, offset: u64, len: u32) -> Bytes {
        let start = (offset as usize).min(text.len());
        let end = start.saturating_add(len as usize).min(text.len());
        text.slice(start..end)
    }
}
