//! The control socket end to end: a client, the real socket, a member over a file system in memory.
#![allow(clippy::unwrap_used)]

mod fake;

use bytes::Bytes;
use fake::FakeMember;
use hydfs_control::{Client, Kind, Server};
use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tempfile::TempDir;

struct Setup {
    member: Arc<FakeMember>,
    path: PathBuf,
    server: Option<Server>,
    _dir: TempDir,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let member = FakeMember::new();
        let server = Server::start(&path, member.clone()).unwrap();
        Self {
            member,
            path,
            server: Some(server),
            _dir: dir,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }
}

async fn put(client: &mut Client, path: &str, data: &[u8]) {
    let mut upload = client.create(path).await.unwrap();
    upload.write(Bytes::copy_from_slice(data)).await.unwrap();
    upload.finish().await.unwrap();
}

async fn whole(client: &mut Client, path: &str) -> Vec<u8> {
    let mut download = client.get(path).await.unwrap();
    let mut out = Vec::new();
    loop {
        let piece = download.read().await.unwrap();
        if piece.is_empty() {
            break;
        }
        out.extend_from_slice(&piece);
    }
    download.finish().await.unwrap();
    out
}

#[tokio::test]
async fn files_go_in_and_come_out_in_pieces() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    let data: Vec<u8> = (0..2_500_000u32).map(|i| (i % 251) as u8).collect();
    put(&mut client, "/big", &data).await;
    let mut upload = client.append("/big").await.unwrap();
    upload.write(Bytes::from_static(b"tail")).await.unwrap();
    upload.finish().await.unwrap();
    let got = whole(&mut client, "big").await;
    assert_eq!(got.len(), data.len() + 4);
    assert!(got.starts_with(&data) && got.ends_with(b"tail"));
    assert_eq!(client.merge("/big").await.unwrap().size, got.len() as u64);
}

#[tokio::test]
async fn fault_s12_a_second_create_is_refused_and_a_broken_one_leaves_nothing() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    put(&mut client, "/once", b"1").await;
    let again = client.create("/once").await.unwrap_err();
    assert_eq!(again.kind, Kind::Exists);

    let mut upload = client.create("/half").await.unwrap();
    upload.write(Bytes::from_static(b"first")).await.unwrap();
    drop(client);
    let mut other = setup.client().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while other.get("/half").await.is_ok() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the half-made file stays"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    setup.member.fs.fail_writes.store(true, Ordering::Relaxed);
    let mut upload = other.create("/full").await.unwrap();
    let failed = upload.write(Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(failed.kind, Kind::NoSpace);
    assert_eq!(upload.finish().await.unwrap_err().kind, Kind::NoSpace);
    assert_eq!(other.get("/full").await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn fault_s14_names_never_leave_the_file_system() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    for path in ["/../etc/passwd", "a/../../b", "/", "", "/a\0b"] {
        let refused = client.create(path).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Invalid, "{path:?}: {refused}");
    }
    assert_eq!(
        client.get("/etc/passwd").await.unwrap_err().kind,
        Kind::NotFound
    );
}

#[tokio::test]
async fn fault_s20_multiappend_is_concurrent() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    put(&mut client, "/all", b"").await;
    setup.member.fs.most.store(0, Ordering::Relaxed);
    let part = |n: usize| {
        (
            format!("n{n}"),
            Bytes::from(format!("{n}").repeat(1000 * n)),
        )
    };
    let rows = client
        .multi_append("/all", (1..=3).map(part).collect())
        .await
        .unwrap();
    assert!(rows.iter().all(|row| row.error.is_none()), "{rows:?}");
    assert_eq!(
        setup.member.fs.most.load(Ordering::Relaxed),
        3,
        "all at once"
    );
    let got = String::from_utf8(whole(&mut client, "/all").await).unwrap();
    for n in 1..=3 {
        assert!(
            got.contains(&n.to_string().repeat(1000 * n)),
            "the part of n{n} stays together"
        );
    }
    assert_eq!(got.len(), 6000);
}

#[tokio::test]
async fn multiappend_by_a_member_that_is_away_appends_nothing() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    put(&mut client, "/all", b"").await;
    for (away, kind) in [
        ("n4", Kind::Unreachable),
        ("n5", Kind::Unreachable),
        ("n9", Kind::NotFound),
    ] {
        let parts = vec![("n1".into(), "x".into()), (away.into(), "y".into())];
        let refused = client.multi_append("/all", parts).await.unwrap_err();
        assert_eq!(refused.kind, kind, "{refused}");
        assert!(refused.message.contains(away), "{refused}");
    }
    assert_eq!(whole(&mut client, "/all").await, b"");
}

#[tokio::test]
async fn the_thin_commands_carry_the_members_answers() {
    let setup = Setup::new();
    let mut client = setup.client().await;
    assert_eq!(client.status().await.unwrap().member, "n1");
    assert_eq!(client.members().await.unwrap().len(), 5);
    assert!(!client.suspicion(Some(false)).await.unwrap().on);
    assert!(!client.suspicion(None).await.unwrap().on);
    let drain = client.drain(Some("n2".into()), true).await.unwrap();
    assert_eq!((drain.member.as_str(), drain.slots), ("n2", 3));
    assert!(!drain.is_done());
    assert_eq!(client.metrics().await.unwrap(), "hydfs_up 1\n");
    assert_eq!(client.locate("/x").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(
        client.read_replica("n2", "/x", 0).await.unwrap().len(),
        1 << 20
    );
    assert!(
        client
            .read_replica("n2", "/x", 2 << 20)
            .await
            .unwrap()
            .is_empty()
    );
    client.leave().await.unwrap();
}

#[tokio::test]
async fn the_socket_is_the_owners_and_goes_with_the_server() {
    let mut setup = Setup::new();
    let mode = std::fs::metadata(&setup.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(setup.server.take());
    assert!(!setup.path.exists());
    let refused = Client::connect(&setup.path).await.unwrap_err();
    assert!(refused.message.contains("hydfs member"), "{refused}");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_long_path_works() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(100)).join("y".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("control.sock");
    std::fs::write(&path, "left by a crash").unwrap();
    let _server = Server::start(&path, FakeMember::new()).unwrap();
    let mut client = Client::connect(&path).await.unwrap();
    assert_eq!(client.status().await.unwrap().member, "n1");
}

#[tokio::test]
async fn rubbish_on_the_socket_ends_that_connection_alone() {
    let setup = Setup::new();
    let path = setup.path.clone();
    tokio::task::spawn_blocking(move || {
        let mut seed = 7u32;
        for _ in 0..50 {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            stream.write_all(&bytes).unwrap();
        }
    })
    .await
    .unwrap();
    assert_eq!(setup.client().await.status().await.unwrap().member, "n1");
}
