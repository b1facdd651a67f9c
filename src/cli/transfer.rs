//! Commands that move bytes between local files and the file system, one piece at a time.

use super::failure::Failure;
use bytes::{Bytes, BytesMut};
use hydfs_control::{Client, PIECE_BYTES, STAGED_BYTES_MAX, Upload};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

/// Where job specs are dropped.
const JOBS: &str = "/.jobs";

/// What was moved.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    pub bytes: u64,
    pub took: Duration,
}

/// Makes a new file from a local one.
pub async fn create(client: &mut Client, local: &Path, hydfs: &str) -> Result<Moved, Failure> {
    let began = Instant::now();
    let mut file = open(local).await?;
    let upload = client.create(hydfs).await?;
    send(&mut file, local, upload, began).await
}

/// Appends a local file. Up to 1 MiB stay together whatever others append at the same time.
pub async fn append(client: &mut Client, local: &Path, hydfs: &str) -> Result<Moved, Failure> {
    let began = Instant::now();
    let mut file = open(local).await?;
    let upload = client.append(hydfs).await?;
    send(&mut file, local, upload, began).await
}

/// Fetches a file. The local one appears whole or not at all.
pub async fn get(client: &mut Client, hydfs: &str, local: &Path) -> Result<Moved, Failure> {
    let began = Instant::now();
    let mut download = client.get(hydfs).await?;
    let mut target = Target::open(local, hydfs).await?;
    loop {
        let piece = download.read().await?;
        if piece.is_empty() {
            break;
        }
        target.write(&piece).await?;
    }
    download.finish().await?;
    let bytes = target.finish().await?;
    Ok(Moved {
        bytes,
        took: began.elapsed(),
    })
}

/// Fetches what one member's own disk has of a file.
pub async fn get_from_replica(
    client: &mut Client,
    member: &str,
    hydfs: &str,
    local: &Path,
) -> Result<Moved, Failure> {
    let began = Instant::now();
    let mut piece = client.read_replica(member, hydfs, 0).await?;
    let mut target = Target::open(local, hydfs).await?;
    while !piece.is_empty() {
        target.write(&piece).await?;
        piece = client.read_replica(member, hydfs, target.bytes).await?;
    }
    let bytes = target.finish().await?;
    Ok(Moved {
        bytes,
        took: began.elapsed(),
    })
}

/// Members and the contents of as many local files.
pub async fn read_parts(words: Vec<String>) -> Result<Vec<(String, Bytes)>, Failure> {
    if !words.len().is_multiple_of(2) {
        return Err(Failure::new(
            "name as many local files as members: hydfs multiappend HYDFS n1 n2 a.txt b.txt",
        ));
    }
    let (members, locals) = words.split_at(words.len() / 2);
    let mut parts = Vec::with_capacity(members.len());
    let mut room = STAGED_BYTES_MAX;
    for (member, local) in members.iter().zip(locals) {
        let data = read_whole(Path::new(local), room).await?;
        room -= data.len();
        parts.push((member.clone(), data));
    }
    Ok(parts)
}

/// Writes the spec of the predecessor's `RainStorm OP1 OP2 SRC DEST NUM_TASKS`; answers the job's name.
pub async fn rainstorm(client: &mut Client, words: [&str; 5]) -> Result<String, Failure> {
    let [op1, op2, src, dest, num_tasks] = words;
    let num_tasks = num_tasks
        .parse()
        .map_err(|_| Failure::new(format!("NUM_TASKS is a number from 1, not {num_tasks}")))?;
    let spec = rainstorm::legacy_spec(op1, op2, src, dest, num_tasks)
        .map_err(|error| Failure::new(error.to_string()))?;
    let stamp = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let name = format!("rainstorm-{stamp}");
    let mut upload = client.create(&format!("{JOBS}/{name}.toml")).await?;
    upload.write(Bytes::from(spec)).await?;
    upload.finish().await?;
    Ok(name)
}

async fn open(local: &Path) -> Result<File, Failure> {
    File::open(local)
        .await
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", local.display())))
}

