//! Users who write whole blocks of a file in place, cut the file, and read all of it, and the judge of what they saw:
//! every block is a linearizable register, and no write is torn. Each write ends with an fsync, so that what is said to
//! be done outlives even a power cut of all machines. One file is everybody's; each machine has one that it alone writes,
//! in short turns, and reads, while its neighbour reads it: cuts by readers, by a writer that ends alone and by truncates follow each
//! other there.

use crate::{
    history::{Finding, History, Object},
    kernel::{Ask, Kernel, call},
};
use bytes::Bytes;
use hydfs_mount::{Answer, Change, FsError, Handle, How, Request};
use hydfs_types::{Ino, ROOT_INO};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};

const BLOCKS: usize = 4;
const BLOCK_BYTES: usize = 64;
/// A user who was answered with an error comes back after this.
const AGAIN: Duration = Duration::from_millis(500);

/// A call on one block. A tag is of one write only; 0 is what was never written, or cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write(u64),
    Cut,
    Read(u64),
}

/// One block, and the tags that somebody read of it.
struct Block {
    read: BTreeSet<u64>,
}

impl Object for Block {
    type State = u64;
    type Call = Call;

    fn after(&self, _: u64, state: &u64, call: &Call) -> Option<u64> {
        match call {
            Call::Write(tag) => Some(*tag),
            Call::Cut => Some(0),
            Call::Read(tag) => (state == tag).then_some(*state),
        }
    }

    fn is_unseen(&self, call: &Call) -> bool {
        matches!(call, Call::Write(tag) if !self.read.contains(tag))
    }
}

#[derive(Default)]
struct Log {
    blocks: [History<Call>; BLOCKS],
    tags: u64,
    torn: Vec<String>,
}

/// What a user does with the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Reads mostly, writes and cuts, over open files.
    Everything,
    /// Writes, reads and cuts, and closes soon.
    Writes,
    Reads,
}

/// What all users of one file's blocks did.
#[derive(Clone)]
pub struct Blocks {
    name: String,
    log: Arc<Mutex<Log>>,
    /// Rung when a write is answered: whoever reads then sees it, or it was answered too early.
    written: Arc<Notify>,
}

/// An open file.
#[derive(Clone, Copy)]
struct Open {
    ino: Ino,
    handle: Handle,
}

impl Blocks {
    /// Nobody has used the file of this name yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            log: Arc::default(),
            written: Arc::default(),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls on blocks so far.
    pub fn calls(&self) -> u64 {
        let log = self.log();
        log.blocks.iter().map(|block| block.len() as u64).sum()
    }

    /// What was found wrong, and whether everything was judged.
    pub fn judge(&self) -> (Vec<String>, bool) {
        let log = self.log();
        let mut wrong = log.torn.clone();
        let mut judged = true;
        for (at, block) in log.blocks.iter().enumerate() {
            let read = |call: &Call| match call {
                Call::Read(tag) => Some(*tag),
                _ => None,
            };
            let read = block.calls().filter_map(read).collect();
            match block.check(&Block { read }) {
                Finding::Fine => {}
                Finding::GivenUp => judged = false,
                Finding::Broken(why) => {
                    wrong.push(format!("{} {at} is not linearizable: {why}", self.name));
                }
            }
        }
        (wrong, judged)
    }

    async fn write(&self, mount: &dyn Ask, open: Open, rng: &mut SmallRng) -> Result<(), FsError> {
        let block = rng.random_range(0..BLOCKS);
        let (number, tag) = {
            let mut log = self.log();
            log.tags += 1;
            let tag = log.tags;
            (log.blocks[block].begin(Call::Write(tag)), tag)
        };
        let Open { ino, handle } = open;
        let request = Request::Write {
            ino,
            handle,
            offset: (block * BLOCK_BYTES) as u64,
            data: Bytes::from(tag.to_le_bytes().repeat(BLOCK_BYTES / 8)),
            append: false,
            sync: false,
        };
        let by = mount.member().ctx.me();
        call(mount, request).await?;
        self.log().blocks[block].answered(number);
        self.written.notify_waiters();
        call(mount, Request::Sync { ino, handle }).await?;
        // What was answered counts from then on, unless its member was expired meanwhile: then others may have missed it (R10).
        let mut log = self.log();
        if mount.member().ctx.me() == by {
            log.blocks[block].confirm(number);
        } else {
            log.blocks[block].end(number, Call::Write(tag));
        }
        Ok(())
    }

