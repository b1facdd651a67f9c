//! One file system through several mounts at once: what users of one are told, when others change the same files. Members
//! run in this process on loopback; requests are made as a mount makes them.

#[path = "together/again.rs"]
mod again;
#[path = "together/begun.rs"]
mod begun;
mod common;
#[path = "together/owners.rs"]
mod owners;
#[path = "together/writes.rs"]
mod writes;

use common::{start, stop};
use hydfs_fs::Mounted;
use hydfs_mount::{
    Answer, Caller, Change, FileSystem, FsError, Handle, How, Opened, Request, SetTime,
};
use hydfs_node::Member;
use hydfs_types::{Attr, FileKind, Ino, JOBS_DIR, Lock, ROOT_INO, Time};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(20);
const USER: u32 = 1000;
const OTHER: u32 = 1001;

const READ: How = How {
    read: true,
    write: false,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
};
const APPEND: How = How {
    write: true,
    append: true,
    ..READ
};

/// A mount, and somebody who uses it.
#[derive(Clone)]
struct User {
    fs: Arc<Mounted>,
    caller: Caller,
}

impl User {
    /// No process of this machine: nobody finds capabilities of it.
    fn of(member: &Arc<Member>, uid: u32) -> Self {
        let caller = Caller {
            uid,
            gid: uid,
            pid: 0,
            unique: 0,
        };
        Self {
            fs: Arc::new(Mounted(member.volume.clone())),
            caller,
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, FsError> {
        match self.fs.call_now(self.caller, &request) {
            Some(answer) => answer,
            None => self.fs.call(self.caller, request).await,
        }
    }

    async fn create(&self, name: &str, mode: u16, how: How) -> Result<(Attr, Opened), FsError> {
        let request = Request::Create {
            parent: ROOT_INO,
            name: name.into(),
            mode,
            umask: 0,
            how,
        };
        match self.ask(request).await? {
            Answer::Created(attr, opened) => Ok((attr, opened)),
            other => panic!("{other:?}"),
        }
    }

    async fn open(&self, ino: Ino, how: How) -> Handle {
        match self.ask(Request::Open { ino, how }).await {
            Ok(Answer::Opened(opened)) => opened.handle,
            other => panic!("{other:?}"),
        }
    }

    async fn append(&self, ino: Ino, handle: Handle, text: &str) {
        self.write(ino, handle, text, false).await;
    }

    /// Appends; `sync`: it is on disk when it is answered.
    async fn write(&self, ino: Ino, handle: Handle, text: &str, sync: bool) {
        let request = Request::Write {
            ino,
            handle,
            offset: 0,
            data: text.to_owned().into(),
            append: true,
            sync,
        };
        let written = self.ask(request).await;
        assert_eq!(written, Ok(Answer::Written(text.len() as u32)));
    }

    async fn attr(&self, request: Request) -> Result<Attr, FsError> {
        match self.ask(request).await? {
            Answer::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    async fn stat(&self, ino: Ino) -> Attr {
        let request = Request::GetAttr { ino, handle: None };
        self.attr(request).await.expect("attributes")
    }

    async fn lookup(&self, name: &str) -> Attr {
        let request = Request::Lookup {
            parent: ROOT_INO,
            name: name.into(),
        };
        self.attr(request).await.expect("an entry")
    }

    /// The size that a listing with attributes tells, if it tells any.
    async fn listed(&self, ino: Ino) -> Option<u64> {
        let request = Request::ReadDir {
            ino: ROOT_INO,
            handle: 1,
            cookie: 0,
            limit: 1000,
            attrs: true,
        };
        let Ok(Answer::Entries(entries)) = self.ask(request).await else {
            panic!("a listing")
        };
        let found = entries.iter().find(|(entry, _)| entry.ino == ino);
        found.expect("it is listed").1.map(|attr| attr.size)
    }

    async fn set(&self, ino: Ino, set: Change) -> Result<Attr, FsError> {
        let request = Request::SetAttr {
            ino,
            handle: None,
            set,
        };
        self.attr(request).await
    }

    async fn chmod(&self, ino: Ino, mode: u16) -> Result<Attr, FsError> {
        let set = Change {
            mode: Some(mode),
            ..Change::default()
        };
        self.set(ino, set).await
    }

    async fn read(&self, ino: Ino, handle: Handle, len: u32) -> Vec<u8> {
        let request = Request::Read {
            ino,
            handle,
            offset: 0,
            len,
        };
        match self.ask(request).await {
            Ok(Answer::Data(bytes)) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn room_that_is_made_takes_away_nothing_that_others_append() {
    const TIMES: usize = 16;
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let (attr, opened) = here.create("log", 0o644, APPEND).await.expect("made");
    let (ino, handle) = (attr.ino, opened.handle);
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (here, done) = (here.clone(), done.clone());
        async move {
            let mut records = 0;
            while !done.load(Relaxed) {
                here.append(ino, handle, &format!("<{records:06}>")).await;
                records += 1;
                sleep(Duration::from_millis(1)).await;
            }
            records
        }
    });
    let writing = there.open(ino, APPEND).await;
    for made in 0..TIMES {
        // A little past the end, which is elsewhere when it is agreed.
        let size = there.stat(ino).await.size;
        let punch = made % 2 == 1;
        let room = Request::Allocate {
            ino,
            handle: writing,
            offset: if punch { size + 8 } else { 0 },
            len: if punch { 8 } else { size + 8 },
            keep_size: false,
            punch,
        };
        assert_eq!(there.ask(room).await, Ok(Answer::Done));
    }
    done.store(true, Relaxed);
    let records: usize = writer.await.expect("all is written");
    let size = there.stat(ino).await.size;
    let all = there.read(ino, writing, size as u32).await;
    let text = String::from_utf8(all).expect("text and zeros");
    for n in 0..records {
        let found = text.matches(&format!("<{n:06}>")).count();
        assert_eq!(found, 1, "record {n} of {records} in {size} bytes");
    }
    stop(members).await;
}

/// As editors save in place. A reader that looked at the size before the cut and got the bytes after it saw zeros.
#[tokio::test]
async fn a_file_that_is_cut_and_written_anew_is_never_read_as_zeros() {
    const ROUNDS: usize = 300;
    const LEN: usize = 1400;
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let write = How {
        write: true,
        ..READ
    };
    let (attr, opened) = here.create("text", 0o644, write).await.expect("made");
    let (ino, handle) = (attr.ino, opened.handle);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [here.clone(), there]
        .into_iter()
        .map(|user| {
            let done = done.clone();
            tokio::spawn(async move {
                let handle = user.open(ino, READ).await;
                while !done.load(Relaxed) {
                    let read = user.read(ino, handle, 2 * LEN as u32).await;
                    let zeros = read.iter().filter(|byte| **byte == 0).count();
                    assert_eq!(zeros, 0, "of {} bytes", read.len());
                }
            })
        })
        .collect();
    for round in 0..ROUNDS {
        let cut = Change {
            size: Some(0),
            ..Change::default()
        };
        here.set(ino, cut).await.expect("cut");
        let data = vec![b'a' + (round % 26) as u8; LEN];
        let request = Request::Write {
            ino,
            handle,
            offset: 0,
            data: data.into(),
            append: false,
            sync: false,
        };
        assert_eq!(here.ask(request).await, Ok(Answer::Written(LEN as u32)));
        let sync = Request::Sync { ino, handle };
        here.ask(sync).await.expect("synced");
    }
    done.store(true, Relaxed);
    for reader in readers {
        reader.await.expect("it saw no zeros");
    }
    stop(members).await;
}

#[tokio::test]
async fn no_lookup_and_no_listing_tells_less_than_stat_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let (attr, opened) = here.create("log", 0o644, APPEND).await.expect("made");
    let ino = attr.ino;
    let mut text = String::new();
    for n in 0..6 {
        let more = format!("record {n}\n");
        here.append(ino, opened.handle, &more).await;
        text.push_str(&more);
        let told = there.stat(ino).await;
        assert_eq!(told.size, text.len() as u64);
        let found = there.lookup("log").await;
        assert_eq!((found.size, found.mtime), (told.size, told.mtime));
        assert!(there.listed(ino).await.is_none_or(|size| size == told.size));
        if n == 2 {
            // Another agreed content, and more pending on top of it.
            let handle = there.open(ino, READ).await;
            assert_eq!(there.read(ino, handle, 1000).await, text.as_bytes());
        }
    }
    let cut = Change {
        size: Some(3),
        ..Change::default()
    };
    here.set(ino, cut).await.expect("cut");
    assert_eq!(there.lookup("log").await.size, 3);
    assert!(there.listed(ino).await.is_none_or(|size| size == 3));
    assert_eq!(there.stat(ino).await.size, 3);
    stop(members).await;
}

#[tokio::test]
async fn set_id_bits_are_cleared_from_the_mode_that_is_agreed() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let ino = here
        .create("tool", 0o4755, APPEND)
        .await
        .expect("made")
        .0
        .ino;
    assert!(here.fs.may_have_set_id(ino));
    there.chmod(ino, 0o600).await.expect("changed");
    let clear = Change {
        clear_set_id: true,
        ..Change::default()
    };
    let cleared = here.set(ino, clear).await.expect("cleared");
    assert_eq!(cleared.mode, 0o600, "what another mount has set stays");
    assert_eq!(here.stat(ino).await, cleared);
    there.chmod(ino, 0o6711).await.expect("changed");
    assert!(here.fs.may_have_set_id(ino));
    assert_eq!(here.set(ino, clear).await.expect("cleared").mode, 0o711);
    stop(members).await;
}

#[tokio::test]
async fn a_name_that_somebody_else_has_made_is_opened_only_where_that_is_certainly_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let owner = User::of(&members[0], USER);
    let (user, root) = (User::of(&members[1], OTHER), User::of(&members[1], 0));
    let again = User::of(&members[1], USER);
    let read_write = How {
        write: true,
        ..READ
    };
    for (name, mode, how, allowed) in [
        ("secret", 0o600, READ, false),
        ("public", 0o644, READ, true),
        ("read-only", 0o644, read_write, false),
        ("everybody's", 0o666, read_write, true),
        // Whether a group of the caller is shut out is not known.
        ("not-for-a-group", 0o606, READ, false),
    ] {
        let made = owner.create(name, mode, APPEND).await.expect("made").0;
        for user in [&user, &root] {
            let opened = user.create(name, 0o777, how).await;
            assert_eq!(opened.is_ok(), allowed, "{name}: {opened:?}");
            assert!(allowed || opened == Err(FsError::Stale));
        }
        let (attr, _) = again.create(name, 0o777, how).await.expect("its own");
        assert_eq!((attr.ino, attr.mode, attr.uid), (made.ino, mode, USER));
    }
    let make = |name: &str, kind, target: &str| Request::Make {
        parent: ROOT_INO,
        name: name.into(),
        kind,
        mode: 0o777,
        umask: 0,
        rdev: 0,
        target: target.into(),
    };
    for (name, kind, target, error) in [
        ("dir", FileKind::Directory, "", FsError::IsDirectory),
        ("link", FileKind::Symlink, "public", FsError::Stale),
    ] {
        let made = owner.attr(make(name, kind, target)).await;
        made.expect("made");
        assert_eq!(user.create(name, 0o777, READ).await, Err(error));
    }
    stop(members).await;
}

#[tokio::test]
async fn only_the_owner_that_is_agreed_changes_attributes() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (root, user) = (User::of(&members[0], 0), User::of(&members[1], USER));
    let ino = user.create("a", 0o666, APPEND).await.expect("made").0.ino;
    user.chmod(ino, 0o660).await.expect("its own");
    let give = Change {
        uid: Some(OTHER),
        ..Change::default()
    };
    root.set(ino, give).await.expect("given away");
    let at = Some(SetTime::At(Time { sec: 5, nsec: 0 }));
    for set in [
        Change {
            mode: Some(0o666),
            ..Change::default()
        },
        Change {
            gid: Some(USER),
            ..Change::default()
        },
        Change {
            mtime: at,
            ..Change::default()
        },
    ] {
        let refused = user.set(ino, set).await;
        assert!(
            matches!(refused, Err(FsError::NotPermitted(_))),
            "{refused:?}"
        );
    }
    // What takes leave to write, which the kernel has looked at.
    let touch = Change {
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::Now),
        size: Some(7),
        ..Change::default()
    };
    assert_eq!(user.set(ino, touch).await.expect("touched").size, 7);
    stop(members).await;
}

