//! `Storage` of one life of a member.

use super::{File, Member, Writer};
use bytes::Bytes;
use hydfs_types::{Attempt, BoxFuture, FileKind, Ino, JobId, Seq, WriterId};
use rainstorm::{Entry, Owner, Sink, Source, Storage, StorageError, StorageResult};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;

fn entry(path: &str, file: &File) -> Entry {
    Entry {
        name: path.rsplit('/').next().unwrap().to_owned(),
        // Stands for bytes that are no text.
        is_text: !path.contains('\u{fffd}'),
        ino: file.ino,
        kind: FileKind::Regular,
        generation: file.generation,
        size: file.base.len() as u64,
        uid: file.uid,
        gid: file.gid,
        busy: file.busy,
    }
}

/// Directories are there as long as something is in them, or from when they are made until their last file is removed.
fn directory(name: &str) -> Entry {
    Entry {
        name: name.rsplit('/').next().unwrap().to_owned(),
        is_text: !name.contains('\u{fffd}'),
        ino: Ino(1),
        kind: FileKind::Directory,
        generation: 0,
        size: 0,
        uid: 0,
        gid: 0,
        busy: false,
    }
}

impl Member {
    /// A dead member's calls never return.
    pub async fn alive(&self) {
        if !self.world.knobs.calm.load(Relaxed) && self.world.random(4) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let up = self
            .world
            .lock()
            .members
            .get(&self.id)
            .is_some_and(|life| life.up && life.number == self.life);
        if !up {
            std::future::pending::<()>().await;
        }
    }
}