    async fn cut(&self, mount: &dyn Ask, open: Open, rng: &mut SmallRng) -> Result<(), FsError> {
        let kept = rng.random_range(0..BLOCKS);
        let begun: Vec<(usize, u64)> = {
            let mut log = self.log();
            (kept..BLOCKS)
                .map(|at| (at, log.blocks[at].begin(Call::Cut)))
                .collect()
        };
        let set = Change {
            size: Some((kept * BLOCK_BYTES) as u64),
            ..Change::default()
        };
        let request = Request::SetAttr {
            ino: open.ino,
            handle: Some(open.handle),
            set,
        };
        call(mount, request).await?;
        let mut log = self.log();
        for (at, number) in begun {
            log.blocks[at].end(number, Call::Cut);
        }
        Ok(())
    }

    async fn read(&self, mount: &dyn Ask, open: Open) -> Result<(), FsError> {
        let begun: Vec<u64> = {
            let mut log = self.log();
            let begin = |block: &mut History<Call>| block.begin(Call::Read(0));
            log.blocks.iter_mut().map(begin).collect()
        };
        let request = Request::Read {
            ino: open.ino,
            handle: open.handle,
            offset: 0,
            len: (BLOCKS * BLOCK_BYTES) as u32,
        };
        let answer = call(mount, request).await;
        let mut log = self.log();
        let data = match answer {
            Ok(Answer::Data(data)) => data,
            other => {
                for (at, number) in begun.into_iter().enumerate() {
                    log.blocks[at].forget(number);
                }
                return other.and_then(|other| {
                    Err(FsError::Invalid(format!("unexpected answer {other:?}")))
                });
            }
        };
        for (at, number) in begun.into_iter().enumerate() {
            let block = data.get(at * BLOCK_BYTES..).unwrap_or_default();
            let (words, rest) = block[..block.len().min(BLOCK_BYTES)].as_chunks::<8>();
            let tag = words.first().map_or(0, |word| u64::from_le_bytes(*word));
            let whole = block.is_empty() || block.len() >= BLOCK_BYTES && rest.is_empty();
            if !whole || words.iter().any(|word| u64::from_le_bytes(*word) != tag) {
                let torn = format!("{} {at} is torn: {words:?}", self.name);
                log.torn.push(torn);
            }
            log.blocks[at].end(number, Call::Read(tag));
        }
        Ok(())
    }
}

async fn open(mount: &dyn Ask, name: &str) -> Result<Open, FsError> {
    let how = How {
        read: true,
        write: true,
        ..How::default()
    };
    let request = Request::Create {
        parent: ROOT_INO,
        name: name.as_bytes().to_vec(),
        mode: 0o644,
        umask: 0,
        how,
    };
    match call(mount, request).await? {
        Answer::Created(attr, opened) => Ok(Open {
            ino: attr.ino,
            handle: opened.handle,
        }),
        other => Err(FsError::Invalid(format!("unexpected answer {other:?}"))),
    }
}

/// Uses the blocks until told to stop.
pub async fn use_blocks(
    mount: Arc<Kernel>,
    blocks: Blocks,
    part: Part,
    pause_millis: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let Ok(file) = open(&*mount, &blocks.name).await else {
            sleep(AGAIN).await;
            continue;
        };
        let calls = match part {
            Part::Everything => 1..20,
            Part::Writes => 1..5,
            Part::Reads => 1..10,
        };
        for _ in 0..rng.random_range(calls) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let pause = sleep(Duration::from_millis(rng.random_range(0..=pause_millis)));
            if part == Part::Reads {
                tokio::select! {
                    () = blocks.written.notified() => {}
                    () = pause => {}
                }
            } else {
                pause.await;
            }
            let done = match (part, rng.random_range(0..24)) {
                (Part::Everything, 0..8) | (Part::Writes, 0..14) => {
                    blocks.write(&*mount, file, &mut rng).await
                }
                (Part::Everything, 8) | (Part::Writes, 18..) => {
                    blocks.cut(&*mount, file, &mut rng).await
                }
                _ => blocks.read(&*mount, file).await,
            };
            if let Err(error) = done {
                tracing::debug!(%error, "a call on a block failed");
                sleep(AGAIN).await;
                break;
            }
        }
        let Open { ino, handle } = file;
        call(
            &*mount,
            Request::Flush {
                ino,
                handle,
                owner: None,
            },
        )
        .await
        .ok();
        call(&*mount, Request::Release { ino, handle }).await.ok();
    }
}