#[tokio::test]
async fn a_lock_that_is_granted_after_a_close_is_given_back_by_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let (attr, opened) = here.create("db", 0o644, APPEND).await.expect("made");
    let (ino, handle) = (attr.ino, opened.handle);
    let other = there.open(ino, APPEND).await;
    let lock = |owner| Lock {
        start: 0,
        end: u64::MAX,
        owner,
        pid: 1,
        exclusive: true,
    };
    let take = |owner, handle, wait| Request::SetLock {
        ino,
        handle,
        lock: lock(owner),
        wait,
    };
    let flush = |handle| Request::Flush {
        ino,
        handle,
        owner: Some(7),
    };
    let unlock = |owner| Request::Unlock {
        ino,
        owner,
        start: 0,
        end: u64::MAX,
    };
    for close in [true, false] {
        let held = there.ask(take(1, other, None)).await;
        assert_eq!(held, Ok(Answer::Done));
        let waits = tokio::spawn({
            let (here, request) = (here.clone(), take(7, handle, Some(SOON)));
            async move { here.ask(request).await }
        });
        sleep(Duration::from_millis(100)).await;
        // The same process closes another descriptor of the file.
        let second = here.open(ino, APPEND).await;
        assert_eq!(here.ask(flush(second)).await, Ok(Answer::Done));
        assert!(!waits.is_finished());
        there.ask(unlock(1)).await.expect("given back");
        assert_eq!(waits.await.expect("an answer"), Ok(Answer::Done));
        let refused = there.ask(take(1, other, None)).await;
        assert_eq!(refused, Err(FsError::TryAgain));
        let end = if close { flush(handle) } else { unlock(7) };
        assert_eq!(here.ask(end).await, Ok(Answer::Done));
        let taken = there.ask(take(1, other, None)).await;
        assert_eq!(taken, Ok(Answer::Done));
        there.ask(unlock(1)).await.expect("given back");
    }
    stop(members).await;
}

