//! RainStorm's seams over this member: files through the volume in-process, members and jobs through the agreed state.
//!
//! RainStorm computes on a runtime of its own, a simulated one on the member's; everything that touches the data plane is
//! handed to the member's core runtime, where the rules of the data plane hold.

use crate::{
    Error,
    audits::Audits,
    home::Home,
    member::Member,
    rights::{ensure, may, may_write, split, walk},
    seams::Streams,
    workers::Members,
};
use bytes::Bytes;
use hydfs_control::Audit;
use hydfs_data::{Draft, FileWriter, Target};
use hydfs_fs::Volume;
use hydfs_mount::FsError;
use hydfs_state::Body;
use hydfs_types::{
    Agreement, AgreementError, Attempt, Attr, BoxFuture, Command, CommandError, FileKind, Frame,
    Ino, JobId, MemberId, Op, Peer, Reply, Seq, WriterId,
};
use rainstorm::{Entry, Far, Owner, Rainstorm, Sink, Source, Storage, StorageError, StorageResult};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{runtime, sync::watch};

/// Longest wait of a storage call.
const CALL: Duration = Duration::from_secs(29);

/// RainStorm on this member.
pub struct Streaming {
    rainstorm: Arc<Rainstorm>,
    audits: Arc<Audits>,
    /// `None` once it has stopped.
    home: Mutex<Option<Home>>,
}

impl Streaming {
    /// Starts it beside the member, if it shall run.
    pub fn start(member: &Arc<Member>, streams: &Streams) -> Result<Option<Arc<Self>>, Error> {
        let Some((home, mut options)) = Home::of(streams, &member.config)? else {
            return Ok(None);
        };
        options.allow_root_jobs = member.config.allow_root_jobs;
        let storage = Arc::new(Files {
            volume: member.volume.clone(),
            member: member.clone(),
            core: runtime::Handle::current(),
            writers: Mutex::default(),
        });
        let cluster = Arc::new(Members {
            member: member.clone(),
            leader: follow_leader(member),
        });
        let guard = home.handle().enter();
        let rainstorm = Rainstorm::start(storage, cluster, options);
        drop(guard);
        let closed = rainstorm.clone();
        member
            .volume
            .set_job_hook(Arc::new(move |path| closed.spec_closed(path)));
        Ok(Some(Arc::new(Self {
            rainstorm,
            audits: Arc::default(),
            home: Mutex::new(Some(home)),
        })))
    }

    fn home(&self) -> MutexGuard<'_, Option<Home>> {
        self.home
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Answers a frame of another member.
    pub async fn serve(&self, member: &Member, from: Peer, frame: Frame) -> Frame {
        let service = frame.service;
        let from = from
            .member
            .or_else(|| {
                member
                    .ctx
                    .state()
                    .member_named(&from.name)
                    .map(|one| one.id)
            })
            .unwrap_or_default();
        let answer = {
            let home = self.home();
            home.as_ref()
                .map(|home| home.handle().spawn(self.rainstorm.serve(from, frame)))
        };
        match answer {
            Some(task) => task.await.unwrap_or(Frame {
                service,
                head: Bytes::new(),
                body: Bytes::new(),
            }),
            None => Frame {
                service,
                head: Bytes::new(),
                body: Bytes::new(),
            },
        }
    }

    /// Whether a spec would start if this user dropped it now.
    pub async fn check(
        &self,
        uid: u32,
        gid: u32,
        path: &str,
        spec: String,
    ) -> Result<(), hydfs_control::Error> {
        use hydfs_control::{Error, Kind};
        let checked = self.rainstorm.check(path, Owner { uid, gid }, spec);
        match tokio::time::timeout(CALL, checked).await {
            Ok(checked) => checked.map_err(|error| of_job(&error)),
            Err(_) => {
                let why = format!(
                    "{path}: the sources cannot be looked at in {CALL:?}: see `hydfs status`"
                );
                Err(Error::new(Kind::TimedOut, why))
            }
        }
    }

