//! What every `FileSystem` must do, asked through requests alone. Each case works in a directory of its own,
//! so the suite runs on a file system that is in use, and several may run at once.
//!
//! Left to the mounted tests, since not the file system does it: permissions (the kernel), set-id bits and the
//! xattr names that are not served (the adapter).

mod attributes;
mod files;
mod names;

use crate::{Answer, Caller, FileSystem, FsError, Handle, How, Request};
use bytes::Bytes;
use hydfs_types::{Attr, BoxFuture, DirEntry, FileKind, Ino, ROOT_INO};
use std::{sync::Arc, time::Duration};

type Case = (&'static str, fn(Client) -> BoxFuture<'static, ()>);

/// No case takes longer.
const CASE: Duration = Duration::from_secs(60);

/// Runs all cases, one after another, and panics at the first that fails. Needs a tokio runtime.
pub async fn run_conformance(fs: Arc<dyn FileSystem>) {
    let suite = Client {
        fs,
        dir: ROOT_INO,
        caller: ROOT,
    };
    let dir = suite.make_unique("conformance").await;
    for (name, case) in names::CASES
        .iter()
        .chain(files::CASES)
        .chain(attributes::CASES)
    {
        let client = suite.at(suite.at(dir).mkdir(name).await);
        let ran = tokio::time::timeout(CASE, tokio::spawn(case(client))).await;
        assert!(
            matches!(ran, Ok(Ok(()))),
            "conformance case {name}: {ran:?}"
        );
        eprintln!("conformance: {name} ok");
    }
}

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    unique: 0,
};
const READ: How = How {
    read: true,
    write: false,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
};
const WRITE: How = How {
    write: true,
    ..READ
};

type Outcome = Result<Answer, FsError>;

/// Asks a file system, in one directory, as one user.
#[derive(Clone)]
struct Client {
    fs: Arc<dyn FileSystem>,
    dir: Ino,
    caller: Caller,
}

/// An open file.
#[derive(Debug, Clone, Copy)]
struct File {
    ino: Ino,
    handle: Handle,
}