#[tokio::test]
async fn an_open_whose_caller_is_gone_leaves_nothing_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (here, there) = (User::of(&members[0], 0), User::of(&members[1], 0));
    let (attr, opened) = there.create("log", 0o644, APPEND).await.expect("made");
    let ino = attr.ino;
    let truncate = How {
        truncate: true,
        ..APPEND
    };
    for n in 0..40 {
        // With a writer elsewhere a truncate takes a while.
        there.append(ino, opened.handle, "text").await;
        let open = here.ask(Request::Open { ino, how: truncate });
        if let Ok(answer) = timeout(Duration::from_micros(250 * n), open).await {
            let Ok(Answer::Opened(opened)) = answer else {
                panic!("{answer:?}")
            };
            let handle = opened.handle;
            here.ask(Request::Release { ino, handle })
                .await
                .expect("closed");
        }
    }
    let handle = opened.handle;
    there
        .ask(Request::Release { ino, handle })
        .await
        .expect("closed");
    let unlink = Request::Unlink {
        parent: ROOT_INO,
        name: b"log".to_vec(),
    };
    there.ask(unlink).await.expect("removed");
    until("nobody has it open, and it stays", || {
        members[0].ctx.state().inode(ino).is_err()
    })
    .await;
    stop(members).await;
}

