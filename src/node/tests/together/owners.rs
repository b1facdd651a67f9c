//! What is decided by owners and times that are agreed.

use crate::{APPEND, OTHER, USER, User, common::start, common::stop};
use hydfs_mount::{Answer, Change, FsError, Request, SetTime};
use hydfs_types::{FileKind, Ino, ROOT_INO, Time};

impl User {
    async fn make_dir(&self, name: &str, mode: u16) -> Ino {
        let request = Request::Make {
            parent: ROOT_INO,
            name: name.into(),
            kind: FileKind::Directory,
            mode,
            umask: 0,
            rdev: 0,
            target: Vec::new(),
        };
        self.attr(request).await.expect("a directory").ino
    }
}

#[tokio::test]
async fn nobody_takes_what_is_anothers_out_of_a_sticky_directory_by_an_owner_that_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 2).await;
    let (root, user) = (User::of(&members[1], 0), User::of(&members[0], USER));
    let dir = root.make_dir("tmp", 0o1777).await;
    let create = |name: &str| Request::Create {
        parent: dir,
        name: name.into(),
        mode: 0o644,
        umask: 0,
        how: APPEND,
    };
    let Ok(Answer::Created(attr, _)) = user.ask(create("a")).await else {
        panic!("not made")
    };
    // The kernel of the user's mount has let it pass by the owner that it had.
    let give = Change {
        uid: Some(OTHER),
        ..Change::default()
    };
    root.set(attr.ino, give).await.expect("given away");
    let unlink = Request::Unlink {
        parent: dir,
        name: b"a".to_vec(),
    };
    let rename = Request::Rename {
        parent: dir,
        name: b"a".to_vec(),
        to_parent: dir,
        to_name: b"b".to_vec(),
        no_replace: false,
        exchange: false,
    };
    for request in [unlink.clone(), rename] {
        let refused = user.ask(request).await;
        assert!(
            matches!(refused, Err(FsError::NotPermitted(_))),
            "{refused:?}"
        );
    }
    let owner = User::of(&members[0], OTHER);
    assert_eq!(owner.ask(unlink).await, Ok(Answer::Done));
    stop(members).await;
}

#[tokio::test]
async fn a_time_that_could_not_be_set_leaves_that_of_the_last_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 1).await;
    let user = User::of(&members[0], USER);
    let (attr, opened) = user.create("f", 0o666, APPEND).await.expect("made");
    user.append(attr.ino, opened.handle, "text").await;
    let written = user.stat(attr.ino).await.mtime;
    assert!(written > attr.mtime);
    let set = Change {
        mtime: Some(SetTime::At(Time { sec: 1, nsec: 0 })),
        ..Change::default()
    };
    let refused = User::of(&members[0], OTHER).set(attr.ino, set).await;
    assert!(
        matches!(refused, Err(FsError::NotPermitted(_))),
        "{refused:?}"
    );
    assert_eq!(user.stat(attr.ino).await.mtime, written);
    assert_eq!(user.set(attr.ino, set).await.expect("set").mtime.sec, 1);
    assert_eq!(user.stat(attr.ino).await.mtime.sec, 1);
    stop(members).await;
}