fn name(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

impl Client {
    fn at(&self, dir: Ino) -> Self {
        Self {
            dir,
            ..self.clone()
        }
    }

    fn by(&self, uid: u32, gid: u32) -> Self {
        Self {
            caller: Caller {
                uid,
                gid,
                ..self.caller
            },
            ..self.clone()
        }
    }

    /// The answer, at once or not, as the adapter gets it.
    async fn ask(&self, request: Request) -> Outcome {
        match self.fs.call_now(self.caller, &request) {
            Some(outcome) => outcome,
            None => self.fs.call(self.caller, request).await,
        }
    }

    async fn done(&self, request: Request) {
        assert_eq!(
            self.ask(request.clone()).await,
            Ok(Answer::Done),
            "{request:?}"
        );
    }

    async fn refused(&self, request: Request, with: FsError) {
        let outcome = self.ask(request.clone()).await;
        let error = outcome.as_ref().err();
        assert!(
            error.is_some_and(|e| crate::errno(e) == crate::errno(&with)),
            "{request:?}: {outcome:?}, wanted {with:?}"
        );
    }

    async fn attr_of(&self, request: Request) -> Attr {
        match self.ask(request.clone()).await {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    async fn lookup(&self, entry: &str) -> Attr {
        self.attr_of(Request::Lookup {
            parent: self.dir,
            name: name(entry),
        })
        .await
    }

    async fn missing(&self, entry: &str) {
        self.refused(
            Request::Lookup {
                parent: self.dir,
                name: name(entry),
            },
            FsError::NotFound,
        )
        .await;
    }

    async fn stat(&self, ino: Ino) -> Attr {
        self.attr_of(Request::GetAttr { ino, handle: None }).await
    }

    fn making(&self, entry: &str, kind: FileKind, mode: u16) -> Request {
        Request::Make {
            parent: self.dir,
            name: name(entry),
            kind,
            mode,
            umask: 0,
            rdev: 0,
            target: Vec::new(),
        }
    }

    async fn mkdir(&self, entry: &str) -> Ino {
        self.attr_of(self.making(entry, FileKind::Directory, 0o755))
            .await
            .ino
    }

    async fn make_unique(&self, stem: &str) -> Ino {
        for number in 0..1_000 {
            match self
                .ask(self.making(&format!("{stem}-{number}"), FileKind::Directory, 0o755))
                .await
            {
                Ok(Answer::Attr(attr)) => return attr.ino,
                Err(FsError::Exists) => {}
                other => panic!("mkdir: {other:?}"),
            }
        }
        panic!("a thousand directories of earlier runs: remove them")
    }

    fn creating(&self, entry: &str, how: How) -> Request {
        Request::Create {
            parent: self.dir,
            name: name(entry),
            mode: 0o644,
            umask: 0,
            how,
        }
    }

    async fn create(&self, entry: &str) -> File {
        match self
            .ask(self.creating(
                entry,
                How {
                    exclusive: true,
                    ..WRITE
                },
            ))
            .await
        {
            Ok(Answer::Created(attr, opened)) => File {
                ino: attr.ino,
                handle: opened.handle,
            },
            other => panic!("create {entry}: {other:?}"),
        }
    }

    /// A closed file with this content.
    async fn file(&self, entry: &str, content: &[u8]) -> Ino {
        let file = self.create(entry).await;
        self.write(file, 0, content).await;
        self.close(file).await;
        file.ino
    }

    async fn open(&self, ino: Ino, how: How) -> File {
        match self.ask(Request::Open { ino, how }).await {
            Ok(Answer::Opened(opened)) => File {
                ino,
                handle: opened.handle,
            },
            other => panic!("open {ino} {how:?}: {other:?}"),
        }
    }

    async fn write_how(&self, File { ino, handle }: File, offset: u64, data: &[u8], append: bool) {
        let request = Request::Write {
            ino,
            handle,
            offset,
            data: Bytes::copy_from_slice(data),
            append,
            sync: false,
        };
        assert_eq!(
            self.ask(request).await,
            Ok(Answer::Written(data.len() as u32))
        );
    }

    async fn write(&self, file: File, offset: u64, data: &[u8]) {
        self.write_how(file, offset, data, false).await;
    }

    async fn append(&self, file: File, data: &[u8]) {
        self.write_how(file, 0, data, true).await;
    }

    async fn read(&self, File { ino, handle }: File, offset: u64, len: u32) -> Bytes {
        match self
            .ask(Request::Read {
                ino,
                handle,
                offset,
                len,
            })
            .await
        {
            Ok(Answer::Data(data)) => data,
            other => panic!("read {ino} at {offset}: {other:?}"),
        }
    }

    /// All there is, in requests of up to 1 MiB, through a handle of its own.
    async fn content(&self, ino: Ino) -> Vec<u8> {
        let file = self.open(ino, READ).await;
        let mut out = Vec::new();
        loop {
            let piece = self.read(file, out.len() as u64, 1 << 20).await;
            if piece.is_empty() {
                break;
            }
            out.extend_from_slice(&piece);
        }
        self.close(file).await;
        out
    }

    async fn close(&self, File { ino, handle }: File) {
        self.done(Request::Flush {
            ino,
            handle,
            owner: None,
        })
        .await;
        self.done(Request::Release { ino, handle }).await;
    }

    async fn truncate(&self, ino: Ino, size: u64) -> Attr {
        let set = crate::Change {
            size: Some(size),
            ..crate::Change::default()
        };
        self.attr_of(Request::SetAttr {
            ino,
            handle: None,
            set,
        })
        .await
    }

    fn unlinking(&self, entry: &str) -> Request {
        Request::Unlink {
            parent: self.dir,
            name: name(entry),
        }
    }

    fn removing(&self, entry: &str) -> Request {
        Request::RemoveDir {
            parent: self.dir,
            name: name(entry),
        }
    }

    fn renaming(&self, from: &str, to_dir: Ino, to: &str) -> Request {
        let (name, to_name) = (name(from), name(to));
        Request::Rename {
            parent: self.dir,
            name,
            to_parent: to_dir,
            to_name,
            no_replace: false,
            exchange: false,
        }
    }

    /// The listing, `step` entries at a time.
    async fn list(&self, step: usize) -> Vec<DirEntry> {
        let ino = self.dir;
        let Ok(Answer::Opened(opened)) = self.ask(Request::OpenDir { ino }).await else {
            panic!("opendir {ino}")
        };
        let handle = opened.handle;
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let cookie = all.last().map_or(0, |entry| entry.cookie);
            match self
                .ask(Request::ReadDir {
                    ino,
                    handle,
                    cookie,
                    limit: step,
                    attrs: false,
                })
                .await
            {
                Ok(Answer::Entries(entries)) if entries.is_empty() => break,
                Ok(Answer::Entries(entries)) => {
                    assert!(entries.len() <= step, "more entries than asked for");
                    all.extend(entries.into_iter().map(|entry| entry.0));
                }
                other => panic!("readdir: {other:?}"),
            }
        }
        self.done(Request::ReleaseDir { ino, handle }).await;
        assert!(
            all.iter()
                .all(|entry| (1..=crate::COOKIE_MAX).contains(&entry.cookie)),
            "cookies out of range"
        );
        all
    }
}
