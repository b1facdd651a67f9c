//! What the executables of a task write to stderr, as a file of the job's folder: `tasks/STAGE-N/stderr`.
//!
//! Whoever reads a process's stderr never waits for the file system: what does not fit into the room between them is left out, and the
//! file says how much. One writer for each task appends what there is, visible at once, outside of all job epochs.
//! Nothing here fails a task. The file is made with the first words and never made anew by the same attempt, so a folder that is removed
//! while the job runs does not come back for it.

use crate::event_time::utc_text;
use crate::seams::{Cluster, Owner, Storage, StorageError, StorageResult};
use bytes::Bytes;
use hydfs_types::{Attempt, Ino, JobId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::{self, Instant};

/// What waits for the writer: more is left out.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// Least time between two appends of a task.
const APPEND_EVERY: Duration = Duration::from_millis(500);
/// A file that is longer than this is cut from the front.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is left of it then, but for the rest of a line.
const KEPT_BYTES: u64 = 512 << 10;
/// First line of a file that was cut.
const CUT: &str = "… what came before was cut off\n";

/// Where the words of a task's processes go. The writer ends when all clones are dropped and everything is written.
#[derive(Clone)]
pub struct Stderr {
    waiting: Arc<Mutex<Waiting>>,
    wake: mpsc::Sender<()>,
    /// Who speaks, as in `n3, attempt 2`.
    speaker: Arc<str>,
}

/// Whose words a writer writes, and where.
pub struct Place {
    pub storage: Arc<dyn Storage>,
    pub cluster: Arc<dyn Cluster>,
    pub owner: Owner,
    pub job: JobId,
    pub attempt: Attempt,
    /// The folder of the job, which has to be there.
    pub folder: String,
    /// Of the file.
    pub path: String,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    left_out: u64,
    /// Stands before the next words: another process speaks.
    mark: bool,
}

impl Waiting {
    /// Takes as much as there is room for. Once something was left out, so is all that follows, until what waits is taken.
    fn push(&mut self, text: &[u8]) {
        let room = match self.left_out {
            0 => WAITING_BYTES_MAX.saturating_sub(self.text.len()),
            _ => 0,
        };
        let taken = text.len().min(room);
        self.text.extend_from_slice(&text[..taken]);
        self.left_out += (text.len() - taken) as u64;
    }

    /// Pushes a line of the file's own; it begins where a line does.
    fn push_line(&mut self, line: &str) {
        if self.text.last().is_some_and(|&byte| byte != b'\n') {
            self.push(b"\n");
        }
        self.push(format!("{line}\n").as_bytes());
    }

    /// All of it; nothing waits then.
    fn take(&mut self) -> Bytes {
        let mut text = std::mem::take(&mut self.text);
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(format!("… {left_out} bytes left out\n").as_bytes());
        }
        text.into()
    }
}

impl Stderr {
    /// A writer at `place`, which makes its file with the first words. `speaker`: who runs the processes.
    pub fn open(place: Place, speaker: String) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let waiting = Arc::new(Mutex::new(Waiting {
            mark: true,
            ..Waiting::default()
        }));
        let writer = Writer {
            place,
            file: None,
            waiting: waiting.clone(),
        };
        tokio::spawn(writer.run(woken));
        Self {
            waiting,
            wake,
            speaker: speaker.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process speaks from now on: a line says so before its first words.
    pub fn mark(&self) {
        self.lock().mark = true;
    }

    /// What a process wrote. Never waits.
    pub fn say(&self, text: &[u8]) {
        let mut waiting = self.begin();
        waiting.push(text);
        drop(waiting);
        self.wake();
    }

    /// A line about a process, that it did not write.
    pub fn note(&self, what: &str) {
        let mut waiting = self.begin();
        waiting.push_line(&format!("--- {what}"));
        drop(waiting);
        self.wake();
    }

    fn begin(&self) -> MutexGuard<'_, Waiting> {
        let mut waiting = self.lock();
        if std::mem::take(&mut waiting.mark) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = utc_text(now.unwrap_or_default().as_secs());
            waiting.push_line(&format!("--- {}, {now}", self.speaker));
        }
        waiting
    }

    fn wake(&self) {
        // One that is not taken yet does for this, too.
        self.wake.try_send(()).ok();
    }
}