    /// Checks a job against its receipt, or says how far that is.
    pub async fn audit(&self, name: &str) -> Result<Audit, hydfs_control::Error> {
        use hydfs_control::{Error, Kind};
        let home = self.home().as_ref().map(|home| home.handle().clone());
        let home = home.ok_or_else(|| Error::new(Kind::Busy, "this member is stopping"))?;
        let (rainstorm, job) = (self.rainstorm.clone(), name.to_owned());
        // Checksums of all input and output are not for the core thread.
        let begin = |far: Arc<Far>| -> BoxFuture<'static, _> {
            Box::pin(async move { rainstorm.audit_seen(&job, &far).await })
        };
        self.audits.ask(&home, name, begin).await
    }

    /// Stops tasks and their processes.
    pub fn shut_down(&self) {
        self.rainstorm.shutdown();
        if let Some(home) = self.home().take() {
            home.end();
        }
    }
}

/// The leader, named as this member only once the local state is as new as its leadership.
fn follow_leader(member: &Arc<Member>) -> watch::Receiver<Option<MemberId>> {
    let (told, leader) = watch::channel(None);
    let member = member.clone();
    let mut leadership = member.group.watch_leader();
    tokio::spawn(async move {
        loop {
            let now = leadership.borrow_and_update().1;
            if now != Some(member.id()) || member.group.barrier().await.is_ok() {
                told.send_replace(now);
            } else {
                told.send_replace(None);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            if leadership.changed().await.is_err() {
                return;
            }
        }
    });
    leader
}

/// [`Storage`] over the volume.
struct Files {
    volume: Arc<Volume>,
    member: Arc<Member>,
    core: runtime::Handle,
    writers: Mutex<BTreeMap<WriterId, Arc<Output>>>,
}

/// A task's writer of a file, and what is left of its room below quotas.
struct Output {
    writer: FileWriter,
    room: AtomicU64,
}

impl Output {
    /// Takes room for so many bytes. Whoever writes does one thing at a time.
    async fn have_room(&self, volume: &Volume, bytes: u64) -> Result<(), FsError> {
        let left = self.room.load(Relaxed);
        let more = match left < bytes {
            true => volume.room_for(&self.writer, bytes - left).await?,
            false => 0,
        };
        self.room
            .store(left.saturating_add(more).saturating_sub(bytes), Relaxed);
        Ok(())
    }
}

impl Files {
    /// Runs on the core runtime, under the deadline of every call.
    fn on_core<T: Send + 'static>(
        &self,
        work: impl Future<Output = StorageResult<T>> + Send + 'static,
    ) -> BoxFuture<'static, StorageResult<T>> {
        let task = self.core.spawn(async move {
            let late = || StorageError::Unavailable("no answer in time".into());
            tokio::time::timeout(CALL, work)
                .await
                .unwrap_or_else(|_| Err(late()))
        });
        Box::pin(async move {
            task.await
                .unwrap_or_else(|error| Err(StorageError::Unavailable(error.to_string())))
        })
    }

    fn writers(&self) -> MutexGuard<'_, BTreeMap<WriterId, Arc<Output>>> {
        self.writers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn output(&self, sink: &Sink) -> Option<Arc<Output>> {
        self.writers().get(&sink.id).cloned()
    }
}

pub(crate) fn of_fs(path: &str, error: FsError) -> StorageError {
    match error {
        FsError::NotFound | FsError::Stale => StorageError::NotFound(path.into()),
        FsError::Denied | FsError::NotPermitted(_) => StorageError::Denied(path.into()),
        FsError::Exists
        | FsError::IsDirectory
        | FsError::NotDirectory
        | FsError::NameTooLong
        | FsError::Invalid(_) => StorageError::Invalid(format!("{path}: {error}")),
        other => StorageError::Unavailable(format!("{path}: {other}")),
    }
}

