//! A member that is on its own: before it is admitted, and without a majority.

use crate::{APPEND, READ, User, common::first, common::start, common::stop, until};
use hydfs_mount::{FsError, Request};
use hydfs_node::Member;
use hydfs_types::{Ino, ROOT_INO};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn a_member_that_is_not_admitted_yet_answers_the_control_tree_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Member::begin(first(folder.path()));
    let (member, place) = first.await.expect("its parts");
    let user = User::of(&member, 0);
    let request = Request::Lookup {
        parent: user.lookup(".cluster").await.ino,
        name: b"status".to_vec(),
    };
    let status = user.attr(request).await.expect("a control file").ino;
    let handle = user.open(status, READ).await;
    let text = user.read(status, handle, 4096).await;
    assert!(String::from_utf8_lossy(&text).contains("this member is rejoining"));
    let asks = user.clone();
    let mut create = tokio::spawn(async move { asks.create("f", 0o644, APPEND).await });
    let early = timeout(Duration::from_millis(200), &mut create).await;
    assert!(
        early.is_err(),
        "it is answered before the member is admitted"
    );
    // The end of an open file comes once.
    let (ino, handle) = (Ino(7), 1 << 63);
    let release = user.ask(Request::Release { ino, handle }).await;
    release.expect("closed");
    member.enter(place).await.expect("admitted");
    member.volume.begin();
    let (attr, _) = create.await.expect("an answer").expect("made");
    assert_eq!(user.lookup("f").await.ino, attr.ino);
    drop(user);
    stop(vec![member]).await;
}

#[tokio::test]
async fn the_way_to_the_control_tree_does_not_wait_again_and_again_for_a_majority() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 3).await;
    let user = User::of(&members[0], 0);
    for other in &members[1..] {
        // Nobody hears of them any more.
        other.net.close().await;
    }
    let list = Request::OpenDir { ino: ROOT_INO };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let begun = Instant::now();
        user.stat(ROOT_INO).await;
        let listed = user.ask(list.clone()).await;
        if matches!(listed, Err(FsError::ReadOnly(_)))
            && begun.elapsed() < Duration::from_millis(100)
        {
            break;
        }
        assert!(Instant::now() < deadline, "it waits again and again");
        sleep(Duration::from_millis(20)).await;
    }
    // Nor do calls that change something, of which each would wait as long as the first one.
    for number in 0..20 {
        let made = user.create(&format!("f{number}"), 0o644, APPEND).await;
        assert!(matches!(made, Err(FsError::ReadOnly(_))), "{made:?}");
        assert!(Instant::now() < deadline, "{number} calls");
    }
}

#[tokio::test]
async fn a_writer_that_nobody_takes_up_is_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 1).await;
    let member = &members[0];
    let user = User::of(member, 0);
    let (attr, opened) = user.create("f", 0o644, APPEND).await.expect("made");
    user.append(attr.ino, opened.handle, "text").await;
    // As by a create whose caller was gone before it had its answer.
    let create = hydfs_types::Command::Create {
        parent: ROOT_INO,
        name: b"lost".to_vec(),
        kind: hydfs_types::FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Vec::new(),
        grant: Some(member.ctx.me()),
        umask: 0,
    };
    member.ctx.agreement.propose(create).await.expect("made");
    let lost = user.lookup("lost").await.ino;
    let writers = |ino| {
        let state = member.ctx.state();
        state.file(ino).map_or(0, |(_, file)| file.writers.len())
    };
    assert_eq!(writers(lost), 1);
    until("it is ended", || writers(lost) == 0).await;
    assert_eq!(writers(attr.ino), 1, "this one is in use");
    drop(user);
    stop(members).await;
}
