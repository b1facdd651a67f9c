//! Names: one command each, decided by the agreement group, so `O_EXCL` and rename have one winner.

use crate::{
    call::Call,
    error::of_command,
    synthetic::{CLUSTER_DIR, Synthetic, read_only},
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, Caller, Capability, FsError, How};
use hydfs_state::Inode;
use hydfs_types::{Attr, Command, Created, FileKind, Ino, JOBS_DIR, ROOT_INO, Reply};
use std::sync::Arc;
use tokio::time::Instant;

/// Times that a file is made anew because the one of that name went before it could be opened.
const CREATE_TRIES: usize = 8;

const STICKY: u16 = 0o1000;

/// Whether somebody may open a file that exists, which the kernel takes for one that this very call makes: it checks nothing
/// of it. Only where there is no doubt: rules for directories that are shared are not known here, and a truncate clears
/// set-id bits.
fn surely_opens(caller: Caller, dir: &Attr, inode: &Inode, how: How) -> bool {
    let attr = &inode.attr;
    let wanted = (u16::from(how.read) << 2) | (u16::from(how.write || how.truncate) << 1);
    let is_granted = || inode.grants(caller.uid, |gid| caller.is_in(gid), wanted);
    attr.kind == FileKind::Regular
        && (attr.uid == caller.uid || dir.mode & STICKY == 0)
        && !(how.truncate && attr.has_set_id())
        && (is_granted() || caller.has(Capability::OverrideAccess))
}