fn entry(volume: &Volume, name: &str, attr: &Attr) -> Entry {
    let state = volume.state();
    let inode = state.inode(attr.ino).ok();
    let busy = inode
        .is_some_and(|inode| matches!(&inode.body, Body::File(file) if !file.writers.is_empty()));
    Entry {
        name: name.into(),
        is_text: true,
        ino: attr.ino,
        kind: attr.kind,
        generation: inode.map_or(0, |inode| inode.data_version),
        size: inode.map_or(attr.size, |inode| inode.attr.size),
        uid: attr.uid,
        gid: attr.gid,
        busy,
    }
}

/// Merges what nobody writes any more and nobody has read yet: until then the agreed size does not have it.
async fn settle(volume: &Volume, attr: &Attr) {
    let pending = {
        let state = volume.state();
        let written = state
            .inode(attr.ino)
            .is_ok_and(|inode| matches!(&inode.body, Body::File(file) if !file.writers.is_empty()));
        !written && !state.is_clean_file(attr.ino)
    };
    if pending && let Err(error) = volume.settle(attr.ino).await {
        tracing::debug!(ino = %attr.ino, %error, "its agreed size is listed, a later list has the merged one");
    }
}

impl Storage for Files {
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StorageResult<Vec<Entry>>> {
        let (volume, dir) = (self.volume.clone(), dir.to_owned());
        self.on_core(async move {
            let attr = walk(&volume, &dir, Owner::ROOT).await?;
            let names = volume
                .names_in(attr.ino)
                .await
                .map_err(|error| of_fs(&dir, error))?;
            let mut entries = Vec::with_capacity(names.len());
            for (name, attr) in names {
                settle(&volume, &attr).await;
                let text = String::from_utf8_lossy(&name);
                entries.push(Entry {
                    is_text: matches!(text, Cow::Borrowed(_)),
                    ..entry(&volume, &text, &attr)
                });
            }
            Ok(entries)
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, StorageResult<Entry>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            let attr = walk(&volume, &path, Owner::ROOT).await?;
            Ok(entry(&volume, split(&path).1, &attr))
        })
    }

    fn named<'a>(&'a self, inos: &'a [Ino]) -> BoxFuture<'a, StorageResult<Vec<bool>>> {
        let (volume, inos) = (self.volume.clone(), inos.to_vec());
        self.on_core(async move {
            let look = || -> Vec<bool> {
                let state = volume.state();
                let has = |ino: &Ino| state.path_of(*ino).is_some();
                inos.iter().map(has).collect()
            };
            let named = look();
            if named.iter().all(|named| *named) {
                return Ok(named);
            }
            // It may have been made at a state that has not come here yet.
            let caught_up = volume.catch_up().await;
            caught_up.map_err(|error| of_fs("the inodes of a source", error))?;
            Ok(look())
        })
    }