struct Writer {
    place: Place,
    file: Option<File>,
    waiting: Arc<Mutex<Waiting>>,
}

/// The file as this attempt knows it.
struct File {
    ino: Ino,
    len: u64,
}

impl Writer {
    async fn run(mut self, mut woken: mpsc::Receiver<()>) {
        loop {
            let more = woken.recv().await.is_some();
            let began = Instant::now();
            let text = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.take()
            };
            match self.write(text).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let path = &self.place.path;
                    tracing::warn!(path, %error, "what an executable wrote to stderr cannot be written");
                    if !error.is_temporary() {
                        return;
                    }
                }
            }
            if !more {
                return;
            }
            time::sleep_until(began + APPEND_EVERY).await;
        }
    }

    /// False once there is nothing to write to any more: the file or its folder was removed, or another attempt writes.
    async fn write(&mut self, text: Bytes) -> StorageResult<bool> {
        if text.is_empty() {
            return Ok(true);
        }
        let Place { storage, owner, .. } = &self.place;
        let bytes = text.len() as u64;
        let Some(file) = &mut self.file else {
            return self.make(text).await;
        };
        match storage.append_to(file.ino, *owner, text).await {
            Ok(()) => file.len += bytes,
            Err(StorageError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        match file.len > FILE_BYTES_MAX {
            true => self.cut().await,
            false => Ok(true),
        }
    }

    /// Appends to the file by its name, which makes it if it is missing.
    async fn make(&mut self, text: Bytes) -> StorageResult<bool> {
        let Place {
            storage,
            owner,
            path,
            ..
        } = &self.place;
        if !self.may_make().await? {
            return Ok(false);
        }
        storage.append_visible(path, *owner, text).await?;
        let source = match storage.pin(path, *owner).await {
            Ok(source) => source,
            Err(StorageError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.file = Some(File {
            ino: source.ino,
            len: source.len,
        });
        Ok(true)
    }

    /// The job's folder is there, and no later attempt is known.
    async fn may_make(&self) -> StorageResult<bool> {
        let Place {
            storage,
            cluster,
            job,
            attempt,
            folder,
            ..
        } = &self.place;
        // What is known here may be older than the attempt itself.
        if cluster.job(*job).is_some_and(|job| job.attempt > *attempt) {
            return Ok(false);
        }
        match storage.stat(folder).await {
            Ok(_) => Ok(true),
            Err(StorageError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts another file in its place, with its newest lines.
    async fn cut(&mut self) -> StorageResult<bool> {
        let Place {
            storage,
            owner,
            path,
            ..
        } = &self.place;
        let Some(file) = self.file.take() else {
            return Ok(true);
        };
        let source = match storage.pin(path, *owner).await {
            Ok(source) if source.ino == file.ino => source,
            Ok(_) | Err(StorageError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let from = source.len.saturating_sub(KEPT_BYTES);
        let tail = storage.read(&source, from, KEPT_BYTES as u32).await?;
        // The file that is there from now on has whole lines, if there are any.
        let begin = memchr::memchr(b'\n', &tail).map_or(0, |at| at + 1);
        let text = [CUT.as_bytes(), &tail[begin..]].concat();
        storage.remove(path, Some(file.ino)).await?;
        self.make(text.into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_until_all_is_taken() {
        let mut waiting = Waiting::default();
        waiting.push(&vec![b'x'; WAITING_BYTES_MAX - 1]);
        waiting.push(b"yz");
        waiting.push(b"\n");
        let text = waiting.take();
        let end = "xy\n… 2 bytes left out\n".as_bytes();
        assert!(text.ends_with(end));
        assert_eq!(text.len(), WAITING_BYTES_MAX - 2 + end.len());
        waiting.push(b"half of a line");
        waiting.push_line("--- n1");
        assert_eq!(waiting.take(), &b"half of a line\n--- n1\n"[..]);
        assert!(waiting.take().is_empty());
    }
}
