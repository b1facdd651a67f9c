//! Requests that the kernel sends again, because the worker that had them in hand is gone. Here it is the same worker, with a
//! memory file: what comes twice under one number is taken for that.

use crate::{READ, User, common::start_kept, common::stop};
use hydfs_mount::{Answer, Handle, How, Request};
use hydfs_types::Ino;

/// The kernel's mark of a request that it sends again.
const AGAIN: u64 = 1 << 63;

const BOTH: How = How {
    write: true,
    ..READ
};

impl User {
    /// Asks as the kernel does, under a number.
    async fn ask_as(&self, unique: u64, request: Request) -> Answer {
        let mut user = self.clone();
        user.caller.unique = unique;
        user.ask(request).await.expect("done")
    }

    async fn put(&self, ino: Ino, handle: Handle, text: &'static str) {
        let request = Request::Write {
            ino,
            handle,
            offset: 0,
            data: text.into(),
            append: false,
            sync: false,
        };
        self.ask(request).await.expect("written");
    }
}

#[tokio::test]
async fn zeros_and_copies_that_come_again_are_not_made_over_what_was_written_since() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start_kept(folder.path()).await;
    let user = User::of(&members[0], 0);
    let (attr, opened) = user.create("f", 0o644, BOTH).await.expect("made");
    let (ino, handle) = (attr.ino, opened.handle);
    let (source, from) = user.create("source", 0o644, BOTH).await.expect("made");
    user.put(ino, handle, "........").await;
    user.put(source.ino, from.handle, "copied").await;

    let punch = Request::Allocate {
        ino,
        handle,
        offset: 0,
        len: 4,
        keep_size: true,
        punch: true,
    };
    user.ask_as(2, punch.clone()).await;
    assert_eq!(user.read(ino, handle, 16).await, b"\0\0\0\0....");
    user.put(ino, handle, "new").await;
    user.ask_as(2 | AGAIN, punch).await;
    assert_eq!(user.read(ino, handle, 16).await, b"new\0....");

    let copy = Request::Copy {
        from: source.ino,
        from_handle: from.handle,
        from_offset: 0,
        ino,
        handle,
        offset: 0,
        len: 6,
    };
    let copied = Answer::Written(6);
    assert_eq!(user.ask_as(4, copy.clone()).await, copied);
    assert_eq!(user.read(ino, handle, 16).await, b"copied..");
    user.put(ino, handle, "new").await;
    assert_eq!(user.ask_as(4 | AGAIN, copy).await, copied);
    assert_eq!(user.read(ino, handle, 16).await, b"newied..");
    stop(members).await;
}

#[tokio::test]
async fn room_that_is_asked_for_again_is_not_made_in_a_file_that_was_cut_since() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start_kept(folder.path()).await;
    let user = User::of(&members[0], 0);
    let (attr, opened) = user.create("f", 0o644, BOTH).await.expect("made");
    let room = Request::Allocate {
        ino: attr.ino,
        handle: opened.handle,
        offset: 0,
        len: 100,
        keep_size: false,
        punch: false,
    };
    user.ask_as(2, room.clone()).await;
    assert_eq!(user.stat(attr.ino).await.size, 100);
    let cut = hydfs_mount::Change {
        size: Some(10),
        ..Default::default()
    };
    user.set(attr.ino, cut).await.expect("cut");
    user.ask_as(2 | AGAIN, room).await;
    assert_eq!(user.stat(attr.ino).await.size, 10);
    stop(members).await;
}