    fn pin<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<Source>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move { pinned(&volume, &path, owner).await })
    }

    fn read<'a>(
        &'a self,
        source: &'a Source,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'a, StorageResult<Bytes>> {
        let (volume, source) = (self.volume.clone(), source.clone());
        self.on_core(async move { read(&volume, &source, offset, len).await })
    }

    fn read_small<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        limit: usize,
    ) -> BoxFuture<'a, StorageResult<Bytes>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            let source = pinned(&volume, &path, owner).await?;
            if source.len > limit as u64 {
                return Err(StorageError::Invalid(format!(
                    "{path}: {} bytes are over the limit of {limit}",
                    source.len
                )));
            }
            let mut all = Vec::with_capacity(source.len as usize);
            while (all.len() as u64) < source.len {
                let piece = read(&volume, &source, all.len() as u64, 1 << 20).await?;
                if piece.is_empty() {
                    return Err(StorageError::Changed(path));
                }
                all.extend_from_slice(&piece);
            }
            Ok(all.into())
        })
    }

    fn may_write<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<()>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move { may_write(&volume, &path, owner).await })
    }

    fn make_dir<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<()>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            ensure(&volume, &path, owner, FileKind::Directory)
                .await
                .map(|_| ())
        })
    }

    fn open_sink<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        job: JobId,
        attempt: Attempt,
    ) -> BoxFuture<'a, StorageResult<Sink>> {
        let (volume, member, path) = (self.volume.clone(), self.member.clone(), path.to_owned());
        let opened = self.on_core(async move {
            let attr = ensure(&volume, &path, owner, FileKind::Regular).await?;
            if !may(&volume, &attr, owner, 2) {
                return Err(StorageError::Denied(path));
            }
            let grant = Command::Grant {
                ino: attr.ino,
                incarnation: member.ctx.me(),
                job: Some((job, attempt)),
            };
            match member.group.propose(grant).await {
                Ok(Reply::Granted(granted)) => Ok((
                    attr.ino,
                    Arc::new(Output {
                        writer: member.data.writer(attr.ino, granted.writer),
                        room: AtomicU64::new(0),
                    }),
                )),
                Ok(other) => Err(StorageError::Unavailable(format!(
                    "unexpected answer {other:?}"
                ))),
                Err(
                    AgreementError::Refused(CommandError::NoJob | CommandError::Ended(_))
                    | AgreementError::Expired,
                ) => Err(StorageError::Ended),
                Err(error) => Err(StorageError::Unavailable(error.to_string())),
            }
        });
        Box::pin(async move {
            let (ino, output) = opened.await?;
            let sink = Sink {
                id: output.writer.writer,
                ino,
            };
            let mut writers = self.writers();
            // Tasks that are stopped half-way close nothing: the end of their attempt does.
            writers.retain(|_, old| old.writer.is_open());
            writers.insert(sink.id, output);
            Ok(sink)
        })
    }

    fn append<'a>(&'a self, sink: &'a Sink, payload: Bytes) -> BoxFuture<'a, StorageResult<Seq>> {
        let (output, volume) = (self.output(sink), self.volume.clone());
        let member = self.member.clone();
        self.on_core(async move {
            let output = output.ok_or(StorageError::Ended)?;
            let room = output.have_room(&volume, payload.len() as u64).await;
            room.map_err(|error| StorageError::Unavailable(error.to_string()))?;
            let writer = &output.writer;
            let seq = writer
                .push(Draft::new(
                    Target::Tail,
                    Op::Append,
                    payload,
                    member.clock.now(),
                ))
                .map_err(of_data)?;
            writer.acknowledged(seq).await.map_err(of_data)?;
            Ok(seq)
        })
    }

    fn durable<'a>(&'a self, sink: &'a Sink, _seq: Seq) -> BoxFuture<'a, StorageResult<()>> {
        let output = self.output(sink);
        self.on_core(async move {
            let output = output.ok_or(StorageError::Ended)?;
            output.writer.sync().await.map_err(of_data)
        })
    }

    fn close_sink(&self, sink: Sink) -> BoxFuture<'_, ()> {
        self.writers().remove(&sink.id);
        Box::pin(async {})
    }

    fn append_visible<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        record: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            let attr = ensure(&volume, &path, owner, FileKind::Regular).await?;
            if !may(&volume, &attr, owner, 2) {
                return Err(StorageError::Denied(path));
            }
            let put = volume.put(attr.ino, None, record, false).await;
            put.map_err(|error| of_fs(&path, error))
        })
    }

    fn append_to<'a>(
        &'a self,
        ino: Ino,
        owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        let volume = self.volume.clone();
        self.on_core(async move {
            let name = ino.to_string();
            let attr = {
                let state = volume.state();
                let named = state.path_of(ino).and_then(|_| state.inode(ino).ok());
                named.map(|inode| inode.attr)
            };
            let attr = attr.ok_or_else(|| StorageError::NotFound(name.clone()))?;
            if !may(&volume, &attr, owner, 2) {
                return Err(StorageError::Denied(name));
            }
            let put = volume.put(ino, None, text, false).await;
            put.map_err(|error| of_fs(&name, error))
        })
    }

    fn append_text<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            let attr = ensure(&volume, &path, owner, FileKind::Regular).await?;
            volume
                .put(attr.ino, None, text, false)
                .await
                .map_err(|error| of_fs(&path, error))
        })
    }

    fn remove<'a>(&'a self, path: &'a str, only: Option<Ino>) -> BoxFuture<'a, StorageResult<()>> {
        let (volume, path) = (self.volume.clone(), path.to_owned());
        self.on_core(async move {
            let attr = match walk(&volume, &path, Owner::ROOT).await {
                Ok(attr) => attr,
                Err(StorageError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            if only.is_some_and(|only| only != attr.ino) {
                return Ok(());
            }
            let (dir, name) = split(&path);
            let parent = walk(&volume, dir, Owner::ROOT).await?;
            match volume.remove(parent.ino, name.as_bytes()).await {
                Ok(()) | Err(FsError::NotFound) => Ok(()),
                Err(error) => Err(of_fs(&path, error)),
            }
        })
    }
}

async fn pinned(volume: &Volume, path: &str, owner: Owner) -> StorageResult<Source> {
    let attr = walk(volume, path, owner).await?;
    if attr.kind != FileKind::Regular {
        return Err(StorageError::Invalid(format!("{path}: not a regular file")));
    }
    if !may(volume, &attr, owner, 4) {
        return Err(StorageError::Denied(path.into()));
    }
    // Agreed, and of one moment: what this member alone knows of the file others cannot read yet.
    let settled = volume
        .settle(attr.ino)
        .await
        .map_err(|error| of_fs(path, error))?;
    Ok(Source {
        ino: attr.ino,
        generation: settled.generation,
        len: settled.len,
    })
}

async fn read(volume: &Volume, source: &Source, offset: u64, len: u32) -> StorageResult<Bytes> {
    let name = || source.ino.to_string();
    let wanted = u64::from(len).min(source.len.saturating_sub(offset)) as u32;
    if wanted == 0 {
        return Ok(Bytes::new());
    }
    let known = |volume: &Volume| {
        volume
            .state()
            .inode(source.ino)
            .map(|inode| inode.data_version)
            .ok()
    };
    if known(volume).is_none_or(|generation| generation < source.generation) {
        // Pinned on another member, at a state that has not come here yet.
        volume
            .catch_up()
            .await
            .map_err(|error| of_fs(&name(), error))?;
    }
    if known(volume).is_some_and(|generation| hydfs_state::was_cut(source.generation, generation)) {
        return Err(StorageError::Changed(name()));
    }
    let bytes = volume
        .read_fixed(source.ino, offset, wanted)
        .await
        .map_err(|error| of_fs(&name(), error))?;
    if bytes.len() < wanted as usize {
        return Err(StorageError::Changed(name()));
    }
    Ok(bytes)
}

pub(crate) fn of_job(error: &rainstorm::Error) -> hydfs_control::Error {
    use hydfs_control::{Error, Kind};
    let kind = match error {
        rainstorm::Error::Spec(_) | rainstorm::Error::Job(_) => Kind::Invalid,
        rainstorm::Error::Storage(error) if !error.is_temporary() => Kind::Invalid,
        _ => Kind::Unreachable,
    };
    Error::new(kind, error.to_string())
}

fn of_data(error: hydfs_data::DataError) -> StorageError {
    match error {
        hydfs_data::DataError::WriterEnded(_) | hydfs_data::DataError::Retired(_) => {
            StorageError::Ended
        }
        other => StorageError::Unavailable(other.to_string()),
    }
}