impl Volume {
    /// The control tree cannot be changed, and its name in the root is taken.
    fn writable(parent: Ino, name: &[u8]) -> Outcome<()> {
        if Synthetic::is(parent) || parent == ROOT_INO && name == CLUSTER_DIR {
            return Err(read_only());
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn make(
        &self,
        call: &Call,
        caller: Caller,
        parent: Ino,
        name: Vec<u8>,
        kind: FileKind,
        (mode, umask): (u16, u16),
        rdev: u32,
        target: Vec<u8>,
    ) -> Outcome {
        Self::writable(parent, &name)?;
        let command = Command::Create {
            parent,
            name,
            kind,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            rdev,
            target,
            grant: None,
            umask,
        };
        Self::attr_of(self.propose_for(call, command).await?).map(Answer::Attr)
    }

    /// Makes and opens a regular file: one command gives name, inode, writer and first segment.
    pub(crate) async fn create(
        &self,
        call: &Call,
        caller: Caller,
        parent: Ino,
        name: Vec<u8>,
        (mode, umask): (u16, u16),
        how: How,
    ) -> Outcome {
        if Synthetic::is(parent) {
            return self.create_control(parent, &name, how);
        }
        Self::writable(parent, &name)?;
        let grant = how.write.then(|| self.ctx.me());
        let command = Command::Create {
            parent,
            name: name.clone(),
            kind: FileKind::Regular,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            rdev: 0,
            target: Vec::new(),
            grant,
            umask,
        };
        for _ in 0..CREATE_TRIES {
            let asked = Instant::now();
            match self.propose_for(call, command.clone()).await {
                Ok(Reply::Created(created)) => {
                    self.recent
                        .note(created.attr.ino, created.attr.ctime, asked);
                    return self.open_new(call, created, how).await;
                }
                Ok(other) => {
                    return Err(FsError::Unreachable(format!(
                        "unexpected answer of the agreement group: {other:?}"
                    )));
                }
                Err(FsError::Exists) if !how.exclusive => {
                    if let Some(opened) = self
                        .open_instead(call, caller, (parent, &name), how)
                        .await?
                    {
                        return Ok(opened);
                    }
                    self.forget_command(call);
                }
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Stale)
    }

    /// Opens what a command of this call has made.
    async fn open_new(&self, call: &Call, created: Created, how: How) -> Outcome {
        let ino = created.attr.ino;
        let handle = self.table.open(ino, how, None, call)?;
        if let Some(granted) = created.grant {
            let gate = self.table.with(ino, |used| used.gate.clone());
            let _turn = gate.lock().await;
            let writer = Arc::new(self.data.writer(ino, granted.writer));
            // Granted to an earlier worker it has ended with it.
            if writer.is_open() && self.table.writer(ino).is_none() {
                self.table.take_up(&writer);
            }
        }
        Ok(Answer::Created(created.attr, Self::opened(handle, how)))
    }

    /// Opens what somebody else has made under that name; `None` if it is gone again.
    async fn open_instead(
        &self,
        call: &Call,
        caller: Caller,
        (parent, name): (Ino, &[u8]),
        how: How,
    ) -> Outcome<Option<Answer>> {
        let (attr, may_open) = {
            let state = self.ctx.state();
            let dir = state.inode(parent).map_err(of_command)?.attr;
            let found = state.lookup(parent, name).and_then(|ino| state.inode(ino));
            let Ok(inode) = found else { return Ok(None) };
            (inode.attr, surely_opens(caller, &dir, inode, how))
        };
        if attr.kind == FileKind::Directory {
            return Err(FsError::IsDirectory);
        }
        if !may_open {
            // The kernel looks the name up again, and then checks.
            return Err(FsError::Stale);
        }
        let ino = attr.ino;
        // The identity of this call is that of the creation.
        match self.open(call, &Call::once(), ino, how).await {
            Ok(opened) => Ok(Some(Answer::Created(self.peeked(ino).await?, opened))),
            Err(FsError::Stale) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn link(&self, call: &Call, ino: Ino, parent: Ino, name: Vec<u8>) -> Outcome {
        Self::writable(parent, &name)?;
        if Synthetic::is(ino) {
            return Err(FsError::NotPermitted("control files have one name".into()));
        }
        let command = Command::Link { ino, parent, name };
        let agreed = Self::attr_of(self.propose_for(call, command).await?)?;
        let attr = self.changed_attr(ino, Some(agreed)).await;
        attr.map(Answer::Attr)
    }

    /// The kernel's unlink or rmdir: it drops its entry itself.
    pub(crate) async fn take_away(
        &self,
        call: &Call,
        caller: Caller,
        parent: Ino,
        name: Vec<u8>,
        dir: bool,
    ) -> Outcome {
        let mut going = self.going(parent, &name);
        let user = self.bound_user(caller, &[parent]);
        let done = self.unlink(call, user, parent, name, dir).await;
        going.gone = done.is_ok();
        done
    }

    pub(crate) async fn unlink(
        &self,
        call: &Call,
        user: Option<u32>,
        parent: Ino,
        name: Vec<u8>,
        dir: bool,
    ) -> Outcome {
        if Synthetic::is(parent) && !dir {
            return self.remove_control(parent, &name).map(|()| Answer::Done);
        }
        Self::writable(parent, &name)?;
        if !dir && self.is_control(parent, &name) {
            // The status of a job is made when it is read and goes with its directory: `rm -r` need not trip over it.
            return Ok(Answer::Done);
        }
        let command = match user {
            Some(caller) => Command::UnlinkAs {
                parent,
                name,
                dir,
                caller,
            },
            None => Command::Unlink { parent, name, dir },
        };
        let done = self.propose_for(call, command).await;
        done.map(|_| Answer::Done)
    }

    /// A user whose right to take something out of these directories is judged when that is applied: the kernel has judged
    /// it by owners that it had.
    fn bound_user(&self, caller: Caller, dirs: &[Ino]) -> Option<u32> {
        if caller.uid == 0 {
            return None;
        }
        let is_sticky = |dir: &Ino| {
            let state = self.ctx.state();
            let dir = state.inode(*dir);
            dir.is_ok_and(|dir| dir.attr.mode & STICKY != 0)
        };
        // What it may do is looked at only where that counts.
        let free = dirs.iter().any(is_sticky) && caller.has(Capability::FileOwner);
        (!free).then_some(caller.uid)
    }

    pub(crate) async fn rename(
        self: &Arc<Self>,
        call: &Call,
        caller: Caller,
        (parent, name): (Ino, Vec<u8>),
        (to_parent, to_name): (Ino, Vec<u8>),
        (no_replace, exchange): (bool, bool),
    ) -> Outcome {
        Self::writable(parent, &name)?;
        Self::writable(to_parent, &to_name)?;
        let target = (to_parent, to_name.clone());
        let command = match self.bound_user(caller, &[parent, to_parent]) {
            Some(caller) => Command::RenameAs {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
                caller,
            },
            None => Command::Rename {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
            },
        };
        self.propose_for(call, command).await?;
        let in_jobs = self
            .ctx
            .state()
            .lookup(ROOT_INO, JOBS_DIR)
            .is_ok_and(|jobs| jobs == target.0);
        if in_jobs && let Ok(name) = String::from_utf8(target.1) {
            let ino = self.ctx.state().lookup(target.0, name.as_bytes()).ok();
            let volume = self.clone();
            tokio::spawn(async move {
                // As when a spec is closed: what wrote it ends now, not after the usual pause.
                volume.end(ino.into_iter().collect()).await;
                volume.tell_jobs(&format!("/.jobs/{name}"));
            });
        }
        Ok(Answer::Done)
    }

    /// Makes an inode on somebody's behalf, for the stream processor.
    pub async fn make_owned(
        &self,
        parent: Ino,
        name: &[u8],
        kind: FileKind,
        mode: u16,
        uid: u32,
        gid: u32,
    ) -> Outcome<Attr> {
        let command = Command::Create {
            parent,
            name: name.to_vec(),
            kind,
            mode,
            uid,
            gid,
            rdev: 0,
            target: Vec::new(),
            grant: None,
            umask: 0,
        };
        Self::attr_of(self.propose(command).await?)
    }

    /// Removes a name that is no directory.
    pub async fn remove(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        let call = Call::once();
        self.unlink(&call, None, parent, name.to_vec(), false)
            .await
            .map(|_| ())
    }

    /// All names of a directory, with their agreed attributes.
    pub async fn names_in(&self, dir: Ino) -> Outcome<Vec<(Vec<u8>, Attr)>> {
        self.barrier().await?;
        let state = self.ctx.state();
        let mut all = Vec::new();
        let mut cookie = 0;
        loop {
            let some = state.read_dir(dir, cookie, 1024).map_err(of_command)?;
            let Some(last) = some.last() else {
                return Ok(all);
            };
            cookie = last.cookie;
            for entry in some {
                if let Ok(inode) = state.inode(entry.ino) {
                    all.push((entry.name, inode.attr));
                }
            }
        }
    }
}
