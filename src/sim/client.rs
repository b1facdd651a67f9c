//! Users of the simulated file system: writers that append numbered lines to one file, readers that read all of it.

use crate::{
    kernel::{Ask, Kernel, call},
    oracle::{Oracle, line},
};
use bytes::Bytes;
use hydfs_mount::{Answer, FsError, Handle, How, Request};
use hydfs_types::{Ino, ROOT_INO};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

/// The file that all write to.
pub const FILE: &[u8] = b"log";
const READ_BYTES: u32 = 1 << 20;
/// A user who was answered with an error comes back after this.
const AGAIN: Duration = Duration::from_millis(200);

/// How users behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// Longest pause between two writes or reads.
    pub pause_millis: u64,
    /// Most bytes of a line besides its name.
    pub padding: usize,
    /// One of this many writes is followed by an fsync.
    pub sync_one_in: u64,
    /// One of this many writes is followed by close and open.
    pub reopen_one_in: u64,
    /// Longest pause between two calls of those who use names and blocks, if there are any.
    pub others_millis: Option<u64>,
}

fn unexpected(answer: Answer) -> FsError {
    FsError::Invalid(format!("unexpected answer {answer:?}"))
}

/// Opens the file, which is made where it is not there.
pub async fn open(mount: &dyn Ask, how: How) -> Result<(Ino, Handle), FsError> {
    let request = Request::Create {
        parent: ROOT_INO,
        name: FILE.to_vec(),
        mode: 0o644,
        umask: 0,
        how,
    };
    match call(mount, request).await? {
        Answer::Created(attr, opened) => Ok((attr.ino, opened.handle)),
        other => Err(unexpected(other)),
    }
}

/// Appends until told to stop.
pub async fn write_lines(
    mount: Arc<Kernel>,
    name: String,
    oracle: Oracle,
    habits: Habits,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let how = How {
        write: true,
        append: true,
        ..How::default()
    };
    while !stop.load(Ordering::Relaxed) {
        let Ok((ino, handle)) = open(&*mount, how).await else {
            sleep(AGAIN).await;
            continue;
        };
        loop {
            let number = oracle.attempt(&name);
            let by = mount.member().ctx.me();
            let data = Bytes::from(line(&name, number, rng.random_range(0..=habits.padding)));
            match call(
                &*mount,
                Request::Write {
                    ino,
                    handle,
                    offset: 0,
                    data,
                    append: true,
                    sync: false,
                },
            )
            .await
            {
                Ok(_) => oracle.acknowledged(&name, number, by),
                Err(error) => {
                    tracing::debug!(name, number, %error, "a write failed");
                    oracle.unknown();
                    sleep(AGAIN).await;
                }
            }
            if rng.random_range(0..habits.sync_one_in) == 0
                && call(&*mount, Request::Sync { ino, handle }).await.is_ok()
            {
                oracle.durable(&name, number);
                oracle.settled(&name, number);
            }
            sleep(Duration::from_millis(
                rng.random_range(0..=habits.pause_millis),
            ))
            .await;
            if stop.load(Ordering::Relaxed) || rng.random_range(0..habits.reopen_one_in) == 0 {
                break;
            }
        }
        let flush = Request::Flush {
            ino,
            handle,
            owner: None,
        };
        if call(&*mount, flush).await.is_ok() {
            oracle.settled(&name, oracle.attempted(&name));
        }
        call(&*mount, Request::Release { ino, handle }).await.ok();
    }
}

/// Reads the whole file over and over until told to stop.
pub async fn read_all_the_time(
    mount: Arc<Kernel>,
    name: String,
    oracle: Oracle,
    habits: Habits,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(
            rng.random_range(0..=4 * habits.pause_millis),
        ))
        .await;
        read_once(&*mount, &name, &oracle).await.ok();
    }
}

/// One read of everything, judged. Its last call says where the file ends: everything that was acknowledged before that
/// call began is in what was read.
pub async fn read_once(mount: &dyn Ask, name: &str, oracle: &Oracle) -> Result<Vec<u8>, FsError> {
    let mut promised = oracle.promised();
    let read = read_file(mount, FILE, || promised = oracle.promised()).await;
    match &read {
        Ok(content) => {
            let member = mount.member();
            let state = member.ctx.state();
            let alive = &state.cluster.alive;
            let newest = alive.keys().next_back().copied().unwrap_or_default();
            oracle.forget_unsettled(|by| alive.contains_key(&by) || by > newest);
            oracle.read(name, content, &promised);
        }
        Err(FsError::NotFound) if promised.is_empty() => {}
        Err(error) => {
            tracing::debug!(name, %error, "a read failed");
            oracle.read_failed();
        }
    }
    read
}

/// All of a file in the root, as [`read_whole`].
pub async fn read_file(
    mount: &dyn Ask,
    name: &[u8],
    asks: impl FnMut(),
) -> Result<Vec<u8>, FsError> {
    let Answer::Attr(attr) = call(
        mount,
        Request::Lookup {
            parent: ROOT_INO,
            name: name.to_vec(),
        },
    )
    .await?
    else {
        return Err(FsError::NotFound);
    };
    read_whole(mount, attr.ino, asks).await
}

/// All of a file; `asks` is called before each request for bytes: what the last of them follows is in what is read.
pub async fn read_whole(
    mount: &dyn Ask,
    ino: Ino,
    mut asks: impl FnMut(),
) -> Result<Vec<u8>, FsError> {
    let how = How {
        read: true,
        ..How::default()
    };
    let handle = match call(mount, Request::Open { ino, how }).await? {
        Answer::Opened(opened) => opened.handle,
        other => return Err(unexpected(other)),
    };
    let mut all = Vec::new();
    let outcome = loop {
        asks();
        match call(
            mount,
            Request::Read {
                ino,
                handle,
                offset: all.len() as u64,
                len: READ_BYTES,
            },
        )
        .await
        {
            Ok(Answer::Data(data)) if data.is_empty() => break Ok(()),
            Ok(Answer::Data(data)) => all.extend_from_slice(&data),
            Ok(other) => break Err(unexpected(other)),
            Err(error) => break Err(error),
        }
    };
    call(mount, Request::Release { ino, handle }).await.ok();
    outcome.map(|()| all)
}