#[tokio::test]
async fn what_a_member_needs_is_kept_and_what_is_refused_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 1).await;
    let root = User::of(&members[0], 0);
    let rename = Request::Rename {
        parent: ROOT_INO,
        name: JOBS_DIR.to_vec(),
        to_parent: ROOT_INO,
        to_name: b"other".to_vec(),
        no_replace: false,
        exchange: false,
    };
    let remove = Request::RemoveDir {
        parent: ROOT_INO,
        name: JOBS_DIR.to_vec(),
    };
    for request in [rename, remove] {
        let refused = root.ask(request).await;
        assert!(matches!(refused, Err(FsError::InUse(_))), "{refused:?}");
    }
    let status = {
        let cluster = root.lookup(".cluster").await.ino;
        let request = Request::Lookup {
            parent: cluster,
            name: b"status".to_vec(),
        };
        root.attr(request).await.expect("a control file").ino
    };
    let set = Request::SetXattr {
        ino: status,
        name: b"user.a".to_vec(),
        value: Vec::new(),
        create: false,
        replace: false,
    };
    let remove = Request::RemoveXattr {
        ino: status,
        name: b"user.a".to_vec(),
    };
    for request in [set, remove] {
        let refused = root.ask(request).await;
        assert!(
            matches!(refused, Err(FsError::NotSupported(_))),
            "{refused:?}"
        );
    }
    for operation in ["setattr", "setlk"] {
        root.fs
            .failed(operation, (ROOT_INO, None), &FsError::TryAgain);
    }
    let lines = members[0].volume.failures_text();
    assert!(
        lines.contains("setattr") && lines.contains("try again") && !lines.contains("setlk"),
        "{lines}"
    );
    stop(members).await;
}