impl Storage for Member {
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StorageResult<Vec<Entry>>> {
        Box::pin(async move {
            self.alive().await;
            let inner = self.world.lock();
            let below = format!("{}/", dir.trim_end_matches('/'));
            let mut entries = Vec::new();
            for (path, file) in &inner.files {
                let Some(rest) = path.strip_prefix(&below) else {
                    continue;
                };
                match rest.split_once('/') {
                    None => entries.push(entry(path, file)),
                    Some((name, _)) => entries.push(directory(name)),
                }
            }
            entries.dedup_by(|a, b| a.kind == FileKind::Directory && a.name == b.name);
            Ok(entries)
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, StorageResult<Entry>> {
        Box::pin(async move {
            self.alive().await;
            let inner = self.world.lock();
            let below = format!("{path}/");
            let is_dir = inner.dirs.contains(path)
                || inner.files.keys().any(|other| other.starts_with(&below));
            inner
                .files
                .get(path)
                .map(|file| entry(path, file))
                .or_else(|| is_dir.then(|| directory(path)))
                .ok_or_else(|| StorageError::NotFound(path.into()))
        })
    }

    fn named<'a>(&'a self, inos: &'a [Ino]) -> BoxFuture<'a, StorageResult<Vec<bool>>> {
        Box::pin(async move {
            self.alive().await;
            let inner = self.world.lock();
            Ok(inos.iter().map(|ino| inner.is_named(*ino)).collect())
        })
    }

    fn pin<'a>(&'a self, path: &'a str, _owner: Owner) -> BoxFuture<'a, StorageResult<Source>> {
        Box::pin(async move {
            self.alive().await;
            if path.starts_with("/away/") && self.world.knobs.away.load(Relaxed) {
                return Err(StorageError::Unavailable("no copy answers".into()));
            }
            let mut inner = self.world.lock();
            inner.merge(path);
            let file = inner
                .files
                .get(path)
                .ok_or_else(|| StorageError::NotFound(path.into()))?;
            Ok(Source {
                ino: file.ino,
                generation: file.generation,
                len: file.base.len() as u64,
            })
        })
    }

    fn read<'a>(
        &'a self,
        source: &'a Source,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'a, StorageResult<Bytes>> {
        Box::pin(async move {
            self.alive().await;
            let delay = self.world.knobs.read_delay_ms.load(Relaxed);
            if delay > 0 {
                sleep(Duration::from_millis(delay)).await;
            }
            let mut inner = self.world.lock();
            let file = inner.files.values_mut().find(|file| file.ino == source.ino);
            let file = file.ok_or_else(|| StorageError::NotFound(source.ino.to_string()))?;
            let file = Some(file).filter(|file| file.rewritten <= source.generation);
            let file = file.ok_or_else(|| StorageError::Changed(source.ino.to_string()))?;
            let end = (offset + u64::from(len)).min(source.len);
            let counts = &self.world.counts;
            counts.read_bytes.fetch_add(end - offset, Relaxed);
            counts.read_bytes_max.fetch_max(end - offset, Relaxed);
            let base = &file.base;
            let image = file
                .image
                .get_or_insert_with(|| Bytes::copy_from_slice(base));
            Ok(image.slice(offset as usize..end as usize))
        })
    }

    fn read_small<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        limit: usize,
    ) -> BoxFuture<'a, StorageResult<Bytes>> {
        Box::pin(async move {
            let source = self.pin(path, owner).await?;
            match source.len as usize <= limit {
                true => self.read(&source, 0, source.len as u32).await,
                false => Err(StorageError::Invalid(path.into())),
            }
        })
    }

    /// What is there is its owner's; anybody may make what is missing.
    fn may_write<'a>(&'a self, path: &'a str, owner: Owner) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            let inner = self.world.lock();
            let file = inner.files.get(path);
            match file.is_none_or(|file| owner.uid == 0 || owner.uid == file.uid) {
                true => Ok(()),
                false => Err(StorageError::Denied(path.to_owned())),
            }
        })
    }

    fn make_dir<'a>(&'a self, path: &'a str, _owner: Owner) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            self.world.lock().dirs.insert(path.to_owned());
            Ok(())
        })
    }

    fn open_sink<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        job: JobId,
        attempt: Attempt,
    ) -> BoxFuture<'a, StorageResult<Sink>> {
        Box::pin(async move {
            self.alive().await;
            let mut inner = self.world.lock();
            if inner
                .jobs
                .get(&job)
                .is_none_or(|known| known.attempt != attempt)
            {
                return Err(StorageError::Ended);
            }
            let ino = inner.file(path, owner.uid).ino;
            inner.next_writer += 1;
            let id = WriterId(inner.next_writer);
            let job = Some((job, attempt));
            inner.writers.insert(
                id,
                Writer {
                    ino,
                    job,
                    watermark: 0,
                    received: 0,
                    durable: 0,
                    ended: false,
                    broken: false,
                },
            );
            Ok(Sink { id, ino })
        })
    }

    fn append<'a>(&'a self, sink: &'a Sink, payload: Bytes) -> BoxFuture<'a, StorageResult<Seq>> {
        Box::pin(async move {
            self.alive().await;
            let fails = self.world.happens(&self.world.knobs.failed_appends);
            let mut inner = self.world.lock();
            if payload.is_empty() || payload.len() > 1 << 20 {
                inner
                    .violations
                    .push(format!("record of {} bytes", payload.len()));
            }
            let writer = inner.writers.get_mut(&sink.id).unwrap();
            if writer.ended {
                return Err(StorageError::Ended);
            }
            let reused = writer.broken;
            writer.broken |= fails;
            // A failed append has reached the replicas or not.
            let reached = !fails || self.world.random(2) == 0;
            if reached {
                writer.received += 1;
            }
            let seq = Seq(writer.received);
            if reused {
                inner
                    .violations
                    .push(format!("{} used after it failed", sink.id));
            }
            self.world
                .counts
                .appended_bytes
                .fetch_add(payload.len() as u64, Relaxed);
            if reached {
                // A removed file takes records as long as it is open.
                if let Some(file) = inner.files.values_mut().find(|file| file.ino == sink.ino) {
                    file.pending.push((sink.id, seq, payload));
                }
            }
            if fails {
                self.world.counts.failed_appends.fetch_add(1, Relaxed);
                return Err(StorageError::Unavailable("planted".into()));
            }
            Ok(seq)
        })
    }

    fn durable<'a>(&'a self, sink: &'a Sink, seq: Seq) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            if !self.world.knobs.calm.load(Relaxed) {
                sleep(Duration::from_millis(self.world.random(3))).await;
            }
            self.alive().await;
            let mut inner = self.world.lock();
            let writer = inner.writers.get_mut(&sink.id).unwrap();
            if writer.ended {
                return Err(StorageError::Ended);
            }
            assert!(seq.0 <= writer.received);
            writer.durable = writer.durable.max(seq.0);
            Ok(())
        })
    }

    fn close_sink(&self, _sink: Sink) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.alive().await })
    }

    fn append_visible<'a>(
        &'a self,
        path: &'a str,
        owner: Owner,
        record: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.may_write(path, owner).await?;
            self.world.lock().file(path, owner.uid);
            self.world.extend(path, &record);
            Ok(())
        })
    }

    fn append_to<'a>(
        &'a self,
        ino: Ino,
        owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            let path = {
                let inner = self.world.lock();
                let found = inner.files.iter().find(|(_, file)| file.ino == ino);
                found.map(|(path, _)| path.clone())
            };
            let path = path.ok_or_else(|| StorageError::NotFound(ino.to_string()))?;
            self.append_visible(&path, owner, text).await
        })
    }

    fn append_text<'a>(
        &'a self,
        path: &'a str,
        _owner: Owner,
        text: Bytes,
    ) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            self.world.extend(path, &text);
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a str, only: Option<Ino>) -> BoxFuture<'a, StorageResult<()>> {
        Box::pin(async move {
            self.alive().await;
            let mut inner = self.world.lock();
            if inner
                .files
                .get(path)
                .is_some_and(|file| only.is_none_or(|ino| ino == file.ino))
            {
                inner.files.remove(path);
            }
            Ok(())
        })
    }
}
