//! The kernel of a simulated machine as far as a mount is concerned: it outlives the workers that serve it. A request that
//! had no answer when its worker died is sent again to the next one, as after FUSE_NOTIFY_RESEND, before any new request.
//!
//! What a dead worker's tasks still do reaches nobody: each worker gets a memory file of its own, made of what the one before
//! had in its memory file at the moment of its death.

use hydfs_fs::Mounted;
use hydfs_memory::Memory;
use hydfs_mount::{Answer, Caller, FileSystem, FsError, Request};
use hydfs_node::Member;
use hydfs_types::BoxFuture;
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Set in the number of a request that is sent again.
const SENT_AGAIN: u64 = 1 << 63;
const COPY_BYTES: usize = 1 << 20;

/// Whoever answers requests: a member itself, or the kernel of the machine that it runs on.
pub trait Ask: Sync {
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, FsError>>;
    /// The member that answers, or did last.
    fn member(&self) -> Arc<Member>;
}

/// One file-system call.
pub async fn call(mount: &dyn Ask, request: Request) -> Result<Answer, FsError> {
    mount.ask(request).await
}

impl Ask for Arc<Member> {
    /// Of somebody who does not ask again.
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, FsError>> {
        Box::pin(answer(self, 0, request))
    }

    fn member(&self) -> Self {
        self.clone()
    }
}

/// A machine's kernel from the mount on.
pub struct Kernel {
    state: Mutex<State>,
    /// Counts the changes of who serves.
    changes: watch::Sender<u64>,
}

struct State {
    memory: File,
    serves: Option<Arc<Member>>,
    last: Option<Arc<Member>>,
    issued: u64,
    /// Requests that some worker has read and not answered.
    in_hand: BTreeSet<u64>,
    /// It is unmounted.
    over: bool,
}

impl Kernel {
    pub fn mount() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                memory: hydfs_memory::create()?,
                serves: None,
                last: None,
                issued: 0,
                in_hand: BTreeSet::new(),
                over: false,
            }),
            changes: watch::Sender::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory file, for the next worker.
    pub fn memory(&self) -> Arc<Memory> {
        let file = self.state().memory.try_clone();
        let file = file.expect("a descriptor is free");
        Memory::open(file.into()).expect("a worker leaves a memory file that can be read")
    }

    /// How far the journal of its last worker went, as the next one will see it.
    pub fn journal_end(&self) -> Option<u64> {
        hydfs_memory::journal_end(&self.state().memory).expect("a memory file can be read")
    }

    /// A worker serves from now on.
    pub fn serve(&self, member: &Arc<Member>) {
        if let Some(memory) = &member.memory {
            memory.set_ready();
        }
        let fs = Mounted(member.volume.clone());
        let mut state = self.state();
        for unique in &state.in_hand {
            fs.arrived(unique | SENT_AGAIN);
        }
        // Production says so at the first new request; nothing comes in between.
        fs.caught_up();
        state.serves = Some(member.clone());
        state.last = state.serves.clone();
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The worker is dead.
    pub fn lose_worker(&self) {
        let mut state = self.state();
        state.serves = None;
        state.memory = copy(&state.memory).expect("memory for a memory file");
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The machine goes down, or its supervisor is dead.
    pub fn unmount(&self) {
        let mut state = self.state();
        (state.serves, state.over) = (None, true);
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    async fn sent(&self, request: Request) -> Result<Answer, FsError> {
        let mut changes = self.changes.subscribe();
        let mut unique = {
            let mut state = self.state();
            state.issued += 2;
            state.issued
        };
        loop {
            changes.mark_unchanged();
            let serves = {
                let mut state = self.state();
                if state.over {
                    return Err(FsError::Unreachable("the mount is gone".into()));
                }
                let serves = state.serves.clone();
                if serves.is_some() {
                    state.in_hand.insert(unique & !SENT_AGAIN);
                }
                serves
            };
            let Some(member) = serves else {
                // It waits in the kernel; an error says that the kernel is gone.
                if changes.changed().await.is_err() {
                    return Err(FsError::Unreachable("the mount is gone".into()));
                }
                continue;
            };
            if unique & SENT_AGAIN == 0 {
                Mounted(member.volume.clone()).arrived(unique);
            }
            tokio::select! {
                biased;
                _ = changes.changed() => unique |= SENT_AGAIN,
                answer = answer(&member, unique, request.clone()) => {
                    self.state().in_hand.remove(&(unique & !SENT_AGAIN));
                    Mounted(member.volume.clone()).replied(unique);
                    return answer;
                }
            }
        }
    }
}

impl Ask for Kernel {
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, FsError>> {
        Box::pin(self.sent(request))
    }

    fn member(&self) -> Arc<Member> {
        let last = self.state().last.clone();
        last.expect("users begin when a worker serves")
    }
}

/// One request to a worker, as root, under the deadline that a mount has.
async fn answer(member: &Arc<Member>, unique: u64, request: Request) -> Result<Answer, FsError> {
    let caller = Caller {
        uid: 0,
        gid: 0,
        pid: 1,
        unique,
    };
    let fs = Mounted(member.volume.clone());
    // As a mount does: what is at hand takes no task.
    if let Some(answer) = fs.call_now(caller, &request) {
        return answer;
    }
    let name = request.name();
    let late = |_| {
        Err(FsError::TimedOut(format!(
            "{name} took longer than a mount waits"
        )))
    };
    tokio::time::timeout(member.config.op_timeout, fs.call(caller, request))
        .await
        .unwrap_or_else(late)
}

fn copy(from: &File) -> io::Result<File> {
    let to = hydfs_memory::create()?;
    let mut piece = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let len = from.read_at(&mut piece, at)?;
        if len == 0 {
            return Ok(to);
        }
        if piece[..len].iter().any(|byte| *byte != 0) {
            to.write_all_at(&piece[..len], at)?;
        }
        at += len as u64;
    }
}
