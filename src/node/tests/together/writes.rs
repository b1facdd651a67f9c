//! What a write promises when it is answered.

use crate::{APPEND, User, common::start, common::stop};
use std::sync::atomic::Ordering::Relaxed;

#[tokio::test]
async fn a_single_write_that_is_to_be_on_disk_is_not_answered_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 3).await;
    let here = User::of(&members[0], 0);
    let (attr, opened) = here.create("log", 0o644, APPEND).await.expect("made");
    let (ino, handle) = (attr.ino, opened.handle);
    let early = || members[0].ctx.counters.behind.load(Relaxed);
    // Others are, as soon as this member has its lease.
    for _ in 0..10_000 {
        here.write(ino, handle, "text", false).await;
        if early() > 0 {
            break;
        }
    }
    let before = early();
    assert!(before > 0);
    here.write(ino, handle, "text", true).await;
    assert_eq!(early(), before);
    stop(members).await;
}