async fn send(
    file: &mut File,
    local: &Path,
    mut upload: Upload<'_>,
    began: Instant,
) -> Result<Moved, Failure> {
    let mut bytes = 0;
    loop {
        let piece = read_piece(file, PIECE_BYTES)
            .await
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", local.display())))?;
        if piece.is_empty() {
            break;
        }
        bytes += piece.len() as u64;
        upload.write(piece).await?;
    }
    upload.finish().await?;
    Ok(Moved {
        bytes,
        took: began.elapsed(),
    })
}

/// A full piece, or what is left. Short reads do not make short pieces: a piece is what stays together in the file.
async fn read_piece(file: &mut File, len: usize) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(len);
    while piece.len() < len {
        let room = len - piece.len();
        if file.take(room as u64).read_buf(&mut piece).await? == 0 {
            break;
        }
    }
    Ok(piece.freeze())
}

async fn read_whole(local: &Path, room: usize) -> Result<Bytes, Failure> {
    let mut file = open(local).await?;
    let data = read_piece(&mut file, room + 1)
        .await
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", local.display())))?;
    if data.len() > room {
        return Err(Failure::new(format!(
            "a multiappend takes at most {} MiB in all: append larger files one by one",
            STAGED_BYTES_MAX >> 20
        )));
    }
    Ok(data)
}

/// A local file being written beside its name, renamed when it is complete; or standard output.
struct Target {
    out: Out,
    bytes: u64,
}

enum Out {
    Standard(tokio::io::Stdout),
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl Target {
    async fn open(local: &Path, hydfs: &str) -> Result<Self, Failure> {
        if local == Path::new("-") {
            return Ok(Self {
                out: Out::Standard(tokio::io::stdout()),
                bytes: 0,
            });
        }
        let path = if local.is_dir() {
            let name = hydfs.rsplit('/').find(|part| !part.is_empty());
            local.join(name.unwrap_or("file"))
        } else {
            local.to_owned()
        };
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).await.map_err(|error| {
            Failure::new(format!("cannot write {}: {error}", temporary.display()))
        })?;
        Ok(Self {
            out: Out::File {
                file,
                temporary,
                path,
            },
            bytes: 0,
        })
    }

    async fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.out {
            Out::Standard(out) => out.write_all(piece).await,
            Out::File { file, .. } => file.write_all(piece).await,
        };
        written.map_err(|error| Failure::new(format!("cannot write the local file: {error}")))?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    async fn finish(mut self) -> Result<u64, Failure> {
        let done = match &mut self.out {
            Out::Standard(out) => out.flush().await,
            Out::File {
                file,
                temporary,
                path,
            } => {
                let flushed = file.flush().await;
                flushed.and_then(|()| std::fs::rename(&*temporary, &*path))
            }
        };
        done.map_err(|error| Failure::new(format!("cannot finish the local file: {error}")))?;
        Ok(self.bytes)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Out::File { temporary, .. } = &self.out {
            // After a finish it has its own name already; otherwise it is half of a file.
            drop(std::fs::remove_file(temporary));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_pair_members_with_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "one").unwrap();
        std::fs::write(&b, "two").unwrap();
        let words = ["n1", "n2", a.to_str().unwrap(), b.to_str().unwrap()];
        let parts = read_parts(words.map(str::to_owned).to_vec()).await.unwrap();
        assert_eq!(
            parts,
            [("n1".into(), "one".into()), ("n2".into(), "two".into())]
        );
        let odd = read_parts(vec!["n1".into(), "n2".into(), "a".into()]).await;
        assert!(odd.unwrap_err().to_string().contains("as many"));
    }

    #[tokio::test]
    async fn a_broken_off_download_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::open(&dir.path().join("x"), "/x").await.unwrap();
        target.write(b"half").await.unwrap();
        drop(target);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut target = Target::open(dir.path(), "/logs/x").await.unwrap();
        target.write(b"whole").await.unwrap();
        assert_eq!(target.finish().await.unwrap(), 5);
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
