//! The cluster's file system passes the suite that every file system must pass: alone, and on each of three members at
//! once. Members run in this process on loopback, without a mount.

mod common;

use common::{start, stop};
use hydfs_fs::Mounted;
use hydfs_mount::conformance::run_conformance;
use hydfs_node::Member;
use std::{sync::Arc, time::Duration};

/// Longest a suite may take on a machine that does other things too.
const SUITE: Duration = Duration::from_secs(240);

async fn suite(member: Arc<Member>) {
    let fs = Arc::new(Mounted(member.volume.clone()));
    let ran = tokio::time::timeout(SUITE, run_conformance(fs)).await;
    assert!(
        ran.is_ok(),
        "the suite on {} takes longer than {SUITE:?}",
        member.config.name
    );
}

#[tokio::test]
async fn one_member_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 1).await;
    suite(members[0].clone()).await;
    stop(members).await;
}

#[tokio::test]
async fn three_members_conform_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let members = start(folder.path(), 3).await;
    let suites: Vec<_> = members
        .iter()
        .cloned()
        .map(|member| tokio::spawn(suite(member)))
        .collect();
    for ran in suites {
        ran.await.expect("no failed case");
    }
    stop(members).await;
}
